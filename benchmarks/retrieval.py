"""R-precision where the answer is known: the world's own objects, looked at by the toy judge.

    python benchmarks/retrieval.py [--shuffles 5]

Every held-out prompt's object in the metrics' rig (24 views) with its own prompt, then with prompts that are dealt out
anew. Goal: at least 0.95, and chance.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import replace
from pathlib import Path

from threedistill.config.metrics import Asked, metrics_for
from threedistill.evaluation.metrics.metric import Sight
from threedistill.toybox.grammar import parse
from threedistill.toybox.scenes import held_out
from threedistill.toybox.world import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shuffles", type=int, default=5)
    words = parser.parse_args()
    metric = metrics_for(Asked(("rprecision:toybox",)))["rprecision:toybox"]
    sights = []
    for prompt in held_out():
        sight = Sight(prompt, Path("none"))
        sight.__dict__["mesh"] = build(parse(prompt).scene, None)
        sights.append(sight)
    found = [metric.measure(sight) for sight in sights]
    print(f"{len(sights)} objects, 24 views each, judge {metric.version}")
    print(
        f"own prompts: {statistics.mean(one['value'] for one in found):.4f} of the views, "
        f"{sum(one['first'] for one in found):.0f} of {len(found)} objects by the mean over their views"
    )
    dealer, values = random.Random(0), []
    for _ in range(words.shuffles):
        prompts = [sight.prompt for sight in sights]
        dealer.shuffle(prompts)
        values += [metric.measure(replace(s, prompt=p))["value"] for s, p in zip(sights, prompts)]
    print(f"shuffled prompts: {statistics.mean(values):.4f}; chance {found[0]['chance']:.4f}")


if __name__ == "__main__":
    main()
