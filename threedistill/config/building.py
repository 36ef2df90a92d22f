"""Objects from a configuration: the only place where anything is instantiated."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from threedistill.config.places import contract_of
from threedistill.config.schema import Config
from threedistill.config.targets import argument_types, class_of, inner_contract
from threedistill.contracts import Contract, check_parts
from threedistill.errors import UsageError
from threedistill.messages import complaint, shown
from threedistill.values import VALIDATION

__all__ = ["Recipe", "build", "build_as", "checked_class", "recipe"]

T = TypeVar("T")

#: Deeper than any configuration is.
_DEEPEST = 32


def build(node: Any, where: str, plugins: Sequence[str] = ()) -> Any:
    """Instantiate the node of a place (``_target_`` plus arguments), recursively and type-checked.

    Arguments:
        node: a dictionary with ``_target_``.
        where: its place, e.g. ``guidance.rule`` or ``stages.1.guidance.rule``.
        plugins: packages besides ``threedistill`` from which classes may come.

    Raises:
        UsageError: a target that does not belong there, an unknown or missing argument, a value of the wrong type or
            range.
    """
    return build_as(contract_of(where), node, where, plugins)


def build_as(contract: Any, node: Any, where: str, plugins: Sequence[str] = ()) -> Any:
    """As :func:`build`, for a node whose contract is given."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise UsageError(f"{where}={shown(node)} is no mapping with a _target_")
    return _built(node, contract, where, plugins, 0)


def checked_class(node: Any, where: str, plugins: Sequence[str] = ()) -> type:
    """The class of a place's node, without building it."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise UsageError(f"{where}={shown(node)} is no mapping with a _target_")
    return class_of(node["_target_"], contract_of(where), where, plugins)


@dataclass(frozen=True)
class Recipe(Generic[T]):
    """An object of a configuration that is made later: it is large, random, or needs what is not there yet.

    Attributes:
        cls: its class.
        node, where, plugins: as for :func:`build`.
        arguments: those of its constructor, checked; what is small among them is built.
    """

    cls: type[T]
    node: Config
    where: str
    plugins: tuple[str, ...]
    arguments: dict[str, Any] = field(compare=False, repr=False)

    def given(self, argument: str) -> Any:
        """What the configuration says for an argument of the constructor; None where it says nothing."""
        return self.node.get(argument)

    def make(self) -> T:
        """A fresh object.

        Raises:
            UsageError: what only the constructor's body sees.
        """
        return build(self.node, self.where, self.plugins)


def recipe(node: Any, where: str, plugins: Sequence[str] = ()) -> Recipe[Any]:
    """How to make the object of a place, its class and its arguments checked already.

    Raises:
        UsageError: as :func:`build`, but for what only the constructor's body sees.
    """
    cls = checked_class(node, where, plugins)
    arguments = _validated(cls, _arguments(cls, node, where, plugins, 0), where)
    return Recipe(cls, node, where, tuple(plugins), arguments)


def _built(node: Any, contract: Any, where: str, plugins: Sequence[str], depth: int) -> Any:
    if depth > _DEEPEST:
        raise UsageError(f"{where.split('.')[0]}: nested more than {_DEEPEST} levels deep")
    if isinstance(node, dict) and "_target_" in node:
        cls = class_of(node["_target_"], contract, where, plugins)
        return _made(cls, _arguments(cls, node, where, plugins, depth), where)
    if isinstance(node, dict):
        inner = inner_contract(contract)
        return {k: _built(v, inner, f"{where}.{k}", plugins, depth + 1) for k, v in node.items()}
    if isinstance(node, list):
        inner = inner_contract(contract)
        return [_built(v, inner, f"{where}.{i}", plugins, depth + 1) for i, v in enumerate(node)]
    _refuse_words_for_numbers(node, contract, where)
    return node


def _arguments(cls: type, node: Any, where: str, plugins: Sequence[str], depth: int) -> dict[str, Any]:
    """The arguments of a node, themselves built."""
    expected = argument_types(cls)
    arguments: dict[str, Any] = {}
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in expected:
            known = ", ".join(expected) or "none"
            raise UsageError(f"{where}: {cls.__name__} has no argument {shown(key)}; there are: {known}")
        arguments[key] = _built(value, expected[key], f"{where}.{key}", plugins, depth + 1)
    return arguments


def _made(cls: type, arguments: dict[str, Any], where: str) -> Any:
    try:
        made = cls(**_validated(cls, arguments, where))
        if isinstance(made, Contract):
            check_parts(made)
        return made
    except UsageError:
        raise
    except (ValueError, TypeError) as error:
        raise UsageError(_words(error, where)) from None


def _validated(cls: type, arguments: dict[str, Any], where: str) -> dict[str, Any]:
    """The arguments, each converted to its type and held to its range."""
    try:
        return _validator(cls)(**arguments)
    except (ValueError, TypeError) as error:
        raise UsageError(_words(error, where)) from None


def _words(error: Exception, where: str) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return complaint(error, where)
    return f"{where}: {' '.join(str(error).split())[:300]}"


@functools.cache
def _validator(cls: type) -> Callable[..., dict[str, Any]]:
    """Gives a class's arguments back checked; kept, because the schema is costly to make.

    No float is ever infinite or not a number, whatever else a setting's type says.
    """
    from pydantic import ConfigDict, validate_call

    def arguments(**values: Any) -> dict[str, Any]:
        return values

    types = {name: Any if kind is None else kind for name, kind in argument_types(cls).items()}
    parameters = [p for p in inspect.signature(cls).parameters.values() if p.name in types]
    arguments.__annotations__ = types
    arguments.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=p.KEYWORD_ONLY, annotation=types[p.name]) for p in parameters]
    )
    return validate_call(config=ConfigDict(**VALIDATION))(arguments)


def _refuse_words_for_numbers(value: Any, contract: Any, where: str) -> None:
    """``true`` and ``"5"`` are no numbers, though pydantic would take them for 1 and 5."""
    if not isinstance(value, bool | str):
        return
    kinds = set(_scalars(contract))
    if kinds and kinds <= {int, float}:
        number = "a whole number" if kinds == {int} else "a number"
        raise UsageError(f"{where}={shown(value)} must be {number}")


def _scalars(contract: Any) -> list[type]:
    """The scalar types that an annotation allows."""
    origin = get_origin(contract)
    if origin is Annotated:
        return _scalars(get_args(contract)[0])
    if origin in (Union, types.UnionType):
        return [kind for one in get_args(contract) for kind in _scalars(one)]
    if origin is Literal:
        return [type(one) for one in get_args(contract)]
    return [contract] if inspect.isclass(contract) and contract in (int, float, str, bool) else []
