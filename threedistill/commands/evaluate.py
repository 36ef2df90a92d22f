"""``threedistill eval``: judge the assets of finished runs from their files."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from threedistill.commands.arguments import Parser, limit_option, limits_of, unknown
from threedistill.commands.metric_options import asked_metrics, metric_options
from threedistill.commands.resume import run_folder
from threedistill.errors import UsageError
from threedistill.messages import shown

__all__ = ["ceiling_fit", "parser", "run"]

_EPILOG = """\
examples:
  threedistill eval runs/*
  threedistill eval runs/* --metrics clip,rprecision,janus --model clip=models/clip-vit-base-patch32
  threedistill eval runs/* --metrics fid:clip --model clip=models/clip --reference pictures

Writes eval.json into each run's folder. The judge knows the Toybox vocabulary; of other assets the mesh's health is
said. --metrics measures 24 fixed views (threedistill list metrics; NAME:SCORER for another scorer than a metric's
own). --ceiling adds what the same field reaches when it is fitted to ground-truth pictures with the same budget and
export (as long as a run, per prompt).
"""


def parser() -> Parser:
    """The options of ``eval``."""
    p = Parser("eval", "DIR [DIR ...] [options]", "Judge the assets of finished runs.", _EPILOG)
    p.add_argument("--out", metavar="FILE", help="write all results and their summary as one JSON file")
    metric_options(p)
    p.add_argument(
        "--layout", action="append", metavar="L=DIR",
        help="also write the assets as a benchmark reads them: gpteval3d=DIR or t3bench=DIR",
    )  # fmt: skip
    p.add_argument("--method", metavar="NAME", help="what they are called there (default threedistill)")
    p.add_argument("--ceiling", action="store_true", help="add the ceiling row (slow)")
    limit_option(p)
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def run(argv: Sequence[str]) -> int:
    """Judge the runs and print a table; exit status 1 if some of them could not be judged."""
    options, data = parser().parse(argv)
    if not data:
        raise UsageError("eval needs run folders: threedistill eval runs/a-red-mushroom-s0")
    folders = [folder for name in data for folder in _folders(name)]
    layouts = _layouts(options)
    from threedistill.config.critics import critic_for
    from threedistill.config.metrics import metrics_for
    from threedistill.evaluation.report import evaluate_runs

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    with contextlib.redirect_stdout(sys.stderr), limits_of(options):
        report = evaluate_runs(
            folders, critic_for, metrics=metrics_for(asked_metrics(options, options.metrics or ())),
            combined=options.out, ceiling=ceiling_fit() if options.ceiling else None, progress=say,
        )  # fmt: skip
        for write in layouts:
            for found in report.runs:
                say(str(write(found)))
    if options.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, default=str))
    else:
        from rich.console import Console

        # A pipe has no width of its own; a table that is cut off says nothing.
        Console(width=None if sys.stdout.isatty() else 160).print(report.table())
    return 1 if report.failed else 0


def _folders(name: str) -> list[Path]:
    """The run of this name, or those of a benchmark's folder."""
    folder = Path(name)
    if folder.parent.name == "outputs_mesh_t3" and folder.is_dir():
        from threedistill.evaluation.layouts import read_t3bench

        found = read_t3bench(folder)
        if not found:
            raise UsageError(
                f"{name}: no PROMPT/save/it0-export/model.obj in it, as T3Bench's methods leave them"
            )
        return found
    if next(folder.glob("*/*/rgb_0.png"), None) is not None:
        raise UsageError(f"{name}: GPTEval3D's folders hold pictures only; give the runs they were made from")
    return [run_folder(name)]


def _layouts(options: argparse.Namespace) -> list[Callable[[dict[str, Any]], Path]]:
    """Who writes a run into each benchmark's folder; raises UsageError for one that is none."""
    from threedistill.evaluation.layouts import LAYOUTS

    method = options.method or "threedistill"
    if not method.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--method {method!r} must be letters, digits, - and _")
    if options.method and not options.layout:
        raise UsageError("--method names us in a benchmark's folder; add --layout L=DIR")
    found: list[Callable[[dict[str, Any]], Path]] = []
    for given in options.layout or ():
        name, _, place = given.partition("=")
        if not place:
            raise UsageError(f"--layout needs a layout and a folder, such as t3bench=T3Bench, not {given!r}")
        if name not in LAYOUTS:
            raise UsageError(unknown("--layout", name, tuple(LAYOUTS)))
        found.append(functools.partial(LAYOUTS[name], Path(place), method))
    return found


def ceiling_fit() -> Callable[[Path, str], Path]:
    """Fits the run's own representation to the truth, with the run's own budget and export."""

    def fit(run_dir: Path, prompt: str) -> Path:
        from threedistill.config import read_config
        from threedistill.config.critics import critic_for
        from threedistill.evaluation.ceiling import fit_ceiling
        from threedistill.training.planning import build_plan
        from threedistill.training.progress import Bar

        truth = critic_for(prompt).truth(prompt)
        if truth is None:
            raise UsageError(f"--ceiling: nobody knows what {shown(prompt)} truly looks like; leave it out")
        plan = build_plan(read_config(run_dir / "config.yaml"))
        last = plan.stages[-1]
        bar = Bar(f"ceiling of {prompt!r}", plan.iterations)
        try:
            return fit_ceiling(
                last.scene.model.make(), truth, prompt, run_dir / "ceiling", plan.export, steps=plan.iterations,
                views=plan.stages[0].cameras.most, seed=plan.names.seed, rates=last.scene.rates, on_step=bar.step,
            )  # fmt: skip
        finally:
            bar.close()

    return fit
