"""The law of backgrounds."""

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.render.harmonics import C0
from threedistill.representations.background import BackgroundSampler, Surroundings
from threedistill.rng import Streams
from threedistill.schedule import Ramp


def test_half_of_the_steps_are_white_and_the_rest_fill_the_cube():
    colors = torch.cat([BackgroundSampler().sample(Streams(0, iteration=i), 4) for i in range(500)])
    white = (colors == 1).all(-1)
    assert 0.46 < float(white.float().mean()) < 0.54
    rest = colors[~white]
    assert torch.allclose(rest.mean(0), torch.full((3,), 0.5), atol=0.04)
    assert torch.allclose(rest.var(0), torch.full((3,), 1 / 12), atol=0.02)


def test_a_group_shares_its_colour_and_ranks_agree_with_one_process():
    law, streams = BackgroundSampler(white=0.0), Streams(3, iteration=7)
    one = law.sample(streams, 8, group=4)
    assert torch.equal(one[0], one[3]) and torch.equal(one[4], one[7]) and not torch.equal(one[0], one[4])
    second = law.sample(Streams(3, iteration=7, view_offset=4), 4, group=4)
    assert torch.equal(second, one[4:])


def test_backgrounds_keep_their_distance():
    avoid = torch.tensor([0.6, 0.4, 0.5])
    law = BackgroundSampler(white=0.3, clearance=0.35)
    colors = torch.cat([law.sample(Streams(1, iteration=i), 4, avoid=avoid) for i in range(300)])
    assert float((colors - avoid).norm(dim=-1).min()) >= 0.35
    assert 0.2 < float((colors == 1).all(-1).float().mean()) < 0.4
    behind_snow = law.sample(Streams(1), 64, avoid=torch.full((3,), 0.9))
    assert float((behind_snow - 0.9).norm(dim=-1).min()) >= 0.35


@pytest.mark.parametrize("kwargs", [{"white": 1.5}, {"clearance": -0.1}])
def test_refuses_what_is_out_of_range(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        BackgroundSampler(**kwargs)


def test_refuses_a_broken_group():
    with pytest.raises(ValueError, match="multiple"):
        BackgroundSampler().sample(Streams(0), 6, group=4)


def test_surroundings_are_drawn_per_group_and_as_often_as_the_schedule_says():
    law, plain = BackgroundSampler(learned=Ramp(1.0, 0.25, at=0.5, over=0.0)), BackgroundSampler()
    assert law.learns and not plain.learns
    assert not any(plain.surrounded(Streams(0, iteration=i), 4, 1, 0.5).any() for i in range(20))
    assert all(law.surrounded(Streams(0, iteration=i), 4, 2, 0.2).all() for i in range(20))
    drawn = torch.stack([law.surrounded(Streams(0, iteration=i), 8, 4, 0.9) for i in range(400)])
    assert torch.equal(drawn[:, 0], drawn[:, 3]) and 0.2 < float(drawn.float().mean()) < 0.3


def test_surroundings_are_a_colour_per_direction():
    flat, round_ = Surroundings(0), Surroundings(1)
    assert torch.allclose(round_(orbit(4, size=8)), torch.full((4, 8, 8, 3), 0.5))
    with torch.no_grad():
        flat.coefficients.fill_(2.0)
        round_.coefficients[2] = 5.0  # Y_1^0 is the third axis
    assert torch.allclose(flat(orbit(2, size=4)), torch.tensor(2.0 * C0).sigmoid().expand(2, 4, 4, 3))
    front, back = round_(orbit(2, elevation=0.0, size=9)).detach()[:, 4, 4, 0]
    assert float(front) < 0.1 and float(back) > 0.9  # the first camera stands on +Z and looks down -Z
