"""Where splats are added, removed and moved: growth by screen-space gradients, and relocation of dead ones.

Both strategies look at a :class:`Cloud` and answer with a :class:`~threedistill.types.Refinement`. Score distillation's
gradients are noisy and have no absolute scale, so nothing here compares a gradient with a fixed number, as 3DGS does:
splats are ranked among themselves, and how many are added is a budget that follows the stage's progress.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedistill.render.projection import rotations
from threedistill.rng import Streams
from threedistill.schedule import Schedule, value_at
from threedistill.types import Refinement
from threedistill.values import Below, Count, Fraction, NonNegative, Positive, Within, settings

__all__ = ["Cloud", "Growth", "Relocation"]


class Cloud(NamedTuple):
    """The parameters of ``N`` splats, by group name, and what the last steps showed of them.

    Attributes:
        values: ``means`` (N, 3), ``scales`` (N, 3, logarithms), ``rotations`` (N, 4), ``opacities`` (N, logits), and
            whatever else has one row per splat.
        gradient: (N,) mean length of the screen-space gradient since the last refinement, in any unit; 0 for splats
            that were not seen.
        seen: (N,) number of views in which each splat was visible since then.
    """

    values: dict[str, Tensor]
    gradient: Float[Tensor, "N"]
    seen: Float[Tensor, "N"]

    @property
    def opacity(self) -> Float[Tensor, "N"]:
        return self.values["opacities"].sigmoid()

    def rows(self, index: Int[Tensor, "M"]) -> dict[str, Tensor]:
        """The parameters of some splats."""
        return {name: value.index_select(0, index) for name, value in self.values.items()}


def _displaced(rows: dict[str, Tensor], noise: Float[Tensor, "M 3"]) -> Tensor:
    """Means moved by ``R S z``: drawn from the splat's own Gaussian for standard normal ``z``."""
    local = rows["scales"].exp() * noise
    return rows["means"] + (rotations(rows["rotations"]) @ local[..., None])[..., 0]


def _budget(count: int, cap: int, progress: float, start: float, stop: float, share: float) -> int:
    """How many splats may be added: the cap is approached along a straight line, ``share`` of them at most at once."""
    through = 1.0 if stop <= start else min(max((progress - start) / (stop - start), 0.0), 1.0)
    return max(0, min(cap - count, math.ceil(share * count), math.ceil(through * cap) - count))


@settings
class Growth:
    """Split what the gradients pull at, prune what is transparent.

    Every ``every`` iterations between ``start`` and ``stop`` of the stage, splats below ``prune`` opacity or larger
    than ``largest`` go, and the splats with the largest mean screen-space gradient are split in two: both halves are
    drawn from the splat's own Gaussian, ``shrink`` times smaller where it is larger than ``split_size``, and with the
    opacity ``1 - sqrt(1 - o)``, so that two of them absorb what one did. Only splats whose gradient is ``ratio`` times
    the median are split, and no more than the budget allows: the line from the count at ``start`` to ``cap``.

    Arguments:
        every: iterations.
        start, stop: fractions of the stage.
        cap: splats at most, a hard limit.
        share: at most this share of the splats is split at once.
        ratio: of a splat's gradient to the median.
        absolute: whether a splat's gradient is the sum over pixels of the absolute ones: a large splat that half of its
            pixels pull to the left and half to the right is then split, too.
        prune: opacity.
        largest: standard deviation, metres.
        split_size: standard deviation, metres; smaller splats keep their size (3DGS's clone).
        shrink: as in 3DGS.
        reset_every: refinements between resets of the opacity to at most ``reset_to``; 0 = never. A reset throws the
            shape back; with a few hundred iterations to go it costs more than the floaters it removes.
        reset_to: opacity.

    Sources: Kerbl et al. 2023, section 5.2 (splitting, resets); Bulo et al. 2024, "Revising densification in Gaussian
    splatting", section 3.2 (opacity of the halves) and 3.3 (budget); Ye et al. 2024 (AbsGS), arXiv 2404.10484, section
    4 (absolute gradients).
    """

    every: Count = 25
    start: Fraction = 0.05
    stop: Fraction = 0.6
    cap: Count = 8000
    share: Annotated[float, Below(1)] = 0.15
    ratio: NonNegative = 1.0
    absolute: bool = False
    prune: Annotated[float, Below(1)] = 0.02
    largest: Positive = 0.25
    split_size: NonNegative = 0.02
    shrink: Annotated[float, Within(1, 100)] = 1.6
    reset_every: Annotated[int, Within(0)] = 0
    reset_to: Annotated[float, Below(1)] = 0.1

    def __post_init__(self) -> None:
        if self.start > self.stop:
            raise ValueError(f"densification: start={self.start} must not be above stop={self.stop}")

    def plan(self, cloud: Cloud, iteration: int, progress: float, rng: Streams) -> Refinement | None:
        """What to do after this iteration, or None."""
        if (iteration + 1) % self.every or not self.start <= progress <= self.stop:
            return None
        size = cloud.values["scales"].amax(-1).exp()
        opacity = cloud.opacity
        alive = (opacity >= self.prune) & (size <= self.largest)
        if not bool(alive.any()):
            alive = opacity >= opacity.max()  # an empty cloud could not come back
        kept = alive.nonzero()[:, 0]
        if len(kept) > self.cap:
            kept = kept[opacity[kept].argsort(descending=True, stable=True)[: self.cap]].sort().values
        split = self._chosen(cloud, kept, progress)
        halves = cloud.rows(split)
        noise = torch.randn(2, len(split), 3, generator=rng.generator("densify")).to(halves["means"])
        smaller = halves["scales"].amax(-1, keepdim=True).exp() > self.split_size
        halves["opacities"] = _logit(1 - torch.sqrt(1 - halves["opacities"].sigmoid()))
        pieces = []
        for draw in noise:
            piece = dict(halves)
            piece["means"] = _displaced(halves, draw)
            piece["scales"] = halves["scales"] - math.log(self.shrink) * smaller
            pieces.append(piece)

        rest = torch.ones(len(cloud.seen), dtype=torch.bool, device=kept.device)
        rest[split] = False
        rest = kept[rest[kept]]
        parts = [cloud.rows(rest), *pieces]
        values = {name: torch.cat([part[name] for part in parts]) for name in cloud.values}
        source = torch.cat([rest, split, split])
        fresh = torch.arange(len(source), device=source.device) >= len(rest)
        restart: tuple[str, ...] = ()
        events = (iteration + 1) // self.every
        if self.reset_every and events % self.reset_every == 0:
            highest = math.log(self.reset_to / (1 - self.reset_to))
            values["opacities"] = values["opacities"].clamp_max(highest)
            restart = ("opacities",)
        return Refinement(source, fresh, values, restart)

    def _chosen(self, cloud: Cloud, kept: Int[Tensor, "M"], progress: float) -> Int[Tensor, "S"]:
        """The splats to split, in ascending order."""
        gradient = cloud.gradient[kept]
        moved = gradient[gradient > 0]
        budget = _budget(len(kept), self.cap, progress, self.start, self.stop, self.share)
        if not budget or not len(moved):
            return kept[:0]
        order = gradient.argsort(descending=True, stable=True)[:budget]
        return kept[order[gradient[order] >= self.ratio * moved.median()]].sort().values


@settings
class Relocation:
    """Splats as samples of a distribution: dead ones jump to live ones, and all of them tremble a little.

    Every ``every`` iterations, splats below ``dead`` opacity are moved onto splats drawn with probability proportional
    to their opacity, and ``share`` new ones are added in the same way until there are ``cap``. Where ``n`` splats then
    share a place, each gets

        o' = 1 - (1 - o)^(1/n),    S' = o / (sum_{i=1..n} sum_{k=0..i-1} C(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1)) S,

    with which they absorb together what one did (along the radius the picture changes a little: three splats of opacity
    0.9 differ from one by 0.054 of alpha at most). In every step, transparent splats also receive position noise.
    Splats die where something makes them: the regulariser ``splat_opacity``.

    Arguments:
        every, start, stop, cap: as in :class:`Growth`; ``start`` and ``stop`` bound the noise too.
        share: growth per refinement.
        dead: opacity.
        noise: standard deviation of the position noise of a transparent splat along its longest axis, metres, a number
            or a schedule of progress (the paper's falls with the learning rate); 0 = none.

    Source: Kheradmand et al. 2024, "3D Gaussian splatting as Markov chain Monte Carlo", equations 8 to 10.
    """

    every: Count = 25
    start: Fraction = 0.05
    stop: Fraction = 0.8
    cap: Count = 8000
    share: Annotated[float, Within(0, 10)] = 0.05
    dead: Annotated[float, Below(1)] = 0.02
    noise: Annotated[float | Schedule, Within(0, 1)] = 0.001

    def __post_init__(self) -> None:
        if self.start > self.stop:
            raise ValueError(f"densification: start={self.start} must not be above stop={self.stop}")

    def plan(self, cloud: Cloud, iteration: int, progress: float, rng: Streams) -> Refinement | None:
        """What to do after this iteration, or None."""
        if (iteration + 1) % self.every or not self.start <= progress <= self.stop:
            return None
        opacity, count = cloud.opacity, len(cloud.seen)
        order = opacity.argsort(descending=True, stable=True)[: self.cap]
        alive = order[opacity[order] > self.dead].sort().values
        if not len(alive):
            alive = order[:1]
        wanted = min(self.cap, max(count, math.ceil((1 + self.share) * count)))
        moved = wanted - len(alive)
        if moved <= 0 and len(alive) == count:
            return None
        generator = rng.generator("relocate")
        weights = opacity[alive].double().cpu()
        drawn = (
            torch.multinomial(weights, max(moved, 0), replacement=True, generator=generator)
            if moved > 0
            else None
        )
        target = alive[drawn.to(alive.device)] if drawn is not None else alive[:0]
        source = torch.cat([alive, target])
        values = cloud.rows(source)
        together = torch.bincount(source, minlength=count)[source]
        values["opacities"], factor = _shared(values["opacities"].sigmoid(), together)
        values["scales"] = values["scales"] + factor.log()[:, None]
        fresh = (torch.arange(len(source), device=source.device) >= len(alive)) | (together > 1)
        return Refinement(source, fresh, values)

    def tremble(self, cloud: Cloud, progress: float, rng: Streams) -> Float[Tensor, "N 3"] | None:
        """Displacements ``noise sigmoid(-100 (o - 0.005)) Sigma eta / max(Sigma)`` of (nearly) transparent splats."""
        noise = value_at(self.noise, progress)
        if not noise or not self.start <= progress <= self.stop:
            return None
        eta = torch.randn(len(cloud.seen), 3, generator=rng.generator("tremble")).to(cloud.values["means"])
        gate = torch.sigmoid(-100 * (cloud.opacity - 0.005))[:, None]
        scales = cloud.values["scales"].exp()
        frame = rotations(cloud.values["rotations"])
        shape = scales / scales.amax(-1, keepdim=True)
        local = (frame.mT @ eta[..., None])[..., 0] * shape**2
        return noise * gate * (frame @ local[..., None])[..., 0]


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p.clamp(1e-6, 1 - 1e-6))


def _shared(opacity: Float[Tensor, "M"], together: Int[Tensor, "M"]) -> tuple[Tensor, Tensor]:
    """Logits of the opacity, and the factor on the scale, of splats of which ``together`` share one place."""
    most = 51  # as in the paper's code: beyond it the sums lose their digits
    n = together.clamp_max(most)
    old = opacity.double().clamp(1e-6, 1 - 1e-6)
    new = 1 - (1 - old) ** (1 / n.double())
    total = torch.zeros_like(new)
    for i in range(1, int(n.max()) + 1 if len(n) else 1):
        inner = torch.zeros_like(new)
        for k in range(i):
            inner = inner + math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
        total = total + torch.where(n >= i, inner, 0.0)
    factor = torch.where(n > 1, old / total.clamp_min(1e-12), 1.0)
    keep: Bool[Tensor, "M"] = n > 1
    logits = torch.where(keep, _logit(new), _logit(old))
    return logits.to(opacity.dtype), factor.to(opacity.dtype)
