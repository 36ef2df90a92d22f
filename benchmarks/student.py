"""What a LoRA student costs and how fast it learns, away from any scene.

    python benchmarks/student.py                                # time per call, and gains after 60, 120 and 180 steps
    python benchmarks/student.py --prompt "a red duck" --steps 300 --set rank=4 --set lr=3e-3 --window 0.8 0.97

It learns the true pictures of a Toybox object from random cameras, drawn by the law that distillation uses. A finished
object is the hardest case: the teacher itself already explains most of it. Gains are measured on views and noise it has
not seen.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields

import torch
import yaml

from threedistill.cameras import CameraSampler
from threedistill.conditions import Conditions
from threedistill.config import build, compose
from threedistill.guidance.timesteps import Uniform, Window
from threedistill.priors.lora import LoRA
from threedistill.prompts import PromptSet
from threedistill.protocols import NetworkPrior
from threedistill.render.mesh import render_mesh
from threedistill.representations.background import BackgroundSampler
from threedistill.rng import Streams
from threedistill.toybox.priors.oracle import ground_truth
from threedistill.training.student_step import Gains, Learner, Shown, StudentTraining


class Views:
    """True pictures of a prompt from random cameras, over random backgrounds."""

    def __init__(self, prior: NetworkPrior, prompt: str, views: int) -> None:
        self.prior, self.mesh = prior, ground_truth(prompt)
        self.cameras, self.background = CameraSampler(views), BackgroundSampler(0.5, 0.35)

    def __call__(self, rng: Streams) -> Shown:
        cameras = self.cameras.sample(rng, 64)
        background = self.background.sample(rng, len(cameras), 1, avoid=torch.full((3,), 0.5))
        with torch.no_grad():
            picture = render_mesh(self.mesh, cameras, shading="none", background=background).rgb
            return Shown(self.prior.space.encode(picture), Conditions((), cameras, background))


def _milliseconds(work) -> float:
    work()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", default="an orange robot")
    parser.add_argument("--steps", type=int, default=180, help="scene steps")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument(
        "--window", type=float, nargs=2, default=(0.8, 0.97), help="noise levels, fractions of t"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="student.model or .training"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    config = compose(prompt=options.prompt, overrides=["student=lora"])
    model, training = config["student"]["model"], config["student"]["training"]
    for line in options.set:
        key, value = line.split("=", 1)
        node = model if key in {f.name for f in fields(LoRA)} else training
        node[key] = yaml.safe_load(value) if "e" not in value else float(value)
    prior = build(config["prior"]["model"], "prior.model")
    student = build(model, "student.model").attach(prior, 0)
    settings: StudentTraining = build(
        {**training, "timesteps": None, "measured_at": None, "measure_every": 10**9}, "student.training"
    )
    levels = Uniform(Window(*options.window), draw="spread")
    learner = Learner("student", student, settings, PromptSet(options.prompt), levels)
    optimizer, views = learner.optimizer(), Views(prior, options.prompt, options.views)
    rng = Streams(0)

    shown = views(rng)
    texts = [options.prompt] * options.views
    level = prior.path.at_fraction(torch.full((options.views,), 0.9))
    x_t = level.add_noise(shown.x0, torch.randn_like(shown.x0))
    facts = shown.conditions.saying(texts).without("camera")
    told, plain = (m.conditioning(facts) for m in (student, prior))
    print(f"{sum(p.numel() for p in student.parameters()):,} parameters; for {options.views} pictures:")
    print(f"  teacher {_milliseconds(lambda: prior.predict(x_t, level, plain)):.1f} ms")
    print(f"  student {_milliseconds(lambda: student.predict(x_t, level, told)):.1f} ms")

    def learn() -> None:
        student.answer(x_t, level, told).value.square().mean().backward()

    print(f"  student, forward and backward {_milliseconds(learn):.1f} ms")
    optimizer.zero_grad(set_to_none=True)

    for index in range(1, options.steps + 1):
        now = rng.at(index)
        learner(optimizer, views(now), now, 0.0, lambda loss: loss.backward())
        if index % max(options.steps // 3, 1) == 0:
            losses = []
            for batch in range(8):
                other = rng.at(10**6 + batch)
                found = learner.measure(views(other), other, 0.0, 4)
                losses.append([found.camera, found.null, found.frozen])
            gains = Gains(*torch.tensor(losses).mean(0).tolist())
            print(
                f"after {index} x {settings.steps} steps: student_gain {gains.student_gain:.3f}, "
                f"camera_gain {gains.camera_gain:.5f} (losses {gains.camera:.4f}, without camera {gains.null:.4f}, "
                f"frozen {gains.frozen:.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
