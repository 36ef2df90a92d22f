"""Plain data in the grammar of Hydra's overrides."""

from __future__ import annotations

import re
from typing import Any

from threedistill.errors import UsageError

__all__ = ["spelled"]


def spelled(value: Any, where: str) -> str:
    """A value as it stands behind ``key=``.

    Arguments:
        value: mappings, lists, text, numbers, true, false and null.
        where: how the line about an error begins.

    Raises:
        UsageError: a key that is no word, or a value of another kind.
    """
    if isinstance(value, dict):
        bad = [key for key in value if not (isinstance(key, str) and re.fullmatch(r"\w+", key))]
        if bad:
            raise UsageError(f"{where}: {bad[0]!r} cannot be a key")
        return "{" + ",".join(f"{key}:{spelled(item, where)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(spelled(item, where) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str):
        raise UsageError(f"{where}: {value!r} is neither text nor a number; put it in quotes")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
