"""``threedistill export``: other formats of a finished run's asset, or its field meshed anew with other settings."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from threedistill.commands.arguments import Parser, frame_options, frame_overrides, many_of
from threedistill.commands.resume import folders_and_settings, run_folder
from threedistill.errors import UsageError
from threedistill.exports.formats import file_of, of_kind
from threedistill.exports.progress import shown

__all__ = ["parser", "run"]

_EPILOG = """\
examples:
  threedistill export runs/a-red-mushroom-s0 --format obj,stl
  threedistill export runs/a-red-mushroom-s0 --out print --format stl --up z export.resolution=256
  threedistill export runs/a-yellow-duck-s0 --out web --format sog,usdz,mp4

Without settings of its making the asset's own file is converted. With them (size, budgets, resolution), what was
optimised is meshed again from its checkpoint; threedistill generate "..." --print-config shows the export settings.
threedistill list formats shows the formats.
"""


def parser() -> Parser:
    """The options of ``export``."""
    p = Parser(
        "export", "DIR [options] [export.key=value ...]", "Write a finished run's asset as files.", _EPILOG
    )
    p.add_argument(
        "--format",
        dest="formats",
        type=many_of("--format", of_kind("mesh", "splats", "film")),
        metavar="F,F",
        default=("glb",),
    )
    frame_options(p)
    p.add_argument("--out", metavar="DIR", help="where to write (default: the run's asset folder)")
    p.add_argument("--overwrite", action="store_true", help="replace files that exist")
    p.add_argument("--json", action="store_true", help="print a JSON list of the files instead of lines")
    return p


def run(argv: Sequence[str]) -> int:
    """Write the files and print their paths, one per line."""
    options, data = parser().parse(argv)
    folders, settings = folders_and_settings(data)
    overrides = frame_overrides(options, settings)
    if len(folders) != 1:
        raise UsageError(f"export takes one run folder, not {len(folders)}: threedistill export runs/NAME")
    run_dir = run_folder(folders[0])
    target = Path(options.out) if options.out else run_dir / "asset"
    paths = {name: target / file_of(name) for name in options.formats}
    for path in paths.values():
        if path.exists() and not options.overwrite:
            raise UsageError(f"{path} exists; replace it with --overwrite or choose another place with --out")
    from threedistill.training.reexport import write_run
    from threedistill.training.run_folder import RunFolder

    with contextlib.redirect_stdout(sys.stderr), shown():
        run, within = RunFolder(run_dir), target.resolve() == (run_dir / "asset").resolve()
        with run.locked() if within else contextlib.nullcontext():
            write_run(run, paths, overrides)
    written = [str(p) for p in paths.values()]
    print(json.dumps(written) if options.json else "\n".join(written))
    return 0
