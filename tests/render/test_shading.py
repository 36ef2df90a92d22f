"""sRGB and the shading function, against closed forms."""

import math

import pytest
import torch

from threedistill.render.shading import AMBIENT, CLAY, HEADLIGHT, SKY, linear_to_srgb, shade, srgb_to_linear


def test_srgb_round_trip_and_known_values():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(x)), x, atol=1e-7, rtol=0)
    # IEC 61966-2-1: mid grey 0.5 is 0.21404 in linear light; 1 and 0 are fixed.
    assert float(srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.214041, abs=1e-5)
    assert float(linear_to_srgb(torch.tensor(0.18))) == pytest.approx(0.461356, abs=1e-5)
    assert (srgb_to_linear(x)[1:] > srgb_to_linear(x)[:-1]).all()


def test_gradients_are_finite_at_black():
    x = torch.zeros(3, requires_grad=True)
    linear_to_srgb(srgb_to_linear(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3))


def test_shading_modes():
    up, front = torch.tensor([[0.0, 1, 0]]), torch.tensor([[0.0, 0, 1]])
    albedo = torch.tensor([[0.8, 0.4, 0.1]])
    assert torch.equal(shade(albedo, up, front, "none"), albedo)
    torch.testing.assert_close(shade(albedo, up, front, "normal"), torch.tensor([[0.5, 1.0, 0.5]]))
    # Facing both sky and light: full brightness.
    torch.testing.assert_close(shade(albedo, up, up, "lambertian"), albedo, atol=1e-6, rtol=0)
    assert pytest.approx(1.0) == AMBIENT + SKY + HEADLIGHT
    # A face towards the viewer: half the sky, all of the light; the ratio to the albedo in linear light is that sum.
    seen = shade(albedo, front, front, "lambertian")
    torch.testing.assert_close(
        srgb_to_linear(seen) / srgb_to_linear(albedo), torch.full((1, 3), AMBIENT + SKY / 2 + HEADLIGHT)
    )
    # Lights behind the surface do not darken it below ambient and sky.
    away = shade(albedo, front, front, "lambertian", light=-front)
    torch.testing.assert_close(
        srgb_to_linear(away) / srgb_to_linear(albedo), torch.full((1, 3), AMBIENT + SKY / 2)
    )
    clay = shade(albedo, up, up, "textureless")
    torch.testing.assert_close(clay, torch.full((1, 3), CLAY))


def test_light_turns_with_the_scene():
    """Turning normal, camera and light about the vertical together changes nothing."""
    generator = torch.Generator().manual_seed(0)
    normal, eye, light = torch.nn.functional.normalize(torch.randn(3, 50, 3, generator=generator), dim=-1)
    albedo = torch.rand(50, 3, generator=generator)
    c, s = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    one = shade(albedo, normal, eye, "lambertian", light)
    two = shade(albedo, normal @ turn.T, eye @ turn.T, "lambertian", light @ turn.T)
    torch.testing.assert_close(one, two)
