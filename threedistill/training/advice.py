"""Advice that has not been taken yet: what would make a run cheaper than it is."""

from __future__ import annotations

from threedistill.training.plan import RunPlan

__all__ = ["faster", "smaller"]


def faster(plan: RunPlan, device: str) -> str:
    """What would make this run faster, as a list in words; empty where everything is as fast as it gets."""
    words = []
    if plan.names.preset not in ("draft", "bench"):
        words.append("--preset draft")
    if plan.prior.name not in ("toybox", "oracle", "gaussian"):
        words.append("--prior toybox")
    if device == "cpu":
        words.append("a machine with a GPU")
    return _either(words)


def smaller(plan: RunPlan, device: str) -> str:
    """What would let this run do with less memory, as a list in words."""
    words = []
    if plan.names.preset not in ("draft", "bench"):
        words.append("--preset draft")
    views = max(stage.cameras.views for stage in plan.stages)
    if views > 1:
        words.append(f"fewer views than cameras.views={views}")
    words.append("--device cpu" if device == "cuda" else "close other programs")
    return _either(words)


def _either(words: list[str]) -> str:
    return ", ".join(words[:-1]) + (", or " if len(words) > 1 else "") + words[-1] if words else ""
