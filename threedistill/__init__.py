"""Text-to-3D by score distillation: ``threedistill.generate("a red mushroom")`` gives a textured asset.

Everything is imported on first use, so that ``import threedistill`` costs milliseconds and the thread
settings can still be chosen before torch starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threedistill.conversion import convert
    from threedistill.pipeline import Result, generate, resume

__version__ = "0.1.0"
__all__ = ["Result", "__version__", "convert", "generate", "resume"]

#: Name -> the module it is in.
_LAZY = {"Result": "pipeline", "convert": "conversion", "generate": "pipeline", "resume": "pipeline"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'threedistill' has no attribute {name!r}")
    from threedistill.threads import settle_threads

    settle_threads()
    import importlib

    return getattr(importlib.import_module(f"threedistill.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
