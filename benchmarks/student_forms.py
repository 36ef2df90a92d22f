"""The two forms of student side by side on a tiny pair of Stable Diffusions with random weights, eps and v.

    python benchmarks/student_forms.py [--steps 200] [--lr 3e-3]

``lora`` is ours: adapters on the teacher's own eps-network, a camera withheld from samples with p = 0.2. ``lora_v`` is
ProlificDreamer's: adapters on a v-network beside the eps-teacher, all levels, a camera withheld from batches with
p = 0.1. Both learn the same true pictures of a Toybox object at the same rate. Printed are milliseconds of processor
time per step, and errors in eps on views, noise and levels (t in [0.3, 0.95]) that neither has seen, with and without
the camera, beside those of the two networks without adapters. Random weights say how the forms behave, not how well
either distils.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from student import Views

from tests.priors.conftest import build_pipeline
from threedistill.conditions import Conditions
from threedistill.config import compose
from threedistill.protocols import Prior
from threedistill.rng import Streams
from threedistill.training.assemble import build_learners, build_prior
from threedistill.training.planning import build_plan
from threedistill.training.student_step import Shown

PROMPT, VIEWS = "a red duck", 4


def error(network: Prior, batches: list[Shown], camera: bool) -> float:
    """Mean square error in eps."""
    found = []
    for index, shown in enumerate(batches):
        facts = Conditions([PROMPT] * VIEWS, shown.cameras if camera else None, shown.conditions.background)
        told = network.conditioning(facts.only(network.wants))
        generator = torch.Generator().manual_seed(index)
        level = network.path.at_fraction(0.3 + 0.65 * torch.rand(VIEWS, generator=generator))
        noise = torch.randn(shown.x0.shape, generator=generator)
        answer = network.predict(level.add_noise(shown.x0, noise), level, told)
        found.append(float((answer.eps - noise).square().mean()))
    return sum(found) / len(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for seed, kind in enumerate(("epsilon", "v_prediction")):
            build_pipeline(kind, seed).save_pretrained(Path(folder, kind))
        print(f"{'form':8s} {'ms a step':>10s} {'eps error':>10s} {'blind':>8s} {'no adapters':>12s}")
        for form in ("lora", "lora_v"):
            overrides = [
                f"student={form}", f"prior.model.model={folder}/epsilon", "prior.model.cache=false",
                "prior.model.size=32", f"student.training.lr={given.lr}", "student.training.warmup=20",
                "student.training.measure_every=1000000000", f"cameras.views={VIEWS}",
            ]  # fmt: skip
            if form == "lora_v":
                overrides += [f"student.base.model={folder}/v_prediction", "student.base.cache=false"]
            plan = build_plan(compose(prompt=PROMPT, prior="sd21", guidance="vsd", overrides=overrides))
            prior = build_prior(plan, torch.device("cpu"))
            learner = build_learners(plan, plan.stages[0], prior, {})["student"]
            assert hasattr(prior, "network")
            views, rng = Views(prior, PROMPT, VIEWS), Streams(0)  # type: ignore[arg-type]
            test = [views(rng.at(10**6 + k)) for k in range(16)]
            optimizer, spent = learner.optimizer(), 0.0
            for index in range(given.steps):
                shown = views(rng.at(index))
                start = time.process_time()
                learner(optimizer, shown, rng.at(index), 0.0, lambda loss: loss.backward())
                spent += time.process_time() - start
            student = learner.model
            print(
                f"{form:8s} {1e3 * spent / given.steps:10.1f} {error(student, test, True):10.4f} "
                f"{error(student, test, False):8.4f} {error(student.frozen, test, False):12.4f}"
            )


if __name__ == "__main__":
    main()
