"""Pictures of meshes with gradients: rasterise, ask for colours, shade, and blend the silhouettes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.ops.antialias import antialias
from threedistill.ops.interpolate import covered, interpolate
from threedistill.ops.rasterize import rasterize
from threedistill.render.shading import shade
from threedistill.types import Cameras, Rendering, Shading

__all__ = ["face_crosses", "render_surface", "vertex_normals"]


def face_crosses(vertices: Float[Tensor, "M 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "F 3"]:
    """Outward normals as long as twice the faces' areas, differentiable in a fixed order of summation."""
    a, b, c = vertices.index_select(0, faces.flatten().long()).view(-1, 3, 3).unbind(1)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Float[Tensor, "M 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "M 3"]:
    """Unit normals of the vertices, the faces' weighted by area; zero where there is none. Differentiable."""
    cross = face_crosses(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.flatten().long(), cross.repeat_interleave(3, 0))
    return F.normalize(total, dim=1)


def render_surface(
    vertices: Float[Tensor, "M 3"],
    faces: Int[Tensor, "F 3"],
    color: Callable[[Tensor, Tensor], Tensor],
    cameras: Cameras,
    background: Float[Tensor, "B 3"],
    *,
    shading: Shading = "none",
    normals: bool = False,
    light: Float[Tensor, "B 3"] | None = None,
    supersample: int = 1,
    neighbours: Int[Tensor, "F 3"] | None = None,
    texture_gradient: bool = False,
    yielding: float = 0.0,
) -> Rendering:
    """Render a triangle mesh; gradients reach its vertices through silhouettes, normals and, if asked, colours.

    Arguments:
        vertices, faces: the mesh, metres, wound counter-clockwise from outside.
        color: sRGB albedo (P, 3) of surface points (P, 3) that the pixels (P,) see, or (P, 5) with metalness and
            roughness for lit pictures; pixels are flat indices (image, row, column) of the supersampled picture.
        cameras: ``B`` cameras.
        background: sRGB.
        shading, light: see :func:`threedistill.render.shading.shade`.
        normals: wanted, although the shading may do without.
        supersample: samples per pixel and axis, averaged, >= 1.
        neighbours: :func:`threedistill.ops.antialias.face_neighbours` where known already.
        texture_gradient: the points whose colours are asked move with the vertices.
        yielding: adds a gradient where there is no outline: as if a surface that retreats by ``1 / yielding`` metres
            let the background through. The picture stays the same. It is how a hole opens; 0 = none.

    Returns:
        the rendering; ``depth`` has no gradient, ``normal`` is there where the shading needs it or it is wanted.
    """
    big = cameras.resized(cameras.height * supersample, cameras.width * supersample)
    size = (len(cameras), big.height, big.width)
    homogeneous = F.pad(vertices, (0, 1), value=1.0)
    clip = torch.einsum("bij,vj->bvi", big.world_to_clip().to(vertices), homogeneous).contiguous()
    fragments = rasterize(clip, faces, big.height, big.width)
    pixels = covered(fragments)
    view = pixels // (big.height * big.width)

    moving = (vertices, clip) if texture_gradient else (vertices.detach(), clip.detach())
    at = interpolate(*moving, faces, fragments, pixels)
    shown = color(at, pixels)
    away = big.c2w.to(at)[view, :3, 3] - at.detach()
    distance = away.norm(dim=1, keepdim=True)
    facts = [distance, torch.ones_like(distance)]
    if normals or shading != "none":
        # Without shading nothing that is optimised depends on them.
        corners = vertices if shading != "none" else vertices.detach()
        smooth = vertex_normals(corners, faces)
        normal = F.normalize(interpolate(smooth, clip, faces, fragments, pixels), dim=1)
        facts.append(normal)
    if shading != "none":
        towards = None if light is None else light.to(at)[view]
        material = shown[:, 3:] if shown.shape[1] == 5 else None
        shown = shade(shown[:, :3], normal, away / distance, shading, towards, material)

    background = background.to(at)
    if yielding and vertices.requires_grad:
        with torch.no_grad():
            outward = interpolate(vertex_normals(vertices, faces), clip, faces, fragments, pixels)
        place = interpolate(vertices, clip.detach(), faces, fragments, pixels)
        # Of value 0; its gradient moves the surface out where the object's colour is wanted more than what is behind.
        advance = (F.normalize(outward, dim=1) * (place - place.detach())).sum(1, keepdim=True)
        cover = torch.cat([(shown - background[view]).detach(), torch.ones_like(advance)], 1)
        front = F.pad(shown, (0, 1), value=1.0) + yielding * advance * cover
    else:
        front = F.pad(shown, (0, 1), value=1.0)
    behind = F.pad(background[:, None, None].expand(*size, 3), (0, 1)).reshape(-1, 4)
    picture = behind.index_copy(0, pixels, front).view(*size, 4)
    picture = antialias(picture, clip, faces, fragments, neighbours)
    rows = torch.cat(facts, 1)
    sharp = rows.new_zeros(behind.shape[0], rows.shape[1]).index_copy(0, pixels, rows).view(*size, -1)
    if supersample > 1:
        picture, sharp = (
            F.avg_pool2d(x.permute(0, 3, 1, 2), supersample).permute(0, 2, 3, 1) for x in (picture, sharp)
        )
    return Rendering(
        rgb=picture[..., :3].clamp(0, 1),
        opacity=picture[..., 3:].clamp(0, 1),
        depth=sharp[..., :1] / sharp[..., 1:2].clamp_min(1e-6),
        background=background,
        normal=F.normalize(sharp[..., 2:], dim=-1) if sharp.shape[-1] > 2 else None,
    )
