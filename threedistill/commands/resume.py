"""``threedistill resume``: continue a run; everything but the device comes from its folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from threedistill.commands.arguments import Parser, is_setting, limit_option, limits_of, one_of, viewer_option
from threedistill.commands.generate import DEVICES, answer
from threedistill.errors import UsageError

__all__ = ["folders_and_settings", "parser", "run", "run_folder", "the_run_folder"]

_EPILOG = """\
examples:
  threedistill resume runs/a-red-mushroom-s0
  threedistill resume runs/a-red-mushroom-s0 budget.iterations=2400

The second line gives a run more steps, so that all its stages together have 2400: one more stage goes on where the last
one ended. Nothing else of a run can be changed.
"""


def parser() -> Parser:
    """The options of ``resume``."""
    p = Parser(
        "resume", "DIR [options] [budget.iterations=N]", "Continue a run from its last checkpoint.", _EPILOG
    )
    p.add_argument(
        "--device",
        type=one_of("--device", DEVICES),
        metavar="D",
        help="auto | cpu | cuda (default: as before)",
    )
    viewer_option(p)
    limit_option(p)
    p.add_argument("--quiet", action="store_true", help="print nothing but the asset's path")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the path")
    return p


def run(argv: Sequence[str]) -> int:
    """Continue the run and print where the asset is."""
    options, data = parser().parse(argv)
    folders, lines = folders_and_settings(data)
    folder = the_run_folder("resume", folders)
    from threedistill import pipeline

    with contextlib.redirect_stdout(sys.stderr), limits_of(options):
        result = pipeline.resume(
            folder, quiet=options.quiet, device=options.device, overrides=lines, viewer=options.viewer
        )
    answer(result, as_json=options.json)
    return 0


def the_run_folder(verb: str, data: Sequence[str]) -> Path:
    """The one run folder among the words of the command line, checked to be one."""
    if len(data) != 1:
        raise UsageError(
            f"{verb} takes one run folder, not {len(data)}: threedistill {verb} runs/a-red-mushroom-s0"
        )
    return run_folder(data[0])


def folders_and_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words that name folders, and ``key=value`` words; a folder that exists may have ``=`` in its name."""
    settings = [word for word in words if is_setting(word) and not _is_path(word)]
    return [word for word in words if word not in settings], settings


def _is_path(word: str) -> bool:
    """Whether a word with ``=`` in it is a place on disk: it is there, or has a slash before its first ``=``."""
    return "/" in word.partition("=")[0] or Path(word).is_dir()


def run_folder(name: str) -> Path:
    """A folder that holds a run, or the request for one."""
    from threedistill.training.run_folder import RunFolder

    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(f"{name}: there is no such folder")
    run = RunFolder(folder)
    if not (run.holds_run or run.holds_request):
        raise UsageError(f"{name}: not a run folder (it has no config.yaml)")
    run.finish_taking()
    return folder
