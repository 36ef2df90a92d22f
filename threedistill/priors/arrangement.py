"""Which sample each row of a network is, where a family asks it about other rows than one per sample in their order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["arranged", "rows_are"]

_ROWS: ContextVar[Tensor | None] = ContextVar("rows", default=None)


@contextlib.contextmanager
def rows_are(samples: Int[Tensor, "R"]) -> Iterator[None]:  # a dimension's name
    """The context in which a network is asked about these rows.

    Arguments:
        samples: which sample each row is; -1 = none.
    """
    before = _ROWS.set(samples)
    try:
        yield
    finally:
        _ROWS.reset(before)


def arranged(values: Float[Tensor, "B ..."]) -> Float[Tensor, "R ..."]:
    """What is added to samples, one row of it for each row of the network; zeros for those that are none.

    Arguments:
        values: one row per sample.
    """
    rows = _ROWS.get()
    if rows is None:
        return values
    rows = rows.to(values.device)
    none = (rows < 0).view(-1, *(1,) * (values.ndim - 1))
    return torch.where(
        none, torch.zeros((), dtype=values.dtype, device=values.device), values[rows.clamp(min=0)]
    )
