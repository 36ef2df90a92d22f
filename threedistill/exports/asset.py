"""From a representation to an asset on disk: the order of the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from threedistill.errors import UsageError, nearest
from threedistill.exports import surface
from threedistill.exports.bake import bake, bake_values, color_at, painted
from threedistill.exports.formats import FILMS, FORMATS, MESHES, SPLATS, Format, file_of
from threedistill.exports.glb import write_glb
from threedistill.exports.obj import write_obj
from threedistill.exports.pictures import glowing, with_vertex_colors
from threedistill.exports.ply import write_ply
from threedistill.exports.settings import ExportSettings
from threedistill.exports.splat_cloud import moved
from threedistill.exports.splats import write_splats
from threedistill.exports.stl import write_stl
from threedistill.exports.unwrap import unwrap
from threedistill.exports.usd import write_usdz
from threedistill.exports.video import need_encoder, write_sheet, write_turntable
from threedistill.types import Mesh, Splats

__all__ = [
    "FORMATS", "ExportSettings", "Format", "build_asset", "export_asset", "placed_splats", "put_back", "refuse_splats",
    "write_format", "write_mesh",
]  # fmt: skip


class Exportable(Protocol):
    """The part of :class:`~threedistill.protocols.Representation` that export asks."""

    def extract(self, resolution: int) -> Mesh: ...

    def surface_color(self, points: Tensor, normals: Tensor) -> Tensor: ...


@runtime_checkable
class HasMaterial(Protocol):
    """A representation that knows more of its surface than its colour."""

    def surface_material(self, points: Tensor, normals: Tensor) -> Tensor | None:
        """(N, 2) metalness and roughness in [0, 1] at surface points, for baking; None where it has none."""
        ...


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
    mesh, fine, device = _surface(representation, settings)
    mesh = replace(mesh, normals=surface.vertex_normals(mesh.vertices, mesh.faces), extras=dict(extras or {}))

    def color(points: Tensor, normals: Tensor) -> Tensor:
        return representation.surface_color(points.to(device), normals.to(device))

    assert mesh.normals is not None
    mesh.colors = color_at(color, mesh.vertices, mesh.normals)
    if settings.texture_size:
        size, gutter = settings.texture_size, settings.gutter
        unwrapped = unwrap(mesh, size, gutter, settings.unwrap_max_faces, settings.unwrap_max_charts)
        mesh, _ = bake(unwrapped.mesh, color, size, gutter)
        charts = f", {unwrapped.charts} charts" if unwrapped.charts else ""
        mesh.extras["texture layout"] = f"{unwrapped.method}{charts}"
        if isinstance(representation, HasMaterial):
            known = representation.surface_material
            texels = painted(mesh, size)
            if known(texels.points[:1].to(device), texels.normals[:1].to(device)) is not None:

                def material(points: Tensor, normals: Tensor) -> Tensor:
                    found = known(points.to(device), normals.to(device))
                    assert found is not None
                    return found

                mesh.metallic_roughness = bake_values(texels, material, size, 2, gutter)
        if settings.normal_map:
            from threedistill.exports.normal_map import bake_normals

            mesh = bake_normals(mesh, fine, size, gutter)
    middle, scale = surface.frame(mesh, settings.unit_size, settings.origin)
    mesh.extras["frame"] = {"origin": [float(v) for v in middle], "scale": scale}
    return surface.normalise(mesh, settings.unit_size, settings.origin)


def placed_splats(splats: Splats, mesh: Mesh) -> Splats:
    """A representation's splats, on the CPU, where :func:`build_asset` put its mesh, with the same facts."""
    frame = mesh.extras["frame"]
    assert isinstance(frame, dict)
    with torch.no_grad():
        held = Splats(
            splats.means.cpu(), splats.log_scales.cpu(), splats.quaternions.cpu(), splats.opacity_logits.cpu(),
            splats.sh.cpu(), {k: v for k, v in mesh.extras.items() if k != "texture layout"},
        )  # fmt: skip
        return moved(held, torch.tensor(frame["origin"]), float(frame["scale"]))


def put_back(mesh: Mesh) -> Mesh:
    """The mesh of :func:`build_asset` where it came from, at its old size."""
    frame = mesh.extras["frame"]
    assert isinstance(frame, dict)
    kept = {k: v for k, v in mesh.extras.items() if k != "frame"}
    vertices = mesh.vertices / float(frame["scale"]) + torch.tensor(frame["origin"])
    return replace(mesh, vertices=vertices, extras=kept)


def _surface(representation: Exportable, settings: ExportSettings) -> tuple[Mesh, Mesh, torch.device]:
    """The cleaned surface within the face budget and its fine self, on the CPU, and the device they came from.

    Where collapsing edges tears the surface, a coarser extraction that meets the budget by itself replaces it. A
    surface with texture coordinates of its own is the user's: within the budget it is left as it is.
    """
    resolution = settings.resolution
    found: Mesh | None = None
    finest: Mesh | None = None
    while True:
        with torch.no_grad():
            raw = representation.extract(resolution)
        device = raw.vertices.device
        own = raw.uv is not None and len(raw.faces) <= settings.faces
        dense = Mesh(
            raw.vertices.detach().cpu().float(), raw.faces.cpu().long(),
            uv=raw.uv.detach().cpu().float() if own and raw.uv is not None else None,
        )  # fmt: skip
        surface.check(dense, "extraction")
        if own:
            return dense, dense, device
        if settings.keep_fraction:
            dense = surface.keep_components(dense, settings.keep_fraction)
        dense = surface.smooth(dense, settings.smooth_iterations)
        finest = finest or dense
        mesh = surface.decimate(dense, settings.faces)
        surface.check(mesh, "decimation")
        found = found or mesh
        closed = surface.is_watertight(dense.faces)
        if not closed or surface.is_watertight(mesh.faces):
            return mesh, finest, device
        # A surface has about resolution^2 faces.
        coarser = int(resolution * min(0.97 * math.sqrt(settings.faces / len(dense.faces)), 0.9))
        if coarser < 8:
            return found, finest, device
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
    if suffix not in MESHES:
        close = nearest(suffix, MESHES, 1)
        hint = f"did you mean .{close[0]}? " if close else ""
        raise UsageError(f"cannot write {path}: {hint}a mesh is written as {', '.join(MESHES)}")
    surface.check(mesh, f"cannot write {path}")
    if mesh.normals is None:
        mesh = replace(mesh, normals=surface.vertex_normals(mesh.vertices, mesh.faces))
    if settings.unlit:  # what is shown unlit has one colour
        mesh = glowing(mesh)
    if suffix == "glb":
        write_glb(mesh, path, settings.unlit)
    elif suffix == "obj":
        write_obj(surface.placed(mesh, settings.up), path, settings.unlit, settings.up)
    elif suffix == "ply":
        write_ply(
            surface.placed(surface.welded(with_vertex_colors(glowing(mesh))), settings.up), path, settings.up
        )
    elif suffix == "usdz":
        write_usdz(surface.placed(mesh, settings.up), path, settings.unlit, settings.up)
    else:
        longest = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
        write_stl(surface.placed(mesh, settings.up, settings.stl_size / longest), path, settings.up)


def export_asset(
    mesh: Mesh, folder: Path | str, settings: ExportSettings, splats: Splats | None = None
) -> list[Path]:  # fmt: skip
    """Write every format, ``turntable.webp`` and ``sheet.png`` into a folder; the paths, meshes first.

    Arguments:
        mesh: the asset.
        folder: where.
        settings: the formats and how they are written.
        splats: the same asset as splats, in the mesh's frame.

    Raises:
        UsageError: a splat format without splats, or mp4 without its encoder.
        ThreedistillError: a place that cannot be written.
    """
    folder = Path(folder)
    formats = list(settings.formats)
    if splats is None:
        refuse_splats(formats)
    films = [name for name in formats if name in FILMS]
    if settings.turntable_frames:
        films = list(dict.fromkeys([*films, "webp", "sheet"]))
    if "mp4" in films:
        need_encoder(folder / file_of("mp4"))
    ordered = [n for n in formats if n in MESHES] + [n for n in formats if n in SPLATS] + films
    return [write_format(name, mesh, splats, folder / file_of(name), settings) for name in ordered]


def refuse_splats(formats: Sequence[str]) -> None:
    """Raise UsageError if any of the formats holds splats."""
    wanted = [name for name in formats if name in SPLATS]
    if wanted:
        raise UsageError(f"--format {wanted[0]}: there are no splats to write")


def write_format(
    name: str, mesh: Mesh | None, splats: Splats | None, path: Path, settings: ExportSettings
) -> Path:
    """Write one format of :data:`FORMATS`; returns the path."""
    if name in SPLATS:
        assert splats is not None
        write_splats(splats, path, settings.splats())
        return path
    assert mesh is not None
    if name in MESHES:
        write_mesh(mesh, path, settings)
    elif name == "sheet":
        write_sheet(mesh, path, size=settings.preview_size, unlit=settings.unlit)
    else:
        write_turntable(
            mesh, path, settings.turntable_frames or 24, settings.preview_size, unlit=settings.unlit,
            passes=settings.turntable_passes,
        )  # fmt: skip
    return path
