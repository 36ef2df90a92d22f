"""The fused perceptron against plain loops, its twin, and gradients by differences."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tests.oracles.mlp import apply
from threedistill.ops._native import use_native
from threedistill.ops.mlp import _fused_mlp, _fused_mlp_backward, fused_mlp, fused_mlp_reference


def inputs(points, widths, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(points, widths[0], generator=generator, dtype=dtype)
    weights = [torch.randn(o, i, generator=generator, dtype=dtype) / i**0.5 for i, o in pairwise(widths)]
    return x, weights


@pytest.mark.parametrize("widths", [(3, 5, 2), (16, 32, 32, 4), (7, 1), (1, 1, 1, 1)])
def test_equals_plain_loops(widths):
    x, weights = inputs(6, widths)
    expected = torch.tensor(apply(x.tolist(), [w.tolist() for w in weights]), dtype=torch.float64)
    torch.testing.assert_close(fused_mlp(x, weights), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("widths", [(16, 32, 32, 4), (3, 5, 7, 9, 1), (64, 64, 64), (17, 33, 3), (5, 4)])
@pytest.mark.parametrize("points", [1, 64, 65, 4500])
def test_equals_its_twin(widths, points, dtype, agree):
    x, weights = inputs(points, widths, dtype)
    grad = torch.randn(points, widths[-1], dtype=dtype, generator=torch.Generator().manual_seed(1))
    leaves = [t.requires_grad_() for t in (x, *weights)]
    out, twin = fused_mlp(x, weights), fused_mlp_reference(x, weights)
    agree(out, twin)
    expected = torch.autograd.grad(twin, leaves, grad)
    for got, want in zip(torch.autograd.grad(out, leaves, grad), expected):
        agree(got / (1 + want.abs().max()), want / (1 + want.abs().max()))


def test_gradients_by_differences():
    x, weights = inputs(9, (4, 6, 5, 3), seed=4)
    leaves = [t.requires_grad_() for t in (x, *weights)]
    assert torch.autograd.gradcheck(lambda x, *w: fused_mlp(x, w), leaves)


def test_only_what_is_needed_is_computed():
    x, weights = inputs(10, (4, 6, 3))
    out = fused_mlp(x, [weights[0], weights[1].requires_grad_()])
    (grad,) = torch.autograd.grad(out.sum(), [weights[1]])
    expected = torch.relu(x @ weights[0].T).sum(0).expand(3, 6)
    torch.testing.assert_close(grad, expected)
    x.requires_grad_()
    frozen = [w.detach() for w in weights]
    (grad,) = torch.autograd.grad(fused_mlp(x, frozen).sum(), [x])
    (expected,) = torch.autograd.grad(fused_mlp_reference(x, frozen).sum(), [x])
    torch.testing.assert_close(grad, expected)


def test_relu_has_no_gradient_at_zero():
    x = torch.zeros(4, 3, requires_grad=True)
    fused_mlp(x, [torch.ones(5, 3), torch.ones(1, 5)]).sum().backward()
    assert x.grad is not None and (x.grad == 0).all()


def test_not_a_number_stays_visible():
    x, weights = inputs(3, (4, 6, 3))
    x[1, 0] = torch.nan
    out = fused_mlp(x, weights)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


def test_no_points(dtype):
    x, weights = inputs(0, (4, 6, 3), dtype)
    out = fused_mlp(x.requires_grad_(), [w.requires_grad_() for w in weights])
    assert out.shape == (0, 3)
    out.sum().backward()
    assert all(w.grad is not None and (w.grad == 0).all() for w in weights)


def test_wide_and_deep_networks_take_the_twin():
    for widths in [(4, 100, 2), (4,) * 12]:
        x, weights = inputs(5, widths)
        torch.testing.assert_close(fused_mlp(x, weights), fused_mlp_reference(x, weights))


def test_strided_inputs():
    x, weights = inputs(70, (4, 6, 3))
    turned = [w.T.contiguous().T for w in weights]
    torch.testing.assert_close(fused_mlp(torch.cat([x, x], 1)[:, 4:], turned), fused_mlp(x, weights))


def test_thread_count_does_not_matter(on_threads):
    x, weights = inputs(20_000, (16, 32, 32, 4), torch.float32)
    leaves = [t.requires_grad_() for t in (x, *weights)]

    def run():
        out = fused_mlp(x, weights)
        return out.detach(), *torch.autograd.grad(out.square().sum(), leaves)

    if use_native(x):  # torch's own products make no such promise
        on_threads(run)


def test_opcheck():
    x, weights = inputs(9, (4, 6, 3))
    torch.library.opcheck(_fused_mlp, (x.requires_grad_(), [w.requires_grad_() for w in weights]))
    grad = torch.ones(9, 3, dtype=torch.float64)
    still = (grad, x.detach(), [w.detach() for w in weights])
    for needs in [(True, True), (False, True), (True, False)]:
        torch.library.opcheck(_fused_mlp_backward, (*still, *needs))


@pytest.mark.misuse
def test_errors():
    x, weights = inputs(9, (4, 6, 3))
    with pytest.raises(ValueError, match=r"fused_mlp: x must be \(N, I\) floating point, got \(9,\)"):
        fused_mlp(x[:, 0], weights)
    with pytest.raises(ValueError, match="at least one matrix"):
        fused_mlp(x, [])
    with pytest.raises(ValueError, match=r"weights\[1\] must be \(outputs, 6\) torch.float64, got \(3, 5\)"):
        fused_mlp(x, [weights[0], weights[1][:, :5]])
    with pytest.raises(ValueError, match=r"weights\[0\] must be .* got \(6, 4\) torch.float32"):
        fused_mlp(x, [w.float() for w in weights])
