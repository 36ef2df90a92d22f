"""The hash encoding in Triton: a block of points times a level, eight corners at a time."""

# Triton's language is not typed: what it takes and returns inside a kernel is no Python.
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportArgumentType=false, reportMissingImports=false, reportAttributeAccessIssue=false, reportIndexIssue=false

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from threedistill.ops.hash_encode import HashLayout

__all__ = ["hash_encode"]

_BLOCK = 128  # points


@triton.jit
def _place(x, n, here, axis, scale):
    """Cell and place inside it along an axis, of the clamped points; whether a point was inside."""
    at = tl.load(x + 3 * n + axis, here, 0.0)
    inside = (at >= 0) & (at <= 1)
    at = tl.where(at < 0, 0.0, tl.where(at > 1, 1.0, at)) * scale + 0.5
    cell = tl.where(at == at, tl.floor(at), 0.0)
    return cell.to(tl.int32), at - cell, inside


@triton.jit
def _cell(x, n, here, offsets, resolutions, scales, level):
    """A level's first entry, entries, resolution and scale; the points' cells on it and their places inside."""
    begin, scale, resolution = tl.load(offsets + level), tl.load(scales + level), tl.load(resolutions + level)
    size = tl.load(offsets + level + 1) - begin
    X, u, _ = _place(x, n, here, 0, scale)
    Y, v, _ = _place(x, n, here, 1, scale)
    Z, w, _ = _place(x, n, here, 2, scale)
    return begin, size, resolution, scale, X, Y, Z, u, v, w


@triton.jit
def _entry(X, Y, Z, resolution, size):
    """Index within a level: dense where resolution^3 fits, else the hash (products wrap at 32 bits)."""
    wide = resolution.to(tl.int64)
    if wide * wide * wide > size:
        mixed = X.to(tl.uint32) ^ (Y.to(tl.uint32) * 2654435761) ^ (Z.to(tl.uint32) * 805459861)
        entry = (mixed & (size - 1).to(tl.uint32)).to(tl.int64)
    else:
        dense = X + resolution * (Y + resolution * Z)
        entry = tl.where(dense >= size, dense - size, dense).to(tl.int64)
    return entry


@triton.jit
def _forward(
    x, table, offsets, resolutions, scales, out, count, width, F: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    n, level = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    here, f = n < count, tl.arange(0, F)
    begin, size, resolution, _, X, Y, Z, u, v, w = _cell(x, n, here, offsets, resolutions, scales, level)
    total = tl.zeros((BLOCK, F), tl.float32)
    for corner in tl.static_range(8):
        i, j, k = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (u if i else 1 - u) * (v if j else 1 - v) * (w if k else 1 - w)
        at = (begin + _entry(X + i, Y + j, Z + k, resolution, size))[:, None] * F + f[None, :]
        total += weight[:, None] * tl.load(table + at, here[:, None], 0.0)
    tl.store(out + n[:, None] * width + level * F + f[None, :], total, here[:, None])


@triton.jit
def _table_backward(
    grad, x, offsets, resolutions, scales, grad_table, count, width, F: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    n, level = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    here, f = n < count, tl.arange(0, F)
    begin, size, resolution, _, X, Y, Z, u, v, w = _cell(x, n, here, offsets, resolutions, scales, level)
    g = tl.load(grad + n[:, None] * width + level * F + f[None, :], here[:, None], 0.0)
    for corner in tl.static_range(8):
        i, j, k = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (u if i else 1 - u) * (v if j else 1 - v) * (w if k else 1 - w)
        at = (begin + _entry(X + i, Y + j, Z + k, resolution, size))[:, None] * F + f[None, :]
        tl.atomic_add(grad_table + at, weight[:, None] * g, here[:, None], sem="relaxed")


@triton.jit
def _point_backward(
    grad, x, table, offsets, resolutions, scales, grad_x, count, width, active,
    F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here, f = n < count, tl.arange(0, F)
    dx, dy, dz = (
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
    )
    for level in range(0, active):
        begin, size, resolution, scale, X, Y, Z, u, v, w = _cell(
            x, n, here, offsets, resolutions, scales, level
        )
        g = tl.load(grad + n[:, None] * width + level * F + f[None, :], here[:, None], 0.0)
        for corner in tl.static_range(8):
            i, j, k = corner & 1, (corner >> 1) & 1, corner >> 2
            a, b, c = (u if i else 1 - u), (v if j else 1 - v), (w if k else 1 - w)
            at = (begin + _entry(X + i, Y + j, Z + k, resolution, size))[:, None] * F + f[None, :]
            value = scale * tl.sum(tl.load(table + at, here[:, None], 0.0) * g, 1)
            dx += (2 * i - 1) * value * b * c
            dy += (2 * j - 1) * value * a * c
            dz += (2 * k - 1) * value * a * b
    _, _, in_x = _place(x, n, here, 0, 1.0)
    _, _, in_y = _place(x, n, here, 1, 1.0)
    _, _, in_z = _place(x, n, here, 2, 1.0)
    tl.store(grad_x + 3 * n, tl.where(in_x, dx, 0.0), here)
    tl.store(grad_x + 3 * n + 1, tl.where(in_y, dy, 0.0), here)
    tl.store(grad_x + 3 * n + 2, tl.where(in_z, dz, 0.0), here)


@functools.lru_cache(maxsize=32)
def _levels(layout: HashLayout, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, resolutions and scales where the kernels read them: copied once, no step waits for them."""
    return (
        torch.tensor(layout.offsets, device=device),
        torch.tensor(layout.resolutions, dtype=torch.int32, device=device),
        torch.tensor(layout.scales, dtype=torch.float32, device=device),
    )


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, layout: HashLayout, active: int) -> Tensor:
        x, table = x.contiguous(), table.contiguous()
        ctx.save_for_backward(x, table)
        ctx.layout, ctx.active = layout, active
        out = x.new_zeros(len(x), layout.width)
        if len(x) and active:
            _forward[(triton.cdiv(len(x), _BLOCK), active)](
                x, table, *_levels(layout, x.device), out, len(x), layout.width, layout.features, _BLOCK
            )
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, table = ctx.saved_tensors
        layout, active, grad = ctx.layout, ctx.active, grad.contiguous()
        levels, blocks = _levels(layout, x.device), triton.cdiv(len(x), _BLOCK)
        sizes = len(x), layout.width
        grad_x, grad_table = (
            torch.zeros_like(value) if needed else None
            for value, needed in zip((x, table), ctx.needs_input_grad)
        )
        if len(x) and active and grad_x is not None:
            _point_backward[(blocks,)](
                grad, x, table, *levels, grad_x, *sizes, active, layout.features, _BLOCK
            )
        if len(x) and active and grad_table is not None:
            _table_backward[(blocks, active)](grad, x, *levels, grad_table, *sizes, layout.features, _BLOCK)
        return grad_x, grad_table, None, None


def hash_encode(x: Tensor, table: Tensor, layout: HashLayout, active: int) -> Tensor:
    """What :func:`threedistill.ops.hash_encode.hash_encode` computes, in float32, its gradients included.

    The table's gradient is summed with atomic additions: its last bits depend on their order on a GPU.

    Args:
        x: (N, 3) points, clamped to the unit cube.
        table: (layout.entries, layout.features).
        layout: the levels.
        active: levels computed; the others give zeros.

    Returns:
        (N, layout.width) features.
    """
    return _HashEncode.apply(x, table, layout, active)  # pyright: ignore[reportReturnType]
