"""The native library: finding it, deciding when to use it, calling it safely.

``THREEDISTILL_OPS=reference`` forces the torch twins, ``=native`` makes a missing library an error instead of
a warning. Kernels exist for float32 and float64 on the CPU; everything else takes the twins. ``THREEDISTILL_SIMD``
(``baseline``, ``avx2``, ``avx512``) is the widest instruction set they may use, of those the processor has.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from pathlib import Path

import torch  # before the library: its symbols then bind to torch's own OpenMP runtime
from torch import Tensor

from threedistill.errors import ThreedistillError, ThreedistillWarning, UsageError

__all__ = [
    "ABI_VERSION",
    "SIMD",
    "Kernel",
    "library",
    "library_path",
    "registered",
    "shape_error",
    "use_native",
]

ABI_VERSION = 2
#: Instruction sets by the library's numbers for them, narrowest first.
SIMD = ("baseline", "avx2", "avx512")
_SUFFIX = {torch.float32: "_f32", torch.float64: "_f64"}
_CTYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}


def library_path() -> Path | None:
    """The built library beside this package, or None."""
    folder = Path(__file__).resolve().parent.parent / "_lib"
    ending = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    for stem in ("libthreedistill_ops", "threedistill_ops"):
        if (path := folder / f"{stem}.{ending}").is_file():
            return path
    return None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None after one warning that says why and how to build it."""
    how = "reinstall with a C++ compiler, or `cmake -S custom_ops -B build/ops && cmake --build build/ops`"
    path = library_path()
    reason = "the native kernels are not built"
    if path is not None:
        try:
            lib = ctypes.CDLL(str(path))
            version = lib.td_abi_version()
            if version == ABI_VERSION:
                lib.td_simd(SIMD.index(_widest()))
                return lib
            reason = f"{path.name} is of another version ({version}, not {ABI_VERSION})"
        except (OSError, AttributeError) as error:
            reason = f"{path.name} cannot be loaded ({error})"
    if _mode() != "reference":
        text = f"threedistill: {reason}; the slower torch path is used ({how})"
        warnings.warn(text, ThreedistillWarning, stacklevel=2)
    return None


def _widest() -> str:
    name = os.environ.get("THREEDISTILL_SIMD") or SIMD[-1]
    if name not in SIMD:
        raise UsageError(f"THREEDISTILL_SIMD={name!r} is unknown: set it to {', '.join(SIMD)}")
    return name


def _mode() -> str:
    mode = os.environ.get("THREEDISTILL_OPS", "")
    if mode not in ("", "auto", "reference", "native"):
        raise UsageError(f"THREEDISTILL_OPS={mode!r} is unknown: set it to reference, native or auto")
    return mode


def use_native(*tensors: Tensor) -> bool:
    """Whether a call with these tensors goes to the native kernel.

    Raises:
        UsageError: ``THREEDISTILL_OPS`` or ``THREEDISTILL_SIMD`` has an unknown value.
        ThreedistillError: ``THREEDISTILL_OPS=native`` and there is no library.
    """
    mode = _mode()
    if mode == "reference" or not all(t.device.type == "cpu" for t in tensors):
        return False
    if tensors[0].is_floating_point() and tensors[0].dtype not in _SUFFIX:
        return False
    if library() is None:
        if mode == "native":
            raise ThreedistillError(
                "THREEDISTILL_OPS=native, but the native kernels cannot be loaded: build them first"
            )
        return False
    return True


def registered(*tensors: Tensor) -> bool:
    """Whether a call goes through the registered operator: to a native kernel, or to what CUDA tensors get.

    Everything else takes the torch twin directly, whose gradients are autograd's own.
    """
    return tensors[0].device.type == "cuda" or use_native(*tensors)


class Kernel:
    """One pair of exported functions ``td_<name>_f32`` and ``td_<name>_f64``.

    Args:
        name: the stem of the exported names.
        signature: one letter per argument: ``p`` tensor or None, ``i`` integer, ``d`` real number.
    """

    def __init__(self, name: str, signature: str) -> None:
        self.name = name
        self.signature = signature
        self._functions: dict[torch.dtype, ctypes._NamedFuncPointer] = {}

    def __call__(self, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
        """Run on contiguous CPU tensors; outputs are arguments too.

        Raises:
            IndexError: an index points outside its array.
            MemoryError: the kernel could not allocate its work space.
            ValueError: the kernel refused a size.
        """
        function = self._functions.get(dtype) or self._resolve(dtype)
        values = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                if argument.device.type != "cpu" or not argument.is_contiguous():
                    raise ValueError(
                        f"{self.name}: the kernel takes contiguous CPU tensors, got {_describe(argument)}"
                    )
                if argument.is_floating_point() and argument.dtype != dtype:
                    raise ValueError(
                        f"{self.name}: the kernel was asked for {dtype}, got {_describe(argument)}"
                    )
                values.append(argument.data_ptr())
            else:
                values.append(argument)
        status = function(*values)
        if status == 0:
            return
        if status == 2:
            raise IndexError(f"{self.name}: an index points outside its array")
        if status == 3:
            raise MemoryError(f"{self.name}: not enough memory for the kernel's work space")
        raise ValueError(f"{self.name}: the kernel refused its arguments (code {status})")

    def _resolve(self, dtype: torch.dtype) -> ctypes._NamedFuncPointer:
        lib = library()
        assert lib is not None, "use_native() was not asked first"
        function = getattr(lib, f"td_{self.name}{_SUFFIX[dtype]}")
        function.argtypes = [_CTYPES[letter] for letter in self.signature]
        function.restype = ctypes.c_int
        self._functions[dtype] = function
        return function


def _describe(tensor: Tensor) -> str:
    layout = "" if tensor.is_contiguous() else "non-contiguous "
    return f"{layout}{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"


def shape_error(op: str, name: str, expected: str, got: Tensor) -> ValueError:
    """The error for a tensor of the wrong shape, restating what was given."""
    return ValueError(f"{op}: {name} must be {expected}, got {tuple(got.shape)} {got.dtype}")
