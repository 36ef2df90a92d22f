"""``${recommended:key}``: what suits the pair of rule and prior, from the most particular place that says so.

    prior.recommended.<rule>.key    what this prior has measured for this rule
    prior.recommended.default.key   what this prior wants from every rule
    guidance.recommended.key        the rule's own row: what its paper used

So a new prior states only what is its own, and a new rule brings its row.
"""

from __future__ import annotations

from typing import Any

__all__ = ["register"]


def _recommended(key: str, *, _root_: Any) -> Any:
    from omegaconf import OmegaConf

    rule = _root_.guidance.name
    for place in (f"prior.recommended.{rule}", "prior.recommended.default", "guidance.recommended"):
        value = OmegaConf.select(_root_, f"{place}.{key}", default=None)
        if value is not None:
            return value
    raise ValueError(
        f"guidance={rule} has no recommended.{key}, nor has the prior: state it in the rule's YAML"
    )


def register() -> None:
    """Make the resolver known to OmegaConf."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("recommended", _recommended, replace=True)
