"""A whole training step with a teacher of real size, against the floor that no implementation can go below.

    python benchmarks/step.py --prior sd15-random --resolution 512 [--threestudio CHECKOUT]

The floor is the denoiser's forward pass for the conditions that the rule asks, and the VAE encoder's forward and
backward pass for the same picture: the same network, alone. Ours is the training step: cameras, render, encode,
guidance, backward, optimizer. The network has the published shape and random weights: it costs what the real one costs.
Processor time of one thread (``--threads``), peak resident memory of the process where the system tells it (Linux); the
floor comes first and last, so that drift shows. On a GPU, seconds and ``torch.cuda.max_memory_allocated``.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from threedistill.conditions import Conditions
from threedistill.config import compose
from threedistill.priors.outline import OutlinedPrior, shape_of
from threedistill.rng import Streams
from threedistill.training.assemble import build_stages, prepare
from threedistill.training.plan import RunPlan
from threedistill.training.planning import build_plan

PROMPT = "a red duck"
#: What a step may take of the floor (time, memory); None = nobody said.
GOALS = {"gaussians": (1.10, 1.15), "dmtet": (1.10, None), "hashgrid": (1.25, None)}


def forget_peak() -> None:
    """Start the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """GiB since :func:`forget_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def clock() -> float:
    """Seconds of this process's processors, or of the wall where a GPU works."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measured(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least seconds and peak GiB."""
    forget_peak()
    spans = []
    for _ in range(repeats):
        start = clock()
        work()
        spans.append(clock() - start)
    return min(spans), peak()


def floor(prior: OutlinedPrior, rows: int) -> Callable[[], None]:
    """The denoiser for ``rows`` rows, and one picture through the encoder and back."""
    told = prior.conditioning(Conditions([PROMPT] * rows))
    level = prior.path.at_fraction(torch.full((rows,), 0.5)).to(prior.device)
    noise = torch.randn(rows, *prior.space.shape, device=prior.device)
    size = prior.facts.size
    picture = torch.rand(1, size, size, 3, device=prior.device, requires_grad=True)

    def work() -> None:
        picture.grad = None
        x0 = prior.space.encode(picture)
        prior.predict(noise, level, told)
        x0.backward(torch.ones_like(x0))

    return work


def bare_system(plan: RunPlan, prior: Any) -> Any:
    """A run's first stage with fresh parameters, whose ``training_step`` works without a trainer around it."""
    system: Any = build_stages(plan, prior, device=prior.device)[0].to(prior.device)
    prepare(plan, [system])
    optimizers = system.configure_optimizers()
    system._optimizers = lambda: optimizers
    system.manual_backward = lambda loss: loss.backward()
    system.look(0.0, Streams(0))  # kernels are loaded
    return system


def bare_step(plan: RunPlan, prior: Any) -> Callable[[], None]:
    """The training step of a run's first stage with fresh parameters, without a trainer around it."""
    system, index = bare_system(plan, prior), iter(range(10**9))
    return lambda: system.training_step(next(index))


def step_of(prior: OutlinedPrior, representation: str, given: argparse.Namespace) -> Callable[[], None]:
    """Our training step of one view."""
    overrides = [
        f"budget.resolution={given.resolution}", "budget.views=1", "trainer.preview_every=0", *given.overrides,
    ]  # fmt: skip
    config = compose(
        prompt=PROMPT, prior="sd15", guidance="sds", representation=representation, overrides=overrides
    )
    return bare_step(build_plan(config), prior)


def random_sd15(size: int, device: str) -> OutlinedPrior:
    """Stable Diffusion 1.5 in its published shape with random weights; float16 on a GPU."""
    from threedistill.priors.families import StableDiffusion

    return OutlinedPrior(
        name="sd15", family=StableDiffusion(), size=size, device=device,
        shape=shape_of("stable-diffusion-v1-5/stable-diffusion-v1-5", None, (), None),
        dtype="float16" if device == "cuda" else "float32",
    )  # fmt: skip


def compare(given: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = random_sd15(given.resolution, device)
    weights = sum(p.numel() for p in prior.network.parameters()) / 1e6
    print(
        f"SD 1.5, random weights, {weights:.1f} M, {given.resolution} pixels, {device}, {given.threads} threads"
    )
    print(f"{'':12s}{'seconds':>9s}{'GiB':>8s}{'time/floor':>12s}{'memory/floor':>14s}", flush=True)
    lowest, memory = measured(floor(prior, 2), given.repeats)
    print(f"{'floor':12s}{lowest:9.2f}{memory:8.2f}", flush=True)
    if given.threestudio is not None:
        from step_peer import peer

        seconds, gib = measured(peer(prior, given.threestudio), given.repeats)
        ratios = f"{seconds / lowest:12.3f}{gib / memory:14.3f}"
        print(f"{'threestudio':12s}{seconds:9.2f}{gib:8.2f}{ratios}   its guidance alone", flush=True)
    for name in given.representations:
        seconds, gib = measured(step_of(prior, name, given), given.repeats)
        goal = ", ".join(f"{what} {most}" for what, most in zip(("time", "memory"), GOALS[name]) if most)
        print(
            f"{name:12s}{seconds:9.2f}{gib:8.2f}{seconds / lowest:12.3f}{gib / memory:14.3f}   goal: {goal}",
            flush=True,
        )
    again, memory = measured(floor(prior, 2), given.repeats)
    print(f"{'floor again':12s}{again:9.2f}{memory:8.2f}")
