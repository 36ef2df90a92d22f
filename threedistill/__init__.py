"""Text-to-3D by score distillation: ``threedistill.generate("a red mushroom")`` gives a textured asset.

Everything is imported on first use, so that ``import threedistill`` costs milliseconds and the thread
settings can still be chosen before torch starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.citation import Citations, cite
    from threedistill.conversion import Converted, convert
    from threedistill.errors import ThreedistillError, UsageError
    from threedistill.pipeline import Result, generate, resume
    from threedistill.training.step import Step

__version__ = "0.1.0"
__all__ = [
    "Citations", "Converted", "Result", "Step", "ThreedistillError", "UsageError", "__version__", "cite", "convert",
    "generate", "resume",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
