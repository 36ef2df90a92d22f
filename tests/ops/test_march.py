"""Ray marching against a walk in tiny steps, its twin, and the geometry of a box and a ball."""

from __future__ import annotations

import math

import pytest
import torch

from tests.oracles.march import entry, intervals
from threedistill.ops.march import _march, march, march_reference


def rays(count, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    origins = (
        torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=1) * 3
    )
    aims = torch.randn(count, 3, generator=generator, dtype=dtype) * 0.6
    directions = torch.nn.functional.normalize(aims - origins, dim=1)
    return origins, directions, torch.rand(count, generator=generator, dtype=dtype)


def ball(cells=16, radius=0.7):
    axis = (torch.arange(cells) + 0.5) * (2 / cells) - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x * x + y * y + z * z < radius * radius


def test_equals_a_walk_in_tiny_steps():
    origins, directions, jitter = rays(12, seed=1)
    grid = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    got = march(origins, directions, grid, 0.9, 0.07, jitter)
    for r in range(12):
        begin, end = int(got.offsets[r]), int(got.offsets[r + 1])
        first = entry(origins[r].tolist(), directions[r].tolist(), 0.9, 0.0)
        if first is None:
            assert begin == end
            continue
        if begin < end:  # the walk knows the entry to 1e-4; the samples say it exactly
            steps = (float(got.start[begin]) - first) / 0.07 - float(jitter[r])
            assert abs(steps - round(steps)) < 3e-3
            first = float(got.start[begin]) - (round(steps) + float(jitter[r])) * 0.07
        expected = intervals(
            origins[r].tolist(), directions[r].tolist(), grid.tolist(), 0.9, 0.07, float(jitter[r]), first
        )
        assert len(expected) == end - begin, r
        for i, (start, stop) in enumerate(expected):
            assert abs(float(got.start[begin + i]) - start) < 1e-9
            assert abs(float(got.end[begin + i]) - stop) < 1e-9


@pytest.mark.parametrize("jittered", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 7])
def test_equals_its_twin_exactly(jittered, limit, dtype):
    origins, directions, jitter = rays(600, dtype)
    jitter = jitter if jittered else None
    grid = torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(3)) < 0.5
    got = march(origins, directions, grid, 1.0, 0.03, jitter, 0.1, limit)
    expected = march_reference(origins, directions, grid, 1.0, 0.03, jitter, 0.1, limit)
    for a, b in zip(got, expected):
        assert torch.equal(a, b)
    assert limit is None or int(got.offsets.diff().max()) == limit


def test_samples_are_packed_and_lie_in_occupied_cells():
    origins, directions, jitter = rays(200)
    grid = ball()
    got = march(origins, directions, grid, 1.0, 0.02, jitter)
    assert torch.equal(got.ray, torch.repeat_interleave(torch.arange(200), got.offsets.diff()))
    middle = (got.start + got.end) / 2
    at = origins[got.ray] + middle[:, None] * directions[got.ray]
    cell = ((at + 1) * 8).long()
    assert grid[cell[:, 0], cell[:, 1], cell[:, 2]].all()
    same = got.ray[1:] == got.ray[:-1]
    assert (got.start.diff()[same] > 0.02 - 1e-9).all()
    torch.testing.assert_close(got.end - got.start, torch.full_like(got.start, 0.02))


def test_measures_chords_of_a_full_box():
    origins = torch.tensor([[0.0, 0.0, 3.0], [0.3, -0.2, 3.0]], dtype=torch.float64)
    directions = torch.tensor([[0.0, 0.0, -1.0]] * 2, dtype=torch.float64)
    got = march(origins, directions, torch.ones(4, 4, 4, dtype=torch.bool), 0.8, 0.1)
    assert got.offsets.tolist() == [0, 16, 32]
    torch.testing.assert_close(got.start[:2], torch.tensor([2.2, 2.3], dtype=torch.float64))


def test_starts_at_the_origin_inside_and_at_near():
    origin, direction = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    full = torch.ones(2, 2, 2, dtype=torch.bool)
    assert march(origin, direction, full, 1.0, 0.25).start.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert march(origin, direction, full, 1.0, 0.25, near=0.5).start.tolist() == [0.5, 0.75]
    assert len(march(origin, direction, full, 1.0, 0.25, near=1.5).ray) == 0


def test_indexes_the_grid_by_x_y_z():
    grid = torch.zeros(2, 2, 2, dtype=torch.bool)
    grid[1, 0, 0] = True
    axes = torch.tensor([[0.5, -0.5, 3.0], [-0.5, 0.5, 3.0], [-0.5, -0.5, 3.0]])
    down = torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3)
    got = march(axes, down, grid, 1.0, 0.5)
    assert got.ray.tolist() == [0, 0] and got.start.tolist() == [3.0, 3.5]


def test_rays_that_find_nothing():
    origins, directions, _ = rays(30)
    empty = march(origins, directions, torch.zeros(8, 8, 8, dtype=torch.bool), 1.0, 0.02)
    assert len(empty.ray) == 0 and empty.offsets.tolist() == [0] * 31
    none = march(origins[:0], directions[:0], ball(), 1.0, 0.02)
    assert len(none.ray) == 0 and none.offsets.tolist() == [0]
    missing = torch.tensor([[5.0, 0.0, 0.0], [0.0, 2.0, 0.0], [math.nan, 0.0, 0.0], [0.0, 0.0, 3.0]])
    heading = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [math.nan, 0.0, 1.0]])
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    for function in (march, march_reference):
        assert function(missing, heading, full, 1.0, 0.02).offsets.tolist() == [0] * 5


def test_along_the_faces_of_the_box():
    origin = torch.tensor([[1.0, -2.0, 0.0], [1.0001, -2.0, 0.0]])
    direction = torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3)
    got = march(origin, direction, torch.ones(4, 4, 4, dtype=torch.bool), 1.0, 0.5)
    assert got.offsets.tolist() == [0, 4, 4]


def test_thread_count_does_not_matter(on_threads):
    origins, directions, jitter = rays(2000, torch.float32)
    on_threads(lambda: march(origins, directions, ball(), 1.0, 0.02, jitter))


def test_opcheck():
    origins, directions, jitter = rays(20)
    torch.library.opcheck(_march, (origins, directions, ball(4), jitter, 1.0, 0.2, 0.0, None))
    torch.library.opcheck(_march, (origins, directions, ball(4), None, 1.0, 0.2, 0.0, 3))


@pytest.mark.misuse
def test_errors():
    origins, directions, jitter = rays(5)
    grid = ball(4)
    with pytest.raises(ValueError, match=r"march: origins must be \(R, 3\) floating point, got \(5, 2\)"):
        march(origins[:, :2], directions, grid, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"march: directions must be \(5, 3\) torch.float64, got \(4, 3\)"):
        march(origins, directions[:4], grid, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"march: occupied must be \(G, G, G\) torch.bool, got \(4, 4, 4\)"):
        march(origins, directions, grid.float(), 1.0, 0.1)
    with pytest.raises(ValueError, match=r"march: jitter must be \(5,\) torch.float64, got \(3,\)"):
        march(origins, directions, grid, 1.0, 0.1, jitter[:3])
    with pytest.raises(ValueError, match=r"bound and step must be positive .*, got 1.0, 0.0 and 0.0"):
        march(origins, directions, grid, 1.0, 0.0)
    with pytest.raises(ValueError, match="max_samples must be at least 1, got 0"):
        march(origins, directions, grid, 1.0, 0.1, max_samples=0)
