"""The pure functions of render/volume.py against brute force and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from threedistill.ops.march import Samples
from threedistill.render.volume import (
    distortion,
    field_normals,
    half_depth,
    midpoints,
    over,
    ray_max,
    select,
    visible,
)


def packed(counts: list[int], seed: int) -> Samples:
    """Random increasing segments, ``counts[r]`` of them on ray ``r``."""
    g = torch.Generator().manual_seed(seed)
    starts, ends = [], []
    for count in counts:
        cuts = 1 + torch.rand(count, 2, generator=g, dtype=torch.float64).cumsum(0).flatten().sort().values
        starts.append(cuts[0::2])
        ends.append(cuts[1::2])
    ray = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(counts).cumsum(0)])
    return Samples(ray, torch.cat(starts), torch.cat(ends), offsets)


COUNTS = st.lists(st.integers(0, 6), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(0, 99))
def test_visible_is_the_transmittance_test_ray_by_ray(counts, seed):
    samples = packed(counts, seed)
    density = torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 8
    mask = visible(samples, density, 0.1)
    for r in range(len(counts)):
        through = 1.0
        for i in range(int(samples.offsets[r]), int(samples.offsets[r + 1])):
            assert bool(mask[i]) == (through > 0.1)
            through *= math.exp(-float(density[i] * (samples.end[i] - samples.start[i])))


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(0, 99))
def test_select_recounts_the_offsets(counts, seed):
    samples = packed(counts, seed)
    mask = torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed)) > 0.4
    kept = select(samples, mask.nonzero()[:, 0])
    for r in range(len(counts)):
        expected = samples.start[(samples.ray == r) & mask]
        assert torch.equal(kept.start[kept.offsets[r] : kept.offsets[r + 1]], expected)
        assert bool((kept.ray[kept.offsets[r] : kept.offsets[r + 1]] == r).all())


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(0, 99))
def test_distortion_is_the_double_sum(counts, seed):
    samples = packed(counts, seed)
    w = torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = distortion(w, samples)
    t = (samples.start + samples.end) / 2
    for r in range(len(counts)):
        rows = range(int(samples.offsets[r]), int(samples.offsets[r + 1]))
        expected = sum(float(w[i] * w[j] * (t[i] - t[j]).abs()) for i in rows for j in rows)
        expected += sum(float(w[i] ** 2 * (samples.end[i] - samples.start[i])) / 3 for i in rows)
        assert float(result[r]) == pytest.approx(expected, abs=1e-12)


def test_distortion_gradient_is_finite_differences():
    samples = packed([3, 0, 4], 5)
    w = torch.rand(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: distortion(v, samples), (w,))


def test_midpoints_lie_on_their_rays():
    samples = packed([2, 3], 1)
    origins, directions = (
        torch.randn(2, 3).double(),
        torch.nn.functional.normalize(torch.randn(2, 3).double(), dim=-1),
    )
    points = midpoints(origins, directions, samples)
    for i, ray in enumerate(samples.ray.tolist()):
        expected = origins[ray] + (samples.start[i] + samples.end[i]) / 2 * directions[ray]
        assert torch.allclose(points[i], expected, atol=1e-12)


def test_ray_max_of_nothing_is_the_given_value():
    samples = packed([2, 0, 1], 3)
    assert ray_max(torch.tensor([1.0, 5.0, -2.0]), samples, -9.0).tolist() == [5.0, -9.0, -2.0]


def test_field_normals_of_a_ball_point_outward_and_stay_differentiable():
    directions = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    sharpness = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    center = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    normals = field_normals(lambda x: sharpness * (0.5 - (x - center).norm(dim=-1)), 0.5 * directions, 0.01)
    assert float((normals * directions).sum(-1).min()) > 0.9999
    # Moving the ball by d turns the normal at a fixed point by -d_tangential / radius.
    (moved,) = torch.autograd.grad(normals[0, 0], center)
    expected = -(torch.eye(3, dtype=torch.float64)[0] - directions[0, 0] * directions[0]) / 0.5
    assert torch.allclose(moved, expected, atol=5e-2)


def test_over_is_what_shows_through():
    image = over(
        torch.full((1, 1, 2, 3), 0.2), torch.tensor([[[[0.5], [0.0]]]]), torch.tensor([[1.0, 0.0, 0.5]])
    )
    assert image.flatten().tolist() == pytest.approx([0.7, 0.2, 0.45, 1.2, 0.2, 0.7])


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(0, 99))
def test_half_depth_is_where_the_sum_of_weights_passes_one_half(counts, seed):
    samples = packed(counts, seed)
    weights = (
        torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.4
    )
    result = half_depth(weights, samples)
    for r in range(len(counts)):
        total, expected = 0.0, math.inf
        for i in range(int(samples.offsets[r]), int(samples.offsets[r + 1])):
            total += float(weights[i])
            if total >= 0.5 and expected == math.inf:
                expected = float(samples.end[i])
        assert float(result[r]) == expected
