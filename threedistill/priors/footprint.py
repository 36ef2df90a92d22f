"""Bytes and products of a computation, counted as it runs; of ``meta`` tensors all is counted and nothing computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["Footprint", "footprint", "size_of"]


@dataclass(frozen=True)
class Footprint:
    """What a computation takes.

    Attributes:
        flops: of products, 2 per multiply-add.
        peak: most bytes alive at once, of what it made itself.
        kept: bytes alive at its end.
    """

    flops: float
    peak: int
    kept: int


def size_of(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of a module's parameters and buffers, shared ones once.

    Arguments:
        module: on any device.
        dtype: of its floating-point numbers; None = their own.
    """
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}.values()
    return sum(
        t.numel() * (dtype.itemsize if dtype is not None and t.is_floating_point() else t.element_size())
        for t in tensors
    )


def footprint(work: Callable[[], object], given: Iterable[Tensor | nn.Module] = ()) -> Footprint:
    """Run something and count.

    Attention is counted as fused kernels compute it, without the matrix of scores.

    Arguments:
        work: what is run; what it returns is still alive when ``kept`` is taken.
        given: what was there before and is not its own.
    """
    tally = _Tally(t for one in given for t in _tensors(one))
    with _FusedAttention(), tally:
        result = work()
        kept = tally.now
    del result
    return Footprint(tally.flops, tally.peak, kept)


def _tensors(one: Tensor | nn.Module) -> list[Tensor]:
    return [one] if isinstance(one, Tensor) else [*one.parameters(), *one.buffers()]


class _Tally(TorchDispatchMode):
    """Counts products, and storages from the first time they are seen until they are gone."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.flops, self.now, self.peak = 0.0, 0, 0
        self._known = {t.untyped_storage()._cdata for t in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                self._see(one)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _Attention(torch.autograd.Function):
    """What fused attention keeps and makes, in shapes alone: nothing is computed."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


class _FusedAttention(TorchFunctionMode):
    """Puts :class:`_Attention` in the place of attention on ``meta``, where torch would write the scores out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            named = (kwargs[name] for name in ("query", "key", "value") if name in kwargs)
            query, key, value = (*args, *named)[:3]
            if query.device.type == "meta":
                _count_attention(query, key, value)
                return _Attention.apply(query, key, value)
        return func(*args, **kwargs)


def _count_attention(query: Tensor, key: Tensor, value: Tensor) -> None:
    """The products of ``softmax(q k^T) v``, and of its backward pass where there is one (2.5 as many)."""
    scores = 2 * query[..., 0].numel() * key.shape[-2]
    once = scores * (query.shape[-1] + value.shape[-1])
    backward = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, _Tally):
            mode.flops += once * (3.5 if backward else 1)
