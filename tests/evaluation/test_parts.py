"""Parts that are shown: the arithmetic, and the ring of views as assets are judged from it."""

import pytest
import torch

from threedistill.toybox.evaluation.judging import many_faced
from threedistill.toybox.evaluation.parts import parts_shown, ring_parts, turned_to
from threedistill.toybox.grammar import parse
from threedistill.toybox.judge import JudgeReading
from threedistill.toybox.visible import SHOWN


def test_the_share_counts_what_the_truth_shows():
    names = ("beak", "eyes")  # another order than the table's
    truth = torch.zeros(3, len(SHOWN), dtype=torch.long)
    eyes, beak = list(SHOWN).index("eyes"), list(SHOWN).index("beak")
    truth[:, eyes] = torch.tensor([1, 1, -1])
    truth[:, beak] = torch.tensor([1, 0, 0])
    seen = torch.tensor([[0.9, 0.8], [0.7, 0.2], [0.1, 0.9]])  # beak, eyes
    found = parts_shown(seen, truth, names)
    assert found is not None and found.share == pytest.approx(2 / 3) and found.invented == pytest.approx(0.5)
    assert found.by_part == {"beak": 1.0, "eyes": 0.5}
    assert parts_shown(torch.zeros(3, 0), truth, ()) is None
    nothing = parts_shown(seen, torch.zeros_like(truth), names)
    assert nothing is not None and nothing.share is None and nothing.by_part == {}


def test_the_ring_of_a_duck_shows_its_beak_before_and_its_tail_behind():
    truth = ring_parts(parse("a yellow duck").scene, 24)
    beak = truth[:, list(SHOWN).index("beak")]
    assert (beak[[0, 1, 23]] == 1).all() and (beak[[11, 12, 13]] == 0).all()
    # A duck that faces 90 degrees shows at view 6 what it should show at view 0.
    asset = torch.roll(truth.float(), 6, 0)
    assert torch.equal(turned_to(asset, 90.0), truth.float())
    assert torch.equal(turned_to(truth.float(), 0.0), truth.float())


def reading(front: list[float], clean: float = 1.0) -> JudgeReading:
    p = torch.tensor(front)
    rest = (1 - p) / 3
    blank = torch.zeros(len(front), 1)
    return JudgeReading(
        kind_logp=blank, color_logp=blank, pattern_logp=blank, accessory_logp=blank, second_kind_logp=blank,
        second_color_logp=blank, view_logp=torch.stack([p, rest, rest, rest], 1).log(),
        clean=torch.full((len(front),), clean), azimuth=torch.zeros(len(front)), parts=torch.zeros(len(front), 0),
    )  # fmt: skip


def test_a_second_face_is_found_from_all_around():
    """Of 24 views: one front; a front behind as well; two apart; one too wide; none; one that no picture likes."""

    def ring(*fronts: int) -> list[float]:
        return [0.9 if k in fronts else 0.01 for k in range(24)]

    before = (22, 23, 0, 1, 2)
    assert not many_faced(reading(ring(*before)))
    assert many_faced(reading(ring(*before, 11, 12, 13)))
    assert many_faced(reading(ring(*before, 5, 6)))
    assert many_faced(reading(ring(*range(9)))) and not many_faced(reading(ring(*range(8))))
    assert many_faced(reading(ring(), clean=0.5)) and not many_faced(reading(ring(*before), clean=0.5))
    assert many_faced(reading(ring(*before), clean=0.2))
