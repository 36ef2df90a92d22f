"""``threedistill view``: look at a run or a file in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threedistill.commands.arguments import Parser, from_options, limit_option, limits_of, whole_number
from threedistill.errors import UsageError

__all__ = ["parser", "run"]

_EPILOG = """\
examples:
  threedistill view runs/a-red-mushroom-s0
  threedistill view duck.spz --port 8081

Shows the asset of a run with its previews and curves, or any mesh or splat file that is read. To watch a run while it
runs, start it with --viewer. The page is served to this machine alone unless --host says otherwise.
"""


def parser() -> Parser:
    """The options of ``view``."""
    p = Parser("view", "RUN|FILE [options]", "Look at a run or a file in a browser.", _EPILOG)
    p.add_argument("--port", type=whole_number("--port", 1, 65535), metavar="N", help="default 8080")
    p.add_argument("--host", metavar="H", help="who may look: an address to listen at (default 127.0.0.1)")
    from_options(p, "the file")
    limit_option(p)
    return p


def run(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C."""
    options, data = parser().parse(argv)
    if len(data) != 1:
        raise UsageError(f"view takes one run or file, not {len(data)}: threedistill view duck.glb")
    from threedistill.viewer.serving import LOCAL, PORT
    from threedistill.viewer.still import view

    with limits_of(options):
        view(Path(data[0]), options.port or PORT, options.host or LOCAL, options.from_up, options.from_front)
    return 0
