"""Carrying out a :class:`~threedistill.types.Refinement` on parameters and optimizer moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from threedistill.types import Refinement

__all__ = ["apply_refinement"]


@torch.no_grad()
def apply_refinement(
    optimizer: torch.optim.Optimizer, groups: Mapping[str, Sequence[nn.Parameter]], refinement: Refinement
) -> None:
    """Replace the rows of parameters and of their moments, in place.

    The parameter objects stay the same, so whatever refers to them (the optimizer, the module) keeps working.

    Arguments:
        optimizer: per-parameter state of the parameter's shape is edited, everything else (step counts) is kept.
        groups: the representation's ``parameter_groups()``.
        refinement: what to do; groups that it does not name are left alone.

    Raises:
        ValueError: a named group does not exist, holds several parameters, or gets rows of another shape.
    """
    source, fresh = refinement.source, refinement.fresh
    for name, values in refinement.values.items():
        parameters = groups.get(name, ())
        if len(parameters) != 1:
            raise ValueError(f"refinement: the group {name!r} has {len(parameters)} parameters, not one")
        parameter = parameters[0]
        if values.shape != (len(source), *parameter.shape[1:]):
            raise ValueError(
                f"refinement: {name} of shape {tuple(parameter.shape)} cannot get {tuple(values.shape)} "
                f"for {len(source)} rows"
            )
        state = optimizer.state.get(parameter, {})
        for key, moment in state.items():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                rows = moment.index_select(0, source)
                rows[slice(None) if name in refinement.restart else fresh] = 0
                state[key] = rows
        parameter.data = values.detach().to(parameter).contiguous()
        parameter.grad = None
