"""``threedistill convert``: a mesh or splat file as another file, from one kind to the other where asked."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path

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
from threedistill.exports.progress import shown

__all__ = ["parser", "run"]

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
    from threedistill.conversion import convert

    wishes = {
        key: getattr(options, key) for key in inspect.signature(convert).parameters if hasattr(options, key)
    }
    with contextlib.redirect_stdout(sys.stderr), limits_of(options), shown():
        made = convert(source, target, **wishes)
    for note in made.notes:
        print(note, file=sys.stderr)
    if made.lost:
        print(f"not in {target}: {', '.join(made.lost)}", file=sys.stderr)
    counts = (
        {"splats": made.splats} if made.kind == "splats" else {"vertices": made.vertices, "faces": made.faces}
    )
    facts = {"file": str(target), "kind": made.kind, **counts, **({"lost": made.lost} if made.lost else {})}
    print(json.dumps(facts) if options.json else target)
    return 0
