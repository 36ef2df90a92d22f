"""A small multilayer perceptron whose activations stay in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.ops._native import Kernel, shape_error, use_native

__all__ = ["fused_mlp", "fused_mlp_reference"]

_MAX_WIDTH, _MAX_LAYERS = 64, 8
_forward_kernel = Kernel("fused_mlp", "ppiipp")
_backward_kernel = Kernel("fused_mlp_backward", "pppiippp")


def fused_mlp(x: Float[Tensor, "N I"], weights: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "N _"]:
    """Apply linear layers without biases, ReLU between them and nothing after the last.

    ``h_0 = x, h_l = max(0, h_{l-1} W_l^T), out = h_{L-1} W_L^T``.

    Args:
        x: (N, I) inputs.
        weights: 1 to 8 matrices (outputs, inputs) that chain, of the type of ``x``; widths 1 to 64 (wider ones are
            computed by the torch twin).

    Returns:
        (N, O_last); differentiable once with respect to ``x`` and ``weights``. The backward pass recomputes the
        hidden activations instead of storing them.

    Raises:
        ValueError: a shape or type is wrong.

    Source: Müller et al., "Real-time neural radiance caching for path tracing", 2021, section 4 (fully fused).
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise shape_error("fused_mlp", "x", "(N, I) floating point", x)
    if not weights:
        raise ValueError("fused_mlp: weights must hold at least one matrix")
    width = x.shape[1]
    for index, weight in enumerate(weights):
        if weight.ndim != 2 or weight.shape[1] != width or weight.dtype != x.dtype:
            raise shape_error("fused_mlp", f"weights[{index}]", f"(outputs, {width}) {x.dtype}", weight)
        width = weight.shape[0]
    if len(weights) > _MAX_LAYERS or _widest(x, weights) > _MAX_WIDTH or not use_native(x, *weights):
        return fused_mlp_reference(x, weights)
    return _fused_mlp(x, list(weights))


def fused_mlp_reference(
    x: Float[Tensor, "N I"], weights: Sequence[Float[Tensor, "_ _"]]
) -> Float[Tensor, "N _"]:
    """The torch twin of :func:`fused_mlp`."""
    for weight in weights[:-1]:
        x = torch.relu(torch.nn.functional.linear(x, weight))
    return torch.nn.functional.linear(x, weights[-1])


def _widest(x: Tensor, weights: Sequence[Tensor]) -> int:
    return max(x.shape[1], *(weight.shape[0] for weight in weights))


def _packed(weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All weights one after the other, and the widths of the layers."""
    widths = torch.tensor([weights[0].shape[1], *(weight.shape[0] for weight in weights)])
    return torch.cat([weight.flatten() for weight in weights]), widths


@torch.library.custom_op(
    "threedistill::fused_mlp", mutates_args=(), schema="(Tensor x, Tensor[] weights) -> Tensor"
)
def _fused_mlp(x, weights):
    if not use_native(x, *weights):
        return fused_mlp_reference(x, weights)
    flat, widths = _packed(weights)
    out = x.new_empty(x.shape[0], weights[-1].shape[0])
    _forward_kernel(x.dtype, x.contiguous(), flat, x.shape[0], len(weights), widths, out)
    return out


@_fused_mlp.register_fake
def _(x, weights):
    return x.new_empty(x.shape[0], weights[-1].shape[0])


@torch.library.custom_op(
    "threedistill::fused_mlp_backward", mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor[] weights, bool need_x, bool need_weights) -> (Tensor, Tensor)",
)  # fmt: skip
def _fused_mlp_backward(grad, x, weights, need_x, need_weights):
    """The gradient to ``x`` and, packed one after the other, to ``weights``; empty where not needed."""
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    size = sum(weight.numel() for weight in weights)
    grad_weights = x.new_empty(size if need_weights else 0)
    if use_native(grad, x, *weights):
        flat, widths = _packed(weights)
        _backward_kernel(
            x.dtype, grad.contiguous(), x.contiguous(), flat, x.shape[0], len(weights), widths,
            grad_x if need_x else None, grad_weights if need_weights else None,
        )  # fmt: skip
        return grad_x, grad_weights
    hidden = [x]
    for weight in weights[:-1]:
        hidden.append(torch.relu(hidden[-1] @ weight.T))
    parts = []
    for inputs, weight in zip(reversed(hidden), reversed(list(weights))):
        parts.append((grad.T @ inputs).flatten())
        grad = grad @ weight
        if inputs is not x:
            grad = grad * (inputs > 0)
    if need_x:
        grad_x.copy_(grad)
    if need_weights:
        torch.cat(parts[::-1], out=grad_weights)
    return grad_x, grad_weights


@_fused_mlp_backward.register_fake
def _(grad, x, weights, need_x, need_weights):
    size = sum(weight.numel() for weight in weights)
    return x.new_empty(x.shape if need_x else (0,)), x.new_empty(size if need_weights else 0)


def _save(ctx, inputs, output):
    x, weights = inputs
    ctx.save_for_backward(x, *weights)


def _backward(ctx, grad):
    x, *weights = ctx.saved_tensors
    need_x, *rest = ctx.needs_input_grad
    needed = rest[0] if rest and isinstance(rest[0], (list, tuple)) else rest
    need_weights = any(needed)
    grad_x, packed = _fused_mlp_backward(grad, x, weights, need_x, need_weights)
    if not need_weights:
        return grad_x if need_x else None, [None] * len(weights)
    parts = packed.split([weight.numel() for weight in weights])
    return grad_x if need_x else None, [part.view_as(weight) for part, weight in zip(parts, weights)]


_fused_mlp.register_autograd(_backward, setup_context=_save)
