"""Advice that has not been taken yet: what would make a run cheaper than it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["faster", "smaller"]


def faster(config: Mapping[str, Any], device: str) -> str:
    """What would make this run faster, as a list in words; empty where everything is as fast as it gets."""
    words = []
    if config["budget"].get("preset") not in ("draft", "bench"):
        words.append("--preset draft")
    if config["prior"]["name"] not in ("toybox", "oracle", "gaussian"):
        words.append("--prior toybox")
    if device == "cpu":
        words.append("a machine with a GPU")
    return _either(words)


def smaller(config: Mapping[str, Any], device: str) -> str:
    """What would let this run do with less memory, as a list in words."""
    words = []
    if config["budget"].get("preset") not in ("draft", "bench"):
        words.append("--preset draft")
    if config["cameras"]["views"] > 1:
        words.append(f"fewer views than cameras.views={config['cameras']['views']}")
    words.append("--device cpu" if device == "cuda" else "close other programs")
    return _either(words)


def _either(words: list[str]) -> str:
    return ", ".join(words[:-1]) + (", or " if len(words) > 1 else "") + words[-1] if words else ""
