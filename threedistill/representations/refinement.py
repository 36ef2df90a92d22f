"""Carrying out a :class:`~threedistill.types.Refinement` on parameters and optimizer moments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threedistill.protocols import Representation
from threedistill.types import Refinement

__all__ = ["apply_refinement"]


@torch.no_grad()
def apply_refinement(
    optimizer: torch.optim.Optimizer, representation: Representation, refinement: Refinement
) -> None:
    """Replace the rows of parameters and of their moments.

    New parameter objects take the places of the old ones in the module and in the optimizer: a graph of an earlier
    step that is still alive keeps its own.

    Arguments:
        optimizer: per-parameter state of the parameter's shape is edited, everything else (step counts) is kept.
        representation: the module; groups that the refinement does not name are left alone.
        refinement: what to do.

    Raises:
        ValueError: a named group does not exist, holds several parameters, or gets rows of another shape.
    """
    groups = representation.parameter_groups()
    for name, values in refinement.values.items():
        parameters = groups.get(name, ())
        if len(parameters) != 1:
            raise ValueError(f"refinement: the group {name!r} has {len(parameters)} parameters, not one")
        old = parameters[0]
        if values.shape != (len(refinement.source), *old.shape[1:]):
            raise ValueError(
                f"refinement: {name} of shape {tuple(old.shape)} cannot get {tuple(values.shape)} "
                f"for {len(refinement.source)} rows"
            )
        new = nn.Parameter(values.detach().to(old).contiguous().clone(), requires_grad=old.requires_grad)
        _replace(representation, old, new)
        for row in optimizer.param_groups:
            row["params"] = [new if p is old else p for p in row["params"]]
        state = optimizer.state.pop(old, None)
        if state:
            restart = slice(None) if name in refinement.restart else refinement.fresh
            optimizer.state[new] = {
                key: _moved(value, old, refinement.source, restart) for key, value in state.items()
            }


def _moved(value: Tensor, old: Tensor, source: Tensor, restart: Tensor | slice) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    rows = value.index_select(0, source)
    rows[restart] = 0
    return rows


def _replace(representation: Representation, old: nn.Parameter, new: nn.Parameter) -> None:
    assert isinstance(representation, nn.Module)
    for module in representation.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter is old:
                setattr(module, name, new)
