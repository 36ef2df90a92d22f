"""Multiresolution hash encoding of points in the unit cube, in tiny-cuda-nn's table layout."""

from __future__ import annotations

import functools
import importlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.ops._cuda import cuda, cuda_library
from threedistill.ops._native import Kernel, shape_error, use_native

__all__ = ["HashLayout", "hash_encode", "hash_encode_reference"]

_forward_kernel = Kernel("hash_encode", "ppiiiipppp")
_backward_kernel = Kernel("hash_encode_backward", "pppiiiippppp")
_PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class HashLayout:
    """Where each level's entries lie: ``scale_l = base b^l - 1``, ``resolution_l = ceil(scale_l) + 1``.

    A level is dense (``resolution^3`` entries, rounded up to 8) where that fits into ``2^log2_entries``, else hashed.

    Attributes:
        levels: number of grids, >= 1.
        features: values per entry: 1, 2, 4 or 8.
        log2_entries: base-2 logarithm of the largest number of entries per level, 3..28.
        base_resolution: vertices per axis of the coarsest level, >= 2.
        finest_resolution: vertices per axis of the finest level, >= ``base_resolution``.

    Source: Müller et al., "Instant neural graphics primitives", 2022, equations 2-4; tiny-cuda-nn's grid encoding.
    """

    levels: int = 8
    features: int = 2
    log2_entries: int = 15
    base_resolution: int = 8
    finest_resolution: int = 128

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, got {self.levels}")
        if self.features not in (1, 2, 4, 8):
            raise ValueError(f"features must be 1, 2, 4 or 8, got {self.features}")
        if not 3 <= self.log2_entries <= 28:
            raise ValueError(f"log2_entries must be 3..28, got {self.log2_entries}")
        if self.base_resolution < 2:
            raise ValueError(f"base_resolution must be at least 2, got {self.base_resolution}")
        if not self.base_resolution <= self.finest_resolution <= 1 << 19:
            raise ValueError(
                f"finest_resolution must be base_resolution ({self.base_resolution}) to {1 << 19}, "
                f"got {self.finest_resolution}"
            )

    @functools.cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells per unit length of each level; a point lies at ``x scale + 0.5`` in its level's grid."""
        growth = math.log(self.finest_resolution / self.base_resolution) / max(self.levels - 1, 1)
        exact = (self.base_resolution * math.exp(level * growth) - 1 for level in range(self.levels))
        # An integer missed by rounding must not gain a vertex in the ceil below.
        return tuple(float(round(s)) if abs(s - round(s)) < 1e-6 * s else s for s in exact)

    @functools.cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Vertices per axis of each level."""
        return tuple(math.ceil(scale) + 1 for scale in self.scales)

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """First entry of each level, and the total at the end."""
        starts = [0]
        for resolution in self.resolutions:
            dense = (resolution**3 + 7) // 8 * 8
            starts.append(starts[-1] + min(dense, 1 << self.log2_entries))
        return tuple(starts)

    @property
    def entries(self) -> int:
        """Total entries: the table is (entries, features)."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Values per encoded point, ``levels * features``."""
        return self.levels * self.features

    def hashed(self, level: int) -> bool:
        """Whether vertices of this level share entries."""
        return self.resolutions[level] ** 3 > self.offsets[level + 1] - self.offsets[level]


def hash_encode(
    x: Float[Tensor, "N 3"],
    table: Float[Tensor, "T F"],
    layout: HashLayout,
    active_levels: int | None = None,
) -> Float[Tensor, "N LF"]:
    """Trilinear features of every level's grid, concatenated.

    ``out[n, l F + f] = sum_c w_c(n) table[entry_l(corner_c), f]`` over the eight corners of the cell that holds
    ``x scale_l + 0.5``; an entry is the dense index or ``(X xor 2654435761 Y xor 805459861 Z) mod 2^log2_entries``.

    Args:
        x: points in [0, 1]^3; points outside are clamped, and get no gradient along the clamped axes.
        table: (layout.entries, layout.features), of the type of ``x``.
        layout: the levels.
        active_levels: levels computed, coarsest first; the others give zeros and get no gradient. None = all.

    Returns:
        The features; differentiable once with respect to ``x`` and ``table``.

    Raises:
        ValueError: a shape, type or the number of levels is wrong.

    Source: Müller et al., "Instant neural graphics primitives with a multiresolution hash encoding", 2022.
    """
    if x.ndim != 2 or x.shape[1] != 3 or not x.is_floating_point():
        raise shape_error("hash_encode", "x", "(N, 3) floating point", x)
    if table.shape != (layout.entries, layout.features) or table.dtype != x.dtype:
        raise shape_error("hash_encode", "table", f"({layout.entries}, {layout.features}) {x.dtype}", table)
    active = layout.levels if active_levels is None else active_levels
    if not 0 <= active <= layout.levels:
        raise ValueError(f"hash_encode: active_levels must be 0..{layout.levels}, got {active}")
    return _hash_encode(x, table, *_fields(layout), active)


def hash_encode_reference(
    x: Float[Tensor, "N 3"],
    table: Float[Tensor, "T F"],
    layout: HashLayout,
    active_levels: int | None = None,
) -> Float[Tensor, "N LF"]:
    """The torch twin of :func:`hash_encode`: one ``embedding_bag`` per level, differentiable by autograd."""
    active = layout.levels if active_levels is None else active_levels
    clamped = x.clamp(0, 1)
    columns = []
    for level in range(layout.levels):
        if level >= active:
            columns.append(x.new_zeros(x.shape[0], layout.features))
            continue
        entries, weights, _ = _corners(clamped, layout, level)
        rows = table[layout.offsets[level] : layout.offsets[level + 1]]
        bags = torch.nn.functional.embedding_bag(entries, rows, per_sample_weights=weights, mode="sum")
        columns.append(bags)
    return torch.cat(columns, 1)


def _corners(x: Tensor, layout: HashLayout, level: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 8) entries and weights of the corners of each point's cell, and (N, 3) the place inside it."""
    resolution = layout.resolutions[level]
    size = layout.offsets[level + 1] - layout.offsets[level]
    at = x * layout.scales[level] + 0.5
    cell = at.detach().nan_to_num().floor()
    fraction = at - cell
    bits = torch.arange(8, device=x.device)
    offset = torch.stack([bits & 1, (bits >> 1) & 1, bits >> 2], 1)  # (8, 3)
    vertex = cell.long()[:, None] + offset
    if layout.hashed(level):
        low = 0xFFFFFFFF  # the products wrap at 32 bits
        mixed = vertex[..., 0] ^ (vertex[..., 1] * _PRIMES[1] & low) ^ (vertex[..., 2] * _PRIMES[2] & low)
        entries = mixed & (size - 1)
    else:
        entries = vertex[..., 0] + resolution * (vertex[..., 1] + resolution * vertex[..., 2])
        entries = torch.where(entries >= size, entries - size, entries)
    sides = torch.where(offset.bool(), fraction[:, None], 1 - fraction[:, None])
    return entries, sides[..., 0] * sides[..., 1] * sides[..., 2], fraction


def _reference_backward(
    grad: Tensor, x: Tensor, table: Tensor, layout: HashLayout, active: int, need_x: bool, need_table: bool
) -> tuple[Tensor, Tensor]:
    """The twin's own backward: ``bincount`` scatters six times faster than autograd's ``index_add``."""
    grad_x = torch.zeros_like(x) if need_x else x.new_empty(0)
    grad_table = torch.zeros_like(table) if need_table else x.new_empty(0)
    clamped, features = x.clamp(0, 1), layout.features
    for level in range(active):
        entries, weights, fraction = _corners(clamped, layout, level)
        begin, end = layout.offsets[level : level + 2]
        g = grad[:, level * features : (level + 1) * features]
        if need_table:
            flat = entries.flatten()
            for f in range(features):
                share = (weights * g[:, f : f + 1]).flatten()
                grad_table[begin:end, f] = torch.bincount(flat, share, minlength=end - begin).to(x.dtype)
        if need_x:
            value = torch.einsum("ncf,nf->nc", table[begin:end][entries], g).view(-1, 2, 2, 2)  # z, y, x
            sides = torch.stack([1 - fraction, fraction], 1)  # (N, 2, 3)
            slopes = [
                torch.einsum("nzy,nz,ny->n", value[..., 1] - value[..., 0], sides[..., 2], sides[..., 1]),
                torch.einsum("nzx,nz,nx->n", value[:, :, 1] - value[:, :, 0], sides[..., 2], sides[..., 0]),
                torch.einsum("nyx,ny,nx->n", value[:, 1] - value[:, 0], sides[..., 1], sides[..., 0]),
            ]
            grad_x += layout.scales[level] * torch.stack(slopes, 1)
    if need_x:
        grad_x.masked_fill_((x < 0) | (x > 1), 0)
    return grad_x, grad_table


# ---- the registered operators ---------------------------------------------------------------------------------

_FIELDS = "int levels, int features, int log2_entries, int base, int finest, int active"


def _fields(layout: HashLayout) -> tuple[int, int, int, int, int]:
    return (
        layout.levels,
        layout.features,
        layout.log2_entries,
        layout.base_resolution,
        layout.finest_resolution,
    )


@functools.lru_cache(maxsize=32)
def _layout(*fields: int) -> HashLayout:
    return HashLayout(*fields)


@functools.lru_cache(maxsize=32)
def _level_arrays(layout: HashLayout) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor(layout.offsets),
        torch.tensor(layout.resolutions),
        torch.tensor(layout.scales, dtype=torch.float64),
    )


@torch.library.custom_op(
    "threedistill::hash_encode", mutates_args=(), schema=f"(Tensor x, Tensor table, {_FIELDS}) -> Tensor"
)
def _hash_encode(x, table, levels, features, log2_entries, base, finest, active):
    layout = _layout(levels, features, log2_entries, base, finest)
    if not use_native(x, table):
        return hash_encode_reference(x, table, layout, active)
    out = x.new_empty(x.shape[0], layout.width)
    offsets, resolutions, scales = _level_arrays(layout)
    _forward_kernel(
        x.dtype, x.contiguous(), table.contiguous(), x.shape[0], levels, features, active,
        offsets.data_ptr(), resolutions.data_ptr(), scales.data_ptr(), out,
    )  # fmt: skip
    return out


@_hash_encode.register_fake
def _(x, table, levels, features, log2_entries, base, finest, active):
    return x.new_empty(x.shape[0], levels * features)


@torch.library.custom_op(
    "threedistill::hash_encode_backward", mutates_args=(),
    schema=f"(Tensor grad, Tensor x, Tensor table, {_FIELDS}, bool need_x, bool need_table) -> (Tensor, Tensor)",
)  # fmt: skip
def _hash_encode_backward(
    grad, x, table, levels, features, log2_entries, base, finest, active, need_x, need_table
):
    layout = _layout(levels, features, log2_entries, base, finest)
    if not use_native(x, table, grad):
        return _reference_backward(grad, x, table, layout, active, need_x, need_table)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    grad_table = (
        torch.zeros_like(table, memory_format=torch.contiguous_format) if need_table else x.new_empty(0)
    )
    offsets, resolutions, scales = _level_arrays(layout)
    _backward_kernel(
        x.dtype, grad.contiguous(), x.contiguous(), table.contiguous(), x.shape[0], levels, features, active,
        offsets.data_ptr(), resolutions.data_ptr(), scales.data_ptr(),
        grad_x if need_x else None, grad_table if need_table else None,
    )  # fmt: skip
    return grad_x, grad_table


@_hash_encode_backward.register_fake
def _(grad, x, table, levels, features, log2_entries, base, finest, active, need_x, need_table):
    return (
        x.new_empty(x.shape if need_x else (0,)),
        table.new_empty(table.shape if need_table else (0,)),
    )


def _save(ctx, inputs, output):
    x, table, *ctx.fields = inputs
    ctx.save_for_backward(x, table)


def _backward(ctx, grad):
    need_x, need_table = ctx.needs_input_grad[:2]
    grad_x, grad_table = _hash_encode_backward(grad, *ctx.saved_tensors, *ctx.fields, need_x, need_table)
    return grad_x if need_x else None, grad_table if need_table else None, *[None] * 6


_hash_encode.register_autograd(_backward, setup_context=_save)


# ---- on CUDA --------------------------------------------------------------------------------------------------


@cuda("hash_encode")
def _on_cuda(x, table, levels, features, log2_entries, base, finest, active):
    """tinycudann's encoding, whose table layout is ours (a checkpoint loads in both), or our Triton kernel."""
    layout = _layout(levels, features, log2_entries, base, finest)
    if cuda_library("tinycudann", table) is None:
        ours = cuda_library("threedistill.ops.triton.hash_encode", table)
        if ours is not None:
            return ours.hash_encode(x, table, layout, active)
        return hash_encode_reference(x, table, layout, active)
    # The library's module owns a parameter vector; ours stands in for it, so gradients land in the field's table.
    module = _tinycudann(layout, table.device)
    out = torch.func.functional_call(module, {"params": table.reshape(-1)}, (x,))
    if active >= levels:
        return out
    return out * (torch.arange(levels, device=x.device).repeat_interleave(features) < active)


@functools.cache
def _tinycudann(layout: HashLayout, device: torch.device) -> nn.Module:
    growth = 1.0  # tiny-cuda-nn's b, with finest = base b^(levels - 1)
    if layout.levels > 1:
        growth = (layout.finest_resolution / layout.base_resolution) ** (1 / (layout.levels - 1))
    config = {
        "otype": "HashGrid", "n_levels": layout.levels, "n_features_per_level": layout.features,
        "log2_hashmap_size": layout.log2_entries, "base_resolution": layout.base_resolution,
        "per_level_scale": growth, "interpolation": "Linear",
    }  # fmt: skip
    with torch.cuda.device(device):
        return importlib.import_module("tinycudann").Encoding(3, config, dtype=torch.float32)
