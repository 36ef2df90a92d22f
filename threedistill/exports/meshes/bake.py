"""Colour from a representation into a texture, with its gutter filled so that no mip level shows a seam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.meshes.surface import vertex_normals
from threedistill.types import Mesh

__all__ = ["ColorField", "Texels", "bake", "bake_values", "color_at", "fill_gutter", "painted"]

#: (N, 3) points and (N, 3) unit normals to (N, 3) sRGB: a representation's ``surface_color``.
ColorField = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 1 << 16


def color_at(
    color: ColorField, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], channels: int = 3,
    most: float = 1.0,
) -> Float[Tensor, "N channels"]:  # fmt: skip
    """The field's colours in [0, ``most``], asked for in chunks of bounded memory.

    Raises:
        ThreedistillError: the field answers with something that is not a number.
    """
    with torch.no_grad():
        chunks = [color(p, n) for p, n in zip(points.split(_CHUNK), normals.split(_CHUNK))]
    result = torch.cat(chunks).float().cpu() if chunks else torch.zeros(0, channels)
    if not bool(torch.isfinite(result).all()):
        raise ThreedistillError("bake: the representation returned colours that are not finite numbers")
    return result.clamp(0, most)


class Texels(NamedTuple):
    """The texels of a layout whose centres lie on the surface.

    Attributes:
        covered: (size, size) which, row 0 at the top.
        corner: (P, 3) the vertices of each one's face.
        weights: (P, 3, 1) its barycentrics.
        points, normals: (P, 3) where it lies in the mesh's coordinates, and the interpolated unit normal.
    """

    covered: Tensor
    corner: Tensor
    weights: Tensor
    points: Tensor
    normals: Tensor


def painted(mesh: Mesh, size: int) -> Texels:
    """Rasterise the layout with ``clip = (2 u - 1, 2 v - 1, 0, 1)``: every covered texel knows its place.

    Raises:
        ThreedistillError: the layout covers no texel.
    """
    from threedistill.ops.rasterize import rasterize

    if mesh.uv is None:
        raise ValueError("bake needs a mesh with texture coordinates: unwrap it first")
    uv = mesh.uv.float()
    clip = torch.cat([uv * 2 - 1, torch.zeros(len(uv), 1), torch.ones(len(uv), 1)], 1)[None]
    fragments = rasterize(clip, mesh.faces, size, size)
    covered = fragments.triangle[0] >= 0
    if not bool(covered.any()):
        raise ThreedistillError(
            f"bake: the layout covers no texel of a {size}-texel texture; raise texture_size"
        )
    normals = mesh.normals if mesh.normals is not None else vertex_normals(mesh.vertices, mesh.faces)
    corner = mesh.faces[fragments.triangle[0][covered].long()]
    weights = fragments.barycentric[0][covered].to(mesh.vertices.dtype)[..., None]
    points = (mesh.vertices[corner] * weights).sum(1)
    directions = torch.nn.functional.normalize((normals[corner] * weights).sum(1), dim=-1)
    return Texels(covered, corner, weights, points, directions)


def bake(mesh: Mesh, color: ColorField, size: int, gutter: int = 4) -> tuple[Mesh, Texels]:
    """Paint a texture of ``size`` texels a side through the mesh's own texture coordinates.

    Arguments:
        mesh: with ``uv``, in the frame of the field.
        color: the field.
        size: texels.
        gutter: texels around charts that get the nearest chart's colour.

    Returns:
        The mesh with its texture, and the texels that were painted directly.
    """
    texels = painted(mesh, size)
    texture = bake_values(texels, color, size, 3, gutter)
    return replace(mesh, texture=texture), texels


def bake_values(
    texels: Texels, field: ColorField, size: int, channels: int, gutter: int, most: float = 1.0
) -> Tensor:
    """A picture of anything in [0, ``most``] that a field knows at surface points, its gutter filled."""
    picture = torch.zeros(size, size, channels)
    picture[texels.covered] = color_at(field, texels.points, texels.normals, channels, most)
    return fill_gutter(picture, texels.covered, gutter)


def fill_gutter(
    texture: Float[Tensor, "H W C"], covered: Bool[Tensor, "H W"], gutter: int
) -> Float[Tensor, "H W C"]:  # fmt: skip
    """Continue the painted texels outward, so that filtering across a chart's border meets no background.

    Within ``gutter`` texels an empty texel takes the mean of its painted neighbours, ring by ring; beyond, the
    colours of ever coarser averages, which is what the mip levels blend with.
    """
    filled, known = texture.clone(), covered.clone()
    for _ in range(gutter):
        total, count = _neighbour_sum(filled, known)
        ring = ~known & (count > 0)
        filled[ring] = total[ring] / count[ring][:, None]
        known |= ring
    return torch.where(known[..., None], filled, _pulled(filled, known))


def _neighbour_sum(texture: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the known texels among the eight neighbours and their number."""
    weight = known.to(texture.dtype)[None, None]
    planes = torch.cat([texture.permute(2, 0, 1)[None] * weight, weight], 1)
    total = torch.nn.functional.avg_pool2d(planes, 3, stride=1, padding=1, divisor_override=1)[0]
    # The centre is known nowhere we look, so it adds nothing.
    return total[:-1].permute(1, 2, 0), total[-1].round()


def _pulled(texture: Tensor, known: Tensor) -> Tensor:
    """Unknown texels from the finest average over 2 x 2, 4 x 4, ... blocks that contains a known one."""
    weight = known.to(texture.dtype)[None, None]
    levels = [torch.cat([texture.permute(2, 0, 1)[None] * weight, weight], 1)]
    while max(levels[-1].shape[-2:]) > 1:
        h, w = levels[-1].shape[-2:]
        even = torch.nn.functional.pad(levels[-1], (0, w % 2, 0, h % 2))
        levels.append(torch.nn.functional.avg_pool2d(even, 2))
    below = levels[-1][:, :-1] / levels[-1][:, -1:]
    for level in reversed(levels[:-1]):
        h, w = level.shape[-2:]
        up = below.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :h, :w]
        below = torch.where(level[:, -1:] > 0, level[:, :-1] / level[:, -1:].clamp(min=1e-20), up)
    return below[0].permute(1, 2, 0)
