"""Front-to-back compositing of projected Gaussians: what each pixel sees of a cloud of screen-space ellipses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.ops._cuda import cuda, cuda_library
from threedistill.ops._native import Kernel, registered, shape_error

__all__ = ["LEAST", "MAX_CHANNELS", "Layers", "splat", "splat_reference"]

#: A Gaussian's opacity at a pixel below this is skipped, above ``MOST`` capped; a pixel is finished before less than
#: ``DARK`` of its light is left. The three numbers are those of gsplat 1.5.3, which composites on CUDA (1.6.0 caps at
#: 0.99; the numbers move with the version that is asked for, or a GPU would show another picture than a CPU).
LEAST, MOST, DARK = 1 / 255, 0.999, 1e-4

#: Features per Gaussian at most.
MAX_CHANNELS = 16

_SLACK = 0.01  # pixels added to the boxes, which are computed in double
_PAIRS_PER_CHUNK = 1 << 22  # (Gaussian, pixel) candidates the twin tests at once
_TILE = 16  # pixels per side of gsplat's tiles

_forward_kernel = Kernel("splat", "pppppiiiiipp")
_backward_kernel = Kernel("splat_backward", "pppppiiiiipppppppp")
_absolute_kernel = Kernel("splat_backward_absolute", "pppppiiiiippppppppp")


class Layers(NamedTuple):
    """What each pixel sees.

    Attributes:
        image: (B, H, W, C) features, premultiplied by opacity (nothing behind them yet).
        opacity: (B, H, W) in [0, 1).
    """

    image: Float[Tensor, "B H W C"]
    opacity: Float[Tensor, "B H W"]


def splat(
    means: Float[Tensor, "B N 2"], conics: Float[Tensor, "B N 3"], opacities: Float[Tensor, "B N"],
    features: Float[Tensor, "B N C"], depths: Float[Tensor, "B N"], height: int, width: int,
    pulls: Float[Tensor, "B N 2"] | None = None,
) -> Layers:  # fmt: skip
    """Composite Gaussians near to far.

    At the pixel centre ``p``, with ``d = p - mean_i`` and the conic ``Q_i`` (the inverse covariance),
    ``alpha_i = min(0.999, o_i exp(-d^T Q_i d / 2))``, nothing where that is below 1/255; ``T_i = prod_{j < i} (1 -
    alpha_j)``, ``w_i = T_i alpha_i``; image ``sum_i w_i f_i``, opacity ``sum_i w_i``. A pixel takes nothing more from
    the first Gaussian on that would leave less than 1e-4 of its light.

    Args:
        means: pixels, x to the right, y down; the centre of the first pixel is (0.5, 0.5).
        conics: xx, xy, yy of the inverse covariances, 1 / pixels^2.
        opacities: o, in [0, 1].
        features: colours and whatever else is to be composited, at most 16 channels.
        depths: the order, ascending, compared in float32, ties by index; where not positive and finite, the Gaussian
            is hidden. No gradient.
        height, width: pixels.
        pulls: a place for a second gradient by the means, the sum over pixels of the absolute values (gsplat's
            absgrad): pulls in opposite directions do not cancel in it. Its own values mean nothing.

    Returns:
        The layers, differentiable once with respect to means, conics, opacities and features.

    Raises:
        ValueError: a shape or type is wrong.

    Sources: Zwicker et al., "EWA volume splatting", 2001; Kerbl et al., "3D Gaussian Splatting", 2023, equation 3;
    absolute gradients: Ye et al., "AbsGS", 2024, arXiv 2404.10484.
    """
    if means.ndim != 3 or means.shape[-1] != 2 or not means.is_floating_point():
        raise shape_error("splat", "means", "(B, N, 2) floating point", means)
    views, count, dtype = means.shape[0], means.shape[1], means.dtype
    for name, value, tail in (("conics", conics, (3,)), ("opacities", opacities, ()), ("depths", depths, ())):
        if value.shape != (views, count, *tail) or value.dtype != dtype:
            raise shape_error("splat", name, f"{(views, count, *tail)} {dtype}", value)
    if features.ndim != 3 or features.shape[:2] != (views, count) or features.dtype != dtype:
        raise shape_error("splat", "features", f"({views}, {count}, C) {dtype}", features)
    if not 1 <= features.shape[-1] <= MAX_CHANNELS:
        raise ValueError(f"splat: features must have 1 to {MAX_CHANNELS} channels, got {features.shape[-1]}")
    if height < 1 or width < 1:
        raise ValueError(f"splat: height and width must be at least 1, got {height} x {width}")
    if pulls is not None and (pulls.shape != means.shape or pulls.dtype != dtype):
        raise shape_error("splat", "pulls", f"{tuple(means.shape)} {dtype}", pulls)
    given = (means, conics, opacities, features, depths.detach(), height, width, pulls)
    return Layers(*_splat(*given)) if registered(*given[:5]) else splat_reference(*given)


def splat_reference(
    means: Float[Tensor, "B N 2"], conics: Float[Tensor, "B N 3"], opacities: Float[Tensor, "B N"],
    features: Float[Tensor, "B N C"], depths: Float[Tensor, "B N"], height: int, width: int,
    pulls: Float[Tensor, "B N 2"] | None = None,
) -> Layers:  # fmt: skip
    """The torch twin of :func:`splat`: all (Gaussian, pixel) pairs in one list, sorted by pixel and depth."""
    views, channels = features.shape[0], features.shape[2]
    means, conics, opacities = means.reshape(-1, 2), conics.reshape(-1, 3), opacities.reshape(-1)
    features, pixels = features.reshape(-1, channels), views * height * width
    with torch.no_grad():
        which, pixel = _pairs(means, conics, opacities, depths, height, width)
    at = means[which]
    if pulls is not None:
        at = _Pulled.apply(at, pulls.reshape(-1, 2)[which])
    alpha = _alpha(at, conics, opacities, which, pixel, height, width)

    # The light before each pair, in double: one running sum spans all pixels, restarted at each of them.
    optical = -torch.log1p(-alpha.double())
    after = optical.cumsum(0)
    starts = torch.searchsorted(pixel, pixel)  # the first pair of the same pixel
    base = (after - optical)[starts]
    kept = torch.exp(base - after).detach() >= DARK
    weight = (torch.exp(base - after + optical) * alpha.double() * kept).to(alpha.dtype)
    columns = torch.cat([weight[:, None] * features[which], weight[:, None]], 1)
    total = columns.new_zeros(pixels, channels + 1).index_add(0, pixel, columns)
    total = total.view(views, height, width, channels + 1)
    return Layers(total[..., :-1], total[..., -1])


class _Pulled(torch.autograd.Function):
    """The first argument; the second receives the absolute values of its gradient."""

    @staticmethod
    def forward(ctx, at, pulls):
        return at.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0], grads[0].abs()


def _alpha(
    at: Tensor, conics: Tensor, opacities: Tensor, which: Tensor, pixel: Tensor, height: int, width: int
) -> Tensor:
    """Opacity of each (Gaussian, pixel) pair, of which ``at`` are the means."""
    a, b, c = conics[which].unbind(-1)
    dx = (pixel % width).to(at) + 0.5 - at[:, 0]
    dy = (pixel // width % height).to(at) + 0.5 - at[:, 1]
    power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    return (opacities[which] * torch.exp(power.clamp_max(0))).clamp_max(MOST)


def _pairs(
    means: Tensor, conics: Tensor, opacities: Tensor, depths: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Which Gaussian (in all views) shows at which pixel (of all views), by pixel, near to far."""
    count = depths.shape[1]
    near = torch.where(depths > 0, depths, torch.inf).float()
    order = torch.sort(near, dim=1, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(count, device=order.device).expand_as(order)
    )
    x0, y0, columns, lines = _boxes(means, conics, opacities, near.reshape(-1), height, width)
    sizes = columns * lines
    chunks = []
    ends = sizes.cumsum(0)
    first, done = 0, 0
    while first < len(sizes):
        last = max(first + 1, int(torch.searchsorted(ends, done + _PAIRS_PER_CHUNK, right=True)))
        which = torch.repeat_interleave(torch.arange(first, last, device=sizes.device), sizes[first:last])
        within = torch.arange(len(which), device=which.device) + done - (ends - sizes)[which]
        line = y0[which] + within // columns[which]
        pixel = (which // count * height + line) * width + x0[which] + within % columns[which]
        seen = _alpha(means[which], conics, opacities, which, pixel, height, width) >= LEAST
        chunks.append(torch.stack([which[seen], pixel[seen]]))
        first, done = last, int(ends[last - 1])
    if not chunks:
        none = torch.zeros(0, dtype=torch.int64, device=means.device)
        return none, none
    which, pixel = torch.cat(chunks, 1)
    by_depth = torch.argsort(pixel * count + rank.reshape(-1)[which])
    return which[by_depth], pixel[by_depth]


def _boxes(
    means: Tensor, conics: Tensor, opacities: Tensor, near: Tensor, height: int, width: int
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"], Int[Tensor, "M"], Int[Tensor, "M"]]:
    """First column and row, and numbers of both, of the pixels where a Gaussian's opacity can reach ``LEAST``.

    ``o exp(-q / 2) >= 1 / 255`` for ``q <= 2 ln(255 o)``, and ``q <= limit`` reaches ``sqrt(limit Sigma_xx)`` far.
    """
    x, y = means.double().unbind(-1)
    a, b, c = conics.double().unbind(-1)
    determinant = a * c - b * b
    limit = 2 * torch.log(opacities.double() / LEAST)
    seen = (opacities >= LEAST) & (a > 0) & (c > 0) & (determinant > 0) & near.isfinite()
    seen &= (a + c + x + y + limit).isfinite()

    def reach(centre: Tensor, variance: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        radius = torch.sqrt(limit * variance) + _SLACK
        low = torch.where(seen, torch.ceil(centre - radius - 0.5), pixels).clamp(0, pixels)
        high = torch.where(seen, torch.floor(centre + radius - 0.5), -1).clamp(-1, pixels - 1)
        return low.long(), (high - low + 1).clamp_min(0).long()

    (x0, columns), (y0, lines) = reach(x, c / determinant, width), reach(y, a / determinant, height)
    return x0, y0, columns, lines


@torch.library.custom_op(
    "threedistill::splat", mutates_args=(),
    schema="(Tensor means, Tensor conics, Tensor opacities, Tensor features, Tensor depths, int height, int width, "
    "Tensor? pulls) -> (Tensor, Tensor)",
)  # fmt: skip
def _splat(means, conics, opacities, features, depths, height, width, pulls):
    # Only reached with the library: the twin's gradients are autograd's own, which an operator's body cannot record.
    views, count, channels = features.shape
    image, opacity = means.new_empty(views, height, width, channels), means.new_empty(views, height, width)
    _forward_kernel(
        means.dtype, means.contiguous(), conics.contiguous(), opacities.contiguous(), features.contiguous(),
        depths.contiguous(), views, count, channels, height, width, image, opacity,
    )  # fmt: skip
    return image, opacity


@_splat.register_fake
def _(means, conics, opacities, features, depths, height, width, pulls):
    views, _, channels = features.shape
    return means.new_empty(views, height, width, channels), means.new_empty(views, height, width)


@torch.library.custom_op(
    "threedistill::splat_backward", mutates_args=(),
    schema="(Tensor means, Tensor conics, Tensor opacities, Tensor features, Tensor depths, Tensor image, "
    "Tensor opacity, Tensor grad_image, Tensor grad_opacity, bool absolute) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def _splat_backward(
    means, conics, opacities, features, depths, image, opacity, grad_image, grad_opacity, absolute
):
    _, height, width, channels = grad_image.shape
    given = [t.contiguous() for t in (means, conics, opacities, features)]
    grads = [torch.zeros_like(t) for t in given]
    pulls = torch.zeros_like(given[0]) if absolute else means.new_empty(0)
    views, count = depths.shape
    kernel, wanted = (_absolute_kernel, [*grads, pulls]) if absolute else (_backward_kernel, grads)
    kernel(
        means.dtype, *given, depths.contiguous(), views, count, channels, height, width,
        image.contiguous(), opacity.contiguous(), grad_image.contiguous(), grad_opacity.contiguous(), *wanted,
    )  # fmt: skip
    return *grads, pulls


@_splat_backward.register_fake
def _(means, conics, opacities, features, depths, image, opacity, grad_image, grad_opacity, absolute):
    grads = tuple(torch.empty_like(t) for t in (means, conics, opacities, features))
    return *grads, torch.empty_like(means) if absolute else means.new_empty(0)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5], *output)
    ctx.absolute = inputs[7] is not None


def _backward(ctx, grad_image, grad_opacity):
    *grads, pulls = _splat_backward(*ctx.saved_tensors, grad_image, grad_opacity, ctx.absolute)
    return *grads, None, None, None, pulls if ctx.absolute else None


_splat.register_autograd(_backward, setup_context=_save)


@cuda("splat")
def _on_cuda(means, conics, opacities, features, depths, height, width, pulls):
    """gsplat's rasteriser, which takes the same conics: projection and its low-pass filter stay ours."""
    library = cuda_library("gsplat", means)
    # gsplat leaves absolute gradients with a tensor, not with autograd.
    if library is None or pulls is not None:
        return tuple(splat_reference(means, conics, opacities, features, depths, height, width, pulls))
    with torch.no_grad():
        a, b, c = conics.unbind(-1)
        determinant = a * c - b * b
        limit = 2 * torch.log(opacities / LEAST).clamp_min(0)
        seen = (depths > 0) & depths.isfinite() & (opacities >= LEAST) & (determinant > 0)
        reach = torch.stack([limit * c / determinant, limit * a / determinant], -1).sqrt().ceil()
        radii = torch.where(seen[..., None] & reach.isfinite(), reach, 0.0).int()
        across, down = -(-width // _TILE), -(-height // _TILE)
        _, crossings, order = library.isect_tiles(means, radii, depths, _TILE, across, down)
        offsets = library.isect_offset_encode(crossings, len(means), across, down)
    image, opacity = library.rasterize_to_pixels(
        means.contiguous(), conics.contiguous(), features.contiguous(), opacities.contiguous(), width, height,
        _TILE, offsets, order,
    )  # fmt: skip
    return image, opacity[..., 0]
