"""Sealing pits: by brute force on small volumes, and on shells and gaps whose truth is known."""

import itertools

import torch

from tests.representations.test_surface import Analytic
from threedistill.cameras import orbit
from threedistill.representations.pits import closed, seal_pits, seen_through


def test_closing_is_minimum_of_maximum_by_brute_force():
    volume = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(0))
    low, reach = float(volume.min()), range(-1, 2)

    def at(array, i, j, k):
        inside = all(0 <= c < n for c, n in zip((i, j, k), volume.shape))
        return float(array[i, j, k]) if inside else low

    def widest(i, j, k):
        return max(at(volume, i + a, j + b, k + c) for a, b, c in itertools.product(reach, repeat=3))

    result = closed(volume, 1)
    assert result.shape == volume.shape
    for i, j, k in itertools.product(*map(range, volume.shape)):
        expected = min(widest(i + a, j + b, k + c) for a, b, c in itertools.product(reach, repeat=3))
        assert float(result[i, j, k]) == expected


def test_a_point_is_seen_through_where_its_pixel_is_clear():
    cameras = orbit(1, elevation=0, size=64)  # looks down -z from +z
    opacity = torch.ones(1, 64, 64)
    opacity[:, :32, :] = 0  # everything above the horizon is background
    points = torch.tensor([[0.0, 0.3, 0.0], [0.0, -0.3, 0.0], [0.5, 0.2, -0.5], [0.0, 50.0, 0.0]])
    assert seen_through(points, cameras, opacity).tolist() == [True, False, True, False]


def test_what_nothing_contradicts_is_filled_and_the_rest_untouched():
    axis = torch.linspace(-1, 1, 21)
    volume = torch.full((21, 21, 21), -1.0)
    volume[5:16, 5:16, 5:16] = 1.0
    volume[10, 10, 10:] = -1.0  # a narrow shaft from outside to the middle
    cameras = orbit(6, elevation=20, size=32)
    sealed = seal_pits(volume, 0.0, [axis] * 3, 2, cameras, torch.ones(6, 32, 32))
    assert bool((sealed[5:16, 5:16, 5:16] == 1).all())
    assert torch.equal(sealed[volume == 1], volume[volume == 1])
    assert float((sealed > 0).sum()) == 11**3
    assert torch.equal(seal_pits(volume, 0.0, [axis] * 3, 2, cameras, torch.zeros(6, 32, 32)), volume)


def holed_shell(p: torch.Tensor) -> torch.Tensor:
    """A hollow ball, radius 0.5 and 0.05 thick, with a round hole of 0.05 m."""
    shell = 0.025 - (p.norm(dim=-1) - 0.475).abs()
    bore = p[:, :2].norm(dim=-1) - 0.025
    return 300 * torch.where(p[:, 2] > 0, torch.minimum(shell, bore), shell)


def test_a_hole_of_a_hollow_ball_is_sealed_so_that_its_inside_comes_apart():
    mesh = Analytic(holed_shell).extract(96)
    radii = mesh.vertices.norm(dim=-1)
    inner, outer = radii < 0.475, radii >= 0.475
    assert bool(inner.any()) and bool(outer.any())
    crossing = inner[mesh.faces].any(-1) & outer[mesh.faces].any(-1)
    assert not bool(crossing.any())


def test_a_gap_that_shows_the_background_stays_open():
    def plates(p):
        inside = torch.minimum(0.3 - p[:, 1].abs(), 0.3 - p[:, 2].abs())
        return 300 * torch.minimum(inside, 0.1 - (p[:, 0].abs() - 0.135).abs())  # 0.07 m between them

    mesh = Analytic(plates).extract(96)
    middle = mesh.vertices[:, 0].abs() < 0.02
    assert not bool(middle.any())
