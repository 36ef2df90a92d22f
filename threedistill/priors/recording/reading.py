"""What a pipeline does with its network, read off a few runs in which one thing differs at a time.

1. One sample, some steps: what follows the time, and how the answer looks (the only true call of the network).
2. Three samples of the same words whose noise and answers are 0, 1, and 1, 2, 3, ...: where each value goes, from the
   noise to the network, from its answer to the scheduler, and from there to the decoder.
3. Other words, and the pipeline's own number of steps: what follows them, and the shift of the noise levels.
4. Guidance: which answer is which, and what is made of both.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.priors.recording.replay import Places, Seen, Template, compare, rows_of
from threedistill.priors.recording.watch import Recording, watch

__all__ = ["SCALE", "Guided", "Pipeline", "Reading", "read"]

#: Guidance that is asked for to see what becomes of it.
SCALE = 4.0
#: Wordings of different length.
SHORT, LONG = "a", "a red duck beside a mushroom, front view, side view"


@dataclass(frozen=True)
class Guided:
    """What is made of two answers.

    Attributes:
        argument: of the pipeline, the scale.
        blank: what it is told where there is no negative text; None = nothing.
        cond, uncond: which call of a step, and which of its rows.
        more: what is added to the pipeline's scale to make it ours.
        keeps_norm: the answer is brought to the length of the conditional one along its last axis.
    """

    argument: str
    blank: str | None
    cond: tuple[int, int]
    uncond: tuple[int, int]
    more: float = 0.0
    keeps_norm: bool = False


@dataclass(frozen=True)
class Pipeline:
    """A pipeline and how it is run.

    Attributes:
        pipe: with all its components.
        part: the network's name.
        decoder: the VAE's name; None = it draws pixels.
        size: pixels.
        settings: further arguments of its call.
    """

    pipe: Any
    part: str
    decoder: str | None
    size: int
    settings: Mapping[str, Any]

    @property
    def takes(self) -> frozenset[str]:
        """The names of the arguments of its call."""
        return frozenset(inspect.signature(type(self.pipe).__call__).parameters)

    @property
    def scale(self) -> str | None:
        """The argument that is the scale of classifier-free guidance; None = it does not guide."""
        if "negative_prompt" not in self.takes:
            return None
        return next((n for n in ("true_cfg_scale", "guidance_scale") if n in self.takes), None)

    @property
    def steps(self) -> int:
        """How many steps it takes where nobody says so."""
        return int(inspect.signature(type(self.pipe).__call__).parameters["num_inference_steps"].default)

    def watch(self, words: Mapping[str, Any], *, rows: int = 1, steps: int = 2, **how: Any) -> Recording:
        """A run: ``words`` are arguments of the call, repeated for each of the rows."""
        given: dict[str, Any] = {
            "height": self.size, "width": self.size, "num_inference_steps": steps, "output_type": "pt",
            "use_resolution_binning": False, "generator": torch.Generator().manual_seed(0), **self.settings,
            **{name: [value] * rows if isinstance(value, str) else value for name, value in words.items()},
        }  # fmt: skip
        call = {name: value for name, value in given.items() if name in self.takes}
        return watch(self.pipe, self.part, self.decoder, call, **how)


@dataclass(frozen=True)
class Reading:
    """What was read off a pipeline.

    Attributes:
        template: the network's arguments.
        shape: (C, h, w) of the noisy picture as the decoder counts it; ``frames`` = with an axis of one frame.
        picture: the network's input, from the noisy picture.
        answer: the network's answer as the scheduler is told it, from the answer's row.
        latent: what the decoder is given, from the noisy picture: its offset and factor.
        off: the scale that stands for no guidance.
        guided: what guidance makes of two answers; None = it does not guide.
        form: gives an answer of these rows, as the network would.
        answered: the shape of a row of the answer.
        name: the argument that is the noisy picture.
        mu: the shift that the scheduler is told, of as many steps as the pipeline makes by itself; None = none.
    """

    template: Template
    shape: tuple[int, int, int]
    frames: bool
    picture: Places
    answer: Places
    latent: Places
    off: float | None
    guided: Guided | None
    form: Callable[[Sequence[Tensor]], Any]
    answered: tuple[int, ...]
    name: str
    mu: float | None

    def silent(self, arguments: Mapping[str, Any]) -> Any:
        """An answer of zeros to a call of these arguments."""
        return self.form([torch.zeros(self.answered)] * len(arguments[self.name]))


def _form(answer: Any) -> Callable[[Sequence[Tensor]], Any]:
    """How a network of this answer gives other rows."""
    plain = isinstance(answer, Tensor)
    listed = not plain and isinstance(answer[0], (list, tuple))

    def form(rows: Sequence[Tensor]) -> Any:
        value = list(rows) if listed else torch.stack(list(rows))
        if plain:
            return value
        if isinstance(answer, tuple):
            return (value, *answer[1:])
        return type(answer)(**{dataclasses.fields(answer)[0].name: value})

    return form


def _counted(shape: Sequence[int]) -> Tensor:
    """Three rows: 0, 1, and 1, 2, 3, ...."""
    count = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float32)
    return torch.stack([torch.zeros_like(count), torch.ones_like(count), count]).view(3, *shape)


def _one_answer(run: Recording, picture: str) -> bool:
    """Whether every step asked about one row once."""
    return bool(run.steps) and all(
        len(step.calls) == 1 and len(step.calls[0].arguments[picture]) == 1 for step in run.steps
    )


def _uniform(places: Places, what: str) -> float:
    """The one factor of all values that come from somewhere."""
    factors = places.factor[places.index >= 0]
    if not len(factors) or float((factors - factors[0]).abs().max()) > 1e-4 * float(factors[0].abs()):
        raise UsageError(f"its pipeline scales the values of {what} in different ways")
    return float(factors[0])


def read(pipeline: Pipeline) -> Reading:
    """Runs the pipeline and reads off what it does.

    Raises:
        UsageError: what is not understood, by its name.
    """
    network = getattr(pipeline.pipe, pipeline.part)
    picture = list(inspect.signature(type(network).forward).parameters)[1]
    pipe_noise = torch.Generator().manual_seed(1)
    shapes: dict[str, Any] = {}

    def first(arguments: dict[str, Any], ask: Callable[[], Any]) -> Any:
        if "form" not in shapes:
            said = ask()
            shapes["form"], shapes["row"] = _form(said), tuple(rows_of(said)[0].shape)
        return shapes["form"]([torch.zeros(shapes["row"])] * len(arguments[picture]))

    def known(rows: Tensor) -> Callable[[dict[str, Any], Callable[[], Any]], Any]:
        return lambda arguments, ask: shapes["form"](list(rows))

    scale, off, one = pipeline.scale, None, Recording()
    for off in (1.0, 0.0) if scale else (None,):
        words = {"prompt": SHORT} | ({scale: off} if scale else {})
        one = pipeline.watch(
            words, steps=3, answer=first, noise=lambda shape: torch.randn(shape, generator=pipe_noise)
        )
        if _one_answer(one, picture):
            break
    else:
        raise UsageError("its pipeline asks its network more than once a step, with guidance switched off")
    if not one.drawn:
        raise UsageError("how its pipeline draws noise is not understood")
    plain = {scale: off} if scale else {}
    three = pipeline.watch(
        {"prompt": SHORT, **plain}, rows=3, answer=known(_counted(shapes["row"])),
        noise=lambda shape: _counted(shape[1:]),
    )  # fmt: skip
    other = pipeline.watch({"prompt": LONG, **plain}, steps=pipeline.steps, answer=first, calls=1)
    times = [step.time for step in one.steps]
    if times != sorted(times, reverse=True):
        raise UsageError(f"its scheduler's times do not fall: {', '.join(f'{t:g}' for t in times)}")
    seen = Seen(
        [step.calls[0].arguments for step in one.steps],
        three.steps[0].calls[0].arguments,
        other.calls[0].arguments,
    )
    template = compare(seen, times, picture)

    count = torch.Size(three.drawn[1:]).numel()
    said, sample = three.steps[0].told, three.steps[0].sample
    heard = Places.traced(*said[:, : sample.shape[1]], what="its network's answer")
    held = Places.traced(*sample, what="the noise")
    given = Places.traced(*rows_of([seen.three[picture]]), what="the noise in front of its network")
    decoded = sample if three.decoded is None else three.decoded
    latent = Places.traced(*decoded, what="the latents in front of its decoder")
    gain = _uniform(held, "the noise")
    _uniform(given, "the noise in front of its network")
    if bool(heard.offset.any()) or bool((heard.index < 0).any()):
        raise UsageError("its pipeline adds to what its network answers")
    frames = decoded.ndim == 5
    shape = tuple(decoded.shape[1:2] + decoded.shape[3:] if frames else decoded.shape[1:])
    if len(shape) != 3 or (frames and decoded.shape[2] != 1):
        raise UsageError(f"its decoder takes {tuple(decoded.shape[1:])}, which is not a picture's latents")
    order = latent.among(count)
    inside = given.index >= 0
    at = held.among(count)[latent.index]
    return Reading(
        template, shape, frames,
        Places(given.shape, torch.where(inside, 0.0, given.offset), inside.float(),
               torch.where(inside, order[given.index.clamp(min=0)], -1)),
        Places(shape, torch.zeros(count), heard.factor[at], heard.index[at]),
        Places(tuple(shape), latent.offset, latent.factor / gain, torch.arange(count)),
        off, _guided(pipeline, picture, heard, shapes), shapes["form"], shapes["row"], picture,
        other.timing.get("mu"),
    )  # fmt: skip


def _guided(pipeline: Pipeline, picture: str, heard: Places, shapes: Mapping[str, Any]) -> Guided | None:
    """What is made of two answers that have nothing in common."""
    if pipeline.scale is None:
        return None
    draw = torch.Generator().manual_seed(2)
    unsaid = inspect.signature(type(pipeline.pipe).__call__).parameters["negative_prompt"].default
    for blank in dict.fromkeys((unsaid, "")):
        answers: list[list[Tensor]] = []

        def said(
            arguments: dict[str, Any], ask: Callable[[], Any], answers: list[list[Tensor]] = answers
        ) -> Any:
            rows = [torch.randn(shapes["row"], generator=draw) for _ in range(len(arguments[picture]))]
            answers.append(rows)
            return shapes["form"](rows)

        run = pipeline.watch({"prompt": SHORT, "negative_prompt": blank, pipeline.scale: SCALE}, answer=said)
        counts = [[len(call.arguments[picture]) for call in step.calls] for step in run.steps]
        slots = [[(c, r) for c, rows in enumerate(count) for r in range(rows)] for count in counts]
        if any(len(slot) == 2 for slot in slots):
            break
    else:
        return None
    if any(slot != slots[0] for slot in slots) or len(slots[0]) != 2:
        raise UsageError("its pipeline guides some steps and not others, or by more than two answers")
    told = run.steps[0].told
    told = told[:, : run.steps[0].sample.shape[1]]
    rows = [heard(answers[c][r].flatten()[None]) for c, r in slots[0]]
    for cond, uncond in ((0, 1), (1, 0)):
        c, u = rows[cond], rows[uncond]
        for more in (0.0, 1.0):
            guided = u + (SCALE + more) * (c - u)
            kept = guided * (c.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
            for keeps, value in ((False, guided), (True, kept)):
                if torch.allclose(told.float().cpu(), value, rtol=1e-3, atol=1e-3 * float(value.abs().max())):
                    return Guided(pipeline.scale, blank, slots[0][cond], slots[0][uncond], more, keeps)
    raise UsageError("what its pipeline makes of the answers with and without the words is not understood")
