"""Pictures of an asset: a turntable that loops and a contact sheet with a row of normals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.atomic import replacing, write_bytes
from threedistill.cameras import orbit
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.files import png_bytes, to_bytes
from threedistill.types import Mesh, Shading

__all__ = ["render_orbit", "write_sheet", "write_turntable"]


def render_orbit(
    mesh: Mesh, views: int, size: int, shading: Shading, elevation: float = 15.0
) -> Float[Tensor, "B H W 3"]:
    """``views`` pictures around the mesh on white, starting at its front, the mesh filling the frame.

    A texture wins over vertex colours, as in the formats that hold only one.
    """
    from threedistill.render.mesh import render_mesh

    middle = (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
    centred = mesh.vertices - middle
    shown = replace(
        mesh,
        vertices=(centred / centred.norm(dim=1).max().clamp(min=1e-9)).float(),
        colors=mesh.colors if mesh.texture is None else None,
    )
    cameras = orbit(views, elevation=elevation, size=size)
    pictures = [
        render_mesh(shown, cameras[view : view + 1], shading=shading).rgb for view in range(views)
    ]  # one by one: bounded memory at any size
    return torch.cat(pictures)


def write_turntable(
    mesh: Mesh, path: Path | str, frames: int = 24, size: int = 256, fps: float = 12.0, unlit: bool = True
) -> None:
    """One turn as an animated WebP, or as MP4 by the path's suffix (that needs the extra ``video``).

    Raises:
        UsageError: another suffix, or MP4 without its encoder.
        ThreedistillError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".webp", ".mp4"):
        raise UsageError(f"cannot write {path}: a turntable is .webp or .mp4")
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise UsageError(
                f"cannot write {path}: mp4 needs an encoder; pip install 'threedistill[video]' or use .webp"
            ) from None
    pictures = to_bytes(render_orbit(mesh, frames, size, "none" if unlit else "lambertian")).numpy()
    with replacing(path) as temporary:
        if suffix == ".mp4":
            import imageio.v3 as imageio

            try:
                imageio.imwrite(temporary, pictures, plugin="pyav", codec="libx264", fps=fps)
            except (ValueError, RuntimeError) as error:
                raise ThreedistillError(f"cannot encode {path}: {error}; use .webp") from error
        else:
            from PIL import Image

            first, *rest = [Image.fromarray(p) for p in pictures]
            first.save(
                temporary, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0,
                quality=85, method=2,
            )  # fmt: skip


def write_sheet(mesh: Mesh, path: Path | str, views: int = 8, size: int = 256, unlit: bool = True) -> None:
    """A PNG with ``views`` columns from the front round by +X: colours above, world normals below."""
    rows = [
        torch.cat(list(render_orbit(mesh, views, size, shading)), dim=1)
        for shading in ("none" if unlit else "lambertian", "normal")
    ]
    write_bytes(Path(path), png_bytes(torch.cat(rows, dim=0)))
