"""The type checker of the tests: shapes and element types of tensors, and nothing else.

Stand-ins for whole objects (a recording prior, a namespace with two attributes) are the tests' own business; what a
public function promises about an *array* is checked in every call of every test.
"""

from __future__ import annotations

import re
from typing import Any

from beartype import beartype

_ARRAY = re.compile(r"\b(Float|Int|Bool|UInt8|Num|Shaped|Integer|Inexact|Complex|Real)\[")


def shapes_only(function: Any) -> Any:
    """``beartype`` with every annotation dropped that names no array."""
    if isinstance(function, type):
        return function
    given = dict(function.__annotations__)
    kept = {name: note for name, note in given.items() if _ARRAY.search(str(note))}
    if not kept:
        return function
    function.__annotations__ = kept
    try:
        return beartype(function)
    finally:
        function.__annotations__ = given
