"""Arguments of a network as they were seen, to be given again with other pictures, times and words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.priors.embedding_cache import Embedding

__all__ = [
    "Leaf", "Listed", "Places", "Seen", "Template", "compare", "fill", "leaves", "rows_of", "words_at",
]  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    """One value among the arguments.

    Attributes:
        path: where it stands.
        kind: the noisy ``picture``; the ``time``; a ``row`` per sample or one value that is ``shared`` by all samples
            of a call, both of which follow the words; or ``fixed``.
        value: what is fixed; of other kinds what was seen.
        scale, offset: of the time: ``scale t + offset``.
        ragged: its shape follows the words.
        row_at: which part of the path counts samples, of what stands in a list of them.
    """

    path: str
    kind: Literal["picture", "time", "row", "shared", "fixed"]
    value: Any = None
    scale: float = 1.0
    offset: float = 0.0
    ragged: bool = False
    row_at: int | None = None


@dataclass(frozen=True)
class Listed:
    """A list with one entry per sample."""

    entry: Any


#: Leaves in dictionaries, lists and tuples, as the network takes them.
Template = Any


def leaves(template: Template) -> Iterator[Leaf]:
    """All leaves."""
    if isinstance(template, Leaf):
        yield template
    elif isinstance(template, Listed):
        yield from leaves(template.entry)
    else:
        for entry in template.values() if isinstance(template, dict) else template:
            yield from leaves(entry)


def fill(template: Template, value: Callable[[Leaf, int | None], Any], rows: int) -> Any:
    """The arguments of a call.

    Arguments:
        template: of the arguments.
        value: gives that of a leaf, of all samples (None) or of one.
        rows: samples.
    """

    def build(node: Template, row: int | None) -> Any:
        if isinstance(node, Leaf):
            return value(node, row)
        if isinstance(node, Listed):
            return [build(node.entry, k) for k in range(rows)]
        if isinstance(node, dict):
            return {name: build(entry, row) for name, entry in node.items()}
        return type(node)(build(entry, row) for entry in node)

    return build(template, None)


@dataclass(frozen=True)
class Seen:
    """The same place of the arguments in runs that differ in one thing.

    Attributes:
        steps: of one sample at every step.
        three: of three samples of the same words and different pictures, at the first step.
        other: of one sample of other words, at the first step.
    """

    steps: Sequence[Any]
    three: Any
    other: Any

    @property
    def one(self) -> Any:
        """Of one sample at the first step."""
        return self.steps[0]

    def each(self, pick: Callable[[Any], Any]) -> Seen:
        """A part of all."""
        return Seen([pick(step) for step in self.steps], pick(self.three), pick(self.other))


def compare(seen: Seen, times: Sequence[float], picture: str, path: str = "") -> Template:
    """What the arguments follow, found by comparison.

    Arguments:
        seen: the arguments, or a part of them.
        times: the scheduler's, of the steps.
        picture: the argument that is the noisy picture.
        path: of the part.

    Raises:
        UsageError: an argument that follows the picture, or the time in another way than in proportion; by its name.
    """
    one = seen.one
    under = f"{path}." if path else ""
    if isinstance(one, dict):
        return {
            name: compare(seen.each(lambda a, n=name: a[n]), times, picture, under + name) for name in one
        }
    if isinstance(one, (list, tuple)):
        if isinstance(one, list) and len(one) == 1 and len(seen.three) == 3:
            if path == picture:
                return Listed(Leaf(path, "picture"))
            rows = [Seen([s[0] for s in seen.steps], row, seen.other[0]) for row in seen.three]
            found = [compare(row, times, picture, under + "0") for row in rows]
            if any(
                [leaf.kind for leaf in leaves(row)] != [leaf.kind for leaf in leaves(found[0])]
                for row in found
            ):
                raise UsageError(
                    f"its network's argument {path} depends on the picture, which is not understood"
                )
            return Listed(_by_row(found[0], len(path.split("."))))
        if len(one) != len(seen.three) or len(one) != len(seen.other):
            raise UsageError(f"its network's argument {path} has a length that is not understood")
        parts = [
            compare(seen.each(lambda a, k=k: a[k]), times, picture, f"{under}{k}") for k in range(len(one))
        ]
        return type(one)(parts)
    if path == picture:
        return Leaf(path, "picture")
    if isinstance(one, Tensor):
        return _tensor(path, seen, times)
    numbers = isinstance(one, (int, float)) and not isinstance(one, bool)
    if any(step != one for step in seen.steps):
        return _time(path, [torch.tensor(float(step)) for step in seen.steps], times)
    if seen.three == one and seen.other == one:
        return Leaf(path, "fixed", one)
    if seen.three == one and numbers:
        return Leaf(path, "shared", one)
    raise UsageError(f"its network's argument {path} is {one!r} and changes in a way that is not understood")


def _tensor(path: str, seen: Seen, times: Sequence[float]) -> Leaf:
    one, three = seen.one, seen.three
    if any(step.shape != one.shape or not torch.equal(step, one) for step in seen.steps):
        return _time(path, seen.steps, times)
    ragged = seen.other.shape != one.shape
    if one.ndim and len(one) == 1 and three.shape == (3, *one.shape[1:]):
        spread = (three[1:].double() - three[:1].double()).abs().amax() if three.numel() else 0.0
        if float(spread) > 1e-3 * float(three.double().abs().amax() + 1e-6):
            raise UsageError(f"its network's argument {path} depends on the picture, which is not understood")
        return Leaf(path, "row", one[0], ragged=ragged)
    if three.shape != one.shape:
        raise UsageError(
            f"its network's argument {path} has a shape that is not understood: {tuple(one.shape)}"
        )
    if not ragged and torch.equal(seen.other, one):
        return Leaf(path, "fixed", one)
    return Leaf(path, "shared", one, ragged=ragged)


def _time(path: str, steps: Sequence[Tensor], times: Sequence[float]) -> Leaf:
    """``scale t + offset`` through the first and the last step, and all others on it."""
    told = [float(step.double().flatten()[0]) for step in steps]
    scale = (told[-1] - told[0]) / (times[-1] - times[0])
    offset = told[0] - scale * times[0]
    worst = max(abs(scale * t + offset - said) for t, said in zip(times, told, strict=True))
    uniform = all(step.numel() == 1 for step in steps)
    if not uniform or worst > 1e-4 * max(abs(scale) * 1000, 1e-3):
        raise UsageError(f"its network's argument {path} follows the time in a way that is not understood")
    return Leaf(path, "time", scale=_rounded(scale), offset=_rounded(offset, abs(scale) * 1000))


def _rounded(value: float, reach: float = 0.0) -> float:
    """A number without the noise of single precision."""
    if abs(value) < 1e-5 * reach:
        return 0.0
    return float(f"{value:.5g}")


def _by_row(template: Template, row_at: int) -> Template:
    """In a list of samples all that follows the words is a row's own."""
    if isinstance(template, Leaf):
        return replace(template, kind="row" if template.kind == "shared" else template.kind, row_at=row_at)
    if isinstance(template, dict):
        return {name: _by_row(entry, row_at) for name, entry in template.items()}
    return type(template)(_by_row(entry, row_at) for entry in template)


def words_at(template: Template, arguments: Any, row: int) -> Embedding:
    """What of a call's arguments follows the words, of one of its samples, and whether times are told in 16 bits.

    Raises:
        UsageError: an argument of another shape than any that was seen.
    """
    told: Embedding = {}
    for leaf in leaves(template):
        value = arguments
        for k, name in enumerate(leaf.path.split(".")):
            value = value[name] if isinstance(value, dict) else value[row if k == leaf.row_at else int(name)]
        if leaf.kind == "fixed" and not _equal(value, leaf.value):
            raise UsageError(f"its network's argument {leaf.path} changes in a way that was not seen")
        if leaf.kind == "time" and isinstance(value, Tensor):
            told[f"{leaf.path}/half"] = torch.tensor(value.dtype in (torch.float16, torch.bfloat16))
        if leaf.kind not in ("row", "shared"):
            continue
        if leaf.kind == "row" and leaf.row_at is None:
            value = value[row if len(value) > 1 else 0]
        value = torch.as_tensor(value).detach().cpu().clone()
        if leaf.ragged:
            told[f"{leaf.path}/shape"] = torch.tensor(value.shape)
        elif value.shape != torch.as_tensor(leaf.value).shape:
            raise UsageError(
                f"its network's argument {leaf.path} has a shape that was not seen: {tuple(value.shape)}"
            )
        told[leaf.path] = value
    return told


def _equal(value: Any, seen: Any) -> bool:
    """The same, apart from precision."""
    if not isinstance(seen, Tensor):
        return value == seen
    return value.shape == seen.shape and torch.allclose(value.double().cpu(), seen.double().cpu(), rtol=1e-2)


def rows_of(answer: Any) -> list[Tensor]:
    """The rows of what a network gives: one tensor, or a list of one per sample."""
    value = answer if isinstance(answer, Tensor) else answer[0]
    return list(value) if isinstance(value, (list, tuple)) else list(value.unbind(0))


@dataclass(frozen=True)
class Places:
    """Where the values of one row come from: ``offset + factor x[index]``; only the offset where the index is -1.

    Attributes:
        shape: of the row.
        offset, factor, index: flat.
    """

    shape: tuple[int, ...]
    offset: Float[Tensor, "N"]
    factor: Float[Tensor, "N"]
    index: Int[Tensor, "N"]
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        known = (self.index == torch.arange(len(self.index))) & (self.factor == 1) & (self.offset == 0)
        object.__setattr__(self, "plain", bool(known.all()))

    @classmethod
    def traced(cls, silent: Tensor, ones: Tensor, counted: Tensor, what: str) -> Places:
        """From rows in which ``x`` was 0, 1, and 1, 2, 3, ....

        Raises:
            UsageError: values that are not ones of ``x`` in another place.
        """
        shape = tuple(silent.shape)
        silent, ones, counted = (row.detach().cpu().double().flatten() for row in (silent, ones, counted))
        factor = ones - silent
        there = factor.abs() > 1e-12
        count = torch.where(
            there, (counted - silent) / torch.where(there, factor, torch.ones_like(factor)), 0.0
        )
        if float((count - count.round()).abs().max()) > 0.25 or bool((counted != silent)[~there].any()):
            raise UsageError(
                f"what its pipeline makes of {what} is more than another order and scale of its values"
            )
        return cls(shape, silent.float(), factor.float(), count.round().long() - 1)

    def __call__(self, x: Float[Tensor, "B M"]) -> Tensor:
        """Rows of this shape from flat rows of ``x``."""
        if self.plain and x.shape[1] == len(self.index):
            return x.reshape(len(x), *self.shape)
        place, factor, offset = (v.to(x.device) for v in (self.index, self.factor, self.offset))
        there = (place >= 0).to(x)
        rows = x[:, place.clamp(min=0)] * (factor.to(x) * there) + offset.to(x)
        return rows.view(len(x), *self.shape)

    def among(self, count: int) -> Int[Tensor, "N"]:
        """The inverse: which value of the row holds each of ``x``.

        Raises:
            UsageError: not all of ``x`` stand in the row exactly once.
        """
        there = (self.index >= 0).nonzero().flatten()
        order = torch.full((count,), -1)
        order[self.index[there]] = there
        if len(there) != count or bool((order < 0).any()):
            raise UsageError("its pipeline leaves out a part of the noise that it draws")
        return order
