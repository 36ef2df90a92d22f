"""Every instruction set the kernels are compiled for gives what the twins give."""

from __future__ import annotations

import pytest
import torch

from tests.ops import test_composite, test_hash_encode, test_march, test_marching_tets, test_mlp, test_splat
from threedistill.errors import UsageError
from threedistill.ops import _native
from threedistill.ops._native import SIMD


@pytest.fixture(params=SIMD)
def narrowed(request: pytest.FixtureRequest):
    """The kernels' widest instruction set while the test runs; skipped where the processor lacks it."""
    lib = _native.library()
    if lib is None:
        pytest.skip("the native kernels are not built")
    before = lib.td_simd_level()
    level = SIMD.index(request.param)
    try:
        if lib.td_simd(level) != level:
            pytest.skip(f"neither this build nor this processor has {request.param}")
        yield
    finally:
        lib.td_simd(before)


def test_splat_equals_its_twin(narrowed):
    for channels in (4, 7):
        test_splat.test_equals_its_twin(700, channels)
        test_splat.test_absolute_gradients_are_those_of_single_pixels(channels)
    test_splat.test_single_precision_differs_from_double_by_rounding()


def test_hash_encode_equals_its_twin(narrowed, dtype, agree):
    for features in (1, 2, 4, 8):
        test_hash_encode.test_equals_its_twin(features, 2049, dtype, agree)


def test_fused_mlp_equals_its_twin(narrowed, dtype, agree):
    test_mlp.test_equals_its_twin((17, 33, 3), 4500, dtype, agree)


def test_composite_equals_its_twin(narrowed, dtype, agree):
    test_composite.test_equals_its_twin(test_composite.COUNTS, dtype, agree)


def test_march_equals_its_twin(narrowed, dtype):
    test_march.test_equals_its_twin_exactly(True, None, dtype)


def test_marching_tets_equals_its_twin(narrowed, dtype):
    test_marching_tets.test_equals_its_twin(test_marching_tets.noise, dtype)


@pytest.mark.parametrize("name", ["baseline", "sse"])
def test_the_variable(name, monkeypatch):
    if _native.library_path() is None:
        pytest.skip("the native kernels are not built")
    before = _native.library().td_simd_level()
    monkeypatch.setenv("THREEDISTILL_SIMD", name)
    _native.library.cache_clear()
    try:
        if name in SIMD:
            assert _native.library().td_simd_level() == SIMD.index(name)
        else:
            with pytest.raises(
                UsageError, match="THREEDISTILL_SIMD='sse' is unknown: set it to baseline, avx2"
            ):
                _native.use_native(torch.zeros(1))
    finally:
        monkeypatch.undo()
        _native.library.cache_clear()
        _native.library().td_simd(before)
