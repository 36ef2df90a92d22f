"""Where else than at a freshly noised render the teacher is asked: strategies that find noisy samples.

One step of deterministic DDIM, up or down, is the same on every path:
``x_s = alpha_s x0_hat(x_t) + sigma_s eps_hat(x_t)`` (Song et al. 2021, arXiv 2010.02502, eq. 12 with eta = 0). Going up
(inversion) it finds the noise that the teacher would take away again. Its error is of first order in the stride. A rule
names its strategy in ``rule.trajectory``; :func:`collect` runs it and then asks the rule's own questions. Nothing here
has gradients.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Conditions
from threedistill.contracts import Contract
from threedistill.guidance.cfg import CFG, ClassifierFree, combine
from threedistill.guidance.evidence import Told, gather, pull_back
from threedistill.prediction import NoiseLevel, Prediction
from threedistill.prompts import PromptSet
from threedistill.protocols import GuidanceRule, NoisePath, Prior
from threedistill.rng import Streams
from threedistill.schedule import ScheduledFraction, ScheduledNonNegative, value_at
from threedistill.types import Appraisal, Evidence, Lesson, Query
from threedistill.values import Below, Count, Fraction, NonNegative, Within, settings

__all__ = [
    "Interval", "Inverted", "OdeStep", "Reference", "Reparametrized", "Segments", "Situation", "Traced", "Trajectory",
    "collect", "ddim_std", "drawn", "fraction", "invert", "parts_of", "pulled_back", "shifted",
]  # fmt: skip

Unit = Literal["t", "logsnr"]
Points = dict[str, tuple[Tensor, NoiseLevel]]


@dataclass(frozen=True)
class Situation:
    """One step as the networks see it: who can be asked, in which words, about which views and samples.

    Arguments:
        networks, prompts, conditions, x0, level, noise, max_rows: as for
            :func:`~threedistill.guidance.evidence.gather`.
        reference: (B, C, h, w) the encoded renders of the unedited scene, for edits.
        rng: the iteration's streams, for what a trajectory draws.
        appraise: what is made of clean samples at noise levels, for rules that ask for it; None = nobody is there.
        told: what the networks were told in this step; a trajectory asks the same words again and again.
    """

    networks: Mapping[str, Prior]
    prompts: PromptSet
    conditions: Conditions
    x0: Float[Tensor, "B C h w"]
    level: NoiseLevel
    noise: Float[Tensor, "B C h w"]
    max_rows: int | None = None
    reference: Float[Tensor, "B C h w"] | None = None
    rng: Streams = field(default_factory=lambda: Streams(0))
    appraise: Callable[[Tensor, NoiseLevel], Appraisal] | None = None
    told: Told = field(default_factory=Told, init=False)

    @property
    def path(self) -> NoisePath:
        """The teacher's noise path."""
        return self.networks["teacher"].path

    def ask(
        self, queries: Sequence[Query], points: Points | None = None, known: dict[str, Prediction] | None = None
    ) -> Evidence:  # fmt: skip
        """The answers to some questions, at the step's own point or others."""
        return gather(
            queries, self.networks, self.prompts, self.conditions, self.x0, self.level, self.noise,
            max_rows=self.max_rows, points=points, known=known, told=self.told,
        )  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """What a strategy found.

    Attributes:
        points: noisy samples by name; one named ``t`` replaces the step's own.
        known: answers it got on the way, by the names under which a rule or its guidance asks for them.
        lesson: what learners learn in place of noised renders; None = those.
    """

    points: Points
    known: dict[str, Prediction] = field(default_factory=dict[str, Prediction])
    lesson: Lesson | None = None


class Trajectory(Contract, interface=True):
    """A deterministic way to noisy samples.

    Attributes:
        edits: whether it compares with the unedited scene (``Situation.reference``), which a run must then have.
        teaches: whether it says what learners learn (:attr:`Traced.lesson`).
    """

    edits: ClassVar[bool] = False
    teaches: ClassVar[bool] = False

    @abstractmethod
    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """The samples of one step; ``cfg`` is the rule's guidance."""


def parts_of(rule: GuidanceRule) -> tuple[CFG | None, Trajectory | None]:
    """How a rule guides, and how it finds further samples.

    Raises:
        TypeError: they are something else.
    """
    cfg, trajectory = rule.cfg, rule.trajectory
    if not (cfg is None or isinstance(cfg, CFG)):
        raise TypeError(f"{type(rule).__name__}.cfg is no CFG but {type(cfg).__name__}")
    if not (trajectory is None or isinstance(trajectory, Trajectory)):
        raise TypeError(f"{type(rule).__name__}.trajectory is no Trajectory but {type(trajectory).__name__}")
    return cfg, trajectory


def collect(rule: GuidanceRule, situation: Situation, progress: float) -> Evidence:
    """All that a rule looks at: its trajectory's samples, then the answers to its questions there."""
    queries, trajectory = rule.queries(progress), parts_of(rule)[1]
    if trajectory is None:
        return pulled_back(rule, situation, situation.ask(queries), progress)
    with torch.no_grad():
        traced = trajectory.trace(situation, rule.cfg or ClassifierFree(), progress)
    left = [query for query in queries if query.name not in traced.known]
    return replace(situation.ask(left, traced.points, traced.known), lesson=traced.lesson)


def pulled_back(rule: GuidanceRule, situation: Situation, evidence: Evidence, progress: float) -> Evidence:
    """The same evidence with the appraisal and the vector-Jacobian products that the rule asks for, if any.

    Raises:
        ValueError: it asks for an appraisal, and nobody is there who appraises.
    """
    if (sample := rule.appraised(evidence, progress)) is not None:
        if situation.appraise is None:
            raise ValueError(f"{type(rule).__name__} needs someone who appraises pictures (guidance.poses)")
        evidence = replace(evidence, appraisal=situation.appraise(sample, evidence.level))
    cotangents = rule.cotangents(evidence, progress)
    if not cotangents:
        return evidence
    queries = [query for query in rule.queries(progress) if query.name in cotangents]
    pulled = pull_back(
        queries, cotangents, situation.networks, situation.prompts, situation.conditions, evidence,
        max_rows=situation.max_rows, told=situation.told,
    )  # fmt: skip
    return replace(evidence, pulled=pulled)


# Levels


def fraction(path: NoisePath, level: NoiseLevel) -> Float[Tensor, "B"]:
    """Where on the path levels lie, 0 = clean, 1 = noise: the inverse of ``path.at_fraction``."""
    return level.sigma if path.steps is None else level.index / path.steps


def shifted(path: NoisePath, level: NoiseLevel, gap: float, unit: Unit) -> NoiseLevel:
    """Levels noisier by ``gap`` (or cleaner, if negative), kept inside the path."""
    if unit == "t":
        return path.at_fraction((fraction(path, level) + gap).clamp(0, 1))
    return path.at_log_snr(level.log_snr - gap)


def invert(
    situation: Situation, cfg: CFG, target: NoiseLevel, stride: float, max_steps: int, scale: float = 0.0,
    start: float = 0.0, eta: float = 0.0,
) -> Float[Tensor, "B C h w"]:  # fmt: skip
    """DDIM inversion of the clean render up to ``target``: ``x_{k+1} = alpha_{k+1} x0_hat_k + sigma_{k+1} eps_hat_k``.

    Every view walks its own even grid of fractions of the path, all in equally many steps,
    ``n = min(ceil(longest way / stride), max_steps)``, from ``start`` (or its target, if that is cleaner), where the
    render stands for itself. Costs n evaluations (2 n unless ``scale`` is 0 or 1).

    Near the clean end ``eps_hat = (x - alpha x0_hat) / sigma`` is a network's error in x0 over a vanishing sigma. An
    eps-network bounds it by itself; one that predicts x0 does not, and what the first step then calls noise is many
    times too large for the levels above. Such a network needs a ``start`` at which sigma exceeds its error.

    Arguments:
        situation: gives the render, the words and the networks.
        cfg: says whether the query without the prompt is told the camera.
        target: (B,) where to.
        stride: longest step, a fraction of the path.
        max_steps: bound on n.
        scale: guidance during inversion; 0 = without the prompt.
        start: where the walk begins, a fraction of the path.
        eta: of the random noise that every step adds, ``eta`` times :func:`ddim_std`.

    Returns:
        (B, C, h, w) the samples at ``target``.
    """
    path = situation.path
    end = fraction(path, target)
    begin = end.clamp(max=start)
    steps = min(math.ceil(float((end - begin).max()) / stride - 1e-6), max_steps)
    level = path.at_fraction(begin)
    x = level.scales(situation.x0)[0] * situation.x0
    for k in range(steps):
        eps, x0 = _asked(situation, cfg, x, level, scale)
        before, level = (
            level,
            target if k + 1 == steps else path.at_fraction(begin + (end - begin) * ((k + 1) / steps)),
        )
        x = level.add_noise(x0, eps)
        if eta:
            x = x + eta * ddim_std(before, level, x) * drawn(situation, f"inversion/{k}")
    return target.add_noise(situation.x0, situation.noise * 0) if steps == 0 else x


def ddim_std(
    lower: NoiseLevel, upper: NoiseLevel, like: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B 1 1 1"]:
    """``sqrt((1 - a_s) / (1 - a_t) (1 - a_t / a_s))``, DDIM's standard deviation between ``s < t`` at eta = 1.

    ``a = alpha^2 / (alpha^2 + sigma^2)``, and on paths that do not preserve the variance the whole is multiplied by
    ``sqrt(alpha_t^2 + sigma_t^2)``.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 16.
    """
    clean = [level.alpha**2 / (level.alpha**2 + level.sigma**2) for level in (lower, upper)]
    share = (1 - clean[0]) / (1 - clean[1]) * (1 - clean[1] / clean[0])
    std = (share.clamp(min=0) * (upper.alpha**2 + upper.sigma**2)).sqrt()
    return std.to(like).view(-1, *(1,) * (like.ndim - 1))


def drawn(situation: Situation, purpose: str) -> Float[Tensor, "B C h w"]:
    """Standard normal numbers of a trajectory's own."""
    x0 = situation.x0
    return situation.rng.normal_per_view(purpose, len(x0), *x0.shape[1:]).to(x0)


def _asked(
    situation: Situation, cfg: CFG, x: Tensor, level: NoiseLevel, scale: float
) -> tuple[Tensor, Tensor]:
    """eps and x0 at one sample of an inversion."""
    null = cfg.unconditional("null", "inverse", point="x")
    cond = Query("cond", text="view", point="x")
    queries = (null,) if scale == 0 else (cond,) if scale == 1 else (null, cond)
    seen = situation.ask(queries, {"x": (x, level)})
    answers = [seen[query.name] for query in queries]
    if len(answers) == 1:
        return answers[0].eps, answers[0].x0
    both = Prediction(combine(answers[0].eps, answers[1].eps, scale), "eps", x, level)
    return both.eps, both.x0


# Strategies


#: Longest step of an inversion and where it begins, fractions of the path; guidance during it.
Stride = Annotated[float, Within(0.001, 1)]
Start = Annotated[float, Below(1)]
InversionScale = Annotated[float, Within(-1000, 1000)]


@settings
class Inverted(Trajectory):
    """``x_t`` by inversion of the render, without the prompt (CSM).

    Arguments:
        stride: longest step, a fraction of the path.
        max_steps: bound on the steps, hence on the cost.
        scale: guidance during inversion; 0 = the inversion prompt alone (``prompts.inverse``, normally empty).
        start: where the inversion begins, a fraction of the path (see :func:`invert`).
    """

    stride: Stride = 0.2
    max_steps: Count = 5
    scale: InversionScale = 0.0
    start: Start = 0.0

    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """Point ``t``."""
        x = invert(situation, cfg, situation.level, self.stride, self.max_steps, self.scale, self.start)
        return Traced({"t": (x, situation.level)})


@settings
class Interval(Trajectory):
    """``x_s`` by inversion and ``x_t`` from it by one more step, ``s = t - delta`` (ISM).

    Arguments:
        delta: length of the last step, a fraction of the path; a number or a schedule of progress.
        stride, max_steps, start: of the inversion up to ``s``.
    """

    delta: ScheduledFraction = 0.05
    stride: Stride = 0.2
    max_steps: Count = 5
    start: Start = 0.0

    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """Points ``t`` and ``s``, and the prediction ``interval`` without the prompt at ``s``."""
        lower = shifted(situation.path, situation.level, -value_at(self.delta, progress), "t")
        x_s = invert(situation, cfg, lower, self.stride, self.max_steps, start=self.start)
        query = cfg.unconditional("interval", "inverse", point="s")
        at_s = situation.ask((query,), {"s": (x_s, lower)})[query.name]
        x_t = situation.level.add_noise(at_s.x0, at_s.eps)
        return Traced({"t": (x_t, situation.level), "s": (x_s, lower)}, {"interval": at_s})


@settings
class Reparametrized(Trajectory):
    """``x_t = alpha x0 + sigma kappa`` with the teacher's own noise ``kappa`` for this render (SDI).

    ``ddim``: kappa is read off the inversion at ``scale`` up to a level ``t'`` between ``t`` and ``t + gap``.
    ``fixed_point``: the solution of ``kappa = eps^s(alpha x0 + sigma kappa)`` there, by iteration from the step's
    random noise (the paper's definition; it converges where the network is a contraction).

    As in the released code, ``t'`` is drawn anew for every step and each step of the inversion adds a little random
    noise, so that kappa differs from view to view and from step to step: ``eta`` times DDIM's own standard deviation.

    Arguments:
        solver: as above.
        scale: guidance during inversion; the paper's -7.5 goes with a forward scale of 7.5.
        stride, max_steps, start: of the inversion, or ``max_steps`` iterations.
        gap: how far above ``t`` kappa is found at most, in ``unit``.
        gap_draw: ``uniform`` draws the distance from ``U[0, gap]``, ``none`` takes ``gap`` itself.
        eta: of the noise added in every step of the inversion; ``fixed_point`` adds it once, as its last step.
        unit: ``t`` or ``logsnr``.
    """

    solver: Literal["ddim", "fixed_point"] = "ddim"
    scale: InversionScale = -7.5
    stride: Stride = 0.1
    max_steps: Count = 10
    start: Start = 0.0
    gap: NonNegative = 0.1
    gap_draw: Literal["uniform", "none"] = "uniform"
    eta: NonNegative = 0.3
    unit: Unit = "t"

    def __post_init__(self) -> None:
        if self.gap == 0 and (self.unit != "t" or self.gap_draw != "uniform"):
            what = f"unit={self.unit}" if self.unit != "t" else f"gap_draw={self.gap_draw}"
            raise ValueError(f"{what} is about gap, and gap=0; set gap, or leave it out")

    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """Point ``t``."""
        level, path = situation.level, situation.path
        upper = level
        if self.gap:
            share = situation.rng.uniform("inversion gap", 1).item() if self.gap_draw == "uniform" else 1.0
            upper = shifted(path, level, share * self.gap, self.unit)
        if self.solver == "ddim":
            x = invert(situation, cfg, upper, self.stride, self.max_steps, self.scale, self.start, self.eta)
            alpha, sigma = upper.scales(x)
            kappa = (x - alpha * situation.x0) / sigma
        else:
            kappa = situation.noise
            for _ in range(self.max_steps):
                x = upper.add_noise(situation.x0, kappa)
                kappa, _ = _asked(situation, cfg, x, upper, self.scale)
            if self.eta:
                added = ddim_std(shifted(path, upper, -self.stride, "t"), upper, kappa)
                kappa = kappa + self.eta * added / upper.scales(kappa)[1] * drawn(situation, "inversion/last")
        return Traced({"t": (level.add_noise(situation.x0, kappa), level)})


@settings
class OdeStep(Trajectory):
    """``x_t'`` by one guided step of the ODE from ``x_t`` down to ``t' < t`` (CDS).

    Arguments:
        gap: from ``t`` down to ``t'`` in ``unit``, a number or a schedule of progress.
        unit: ``t`` = fraction of the path, ``logsnr``.
    """

    gap: ScheduledNonNegative = 0.2
    unit: Unit = "t"

    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """Point ``lower``, and guidance's answers at ``t``."""
        seen = situation.ask(cfg.queries(progress))
        guided = cfg.guided(seen, progress)
        lower = shifted(situation.path, situation.level, -value_at(self.gap, progress), self.unit)
        return Traced({"lower": (lower.add_noise(guided.x0, guided.eps), lower)}, dict(seen.predictions))


@settings
class Segments(Trajectory):
    """One segment of the path, ``e < s < t``: up its edge ``e`` to ``t`` without the prompt, back with it (SCTD).

    The path between ``min`` and ``max`` is cut into ``count`` equal segments; ``e`` is the edge below the step's level,
    which is moved up where it lies less than ``gap`` above. From the render with the step's noise at ``e``, the walk
    goes to ``t`` without the prompt (over ``s``, unless ``t`` is below ``direct``), a guided step leads down to ``s``,
    and the prediction there without the prompt leads on to ``e``.

    Arguments:
        count: segments.
        min, max: the ends of what is cut, fractions of the path.
        gap: ``t - e`` at least.
        margin: ``s`` is drawn uniformly between ``e`` and ``t``, this far from both.
        direct: below it the walk up takes one step.
    """

    count: Count = 5
    min: Fraction = 0.02
    max: Fraction = 0.98
    gap: Annotated[float, Within(0.001, 1)] = 0.08
    margin: Annotated[float, Within(0, 0.5)] = 0.01
    direct: Fraction = 0.15

    def __post_init__(self) -> None:
        if self.min >= self.max:
            raise ValueError(f"segments: min={self.min:g} must be below max={self.max:g}")
        if 2 * self.margin >= self.gap:
            raise ValueError(
                f"segments: margin={self.margin:g} on both sides leaves nothing of gap={self.gap:g}"
            )

    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """Points ``t`` and ``e``, and the predictions ``start`` at ``e`` and ``back`` at ``s``, without the prompt."""
        path = situation.path
        here = fraction(path, situation.level)
        width = (self.max - self.min) / self.count
        below = ((here - self.min) / width + 1e-6).floor().clamp(0, self.count - 1)
        edge = self.min + below * width
        top = torch.maximum(here, edge + self.gap).clamp(max=1.0)
        share = situation.rng.uniform("segment", 1).to(here)
        middle = edge + self.margin + (top - edge - 2 * self.margin).clamp(min=0) * share
        e, s, t = (path.at_fraction(value) for value in (edge, middle, top))

        x_e = e.add_noise(situation.x0, situation.noise)
        start = self._null(situation, cfg, "start", x_e, e)
        over = self._null(situation, cfg, "over", s.add_noise(start.x0, start.eps), s)
        far = (top >= self.direct).view(-1, *(1,) * (x_e.ndim - 1))
        x_t = torch.where(far, t.add_noise(over.x0, over.eps), t.add_noise(start.x0, start.eps))
        seen = situation.ask(cfg.queries(progress), {"t": (x_t, t)})
        guided = cfg.guided(seen, progress)
        back = self._null(situation, cfg, "back", s.add_noise(guided.x0, guided.eps), s)
        return Traced({"t": (x_t, t)}, {**seen.predictions, "start": start, "back": back})

    def _null(
        self, situation: Situation, cfg: CFG, name: str, x: Float[Tensor, "B C h w"], level: NoiseLevel
    ) -> Prediction:  # fmt: skip
        query = cfg.unconditional(name, "inverse", point="x")
        return situation.ask((query,), {"x": (x, level)})[query.name]


@settings
class Reference(Trajectory):
    """The unedited scene with the step's own noise and level (DDS)."""

    edits: ClassVar[bool] = True

    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """Point ``reference``.

        Raises:
            ValueError: the situation has no reference.
        """
        if situation.reference is None:
            raise ValueError("this rule compares with an unedited scene, and there is none")
        level = situation.level
        return Traced({"reference": (level.add_noise(situation.reference.detach(), situation.noise), level)})
