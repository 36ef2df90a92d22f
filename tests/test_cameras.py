"""Where training cameras stand: ranges and counts that change over a stage, framing, jitter."""

from __future__ import annotations

import math

import pytest
import torch

from threedistill.cameras import CameraSampler
from threedistill.rng import Streams
from threedistill.schedule import Ramp
from threedistill.types import Cameras


def many(sampler: CameraSampler, progress: float = 0.0, steps: int = 50) -> list[Cameras]:
    return [sampler.sample(Streams(1, iteration=i), 8, progress=progress) for i in range(steps)]


def test_ranges_and_counts_change_over_the_stage() -> None:
    sampler = CameraSampler(
        views=Ramp(8, 4, at=0.5, over=0.0),
        distance=(Ramp(5.2, 3.5), Ramp(5.5, 5.0)),
        elevation=(0.0, Ramp(10, 40)),
    )
    assert sampler.counts == {4, 8} and sampler.most == 8
    for progress, views, low, high in ((0.0, 8, 5.2, 5.5), (0.49, 8, 4.367, 5.255), (0.5, 4, 4.35, 5.25)):
        drawn = many(sampler, progress)
        distance = torch.cat([cameras.distance for cameras in drawn])
        assert {len(cameras) for cameras in drawn} == {views}
        assert (
            low - 1e-3 <= float(distance.min()) < low + 0.1
            and high - 0.1 < float(distance.max()) <= high + 1e-3
        )
    top = [float(torch.cat([c.elevation for c in many(sampler, p)]).max()) for p in (0.0, 1.0)]
    assert math.radians(9) < top[0] <= math.radians(10) and math.radians(36) < top[1] <= math.radians(40)
    with pytest.raises(
        ValueError, match=r"distance \[1\.\d+, 1\.\d+\] must not run backwards, as it does at progress"
    ):
        CameraSampler(distance=(Ramp(1.0, 2.0), 1.5))
    with pytest.raises(ValueError, match=r"views=4, 5 must be even"):
        CameraSampler(views=Ramp(4, 5, at=0.5, over=0.0), antithetic=True)


def test_framed_cameras_show_the_object_equally_large_at_every_field_of_view() -> None:
    cameras = CameraSampler(32, distance=(0.9, 0.9), fov_y=(15.0, 60.0), framed=True).sample(Streams(0), 8)
    assert torch.allclose(cameras.distance * torch.tan(cameras.fov_y / 2), torch.full((32,), 0.9))
    assert float(cameras.distance.max()) > 3 * float(cameras.distance.min())


def test_jitter_moves_place_target_and_up_and_the_angles_are_those_of_the_place() -> None:
    plain = many(CameraSampler(4, distance=(1.0, 1.5)))
    for still in (CameraSampler(4, distance=(1.0, 1.5), up_jitter=1e-9),):
        for one, other in zip(plain, many(still)):
            assert torch.allclose(one.c2w, other.c2w, atol=1e-5)
            assert torch.allclose(one.azimuth.cos(), other.azimuth.cos(), atol=1e-5)
    sampler = CameraSampler(4, distance=(1.0, 1.5), position_jitter=0.1, target_jitter=0.2, up_jitter=0.02)
    moved, targets, rolls = [], [], []
    for one, other in zip(plain, many(sampler, steps=200)):
        frame, at = other.c2w[:, :3, :3], other.c2w[:, :3, 3]
        assert torch.allclose(frame.mT @ frame, torch.eye(3).expand(4, 3, 3), atol=1e-5)
        assert torch.allclose(torch.linalg.det(frame), torch.ones(4), atol=1e-5)
        direction = torch.stack(
            [
                other.azimuth.sin() * other.elevation.cos(),
                other.elevation.sin(),
                other.azimuth.cos() * other.elevation.cos(),
            ],
            1,
        )
        assert torch.allclose(direction * other.distance[:, None], at, atol=1e-5)
        moved.append(at - one.c2w[:, :3, 3])
        # How far the axis of view passes the origin: of a target with this deviation per axis, two count.
        axis = frame[..., 2]
        targets.append((at - (at * axis).sum(1, keepdim=True) * axis).norm(dim=1))
        rolls.append((frame[..., 0] * one.c2w[:, :3, 1]).sum(1))
    moves = torch.cat(moved)
    assert float(moves.abs().max()) <= 0.1 and float(moves.std()) == pytest.approx(
        0.2 / math.sqrt(12), rel=0.1
    )
    assert 0.15 < float(torch.cat(targets).square().mean().sqrt()) / math.sqrt(2) < 0.25
    assert float(torch.cat(rolls).abs().mean()) > 0.005


def test_cameras_may_stand_inside_the_unit_ball() -> None:
    cameras = CameraSampler(64, distance=(0.1, 1.0)).sample(Streams(0), 8)
    assert 0.1 <= float(cameras.distance.min()) < 0.3
