"""When the native library is used, and what is said when it cannot be."""

from __future__ import annotations

import ctypes
import warnings

import pytest
import torch

from threedistill.errors import ThreedistillError, UsageError
from threedistill.ops import _native


@pytest.fixture
def fresh(monkeypatch):
    """Forget the loaded library, before and after."""
    monkeypatch.delenv("THREEDISTILL_OPS", raising=False)
    _native.library.cache_clear()
    yield monkeypatch
    _native.library.cache_clear()


def test_missing_library_warns_once_and_falls_back(fresh):
    fresh.setattr(_native, "library_path", lambda: None)
    with pytest.warns(
        UserWarning, match="threedistill: the native kernels are not built; the slower torch path"
    ):
        assert not _native.use_native(torch.zeros(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _native.use_native(torch.zeros(1))


def test_missing_library_is_an_error_when_native_is_asked_for(fresh):
    fresh.setattr(_native, "library_path", lambda: None)
    fresh.setenv("THREEDISTILL_OPS", "native")
    with pytest.warns(UserWarning), pytest.raises(ThreedistillError, match="THREEDISTILL_OPS=native, but"):
        _native.use_native(torch.zeros(1))


def test_reference_asks_for_no_library(fresh):
    fresh.setattr(_native, "library_path", lambda: pytest.fail("the library was looked for"))
    fresh.setenv("THREEDISTILL_OPS", "reference")
    assert not _native.use_native(torch.zeros(1))


def test_a_broken_library_falls_back(fresh, tmp_path):
    (tmp_path / "broken.so").write_bytes(b"not a library")
    fresh.setattr(_native, "library_path", lambda: tmp_path / "broken.so")
    with pytest.warns(UserWarning, match="broken.so cannot be loaded"):
        assert _native.library() is None


def test_another_version_falls_back(fresh):
    if _native.library_path() is None:
        pytest.skip("the native kernels are not built")
    fresh.setattr(_native, "ABI_VERSION", -1)
    with pytest.warns(UserWarning, match="is of another version"):
        assert _native.library() is None


def test_unknown_mode(fresh):
    fresh.setenv("THREEDISTILL_OPS", "fast")
    with pytest.raises(
        UsageError, match="THREEDISTILL_OPS='fast' is unknown: set it to reference, native or auto"
    ):
        _native.use_native(torch.zeros(1))


def test_only_float_and_double_on_the_cpu_are_native(fresh):
    if _native.library() is None:
        pytest.skip("the native kernels are not built")
    assert _native.use_native(torch.zeros(1)) and _native.use_native(torch.zeros(1).double())
    assert not _native.use_native(torch.zeros(1).half())
    assert not _native.use_native(torch.zeros(1, device="meta"))
    assert not _native.use_native(torch.zeros(1), torch.zeros(1, device="meta"))


@pytest.mark.parametrize(
    ("code", "error"), [(1, ValueError), (2, IndexError), (3, MemoryError), (9, ValueError)]
)
def test_return_codes_become_exceptions(code, error):
    kernel = _native.Kernel("sample", "i")
    kernel._functions[torch.float32] = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64)(lambda _: code)
    with pytest.raises(error, match="sample: "):
        kernel(torch.float32, 1)


def test_tensors_are_checked_before_their_address_is_taken():
    kernel = _native.Kernel("sample", "p")
    kernel._functions[torch.float32] = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
    kernel(torch.float32, torch.zeros(3))
    with pytest.raises(
        ValueError, match=r"contiguous CPU tensors, got non-contiguous \(2, 3\) torch.float32 on cpu"
    ):
        kernel(torch.float32, torch.zeros(3, 2).T)
    with pytest.raises(ValueError, match=r"was asked for torch.float32, got \(3,\) torch.float64 on cpu"):
        kernel(torch.float32, torch.zeros(3).double())
