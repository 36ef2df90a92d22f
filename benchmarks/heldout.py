"""The public held-out benchmark: make an asset for every prompt, judge the reopened files, print the table.

    python benchmarks/heldout.py --preset draft --out runs/heldout            all 24 prompts, then the table
    python benchmarks/heldout.py --shard 0/2 & python benchmarks/heldout.py --shard 1/2   side by side
    python benchmarks/heldout.py --table --ceiling 6                          the table of what is there

Finished runs are not repeated. ``--ceiling N`` adds the ceiling row (the same field fitted to ground-truth pictures
with the same budget and export) for the first N prompts. ``results.json`` and ``sheet.png`` land in the out folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from sheet import sheet

from threedistill.threads import settle_threads

settle_threads()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for threedistill generate")
    parser.add_argument("--out", type=Path, default=Path("runs/heldout"))
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=24, help="the first N of the public prompts")
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th prompt from the I-th")
    parser.add_argument("--table", action="store_true", help="make nothing, only judge what is there")
    parser.add_argument(
        "--ceiling", type=int, default=0, metavar="N", help="ceiling row for the first N prompts"
    )
    options = parser.parse_args()

    from threedistill.pipeline import generate
    from threedistill.toybox.grammar import held_out
    from threedistill.training.run_folder import RunFolder, slug

    prompts = held_out()[: options.prompts]
    folders = {p: options.out / f"{slug(p)}-s{options.seed}" for p in prompts}
    index, count = (int(n) for n in options.shard.split("/"))
    if not options.table:
        for prompt in prompts[index::count]:
            run = RunFolder(folders[prompt])
            if run.exists and run.read_record().get("status") == "done":
                continue
            result = generate(
                prompt, out=run.path, preset=options.preset, seed=options.seed, overwrite=True, quiet=True,
                overrides=options.overrides,
            )  # fmt: skip
            print(f"{sum(result.seconds.values()):6.0f} s  {prompt:44} {result.verdict}", flush=True)
    if count == 1:
        table(
            options.out,
            [f for f in folders.values() if (f / "asset" / "model.glb").exists()],
            options.ceiling,
        )


def table(out: Path, folders: list[Path], ceilings: int) -> None:
    """Judge the runs, print the table, and write all numbers and a sheet of all assets."""
    from rich.console import Console

    from threedistill.atomic import write_text
    from threedistill.commands.evaluate import ceiling_fit
    from threedistill.evaluation.report import evaluate_runs

    report = evaluate_runs(folders, progress=print)
    if ceilings:
        part = evaluate_runs(folders[:ceilings], ceiling=ceiling_fit(), progress=print)
        report = replace(report, ceilings=part.ceilings)
    write_text(out / "results.json", json.dumps(report.as_dict(), indent=1, default=str) + "\n")
    Console(width=160).print(report.table())
    sheet(out / "sheet.png", folders)


if __name__ == "__main__":
    main()
