"""How much of a rule's direction is noise: the same picture asked again and again with other random numbers.

At a fixed clean sample the direction ``d`` is drawn ``N`` times. Its noise share is
``tr Var[d] / (tr Var[d] + ||E[d]||^2)``: 0 = always the same direction, 1 = nothing but noise. It has no unit, so rules
of different strength compare. The scale of the update does not matter to it, nor to Adam.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from threedistill.conditions import Conditions
from threedistill.evaluation.statistics import Estimate, bootstrap
from threedistill.protocols import NoisePath
from threedistill.rng import Streams
from threedistill.sweeps.plan import Setting
from threedistill.types import NoiseLevel

__all__ = ["BLUR", "LEVEL", "NoiseShare", "measure", "noise_share", "paired_noise"]

#: Where along the path the fixed level lies, as a fraction of it.
LEVEL = 0.7
#: Pixels of the Gaussian that makes a half-finished object of the true picture.
BLUR = 4.0


@dataclass(frozen=True)
class NoiseShare:
    """A rule's noise share.

    Attributes:
        setting: its name.
        fixed: at one noise level, with an interval over prompts.
        drawn: with levels drawn by the rule's own policy in the middle of a run, likewise.
        samples: (prompt, state, fixed, drawn) behind them.
    """

    setting: str
    fixed: Estimate
    drawn: Estimate
    samples: tuple[tuple[str, str, float, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "setting": self.setting, "fixed": self.fixed.as_dict(), "drawn": self.drawn.as_dict(),
            "samples": [list(s) for s in self.samples],
        }  # fmt: skip


def noise_share(directions: Tensor) -> float:
    """``tr Var / (tr Var + ||mean||^2)`` of (N, ...) draws, both unbiased; clamped to [0, 1].

    ``||m||^2`` of the sample mean overestimates ``||E d||^2`` by ``tr Var / N``, which is taken off.
    """
    flat = directions.flatten(1).double()
    count = len(flat)
    if count < 2:
        raise ValueError("a variance needs two draws")
    variance = float(flat.var(0, unbiased=True).sum())
    signal = max(float(flat.mean(0).square().sum()) - variance / count, 0.0)
    return variance / (variance + signal) if variance + signal > 0 else 0.0


def measure(
    settings: Sequence[Setting], prompts: Sequence[str], draws: int = 8, views: int = 4, seed: int = 0
) -> list[NoiseShare]:
    """The noise share of each setting on true and half-finished pictures of each prompt.

    Arguments:
        settings: rules to compare; a student would be untrained, so leave those out.
        prompts: in the Toybox vocabulary.
        draws: directions per picture.
        views: pictures per prompt.
        seed: of cameras and draws; the same for all settings.
    """
    found = []
    for setting in settings:
        samples = []
        for prompt in prompts:
            system = _system(setting, prompt, views, seed)
            for state in ("true", "half-finished"):
                fixed, drawn = _shares(system, prompt, state, draws, seed)
                samples.append((prompt, state, fixed, drawn))
        groups = [s[0] for s in samples]
        found.append(
            NoiseShare(
                setting.name,
                bootstrap([s[2] for s in samples], groups),
                bootstrap([s[3] for s in samples], groups),
                tuple(samples),
            )
        )
    return found


def paired_noise(first: NoiseShare, second: NoiseShare, which: str = "fixed") -> Estimate:
    """Mean of ``second - first`` over the same pictures, interval over prompts."""

    def shares(noise: NoiseShare) -> dict[tuple[str, str], float]:
        return {(s[0], s[1]): s[2] if which == "fixed" else s[3] for s in noise.samples}

    theirs, mine = shares(first), shares(second)
    both = [key for key in mine if key in theirs]
    return bootstrap([mine[key] - theirs[key] for key in both], [key[0] for key in both])


def _system(setting: Setting, prompt: str, views: int, seed: int) -> Any:
    """The run's system, as training would build it."""
    from threedistill.config import compose
    from threedistill.training.assemble import build_prior, build_stages
    from threedistill.training.planning import build_plan

    overrides = [*setting.overrides, f"budget.views={views}"]
    plan = build_plan(compose(prompt=prompt, seed=seed, device="cpu", overrides=overrides))
    return build_stages(plan, build_prior(plan, torch.device("cpu")))[0]


@torch.no_grad()
def _shares(system: Any, prompt: str, state: str, draws: int, seed: int) -> tuple[float, float]:
    """Noise shares at a fixed level and with drawn ones, mean over views."""
    cameras, background = system._views(0.5, Streams(seed).branched("noise-share/cameras"))
    x0 = system.prior.space.encode(_picture(prompt, cameras, background, state))
    own = system.guidance
    shares = []
    for guidance in (replace(own, timesteps=_Fixed(LEVEL)), own):
        system.guidance = guidance
        directions = []
        for k in range(draws):
            rng = Streams(seed).branched(f"noise-share/{k}")
            directions.append(system._direction(x0, Conditions((), cameras, background), 0.5, rng)[0])
        stack = torch.stack(directions)
        shares.append(sum(noise_share(stack[:, v]) for v in range(len(cameras))) / len(cameras))
    system.guidance = own
    return shares[0], shares[1]


def _picture(prompt: str, cameras: Any, background: Tensor, state: str) -> Tensor:
    """The ground truth as the teacher has seen it, or that picture out of focus."""
    from threedistill.render.mesh import render_mesh
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.world import build

    mesh = build(parse(prompt).scene, random.Random(f"noise-share/{prompt}"))
    rgb = render_mesh(mesh, cameras, shading="lambertian", background=background).rgb
    if state == "true":
        return rgb
    reach = int(3 * BLUR)
    x = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-(x**2) / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    image = F.pad(rgb.permute(0, 3, 1, 2), (reach,) * 4, mode="replicate")
    image = F.conv2d(image, kernel[:, :, None], groups=3)
    return F.conv2d(image, kernel[..., None], groups=3).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class _Fixed:
    """A timestep policy that always gives the same level."""

    fraction: float

    def sample(
        self, path: NoisePath, progress: float, rng: Streams, views: int, group: int = 1
    ) -> NoiseLevel:
        return path.at_fraction(torch.full((views,), self.fraction))
