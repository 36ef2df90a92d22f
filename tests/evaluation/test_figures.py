"""Ranks, Janus estimates and intervals with known answers; no network involved."""

import math

import numpy as np
import pytest
import torch

from threedistill.evaluation.janus import arcs, janus_estimate, plateau_middle
from threedistill.evaluation.statistics import bootstrap, wilson
from threedistill.toybox.evaluation.judging import FLOOR, attributes, caption_logp, rank_of
from threedistill.toybox.grammar import ObjectSpec, Scene
from threedistill.toybox.judge import JudgeReading, Vocabulary, scene_labels

WORDS = Vocabulary(("duck", "ball"), ("red", "blue"), ("striped", "spotted"), ("hat",))


def views_of(seen: list[str], sure: float = 0.9) -> torch.Tensor:
    names = ["front", "side", "back", "overhead"]
    p = torch.full((len(seen), 4), (1 - sure) / 3)
    for row, name in enumerate(seen):
        p[row, names.index(name)] = sure
    return p.log()


def normal(count: int = 24, yaw: float = 0.0) -> list[str]:
    def name(a: float) -> str:
        away = abs((a - yaw + 180) % 360 - 180)
        return "front" if away <= 45 else "back" if away >= 135 else "side"

    return [name(360 / count * k) for k in range(count)]


@pytest.mark.parametrize("yaw", [0.0, 75.0, -120.0, 180.0])
def test_a_normal_object_has_one_front_wherever_it_faces(yaw):
    found = janus_estimate(views_of(normal(yaw=yaw)))
    assert found.share == 0 and found.fronts == 1 and found.yaw_margin > 1
    assert abs((found.yaw - yaw + 180) % 360 - 180) <= 7.5
    assert found.low == 0 and 0 < found.high < 0.6


def test_two_faces_and_a_face_on_every_side():
    two = ["front" if v == "back" else v for v in normal()]
    found = janus_estimate(views_of(two))
    # Of the eleven azimuths beyond 90 degrees, seven lie within 45 degrees of the back.
    assert found.share == pytest.approx(7 / 11) and found.fronts == 2
    assert found.yaw_margin == pytest.approx(0, abs=1e-9)
    every = janus_estimate(views_of(["front"] * 24))
    assert every.share == 1 and every.fronts == 1


def test_an_unsure_front_does_not_count():
    p = torch.tensor([0.45, 0.25, 0.25, 0.05]).log().expand(24, 4)
    assert janus_estimate(p).share == 0


def test_plateau_and_arcs_go_round_the_circle():
    assert plateau_middle(np.array([1.0, 0, 0, 0, 1, 1])) == 5
    assert plateau_middle(np.array([0.0, 2, 0, 2, 2, 2])) == 4
    assert arcs(np.array([True, False, False, True, True])) == 1
    assert arcs(np.array([True, False, True, False])) == 2
    assert arcs(np.zeros(4, bool)) == 0


def test_rank_counts_ties_against_the_own_caption():
    assert rank_of(1, [0.0, 2.0, 1.0]) == 1
    assert rank_of(0, [0.0, 2.0, 1.0]) == 3
    assert rank_of(0, [1.0, 1.0, 0.0]) == 2


def test_scene_labels():
    duck = Scene((ObjectSpec("duck", "red"),))
    assert scene_labels(duck, WORDS) == {
        "kind": 0, "color": 0, "pattern": 0, "accessory": 0, "second_kind": 0, "second_color": 0
    }  # fmt: skip
    hat = scene_labels(Scene((ObjectSpec("duck", "red", accessory=("hat", "blue")),)), WORDS)
    assert hat["accessory"] == 1 and hat["second_color"] == 2
    pair = scene_labels(Scene((ObjectSpec("duck", None), ObjectSpec("ball", "red")), "on"), WORDS)
    assert pair["second_kind"] == 2 and pair["second_color"] == 1 and "color" not in pair


def test_caption_logp_adds_the_logs_and_floors_them():
    def logs(*p: float) -> torch.Tensor:
        return torch.tensor([p]).log()

    reading = JudgeReading(
        kind_logp=logs(0.8, 0.2), color_logp=logs(0.5, 0.5), pattern_logp=logs(0.9, 0.05, 0.05),
        accessory_logp=logs(0.7, 0.3), second_kind_logp=logs(1 - 2e-6, 1e-6, 1e-6),
        second_color_logp=logs(0.6, 0.1, 0.3), view_logp=logs(1, 1, 1, 1), clean=torch.ones(1),
        azimuth=torch.zeros(1), parts=torch.zeros(1, 0),
    )  # fmt: skip
    plain = caption_logp(reading, Scene((ObjectSpec("duck", "red"),)), WORDS)
    assert float(plain) == pytest.approx(math.log(0.8 * 0.5 * 0.9 * 0.7 * 0.6), abs=1e-5)
    open_color = caption_logp(reading, Scene((ObjectSpec("ball", None),)), WORDS)
    assert float(open_color) == pytest.approx(math.log(0.2 * 0.9 * 0.7 * 0.6), abs=1e-5)
    hat = caption_logp(reading, Scene((ObjectSpec("duck", "red", accessory=("hat", "blue")),)), WORDS)
    assert float(hat) == pytest.approx(math.log(0.8 * 0.5 * 0.9 * 0.3 * 0.3), abs=1e-5)
    pair = caption_logp(reading, Scene((ObjectSpec("duck", "red"), ObjectSpec("ball", "blue")), "on"), WORDS)
    assert float(pair) == pytest.approx(math.log(0.8 * 0.5 * 0.9 * 0.7 * 0.3) + FLOOR, abs=1e-4)


def test_things_side_by_side_count_in_either_order():
    def rows(*p: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(p).log()

    # Seen from the front the duck is first, from behind the ball is.
    reading = JudgeReading(
        kind_logp=rows((0.9, 0.1), (0.2, 0.8)), color_logp=rows((0.9, 0.1), (0.1, 0.9)),
        pattern_logp=rows(*[(1 - 2e-9, 1e-9, 1e-9)] * 2), accessory_logp=rows(*[(1 - 1e-9, 1e-9)] * 2),
        second_kind_logp=rows((0.1, 0.1, 0.8), (0.1, 0.7, 0.2)),
        second_color_logp=rows((0.1, 0.1, 0.8), (0.1, 0.7, 0.2)), view_logp=rows(*[(1.0,) * 4] * 2),
        clean=torch.ones(2), azimuth=torch.zeros(2), parts=torch.zeros(2, 0),
    )  # fmt: skip
    duck, ball = ObjectSpec("duck", "red"), ObjectSpec("ball", "blue")
    for scene in (Scene((duck, ball), "next to"), Scene((ball, duck), "next to")):
        logp = caption_logp(reading, scene, WORDS)
        assert logp.tolist() == pytest.approx(
            [math.log(0.9**2 * 0.8**2), math.log(0.8 * 0.9 * 0.7**2)], abs=1e-4
        )
        found = attributes(reading, scene, WORDS)
        assert found["kind"] == (pytest.approx(0.85), True) and found["second_color"][1]
    on = attributes(reading, Scene((duck, ball), "on"), WORDS)
    assert on["kind"] == (pytest.approx(0.55), True) and on["second_kind"][0] == pytest.approx(0.5)


def test_bootstrap_matches_the_normal_interval_of_a_mean():
    x = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found = bootstrap(list(x))
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert found.value == pytest.approx(x.mean())
    assert found.low == pytest.approx(x.mean() - half, abs=0.015)
    assert found.high == pytest.approx(x.mean() + half, abs=0.015)


def test_bootstrap_over_prompts_is_wider_than_over_runs():
    # Ten seeds of each prompt agree fully: there are four observations, not forty.
    values = [1.0] * 10 + [0.0] * 10 + [1.0] * 10 + [0.0] * 10
    prompts = [name for name in "abcd" for _ in range(10)]
    by_run, by_prompt = bootstrap(values), bootstrap(values, groups=prompts)
    assert by_prompt.value == by_run.value == 0.5
    assert by_prompt.high - by_prompt.low > 2 * (by_run.high - by_run.low)
    assert bootstrap([0.3], groups=["a"]).low == pytest.approx(0.3)
    assert str(bootstrap([0.3], groups=["a"])) == "0.30", "one prompt makes no interval"
    with pytest.raises(ValueError):
        bootstrap([])


def test_bootstrap_draws_whole_groups_of_any_size():
    """``a`` holds one 1, ``b`` three 0s: two drawn groups have means 1, 1/4, 1/4 or 0, in any order of the values."""
    for values, prompts in (([1.0, 0, 0, 0], "abbb"), ([0.0, 1, 0, 0], "babb")):
        wide = bootstrap(values, groups=list(prompts))
        assert (wide.value, wide.low, wide.high, wide.count) == (0.25, 0.0, 1.0, 4)
        middle = bootstrap(values, groups=list(prompts), level=0.4)
        assert (middle.low, middle.high) == (0.25, 0.25)


def test_wilson_interval_of_a_published_example():
    # 10 of 20: 0.2993 .. 0.7007 (Wilson 1927; Brown, Cai and DasGupta 2001 give the closed form).
    found = wilson(0.5, 20)
    assert (found.low, found.high) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert wilson(0.0, 10).low == 0 and wilson(0.0, 10).high == pytest.approx(0.2775, abs=1e-3)
    with pytest.raises(ValueError):
        wilson(1.2, 10)
