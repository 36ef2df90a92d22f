"""``threedistill resume``: continue an interrupted run; everything but the device comes from its folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from threedistill.commands.arguments import Parser, limit_option, limits_of, one_of
from threedistill.commands.generate import DEVICES, answer
from threedistill.errors import UsageError


def parser() -> Parser:
    """The options of ``resume``."""
    p = Parser("resume", "DIR [options]", "Continue an interrupted run from its last checkpoint.")
    p.add_argument(
        "--device",
        type=one_of("--device", DEVICES),
        metavar="D",
        help="auto | cpu | cuda (default: as before)",
    )
    limit_option(p)
    p.add_argument("--quiet", action="store_true", help="print nothing but the asset's path")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the path")
    return p


def run(argv: Sequence[str]) -> int:
    """Continue the run and print where the asset is."""
    options, data = parser().parse(argv)
    folder = the_run_folder("resume", data)
    from threedistill import pipeline

    with contextlib.redirect_stdout(sys.stderr), limits_of(options):
        result = pipeline.resume(folder, quiet=options.quiet, device=options.device)
    answer(result, as_json=options.json)
    return 0


def the_run_folder(verb: str, data: Sequence[str]) -> Path:
    """The one run folder among the words of the command line, checked to be one."""
    if len(data) != 1:
        raise UsageError(
            f"{verb} takes one run folder, not {len(data)}: threedistill {verb} runs/a-red-mushroom-s0"
        )
    return run_folder(data[0])


def run_folder(name: str) -> Path:
    """A folder that holds a run."""
    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(f"{name}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{name}: not a run folder (it has no config.yaml)")
    return folder
