"""Reference views and the sketch: what a picture shows of one side is known of the others."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch

from threedistill.cameras import camera_vectors, orbit
from threedistill.conditions import Conditions, ReferenceImage
from threedistill.toybox.model import ToyboxPipeline, camera
from threedistill.toybox.priors.embedded import ToyboxPrior
from threedistill.toybox.shown import backdrop, fit_cloud, likely_camera
from threedistill.toybox.sketch import Cloud, draw_cloud

SIZE = 64


@cache
def pipeline() -> Any:
    return ToyboxPipeline.load()


def told(text: str) -> torch.Tensor:
    with torch.no_grad():
        return pipeline().read([text])["told"][0]


def drawn(cloud: Cloud, azimuth: float, behind: float = 1.0) -> torch.Tensor:
    """(3, H, W) over a grey."""
    rgba = draw_cloud(cloud, camera_vectors(camera([azimuth]), 1), SIZE)[0]
    return rgba[:3] + (1 - rgba[3:]) * behind


@pytest.mark.parametrize("behind", [1.0, 0.4])
def test_paints_and_size_seen_from_the_front_are_those_of_the_side(behind):
    sketch, words = pipeline().sketch, told("a red car")
    with torch.no_grad():
        start = sketch.cloud(words[None])
        other = start._replace(
            means=start.means * 1.15, scales=start.scales * 1.15,
            palette=start.palette * torch.tensor([0.6, 1.0, 1.0]) + torch.tensor([0.0, 0.3, 0.3]),
        )  # fmt: skip
        front = drawn(other, 0.0, behind)[None]
    found, error = fit_cloud(sketch.cloud, words, front, camera_vectors(camera([0.0]), 1))
    assert error < 0.2 * (drawn(start, 0.0, behind) - front[0]).square().mean()
    before, after = ((drawn(c, 90.0) - drawn(other, 90.0)).square().mean() for c in (start, found))
    assert after < 0.4 * before


def test_a_picture_of_an_unknown_side_is_placed():
    words = told("a red duck")
    with torch.no_grad():
        pictures = [drawn(pipeline().sketch.cloud(words[None]), a) for a in (0.0, 90.0, 180.0)]
    azimuths = []
    for picture in pictures:
        vector = likely_camera(pipeline().sketch.cloud, words, picture)
        azimuths.append(math.degrees(math.atan2(vector[0], vector[1])) % 360)
    assert azimuths == pytest.approx([0.0, 90.0, 180.0], abs=31)


def test_what_is_behind_an_object_is_read_off_the_border():
    picture = torch.full((3, 20, 20), 0.25)
    picture[:, 5:20, 5:15] = 0.9
    assert backdrop(picture).tolist() == [0.25] * 3


def test_prompts_are_fitted_once_and_negatives_never(monkeypatch):
    prior = ToyboxPrior()
    calls = []
    fitted = type(prior.pipeline).fitted
    monkeypatch.setattr(type(prior.pipeline), "fitted", lambda self, *a: calls.append(1) or fitted(self, *a))
    with torch.no_grad():
        seen = drawn(pipeline().sketch.cloud(told("a blue car")[None]), 0.0)
    image = ReferenceImage(torch.cat([seen.permute(1, 2, 0), torch.ones(SIZE, SIZE, 1)], -1), camera([0.0]))
    texts, views = ["a red car", "a red car", ""], orbit(3)
    plain, shown = (
        prior.conditioning(Conditions(texts, views, torch.ones(3, 3), images=images))
        for images in ((), (image,))
    )
    changed = (plain["sketch"] - shown["sketch"]).abs().flatten(1).amax(1)
    assert (changed[:2] > 0.1).all() and changed[2] == 0
    again = prior.conditioning(Conditions(texts, views, torch.ones(3, 3), images=(image,)))
    assert torch.equal(again["sketch"], shown["sketch"]) and len(calls) == 1
