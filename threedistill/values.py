"""The types of settings: ranges that are checked wherever a setting is given, in Python, YAML or on the command line.

A range stands in the annotation of the constructor's argument, so it is written once and is part of the schema::

    @settings
    class Weighting:
        factor: Positive = 1.0
        share: Annotated[float | Schedule, Within(0, 1)] = 0.5

What changes over a stage is checked by all values it takes (``Schedule.bounds``). Numbers are finite, whatever else
their type says.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, runtime_checkable

from threedistill.messages import complaint

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


__all__ = [
    "VALIDATION", "AtLeast", "Below", "Bounded", "Count", "Fraction", "NonNegative", "Positive", "Rising", "Within",
    "checked", "settings",
]  # fmt: skip

T = TypeVar("T")

#: How pydantic looks at all settings.
VALIDATION: Any = {"arbitrary_types_allowed": True, "allow_inf_nan": False}


@runtime_checkable
class Bounded(Protocol):
    """A setting that takes several values over a stage."""

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest of them."""
        ...


@dataclass(frozen=True)
class Within:
    """All values of a setting lie in an interval.

    Arguments:
        low, high: its ends.
        ends: which of them belong to it, as in mathematics: ``[]``, ``(]``, ``[)`` or ``()``.
    """

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"

    def holds(self, value: float) -> bool:
        """Whether a number lies in the interval."""
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below and math.isfinite(value)

    def check(self, value: Any) -> Any:
        """The value, or pydantic's kind of ValueError."""
        from pydantic_core import PydanticCustomError

        if value is None:
            return value
        values = value if isinstance(value, tuple | list) else (value,)
        for schedule in values:
            if not isinstance(schedule, Bounded):
                continue
            low, high = schedule.bounds()
            if not (self.holds(low) and self.holds(high)):
                raise PydanticCustomError(
                    "schedule", "must {words}; it takes values from {low} to {high}",
                    {"words": self.words(), "low": f"{low:g}", "high": f"{high:g}"},
                )  # fmt: skip
        numbers = [number for number in values if not isinstance(number, Bounded)]
        if any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
            raise PydanticCustomError("range", "must be a number of ordinary size")
        if not all(self.holds(number) for number in numbers):
            raise PydanticCustomError("range", "must {words}", {"words": self.words()})
        return value

    def words(self) -> str:
        """The interval in words."""
        if self.low == -math.inf and self.high == math.inf:
            return "be finite"
        if self.high == math.inf:
            if self.low == 0:
                return "not be negative" if self.ends[0] == "[" else "be positive"
            return f"be {'at least' if self.ends[0] == '[' else 'more than'} {self.low:g}"
        return f"lie in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


@dataclass(frozen=True)
class Rising(Within):
    """A pair of numbers in an interval that does not run backwards; of schedules, their owner sees to that."""

    def check(self, value: Any) -> Any:
        from pydantic_core import PydanticCustomError

        low, high = super().check(value)
        if not isinstance(low, Bounded) and not isinstance(high, Bounded) and low > high:
            raise PydanticCustomError("range", "must not run backwards")
        return low, high


def AtLeast(low: float) -> Within:
    """All values from ``low``."""
    return Within(low)


def Below(high: float) -> Within:
    """All values from 0 up to, but not including, ``high``."""
    return Within(0, high, "[)")


Positive = Annotated[float, Within(0, ends="()")]
NonNegative = Annotated[float, Within(0)]
Fraction = Annotated[float, Within(0, 1)]
Count = Annotated[int, Within(1)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose constructor refuses what its fields' types exclude.

    Raises (the constructor):
        ValueError: one line with the field, the value and what it must be.
    """
    from pydantic.dataclasses import dataclass as checking

    made: Any = checking(cls, frozen=True, config=VALIDATION)
    made.__init__ = _in_one_line(made.__init__, [field.name for field in dataclasses.fields(made)])
    return made


def checked(init: Callable[..., None]) -> Callable[..., None]:
    """The same for the ``__init__`` of a class that is no dataclass."""
    from pydantic import ConfigDict, validate_call

    return _in_one_line(
        validate_call(config=ConfigDict(**VALIDATION))(init), list(inspect.signature(init).parameters)
    )


def _in_one_line(init: Callable[..., None], names: list[str]) -> Callable[..., None]:
    """The same constructor, whose complaints are lines of ours."""

    @functools.wraps(init)
    def constructor(*args: Any, **kwargs: Any) -> None:
        from pydantic import ValidationError

        try:
            init(*args, **kwargs)
        except ValidationError as error:
            raise ValueError(complaint(error, names=names)) from None

    return constructor
