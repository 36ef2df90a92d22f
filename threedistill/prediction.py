"""Noise levels, and the one affine table between eps, x0, v and flow predictions.

On a linear path ``x_t = alpha x0 + sigma eps`` every network output is an affine function of every other at the
same ``x_t``, so guidance never needs to know what the network was trained to predict:

    =========  ==========================  ==========================
    given      eps                         x0
    =========  ==========================  ==========================
    eps        eps                         (x_t - sigma eps) / alpha
    x0         (x_t - alpha x0) / sigma    x0
    v          (sigma x_t + alpha v) / n   (alpha x_t - sigma v) / n   with v = alpha eps - sigma x0
    flow       (x_t + alpha u) / d         (x_t - sigma u) / d         with u = eps - x0
    =========  ==========================  ==========================

``n = alpha^2 + sigma^2`` (1 on a variance-preserving path), ``d = alpha + sigma`` (1 on a rectified-flow path).
Sources: Salimans & Ho 2022 (v), Lipman et al. 2023 / Esser et al. 2024 (flow, diffusers' sign: noise - data).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["NoiseLevel", "Prediction", "PredictionKind", "Rows", "stack_levels", "training_target"]

PredictionKind = Literal["eps", "x0", "v", "flow"]

#: What picks samples out of a batch.
Rows = slice | list[int] | Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """A point of the noise path for each of ``B`` samples.

    Attributes:
        alpha: (B,) signal scale, in [0, 1].
        sigma: (B,) noise scale, in (0, 1].
        index: (B,) the network's own time for this level (float; e.g. 0..999 for DDPM schedules).
    """

    alpha: Tensor
    sigma: Tensor
    index: Tensor

    def __len__(self) -> int:
        return self.alpha.shape[0]

    @property
    def log_snr(self) -> Tensor:
        """(B,) ``log(alpha^2 / sigma^2)``."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def sigma_bar(self) -> Tensor:
        """(B,) ``sigma / alpha``, the variance-exploding (EDM) noise level."""
        return self.sigma / self.alpha

    def __getitem__(self, rows: Rows) -> NoiseLevel:
        return NoiseLevel(self.alpha[rows], self.sigma[rows], self.index[rows])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NoiseLevel:
        """The same levels on another device or in another precision."""
        alpha, sigma, index = (v.to(device=device, dtype=dtype) for v in (self.alpha, self.sigma, self.index))
        return NoiseLevel(alpha, sigma, index)

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` in ``like``'s dtype, shaped (B, 1, ...) to broadcast over it."""
        shape = (-1,) + (1,) * (like.ndim - 1)
        return self.alpha.to(like).view(shape), self.sigma.to(like).view(shape)

    def add_noise(self, x0: Tensor, noise: Tensor) -> Tensor:
        """``x_t = alpha x0 + sigma eps``."""
        alpha, sigma = self.scales(x0)
        return alpha * x0 + sigma * noise


@dataclass(frozen=True)
class Prediction:
    """What a network said about ``x_t``, readable in every parametrisation.

    Attributes:
        value: (B, C, h, w) the network's output.
        kind: what that output means.
        x_t: (B, C, h, w) the noisy input it was given.
        level: its noise level.
    """

    value: Tensor
    kind: PredictionKind
    x_t: Tensor
    level: NoiseLevel

    def __post_init__(self) -> None:
        if self.kind not in get_args(PredictionKind):
            raise ValueError(
                f"prediction kind {self.kind!r} is not one of {', '.join(get_args(PredictionKind))}"
            )

    def __getitem__(self, rows: Rows) -> Prediction:
        return Prediction(self.value[rows], self.kind, self.x_t[rows], self.level[rows])

    @property
    def eps(self) -> Tensor:
        """The predicted noise."""
        alpha, sigma = self.level.scales(self.x_t)
        if self.kind == "eps":
            return self.value
        if self.kind == "x0":
            return (self.x_t - alpha * self.value) / sigma
        if self.kind == "v":
            return (sigma * self.x_t + alpha * self.value) / (alpha**2 + sigma**2)
        return (self.x_t + alpha * self.value) / (alpha + sigma)

    @property
    def x0(self) -> Tensor:
        """The predicted clean sample. Singular at ``alpha = 0`` when the network speaks eps."""
        alpha, sigma = self.level.scales(self.x_t)
        if self.kind == "eps":
            return (self.x_t - sigma * self.value) / alpha
        if self.kind == "x0":
            return self.value
        if self.kind == "v":
            return (alpha * self.x_t - sigma * self.value) / (alpha**2 + sigma**2)
        return (self.x_t - sigma * self.value) / (alpha + sigma)

    @property
    def v(self) -> Tensor:
        """``alpha eps - sigma x0``."""
        return training_target("v", self.x0, self.eps, self.level)

    @property
    def flow(self) -> Tensor:
        """``eps - x0``."""
        return self.eps - self.x0

    def read(self, kind: PredictionKind) -> Tensor:
        """This prediction in a parametrisation; in its own what the network said, to the bit."""
        return self.value if kind == self.kind else getattr(self, kind)


def training_target(kind: PredictionKind, x0: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """What a network of the given kind is trained to output for ``x_t = alpha x0 + sigma noise``."""
    alpha, sigma = level.scales(x0)
    if kind == "eps":
        return noise
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * noise - sigma * x0
    return noise - x0


def stack_levels(levels: list[NoiseLevel]) -> NoiseLevel:
    """Rows of several levels, one after the other."""
    return NoiseLevel(
        torch.cat([x.alpha for x in levels]),
        torch.cat([x.sigma for x in levels]),
        torch.cat([x.index for x in levels]),
    )
