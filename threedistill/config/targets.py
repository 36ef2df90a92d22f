"""Which class a ``_target_`` may name: one of a trusted package, of the kind that its place expects.

A configuration may come from a stranger, and ``_target_`` names something that will be called. So it must be a class,
defined in this package or in a plug-in that the user trusts (``threedistill/plugins.py``), and it must answer the
contract of its place: at the doors that of :data:`~threedistill.config.places.PLACES`, below them the annotation of the
constructor's argument. A place whose annotation says nothing takes no target.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import get_protocol_members, is_protocol

from threedistill.errors import UsageError, nearest
from threedistill.messages import shown

__all__ = ["argument_types", "class_of", "fits", "inner_contract"]

_OWN = "threedistill"


def class_of(target: object, contract: Any, where: str, plugins: Sequence[str]) -> type:
    """The class that a ``_target_`` names.

    Arguments:
        target: ``package.module.Class``.
        contract: what the place expects: a class, a protocol, a union or a container of those.
        where: the place, for messages.
        plugins: packages besides this one from which classes may come.

    Raises:
        UsageError: outside the trusted packages, not there, no class, or a class of another kind.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise UsageError(f"{where}: _target_={shown(target)} is no name of a class")
    package = target.split(".")[0]
    allowed = (_OWN, *plugins)
    if not any(target.startswith(f"{name}.") for name in allowed):
        raise UsageError(f"{where}: {target} is outside the packages {', '.join(allowed)}; see plugins")
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UsageError(f"{where}: {target} is a package; name a class in it")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if package != _OWN and missing.split(".")[0] == package and "." not in missing:
            raise UsageError(
                f"{where}: plugins names {package}, which Python does not find; install it, or set PYTHONPATH to "
                "the folder it is in"
            ) from None
        if not module_name.startswith(missing):
            raise UsageError(f"{where}: {module_name} needs {missing}, which is not installed") from None
        raise UsageError(f"{where}: there is no module {module_name}") from None
    # Not getattr, which a module may answer with anything: only what the module itself holds.
    found = vars(module).get(name)
    if not isinstance(found, type) or found.__module__.split(".")[0] not in {
        p.split(".")[0] for p in allowed
    }:
        close = nearest(name, [n for n, c in vars(module).items() if isinstance(c, type)], 1)
        hint = f"; did you mean {close[0]}?" if close and close[0] != name else ""
        raise UsageError(f"{where}: {target} is no class of {package}{hint}")
    if not fits(found, contract):
        raise UsageError(f"{where}: {target} is no {_name(contract)}, which is what belongs here")
    return found


def fits(cls: type, contract: Any) -> bool:
    """Whether a class answers a contract: a subclass, or for a protocol a class that has all its methods."""
    origin = get_origin(contract)
    if origin is Annotated:
        return fits(cls, get_args(contract)[0])
    if origin in (Union, types.UnionType):
        return any(fits(cls, one) for one in get_args(contract))
    if not isinstance(contract, type) or contract is object or inspect.isabstract(cls) or is_protocol(cls):
        return False
    if not is_protocol(contract):
        return issubclass(cls, contract)
    # Data members may be set by the constructor; methods are there or not.
    wanted = {
        name
        for name in get_protocol_members(contract)
        if inspect.isfunction(next((vars(k)[name] for k in contract.__mro__ if name in vars(k)), None))
    }
    own = {name for base in cls.__mro__ if base is not object for name in vars(base)}
    return bool(wanted) and wanted <= own


def inner_contract(contract: Any) -> Any:
    """What the items of a list, a tuple or a mapping are to be; None where nothing says so."""
    if get_origin(contract) is Annotated:
        return inner_contract(get_args(contract)[0])
    if get_origin(contract) in (Union, types.UnionType):
        inner = [found for one in get_args(contract) if (found := inner_contract(one)) is not None]
        return Union[tuple(inner)] if inner else None  # noqa: UP007
    arguments = [one for one in get_args(contract) if one is not Ellipsis]
    if get_origin(contract) is dict:
        return arguments[1]
    if get_origin(contract) in (list, tuple) or getattr(get_origin(contract), "__name__", "") == "Sequence":
        return Union[tuple(arguments)] if arguments else None  # noqa: UP007
    return None


@functools.cache
def argument_types(cls: type) -> dict[str, Any]:
    """The annotation of every argument of a class's constructor that can be given by name.

    Raises:
        UsageError: a constructor whose arguments have no names (``**kwargs``), or whose annotations name nothing.
    """
    try:
        source = cls if dataclasses.is_dataclass(cls) else inspect.unwrap(cls.__init__)
        hints = get_type_hints(source, include_extras=True)
        parameters = inspect.signature(cls).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise UsageError(
            f"{cls.__module__}.{cls.__qualname__}: its constructor cannot be read: {error}"
        ) from None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: hints.get(p.name) for p in parameters if p.kind in named}


def _name(contract: Any) -> str:
    origin = get_origin(contract)
    if origin is Annotated:
        return _name(get_args(contract)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_name(one) for one in get_args(contract) if one is not type(None))
    if origin is Literal:
        return "name"
    if contract is None:
        return "value of a known type"
    if contract in (int, float):
        return "number"
    return getattr(contract, "__name__", str(contract))
