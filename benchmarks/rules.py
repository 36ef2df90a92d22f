"""Rules side by side on the embedded prior: an asset of every prompt under every rule, judged from the reopened files.

    python benchmarks/rules.py --preset draft --out runs/rules
    python benchmarks/rules.py --rules sds,vsd --prompts "a red duck" student=lora     any rules, prompts, settings

Finished runs are not repeated. ``results.json``, ``results.md`` (the table of docs/results.md: a rule a row, means over
the prompts) and ``sheet.png`` (a rule a row, a prompt a column) land in the out folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sheet import sheet

from threedistill.threads import settle_threads

settle_threads()

if TYPE_CHECKING:
    from threedistill.evaluation.report import Report

RULES = "sds,vsd,esd,csds,csm"
PROMPTS = ("an orange robot", "a white owl", "a green house", "a yellow television", "a red car")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for threedistill generate")
    parser.add_argument("--out", type=Path, default=Path("runs/rules"))
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--rules", default=RULES, help="names with commas between them")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=2, help="of every asset, in the sheet")
    options = parser.parse_args()

    from threedistill.atomic import write_text
    from threedistill.config.critics import critic_for
    from threedistill.evaluation.report import evaluate_runs
    from threedistill.pipeline import generate
    from threedistill.sweeps.job import finished
    from threedistill.training.naming import slug

    rules = options.rules.split(",")
    folders = {rule: [options.out / rule / slug(prompt) for prompt in options.prompts] for rule in rules}
    for rule in rules:
        for prompt, folder in zip(options.prompts, folders[rule]):
            if finished(folder):
                continue
            result = generate(
                prompt, out=folder, preset=options.preset, guidance=rule, seed=options.seed, overwrite=True,
                quiet=True, overrides=options.overrides,
            )  # fmt: skip
            print(f"{sum(result.seconds.values()):6.0f} s  {rule:8} {prompt:24} {result.verdict}", flush=True)
    reports = {rule: evaluate_runs(folders[rule], critic_for) for rule in rules}
    table = markdown(reports)
    write_text(options.out / "results.md", table)
    found = {rule: report.as_dict() for rule, report in reports.items()}
    write_text(options.out / "results.json", json.dumps(found, indent=1, default=str) + "\n")
    print(table)
    every = [folder for rule in rules for folder in folders[rule]]
    sheet(options.out / "sheet.png", every, options.views, columns=len(options.prompts))


def markdown(reports: dict[str, Report]) -> str:
    """A row for each rule: means over its runs."""
    from threedistill.evaluation.report import column

    columns = {
        "right": "requirements.recognised", "SSIM": "similarity.ssim", "PSNR": "similarity.psnr",
        "silhouette IoU": "shape.silhouette_iou", "parts": "judge.parts.share", "clean": "judge.clean",
        "Janus": "judge.janus.share", "one piece": "requirements.one_component", "genus": "requirements.genus",
    }  # fmt: skip
    lines = ["| " + " | ".join(["rule", *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    for rule, report in reports.items():
        means = (column(report.runs, path) for path in columns.values())
        lines.append(
            "| " + " | ".join([rule, *("-" if m is None else f"{m.value:.3f}" for m in means)]) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
