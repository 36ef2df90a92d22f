"""The measures of a prior's own pictures: closed forms, and what they must tell apart."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from threedistill.cameras import orbit
from threedistill.cli import main
from threedistill.toybox.evaluation.picture_quality import (
    PROMPTS,
    detail,
    frechet_distance,
    judge_features,
    judge_prompt,
    mean_figures,
    reference_gain,
    set_distance,
    true_pictures,
)
from threedistill.toybox.judge import Judge

SIZE = 64


def test_the_distance_of_two_gaussians_is_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40_000, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor(
        [0.0, 1.0, 2.0]
    )
    b = torch.randn(40_000, 3, generator=generator) * torch.tensor([2.0, 2.0, 1.0])
    # Diagonal: |m|^2 + sum (s_a - s_b)^2.
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0.25, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-5)


def test_the_distance_is_the_matrix_root_of_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(60, 6))
    first, second = np.cov(a.T), np.cov(b.T)
    root = np.real(linalg.sqrtm(first @ second))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-8)


def test_detail_is_below_one_for_a_blur_and_above_for_grain():
    cameras = orbit(2, size=SIZE)
    truth = true_pictures("a purple robot", cameras, None)
    blurred = F.avg_pool2d(truth.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    grainy = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(detail(truth, truth), torch.ones(2))
    assert (detail(blurred, truth) < 0.7).all() and (detail(grainy, truth) > 1.2).all()
    stripes = torch.ones(1, 16, 16, 3)
    stripes[:, 2:14, 2:14] = 0.5
    lined = stripes.clone()
    lined[:, 2:14, 2:14:2] = 0.3
    assert float(detail(lined, stripes)) == pytest.approx(
        (0.4 + 1e-4) / 1e-4, rel=1e-3
    )  # by hand: |2 x 0.2| a pixel
    assert math.isnan(float(detail(stripes, torch.ones(1, 16, 16, 3))))


def _truth(texts, cameras, background, rng):
    return torch.cat([true_pictures(t, cameras[k : k + 1], 5000 + k) for k, t in enumerate(texts)])


def test_true_objects_score_as_another_true_object_does_and_spoilt_ones_do_not():
    rows = [judge_prompt(_truth, prompt, SIZE) for prompt in ("a red duck", "a green house")]
    mean = mean_figures(rows)
    assert abs(mean.ssim - mean.other_ssim) < 0.03 and abs(mean.psnr - mean.other_psnr) < 3

    def noisy(texts, cameras, background, rng):
        x = _truth(texts, cameras, background, rng)
        return (x + 0.15 * torch.randn(x.shape, generator=rng)).clamp(0, 1)

    bad = judge_prompt(noisy, "a red duck", SIZE)
    assert bad.ssim < 0.7 and bad.psnr < 20 and bad.detail > 2 * max(rows[0].detail, 1)
    assert judge_prompt(noisy, "a red duck", SIZE) == bad  # the same seed, the same pictures

    def wrong(texts, cameras, background, rng):
        return _truth(["a blue car"] * len(texts), cameras, background, rng)

    assert judge_prompt(wrong, "a red duck", SIZE).ssim < rows[0].ssim - 0.1


@pytest.mark.slow
def test_sets_of_true_pictures_are_one_apart_and_others_more():
    judge, prompts = Judge.load(), PROMPTS[:6]
    near = set_distance(_truth, judge, prompts, SIZE)

    def grey(texts, cameras, background, rng):
        return 0.5 * _truth(texts, cameras, background, rng) + 0.25

    assert 0.3 < near < 3
    assert set_distance(grey, judge, prompts, SIZE) > 5 * near


def test_features_are_what_the_heads_read():
    judge = Judge.load()
    pictures = true_pictures("a red duck", orbit(3, size=SIZE), None)
    found = judge_features(judge, pictures).float()
    expected = judge(pictures).azimuth
    pose = judge.network.pose(found)
    torch.testing.assert_close(torch.atan2(pose[:, 0], pose[:, 1]), expected)
    assert not judge.network.pose._forward_pre_hooks


class _Copying:
    """Draws grey, and what it is shown where it is shown something."""

    size = SIZE

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, cameras, background, views=None, view_cameras=None, generator=None, **_rest):
        noise = torch.rand(1, generator=generator)
        self.asked.append((prompts, cameras.azimuth.tolist(), views, view_cameras, float(noise)))
        if views is None:
            return torch.full((len(prompts), SIZE, SIZE, 3), 0.5)
        return views[:, 0].permute(0, 2, 3, 1) / 2 + 0.5


def test_a_reference_view_is_worth_what_it_brings():
    pipeline = _Copying()
    found = reference_gain(pipeline, ["a red ball", "a blue duck"])
    assert found.gain == pytest.approx(found.shown - found.words) and found.gain > 5
    assert found.words < 10  # grey against white
    for alone, shown in zip(pipeline.asked[::2], pipeline.asked[1::2], strict=True):
        assert alone[0] == shown[0] and alone[4] == shown[4] and alone[2] is None
        assert alone[1] == pytest.approx([math.pi / 2, -math.pi / 2])
        assert shown[2].shape == (2, 1, 3, SIZE, SIZE) and shown[2].min() >= -1 and shown[2].max() <= 1
        torch.testing.assert_close(shown[3][0, 0, :2], torch.tensor([0.0, 1.0]))  # seen from the front
    # A ball looks the same from everywhere: shown it, the copy is nearly right.
    assert reference_gain(_Copying(), ["a red ball"]).shown > 30


def test_the_command_prints_and_writes_the_figures(capsys):
    prompt = PROMPTS[0]
    assert main(["toybox", "judge", "--prompts", "1", "--views", "2", "--steps", "2", "--set", "0"]) == 0
    out = capsys.readouterr().out
    assert prompt in out and "another true object" in out and "sha256" in out
    assert (
        main(["toybox", "judge", "--prompts", "1", "--views", "2", "--steps", "2", "--set", "0", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert set(found["prompts"]) == {prompt} and found["set_distance"] is None
    assert found["mean"]["ssim"] == pytest.approx(found["prompts"][prompt]["ssim"], rel=1e-5)
    assert f"{found['mean']['ssim']:.3f}" in out
