"""What would make a run cheaper, or mend it: only what is not done already, by settings that the run has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from threedistill.guidance.cfg import base_of
from threedistill.messages import either
from threedistill.priors.space import LatentSpace
from threedistill.protocols import Prior
from threedistill.training.plan import RunPlan, StagePlan
from threedistill.training.watchdog import Symptom

__all__ = ["advising", "faster", "remedies", "smaller"]

#: Priors that answer in a moment.
_QUICK = ("toybox", "oracle", "gaussian")


def faster(plan: RunPlan, device: str) -> str:
    """What would make this run faster, as a list in words; empty where everything is as fast as it gets."""
    words = []
    if plan.names.preset not in ("draft", "bench"):
        words.append("--preset draft")
    if any(prior.name not in _QUICK for prior in plan.priors):
        words.append("--prior toybox")
    if device == "cpu":
        words.append("a machine with a GPU")
    return either(words)


def smaller(plan: RunPlan, device: str) -> str:
    """What would let this run do with less memory, as a list in words."""
    words = []
    if plan.names.preset not in ("draft", "bench"):
        words.append("--preset draft")
    views = max(stage.cameras.most for stage in plan.stages)
    if views > 1:
        words.append(f"fewer views than cameras.views={views}")
    particles = plan.stages[0].scene.particles
    if particles > 1:
        words.append(f"fewer than particles={particles}")
    words.append("--device cpu" if device == "cuda" else "close other programs")
    return either(words)


@contextlib.contextmanager
def advising(plan: RunPlan) -> Iterator[None]:
    """Errors that leave the block carry what would need less memory (``advice``)."""
    try:
        yield
    except Exception as error:
        on_gpu = plan.device != "cpu" and torch.cuda.is_available()
        error.advice = smaller(plan, "cuda" if on_gpu else "cpu")  # type: ignore[attr-defined]
        raise


def remedies(plan: RunPlan, stage: StagePlan, prior: Prior, device: torch.device) -> dict[Symptom, str]:
    """What would help a stage that goes nowhere, by what is wrong with it."""
    sparse = stage.regularizers.weights.get("sparsity", 0) != 0
    blob = stage.scene.model.given("blob_strength") is not None
    dtype = stage.prior.model.given("dtype")
    halved = dtype not in (None, "float32") and not (dtype == "auto" and device.type == "cpu")
    cfg = base_of(stage.guidance.rule.cfg)
    place = "cfg" if cfg is stage.guidance.rule.cfg else "cfg.base"
    unclipped = cfg is not None and cfg.x0_clip == "none" and not isinstance(prior.space, LatentSpace)
    ways: dict[Symptom, list[str]] = {
        "nonfinite": [
            "lower rates in optim.lr", "a narrower guidance.timesteps",
            *(["prior.model.dtype=float32"] if halved else []),
        ],
        "empty": [
            "another --seed", "lower rates in optim.lr",
            *(["a smaller regularizers.weights.sparsity"] if sparse else []),
            *(["a larger representation.model.blob_strength"] if blob else []),
        ],
        "full": [
            "a larger regularizers.weights.sparsity", "lower rates in optim.lr", "a wider cameras.distance",
        ],
        "fog": ["a larger regularizers.weights.opacity_entropy", "more budget.iterations"],
        "saturated": [
            *([f"a lower {place}.scale"] if cfg is not None else []),
            *([f"{place}.x0_clip=dynamic"] if unclipped else []),
        ],
    }  # fmt: skip
    return {symptom: either(words) for symptom, words in ways.items()}
