"""From a representation to an asset on disk: the order of the steps and the settings that steer them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from threedistill.errors import UsageError, nearest
from threedistill.exports import surface
from threedistill.exports.bake import bake, color_at
from threedistill.exports.glb import write_glb
from threedistill.exports.obj import write_obj
from threedistill.exports.ply import write_ply
from threedistill.exports.stl import write_stl
from threedistill.exports.unwrap import unwrap
from threedistill.exports.video import write_sheet, write_turntable
from threedistill.types import Mesh

__all__ = ["FORMATS", "ExportSettings", "Format", "build_asset", "export_asset", "write_mesh"]

Format = Literal["glb", "obj", "ply", "stl"]
FORMATS: tuple[Format, ...] = ("glb", "obj", "ply", "stl")


class Exportable(Protocol):
    """The part of :class:`~threedistill.protocols.Representation` that export asks."""

    def extract(self, resolution: int) -> Mesh: ...

    def surface_color(self, points: Tensor, normals: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ExportSettings:
    """How an asset is made and written.

    Arguments:
        resolution: samples per axis when the surface is extracted.
        faces: triangles at most.
        texture_size: texels a side, a power of two; 0 keeps vertex colours instead of a texture.
        smooth_iterations: Taubin iterations on the extracted surface; 0 leaves its staircase.
        keep_fraction: components with less than this fraction of the largest one's area are dropped.
        gutter: texels between charts, filled with the charts' colours.
        unit_size: longest side, metres.
        origin: at the centre of the bounding box, or of its base.
        up: the axis that points up in OBJ, PLY and STL; GLB is +Y up by definition.
        stl_size: longest side in STL files, millimetres.
        formats: what is written.
        unlit: the colours contain their light: viewers show them as they are (``KHR_materials_unlit``).
        unwrap_max_faces, unwrap_max_charts: beyond either, a box projection replaces xatlas.
        turntable_frames: frames of ``turntable.webp``; 0 writes none.
        preview_size: pixels a side of turntable frames and sheet cells.
    """

    resolution: int = 160
    faces: int = 10_000
    texture_size: int = 512
    smooth_iterations: int = 10
    keep_fraction: float = 0.05
    gutter: int = 4
    unit_size: float = 1.0
    origin: surface.Origin = "center"
    up: Literal["y", "z"] = "y"
    stl_size: float = 100.0
    formats: tuple[Format, ...] = ("glb",)
    unlit: bool = True
    unwrap_max_faces: int = 30_000
    unwrap_max_charts: int = 2_000
    turntable_frames: int = 24
    preview_size: int = 256

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "resolution": (8, 1024), "faces": (12, 10_000_000), "smooth_iterations": (0, 1000),
            "keep_fraction": (0, 1), "gutter": (1, 64), "unit_size": (1e-4, 1e4), "stl_size": (1e-2, 1e5),
            "unwrap_max_faces": (0, 10_000_000), "unwrap_max_charts": (0, 10_000_000),
            "turntable_frames": (0, 1000), "preview_size": (16, 4096),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"export.{name}={value} must lie in [{low:g}, {high:g}]")
        size = self.texture_size
        if size and not (16 <= size <= 8192 and size & (size - 1) == 0):
            raise ValueError(
                f"export.texture_size={size} must be a power of two in [16, 8192], or 0 for vertex colours"
            )
        if self.origin not in ("center", "base"):
            raise ValueError(f"export.origin={self.origin!r} must be center or base")
        if self.up not in ("y", "z"):
            raise ValueError(f"export.up={self.up!r} must be y or z")
        if not self.formats:
            raise ValueError(f"export.formats is empty: name at least one of {', '.join(FORMATS)}")
        unknown = [f for f in self.formats if f not in FORMATS]
        if unknown:
            raise ValueError(f"export.formats: no format {unknown[0]!r} (there are {', '.join(FORMATS)})")


def build_asset(
    representation: Exportable, settings: ExportSettings, extras: Mapping[str, object] | None = None
) -> Mesh:  # fmt: skip
    """Extract, clean, smooth, decimate, unwrap, bake and normalise, in this order.

    Colours are asked from the field at the cleaned surface, in the field's own frame, and only then is the asset
    brought to size. The mesh carries vertex colours for the formats without textures.

    Arguments:
        representation: what was optimised.
        settings: see :class:`ExportSettings`.
        extras: facts that travel with the asset (prompt, seed, prior, licences).

    Raises:
        ThreedistillError: nothing to extract, or values that are not finite.
    """
    mesh, device = _surface(representation, settings)
    mesh = replace(mesh, normals=surface.vertex_normals(mesh.vertices, mesh.faces), extras=dict(extras or {}))

    def color(points: Tensor, normals: Tensor) -> Tensor:
        return representation.surface_color(points.to(device), normals.to(device))

    assert mesh.normals is not None
    mesh.colors = color_at(color, mesh.vertices, mesh.normals)
    if settings.texture_size:
        unwrapped = unwrap(
            mesh,
            settings.texture_size,
            settings.gutter,
            settings.unwrap_max_faces,
            settings.unwrap_max_charts,
        )
        mesh, _ = bake(unwrapped.mesh, color, settings.texture_size, settings.gutter)
        mesh.extras["texture layout"] = f"{unwrapped.method}, {unwrapped.charts} charts"
    return surface.normalise(mesh, settings.unit_size, settings.origin)


def _surface(representation: Exportable, settings: ExportSettings) -> tuple[Mesh, torch.device]:
    """The cleaned surface within the face budget, on the CPU, and the device it came from.

    Where collapsing edges tears the surface, a coarser extraction that meets the budget by itself replaces it.
    """
    resolution = settings.resolution
    found: Mesh | None = None
    while True:
        with torch.no_grad():
            raw = representation.extract(resolution)
        device = raw.vertices.device
        dense = Mesh(raw.vertices.detach().cpu().float(), raw.faces.cpu().long())
        surface.check(dense, "extraction")
        dense = surface.keep_components(dense, settings.keep_fraction)
        mesh = surface.decimate(surface.smooth(dense, settings.smooth_iterations), settings.faces)
        surface.check(mesh, "decimation")
        found = found or mesh
        closed = surface.is_watertight(dense.faces)
        if not closed or surface.is_watertight(mesh.faces):
            return mesh, device
        # A surface has about resolution^2 faces.
        coarser = int(resolution * min(0.97 * math.sqrt(settings.faces / len(dense.faces)), 0.9))
        if coarser < 8:
            return found, device
        resolution = coarser


def write_mesh(mesh: Mesh, path: Path | str, settings: ExportSettings | None = None) -> None:
    """Write one file (OBJ: with its MTL and PNG) in the format its suffix names, whole or not at all.

    Raises:
        UsageError: a suffix that is no format.
        ThreedistillError: an empty or non-finite mesh, or a place that cannot be written.
    """
    settings = settings or ExportSettings()
    path = Path(path)
    suffix = path.suffix.lower()[1:]
    if suffix not in FORMATS:
        close = nearest(suffix, FORMATS, 1)
        hint = f"did you mean .{close[0]}? " if close else ""
        raise UsageError(f"cannot write {path}: {hint}a mesh is written as {', '.join(FORMATS)}")
    surface.check(mesh, f"cannot write {path}")
    if mesh.normals is None:
        mesh = replace(mesh, normals=surface.vertex_normals(mesh.vertices, mesh.faces))
    if suffix == "glb":
        write_glb(mesh, path, settings.unlit)
    elif suffix == "obj":
        write_obj(surface.placed(mesh, settings.up), path, settings.unlit, settings.up)
    elif suffix == "ply":
        write_ply(surface.placed(surface.welded(_with_vertex_colors(mesh)), settings.up), path, settings.up)
    else:
        longest = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
        write_stl(surface.placed(mesh, settings.up, settings.stl_size / longest), path, settings.up)


def _with_vertex_colors(mesh: Mesh) -> Mesh:
    """The mesh with its texture's colours at its vertices where it has no others."""
    from threedistill.render.mesh import sample_texture

    if mesh.colors is not None or mesh.texture is None or mesh.uv is None:
        return mesh
    return replace(mesh, colors=sample_texture(mesh.texture, mesh.uv))


def export_asset(
    mesh: Mesh, folder: Path | str, settings: ExportSettings, stem: str = "model"
) -> list[Path]:  # fmt: skip
    """Write every format, ``turntable.webp`` and ``sheet.png`` into a folder; the paths, meshes first."""
    folder = Path(folder)
    written = []
    for suffix in settings.formats:
        written.append(folder / f"{stem}.{suffix}")
        write_mesh(mesh, written[-1], settings)
    if settings.turntable_frames:
        written.append(folder / "turntable.webp")
        write_turntable(
            mesh, written[-1], settings.turntable_frames, settings.preview_size, unlit=settings.unlit
        )
        written.append(folder / "sheet.png")
        write_sheet(mesh, written[-1], size=settings.preview_size, unlit=settings.unlit)
    return written
