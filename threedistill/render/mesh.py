"""Pictures of meshes: rasterise, interpolate, shade, and average down. No gradients.

Used for the Toybox world (ground truth), for turntables and for evaluating reopened assets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from threedistill.ops.rasterize import rasterize
from threedistill.render.shading import linear_to_srgb, shade, srgb_to_linear
from threedistill.types import Cameras, Mesh, Rendering, Shading, Wrap

__all__ = ["face_normals", "picture_at", "render_mesh", "sample_texture"]


def face_normals(mesh: Mesh) -> Float[Tensor, "F 3"]:
    """Unit normals of the faces (counter-clockwise from outside); zero for degenerate faces."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)


@torch.no_grad()
def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    *,
    shading: Shading = "none",
    background: Tensor | None = None,
    supersample: int = 2,
    light: Tensor | None = None,
) -> Rendering:
    """Render a mesh with vertex colours or a texture (white without either), and its material where it is lit.

    Vertex normals are interpolated where the mesh has them, else faces are flat. Emission is added to what is seen.
    Colours are averaged over ``supersample`` x ``supersample`` samples per pixel in sRGB, weighted by coverage.
    Everything is opaque.

    Arguments:
        mesh: what to draw; both sides of its faces are drawn, normals are turned towards the camera.
        cameras: ``B`` cameras.
        shading: see :func:`threedistill.render.shading.shade`.
        background: (B, 3) or (3,) sRGB; None is white.
        supersample: samples per pixel and axis, >= 1.
        light: (B, 3) unit directions towards the light; None is a headlight.

    Returns:
        the rendering; ``depth`` is the distance along the ray, averaged over the covered samples.
    """
    views, height, width = len(cameras), cameras.height * supersample, cameras.width * supersample
    big = cameras.resized(height, width)
    device, dtype = mesh.vertices.device, mesh.vertices.dtype
    homogeneous = F.pad(mesh.vertices, (0, 1), value=1.0)
    clip = torch.einsum("bij,vj->bvi", big.world_to_clip().to(homogeneous), homogeneous)
    fragments = rasterize(clip.contiguous(), mesh.faces, height, width)
    index = (fragments.triangle.reshape(-1) >= 0).nonzero(as_tuple=True)[0]
    triangle = fragments.triangle.reshape(-1)[index].long()
    weights = fragments.barycentric.reshape(-1, 3)[index].to(dtype)
    view = index // (height * width)
    corner = mesh.faces[triangle].long()

    def interpolate(values: Tensor) -> Tensor:
        return (values[corner] * weights[..., None]).sum(1)

    if mesh.colors is not None:
        albedo = interpolate(mesh.colors)
    elif mesh.texture is not None and mesh.uv is not None:
        albedo = picture_at(mesh, mesh.texture, interpolate)
    else:
        albedo = torch.ones(len(index), 3, device=device, dtype=dtype)
    to_camera = cameras.c2w.to(mesh.vertices)[view, :3, 3] - interpolate(mesh.vertices)
    distance = to_camera.norm(dim=-1, keepdim=True)
    to_camera = to_camera / distance.clamp(min=1e-9)
    normal = (
        F.normalize(interpolate(mesh.normals), dim=-1)
        if mesh.normals is not None
        else face_normals(mesh)[triangle]
    )
    normal = (
        torch.where((normal * to_camera).sum(-1, keepdim=True) < 0, -normal, normal)
        if mesh.normals is None
        else normal
    )
    material = None
    if shading == "lambertian" and mesh.metallic_roughness is not None:
        material = picture_at(mesh, mesh.metallic_roughness, interpolate)
    elif shading == "lambertian" and mesh.vertex_material is not None:
        material = interpolate(mesh.vertex_material)
    towards = None if light is None else light.to(normal)[view]
    color = shade(albedo, normal, to_camera, shading, towards, material)
    if mesh.emission is not None and shading in ("none", "lambertian"):
        given_off = srgb_to_linear(picture_at(mesh, mesh.emission, interpolate))
        color = linear_to_srgb((srgb_to_linear(color) + given_off).clamp(0, 1))

    packed = torch.zeros(views * height * width, 8, device=device, dtype=dtype)
    packed[index] = torch.cat([color, normal, distance, torch.ones_like(distance)], -1)
    image = packed.view(views, height, width, 8)
    if supersample > 1:
        image = F.avg_pool2d(image.permute(0, 3, 1, 2), supersample).permute(0, 2, 3, 1)
    opacity = image[..., 7:8]
    if background is None:
        background = torch.ones(views, 3, device=device, dtype=dtype)
    background = background.to(image).expand(views, 3)
    rgb = image[..., :3] + (1 - opacity) * background[:, None, None]
    return Rendering(
        rgb=rgb.clamp(0, 1), opacity=opacity, depth=image[..., 6:7] / opacity.clamp(min=1e-6),
        background=background, normal=F.normalize(image[..., 3:6], dim=-1),
    )  # fmt: skip


def picture_at(mesh: Mesh, picture: Tensor, interpolate: Callable[[Tensor], Tensor]) -> Float[Tensor, "P C"]:
    """Values of one of a mesh's pictures at points of its surface.

    Arguments:
        mesh: the mesh; only a picture of one texel needs no ``uv``.
        picture: (h, w, C).
        interpolate: values at the vertices (N, k) to values at the points (P, k).
    """
    if mesh.uv is not None:
        return sample_texture(picture, interpolate(mesh.uv), mesh.wrap)
    if picture.shape[:2] != (1, 1):
        raise ValueError("a picture of more than one texel needs texture coordinates")
    return picture.reshape(1, -1).to(mesh.vertices).expand(len(interpolate(mesh.vertices)), -1)


def sample_texture(
    texture: Float[Tensor, "h w C"] | UInt8[Tensor, "h w C"], uv: Float[Tensor, "P 2"],
    wrap: tuple[Wrap, Wrap] = ("clamp", "clamp"),
) -> Float[Tensor, "P C"]:  # fmt: skip
    """Bilinear lookups; uv origin at the bottom left, texel centres at half integers.

    Arguments:
        texture: the picture, row 0 at the top; bytes are read as they are.
        uv: any coordinates.
        wrap: what lies beyond the unit square along u and v: the picture again, its mirror image, or its border.
    """
    if wrap == ("clamp", "clamp") and texture.is_floating_point():
        image = texture.to(uv)
        grid = torch.stack([uv[:, 0] * 2 - 1, 1 - uv[:, 1] * 2], -1)[None, None]
        sampled = F.grid_sample(
            image.permute(2, 0, 1)[None], grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        return sampled[0, :, 0].T
    height, width = texture.shape[:2]
    x0, x1, fx = _neighbours(uv[:, 0], width, wrap[0])
    y0, y1, fy = _neighbours(1 - uv[:, 1], height, wrap[1])
    upper, lower = (torch.lerp(texture[y, x0].to(uv), texture[y, x1].to(uv), fx) for y in (y0, y1))
    return torch.lerp(upper, lower, fy)


def _neighbours(coordinate: Tensor, size: int, wrap: Wrap) -> tuple[Tensor, Tensor, Tensor]:
    """The two texels around a coordinate in pictures, and how far it is from the first to the second."""
    # Whole periods go first: far from zero a float has no fraction left.
    period = {"repeat": 1.0, "mirror": 2.0, "clamp": None}[wrap]
    within = (
        coordinate.clamp(-1, 2) if period is None else coordinate - (coordinate / period).floor() * period
    )
    place = within * size - 0.5
    first = place.floor()
    index = torch.stack([first, first + 1]).nan_to_num().long()
    if wrap == "repeat":
        index = index % size
    elif wrap == "mirror":
        index = index % (2 * size)
        index = torch.where(index < size, index, 2 * size - 1 - index)
    else:
        index = index.clamp(0, size - 1)
    return index[0], index[1], (place - first)[:, None]
