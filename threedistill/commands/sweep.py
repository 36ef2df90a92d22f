"""``threedistill sweep``: every prompt with every combination of settings, on one of Hydra's launchers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from threedistill.commands.arguments import (
    Parser,
    images_of,
    is_setting,
    number,
    one_of,
    whole_number,
)
from threedistill.commands.generate import DEVICES, LARGEST_SEED, PRESETS
from threedistill.commands.search import is_search, search, search_options
from threedistill.errors import UsageError

if TYPE_CHECKING:
    from threedistill.sweeps.launch import Launch
    from threedistill.sweeps.plan import Plan

__all__ = ["Words", "carry_out_and_write", "parser", "read_words", "run"]

_EPILOG = """\
examples:
  threedistill sweep --prompts prompts.txt guidance=sds,vsd seed=0,1,2 --preset bench
  threedistill sweep --prompts prompts.txt "cfg.scale=choice(2,4,8)" "seed=range(0,5)" --out sweeps/scale
  threedistill sweep --prompts duck.txt --image duck.png --image-camera 30,15 prior=my_prior seed=0,1
  threedistill sweep --prompts prompts.txt guidance=sds,csd hydra/launcher=joblib hydra.launcher.n_jobs=4
  threedistill sweep --prompts prompts.txt --maximize iou --trials 20 "cfg.scale=interval(2,20)" guidance=sds,csd

Finished runs are never repeated: after Ctrl-C, a crash or a failure the same command goes on, and a longer one adds
to what is there. The last line on stdout is the path of results.csv; results.json and index.html lie beside it.
"""


def parser() -> Parser:
    """The options of ``sweep``."""
    p = Parser("sweep", "--prompts FILE [options] [key=value,value ...]", "Run every combination.", _EPILOG)
    p.add_argument(
        "--prompts", metavar="FILE", help="prompts, one per line (UTF-8), or a JSON list of strings"
    )
    p.add_argument(
        "--out", metavar="DIR", help="the sweep's folder (default: sweeps/<name of the prompt file>)"
    )
    p.add_argument("--preset", type=one_of("--preset", PRESETS), metavar="P", help="default standard")
    p.add_argument("--negative", metavar="TEXT", help="what no asset must look like")
    search_options(p)
    p.add_argument("--device", type=one_of("--device", DEVICES), metavar="D", help="auto | cpu | cuda")
    p.add_argument(
        "--budget",
        type=number("--budget", 0, 1e6),
        metavar="MIN",
        help="start no run after this many minutes",
    )
    p.add_argument("--skip-impossible", action="store_true", help="leave out combinations that cannot work")
    p.add_argument("--no-eval", action="store_true", help="do not judge the assets")
    p.add_argument("--dry-run", action="store_true", help="check everything, print the runs, make none")
    p.add_argument("--quiet", action="store_true", help="print nothing but the path of the table")
    return p


def run(argv: Sequence[str]) -> int:
    """Make the runs; exit status 1 if some of them failed."""
    options, data = parser().parse(argv)
    if options.prompts is None:
        raise UsageError("sweep needs prompts: threedistill sweep --prompts prompts.txt guidance=sds,csd")
    root = Path(options.out) if options.out else Path("sweeps") / (Path(options.prompts).stem or "sweep")
    if is_search(options):
        return search(options, read_words(data, searched=True), root)
    from threedistill.sweeps.launch import Launch, check_launcher, check_runs, prepare
    from threedistill.sweeps.plan import cells, grid, read_pictures, read_prompts

    images, image_cameras = images_of(options)
    words = read_words(data)
    check_launcher(words.launcher)
    prompts = read_prompts(options.prompts)
    presets = dict(words.axes).get("preset")
    if options.preset and presets and list(presets) != [options.preset]:
        raise UsageError(
            f"--preset {options.preset} and preset={','.join(presets)} disagree; keep one of them"
        )
    settings = grid(
        words.axes, preset=None if presets else options.preset, negative=options.negative or "",
        device=options.device or "auto", pictures=read_pictures(images, image_cameras),
    )  # fmt: skip
    runs = cells(prompts, words.seeds, settings)
    launch = Launch(
        words.launcher, words.hydra, None if options.budget is None else 60 * options.budget,
        evaluate=not options.no_eval, quiet=options.quiet,
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        checked = check_runs(runs, skip_impossible=options.skip_impossible)
        for name, reason in checked.impossible:
            print(f"left out: {name}: {reason}", file=sys.stderr)
        if not options.dry_run:
            plan, numbers = prepare(root, checked)
            failed = carry_out_and_write(plan, numbers, launch, root.name)
    if options.dry_run:
        for cell in checked.runs:
            print(f"{cell.prompt}, {cell.setting.name}, seed {cell.seed}: {root / 'runs' / cell.folder}")
        return 0
    print(root / "results.csv")
    return 1 if failed else 0


def carry_out_and_write(plan: Plan, numbers: Sequence[int], launch: Launch, title: str) -> int:
    """Make the runs, then write and show the tables, also when stopped on the way; how many runs failed.

    Raises:
        SweepInterrupted: stopped on request.
    """
    from rich.console import Console

    from threedistill.sweeps.launch import SweepInterrupted, carry_out
    from threedistill.sweeps.table import rows, settings_table, summary, write_tables

    try:
        carry_out(plan, numbers, launch)
    except KeyboardInterrupt:
        write_tables(plan, title)
        raise SweepInterrupted from None
    write_tables(plan, title)
    found = rows(plan, numbers)
    if not launch.quiet:
        Console(stderr=True, width=None if sys.stderr.isatty() else 200).print(
            settings_table(summary(found), title)
        )
    return sum(row["status"] == "failed" for row in found)


@dataclass(frozen=True)
class Words:
    """What the ``key=value`` words of the command line ask for."""

    axes: tuple[tuple[str, tuple[str, ...]], ...]
    seeds: tuple[int, ...]
    launcher: str
    hydra: tuple[str, ...]
    searched: tuple[str, ...] = ()


def read_words(words: Sequence[str], searched: bool = False) -> Words:
    """Sort the words into axes (in Hydra's sweep grammar), seeds, the launcher, and settings of Hydra's own.

    Arguments:
        words: of the command line.
        searched: they are for a search, which reads its axes itself; only seeds are a grid.

    Raises:
        UsageError: a word that is no ``key=value``, an axis given twice, or seeds that are no whole numbers.
    """
    axes: dict[str, tuple[str, ...]] = {}
    launcher, hydra, left = "basic", [], dict[str, str]()
    for word in words:
        if not is_setting(word):
            raise UsageError(
                f"not a setting: {word!r}; write key=value,value (prompts go into the file of --prompts)"
            )
        key, value = word.split("=", 1)
        if key == "hydra/launcher":
            launcher = value
        elif key.startswith("hydra/"):
            raise UsageError(f"{word}: a sweep is a grid; only hydra/launcher can be chosen")
        elif key.lstrip("+~").startswith("hydra."):
            hydra.append(word)
        elif key in axes or key in left:
            raise UsageError(f"{key} is given twice; write {key}={','.join(axes.get(key, ('...',)))},{value}")
        elif searched and key != "seed":
            left[key] = word
        else:
            axes[key] = _values(word)
    seeds = axes.pop("seed", ("0",))
    check = whole_number("seed", 0, LARGEST_SEED)
    return Words(
        tuple(axes.items()),
        tuple(dict.fromkeys(check(s) for s in seeds)),
        launcher,
        tuple(hydra),
        tuple(left.values()),
    )


def _values(word: str) -> tuple[str, ...]:
    """The values of ``key=a,b``, ``key=range(0,3)``, ``key=choice(a,b)``; of anything else the one value as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, value = word.split("=", 1)
    try:
        parsed = OverridesParser.create().parse_override(word)
        if not parsed.is_sweep_override():
            return (value,)
        if not parsed.is_discrete_sweep():
            raise UsageError(
                f"{word}: a sweep is a grid; list the values of {key}, or use range(start,stop,step)"
            )
        found = tuple(dict.fromkeys(parsed.sweep_string_iterator()))
    except HydraException:
        raise UsageError(
            f"{word!r} could not be read; quote values with special characters: {key}='\"value\"'"
        ) from None
    if not found:
        raise UsageError(f"{word}: no values")
    return found
