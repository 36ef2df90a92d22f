"""What a call of a native kernel has to do at least: floating-point operations and bytes, from the call's arguments.

Operations are counted as the C++ source writes them, a multiply-add as two, comparisons and whole numbers (hashing,
sorting) as none; what a kernel computes again counts again. Work that depends on the data is counted from the data:
pairs of a splat and a pixel that sees it, pixels in triangles' boxes. Least bytes: every array of the call once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from threedistill.ops.splat import DARK, _alpha, _pairs

__all__ = ["DOUBLE", "Work", "exponents", "pairs", "work"]

#: Of ``custom_ops/include/exponential.h`` in single precision: ``expm1`` and ``exp2_of_negative``.
_EXPM1, _EXP2 = 32, 18

#: Kernels that compute in double whatever they are given.
DOUBLE = frozenset({"rasterize", "interpolate", "interpolate_backward", "silhouette_crossings"})


class Work(NamedTuple):
    """Floating-point operations and least bytes; no operations are counted where the kernel only moves integers."""

    flops: float
    bytes: float

    def __add__(self, other: tuple) -> Work:
        return Work(self.flops + other[0], self.bytes + other[1])


def exponents(sizes: Sequence[float], costs: Sequence[float]) -> list[float]:
    """How costs grow: ``d log cost / d log size`` between neighbours."""
    places = [(math.log(n), math.log(c)) for n, c in zip(sizes, costs, strict=True)]
    return [(d - b) / (c - a) for (a, b), (c, d) in pairwise(places)]


def work(name: str, given: tuple[Any, ...]) -> Work:
    """Of one call of the kernel ``name`` with its arguments, its results among them."""
    arrays = [a for a in given if isinstance(a, Tensor)]
    moved = float(sum(a.numel() * a.element_size() for a in arrays))
    return Work(_FLOPS[name](*given) if name in _FLOPS else 0.0, moved)


def _hash(x, table, points, levels, features, active, *rest) -> float:
    # Per point and level: place 6, fractions 3, weights 6; along y and z both ends of 4 edges, then along x.
    return points * active * (15 + 16 * features + 1 + 3 * features)


def _hash_backward(grad, x, table, points, levels, features, active, *rest) -> float:
    to_table, to_points = rest[4] is not None, rest[3] is not None
    flops = 0.0
    if to_table:  # the same place and weights, the gradient split along x, 8 corners
        flops += 15 + 1 + 2 * features + 8 * 2 * features
    if to_points:  # 8 products with the table, 12 differences weighted twice and added up, the scale
        flops += 15 + 8 * (2 * features - 1) + 3 * (12 + 3) + 3 + 6
    return points * active * flops


def _products(widths: Tensor) -> int:
    sizes = widths.tolist()
    return sum(2 * a * b for a, b in pairwise(sizes))


def _mlp(x, weights, points, layers, widths, out) -> float:
    return points * _products(widths)


def _mlp_backward(grad, x, weights, points, layers, widths, grad_x, grad_weights) -> float:
    first, all_of_them = _products(widths[:2]), _products(widths)
    again = _products(widths[:-1])  # hidden activations, which are not kept
    to_weights = all_of_them if grad_weights is not None else 0
    return points * (again + to_weights + all_of_them - (first if grad_x is None else 0))


def _composite(density, *rest) -> float:
    # alpha 2 + expm1, weight 1, colour 6, opacity 1, depth 4, the light behind 2
    return len(density) * (2 + _EXPM1 + 14)


def _composite_backward(density, *rest) -> float:
    # alpha 2 + expm1, the light behind 2, dL/dw 10, density 4, what is behind 2, colour 3
    return len(density) * (2 + _EXPM1 + 21)


def pairs(means, conics, opacities, features, depths, views, count, channels, height, width, *rest) -> int:
    """Pairs of a splat and a pixel that take part: not too thin to be seen, and before the pixel is finished."""
    means, conics, opacities = means.reshape(-1, 2), conics.reshape(-1, 3), opacities.reshape(-1)
    which, pixel = _pairs(means, conics, opacities, depths, height, width)
    alpha = _alpha(means[which], conics, opacities, which, pixel, height, width)
    optical = -torch.log1p(-alpha.double())
    after = optical.cumsum(0)
    before = (after - optical)[torch.searchsorted(pixel, pixel)]
    return int((torch.exp(before - after) >= DARK).sum())


def _splat(*given) -> float:
    # Distances 2, exponent 7, opacity 1 + exp2, light 3, channels
    return pairs(*given) * (13 + _EXP2 + 2 * given[7])


def _splat_backward(*given) -> float:
    # The same but for the channels; dL/dalpha 6 and 4 per channel, six moments 11
    return pairs(*given) * (13 + _EXP2 + 17 + 4 * given[7])


def _screen(clip: Tensor, height: int, width: int) -> Tensor:
    x, y, _, w = clip.double().unbind(-1)
    return torch.stack([(x / w + 1) * (width / 2) - 0.5, (1 - y / w) * (height / 2) - 0.5], -1)


def _rasterize(clip, faces, images, vertices, triangles, height, width, triangle, *rest) -> float:
    # Every vertex is projected (8), every box widened (4); triangles whose box has a pixel get edges (32), each of
    # those pixels is tested (8), and those that see something get depth, weights and their triangle's edges (50).
    flops = 0.0
    for image in range(images):
        low, high = _screen(clip[image], height, width)[faces.long()].aminmax(dim=1)
        limit = torch.tensor([width, height])
        size = (high.floor().clamp_max(limit - 1) - low.ceil().clamp_min(0) + 1).clamp_min(0).prod(1)
        flops += 8 * vertices + 4 * triangles + 32 * int((size > 0).sum()) + 8 * float(size.sum())
    return flops + 50 * int((triangle >= 0).sum())


def _interpolate(attributes, clip, faces, triangle, pixels, count, channels, *rest) -> float:
    # The pixel's place 4, three edge functions 39 and their sum 2, weights 3, channels
    return count * (48 + 5 * channels)


def _interpolate_backward(attributes, clip, faces, triangle, pixels, count, channels, *rest) -> float:
    # Edge functions twice; to the attributes; to the weights and through them to the vertices
    return count * (2 * 45 + 3 + 6 * channels + 6 * channels + 9 + 96)


def _crossings(
    clip, faces, neighbours, triangle, depth, views, vertices, triangles, height, width, found
) -> float:
    # Every vertex is projected (8); between pixels that see different triangles one step of the walk (31), at least.
    different = int((triangle[:, :, 1:] != triangle[:, :, :-1]).sum())
    different += int((triangle[:, 1:] != triangle[:, :-1]).sum())
    return 8 * views * vertices + 31 * different


_FLOPS: dict[str, Callable[..., float]] = {
    "hash_encode": _hash, "hash_encode_backward": _hash_backward,
    "fused_mlp": _mlp, "fused_mlp_backward": _mlp_backward,
    "composite": _composite, "composite_backward": _composite_backward,
    "splat": _splat, "splat_backward": _splat_backward,
    "rasterize": _rasterize, "silhouette_crossings": _crossings,
    "interpolate": _interpolate, "interpolate_backward": _interpolate_backward,
}  # fmt: skip
