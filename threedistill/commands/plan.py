"""``threedistill plan``: what a run will take, and on which cards it fits, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence

from threedistill.commands.arguments import Parser
from threedistill.commands.generate import composed, parse
from threedistill.commands.generate import parser as generate_parser

__all__ = ["parser", "run"]

_EPILOG = """\
examples:
  threedistill plan "a red duck" --prior sdxl
  threedistill plan "a red duck" --prior sd15 --guidance vsd --representation gaussians prior.model.one_by_one=true
  threedistill plan --table               the shipped options' own sizes, as Markdown

Options and key=value words are those of threedistill generate; nothing is downloaded, loaded or written. A model that
is not here is counted in its published shape.
"""


def parser() -> Parser:
    """The options of ``plan``: those of ``generate``."""
    p = generate_parser()
    p.prog, p.usage, p.verb = (
        "threedistill plan",
        'threedistill plan "PROMPT" [options] [key=value ...]',
        "plan",
    )
    p.description, p.epilog = "Say what a run will take, and on which cards it fits.", _EPILOG
    return p


def run(argv: Sequence[str]) -> int:
    """Print the plan."""
    if list(argv) in (["--help"], ["-h"]):
        parser().parse(["--help"])
    if list(argv) == ["--table"]:
        from threedistill.training.costs import table

        print(table())
        return 0
    request = parse(argv)
    from threedistill.training.costs import costs, told
    from threedistill.training.planning import build_plan

    found = costs(build_plan(composed(request)), request.device)
    if request.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(told(found))
    return 0
