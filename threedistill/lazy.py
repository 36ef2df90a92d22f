"""Names that a package re-exports and imports on first use.

A package lists them once, as the imports that type checkers see (``if TYPE_CHECKING:``); here the same list is read for
everyone else. So a package costs nothing until something of it is used, and the thread settings can still be chosen
before torch starts.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

__all__ = ["lazily", "listed"]


def lazily(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: ``__getattr__, __dir__ = lazily(__name__, __file__)``."""

    def find(name: str) -> object:
        place = listed(file).get(name)
        if place is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from threedistill.threads import settle_threads

        settle_threads()
        return getattr(importlib.import_module(place), name)

    def names() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *listed(file)})

    return find, names


@functools.cache
def listed(file: str) -> dict[str, str]:
    """Name -> module of the imports below ``if TYPE_CHECKING:`` in a file."""
    import ast
    from pathlib import Path

    found: dict[str, str] = {}
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom) and line.module:
                    found.update((name.name, line.module) for name in line.names)
    return found
