"""Emission-absorption compositing in Triton: one program per ray, its samples in blocks, no atomics."""

# Triton's language is not typed: what it takes and returns inside a kernel is no Python.
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportArgumentType=false, reportMissingImports=false, reportAttributeAccessIssue=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["composite"]

_BLOCK = 32  # samples of a ray at a time


@triton.jit
def _forward(density, rgb, start, end, offsets, color, opacity, depth, weights, after, BLOCK: tl.constexpr):
    ray = tl.program_id(0)
    first, last = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    lane = tl.arange(0, BLOCK)
    red, green, blue = (
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
    )
    total, distance = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    before = 0.0  # optical depth in front of the block
    for base in range(first, last, BLOCK):
        i = base + lane
        here = i < last
        near, far = tl.load(start + i, here, 0.0), tl.load(end + i, here, 0.0)
        thickness = tl.load(density + i, here, 0.0) * (far - near)
        # The sum in front of each sample, from its predecessors: a thick sample does not cancel out of its own.
        ahead = here & (lane > 0)
        step = tl.load(end + i - 1, ahead, 0.0) - tl.load(start + i - 1, ahead, 0.0)
        above = before + tl.cumsum(tl.load(density + i - 1, ahead, 0.0) * step, 0)
        series = thickness * (1 - thickness * (0.5 - thickness * (1.0 / 6 - thickness / 24)))
        alpha = tl.where(thickness < 0.03, series, 1 - tl.exp(-thickness))
        weight = tl.where(here, tl.exp(-above) * alpha, 0.0)
        tl.store(weights + i, weight, here)
        tl.store(after + i, tl.exp(-(above + thickness)), here)
        red += weight * tl.load(rgb + 3 * i, here, 0.0)
        green += weight * tl.load(rgb + 3 * i + 1, here, 0.0)
        blue += weight * tl.load(rgb + 3 * i + 2, here, 0.0)
        total += weight
        distance += weight * 0.5 * (near + far)
        before += tl.sum(thickness, 0)
    tl.store(color + 3 * ray, tl.sum(red, 0))
    tl.store(color + 3 * ray + 1, tl.sum(green, 0))
    tl.store(color + 3 * ray + 2, tl.sum(blue, 0))
    tl.store(opacity + ray, tl.sum(total, 0))
    tl.store(depth + ray, tl.sum(distance, 0))


@triton.jit
def _share(rgb, start, end, weights, grad_weights, red, green, blue, opacity, depth, i, here):
    """``dL/dw`` of samples ``i``, and their weights."""
    g = tl.load(grad_weights + i, here, 0.0) + opacity
    g += depth * 0.5 * (tl.load(start + i, here, 0.0) + tl.load(end + i, here, 0.0))
    g += red * tl.load(rgb + 3 * i, here, 0.0) + green * tl.load(rgb + 3 * i + 1, here, 0.0)
    g += blue * tl.load(rgb + 3 * i + 2, here, 0.0)
    return g, tl.load(weights + i, here, 0.0)


@triton.jit
def _backward(
    rgb, start, end, offsets, weights, after, grad_color, grad_opacity, grad_depth, grad_weights,
    grad_density, grad_rgb, BLOCK: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0)
    first, last = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    red, green = tl.load(grad_color + 3 * ray), tl.load(grad_color + 3 * ray + 1)
    blue = tl.load(grad_color + 3 * ray + 2)
    opacity, depth = tl.load(grad_opacity + ray), tl.load(grad_depth + ray)
    lane = tl.arange(0, BLOCK)
    behind = 0.0  # sum of w g behind the block
    blocks = (last - first + BLOCK - 1) // BLOCK
    for done in range(0, blocks):
        i = first + (blocks - 1 - done) * BLOCK + lane
        here = i < last
        g, weight = _share(rgb, start, end, weights, grad_weights, red, green, blue, opacity, depth, i, here)
        next_g, next_weight = _share(
            rgb, start, end, weights, grad_weights, red, green, blue, opacity, depth, i + 1,
            (i + 1 < last) & (lane + 1 < BLOCK),
        )  # fmt: skip
        later = behind + tl.cumsum(next_g * next_weight, 0, reverse=True)
        span = tl.load(end + i, here, 0.0) - tl.load(start + i, here, 0.0)
        tl.store(grad_density + i, span * (tl.load(after + i, here, 0.0) * g - later), here)
        tl.store(grad_rgb + 3 * i, weight * red, here)
        tl.store(grad_rgb + 3 * i + 1, weight * green, here)
        tl.store(grad_rgb + 3 * i + 2, weight * blue, here)
        behind += tl.sum(g * weight, 0)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, density: Tensor, rgb: Tensor, start: Tensor, end: Tensor, offsets: Tensor) -> Any:
        density, rgb, start, end, offsets = (t.contiguous() for t in (density, rgb, start, end, offsets))
        rays = len(offsets) - 1
        color, opacity, depth = density.new_empty(rays, 3), density.new_empty(rays), density.new_empty(rays)
        weights, after = torch.empty_like(density), torch.empty_like(density)
        if rays:
            _forward[(rays,)](
                density, rgb, start, end, offsets, color, opacity, depth, weights, after, _BLOCK, num_warps=1
            )
        ctx.save_for_backward(rgb, start, end, offsets, weights, after)
        return color, opacity, depth, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rgb, start, end, offsets, weights, after = ctx.saved_tensors
        grad_density, grad_rgb = torch.empty_like(weights), torch.empty_like(rgb)
        if len(offsets) > 1:
            _backward[(len(offsets) - 1,)](
                rgb, start, end, offsets, weights, after, *(grad.contiguous() for grad in grads),
                grad_density, grad_rgb, _BLOCK, num_warps=1,
            )  # fmt: skip
        return grad_density, grad_rgb, None, None, None


def composite(
    density: Tensor, rgb: Tensor, start: Tensor, end: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :func:`threedistill.ops.composite.composite` computes, in float32, its gradients included.

    ``dL/dsigma_i = dt_i (T_{i+1} g_i - sum_{j > i} w_j g_j)`` with ``g_i = dL/dw_i``; the sums run within a ray.

    Args:
        density, rgb, start, end: (S,), (S, 3), (S,), (S,) float32.
        offsets: (R + 1,) int64, which must partition the samples (not checked: that would wait for the device).

    Returns:
        Colour (R, 3), opacity (R,), depth (R,), weights (S,).
    """
    return _Composite.apply(density, rgb, start, end, offsets)  # pyright: ignore[reportReturnType]
