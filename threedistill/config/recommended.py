"""``${recommended:key}``: what suits the pair of rule and prior, from the most particular place that says so.

    prior.recommended.<rule>.key    what this prior has measured for this rule
    prior.recommended.default.key   what this prior wants from every rule
    guidance.recommended.key        the rule's own row: what its paper used

So a new prior states only what is its own, and a new rule brings its row.

``${steps:N}``: a recipe's stage takes N of its ``recipe.iterations``; of another budget, the same share.

    max(1, round(budget.iterations N / recipe.iterations))

``${largest:X}``: of a number itself, of a ramp the larger end, where something has one size for a whole run.
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


def _steps(count: int, *, _root_: Any) -> int:
    return max(1, round(_root_.budget.iterations * count / _root_.recipe.iterations))


def _largest(value: Any) -> Any:
    from omegaconf import DictConfig

    return max(value["start"], value["end"]) if isinstance(value, DictConfig) else value


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("recommended", _recommended, replace=True)
    OmegaConf.register_new_resolver("steps", _steps, replace=True)
    OmegaConf.register_new_resolver("largest", _largest, replace=True)
