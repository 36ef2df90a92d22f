"""Noise paths as the schedulers that models ship know them: read off the instantiated class, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.prediction import NoiseLevel, PredictionKind
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.protocols import NoisePath

__all__ = ["flows", "scheduler_levels", "scheduler_path", "shift_of"]

#: diffusers' names of what a network predicts.
PREDICTION_TYPES: dict[str, PredictionKind] = {
    "epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow",
}  # fmt: skip

#: Schedulers whose table follows from their betas alone; no library is needed to say so.
PLAIN = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")


def flows(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is one of rectified flow."""
    return (
        str(scheduler.get("_class_name", "")).startswith("FlowMatch")
        or bool(scheduler.get("use_flow_sigmas"))
        or scheduler.get("prediction_type") == "flow_prediction"
    )


def shift_of(scheduler: Mapping[str, Any], tokens: int) -> float:
    """The ``s`` of ``sigma = s f / (1 + (s - 1) f)``.

    With dynamic shifting ``mu`` grows linearly with the number of tokens, and ``s`` is ``exp(mu)`` or ``mu``
    (``time_shift_type``). Source: Esser et al. 2024 (SD3), arXiv 2403.03206, section 5.3.2; FLUX's linear ``mu``.

    Arguments:
        scheduler: the configuration.
        tokens: of a picture at the chosen size.
    """
    if not scheduler.get("use_dynamic_shifting"):
        return float(scheduler.get("flow_shift") or scheduler.get("shift") or 1.0)
    low, high = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    least, most = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    mu = least + (most - least) * (tokens - low) / (high - low)
    return math.exp(mu) if scheduler.get("time_shift_type", "exponential") == "exponential" else mu


def scheduler_path(scheduler: Mapping[str, Any], tokens: int = 0) -> tuple[NoisePath, PredictionKind]:
    """The path and parametrisation of a scheduler's configuration.

    Arguments:
        scheduler: the configuration.
        tokens: of a picture at the chosen size, for dynamic shifts.

    Raises:
        UsageError: a scheduler whose path or times are not understood, by name.
    """
    name = str(scheduler.get("_class_name", "DDPMScheduler"))
    if flows(scheduler):
        return RectifiedFlowPath(
            float(scheduler.get("num_train_timesteps", 1000)), shift_of(scheduler, tokens)
        ), "flow"
    kind = str(scheduler.get("prediction_type", "epsilon"))
    if kind not in PREDICTION_TYPES:
        raise UsageError(
            f"the scheduler's prediction_type {kind!r} is not one of {', '.join(PREDICTION_TYPES)}"
        )
    if name in PLAIN:
        return DiscretePath.from_scheduler_config(scheduler), PREDICTION_TYPES[kind]
    import diffusers

    cls = getattr(diffusers, name, None)
    table = None if cls is None else getattr(cls.from_config(dict(scheduler)), "alphas_cumprod", None)
    if not isinstance(table, Tensor) or scheduler.get("timestep_type") == "continuous":
        raise UsageError(
            f"the noise path of its scheduler {name} is not understood (those with a table of alphas_cumprod and flow "
            "matching are)"
        )
    return _discrete(scheduler, table), PREDICTION_TYPES[kind]


def _discrete(scheduler: Mapping[str, Any], table: Tensor) -> DiscretePath:
    """The scheduler's own table, in float64 from its betas where these are all there is to it."""
    try:
        path = DiscretePath.from_scheduler_config(scheduler)
    except ValueError:
        return DiscretePath(table)
    if path.steps == len(table):
        exact = path.at(torch.arange(path.steps, dtype=torch.float64)).alpha.square()
        if torch.allclose(exact, table.double().cpu(), rtol=1e-3, atol=1e-5):
            return path
    return DiscretePath(table)


def scheduler_levels(scheduler: Any, path: NoisePath, rows: int) -> list[NoiseLevel]:
    """The levels that a scheduler steps through, and the one it ends at.

    A scheduler may tell the network another time than its sigma has (solvers that round times to integers), so both
    are read.

    Arguments:
        scheduler: a diffusers scheduler after ``set_timesteps``.
        path: the model's path.
        rows: samples.
    """
    times = scheduler.timesteps.double()
    sigmas = getattr(scheduler, "sigmas", None)
    levels: list[NoiseLevel] = []
    for i, time in enumerate(times):
        if flows(scheduler.config):
            assert sigmas is not None
            levels.append(_level(1 - float(sigmas[i]), float(sigmas[i]), float(time), rows))
        else:
            levels.append(path.at(torch.full((rows,), float(time))))
    if sigmas is None and not getattr(scheduler.config, "set_alpha_to_one", True):
        return [*levels, path.at(torch.zeros(rows))]
    return [*levels, _level(1.0, 0.0, 0.0, rows)]


def _level(alpha: float, sigma: float, index: float, rows: int) -> NoiseLevel:
    return NoiseLevel(*(torch.full((rows,), value) for value in (alpha, sigma, index)))
