"""Compositing of projected Gaussians against plain Python, its twin, differences, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from tests.oracles.splat import splat as oracle
from threedistill.ops._native import use_native
from threedistill.ops.splat import _splat, _splat_backward, splat, splat_reference


def scene(views, count, height, width, channels=3, dtype=torch.float64, size=2.0, seed=0, opaque=0.95):
    """Random ellipses, some outside of the picture, some behind the camera, some nearly opaque."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = (uniform(views, count, 2) * 1.4 - 0.2) * torch.tensor([width, height])
    root = torch.randn(views, count, 2, 2, generator=generator, dtype=torch.float64) * size
    conic = torch.linalg.inv(root @ root.mT + 0.3 * torch.eye(2, dtype=torch.float64))
    conics = torch.stack([conic[..., 0, 0], conic[..., 0, 1], conic[..., 1, 1]], -1)
    depths = uniform(views, count) * 1.1 - 0.1
    parts = (means, conics, uniform(views, count) * opaque, uniform(views, count, channels), depths)
    return [part.to(dtype).requires_grad_(k < 4) for k, part in enumerate(parts)]


def test_equals_the_definition():
    given = scene(2, 60, 19, 35, channels=2, seed=1)
    image, opacity = splat(*given, 19, 35)
    for view in range(2):
        want, covered = oracle(*(part[view].tolist() for part in given), 19, 35)
        torch.testing.assert_close(image[view], torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-11)
        torch.testing.assert_close(
            opacity[view], torch.tensor(covered, dtype=torch.float64), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("channels", [1, 4, 7, 16])
@pytest.mark.parametrize("count", [1, 700])
def test_equals_its_twin(count, channels):
    given = scene(2, count, 40, 52, channels)
    native, twin = splat(*given, 40, 52), splat_reference(*given, 40, 52)
    generator = torch.Generator().manual_seed(5)
    grads = [torch.randn(part.shape, dtype=torch.float64, generator=generator) for part in twin]
    # Light is a running product here and a running sum of logarithms there: 1e-12 measured.
    for a, b in zip(native, twin):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for a, b in zip(*(torch.autograd.grad(out, given[:4], grads) for out in (native, twin))):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def test_needles_across_many_tiles_equal_the_twins():
    """Which blocks of pixels an ellipse reaches into is worked out in float: no pixel may get lost."""
    means, _, opacities, features, depths = (part.detach() for part in scene(1, 60, 150, 130, seed=8))
    angle = torch.linspace(0, math.pi, 60, dtype=torch.float64)
    axes = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).view(1, 60, 2, 2)
    conic = axes.mT @ torch.diag_embed(torch.tensor([1 / 120.0**2, 1 / 0.4**2]).double()) @ axes
    conics = torch.stack([conic[..., 0, 0], conic[..., 0, 1], conic[..., 1, 1]], -1)
    given = (means, conics, opacities, features, depths, 150, 130)
    for a, b in zip(splat(*given), splat_reference(*given)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_single_precision_differs_from_double_by_rounding():
    double = scene(1, 500, 48, 48)
    single = [part.detach().float().requires_grad_(k < 4) for k, part in enumerate(double)]
    a, b = splat(*double, 48, 48), splat(*single, 48, 48)
    # A Gaussian at the edge of 1/255 may be in here and out there: such pixels are rare and off by 1/255 at most.
    far = (a.image - b.image.double()).detach().abs().amax(-1)
    assert float(far.max()) < 1 / 200
    assert float((far > 1e-5).double().mean()) < 0.01
    grads = [
        torch.autograd.grad(out.image.square().sum() + out.opacity.sum(), g[:4])
        for out, g in ((a, double), (b, single))
    ]
    for x, y in zip(*grads):
        assert float((x - y.double()).norm() / x.norm()) < 1e-3


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["image", "opacity", "both"])
def test_gradients_by_differences(which):
    given = scene(2, 14, 9, 18, channels=2, seed=3)
    assert torch.autograd.gradcheck(
        lambda *leaves: tuple(splat(*leaves, given[4], 9, 18)[k] for k in which), given[:4]
    )


def test_gradients_behind_nearly_opaque_gaussians():
    given = scene(1, 30, 8, 8, channels=1, seed=4, size=4.0, opaque=0.998)
    assert torch.autograd.gradcheck(
        lambda *leaves: tuple(splat(*leaves, given[4], 8, 8)), given[:4], atol=1e-4
    )


@pytest.mark.parametrize("channels", [2, 4])
def test_absolute_gradients_are_those_of_single_pixels(channels):
    """Pixel by pixel, by the ordinary gradient; native kernel and twin; the others stay what they are."""
    given = scene(2, 25, 9, 18, channels, seed=3)
    weights = [
        torch.randn(2, 9, 18, n, generator=torch.Generator().manual_seed(n)).double() for n in (channels, 1)
    ]

    def loss(layers):
        return (layers.image * weights[0]).sum(-1) + layers.opacity * weights[1][..., 0]

    expected = torch.zeros(2, 25, 2, dtype=torch.float64)
    each = loss(splat(*given, 9, 18)).flatten(1)
    for pixel in range(each.shape[1]):
        expected += torch.autograd.grad(each[:, pixel].sum(), given[0], retain_graph=True)[0].abs()
    plain = torch.autograd.grad(each.sum(), given[:4])
    for draw in (splat, splat_reference):
        pulls = torch.zeros_like(given[0]).requires_grad_()
        *grads, found = torch.autograd.grad(loss(draw(*given, 9, 18, pulls)).sum(), [*given[:4], pulls])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        for a, b in zip(grads, plain):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert float((expected > plain[0].abs() + 1e-9).double().mean()) > 0.3


def test_one_round_gaussian():
    """In closed form: ``o exp(-r^2 / 2 s^2)`` within the circle where that is 1 / 255, nothing outside."""
    means = torch.tensor([[[20.2, 17.7]]], dtype=torch.float64)
    conics = torch.tensor([[[0.25, 0.0, 0.25]]], dtype=torch.float64)
    opacities, features = (
        torch.full((1, 1), 0.8, dtype=torch.float64),
        torch.full((1, 1, 1), 2.0, dtype=torch.float64),
    )
    image, opacity = splat(means, conics, opacities, features, torch.ones(1, 1).double(), 37, 41)
    y, x = torch.meshgrid(torch.arange(37) + 0.5, torch.arange(41) + 0.5, indexing="ij")
    squared = (x.double() - 20.2) ** 2 + (y.double() - 17.7) ** 2
    expected = torch.where(squared <= 8 * math.log(0.8 * 255), 0.8 * torch.exp(-squared / 8), 0.0)
    torch.testing.assert_close(opacity[0], expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(image[0, ..., 0], 2 * expected, rtol=0, atol=1e-14)


def test_the_order_of_the_list_does_not_matter():
    given = [part.detach() for part in scene(1, 200, 30, 30)]
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    a, b = splat(*given, 30, 30), splat(*(part[:, shuffled] for part in given), 30, 30)
    assert torch.equal(a.image, b.image) and torch.equal(a.opacity, b.opacity)


def test_what_cannot_be_seen_leaves_no_trace():
    given = scene(1, 8, 20, 20)
    with torch.no_grad():
        given[4][0, 0] = -1.0  # behind
        given[4][0, 1] = math.nan
        given[2][0, 2] = 0.003  # below 1 / 255
        given[0][0, 3] = 1e6  # outside
        given[1][0, 4] = torch.tensor([1.0, 2.0, 1.0])  # no ellipse
        given[0][0, 5, 0] = math.nan
        given[4][0, 6] = math.inf
        given[4][0, 7] = 1.0
    out = splat(*given, 20, 20)
    alone = splat(*(part[:, 7:] for part in given), 20, 20)
    assert torch.equal(out.image, alone.image)
    for grad in torch.autograd.grad(out.image.sum(), given[:4]):
        assert grad.isfinite().all() and float(grad[:, :7].abs().max()) == 0


def test_thread_count_does_not_matter(on_threads):
    given = scene(3, 900, 64, 64, 4, torch.float32)
    if not use_native(*given):
        pytest.skip("the twin's scattered sums are torch's own, whose order depends on the threads")

    def run():
        out = splat(*given, 64, 64)
        return *(part.detach() for part in out), *torch.autograd.grad(
            out.image.sum() + out.opacity.sum(), given[:4]
        )

    on_threads(run)


def test_nothing_to_draw(dtype):
    given = scene(2, 0, 5, 6, dtype=dtype)
    for draw in (splat, splat_reference):
        image, opacity = draw(*given, 5, 6)
        assert image.shape == (2, 5, 6, 3) and opacity.shape == (2, 5, 6)
        assert float(image.abs().sum() + opacity.abs().sum()) == 0


def test_opcheck():
    given = scene(1, 6, 8, 9)
    torch.library.opcheck(_splat, (*given, 8, 9, None))
    torch.library.opcheck(_splat, (*given, 8, 9, torch.zeros_like(given[0]).requires_grad_()))
    out = splat(*given, 8, 9)
    still, seen = ([part.detach() for part in parts] for parts in (given, out))
    for absolute in (False, True):
        ones = (torch.ones_like(part).detach() for part in out)
        torch.library.opcheck(_splat_backward, (*still, *seen, *ones, absolute))


def test_the_twin_takes_over_without_the_library(monkeypatch):
    given = scene(1, 20, 12, 12)
    native = torch.autograd.grad(splat(*given, 12, 12).image.sum(), given[:4])
    monkeypatch.setenv("THREEDISTILL_OPS", "reference")
    out = splat(*given, 12, 12)
    assert out.image.grad_fn is not None and "splat" not in out.image.grad_fn.name()
    for a, b in zip(native, torch.autograd.grad(out.image.sum(), given[:4])):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.misuse
def test_errors():
    given = scene(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"splat: means must be \(B, N, 2\) floating point, got \(3, 2\)"):
        splat(given[0][0], *given[1:], 8, 8)
    with pytest.raises(ValueError, match=r"splat: conics must be \(2, 3, 3\) torch.float64, got \(2, 3, 2\)"):
        splat(given[0], given[1][..., :2], *given[2:], 8, 8)
    with pytest.raises(ValueError, match=r"1 to 16 channels, got 17"):
        splat(*given[:3], torch.zeros(2, 3, 17).double(), given[4], 8, 8)
    with pytest.raises(ValueError, match=r"pulls must be \(2, 3, 2\) torch.float64, got \(2, 3, 3\)"):
        splat(*given, 8, 8, torch.zeros(2, 3, 3).double())
    with pytest.raises(ValueError, match="height and width must be at least 1, got 0 x 8"):
        splat(*given, 0, 8)
