"""``threedistill convert``: a mesh or splat file as another file, from one kind to the other where asked."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.commands.arguments import (
    Parser,
    frame_options,
    limit_option,
    limits_of,
    one_of,
    whole_number,
)
from threedistill.errors import UsageError, nearest

if TYPE_CHECKING:
    from threedistill.exports.settings import ExportSettings
    from threedistill.types import Mesh, Splats

_MESHES = (".glb", ".obj", ".ply", ".stl", ".usdz")
_SPLATS = (".ply", ".splat", ".spz", ".sog", ".glb")
_FILMS = (".mp4", ".gif", ".webp", ".png")
_READ = (".glb", ".gltf", ".obj", ".ply", ".stl", ".splat", ".spz", ".sog")

_EPILOG = """\
examples:
  threedistill convert model.glb model.usdz
  threedistill convert scan.obj small.glb --face-budget 5000 --texture-size 1024 --normal-map
  threedistill convert splats.ply splats.sog --sh-degree 1
  threedistill convert splats.ply model.glb --as mesh
  threedistill convert model.glb splats.ply --as splats
  threedistill convert model.glb turn.mp4

.ply and .glb can hold either kind: the output is of the input's kind unless --as says otherwise. A mesh keeps its
size, place, faces and texture coordinates unless an option changes them.
"""


def parser() -> Parser:
    """The options of ``convert``."""
    p = Parser("convert", "IN OUT [options]", "Write a mesh or splat file in another format.", _EPILOG)
    p.add_argument(
        "--as",
        dest="kind",
        type=one_of("--as", ("mesh", "splats")),
        metavar="K",
        help="mesh | splats: what OUT holds",
    )
    frame_options(p)
    p.add_argument(
        "--normal-map", action="store_true", help="bake what --face-budget takes away into a normal map"
    )
    p.add_argument(
        "--splats",
        type=whole_number("--splats", 1, 10_000_000),
        metavar="N",
        help="splats on a mesh (default 20000)",
    )
    p.add_argument(
        "--resolution",
        type=whole_number("--resolution", 8, 1024),
        metavar="N",
        help="samples per axis for the surface of splats (default 160)",
    )
    p.add_argument(
        "--from-up",
        type=one_of("--from-up", ("y", "z")),
        metavar="A",
        help="y | z points up in IN (default: its habit)",
    )
    limit_option(p)
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    p.add_argument("--json", action="store_true", help="print a JSON object instead of the path")
    return p


def run(argv: Sequence[str]) -> int:
    """Convert the file and print the new one's path."""
    options, data = parser().parse(argv)
    if len(data) != 2:
        raise UsageError(f"convert takes two files, not {len(data)}: threedistill convert IN OUT")
    source, target = Path(data[0]), Path(data[1])
    _check_names(source, target, options.kind)
    if target.exists() and not options.overwrite:
        raise UsageError(f"{target} exists; replace it with --overwrite or choose another name")
    with contextlib.redirect_stdout(sys.stderr), limits_of(options):
        facts = convert_file(source, target, options)
    print(json.dumps({"file": str(target), **facts}) if options.json else target)
    return 0


def _check_names(source: Path, target: Path, kind: str | None) -> None:
    """Refuse what no reader or writer knows before anything is read."""
    if source.suffix.lower() not in _READ:
        raise UsageError(f"cannot read {source}: not one of {' '.join(s[1:] for s in _READ)}")
    if not source.is_file():
        raise UsageError(f"cannot read {source}: there is no such file")
    writable = {"mesh": (*_MESHES, *_FILMS), "splats": _SPLATS}.get(kind or "", (*_MESHES, *_SPLATS, *_FILMS))
    if target.suffix.lower() not in writable:
        names = list(dict.fromkeys(writable))
        close = nearest(target.suffix.lower(), names, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        what = "splats are" if kind == "splats" else "a mesh is" if kind == "mesh" else "files are"
        raise UsageError(f"cannot write {target}: {hint}{what} written as {', '.join(n[1:] for n in names)}")


def convert_file(source: Path, target: Path, options: Any) -> dict[str, object]:
    """Read, convert and write; what the new file holds."""
    from threedistill.exports.splats import read_splats

    suffix = target.suffix.lower()
    from_splats = _holds_splats(source)
    to_splats = options.kind == "splats" or (
        options.kind is None and suffix in _SPLATS and (suffix not in _MESHES or from_splats)
    )
    _check_options(options, from_splats, to_splats)
    settings = _settings(options, source, rebuilt=from_splats)
    if from_splats:
        splats = read_splats(source, options.from_up)
        if to_splats:
            return _write_splats(_sized(splats, options, settings), target, settings)
        return _write_mesh(_mesh_of(splats, settings, options), target, settings)
    mesh = _read_mesh(source, options, settings)
    if to_splats:
        from threedistill.representations.convert import as_splats

        splats = as_splats(mesh, options.splats or 20_000)
        return _write_splats(replace(splats, extras=mesh.extras), target, settings)
    return _write_mesh(mesh, target, settings)


def _holds_splats(source: Path) -> bool:
    """Which of the two kinds a file holds; its contents decide where its name does not."""
    from threedistill.exports.gltf_splats import is_gltf_splats
    from threedistill.exports.splat_ply import is_splat_ply

    suffix = source.suffix.lower()
    if suffix == ".ply":
        return is_splat_ply(source)
    if suffix in (".glb", ".gltf"):
        return is_gltf_splats(source)
    return suffix in (".splat", ".spz", ".sog")


def _check_options(options: Any, from_splats: bool, to_splats: bool) -> None:
    """Refuse options that could have no effect."""
    unused = []
    if to_splats and from_splats:
        unused = [("face_budget", "mesh"), ("texture_size", "mesh"), ("normal_map", "mesh")]
    if not to_splats:
        unused = [("sh_degree", "splats")]
    if not to_splats or from_splats:
        unused.append(("splats", "mesh that becomes splats"))
    if to_splats or not from_splats:
        unused.append(("resolution", "cloud that becomes a mesh"))
    for name, needed in unused:
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} needs a {needed}".replace("a splats", "splats"))


def _settings(options: Any, source: Path, rebuilt: bool) -> ExportSettings:
    """Export settings from the flags: a file's own colours are lit unless it says that they are not."""
    from threedistill.exports.read import is_unlit
    from threedistill.exports.settings import ExportSettings

    flags: dict[str, Any] = {
        "resolution": options.resolution, "faces": options.face_budget, "texture_size": options.texture_size,
        "unit_size": options.unit_size, "origin": options.origin, "up": options.up, "splat_up": options.up,
        "sh_degree": options.sh_degree,
    }  # fmt: skip
    flags = {name: value for name, value in flags.items() if value is not None}
    if options.normal_map:
        flags["normal_map"] = True
    if not rebuilt:
        flags = {"faces": 10_000_000, "smooth_iterations": 0, "keep_fraction": 0.0, **flags}
    unlit = not options.normal_map and (rebuilt or is_unlit(source))
    try:
        return ExportSettings(unlit=unlit, **flags)
    except ValueError as error:
        raise UsageError(str(error).replace("export.", "")) from None


def _read_mesh(source: Path, options: Any, settings: ExportSettings) -> Mesh:
    """The file's mesh; with a budget, a texture size or a normal map made anew from itself."""
    from threedistill.exports import surface
    from threedistill.exports.asset import build_asset, put_back
    from threedistill.exports.nearest import MeshField
    from threedistill.exports.read import read_mesh

    mesh = read_mesh(source)
    if options.from_up == "z":
        mesh = surface.placed(surface.placed(surface.placed(mesh, "z"), "z"), "z")  # three quarters: back
    if options.face_budget is not None or options.texture_size is not None or options.normal_map:
        mesh = put_back(build_asset(MeshField(mesh), settings, mesh.extras))
    if options.unit_size is not None or options.origin is not None:
        mesh = surface.normalise(mesh, _longest(mesh, options, settings), settings.origin)
    return mesh


def _longest(mesh: Mesh, options: Any, settings: ExportSettings) -> float:
    """The longest side asked for; without a wish the one there is."""
    if options.unit_size is not None:
        return settings.unit_size
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())


def _sized(splats: Splats, options: Any, settings: ExportSettings) -> Splats:
    """The cloud brought to ``--unit-size`` and ``--origin``, by the box of its means."""
    if options.unit_size is None and options.origin is None:
        return splats
    from threedistill.exports import surface
    from threedistill.exports.splat_cloud import moved
    from threedistill.types import Mesh

    box = Mesh(splats.means, splats.means.new_zeros(0, 3).long())
    middle, scale = surface.frame(box, _longest(box, options, settings), settings.origin)
    return moved(splats, middle, scale)


class _SplatField:
    """A cloud that answers as a representation does at export."""

    def __init__(self, splats: Splats) -> None:
        self.splats = splats

    def extract(self, resolution: int) -> Mesh:
        from threedistill.representations import splat_surface

        return splat_surface.extract(self.splats, resolution)

    def surface_color(self, points: Any, normals: Any) -> Any:
        from threedistill.representations import splat_color

        return splat_color.color(self.splats, points, normals)


def _mesh_of(splats: Splats, settings: ExportSettings, options: Any) -> Mesh:
    """The surface of a cloud, textured, at the cloud's place and size."""
    from threedistill.exports import surface
    from threedistill.exports.asset import build_asset, put_back
    from threedistill.exports.splat_cloud import moved

    low, high = splats.means.amin(0), splats.means.amax(0)
    middle, radius = (low + high) / 2, float((splats.means - (low + high) / 2).norm(dim=1).max())
    scale = 0.8 / max(radius, 1e-9)  # surfaces are looked for within the unit ball
    mesh = put_back(build_asset(_SplatField(moved(splats, middle, scale)), settings, splats.extras))
    mesh = replace(mesh, vertices=mesh.vertices / scale + middle)
    if options.unit_size is not None or options.origin is not None:
        mesh = surface.normalise(mesh, _longest(mesh, options, settings), settings.origin)
    return mesh


def _write_mesh(mesh: Mesh, target: Path, settings: ExportSettings) -> dict[str, object]:
    from threedistill.exports.asset import write_format, write_mesh

    film = {".mp4": "mp4", ".gif": "gif", ".webp": "webp", ".png": "sheet"}.get(target.suffix.lower())
    if film:
        write_format(film, mesh, None, target, settings)
    else:
        write_mesh(mesh, target, settings)
    return {"kind": "mesh", "vertices": len(mesh.vertices), "faces": len(mesh.faces)}


def _write_splats(splats: Splats, target: Path, settings: ExportSettings) -> dict[str, object]:
    from threedistill.exports.splats import write_splats

    write_splats(splats, target, settings.splats())
    return {"kind": "splats", "splats": len(splats)}
