"""The public held-out benchmark: make an asset for every prompt, judge the reopened files, print the table.

    python benchmarks/heldout.py --preset draft --out runs/heldout            all 24 prompts, then the table
    python benchmarks/heldout.py --shard 0/2 & python benchmarks/heldout.py --shard 1/2   side by side
    python benchmarks/heldout.py --table --ceiling 6                          the table of what is there

``--seeds 2 --every 2`` makes two seeds of every other prompt. Finished runs are not repeated. ``--ceiling N`` adds the
ceiling row (the same field fitted to ground-truth pictures with the same budget and export) for the first N prompts.
``results.json``, ``results.md`` (the table of docs/results.md) and ``sheet.png`` land in the out folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sheet import sheet

from threedistill.threads import settle_threads

settle_threads()

if TYPE_CHECKING:
    from threedistill.evaluation.report import Report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for threedistill generate")
    parser.add_argument("--out", type=Path, default=Path("runs/heldout"))
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1 of every prompt")
    parser.add_argument("--prompts", type=int, default=24, help="the first N of the public prompts")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th of them")
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th run from the I-th")
    parser.add_argument("--table", action="store_true", help="make nothing, only judge what is there")
    parser.add_argument(
        "--ceiling", type=int, default=0, metavar="N", help="ceiling row for the first N prompts"
    )
    options = parser.parse_args()

    from threedistill.pipeline import generate
    from threedistill.sweeps.job import finished
    from threedistill.toybox.scenes import held_out
    from threedistill.training.naming import slug

    prompts = held_out()[: options.prompts : options.every]
    wanted = [(p, s) for p in prompts for s in range(options.seeds)]
    folders = {(p, s): options.out / f"{slug(p)}-s{s}" for p, s in wanted}
    index, count = (int(n) for n in options.shard.split("/"))
    if not options.table:
        for prompt, seed in wanted[index::count]:
            if finished(folder := folders[prompt, seed]):
                continue
            result = generate(
                prompt, out=folder, preset=options.preset, seed=seed, overwrite=True, quiet=True,
                overrides=options.overrides,
            )  # fmt: skip
            print(f"{sum(result.seconds.values()):6.0f} s  {prompt:44} {result.verdict}", flush=True)
    if count == 1:
        made = [f for f in folders.values() if (f / "asset" / "model.glb").exists()]
        fitted = [f for p in prompts[: options.ceiling] if (f := folders[p, 0]) in made]
        table(options.out, made, fitted)


def markdown(report: Report) -> str:
    """The table as it stands in docs/results.md, and what several seeds of one prompt differ in."""
    from threedistill.config.critics import critic_for
    from threedistill.evaluation.appearance import diversity, pictures, world_spread
    from threedistill.evaluation.report import cell, column, lookup
    from threedistill.evaluation.statistics import bootstrap
    from threedistill.exports.read import read_mesh

    columns = {
        "rank 1 of 24": "requirements.rank_first", "kind and colour": "requirements.kind_and_color",
        "both": "requirements.recognised", "silhouette IoU": "shape.silhouette_iou", "parts": "judge.parts.share",
        "SSIM": "similarity.ssim", "PSNR": "similarity.psnr", "volume IoU": "volume_iou", "Janus": "judge.janus.share",
        "one piece": "requirements.one_component", "genus": "requirements.genus", "clean": "judge.clean",
    }  # fmt: skip

    several = len({r["seed"] for r in report.runs}) > 1
    lines = ["| " + " | ".join(["prompt", *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    for run in report.runs:
        name = f"{run['prompt']}, seed {run['seed']}" if several else run["prompt"]
        lines.append(
            "| " + " | ".join([name, *(cell(lookup(run, path)) for path in columns.values())]) + " |"
        )
    for name, items in (("**mean**", report.runs), ("ceiling", report.ceilings)):
        if items:
            means = [str(column(items, path) or "-") for path in columns.values()]
            lines.append("| " + " | ".join([name, *means]) + " |")
    ious = [x for r in report.runs if (x := lookup(r, "shape.silhouette_iou")) is not None]
    lines += ["", f"Median silhouette IoU {median(ious):.2f}."] if ious else []
    by_prompt: dict[str, list[Path]] = {}
    for run in report.runs:
        by_prompt.setdefault(run["prompt"], []).append(Path(run["asset"]))
    found = {
        prompt: diversity(
            [pictures(read_mesh(f), lit=False).rgb for f in files],
            world_spread(prompt, critic_for(prompt).truth),
        )
        for prompt, files in by_prompt.items()
        if len(files) > 1
    }
    values = [(p, v) for p, v in found.items() if v is not None]
    if values:
        mean = bootstrap([v for _, v in values], groups=[p for p, _ in values])
        lines.append(f"Difference between seeds over the world's own: {mean}.")
    return "\n".join(lines) + "\n"


def table(out: Path, folders: list[Path], fitted: list[Path]) -> None:
    """Judge the runs, print the table, and write all numbers and a sheet; a ceiling for the prompts of ``fitted``."""
    from rich.console import Console

    from threedistill.atomic import write_text
    from threedistill.commands.evaluate import ceiling_fit
    from threedistill.config.critics import critic_for
    from threedistill.evaluation.report import evaluate_runs

    report = evaluate_runs(folders, critic_for, progress=print)
    if fitted:
        part = evaluate_runs(fitted, critic_for, ceiling=ceiling_fit(), progress=print)
        report = replace(report, ceilings=part.ceilings)
    write_text(out / "results.json", json.dumps(report.as_dict(), indent=1, default=str) + "\n")
    write_text(out / "results.md", markdown(report))
    Console(width=160).print(report.table())
    sheet(out / "sheet.png", folders)


if __name__ == "__main__":
    main()
