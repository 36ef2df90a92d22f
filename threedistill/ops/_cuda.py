"""CUDA kernels of other libraries behind our operators' schemas; one rule says who carries out a call.

    CPU                                 the native kernels, or the torch twins
    CUDA, float32, library importable   tinycudann encodes, nerfacc marches and composites, gsplat draws splats
    CUDA, float32, only Triton there    our kernels of ``ops/triton`` encode and composite
    anything else                       the torch twins, which run anywhere

An operator ``threedistill::x`` has, in its own file ``ops/x.py``, a CPU kernel and its gradient, a torch twin, and
the adapter that :func:`cuda` registers for its ``AutogradCUDA`` key: what it returns carries the gradients of the
library's (or the twin's) own autograd functions. ``THREEDISTILL_OPS`` set to ``reference`` or ``native`` keeps the
libraries out. None of the adapters has run on a GPU yet: they are checked against stand-ins that speak the
libraries' interfaces, and the Triton kernels in Triton's interpreter.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["cuda", "cuda_library"]

_fragment = torch.library.Library("threedistill", "FRAGMENT")
_Adapter = TypeVar("_Adapter", bound=Callable)


def cuda(operator: str) -> Callable[[_Adapter], _Adapter]:
    """Registers a function with the operator's own arguments as what CUDA tensors get, gradients included."""

    def register(adapter: _Adapter) -> _Adapter:
        _fragment.impl(operator, adapter, "AutogradCUDA")
        return adapter

    return register


def cuda_library(name: str, tensor: Tensor) -> ModuleType | None:
    """The CUDA library, if this tensor can go through it."""
    if (
        os.environ.get("THREEDISTILL_OPS") in ("reference", "native")
        or tensor.device.type != "cuda"
        or tensor.dtype != torch.float32
    ):
        return None
    return _importable(name) if torch.cuda.is_available() else None


@cache
def _importable(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # tinycudann raises OSError where no binding fits the GPU
        return None
