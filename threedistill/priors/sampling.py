"""DDIM on any prior: for sample sheets, and to prove that a prior's conventions are those of its makers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.prediction import NoiseLevel, Prediction
from threedistill.protocols import NoisePath

__all__ = ["ddim", "spaced"]


def spaced(steps: int, trained: int, how: str = "trailing", offset: int = 0) -> list[int]:
    """Falling time indices: ``leading`` = every (T / n)-th from ``offset``, ``trailing`` = ends at T - 1."""
    if how == "leading":
        return [i * (trained // steps) + offset for i in reversed(range(steps))]
    return [round(trained - i * trained / steps) - 1 for i in range(steps)]


@torch.no_grad()
def ddim(
    denoise: Callable[[Tensor, NoiseLevel], Prediction],
    path: NoisePath,
    noise: Float[Tensor, "B C h w"],
    indices: Sequence[int],
    last: NoiseLevel | None = None,
) -> Float[Tensor, "B C h w"]:
    """Deterministic DDIM: ``x_s = alpha_s x0_hat(x_t) + sigma_s eps_hat(x_t)`` along falling indices.

    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 with eta = 0.

    Arguments:
        denoise: (x_t, level) -> prediction, for instance classifier-free guidance over a prior.
        path: the prior's noise path.
        noise: (B, C, h, w) the start, at ``indices[0]``.
        indices: the network's times, falling.
        last: the level after the last step; None = clean (alpha 1, sigma 0).
    """
    rows = noise.shape[0]
    levels = [path.at(torch.full((rows,), float(i), device=noise.device)) for i in indices]
    clean = NoiseLevel(*(torch.full((rows,), v, device=noise.device) for v in (1.0, 0.0, 0.0)))
    x_t = noise
    for now, then in zip(levels, [*levels[1:], last or clean]):
        seen = denoise(x_t, now)
        x_t = then.add_noise(seen.x0, seen.eps)
    return x_t
