"""``threedistill cite``: the BibTeX of exactly what a run used."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from threedistill.commands.arguments import Parser
from threedistill.commands.resume import the_run_folder

__all__ = ["parser", "run"]


def parser() -> Parser:
    """The options of ``cite``."""
    p = Parser("cite", "DIR [--json]", "Print the BibTeX of exactly what a run used.")
    p.add_argument("--json", action="store_true", help="print one JSON object: entry -> what it was used for")
    return p


def run(argv: Sequence[str]) -> int:
    """Print the entries of one run."""
    options, data = parser().parse(argv)
    folder = the_run_folder("cite", data)
    from threedistill.citation import cite

    found = cite(folder)
    if options.json:
        print(json.dumps(found.used, indent=1, ensure_ascii=False))
        return 0
    print(found)
    print(f"{len(found)} entries", file=sys.stderr)
    return 0
