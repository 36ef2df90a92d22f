"""DDIM and ancestral sampling: for sample sheets, and to prove that a prior's conventions are those of its makers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.prediction import NoiseLevel, Prediction
from threedistill.protocols import NoisePath

__all__ = ["ancestral", "ddim", "levels_at", "spaced"]


def spaced(steps: int, trained: int, how: str = "trailing", offset: int = 0) -> list[int]:
    """Falling time indices: ``leading`` = every (T / n)-th from ``offset``, ``trailing`` = ends at T - 1."""
    if how == "leading":
        return [i * (trained // steps) + offset for i in reversed(range(steps))]
    return [round(trained - i * trained / steps) - 1 for i in range(steps)]


def levels_at(
    path: NoisePath, indices: Sequence[int], rows: int, last: int | None = None
) -> list[NoiseLevel]:
    """The levels at these times and the one to end at: at the time ``last``, or clean (None: alpha 1, sigma 0)."""
    clean = NoiseLevel(*(torch.full((rows,), v) for v in (1.0, 0.0, 0.0)))
    levels = [path.at(torch.full((rows,), float(i))) for i in indices]
    return [*levels, clean if last is None else path.at(torch.full((rows,), float(last)))]


@torch.no_grad()
def ddim(
    denoise: Callable[[Tensor, NoiseLevel], Prediction],
    noise: Float[Tensor, "B C h w"],
    levels: Sequence[NoiseLevel],
) -> Float[Tensor, "B C h w"]:
    """Deterministic DDIM: ``x_s = alpha_s x0_hat(x_t) + sigma_s eps_hat(x_t)`` along falling levels.

    On a rectified flow this is the Euler step. Source: Song et al. 2021, arXiv 2010.02502, eq. 12 with eta = 0.

    Arguments:
        denoise: (x_t, level) -> prediction, for instance classifier-free guidance over a prior.
        noise: (B, C, h, w) the start, at the first level.
        levels: (B,) each; the last is where it ends, and nothing is asked there.
    """
    x_t = noise
    for now, then in pairwise(levels):
        seen = denoise(x_t, now.to(noise.device))
        x_t = then.to(noise.device).add_noise(seen.x0, seen.eps)
    return x_t


@torch.no_grad()
def ancestral(
    denoise: Callable[[Tensor, NoiseLevel], Prediction],
    noise: Float[Tensor, "B C h w"],
    levels: Sequence[NoiseLevel],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B C h w"]:
    """Ancestral sampling along falling levels; the sample is what is predicted clean at the last of them.

        x_s = alpha_s x0_hat(x_t) + r sigma_s eps_hat(x_t) + sigma_s sqrt(1 - r^2) z,
        r = alpha_t sigma_s / (alpha_s sigma_t)

    The mean and the variance are those of ``q(x_s | x_t, x0_hat)``. Source: Ho et al. 2020, arXiv 2006.11239, eq. 6
    and 7 (there of neighbouring times; here of any two).

    Arguments:
        denoise: as for :func:`ddim`.
        noise: (B, C, h, w) the start, at the first level.
        levels: (B,) each; all are asked.
        generator: of the noise ``z``.
    """
    x_t = noise
    for now, then in pairwise(levels):
        seen = denoise(x_t, now)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = now.scales(x_t), then.scales(x_t)
        kept = alpha_t * sigma_s / (alpha_s * sigma_t)
        fresh = torch.randn(x_t.shape, generator=generator).to(x_t)
        x_t = alpha_s * seen.x0 + sigma_s * (
            kept * seen.eps + (1 - kept.square()).clamp(min=0).sqrt() * fresh
        )
    return denoise(x_t, levels[-1]).x0
