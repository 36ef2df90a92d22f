"""SSIM and PSNR against scikit-image, and turntables whose likeness is known."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from threedistill.evaluation.alignment import turned
from threedistill.evaluation.similarity import nearest, psnr, similarity, ssim, turntable
from threedistill.render.shading import shade
from threedistill.toybox.evaluation.truth import true_turntables
from threedistill.toybox.grammar import parse
from threedistill.toybox.world import build

SMALL = {"variations": 3, "views": 8, "size": 48}


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    a = torch.rand(4, 40, 56, 3, generator=rng)
    b = a + torch.randn(a.shape, generator=rng) * torch.tensor([0.0, 0.02, 0.2, 1.0])[:, None, None, None]
    b[0, 3:9, 5:20] = 1.0
    return a, b.clamp(0, 1)


def test_ssim_and_psnr_are_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pairs()
    for x, y, s, p in zip(a.numpy(), b.numpy(), ssim(a, b), psnr(a, b)):
        assert float(s) == pytest.approx(
            metrics.structural_similarity(x, y, channel_axis=-1, data_range=1.0), abs=1e-5
        )
        assert float(p) == pytest.approx(metrics.peak_signal_noise_ratio(x, y, data_range=1.0), abs=1e-3)


def test_equal_pictures_are_as_alike_as_can_be():
    a, _ = pairs()
    assert torch.allclose(ssim(a, a), torch.ones(4)) and torch.equal(psnr(a, a), torch.full((4,), 90.0))


def test_the_nearest_of_several_counts_per_picture():
    a, b = pairs()
    alike, noise = nearest(a, torch.stack([b, a.roll(1, 0), torch.cat([b[:2], a[2:]])]))
    assert torch.allclose(alike[2:], torch.ones(2)) and torch.allclose(alike[:2], ssim(a, b)[:2])
    assert torch.allclose(noise[:2], psnr(a, b)[:2])


def baked(mesh, light):
    """The mesh with a light from ``light`` baked into its colours, as an asset carries it."""
    normals = mesh.normals
    toward = torch.tensor(light).expand_as(normals)
    return replace(mesh, colors=shade(mesh.colors, normals, toward, "lambertian"))


def test_another_true_object_is_near_and_other_things_are_far():
    scene = parse("a red duck").scene
    truths = true_turntables(scene, **SMALL)
    other = build(scene, random.Random("another"))
    lit = nearest(turntable(other, lit=True, views=8, size=48), truths)
    assert 0.85 < float(lit[0].mean()) < 0.999 and float(lit[1].mean()) > 20
    asset = baked(other, [0.0, 0.0, 1.0])
    mine = similarity(asset, truths)
    wrong_kind = similarity(baked(build(parse("a red cube").scene), [0.0, 0.0, 1.0]), truths)
    wrong_color = similarity(baked(build(parse("a green duck").scene), [0.0, 0.0, 1.0]), truths)
    assert mine.ssim > wrong_kind.ssim + 0.1 and mine.psnr > wrong_color.psnr + 3
    assert mine.worst_ssim <= mine.ssim


@pytest.mark.parametrize("degrees", [0, 90, -135])
def test_the_way_an_asset_faces_does_not_matter(degrees):
    scene = parse("a red duck").scene
    truths = true_turntables(scene, **SMALL)
    mesh = build(scene)
    straight = similarity(mesh, truths)
    found = similarity(turned(mesh, math.radians(degrees)), truths)
    assert found.turn == pytest.approx(-degrees) and found.ssim == pytest.approx(straight.ssim, abs=0.01)


def test_variations_differ_and_repeat():
    scene = parse("a blue mug").scene
    first, again = true_turntables(scene, **SMALL), true_turntables(scene, **SMALL)
    assert first.shape == (3, 8, 48, 48, 3) and torch.equal(first, again)
    assert all(np.abs((first[0] - first[k]).numpy()).max() > 0.1 for k in (1, 2))
