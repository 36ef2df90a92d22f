"""How far the judge can be trusted where it is used: at the evaluation cameras, on objects with one and two faces.

    python -m threedistill.toybox.evaluation.judge_figures

Unseen objects of kinds with a front go through the very path an asset goes through; what comes out is known.
"""

from __future__ import annotations

import json
import math
import random
from typing import Any

import torch

from threedistill.cameras import view_name
from threedistill.evaluation.janus import AZIMUTHS, ELEVATION, janus_estimate
from threedistill.evaluation.statistics import bootstrap
from threedistill.toybox.evaluation.judging import look
from threedistill.toybox.evaluation.judging import many_faced as rejects
from threedistill.toybox.grammar import ObjectSpec, Scene
from threedistill.toybox.judge import VIEWS, Judge
from threedistill.toybox.judge_data import FACES, many_faced
from threedistill.toybox.lexicon import COLORS, FRONTED
from threedistill.toybox.world import build

__all__ = ["judge_figures"]


def judge_figures(per_kind: int = 4, seed: int = 0, judge: Judge | None = None) -> dict[str, Any]:
    """Accuracy at the 24 evaluation azimuths, and what the Janus estimate says of objects whose faces are known.

    Arguments:
        per_kind: objects of each kind with a front, of random colours and proportions.
        seed: of the objects (never a training object: those are drawn from other streams).
        judge: default the shipped one.

    Returns:
        ``kind, color, view, clean`` rates, and of normal objects and those with too many faces (:data:`FACES`) the
        mean Janus shares and the rates of :func:`~threedistill.toybox.evaluation.judging.many_faced`, each with a 95 %
        interval over objects; ``by_kind`` some of them.
    """
    judge = judge or Judge.load()
    words = judge.vocabulary
    wanted = torch.tensor(
        [VIEWS.index(view_name(2 * math.pi * k / AZIMUTHS, math.radians(ELEVATION))) for k in range(AZIMUTHS)]
    )
    rates: dict[str, list[float]] = {}
    by_kind: dict[str, dict[str, list[float]]] = {}
    for kind in sorted(FRONTED & set(judge.vocabulary.kinds)):
        for index in range(per_kind):
            rng = random.Random(f"judge-figures/{seed}/{kind}/{index}")
            color = rng.choice(list(COLORS))
            mesh = build(Scene((ObjectSpec(kind, color),)), rng)
            reading = judge(look(mesh, AZIMUTHS))
            found = {
                "kind": float((reading.kind_logp.argmax(1) == words.kinds.index(kind)).float().mean()),
                "color": float((reading.color_logp.argmax(1) == words.colors.index(color)).float().mean()),
                "view": float((reading.view_logp.argmax(1) == wanted).float().mean()),
                "clean": float((reading.clean > 0.5).float().mean()),
                "janus_normal": janus_estimate(reading.view_logp).share,
            }
            found["rejected_normal"] = float(rejects(reading))
            for sort in FACES:
                two = judge(look(many_faced(mesh, sort), AZIMUTHS))
                found[f"janus_{sort}"] = janus_estimate(two.view_logp).share
                found[f"rejected_{sort}"] = float(rejects(two))
            found["rejected"] = sum(found[f"rejected_{sort}"] for sort in FACES) / len(FACES)
            for name, value in found.items():
                rates.setdefault(name, []).append(value)
                by_kind.setdefault(kind, {}).setdefault(name, []).append(value)
    shown = ("view", "janus_normal", "janus_mirrored", "rejected")
    return {
        "judge_version": judge.version,
        "objects": len(rates["kind"]),
        **{name: bootstrap(values).as_dict() for name, values in rates.items()},
        "by_kind": {
            kind: {n: round(sum(v) / len(v), 3) for n, v in values.items() if n in shown}
            for kind, values in by_kind.items()
        },
    }


if __name__ == "__main__":
    print(json.dumps(judge_figures(), indent=1))
