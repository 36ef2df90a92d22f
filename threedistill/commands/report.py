"""``threedistill report``: one page for the runs of a folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from threedistill.commands.arguments import Parser
from threedistill.errors import UsageError

__all__ = ["parser", "run"]

_EPILOG = """\
examples:
  threedistill report sweeps/prompts
  threedistill report runs
  threedistill report runs/a-red-mushroom-s0 --one-file

Writes DIR/index.html, which opens from the disk: assets that turn and can be looked at in 3D, filters, a leaderboard,
and everything about each run. What it loads lies in DIR/report; with --one-file all of it is in index.html, which
can be sent to somebody. A sweep and a benchmark write the page themselves. The last line on stdout is its path.
"""


def parser() -> Parser:
    """The options of ``report``."""
    p = Parser("report", "DIR [--one-file]", "Write one page for the runs of a folder.", _EPILOG)
    p.add_argument("--one-file", action="store_true", help="put pictures, 3D and viewers into index.html")
    return p


def run(argv: Sequence[str]) -> int:
    """Write the page and print its path."""
    options, data = parser().parse(argv)
    if len(data) != 1:
        raise UsageError(f"report takes one folder, not {len(data)}: threedistill report runs")
    from threedistill.sweeps.folders import report_on

    with contextlib.redirect_stdout(sys.stderr):
        page, count = report_on(Path(data[0]), options.one_file)
    print(f"{count} runs, {page.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    print(page)
    return 0
