"""Colour, detail and variety figures on pictures and objects whose answers are known."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from threedistill.evaluation.alignment import turned
from threedistill.evaluation.appearance import (
    appearance,
    detail,
    distance,
    diversity,
    high_frequency,
    pictures,
    saturation,
    spread,
    world_spread,
)
from threedistill.toybox.evaluation.critic import ToyboxCritic
from threedistill.toybox.grammar import parse
from threedistill.toybox.world import build


def test_saturation_is_the_mean_span_of_the_channels_inside():
    rgb = torch.ones(1, 4, 4, 3)
    opacity = torch.zeros(1, 4, 4, 1)
    rgb[0, 0, 0] = torch.tensor([0.9, 0.2, 0.4])
    rgb[0, 0, 1] = torch.tensor([0.5, 0.5, 0.5])
    rgb[0, 3, 3] = torch.tensor([1.0, 0.0, 0.0])
    opacity[0, 0, :2] = 1
    opacity[0, 3, 3] = 0.5  # the outline does not count
    assert saturation(rgb, opacity) == pytest.approx((0.7 + 0.0) / 2)
    assert saturation(rgb, opacity * 0) == 0


@pytest.mark.parametrize(("cycles", "high"), [(4, False), (15, False), (17, True), (30, True)])
def test_a_plane_wave_has_its_energy_at_its_own_frequency(cycles, high):
    x = torch.arange(64) / 64
    wave = 0.5 + 0.1 * torch.cos(2 * math.pi * cycles * x)
    energy = high_frequency(wave[None, None, :, None].expand(2, 64, 64, 3))
    assert energy == pytest.approx(0.005 if high else 0.0, abs=1e-6)  # amplitude squared over two


def test_detail_of_a_wave_is_its_squared_laplacian():
    x = torch.arange(64)
    omega = 2 * math.pi / 8
    rgb = (0.5 + 0.2 * torch.sin(omega * x))[None, None, :, None].expand(1, 64, 64, 3)
    # the second difference of sin(wx) is (2 cos w - 2) sin(wx); sampled over whole periods its square averages to half
    expected = 0.02 * (2 * math.cos(omega) - 2) ** 2
    opacity = torch.ones(1, 64, 64, 1)
    opacity[:, :, :4] = opacity[:, :, -4:] = 0
    assert detail(rgb, opacity) == pytest.approx(expected, rel=0.05)
    assert detail(rgb, torch.zeros(1, 64, 64, 1)) == 0


def test_the_truth_itself_scores_like_the_truth_apart_from_its_light():
    truth = build(parse("a red robot").scene)
    lit = pictures(truth, lit=True)
    assert detail(lit.rgb, lit.opacity) > 0
    found = appearance(truth, truth)  # drawn unlit against lit: brighter, so more colourful
    assert 0 < found.saturation_error < 0.25
    assert 0.5 < found.high_frequency < 2


def test_colours_and_grain_move_their_figures_and_only_those():
    truth = build(parse("a blue car").scene)
    assert truth.colors is not None
    plain = appearance(truth, truth)
    grey = replace(truth, colors=truth.colors.mean(1, keepdim=True).expand(-1, 3))
    assert appearance(grey, truth).saturation == pytest.approx(0, abs=1e-5)
    rng = torch.Generator().manual_seed(0)
    fine = build(
        parse("a blue striped car").scene
    )  # finely cut, so that grain can be painted on its vertices
    assert fine.colors is not None
    smooth = replace(fine, colors=torch.tensor([0.2, 0.3, 0.8]).expand(len(fine.colors), 3))
    grain = replace(
        smooth, colors=(smooth.colors + 0.1 * torch.randn(len(fine.colors), 1, generator=rng)).clamp(0, 1)
    )
    assert appearance(grain, truth).detail > 3 * appearance(smooth, truth).detail
    assert plain.high_frequency > 0.5


def test_distance_ignores_where_an_object_faces_and_sees_what_it_is():
    robot = build(parse("a red robot").scene)
    ring = pictures(robot, lit=False).rgb
    rotated = pictures(turned(robot, math.radians(90)), lit=False).rgb  # three of the twelve cameras
    assert distance(ring, rotated) < 0.01
    assert (ring - rotated).square().mean().sqrt() > 0.05
    assert distance(ring, ring.roll(5, 0)) == pytest.approx(0, abs=1e-3)
    brute = min(float((ring - rotated.roll(k, 0)).square().mean().sqrt()) for k in range(12))
    assert distance(ring, rotated) == pytest.approx(brute, abs=1e-4)
    other = pictures(build(parse("a blue car").scene), lit=False).rgb
    assert distance(ring, other) > 0.1


def test_diversity_is_nothing_for_copies_and_one_for_the_world():
    prompt = "a yellow duck"
    scene = parse(prompt).scene
    world = [pictures(build(scene, random.Random(k)), lit=True).rgb for k in range(5)]
    reference = world_spread(prompt, ToyboxCritic().truth)
    assert diversity([world[0]] * 3, reference) == pytest.approx(0, abs=0.01)
    assert diversity(world, reference) == pytest.approx(1, abs=0.4)
    assert diversity(world[:1], reference) is None
    assert spread(world[:2]) == pytest.approx(distance(world[0], world[1]))
