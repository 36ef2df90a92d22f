"""Noise on the surface: standard normal, independent from pixel to pixel, and the same from wherever it is seen."""

from __future__ import annotations

import torch

from threedistill.cameras import orbit
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.rules import CFD
from threedistill.guidance.surface_noise import SIDE, corners_of, draw_noise, octahedral, surface_noise
from threedistill.rng import Streams
from threedistill.types import Rendering

CHANNELS, RADIUS = 48, 0.6
GENERATOR = torch.Generator().manual_seed(0)
SQUARE = torch.randn(SIDE, SIDE, CHANNELS, generator=GENERATOR)


def ball(cameras):
    """What cameras see of a ball, exactly."""
    origins, directions = cameras.rays()
    along = -(origins * directions).sum(-1)
    off = along**2 - origins.square().sum(-1) + RADIUS**2
    hit = off > 0
    depth = torch.where(hit, along - off.clamp_min(0).sqrt(), torch.zeros_like(off))
    shape = (*depth.shape, 1)
    return Rendering(
        torch.zeros(*depth.shape, 3), hit.float().view(shape), depth.view(shape), torch.ones(len(hit), 3)
    )


def noise(cameras, size):
    behind = torch.randn(CHANNELS, size, size, generator=torch.Generator().manual_seed(1))
    corners = corners_of(ball(cameras), cameras, size, size)
    return surface_noise(corners, SQUARE, behind), behind, corners[1]


def test_it_is_white():
    found, behind, solid = noise(orbit(2, elevation=30, size=64), 32)
    inside = torch.nn.functional.max_pool2d((~solid)[:, None].float(), 2, 1)[:, 0] == 0
    assert inside.sum() > 300
    values = found.permute(0, 2, 3, 1)[inside]
    assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02
    beside = (found[:, :, :, 1:] * found[:, :, :, :-1]).mean(1)[inside[:, :, 1:] & inside[:, :, :-1]]
    assert abs(float(beside.mean())) < 0.02
    empty = torch.nn.functional.max_pool2d(solid[:, None].float(), 2, 1)[:, 0] == 0
    assert torch.equal(
        found.permute(0, 2, 3, 1)[empty], behind.expand(2, -1, -1, -1).permute(0, 2, 3, 1)[empty]
    )


def test_a_finer_look_sees_the_same_noise_in_smaller_pieces():
    cameras = orbit(1, elevation=30, size=64)
    (coarse, _, solid), (fine, _, _) = noise(cameras, 16), noise(cameras, 32)
    together = 2 * torch.nn.functional.avg_pool2d(fine, 2)
    inside = torch.nn.functional.max_pool2d((~solid)[:, None].float(), 4, 1, 1)[:, 0, :16, :16] == 0
    agree = (coarse * together).mean(1)[0][inside[0]]
    assert float(agree.mean()) > 0.9


def test_neighbouring_views_agree_about_the_surface():
    """Nearest pixels of two views share three quarters of each side on average, 0.56 of their area."""
    cameras = orbit(2, elevation=20, size=64)
    near = type(cameras)(**{**vars(cameras), "c2w": cameras.c2w.clone()})
    angle = torch.tensor(0.15)
    turn = torch.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    near.c2w[1] = turn @ near.c2w[0]
    found, _, _ = noise(near, 32)
    origins, directions = near[torch.tensor([0])].resized(32, 32).rays()
    shown = ball(near[torch.tensor([0])].resized(32, 32))
    points = (origins + shown.depth * directions)[0][shown.opacity[0, :, :, 0] > 0]
    facing = (points / RADIUS * torch.nn.functional.normalize(near.c2w[:, None, :3, 3], dim=-1)).sum(-1).amin(
        0
    ) > 0.6
    points = points[facing]
    at = []
    for matrix in near.world_to_clip():
        clip = torch.cat([points, torch.ones(len(points), 1)], 1) @ matrix.T
        x, y = (clip[:, 0] / clip[:, 3] + 1) * 16, (1 - clip[:, 1] / clip[:, 3]) * 16
        at.append((y.long().clamp(0, 31), x.long().clamp(0, 31)))
    first, second = (found[k][:, at[k][0], at[k][1]] for k in (0, 1))
    assert len(points) > 100 and float((first * second).mean()) > 0.4
    assert abs(float((first * second.roll(7, 1)).mean())) < 0.1


def test_the_sphere_unfolds_once():
    points = torch.nn.functional.normalize(torch.randn(4000, 3, generator=GENERATOR), dim=-1)
    flat = octahedral(points)
    assert float(flat.abs().max()) <= 1 + 1e-6
    inner = flat.abs().sum(-1) <= 1 + 1e-6
    assert torch.equal(inner, points[:, 1] >= 0)


def test_a_rule_that_asks_for_it_keeps_it_from_step_to_step_and_turns_it():
    cameras = orbit(2, size=32)
    shown = (ball(cameras), cameras)
    still, turning = CFD(ClassifierFree(3.0)), CFD(ClassifierFree(3.0), turns=2.0)
    draws = [draw_noise(still, Streams(0).at(i), 2, (3, 16, 16), shown, i / 10) for i in (0, 5)]
    assert torch.equal(*draws)
    turned = [draw_noise(turning, Streams(0), 2, (3, 16, 16), shown, p) for p in (0.0, 0.25, 0.5)]
    assert torch.equal(turned[0], draws[0])
    likeness = [float((turned[0] * other).mean()) for other in turned]
    assert likeness[0] > 0.9 and 0.55 < likeness[1] < 0.85 and abs(likeness[2]) < 0.15
    unseen = draw_noise(still, Streams(0), 2, (3, 16, 16))
    assert torch.equal(unseen[0], unseen[1])
