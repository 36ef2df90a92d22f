"""The embedded prior's sketch: clouds of splats, each drawn from its own camera."""

from __future__ import annotations

import math

import torch

from threedistill.cameras import camera_vectors, orbit, place
from threedistill.render.projection import rotations
from threedistill.render.splat import draw
from threedistill.toybox.sketch import Cloud, SplatSketch, draw_cloud

SIZE = 32


def clouds(count: int, splats: int = 12) -> tuple[Cloud, list[tuple[torch.Tensor, ...]]]:
    """Random clouds, and what the renderer of splats is given of each."""
    generator = torch.Generator().manual_seed(0)

    def number(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    means, scales = number(count, splats, 3) - 0.5, 0.03 + 0.15 * number(count, splats, 3)
    turn, opacity = number(count, splats, 4) - 0.5, number(count, splats)
    shares, palette = number(count, splats, 2).softmax(-1), number(count, 2, 3)
    light = torch.tensor([1.0, 0.0]).expand(count, splats, 2)
    found = Cloud(
        means, scales, rotations(turn), opacity, shares, torch.zeros(count, splats, 3), light, palette
    )
    colours = shares @ palette
    return found, [(means[k], scales[k], turn[k], opacity[k], colours[k]) for k in range(count)]


def test_every_cloud_is_drawn_as_the_renderer_draws_it():
    count, tangent = 3, math.tan(math.radians(22))
    azimuth, climb = torch.tensor([0.0, 1.1, -2.5]), torch.tensor([0.0, 0.4, -0.1])
    distance = torch.tensor([1.1, 1.17, 1.25]) / tangent
    cameras = place(azimuth, climb, distance, torch.full((count,), math.radians(44.0)), SIZE, SIZE)
    found, given = clouds(count)
    pictures = draw_cloud(found, camera_vectors(cameras, count), SIZE)
    for k, (means, scales, turn, opacity, colours) in enumerate(given):
        # Colours as the constant harmonic: colour = 0.5 + sh / (2 sqrt(pi)).
        sh = (colours - 0.5)[:, None] * (2 * math.sqrt(math.pi))
        drawn = draw(means, scales, turn, opacity, sh, cameras[k : k + 1])
        torch.testing.assert_close(pictures[k, :3].permute(1, 2, 0), drawn.rgb[0], rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(pictures[k, 3], drawn.opacity[0, ..., 0], rtol=1e-3, atol=2e-3)


def test_what_faces_the_camera_is_lit_by_its_headlight():
    found, _ = clouds(1)
    front = torch.tensor([0.0, 0.0, 1.0]).expand_as(found.normals)
    lit = found._replace(normals=front, light=torch.tensor([0.5, 0.5]).expand_as(found.light))
    ahead, behind = (
        draw_cloud(lit, camera_vectors(orbit(2, size=SIZE, elevation=0.0)[k : k + 1], 1), SIZE)
        for k in (0, 1)
    )
    plain = [
        draw_cloud(found, camera_vectors(orbit(2, size=SIZE, elevation=0.0)[k : k + 1], 1), SIZE)
        for k in (0, 1)
    ]
    torch.testing.assert_close(ahead[:, :3], plain[0][:, :3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(behind[:, :3], 0.5 * plain[1][:, :3], rtol=1e-4, atol=1e-5)


def test_without_a_camera_it_is_a_mean_of_views_that_the_words_weigh():
    torch.manual_seed(0)
    found = SplatSketch(text_width=8, width=16, splats=12, features=4, slots=3, readers=1, size=SIZE)
    told, size = torch.randn(2, 16), len(found.around)
    with torch.no_grad():
        views = torch.stack([found(told, found.around[k].expand(2, -1)) for k in range(size)], 1)
        shares = found.views(torch.nn.functional.silu(told)).softmax(-1)
        blind = found(told, torch.zeros(2, 14))
        torch.testing.assert_close(
            blind, (shares[..., None, None, None] * views).sum(1), rtol=1e-4, atol=2e-3
        )
        # Rows with and without a camera in one call.
        both = found(told, torch.stack([found.around[2], torch.zeros(14)]))
    torch.testing.assert_close(both[0], views[0, 2], rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(both[1], blind[1], rtol=1e-4, atol=2e-3)
