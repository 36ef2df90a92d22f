"""Values and pydantic's complaints in one line, however long or odd they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["complaint", "either", "shown"]

_LONGEST = 60

#: pydantic's type of error -> what it says in our words.
_WORDS = {
    "list_type": "must be a list", "tuple_type": "must be a list", "dict_type": "must be a mapping",
    "string_type": "must be text", "int_type": "must be a whole number", "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number", "int_parsing_size": "must be a whole number of ordinary size",
    "float_type": "must be a number", "float_parsing": "must be a number", "bool_type": "must be true or false",
    "bool_parsing": "must be true or false", "finite_number": "must be a finite number",
}  # fmt: skip


def shown(value: object) -> str:
    """A value as it may be echoed: at most :data:`_LONGEST` characters of one line."""
    if isinstance(value, str | bytes):
        value = value[: 2 * _LONGEST]
    elif isinstance(value, int) and value.bit_length() > 8 * _LONGEST:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a huge {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def complaint(error: Any, place: str = "", *, whole: bool = False, names: Sequence[str] = ()) -> str:
    """The first thing that a pydantic ``ValidationError`` says, in one line.

    Arguments:
        error: the ``ValidationError``.
        place: where the object stands whose arguments were validated; "" = nowhere.
        whole: a whole configuration was validated, not the arguments of one object.
        names: of the arguments that may be given by position.
    """
    first = error.errors(include_url=False)[0]
    kind, value = first["type"], first.get("input")
    steps = [str(step) for step in first["loc"]]
    position = first["loc"][0] if steps else None
    if isinstance(position, int) and position < len(names):
        steps[0] = names[position]
    if not whole:  # below an argument pydantic names the branches of a union: only numbers are places there
        steps = steps[:1] + [step for step in steps[1:] if step.isdigit()]
    where = ".".join([place, *steps]).strip(".")
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where} is missing"
    text = _WORDS.get(kind) or first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    text = f"{text[:1].lower()}{text[1:]}"
    if kind == "value_error":  # our own words, which name the value
        return f"{where}: {text}" if where else text
    if isinstance(value, dict) and kind != "dict_type":
        return f"{where}: {text}"
    return f"{where}={shown(value)} {text}" if text.startswith("must") else f"{where}={shown(value)}: {text}"


def either(words: Sequence[str]) -> str:
    """Some ways as one: ``a``, ``a, or b``, ``a, b, or c``; nothing of none."""
    return ", ".join(words[:-1]) + (", or " if len(words) > 1 else "") + words[-1] if words else ""
