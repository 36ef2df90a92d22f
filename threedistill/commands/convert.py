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
    from_options,
    limit_option,
    limits_of,
    one_of,
    whole_number,
)
from threedistill.errors import UsageError
from threedistill.exports.formats import Format, Kind, format_of, writable, writable_suffixes
from threedistill.exports.progress import shown, step

if TYPE_CHECKING:
    from threedistill.exports.settings import ExportSettings
    from threedistill.types import Mesh, Splats

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
    from_options(p, "IN")
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
    row = _format_to_write(source, target, options.kind)
    if target.exists() and not options.overwrite:
        raise UsageError(f"{target} exists; replace it with --overwrite or choose another name")
    with contextlib.redirect_stdout(sys.stderr), limits_of(options), shown():
        facts = convert_file(source, target, options, row)
    print(json.dumps({"file": str(target), **facts}) if options.json else target)
    return 0


def _format_to_write(source: Path, target: Path, kind: Kind | None) -> Format:
    """The format of OUT: of the kind that ``--as`` says, else of IN's where its suffix can hold several."""
    found = format_of(source)
    if kind is not None:
        return writable(target, *(("mesh", "film") if kind == "mesh" else ("splats",)))
    if target.suffix.lower() in writable_suffixes(found.kind):
        return writable(target, found.kind)
    return writable(target)


def convert_file(source: Path, target: Path, options: Any, row: Format) -> dict[str, object]:
    """Read, convert and write; what the new file holds."""
    from threedistill.exports.aspects import dropped
    from threedistill.exports.read import open_file
    from threedistill.exports.splat_cloud import with_degree
    from threedistill.exports.write import write_file
    from threedistill.types import Splats

    from_splats = format_of(source).kind == "splats"
    to_splats = row.kind == "splats"
    _check_options(options, from_splats, to_splats)
    opened = open_file(source, up=options.from_up, front=options.from_front)
    settings = _settings(options, to_splats, rebuilt=from_splats, unlit=opened.unlit)
    asset = opened.asset
    if isinstance(asset, Splats):
        asset = _sized(asset, options, settings) if to_splats else _mesh_of(asset, settings, options)
    else:
        asset = _mesh_anew(asset, options, settings)
        if to_splats:
            from threedistill.representations.convert import as_splats

            with step("spreading splats"):
                asset = replace(as_splats(asset, options.splats or 20_000), extras=asset.extras)
    write_file(asset, target, settings, row)
    if isinstance(asset, Splats):
        asset = with_degree(asset, settings.sh_degree)
    lost = [*opened.lost, *(dropped(asset, row) if row.kind != "film" else [])]
    notes = list(opened.notes)
    if row.fixed and (options.up or options.front):
        notes.append(f"{row.name} defines its axes: --up and --front have no effect on {target}")
    for note in notes:
        print(note, file=sys.stderr)
    if lost:
        print(f"not in {target}: {', '.join(lost)}", file=sys.stderr)
    facts: dict[str, object] = {"lost": lost} if lost else {}
    if isinstance(asset, Splats):
        return {"kind": "splats", "splats": len(asset), **facts}
    return {"kind": "mesh", "vertices": len(asset.vertices), "faces": len(asset.faces), **facts}


def _check_options(options: Any, from_splats: bool, to_splats: bool) -> None:
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
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} needs a {needed}".replace("a splats", "splats"))


def _settings(options: Any, to_splats: bool, rebuilt: bool, unlit: bool) -> ExportSettings:
    """Export settings from the flags: a file's own colours are lit unless it says that they are not."""
    from threedistill.exports.settings import ExportSettings

    flags: dict[str, Any] = {
        "resolution": options.resolution, "faces": options.face_budget, "texture_size": options.texture_size,
        "unit_size": options.unit_size, "origin": options.origin, "sh_degree": options.sh_degree,
        **({"splat_up": options.up, "splat_front": options.front} if to_splats else {"up": options.up}),
    }  # fmt: skip
    flags = {name: value for name, value in flags.items() if value is not None}
    if options.normal_map:
        flags["normal_map"] = True
    if not rebuilt:
        flags = {"faces": 10_000_000, "smooth_iterations": 0, "keep_fraction": 0.0, **flags}
    unlit = not options.normal_map and (rebuilt or unlit)
    try:
        return ExportSettings(unlit=unlit, **flags)
    except ValueError as error:
        raise UsageError(str(error).replace("export.", "")) from None


def _mesh_anew(mesh: Mesh, options: Any, settings: ExportSettings) -> Mesh:
    """The mesh; with a budget, a texture size or a normal map made anew from itself."""
    from threedistill.exports import surface
    from threedistill.exports.asset import build_asset, put_back
    from threedistill.exports.nearest import MeshField

    if options.face_budget is not None or options.texture_size is not None or options.normal_map:
        made = put_back(build_asset(MeshField(mesh), settings, mesh.extras))
        mesh = replace(made, alpha_cutoff=mesh.alpha_cutoff, double_sided=mesh.double_sided)
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
