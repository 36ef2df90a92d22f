"""Emission-absorption volume rendering of samples packed along rays."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.ops._cuda import cuda, cuda_library
from threedistill.ops._native import Kernel, registered, shape_error, use_native
from threedistill.ops.march import Samples

__all__ = ["Composited", "composite", "composite_reference"]

_forward_kernel = Kernel("composite", "pppppiipppp")
_backward_kernel = Kernel("composite_backward", "pppppiippppppp")


class Composited(NamedTuple):
    """What each ray shows.

    Attributes:
        rgb: (R, 3) colour, premultiplied by opacity (nothing behind it yet).
        opacity: (R,) in [0, 1].
        depth: (R,) ``sum_i w_i t_i``, premultiplied by opacity too.
        weights: (S,) contribution of each sample.
    """

    rgb: Float[Tensor, "R 3"]
    opacity: Float[Tensor, "R"]
    depth: Float[Tensor, "R"]
    weights: Float[Tensor, "S"]


def composite(density: Float[Tensor, "S"], rgb: Float[Tensor, "S 3"], samples: Samples) -> Composited:
    """Composite samples front to back.

    ``alpha_i = 1 - exp(-sigma_i dt_i)``, ``w_i = alpha_i prod_{j < i} (1 - alpha_j)``; colour ``sum_i w_i c_i``,
    opacity ``sum_i w_i``, depth ``sum_i w_i t_i`` with ``t_i`` the middle of the interval.

    Args:
        density: ``sigma``, >= 0, per metre.
        rgb: colours.
        samples: the intervals; their distances get no gradient.

    Returns:
        The rays; all four outputs are differentiable once with respect to ``density`` and ``rgb``.

    Raises:
        ValueError: a shape or type is wrong.
        IndexError: ``samples.offsets`` does not partition the samples; on a GPU, where looking would make the host
            wait, that is up to the caller.

    Source: Max, "Optical models for direct volume rendering", 1995; Mildenhall et al., "NeRF", 2020, equation 3.
    """
    if density.ndim != 1 or not density.is_floating_point():
        raise shape_error("composite", "density", "(S,) floating point", density)
    count, dtype = density.shape[0], density.dtype
    if rgb.shape != (count, 3) or rgb.dtype != dtype:
        raise shape_error("composite", "rgb", f"({count}, 3) {dtype}", rgb)
    for name in ("start", "end"):
        if getattr(samples, name).shape != (count,) or getattr(samples, name).dtype != dtype:
            raise shape_error("composite", f"samples.{name}", f"({count},) {dtype}", getattr(samples, name))
    if samples.offsets.ndim != 1 or len(samples.offsets) < 1 or samples.offsets.dtype != torch.int64:
        raise shape_error("composite", "samples.offsets", "(R + 1,) torch.int64", samples.offsets)
    if not registered(density, rgb, samples.start, samples.offsets):
        return composite_reference(density, rgb, samples)
    start, end = samples.start.detach(), samples.end.detach()
    return Composited(*_composite(density, rgb, start, end, samples.offsets))


def composite_reference(
    density: Float[Tensor, "S"], rgb: Float[Tensor, "S 3"], samples: Samples
) -> Composited:
    """The torch twin of :func:`composite`: one running sum over all samples, restarted at each ray."""
    offsets = samples.offsets
    counts = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(density) or bool((counts < 0).any()):
        raise IndexError("composite: an index points outside its array")
    rays = len(counts)
    ray = torch.repeat_interleave(torch.arange(rays, device=density.device), counts)
    start, end = samples.start.detach(), samples.end.detach()
    # In double: the running sum spans all rays, and each ray sees a small difference of it.
    thickness = (density * (end - start)).double()
    before = torch.nn.functional.pad(thickness.cumsum(0), (1, 0))
    above = (before[:-1] - before[offsets[ray]]).clamp_min(0)
    weights = (torch.exp(-above) * -torch.expm1(-thickness)).to(density.dtype)
    columns = torch.cat(
        [weights[:, None] * rgb, weights[:, None], (weights * (0.5 * (start + end)))[:, None]], 1
    )
    summed = density.new_zeros(rays, 5).index_add(0, ray, columns)
    return Composited(summed[:, :3], summed[:, 3], summed[:, 4], weights)


def _reference_backward(
    density: Tensor, rgb: Tensor, start: Tensor, end: Tensor, offsets: Tensor, weights: Tensor,
    grad_color: Tensor, grad_opacity: Tensor, grad_depth: Tensor, grad_weights: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """With ``g_i = dL/dw_i``: ``dL/dsigma_i = dt_i (T_{i+1} g_i - sum_{j > i} w_j g_j)``."""
    counts = offsets.diff()
    ray = torch.repeat_interleave(torch.arange(len(counts), device=density.device), counts)
    g = (
        (rgb * grad_color[ray]).sum(1)
        + grad_opacity[ray]
        + grad_depth[ray] * (0.5 * (start + end))
        + grad_weights
    )
    depths = (density * (end - start)).double().cumsum(0)
    before = torch.nn.functional.pad(depths, (1, 0))[offsets[ray]]
    shares = torch.nn.functional.pad((weights * g).double().cumsum(0), (1, 0))
    behind = shares[offsets[ray + 1]] - shares[1:]
    grad_density = (end - start) * (torch.exp(before - depths) * g - behind)
    return grad_density.to(density.dtype), weights[:, None] * grad_color[ray]


def _samples(start: Tensor, end: Tensor, offsets: Tensor) -> Samples:
    return Samples(offsets, start, end, offsets)  # the twin does not read the ray index


@torch.library.custom_op(
    "threedistill::composite", mutates_args=(),
    schema="(Tensor density, Tensor rgb, Tensor start, Tensor end, Tensor offsets) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def _composite(density, rgb, start, end, offsets):
    if not use_native(density, rgb, start, offsets):
        out = composite_reference(density, rgb, _samples(start, end, offsets))
        return tuple(part.clone() for part in out)  # the op's outputs must not share memory
    rays, count = offsets.shape[0] - 1, density.shape[0]
    color, opacity, depth = density.new_empty(rays, 3), density.new_empty(rays), density.new_empty(rays)
    weights = density.new_empty(count)
    _forward_kernel(
        density.dtype, density.contiguous(), rgb.contiguous(), start.contiguous(), end.contiguous(),
        offsets.contiguous(), rays, count, color, opacity, depth, weights,
    )  # fmt: skip
    return color, opacity, depth, weights


@_composite.register_fake
def _(density, rgb, start, end, offsets):
    rays = offsets.shape[0] - 1
    per_ray = density.new_empty(rays), density.new_empty(rays)
    return density.new_empty(rays, 3), *per_ray, torch.empty_like(density)


@torch.library.custom_op(
    "threedistill::composite_backward", mutates_args=(),
    schema="(Tensor density, Tensor rgb, Tensor start, Tensor end, Tensor offsets, Tensor weights, "
    "Tensor grad_color, Tensor grad_opacity, Tensor grad_depth, Tensor grad_weights) -> (Tensor, Tensor)",
)  # fmt: skip
def _composite_backward(density, rgb, start, end, offsets, weights, *grads):
    if not use_native(density, rgb, start, offsets):
        return _reference_backward(density, rgb, start, end, offsets, weights, *grads)
    grad_density = torch.empty_like(density, memory_format=torch.contiguous_format)
    grad_rgb = torch.empty_like(rgb, memory_format=torch.contiguous_format)
    _backward_kernel(
        density.dtype, density.contiguous(), rgb.contiguous(), start.contiguous(), end.contiguous(),
        offsets.contiguous(), offsets.shape[0] - 1, density.shape[0], weights.contiguous(),
        *(grad.contiguous() for grad in grads), grad_density, grad_rgb,
    )  # fmt: skip
    return grad_density, grad_rgb


@_composite_backward.register_fake
def _(density, rgb, start, end, offsets, weights, *grads):
    return torch.empty_like(density), torch.empty_like(rgb)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[3])


def _backward(ctx, *grads):
    return *_composite_backward(*ctx.saved_tensors, *grads), None, None, None


_composite.register_autograd(_backward, setup_context=_save)


@cuda("composite")
def _on_cuda(density, rgb, start, end, offsets):
    """nerfacc's weights and sums, or our Triton kernel."""
    library = cuda_library("nerfacc", density)
    if library is None:
        ours = cuda_library("threedistill.ops.triton.composite", density)
        if ours is not None:
            return ours.composite(density, rgb, start, end, offsets)
        return tuple(composite_reference(density, rgb, _samples(start, end, offsets)))
    rays = len(offsets) - 1
    ray = torch.repeat_interleave(torch.arange(rays, device=offsets.device), offsets.diff())
    weights, _, _ = library.render_weight_from_density(start, end, density, ray_indices=ray, n_rays=rays)

    def along(values: Tensor | None) -> Tensor:
        return library.accumulate_along_rays(weights, values, ray_indices=ray, n_rays=rays)

    return along(rgb), along(None)[:, 0], along(((start + end) * 0.5)[:, None])[:, 0], weights
