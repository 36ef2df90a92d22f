"""What interfaces are made of: abstract classes whose optional parts are declared, with defaults.

Nobody asks an object whether it has some attribute: an interface says what may be there and what stands for it where it
is not. So a part that is spelt wrongly would be passed over in silence; it is refused instead: in a class when it is
made, in an object when it is built, where a part that must be there and is not is refused too.
"""

from __future__ import annotations

import difflib
import sys
from abc import ABC
from typing import Any

__all__ = ["Contract", "annotated", "check_parts"]

#: Names as much alike as these are taken for one name and a slip: ``trajectry``, ``view_groups``.
_ALIKE = 0.85


class Contract(ABC):  # noqa: B024  (its subclasses have the abstract methods)
    """Base of the interfaces. ``class Prior(Contract, interface=True)`` declares one; all other classes answer them.

    Raises:
        TypeError: (when a class is made) a public name that is nearly, but not quite, one of the interface's.
    """

    def __init_subclass__(cls, *, interface: bool = False, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if interface:
            cls._interface = True
            return
        # What an ancestor of the same package is called has been looked at already.
        _refuse_slips(cls, _public(cls) - {name for base in cls.__mro__[1:] for name in vars(base)})


def check_parts(made: object) -> None:
    """Refuse an object that lacks a part of its interfaces, or has one under nearly, but not quite, its name.

    Raises:
        TypeError: with the part.
    """
    cls = type(made)
    registered = (vars(made).get(kind, ()) for kind in ("_parameters", "_buffers", "_modules"))
    own = {name for names in (vars(made), *registered) for name in names if not name.startswith("_")}
    inherited = {name for base in cls.__mro__ for name in vars(base)}
    _refuse_slips(cls, own - inherited - {name for base in cls.__mro__ for name in annotated(base)})
    for name, interface in sorted(_declared(cls).items()):
        if name not in inherited and not hasattr(made, name):
            raise TypeError(f"{cls.__name__} has no {name}, which every {interface.__name__} has")


def _refuse_slips(cls: type, names: set[str]) -> None:
    declared = _declared(cls)
    for name in sorted(names - set(declared)):
        if close := difflib.get_close_matches(name, declared, 1, _ALIKE):
            raise TypeError(
                f"{cls.__name__}.{name} is no part of {declared[close[0]].__name__}; did you mean {close[0]}? (If not, "
                "give it another name.)"
            )


def _declared(cls: type) -> dict[str, type]:
    """The parts of a class's interfaces, each with the interface that names it."""
    return {name: base for base in cls.__mro__ if vars(base).get("_interface") for name in _public(base)}


def _public(cls: type) -> set[str]:
    """What a class body itself defines or annotates."""
    return {name for name in {*vars(cls), *annotated(cls)} if not name.startswith("_")}


def annotated(cls: type) -> set[str]:
    """The names that a class body itself annotates; nothing is evaluated."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return set(get_annotations(cls, format=Format.FORWARDREF))
    return set(vars(cls).get("__annotations__", ()))
