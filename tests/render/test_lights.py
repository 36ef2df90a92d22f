"""Laws of light: their directions, their draws, and that a real run is seen under them."""

from __future__ import annotations

import math

import pytest
import torch

from threedistill.cameras import CameraSampler, orbit
from threedistill.lights import Lighting
from threedistill.rng import Streams
from threedistill.schedule import Ramp
from threedistill.types import Cameras


def drawn(law: Lighting, cameras: Cameras, steps: int = 200, group: int = 1) -> torch.Tensor:
    """(steps, B, 3) directions."""
    found = [law.direction(Streams(0).at(step), cameras, group) for step in range(steps)]
    return torch.stack([light for light in found if light is not None])


def axes(cameras: Cameras) -> torch.Tensor:
    return torch.nn.functional.normalize(cameras.c2w[:, :3, 3], dim=1)


def test_a_headlight_draws_nothing() -> None:
    assert Lighting().direction(Streams(0).at(0), orbit(2)) is None
    assert Lighting().shading(Streams(0).at(0), 0.3, "normal") == "normal"


def test_light_in_a_cone_is_uniform_in_angle_and_azimuth() -> None:
    cameras = CameraSampler(8).sample(Streams(3).at(0), 8)
    light = drawn(Lighting("cone", cone=60.0), cameras, 500)
    torch.testing.assert_close(light.norm(dim=-1), torch.ones(500, 8))
    angle = torch.rad2deg((light * axes(cameras)).sum(-1).clamp(-1, 1).acos())
    assert float(angle.max()) < 60.001
    for share in (0.25, 0.5, 0.75):
        assert float(angle.quantile(share)) == pytest.approx(60 * share, abs=2)
    # Sideways it leans nowhere: in the camera's own axes.
    right = torch.einsum("sbi,bi->sb", light, cameras.c2w[:, :3, 0])
    up = torch.einsum("sbi,bi->sb", light, cameras.c2w[:, :3, 1])
    assert abs(float(right.mean())) < 0.02 and abs(float(up.mean())) < 0.02
    assert float(right.std()) == pytest.approx(float(up.std()), rel=0.05)


def test_light_near_the_camera_is_the_camera_and_a_normal_draw() -> None:
    cameras = orbit(4, elevation=20.0)
    still = drawn(Lighting("near_camera", spread=0.0), cameras, 2)
    torch.testing.assert_close(still, axes(cameras).expand(2, 4, 3))
    light = drawn(Lighting("near_camera", spread=1.0), cameras, 3000)
    expected = torch.nn.functional.normalize(
        cameras.c2w[:, :3, 3] + torch.randn(3000, 1, 3, generator=torch.Generator().manual_seed(5)), dim=-1
    )
    torch.testing.assert_close(light.mean(0), expected.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(light.std(0), expected.std(0), atol=0.02, rtol=0)


@pytest.mark.parametrize("law", ["near_camera", "cone"])
def test_groups_share_a_draw_and_ranks_agree_with_one_process(law: str) -> None:
    cameras = orbit(8, elevation=10.0)
    law_of = Lighting(law, cone=40.0)  # type: ignore[arg-type]
    streams = Streams(1).at(7)
    together = law_of.direction(streams, cameras, 4)
    assert together is not None
    angle = (together * axes(cameras)).sum(1)
    if law == "cone":
        torch.testing.assert_close(angle[:4], angle[:1].expand(4))
        assert abs(float(angle[0] - angle[4])) > 1e-3
    second = Streams(1, iteration=7, view_offset=4)
    torch.testing.assert_close(law_of.direction(second, cameras[4:], 4), together[4:])
    with pytest.raises(ValueError, match="6 views are not a multiple"):
        law_of.direction(streams, orbit(6), 4)


def test_shadings_are_drawn_with_their_weights() -> None:
    law = Lighting(
        mix={"none": Ramp(start=1.0, end=0.0, at=0.2, over=0.0), "lambertian": 1.0, "textureless": 0.0}
    )
    names = [law.shading(Streams(0).at(i), 0.0, "normal") for i in range(1000)]
    assert set(names) == {"none", "lambertian"} and names.count("none") / 1000 == pytest.approx(0.5, abs=0.05)
    assert {law.shading(Streams(0).at(i), 0.9, "normal") for i in range(50)} == {"lambertian"}
    assert law.shows("lambertian", "none") and not law.shows("textureless", "textureless")
    assert Lighting().shows("lambertian", "lambertian") and not Lighting().shows("lambertian", "none")
    with pytest.raises(ValueError, match="the weights of mix are all 0 at progress 1"):
        Lighting(mix={"none": Ramp(start=1.0, end=0.0)})


def test_light_in_a_cone_is_where_its_angles_about_the_view_axis_say() -> None:
    cameras = orbit(1, elevation=0.0)
    streams = Streams(0).at(11)
    around, away = streams.generator_uniform("light", 0, 2).tolist()
    light = Lighting("cone", cone=50.0).direction(streams, cameras)
    assert light is not None
    angle, azimuth = math.radians(50.0) * away, 2 * math.pi * around
    right, up, back = (cameras.c2w[0, :3, k] for k in range(3))
    expected = math.cos(angle) * back + math.sin(angle) * (math.cos(azimuth) * right + math.sin(azimuth) * up)
    torch.testing.assert_close(light[0], expected, atol=1e-6, rtol=0)
