"""Milliseconds per phase of one distillation step, and the ratio of everything else to the teacher.

    python benchmarks/step.py                     # field alone, and the teacher when one is there
    python benchmarks/step.py --views 8 --threads 2 --steps 50 --no-teacher
    python benchmarks/step.py --prior sd15-random --resolution 512      # a teacher of real size (step_teacher.py)

The field is fitted to a ball for ``--warmup`` steps first, so that occupancy and sample counts are those of an object
and not of the initial blob. Each phase is timed on its own on the same samples; ``step`` is the real thing in one go.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from threedistill.cameras import CameraSampler
from threedistill.conditions import Conditions
from threedistill.ops.composite import composite
from threedistill.ops.hash_encode import hash_encode
from threedistill.ops.mlp import fused_mlp
from threedistill.protocols import RenderContext
from threedistill.representations.background import BackgroundSampler
from threedistill.representations.hashgrid import HashGrid
from threedistill.rng import Streams
from threedistill.types import Cameras


def _ball(cameras: Cameras, background: torch.Tensor, radius: float = 0.6) -> torch.Tensor:
    """Renders of a ball coloured by its normals: a target that needs no mesh."""
    origins, directions = cameras.rays()
    closest = -(origins * directions).sum(-1, keepdim=True)
    discriminant = closest**2 - (origins**2).sum(-1, keepdim=True) + radius**2
    point = origins + directions * (closest - discriminant.clamp_min(0).sqrt())
    return torch.where(discriminant > 0, 0.5 + 0.5 * point / radius, background[:, None, None, :])


def _time(work: Callable[[], object], repeats: int) -> float:
    """Median milliseconds."""
    work()
    spans = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spans.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spans)


def _teacher(views: int, size: int, repeats: int) -> float | None:
    """Milliseconds of two conditions for ``views`` images by the embedded prior; None when it is not there."""
    try:
        from threedistill.config import build, compose
    except ImportError:
        return None
    try:
        prior = build(compose(prompt="a red mushroom")["prior"]["model"], "prior.model", [])
        cameras = CameraSampler(views).sample(Streams(0), size)
        told = prior.conditioning(Conditions(["a red mushroom"] * views, cameras, torch.ones(views, 3)))
        level = prior.path.at_fraction(torch.full((2 * views,), 0.5))
        both = {name: torch.cat([value, value]) for name, value in told.items()}
        x = torch.randn(2 * views, *prior.space.shape)
        return _time(lambda: prior.predict(x, level, both), repeats)
    except Exception as error:  # a benchmark of the field must run without the teacher
        print(f"teacher: not measured ({type(error).__name__}: {error})")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=30, help="repeats of each measurement")
    parser.add_argument("--warmup", type=int, default=200, help="steps of fitting before measuring")
    parser.add_argument("--no-teacher", action="store_true")
    parser.add_argument("--prior", choices=["toybox", "sd15-random"], default="toybox")
    large = parser.add_argument_group("with --prior sd15-random")
    large.add_argument("--resolution", type=int, default=512)
    large.add_argument("--representations", nargs="+", default=["gaussians", "dmtet", "hashgrid"])
    large.add_argument("--repeats", type=int, default=1)
    large.add_argument(
        "--threestudio", type=Path, help="a checkout, whose guidance is run beside ours (step_peer.py)"
    )
    large.add_argument("overrides", nargs="*", help="settings of the run")
    arguments = parser.parse_args()
    if arguments.prior == "sd15-random":
        from step_teacher import compare

        return compare(arguments)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    field = HashGrid()
    groups = field.parameter_groups()
    rows = [{"params": groups["table"], "lr": 0.01}, {"params": groups["mlp"], "lr": 0.003}]
    optimizer = torch.optim.Adam(rows, betas=(0.9, 0.99), eps=1e-15, foreach=True)
    sampler, streams = CameraSampler(arguments.views), Streams(0)

    def step(index: int, progress: float) -> torch.Tensor:
        rng = streams.at(index)
        cameras = sampler.sample(rng, arguments.size)
        background = BackgroundSampler().sample(rng, arguments.views)
        out = field.render(cameras, RenderContext(progress, background, rng))
        loss = (out.rgb - _ball(cameras, background)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        field.after_step(index, progress, rng)
        return out.stats["samples"]

    initial = float(step(0, 0.0))
    for index in range(1, arguments.warmup):
        step(index, min(1.0, 2 * index / arguments.warmup))

    rng = streams.at(arguments.warmup)
    cameras = sampler.sample(rng, arguments.size)
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays())
    jitter = rng.uniform_per_view("march", arguments.views, arguments.size**2).reshape(-1)
    with torch.no_grad():
        samples, points = field.march(origins, directions, jitter)
        unit = points * (0.5 / field.bound) + 0.5
        features = hash_encode(unit, field.table, field.layout)
        raw = fused_mlp(features, list(field.weights))
        density, rgb = field.activate(raw[:, 0]), raw[:, 1:].sigmoid()
    repeats, grad = arguments.steps, torch.randn_like

    def timed(forward: Callable[[], torch.Tensor]) -> tuple[float, float]:
        """Forward, and forward plus backward minus forward."""
        seed = grad(forward())
        alone = _time(lambda: forward(), repeats)
        return alone, _time(lambda: forward().backward(seed), repeats) - alone

    features.requires_grad_()
    density.requires_grad_()
    rgb.requires_grad_()
    raw.requires_grad_()
    phases: dict[str, tuple[float, float]] = {
        "march": (_time(lambda: field.march(origins, directions, jitter), repeats), 0.0),
        "encode": timed(lambda: hash_encode(unit, field.table, field.layout)),
        "mlp": timed(lambda: fused_mlp(features, list(field.weights))),
        "activations": timed(
            lambda: torch.cat([field.activate(raw[:, 0])[:, None], raw[:, 1:].sigmoid()], 1)
        ),
        "composite": timed(lambda: composite(density, rgb, samples).rgb),
        "occupancy / 16": (
            _time(lambda: field.occupancy.refresh(field.density, rng), max(3, repeats // 5))
            / field.occupancy_every,
            0.0,
        ),
    }
    counter, counts = iter(range(arguments.warmup, 1 << 30)), []
    whole = _time(
        lambda: counts.append(float(step(next(counter), 1.0))), max(repeats, 2 * field.occupancy_every)
    )

    # Last: repeating one update moves the field away from the ball.
    phases["optimizer"] = (_time(lambda: optimizer.step(), repeats), 0.0)

    print(
        f"{arguments.views} views of {arguments.size}x{arguments.size}, {arguments.threads} threads, "
        f"{len(points)} samples ({len(points) / len(origins):.1f} per ray; {initial:.0f} at the first step), "
        f"{float(field.occupancy.fraction()):.1%} of the box occupied"
    )
    print(f"{'phase':16s}{'forward':>10s}{'backward':>10s}   ms")
    for name, (forward, backward) in phases.items():
        print(f"{name:16s}{forward:10.2f}{backward:10.2f}")
    print(f"{'step, no teacher':16s}{whole:10.2f}{'':13s}({statistics.mean(counts):.0f} samples on average)")
    teacher = None if arguments.no_teacher else _teacher(arguments.views, arguments.size, repeats)
    if teacher:
        print(f"{'teacher':16s}{teacher:10.2f}\nnon-teacher / teacher = {whole / teacher:.2f} (budget 2.5)")


if __name__ == "__main__":
    main()
