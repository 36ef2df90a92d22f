"""The unseen becomes solid: by brute force on small volumes, and on shells, bowls and gaps whose truth is known."""

import itertools

import torch

from tests.representations.test_surface import Analytic
from threedistill.cameras import orbit
from threedistill.representations.carving import Views, behind, closed, seal, seen_through


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


def looking(opacity: torch.Tensor, depth: torch.Tensor | float, elevation: float = 0.0) -> Views:
    """Views around the object with the given pictures."""
    cameras = orbit(len(opacity), elevation=elevation, size=opacity.shape[-1])
    return Views(cameras, opacity, torch.as_tensor(depth).expand_as(opacity).clone())


def test_a_point_is_seen_through_where_its_pixel_is_clear():
    opacity = torch.ones(1, 64, 64)
    opacity[:, :32, :] = 0  # everything above the horizon is background; the camera looks down -z
    points = torch.tensor([[0.0, 0.3, 0.0], [0.0, -0.3, 0.0], [0.5, 0.2, -0.5], [0.0, 50.0, 0.0]])
    assert seen_through(points, looking(opacity, 2.0)).tolist() == [True, False, True, False]


def test_behind_is_the_least_depth_behind_the_surface_over_all_views():
    # Four cameras 2.9 m away, each with a wall at 2.4 m: what is within 0.5 m of the middle is behind all of them.
    views = looking(torch.ones(4, 64, 64), 2.4)
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    expected = torch.stack([(points - c).norm(dim=-1) for c in views.cameras.c2w[:, :3, 3]]).amin(0) - 2.4
    assert torch.allclose(behind(points, views, 1.0), expected, atol=1e-5)
    # A small deep spot in one view is a look through a hole; a large one, or background, is not.
    for width, value, carved in ((2, 3.0, False), (9, 3.0, True), (2, float("inf"), True)):
        views = looking(torch.ones(4, 64, 64), 2.4)
        views.depth[0, 32 - width // 2 : 33 + width // 2, 32 - width // 2 : 33 + width // 2] = value
        assert (float(behind(torch.zeros(1, 3), views, 1.0)) < 0) == carved, (width, value)


def test_a_point_outside_of_all_pictures_is_not_behind():
    assert float(behind(torch.tensor([[0.0, 9.0, 0.0]]), looking(torch.ones(4, 16, 16), 1.0), 0.1)) < 0


def test_what_nothing_contradicts_is_filled_and_the_rest_untouched():
    axis = torch.linspace(-1, 1, 21)
    volume = torch.full((21, 21, 21), -1.0)
    volume[5:16, 5:16, 5:16] = 1.0
    volume[10, 10, 10:] = -1.0  # a narrow shaft from outside to the middle
    opaque, clear = torch.ones(6, 32, 32), torch.zeros(6, 32, 32)
    sealed = seal(volume, 0.0, [axis] * 3, 0.1, 0.2, looking(opaque, 9.0))
    assert bool((sealed[5:16, 5:16, 5:16] == 1).all())
    assert torch.equal(sealed[volume == 1], volume[volume == 1])
    assert float((sealed > 0).sum()) == 11**3
    untouched = seal(volume, 0.0, [axis] * 3, 0.1, 0.2, looking(clear, float("inf")))
    assert torch.equal(untouched > 0, volume > 0)


def volume_of(mesh) -> float:
    corners = mesh.vertices[mesh.faces].double()
    return float((corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6)


def euler(mesh) -> int:
    """V - E + F: 2 for each closed surface without handles."""
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]).sort(-1).values
    return len(mesh.vertices) - len(edges.unique(dim=0)) + len(mesh.faces)


def shell(p: torch.Tensor) -> torch.Tensor:
    """A hollow ball, radius 0.5 and 0.06 thick."""
    return 0.03 - (p.norm(dim=-1) - 0.47).abs()


def test_a_hollow_ball_with_a_hole_becomes_a_solid_one():
    def holed(p):
        bore = p[:, :2].norm(dim=-1) - 0.025
        return 600 * torch.where(p[:, 2] > 0, torch.minimum(shell(p), bore), shell(p))

    mesh = Analytic(holed).extract(96)
    assert euler(mesh) == 2
    assert abs(volume_of(mesh) / (4 / 3 * torch.pi * 0.5**3) - 1) < 0.08


def test_a_cap_that_is_open_below_where_nobody_looks_is_solid():
    mesh = Analytic(lambda p: 600 * torch.minimum(shell(p), p[:, 1])).extract(96)
    assert euler(mesh) == 2
    # Views from 10 degrees below look a little under the rim, as far up as the far wall's tan(10) * 0.94 = 0.17 m.
    inside = mesh.vertices[mesh.vertices.norm(dim=-1) < 0.4]
    assert float(inside[:, 1].max()) < 0.2
    assert volume_of(mesh) > 0.6 * 2 / 3 * torch.pi * 0.5**3


def test_a_bowl_that_is_open_above_stays_a_bowl():
    mesh = Analytic(lambda p: 600 * torch.minimum(shell(p), -0.25 - p[:, 1])).extract(96)
    rim = 0.25
    cap = torch.pi * (0.5 - rim) ** 2 * (3 * 0.5 - (0.5 - rim)) / 3  # the volume if it were filled
    assert volume_of(mesh) < 0.75 * cap
    inner = mesh.vertices[mesh.vertices[:, [0, 2]].norm(dim=-1) < 0.05]
    assert float(inner[:, 1].max()) < -0.4  # the bottom is seen from above, 0.44 deep


def test_a_gap_that_shows_the_background_stays_open():
    def plates(p):
        inside = torch.minimum(0.3 - p[:, 1].abs(), 0.3 - p[:, 2].abs())
        return 600 * torch.minimum(inside, 0.1 - (p[:, 0].abs() - 0.135).abs())  # 0.07 m between them

    mesh = Analytic(plates).extract(96)
    assert not bool((mesh.vertices[:, 0].abs() < 0.02).any())
    assert euler(mesh) == 4
