"""Parts on a faint stem stay joined: the path is the cheapest by brute force, and nothing else changes."""

import itertools
import math

import torch

from tests.representations.test_carving import euler
from tests.representations.test_surface import Analytic
from threedistill.representations.bridging import bridge


def two_parts(faint: float = -0.4) -> torch.Tensor:
    """A block, a smaller one above it, and a stem between them that the surface's level 0 misses."""
    volume = torch.full((9, 24, 9), -5.0)
    volume[1:8, 1:10, 1:8] = 2.0
    volume[3:6, 14:18, 3:6] = 2.0
    volume[4, 10:14, 4] = faint
    return volume


def test_a_faint_stem_is_raised_and_nothing_else():
    volume = two_parts()
    joined = bridge(volume, 0.0, -2.0, 6)
    stem = torch.zeros_like(volume, dtype=torch.bool)
    stem[4, 10:14, 4] = True
    assert bool((joined[stem] > 0).all())
    assert torch.equal(joined[~stem], volume[~stem])


def test_longer_fainter_and_smaller_ones_are_left_alone():
    volume = two_parts()
    assert torch.equal(bridge(volume, 0.0, -2.0, 3), volume)  # four samples are too many
    assert torch.equal(bridge(volume, 0.0, -0.3, 6), volume)  # fainter than what counts as a stem
    speck = two_parts()
    speck[3:6, 14:18, 3:6] = -5.0
    speck[4, 14, 4] = 2.0  # 1 of 441 samples: a floater
    assert torch.equal(bridge(speck, 0.0, -2.0, 6), speck)


def test_a_neck_may_lead_through_a_third_part():
    volume = two_parts()
    volume[3:6, 21:24, 3:6] = 2.0
    volume[4, 18:21, 4] = -0.4
    joined = bridge(volume, 0.0, -2.0, 4)  # seven samples in all, four at most at a time
    assert bool((joined[4, 10:14, 4] > 0).all() and (joined[4, 18:21, 4] > 0).all())
    # Only the far part hangs on too long a neck.
    assert torch.equal(bridge(volume, 0.0, -2.0, 3), volume)


def test_one_part_is_returned_as_it_is():
    volume = torch.full((5, 5, 5), -1.0)
    volume[1:4, 1:4, 1:4] = 1.0
    assert bridge(volume, 0.0, -2.0, 3) is volume


def test_the_path_lacks_least_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        shape = (5, 9, 4)
        volume = -torch.rand(shape, generator=generator).double() * 1.9 - 0.05
        volume[:, :2] = volume[:, 7:] = 1.0
        joined = bridge(volume, 0.0, -2.0, 99)
        path = ((joined > 0) & (volume <= 0)).nonzero().tolist()
        # Bellman-Ford over samples; entering one costs what it lacks.
        cost = dict.fromkeys(itertools.product(*map(range, shape)), math.inf)
        cost.update({place: 0.0 for place in cost if place[1] < 2})
        for _ in range(40):
            for place in cost:
                for axis, step in itertools.product(range(3), (-1, 1)):
                    other = tuple(c + step * (a == axis) for a, c in enumerate(place))
                    if other in cost:
                        cost[place] = min(cost[place], cost[other] + max(-float(volume[place]), 0.0))
        least = min(cost[place] for place in cost if place[1] >= 7)
        assert abs(sum(-float(volume[tuple(p)]) for p in path) - least) < 0.02, (path, least)


def test_a_ball_on_a_stem_of_fog_becomes_one_closed_surface():
    def balls(p):
        body = 0.4 - (p + p.new_tensor([0, 0.3, 0])).norm(dim=-1)
        head = 0.12 - (p - p.new_tensor([0, 0.35, 0])).norm(dim=-1)
        return 600 * torch.maximum(body, head)

    def stem(p):
        inside = (p[:, [0, 2]].norm(dim=-1) < 0.04) & (p[:, 1] > 0.05) & (p[:, 1] < 0.3)
        return torch.where(inside, torch.maximum(balls(p), torch.full_like(p[:, 0], -0.5)), balls(p))

    assert (
        euler(Analytic(balls).extract(96)) == 4
    )  # two closed surfaces, with nothing but empty space between
    steep = Analytic(lambda p: 20 * balls(p)).extract(
        96
    )  # a level at which an eighth is below the empty space's value
    assert euler(steep) == 4
    assert euler(Analytic(stem).extract(96)) == 2
