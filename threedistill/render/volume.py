"""Volume rendering along packed ray samples, as pure functions over the marching and compositing kernels.

``R`` rays, ``S`` samples. A sample is a segment ``[start, end]`` of its ray; the field is asked at the midpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedistill.ops.march import Samples

__all__ = ["distortion", "field_normals", "half_depth", "midpoints", "over", "ray_max", "select", "visible"]

#: Vertices of a regular tetrahedron: four taps give a gradient without the axis bias of one-sided differences.
_TETRAHEDRON = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))


def midpoints(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], samples: Samples
) -> Float[Tensor, "S 3"]:
    """Where the field is asked: ``o + d (start + end) / 2``, in the world.

    Arguments:
        origins: (R, 3) metres.
        directions: (R, 3) unit.
        samples: the packed segments.
    """
    t = ((samples.start + samples.end) * 0.5)[:, None]
    # index_select copies rows; advanced indexing takes four times as long on a CPU.
    points = directions.index_select(0, samples.ray).mul_(t)
    return points.add_(origins.index_select(0, samples.ray))


def select(samples: Samples, index: Int[Tensor, "M"]) -> Samples:
    """The samples at ascending indices, with the offsets recounted."""
    ray, start, end = (part.index_select(0, index) for part in samples[:3])
    return Samples(ray, start, end, torch.searchsorted(index, samples.offsets))


def visible(samples: Samples, density: Float[Tensor, "S"], transmittance: float = 1e-4) -> Bool[Tensor, "S"]:
    """Which samples light still reaches: ``exp(-sum_{j<i} sigma_j dt_j) > transmittance``.

    Arguments:
        samples: the packed segments.
        density: (S,) a *lower* bound of the density, 1/metres, so that nothing visible is dropped.
        transmittance: what may be lost, in (0, 1).
    """
    # Double precision: one running sum serves all rays, and differences of it must not lose the ray's own part.
    thickness = torch.zeros(len(density) + 1, dtype=torch.float64, device=density.device)
    torch.cumsum(density * (samples.end - samples.start), 0, out=thickness[1:])
    before = thickness[:-1] - thickness[samples.offsets[:-1]].index_select(0, samples.ray)
    return before < -math.log(transmittance)


def ray_max(values: Float[Tensor, "S"], samples: Samples, empty: float = 0.0) -> Float[Tensor, "R"]:
    """The largest value along each ray, ``empty`` where a ray has no samples."""
    rays = len(samples.offsets) - 1
    return values.new_full((rays,), empty).scatter_reduce(0, samples.ray, values, "amax", include_self=False)


def half_depth(weights: Float[Tensor, "S"], samples: Samples) -> Float[Tensor, "R"]:
    """Distance at which half of the light is absorbed: the end of the first segment with ``sum_{j<=i} w_j >= 1/2``.

    Arguments:
        weights: (S,) compositing weights.
        samples: the packed segments.

    Returns:
        (R,) metres, infinite for rays that stay less than half opaque.
    """
    total = torch.cat([weights.new_zeros(1, dtype=torch.float64), weights.double().cumsum(0)])
    reached = total[1:] - total[samples.offsets[:-1]].index_select(0, samples.ray) >= 0.5
    result = weights.new_full((len(samples.offsets) - 1,), torch.inf)
    return result.scatter_reduce(0, samples.ray[reached], samples.end[reached], "amin")


def distortion(weights: Float[Tensor, "S"], samples: Samples) -> Float[Tensor, "R"]:
    """How spread out the light's origin is: ``sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 dt_i`` per ray, metres.

    Zero for a ray that ends at one infinitely thin surface, large for fog and for floaters before a surface. The
    double sum is ``2 sum_i w_i (t_i W_i - M_i)`` with the running sums ``W_i = sum_{j<i} w_j``, ``M_i = sum_{j<i}
    w_j t_j``. Source: Barron et al. 2022, mip-NeRF 360, eq. 15.

    Arguments:
        weights: (S,) compositing weights, differentiable.
        samples: the packed segments.
    """
    t = (samples.start + samples.end) * 0.5
    # Distances from the ray's first sample: differences of running sums lose less than with absolute distances.
    rays = len(samples.offsets) - 1
    t = t - t[samples.offsets[:-1][samples.ray]]

    def before(values: Tensor) -> Tensor:
        total = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])
        return (total[:-1] - total[samples.offsets[:-1]][samples.ray]).to(values.dtype)

    pairs = 2 * weights * (t * before(weights) - before(weights * t))
    own = weights**2 * (samples.end - samples.start) / 3
    return pairs.new_zeros(rays).index_add(0, samples.ray, pairs + own)


def field_normals(
    potential: Callable[[Tensor], Tensor], points: Float[Tensor, "N 3"], epsilon: float
) -> Float[Tensor, "N 3"]:
    """Unit normals ``-grad f / |grad f|`` of any monotone function ``f`` of the density.

    The gradient is the four-tap difference ``(3 / 4 epsilon) sum_k e_k f(x + epsilon e_k) / 3`` over a tetrahedron's
    vertices ``e_k`` (up to scale, which cancels); unlike autograd's it is differentiable again at first-order cost,
    and ``epsilon`` smooths over detail finer than itself.

    Arguments:
        potential: (M, 3) world points to (M,) values, larger inside.
        points: (N, 3) metres, not differentiated.
        epsilon: distance of the taps per axis, metres.
    """
    taps = points.new_tensor(_TETRAHEDRON)
    around = points.detach()[:, None, :] + epsilon * taps
    values = potential(around.reshape(-1, 3)).reshape(-1, 4)
    return torch.nn.functional.normalize(-(values @ taps), dim=-1, eps=1e-8)


def over(
    rgb: Float[Tensor, "B H W 3"], opacity: Float[Tensor, "B H W 1"], background: Float[Tensor, "B 3"]
) -> Float[Tensor, "B H W 3"]:
    """The premultiplied foreground over one colour per view: ``C + (1 - o) c_bg``, all in sRGB."""
    return rgb + (1 - opacity) * background[:, None, None, :]
