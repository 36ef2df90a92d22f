"""Training steps of one rule on one device: milliseconds, peak memory, and how often the host waits for the device.

    python benchmarks/gpu_step.py --rule vsd --resolution 512 --representations gaussians dmtet

The teacher is Stable Diffusion 1.5 with random weights (it costs what the real one costs), or with ``--tiny`` the
embedded prior. One JSON line per representation. ``benchmarks/gpu.sh`` runs it for every size and rule.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from step_teacher import PROMPT, bare_step, forget_peak, peak, random_sd15

from threedistill.config import compose
from threedistill.training.assemble import build_prior
from threedistill.training.planning import build_plan


def _config(rule: str, representation: str, given: argparse.Namespace) -> Any:
    return compose(
        prompt=PROMPT, prior="toybox" if given.tiny else "sd15", guidance=rule, representation=representation,
        overrides=[f"budget.resolution={given.resolution}", f"budget.views={given.views}", "trainer.preview_every=0"],
    )  # fmt: skip


def teacher(given: argparse.Namespace) -> Any:
    """Stable Diffusion 1.5 of random numbers on the device, or the embedded prior."""
    if given.tiny:
        return build_prior(
            build_plan(_config("sds", given.representations[0], given)), torch.device(given.device)
        )
    return random_sd15(given.resolution, given.device)


def waits(step: Callable[[], None]) -> tuple[int, list[str]]:
    """How often one step makes the host wait for the GPU, and the lines of ours where it does.

    Source: torch.cuda.set_sync_debug_mode, which warns of every synchronising call of torch's own.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    return len(places), sorted(set(places))


def measure(step: Callable[[], None], device: str, seconds: float) -> dict[str, Any]:
    """Median milliseconds of the steps that fit into ``seconds``, after three that are not counted."""

    def timed() -> float:
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(3):
        timed()
    forget_peak()
    spans, begin = [timed()], time.perf_counter()
    while time.perf_counter() - begin < seconds and len(spans) < 50:
        spans.append(timed())
    found: dict[str, Any] = {
        "ms": statistics.median(spans) * 1e3, "least_ms": min(spans) * 1e3, "steps": len(spans), "peak_gib": peak(),
    }  # fmt: skip
    if device == "cuda":
        found["waits"], found["waits_at"] = waits(step)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rule", default="sds")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--representations", nargs="+", default=["hashgrid", "gaussians", "dmtet"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the embedded prior")
    parser.add_argument("--seconds", type=float, default=8.0, help="of steps, each")
    given = parser.parse_args()
    torch.manual_seed(0)
    prior = teacher(given)
    for name in given.representations:
        try:
            step = bare_step(build_plan(_config(given.rule, name, given)), prior)
            facts = measure(step, given.device, given.seconds)
        except torch.cuda.OutOfMemoryError:
            facts = {"failed": "out of memory"}
        print(json.dumps({"representation": name} | facts), flush=True)


if __name__ == "__main__":
    main()
