"""What benchmarks count: operations of real calls of the kernels against counts by hand, and how costs grow."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from threedistill.ops._native import Kernel
from threedistill.ops.composite import composite
from threedistill.ops.hash_encode import HashLayout, hash_encode
from threedistill.ops.march import Samples
from threedistill.ops.mlp import fused_mlp
from threedistill.ops.rasterize import rasterize
from threedistill.ops.splat import splat

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def counted(monkeypatch, request):
    """By kernel, operations and bytes of the calls that a test makes."""
    from threedistill.ops import _native

    if _native.library() is None:
        pytest.skip("the native kernels are not built")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from work import work

    found: dict[str, tuple[float, float]] = {}
    launch = Kernel.__call__

    def kernel(self, *given):
        launch(self, *given)
        found[self.name] = work(self.name, given[1:])

    monkeypatch.setattr(Kernel, "__call__", kernel)
    return found


@pytest.mark.parametrize("to_points", [False, True])
def test_an_mlp_counts_its_products(counted, to_points):
    x = torch.randn(5, 2, requires_grad=to_points)
    weights = [torch.randn(3, 2, requires_grad=True), torch.randn(1, 3, requires_grad=True)]
    fused_mlp(x, weights).sum().backward()
    assert counted["fused_mlp"][0] == 5 * (12 + 6)
    # The hidden layer again, the gradients of both matrices, of the hidden values, and of the points if asked for.
    assert counted["fused_mlp_backward"][0] == 5 * (12 + (12 + 6) + 6 + 12 * to_points)
    arrays = 5 * 2 + (6 + 3) + 5  # points, weights, answers; the widths are three whole numbers
    assert counted["fused_mlp"][1] == 4 * arrays + 8 * 3


def test_an_encoding_counts_levels_in_use(counted):
    layout = HashLayout(4, 2, 8, 4, 16)
    table = torch.randn(layout.entries, 2, requires_grad=True)
    hash_encode(torch.rand(7, 3), table, layout, 3).sum().backward()
    assert counted["hash_encode"][0] == 7 * 3 * (15 + 8 * 2 * 2 + 1 + 2 * 3)
    assert counted["hash_encode_backward"][0] == 7 * 3 * (15 + 1 + 2 * 2 + 8 * 2 * 2)


def test_compositing_counts_samples(counted):
    samples = Samples(
        torch.zeros(6, dtype=torch.int64), torch.zeros(6), torch.ones(6), torch.tensor([0, 4, 6])
    )
    composite(torch.rand(6, requires_grad=True), torch.rand(6, 3), samples).rgb.sum().backward()
    assert counted["composite"][0] == 6 * 48 and counted["composite_backward"][0] == 6 * 55


def test_splats_count_the_pixels_that_they_reach(counted):
    size, opacities = 12, torch.tensor([[0.9999, 0.9999, 0.7, 0.5]])
    means = torch.tensor([[[5.2, 6.1], [5.0, 6.0], [6.0, 6.0], [30.0, 2.0]]])
    conics = torch.tensor([[[0.02, 0.0, 0.02]] * 2 + [[0.5, 0.2, 0.8]] * 2])
    depths = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    seen = 0
    for y in range(size):
        for x in range(size):
            left = 1.0
            for (mx, my), (a, b, c), o in zip(means[0].tolist(), conics[0].tolist(), opacities[0].tolist()):
                dx, dy = x + 0.5 - mx, y + 0.5 - my
                alpha = min(0.999, o * math.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy))
                if alpha < 1 / 255:
                    continue
                if left * (1 - alpha) < 1e-4:
                    break
                left, seen = left * (1 - alpha), seen + 1
    leaf = means.clone().requires_grad_()
    splat(leaf, conics, opacities, torch.rand(1, 4, 3), depths, size, size).image.sum().backward()
    assert counted["splat"][0] == seen * (2 + 7 + 18 + 1 + 3 + 2 * 3)
    assert counted["splat_backward"][0] == seen * (2 + 7 + 18 + 1 + 3 + 6 + 11 + 4 * 3)


def test_rasterising_counts_the_pixels_of_boxes(counted):
    # Of 8 x 8 pixels: a right triangle over the lower left 4 x 4 (10 centres on or below its diagonal), one between
    # centres, one outside.
    corners = [(-1, -1), (0, -1), (-1, 0), (0.01, 0.01), (0.05, 0.01), (0.01, 0.05), (2, 2), (3, 2), (2, 3)]
    clip = torch.tensor([[[x, y, 0.0, 1.0] for x, y in corners]])
    seen = rasterize(clip, torch.arange(9, dtype=torch.int32).view(3, 3), 8, 8)
    assert int((seen.triangle >= 0).sum()) == 10
    assert counted["rasterize"][0] == 8 * 9 + 4 * 3 + 32 + 8 * 16 + 50 * 10


def test_exponents_of_a_power_law(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from work import exponents

    assert exponents([1, 10, 30], [2.0, 200.0, 200.0]) == pytest.approx([2.0, 0.0])
