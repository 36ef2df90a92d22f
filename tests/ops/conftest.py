"""What the tests of the native operations share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

#: Operation against twin: (rtol, atol) by type.
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-10, 1e-10)}


@pytest.fixture
def agree() -> Callable[[Tensor, Tensor], None]:
    """Compare an operation with its twin to the tolerance of its type, and say by how much they differ."""

    def check(actual: Tensor, expected: Tensor) -> None:
        rtol, atol = TOLERANCES[actual.dtype]
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)

    return check


@pytest.fixture
def on_threads() -> Callable[..., list]:
    """Run a function on one thread and on two; the results must be equal to the last bit."""

    def run(function: Callable[[], tuple[Tensor, ...]]) -> None:
        before, results = torch.get_num_threads(), []
        try:
            for count in (1, 2):
                torch.set_num_threads(count)
                results.append([part.clone() for part in function()])
        finally:
            torch.set_num_threads(before)
        for index, (one, two) in enumerate(zip(*results)):
            assert torch.equal(one, two), f"output {index} depends on the number of threads"

    return run


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
