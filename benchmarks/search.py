"""Try settings of the main job on training prompts and print what the judge says of each.

    python benchmarks/search.py --out runs/search cfg.scale=5 cfg.scale=10 "cfg.scale=10 cfg.x0_clip=static"

Each positional argument is one setting: overrides separated by blanks ("" is the default). Every setting makes every
prompt of PROMPTS (none of them held out) at the draft preset with seed 0; runs that are already there are not
repeated. The table and ``search.json`` hold, per setting: share of prompts whose kind and colour are right, share
ranked first of the public captions, median silhouette IoU, mean Janus estimate, mean "clean" score, seconds per run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

PROMPTS = (
    "a red mushroom",
    "a blue car",
    "a yellow duck",
    "a green house",
    "an orange robot",
    "a brown teddy bear",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", default=[""])
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="use only the first N prompts")
    options = parser.parse_args()

    from threedistill.pipeline import generate
    from threedistill.toybox.evaluation.critic import evaluate_asset
    from threedistill.training.naming import slug
    from threedistill.training.run_folder import RunFolder

    results = {}
    for setting in options.settings:
        rows = []
        for prompt in PROMPTS[: options.prompts]:
            folder = options.out / slug(f"{options.preset} {setting}", 100) / slug(prompt)
            record = RunFolder(folder).read_record() if folder.is_dir() else {}
            if record.get("status") != "done":
                generate(
                    prompt, out=folder, preset=options.preset, overwrite=True, quiet=True,
                    overrides=setting.split(),
                )  # fmt: skip
                record = RunFolder(folder).read_record()
            found = evaluate_asset(folder / "asset" / "model.glb", prompt)
            rows.append({**found, "seconds": sum(record["seconds"].values())})
            print(f"  {setting or '(default)':40} {prompt:20} {found['verdict']}", flush=True)
        results[setting or "(default)"] = summary = _summary(rows)
        print(
            f"{setting or '(default)':44} " + "  ".join(f"{k} {v:.2f}" for k, v in summary.items()),
            flush=True,
        )
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "search.json"
    earlier = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps({**earlier, **results}, indent=1))


def _summary(rows: list[dict]) -> dict[str, float]:
    janus = [r["judge"]["janus"]["share"] for r in rows if r["judge"]["janus"]]
    return {
        "kind_and_color": statistics.fmean(r["requirements"]["kind_and_color"] for r in rows),
        "first": statistics.fmean(r["judge"]["rank"] == 1 for r in rows),
        "iou": statistics.median(r["shape"]["silhouette_iou"] for r in rows),
        "janus": statistics.fmean(janus) if janus else float("nan"),
        "clean": statistics.fmean(r["judge"]["clean"] for r in rows),
        "seconds": statistics.fmean(r["seconds"] for r in rows),
    }


if __name__ == "__main__":
    main()
