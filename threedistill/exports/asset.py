"""From a representation to an asset on disk: the order of the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from threedistill.exports.formats import file_of, of_kind
from threedistill.exports.meshes import surface
from threedistill.exports.meshes.bake import Texels, bake, bake_values, color_at
from threedistill.exports.meshes.nearest import NearestSurface
from threedistill.exports.meshes.normal_map import bake_normals
from threedistill.exports.meshes.unwrap import unwrap
from threedistill.exports.progress import step
from threedistill.exports.settings import AssetSettings, ExportSettings, FileSettings
from threedistill.exports.splats.cloud import moved
from threedistill.exports.video import need_encoder
from threedistill.exports.write import refuse_splats, write_format, write_mesh
from threedistill.protocols import Surface
from threedistill.types import Mesh, Splats

__all__ = [
    "AssetSettings", "ExportSettings", "FileSettings", "build_asset", "export_asset",
    "placed_splats", "put_back", "write_mesh",
]  # fmt: skip


def build_asset(
    representation: Surface, settings: AssetSettings, extras: Mapping[str, object] | None = None
) -> Mesh:  # fmt: skip
    """Extract, clean, smooth, decimate, unwrap, bake and normalise, in this order.

    Colours are asked from the field at the cleaned surface, in the field's own frame, and only then is the asset
    brought to size. The mesh carries vertex colours for the formats without textures.

    Arguments:
        representation: what was optimised.
        settings: see :class:`AssetSettings`.
        extras: facts that travel with the asset (prompt, seed, prior, licences).

    Raises:
        ThreedistillError: nothing to extract, or values that are not finite.
    """
    with step("extracting the surface"):
        mesh, fine, device = _surface(representation, settings)
    mesh = replace(mesh, normals=surface.vertex_normals(mesh.vertices, mesh.faces), extras=dict(extras or {}))

    def color(points: Tensor, normals: Tensor) -> Tensor:
        return representation.surface_color(points.to(device), normals.to(device))

    assert mesh.normals is not None
    mesh.colors = color_at(color, mesh.vertices, mesh.normals)
    if settings.texture_size:
        size, gutter = settings.texture_size, settings.gutter
        with step("laying out the texture"):
            unwrapped = unwrap(mesh, size, gutter, settings.unwrap_max_faces, settings.unwrap_max_charts)
        with step("painting the texture"):
            mesh, texels = bake(unwrapped.mesh, color, size, gutter)
        charts = f", {unwrapped.charts} charts" if unwrapped.charts else ""
        mesh.extras["texture layout"] = f"{unwrapped.method}{charts}"
        mesh = _with_pictures(mesh, texels, representation, size, gutter, device)
        relief = _relief(mesh, representation, fine if settings.normal_map else None, device)
        if relief is not None:
            with step("painting the normal map"):
                mesh = bake_normals(mesh, relief, size, gutter, texels)
    middle, scale = surface.frame(mesh, settings.unit_size, settings.origin)
    mesh.extras["frame"] = {"origin": [float(v) for v in middle], "scale": scale}
    return surface.normalise(mesh, settings.unit_size, settings.origin)


def _with_pictures(
    mesh: Mesh, texels: Texels, representation: Surface, size: int, gutter: int, device: torch.device
) -> Mesh:
    """The mesh with a picture of everything that the representation knows of its surface besides the colour."""

    def baked(known: Callable[[Tensor, Tensor], Tensor | None], channels: int, most: float) -> Tensor:
        def answer(points: Tensor, normals: Tensor) -> Tensor:
            found = known(points.to(device), normals.to(device))
            assert found is not None
            return found

        return bake_values(texels, answer, size, channels, gutter, most)

    assert mesh.normals is not None
    point, normal = mesh.vertices[:1].to(device), mesh.normals[:1].to(device)
    if representation.surface_material(point, normal) is not None:
        mesh.metallic_roughness = baked(representation.surface_material, 2, 1.0)
    channels = {name: v.shape[1] for name, v in representation.surface_pictures(point, normal).items()}
    if channels:

        def side_by_side(points: Tensor, normals: Tensor) -> Tensor:
            return torch.cat(list(representation.surface_pictures(points, normals).values()), 1)

        pictures = baked(side_by_side, sum(channels.values()), math.inf)
        for name, picture in zip(channels, pictures.split(list(channels.values()), -1)):
            setattr(mesh, name, picture.contiguous())
    return mesh


def _relief(
    mesh: Mesh, representation: Surface, fine: Mesh | None, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The normals to be seen on the mesh: of the representation's own relief, or of the surface it was reduced from."""
    known = representation.surface_relief
    assert mesh.normals is not None
    if known(mesh.vertices[:1].to(device), mesh.normals[:1].to(device)) is None:
        return None if fine is None else NearestSurface(fine).shading

    def normals_at(points: Tensor, normals: Tensor) -> Tensor:
        found = known(points.to(device), normals.to(device))
        assert found is not None
        return found.cpu()

    return normals_at


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


def _surface(representation: Surface, settings: AssetSettings) -> tuple[Mesh, Mesh, torch.device]:
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
        if representation.cut:
            dense = surface.welded(dense)
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
    kinds = {kind: [name for name in formats if name in of_kind(kind)] for kind in ("mesh", "splats", "film")}
    films = kinds["film"]
    if settings.turntable_frames:
        films = list(dict.fromkeys([*films, "webp", "sheet"]))
    if "mp4" in films:
        need_encoder(folder / file_of("mp4"))
    ordered = [*kinds["mesh"], *kinds["splats"], *films]
    return [write_format(name, mesh, splats, folder / file_of(name), settings) for name in ordered]
