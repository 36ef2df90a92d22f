"""A pipeline of diffusers draws, and what its network, its scheduler and its decoder are told is kept.

The network's answers may be replaced by known ones, and the noise too: then the scheduler stands still, every step sees
the same picture, and what is found in the arguments can be traced to where it came from.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Call", "Recording", "Step", "named", "watch"]

#: Gives the answer to the arguments of a call; the last argument asks the network itself.
Answer = Callable[[dict[str, Any], Callable[[], Any]], Any]


@dataclass(frozen=True)
class Call:
    """One call of the network: its arguments by name, and what it answered."""

    arguments: dict[str, Any]
    answer: Any


@dataclass(frozen=True)
class Step:
    """One step of the scheduler.

    Attributes:
        time: the scheduler's own.
        sample: the noisy picture, as the scheduler holds it.
        told: what the scheduler was told that the network said.
        calls: of the network since the step before.
    """

    time: float
    sample: Tensor
    told: Tensor
    calls: Sequence[Call]


@dataclass
class Recording:
    """A run.

    Attributes:
        steps: in order.
        calls: those that no step followed.
        drawn: the shape of the noise that the pipeline drew first, its rows included.
        decoded: what the decoder was given.
        timing: what the scheduler was told of the steps to make, such as ``mu``.
    """

    steps: list[Step] = field(default_factory=list[Step])
    calls: list[Call] = field(default_factory=list[Call])
    drawn: tuple[int, ...] = ()
    decoded: Tensor | None = None
    timing: dict[str, Any] = field(default_factory=dict[str, Any])


class _Done(BaseException):
    """All that was wanted has been seen."""


class _Still(tuple[Any, ...]):
    """What a scheduler gives that leaves the picture as it is, whichever way it is read."""

    @property
    def prev_sample(self) -> Tensor:
        """The picture."""
        return self[0]


@contextlib.contextmanager
def _in_place_of(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of an object replaced for a while."""
    own, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextlib.contextmanager
def _noise_from(make: Callable[[tuple[int, ...]], Tensor], into: Recording) -> Iterator[None]:
    """The first noise of a picture that any pipeline draws is ``make``'s."""
    from diffusers.utils import torch_utils

    drawn = torch_utils.randn_tensor

    def noise(shape: Any, *args: Any, **options: Any) -> Tensor:
        if into.drawn or len(shape) < 4:
            return drawn(shape, *args, **options)
        into.drawn = tuple(int(n) for n in shape)
        return make(into.drawn)

    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("diffusers.pipelines.") and vars(module).get("randn_tensor") is drawn:
                stack.enter_context(_in_place_of(module, "randn_tensor", noise))
        yield


def named(network: Any, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names that the network gives them."""
    signature = inspect.signature(type(network).forward)
    found: dict[str, Any] = {}
    for name, value in list(signature.bind(network, *args, **options).arguments.items())[1:]:
        further = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found |= value if further else {name: value}
    return found


@torch.no_grad()
def watch(
    pipe: Any, part: str, decoder: str | None, call: Mapping[str, Any], *,
    noise: Callable[[tuple[int, ...]], Tensor] | None = None, answer: Answer | None = None, calls: int | None = None,
) -> Recording:  # fmt: skip
    """Run a pipeline until its decoder is asked for the picture.

    Arguments:
        pipe: the pipeline.
        part: the network's name in it.
        decoder: the VAE's; None = it draws pixels.
        call: the pipeline's arguments.
        noise: makes the noise of the shape that is drawn; None = the pipeline's own.
        answer: speaks in place of the network, and the scheduler stands still; None = both do their work.
        calls: ends after so many calls of the network.
    """
    seen = Recording()
    network, scheduler = getattr(pipe, part), pipe.scheduler
    forward, step, plan = network.forward, scheduler.step, scheduler.set_timesteps

    @functools.wraps(forward)
    def asked(*args: Any, **options: Any) -> Any:
        arguments = named(network, args, options)

        def ask() -> Any:
            return forward(*args, **options)

        said = ask() if answer is None else answer(arguments, ask)
        seen.calls.append(Call(arguments, said))
        if calls is not None and len(seen.calls) >= calls:
            raise _Done
        return said

    @functools.wraps(step)  # pipelines look which arguments there are
    def stepped(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        seen.steps.append(Step(float(timestep), sample, model_output, seen.calls))
        seen.calls = []
        if answer is None:
            return step(model_output, timestep, sample, *args, **options)
        return _Still((sample, sample))

    @functools.wraps(plan)
    def planned(*args: Any, **options: Any) -> Any:
        seen.timing |= options
        return plan(*args, **options)

    def decoding(z: Tensor, *args: Any, **options: Any) -> Any:
        seen.decoded = z
        raise _Done

    with contextlib.ExitStack() as stack:
        stack.enter_context(_in_place_of(network, "forward", asked))
        stack.enter_context(_in_place_of(scheduler, "step", stepped))
        stack.enter_context(_in_place_of(scheduler, "set_timesteps", planned))
        if decoder is not None:
            stack.enter_context(_in_place_of(getattr(pipe, decoder), "decode", decoding))
        if noise is not None:
            stack.enter_context(_noise_from(noise, seen))
        with contextlib.suppress(_Done):
            pipe(**call)
    return seen
