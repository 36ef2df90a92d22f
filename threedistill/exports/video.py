"""Pictures of an asset: a turntable that loops, and a contact sheet with normals and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.atomic import replacing, write_bytes
from threedistill.cameras import orbit
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.files import png_bytes, to_bytes
from threedistill.exports.frames import Frame
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh

__all__ = [
    "Pass",
    "need_encoder",
    "render_orbit",
    "write_film",
    "write_sheet",
    "write_still",
    "write_turntable",
]

#: What a picture shows: colours as they are, colours lit by a headlight, world normals, depth.
Pass = Literal["color", "lit", "normal", "depth"]
_SUFFIXES = (".webp", ".gif", ".mp4")


def render_orbit(
    mesh: Mesh, views: int, size: int, show: Pass = "color", elevation: float = 15.0
) -> Float[Tensor, "B H W 3"]:
    """``views`` pictures around the mesh on white, starting at its front, the mesh filling the frame.

    A texture wins over vertex colours, as in the formats that hold only one. Depth is white at the near side of
    the ball around the mesh, dark at its far side, and black beyond.
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
    shading: Any = {"color": "none", "lit": "lambertian", "normal": "normal", "depth": "none"}[show]
    pictures = []
    for view in range(views):  # one by one: bounded memory at any size
        seen = render_mesh(shown, cameras[view : view + 1], shading=shading)
        if show == "depth":
            near = cameras.distance[view] - 1
            grey = (1 - 0.45 * (seen.depth - near)).clamp(0.1, 1) * seen.opacity
            pictures.append(grey.expand(-1, -1, -1, 3))
        else:
            pictures.append(seen.rgb)
    return torch.cat(pictures)


def write_film(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """:func:`write_turntable` with the settings of an export."""
    write_turntable(
        mesh, path, settings.turntable_frames or 24, settings.preview_size, unlit=settings.unlit,
        passes=settings.turntable_passes,
    )  # fmt: skip


def write_still(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """:func:`write_sheet` with the settings of an export."""
    write_sheet(mesh, path, size=settings.preview_size, unlit=settings.unlit)


def write_turntable(
    mesh: Mesh,
    path: Path | str,
    frames: int = 24,
    size: int = 256,
    fps: float = 12.0,
    unlit: bool = True,
    passes: Sequence[Pass] = ("color",),
) -> None:
    """One turn as an animated WebP, GIF or MP4 (that needs the extra ``video``), by the path's suffix.

    Arguments:
        mesh: the asset.
        path: where.
        frames, size, fps: of the film; MP4 needs even sides, an odd one gains a white row and column.
        unlit: whether ``color`` is shown as it is or lit.
        passes: what is shown side by side.

    Raises:
        UsageError: another suffix, or MP4 without its encoder.
        ThreedistillError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"cannot write {path}: a turntable is .webp, .gif or .mp4")
    if suffix == ".mp4":
        need_encoder(path)
    shown = ["lit" if p == "color" and not unlit else p for p in passes]
    columns = [render_orbit(mesh, frames, size, p) for p in shown]  # type: ignore[arg-type]
    pictures = to_bytes(torch.cat(columns, dim=2)).numpy()
    with replacing(path) as temporary:
        if suffix == ".mp4":
            _write_mp4(temporary, pictures, fps, path)
        else:
            from PIL import Image

            first, *rest = [Image.fromarray(p) for p in pictures]
            options: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}
            options["duration"] = round(1000 / fps)
            if suffix == ".webp":
                first.save(temporary, "WEBP", quality=85, method=2, **options)
            else:
                first.save(temporary, "GIF", **options)


def need_encoder(path: Path | str) -> None:
    """Raise UsageError where MP4 cannot be written."""
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise UsageError(
            f"cannot write {path}: mp4 needs an encoder; pip install 'threedistill[video]' or use .webp"
        ) from None


def _write_mp4(temporary: Path, pictures: Any, fps: float, path: Path) -> None:
    import imageio_ffmpeg
    import numpy as np

    odd = [(0, side % 2) for side in pictures.shape[1:3]]
    pictures = np.pad(pictures, [(0, 0), *odd, (0, 0)], constant_values=255)
    try:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (pictures.shape[2], pictures.shape[1]), fps=fps,  # pyright: ignore[reportArgumentType]
            codec="libx264", quality=None, macro_block_size=1,  # pyright: ignore[reportArgumentType]
            output_params=["-crf", "18", "-movflags", "+faststart", "-fflags", "+bitexact"],
        )  # fmt: skip
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture).tobytes())
        writer.close()
    except (OSError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:120]
        raise ThreedistillError(f"cannot encode {path}: {text}; use .webp") from error


def write_sheet(mesh: Mesh, path: Path | str, views: int = 8, size: int = 256, unlit: bool = True) -> None:
    """A PNG with ``views`` columns from the front round by +X; rows of colours, world normals and depth."""
    rows = [
        torch.cat(list(render_orbit(mesh, views, size, show)), dim=1)
        for show in (("color" if unlit else "lit"), "normal", "depth")
    ]  # fmt: skip
    write_bytes(Path(path), png_bytes(torch.cat(rows, dim=0)))
