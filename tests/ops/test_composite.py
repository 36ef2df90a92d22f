"""Compositing against the optical depth of each sample, its twin, gradients by differences, and Beer's law."""

from __future__ import annotations

import math

import pytest
import torch

from tests.oracles.composite import composite as oracle
from threedistill.ops.composite import (
    _composite,
    _composite_backward,
    _reference_backward,
    composite,
    composite_reference,
)
from threedistill.ops.march import Samples


def inputs(counts, dtype=torch.float64, seed=0, thickest=40.0):
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    steps = 0.01 + 0.1 * torch.rand(total, generator=generator, dtype=dtype)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    ray = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
    start = 1 + torch.rand(total, generator=generator, dtype=dtype).cumsum(0) / max(total, 1)
    density = thickest * torch.rand(total, generator=generator, dtype=dtype) ** 4
    rgb = torch.rand(total, 3, generator=generator, dtype=dtype)
    return density, rgb, Samples(ray, start, start + steps, offsets)


COUNTS = [3, 0, 1, 17, 64, 0, 5]


def test_equals_the_definition():
    density, rgb, samples = inputs(COUNTS)
    expected = oracle(
        density.tolist(), rgb.tolist(), samples.start.tolist(), samples.end.tolist(), samples.offsets.tolist()
    )
    for got, want in zip(composite(density, rgb, samples), expected):
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("counts", [COUNTS, [1], [64] * 300], ids=["mixed", "one sample", "many"])
def test_equals_its_twin(counts, dtype, agree):
    density, rgb, samples = inputs(counts, dtype)
    density.requires_grad_(), rgb.requires_grad_()
    got, twin = composite(density, rgb, samples), composite_reference(density, rgb, samples)
    generator = torch.Generator().manual_seed(5)
    grads = [torch.randn(part.shape, dtype=dtype, generator=generator) for part in twin]
    for a, b in zip(got, twin):
        agree(a, b)
    expected = torch.autograd.grad(twin, (density, rgb), grads)
    for a, b in zip(torch.autograd.grad(got, (density, rgb), grads), expected):
        agree(a, b)
    still = (density.detach(), rgb.detach(), *samples[1:], twin.weights.detach())
    for a, b in zip(_reference_backward(*still, *grads), expected):
        agree(a, b)


@pytest.mark.parametrize("parts", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
def test_gradients_by_differences(parts):
    density, rgb, samples = inputs([4, 0, 1, 7], thickest=8.0)
    leaves = density.requires_grad_(), rgb.requires_grad_()
    assert torch.autograd.gradcheck(lambda d, c: tuple(composite(d, c, samples)[p] for p in parts), leaves)


def test_beers_law():
    edges = torch.linspace(1, 3, 101, dtype=torch.float64)
    samples = Samples(torch.zeros(100).long(), edges[:-1], edges[1:], torch.tensor([0, 100]))
    out = composite(
        torch.full((100,), 0.7, dtype=torch.float64), torch.ones(100, 3, dtype=torch.float64), samples
    )
    assert math.isclose(float(out.opacity), 1 - math.exp(-1.4), rel_tol=1e-12)
    # The integral of t 0.7 exp(-0.7 (t - 1)) over [1, 3]
    expected = (1 - math.exp(-1.4)) + (1 - 2.4 * math.exp(-1.4)) / 0.7
    assert math.isclose(float(out.depth), expected, rel_tol=1e-4)
    torch.testing.assert_close(out.rgb, out.opacity[:, None].expand(1, 3))


def test_splitting_a_sample_changes_nothing():
    density, rgb, samples = inputs([6])
    middle = (samples.start + samples.end) / 2
    start = torch.stack([samples.start, middle], 1).flatten()
    end = torch.stack([middle, samples.end], 1).flatten()
    finer = Samples(torch.zeros(12).long(), start, end, torch.tensor([0, 12]))
    one = composite(density, rgb, samples)
    two = composite(density.repeat_interleave(2), rgb.repeat_interleave(2, 0), finer)
    torch.testing.assert_close(one.rgb, two.rgb)
    torch.testing.assert_close(one.weights, two.weights.view(-1, 2).sum(1))


def test_extremes(dtype):
    density = torch.tensor([0.0, 1e-6, 1e30, 5.0], dtype=dtype, requires_grad=True)
    start = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=dtype)
    samples = Samples(torch.zeros(4).long(), start, start + 0.01, torch.tensor([0, 4]))
    out = composite(density, torch.ones(4, 3, dtype=dtype), samples)
    assert out.opacity.item() == pytest.approx(1, abs=1e-6)
    assert out.weights[1].item() == pytest.approx(1e-8, rel=1e-5)  # a thin step keeps its digits
    assert out.weights[3].item() < 1e-30
    out.opacity.sum().backward()
    assert density.grad is not None and density.grad.isfinite().all()
    assert abs(float(density.grad[3])) < 1e-30


def test_no_samples(dtype):
    density, rgb, samples = inputs([0, 0], dtype)
    out = composite(density.requires_grad_(), rgb.requires_grad_(), samples)
    assert (
        out.rgb.tolist() == [[0, 0, 0]] * 2 and out.opacity.tolist() == [0, 0] and out.weights.shape == (0,)
    )
    (out.rgb.sum() + out.depth.sum()).backward()
    density, rgb, samples = inputs([], dtype)
    assert composite(density, rgb, samples).rgb.shape == (0, 3)


def test_not_a_number_stays_on_its_ray():
    density, rgb, samples = inputs([3, 3, 3])
    density[4] = math.nan
    out = composite(density, rgb, samples)
    assert out.opacity[1].isnan()
    assert out.opacity[0].isfinite()


def test_thread_count_does_not_matter(on_threads):
    density, rgb, samples = inputs([64] * 400, torch.float32)
    leaves = density.requires_grad_(), rgb.requires_grad_()

    def run():
        out = composite(density, rgb, samples)
        return *(part.detach() for part in out), *torch.autograd.grad(sum(p.sum() for p in out), leaves)

    on_threads(run)


def test_opcheck():
    density, rgb, samples = inputs([4, 0, 3])
    given = (density.requires_grad_(), rgb.requires_grad_(), *samples[1:])
    torch.library.opcheck(_composite, given)
    out = composite(density, rgb, samples)
    grads = [torch.ones_like(part) for part in out]
    still = [t.detach() for t in given]
    torch.library.opcheck(_composite_backward, (*still, out.weights.detach(), *grads))


@pytest.mark.misuse
def test_errors():
    density, rgb, samples = inputs([4, 3])
    with pytest.raises(ValueError, match=r"composite: density must be \(S,\) floating point, got \(7, 1\)"):
        composite(density[:, None], rgb, samples)
    with pytest.raises(ValueError, match=r"composite: rgb must be \(7, 3\) torch.float64, got \(7, 2\)"):
        composite(density, rgb[:, :2], samples)
    with pytest.raises(
        ValueError, match=r"samples.start must be \(7,\) torch.float64, got \(7,\) torch.float32"
    ):
        composite(density, rgb, samples._replace(start=samples.start.float()))
    with pytest.raises(
        ValueError, match=r"samples.offsets must be \(R \+ 1,\) torch.int64, got \(3,\) torch.int32"
    ):
        composite(density, rgb, samples._replace(offsets=samples.offsets.int()))
    for wrong in ([0, 4, 9], [1, 4, 7], [0, 9, 7]):
        with pytest.raises(IndexError, match="composite: an index points outside its array"):
            composite(density, rgb, samples._replace(offsets=torch.tensor(wrong)))
