"""``threedistill sweep --maximize METRIC --trials N``: a search in place of a grid."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from threedistill.commands.arguments import Parser, image_options, images_of, whole_number
from threedistill.commands.metric_options import asked_metrics, model_options
from threedistill.errors import UsageError

if TYPE_CHECKING:
    from threedistill.commands.sweep import Words

__all__ = ["is_search", "search", "search_options"]


def search_options(parser: Parser) -> None:
    """Add the flags of a search."""
    parser.add_argument(
        "--maximize", metavar="METRIC",
        help="search the settings for the best mean: a metric (threedistill list metrics) or a column of results.csv",
    )  # fmt: skip
    parser.add_argument("--minimize", metavar="METRIC", help="likewise for the least")
    parser.add_argument(
        "--trials",
        type=whole_number("--trials", 1, 100_000),
        metavar="N",
        help="of the search, in all (default 20)",
    )
    model_options(parser)
    image_options(parser)


def is_search(options: argparse.Namespace) -> bool:
    """Whether a search is asked for; raises UsageError for flags that contradict each other, or need one."""
    if options.maximize and options.minimize:
        raise UsageError("--maximize and --minimize exclude each other: a search has one figure")
    if options.maximize or options.minimize:
        for flag in ("budget", "dry_run", "skip_impossible", "no_eval"):
            if getattr(options, flag):
                raise UsageError(
                    f"--{flag.replace('_', '-')} belongs to a grid; a search is bounded by --trials"
                )
        return True
    for flag in ("trials", "model", "distractors"):
        if getattr(options, flag) is not None:
            raise UsageError(f"--{flag} belongs to a search; add --maximize METRIC")
    return False


def search(options: argparse.Namespace, words: Words, root: Path) -> int:
    """Search, write the tables and ``search.json``; the last line on stdout is the path of the latter."""
    from threedistill.sweeps.figures import figure_for
    from threedistill.sweeps.job import finished
    from threedistill.sweeps.launch import (
        Launch,
        SweepInterrupted,
        carry_out,
        check_launcher,
        check_runs,
        prepare,
    )
    from threedistill.sweeps.plan import Plan, Setting, cells, read_pictures, read_prompts
    from threedistill.sweeps.search import Search, axis, check_optuna
    from threedistill.sweeps.table import write_tables

    check_optuna()
    figure = figure_for(asked_metrics(options, (options.maximize or options.minimize,)))
    check_launcher(words.launcher)
    prompts = read_prompts(options.prompts)
    for prompt in prompts:
        figure.check_text(prompt)
    images, cameras = images_of(options)
    launch = Launch(words.launcher, words.hydra, quiet=options.quiet)

    def value(setting: Setting) -> float | None:
        plan, numbers = prepare(root, check_runs(cells(prompts, words.seeds, [setting])))
        carry_out(plan, numbers, launch)
        folders = [plan.folder(n) for n in numbers]
        found = [figure.of(folder) for folder in folders if finished(folder)]
        values = [v for v in found if v is not None]
        return sum(values) / len(values) if len(values) == len(folders) else None

    def say(line: str) -> None:
        if not options.quiet:
            print(line, file=sys.stderr, flush=True)

    setting = {
        "preset": options.preset, "negative": options.negative or "", "device": options.device or "auto",
        "pictures": read_pictures(images, cameras),
    }  # fmt: skip
    one = Search(
        root, [axis(word) for word in words.searched], figure.name, options.minimize is None, value,
        {"prompts": prompts, "seeds": list(words.seeds), "setting": setting}, say,
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        try:
            found = one.run(options.trials or 20)
        except KeyboardInterrupt:
            raise SweepInterrupted from None
        finally:
            if (root / "sweep" / "plan.json").is_file():
                write_tables(Plan(root), root.name)
    if found.best is None:
        raise UsageError(f"no trial gave a figure; {root / 'results.csv'} says why")
    best = " ".join(f"{key}={text}" for key, text in found.best["settings"].items())
    say(f"best of {len(found.trials)} trials: {best}: {figure.name} {found.best['value']:.4g}")
    print(root / "search.json")
    return 0
