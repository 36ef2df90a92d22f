"""A mesh or splat file as another file, from one kind to the other where asked: ``threedistill.convert``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.exports.aspects import dropped
from threedistill.exports.asset import build_asset, put_back
from threedistill.exports.formats import Format, Kind, format_of, writable, writable_suffixes
from threedistill.exports.frames import Axis
from threedistill.exports.meshes import surface
from threedistill.exports.meshes.nearest import MeshField
from threedistill.exports.meshes.surface import Origin
from threedistill.exports.progress import step
from threedistill.exports.read import open_file
from threedistill.exports.settings import ExportSettings
from threedistill.exports.splats.cloud import moved, with_degree
from threedistill.exports.write import write_file
from threedistill.protocols import Surface
from threedistill.representations import splat_color, splat_surface
from threedistill.representations.convert import as_splats
from threedistill.types import Mesh, Splats

__all__ = ["Converted", "convert"]


@dataclass(frozen=True)
class Converted:
    """What :func:`convert` wrote.

    Attributes:
        file: the new file.
        kind: what it holds.
        vertices, faces, splats: how many.
        lost: what of the first file is not in it, a phrase each.
        notes: what else is worth knowing, a sentence each.
    """

    file: Path
    kind: Literal["mesh", "splats"]
    vertices: int = 0
    faces: int = 0
    splats: int = 0
    lost: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


def convert(
    source: str | Path, target: str | Path, *, kind: Literal["mesh", "splats"] | None = None,
    unit_size: float | None = None, origin: Origin | None = None, face_budget: int | None = None,
    texture_size: int | None = None, normal_map: bool = False, splats: int | None = None, resolution: int | None = None,
    sh_degree: int | None = None, up: Literal["-y", "y", "z"] | None = None, front: Axis | None = None,
    from_up: Axis | None = None, from_front: Axis | None = None, overwrite: bool = False,
) -> Converted:  # fmt: skip
    """Write a mesh or splat file in another format, as ``threedistill convert`` does.

    Arguments:
        source, target: the files; their suffixes name the formats, and what ``source`` holds decides between kinds.
        kind: what ``target`` holds, where it is not the same.
        unit_size, origin: longest side in metres, and where the origin is; None = as it is.
        face_budget, texture_size, normal_map: the mesh is made anew within these.
        splats: how many are spread over a mesh; None = 20,000.
        resolution: samples per axis for the surface of splats; None = 160.
        sh_degree: harmonics of splats, 0 to 3; None = as they are.
        up, front: axes of ``target`` where its format leaves them open; None = the format's habit.
        from_up, from_front: axes of ``source``; None = what it says, else its format's habit.
        overwrite: replace ``target``.

    Raises:
        UsageError: a missing file, one of no known format, a wish that can have no effect, a target that exists.
        ThreedistillError: a damaged file, or a place that cannot be written.
    """
    wishes = _Wishes(
        kind,
        unit_size,
        origin,
        face_budget,
        texture_size,
        normal_map,
        splats,
        resolution,
        sh_degree,
        up,
        front,
    )
    source, target = Path(source), Path(target)
    found = format_of(source)
    row = _format_to_write(found, target, kind)
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; replace it with --overwrite or choose another name")
    from_splats, to_splats = found.kind == "splats", row.kind == "splats"
    _check_wishes(wishes, from_splats, to_splats)
    opened = open_file(source, up=from_up, front=from_front, row=found)
    settings = _settings(wishes, to_splats, rebuilt=from_splats, unlit=opened.unlit)
    asset = opened.asset
    if isinstance(asset, Splats):
        asset = _sized(asset, wishes, settings) if to_splats else _mesh_of(asset, settings, wishes)
    else:
        asset = _mesh_anew(asset, wishes, settings)
        if to_splats:
            with step("spreading splats"):
                asset = replace(as_splats(asset, splats or 20_000), extras=asset.extras)
    write_file(asset, target, settings, row)
    if isinstance(asset, Splats):
        asset = with_degree(asset, settings.sh_degree)
    lost = [*opened.lost, *(dropped(asset, row) if row.kind != "film" else [])]
    notes = list(opened.notes)
    if row.fixed and (up or front):
        notes.append(f"{row.name} defines its axes: --up and --front have no effect on {target}")
    if isinstance(asset, Splats):
        return Converted(target, "splats", splats=len(asset), lost=lost, notes=notes)
    return Converted(target, "mesh", len(asset.vertices), len(asset.faces), lost=lost, notes=notes)


@dataclass(frozen=True)
class _Wishes:
    """What :func:`convert` is asked to change."""

    kind: str | None
    unit_size: float | None
    origin: Origin | None
    face_budget: int | None
    texture_size: int | None
    normal_map: bool
    splats: int | None
    resolution: int | None
    sh_degree: int | None
    up: str | None
    front: str | None


def _format_to_write(found: Format, target: Path, kind: Kind | None) -> Format:
    """The format of OUT: of the kind that ``--as`` says, else of IN's where its suffix can hold several."""
    if kind is not None:
        return writable(target, *(("mesh", "film") if kind == "mesh" else ("splats",)))
    if target.suffix.lower() in writable_suffixes(found.kind):
        return writable(target, found.kind)
    return writable(target)


def _check_wishes(wishes: _Wishes, from_splats: bool, to_splats: bool) -> None:
    """Refuse options that could have no effect."""
    unused = []
    if to_splats and from_splats:
        unused = [("face_budget", "mesh"), ("texture_size", "mesh"), ("normal_map", "mesh")]
    if not to_splats:
        unused = [("sh_degree", "splats"), ("front", "splats")]
    if not to_splats or from_splats:
        unused.append(("splats", "mesh that becomes splats"))
    if to_splats or not from_splats:
        unused.append(("resolution", "cloud that becomes a mesh"))
    for name, needed in unused:
        if getattr(wishes, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} needs a {needed}".replace("a splats", "splats"))


def _settings(wishes: _Wishes, to_splats: bool, rebuilt: bool, unlit: bool) -> ExportSettings:
    """Export settings from the flags: a file's own colours are lit unless it says that they are not."""
    flags: dict[str, Any] = {
        "resolution": wishes.resolution, "faces": wishes.face_budget, "texture_size": wishes.texture_size,
        "unit_size": wishes.unit_size, "origin": wishes.origin, "sh_degree": wishes.sh_degree,
        **({"splat_up": wishes.up, "splat_front": wishes.front} if to_splats else {"up": wishes.up}),
    }  # fmt: skip
    flags = {name: value for name, value in flags.items() if value is not None}
    if wishes.normal_map:
        flags["normal_map"] = True
    if not rebuilt:
        flags = {"faces": 10_000_000, "smooth_iterations": 0, "keep_fraction": 0.0, **flags}
    unlit = not wishes.normal_map and (rebuilt or unlit)
    try:
        return ExportSettings(unlit=unlit, **flags)
    except ValueError as error:
        raise UsageError(str(error).replace("export.", "")) from None


def _mesh_anew(mesh: Mesh, wishes: _Wishes, settings: ExportSettings) -> Mesh:
    """The mesh; with a budget, a texture size or a normal map made anew from itself."""
    if wishes.face_budget is not None or wishes.texture_size is not None or wishes.normal_map:
        made = put_back(build_asset(MeshField(mesh), settings, mesh.extras))
        mesh = replace(made, alpha_cutoff=mesh.alpha_cutoff, double_sided=mesh.double_sided)
    if wishes.unit_size is not None or wishes.origin is not None:
        mesh = surface.normalise(mesh, _longest(mesh, wishes, settings), settings.origin)
    return mesh


def _longest(mesh: Mesh, wishes: _Wishes, settings: ExportSettings) -> float:
    """The longest side asked for; without a wish the one there is."""
    if wishes.unit_size is not None:
        return settings.unit_size
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())


def _sized(splats: Splats, wishes: _Wishes, settings: ExportSettings) -> Splats:
    """The cloud brought to ``--unit-size`` and ``--origin``, by the box of its means."""
    if wishes.unit_size is None and wishes.origin is None:
        return splats
    box = Mesh(splats.means, splats.means.new_zeros(0, 3).long())
    middle, scale = surface.frame(box, _longest(box, wishes, settings), settings.origin)
    return moved(splats, middle, scale)


class _SplatField(Surface):
    """A cloud that answers as a representation does at export: a surface around it, coloured as views show it."""

    def __init__(self, cloud: Splats) -> None:
        self.cloud = cloud

    def extract(self, resolution: int) -> Mesh:
        """The surface, on a grid of ``resolution`` cells per axis."""
        return splat_surface.extract(self.cloud, resolution)

    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """sRGB at surface points."""
        return splat_color.color(self.cloud, points, normals)


def _mesh_of(splats: Splats, settings: ExportSettings, wishes: _Wishes) -> Mesh:
    """The surface of a cloud, textured, at the cloud's place and size."""
    low, high = splats.means.amin(0), splats.means.amax(0)
    middle, radius = (low + high) / 2, float((splats.means - (low + high) / 2).norm(dim=1).max())
    scale = 0.8 / max(radius, 1e-9)  # surfaces are looked for within the unit ball
    mesh = put_back(build_asset(_SplatField(moved(splats, middle, scale)), settings, splats.extras))
    mesh = replace(mesh, vertices=mesh.vertices / scale + middle)
    if wishes.unit_size is not None or wishes.origin is not None:
        mesh = surface.normalise(mesh, _longest(mesh, wishes, settings), settings.origin)
    return mesh
