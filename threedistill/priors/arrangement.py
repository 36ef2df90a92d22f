"""Which sample each row of a network is, where a family asks it about other rows than one per sample in their order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["arranged", "by_length", "rows_are"]

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


def by_length(
    ask: Callable[[Int[Tensor, "R"] | slice], Float[Tensor, "R ..."]],
    count: int,
    told: Mapping[str, Tensor],
    keys: Sequence[str],
) -> Float[Tensor, "B ..."]:
    """The answers about samples of which only those that agree in some values can be asked about at once.

    Arguments:
        ask: gives the rows of some samples; of all of them it is asked by a slice, which copies nothing.
        count: samples.
        told: batch first.
        keys: of what must agree, such as the lengths of their words; none = nothing.
    """
    groups = [torch.tensor(rows) for rows in _agreeing(count, told, keys)]
    if len(groups) == 1:
        return ask(slice(None))
    parts: list[Tensor] = []
    for rows in groups:
        with rows_are(rows):
            parts.append(ask(rows))
    return torch.cat(parts)[torch.cat(groups).argsort().to(parts[0].device)]


def _agreeing(count: int, told: Mapping[str, Tensor], keys: Sequence[str]) -> list[list[int]]:
    """Samples that agree in these values stand together."""
    if not keys:
        return [list(range(count))]
    joined = torch.cat([told[key].reshape(len(told[key]), -1).double() for key in keys], 1).cpu()
    found: dict[tuple[float, ...], list[int]] = {}
    for row, values in enumerate(joined.tolist()):
        found.setdefault(tuple(values), []).append(row)
    return list(found.values())
