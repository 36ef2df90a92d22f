"""Noise paths: how signal and noise are mixed, as a table (DDPM) or in closed form (rectified flow)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.prediction import NoiseLevel

__all__ = ["LOUDEST", "SILENT", "BetaSchedule", "DiscretePath", "RectifiedFlowPath"]

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]

#: Stands for log 0 at the last level of a zero-terminal-SNR schedule: alpha = 2e-9, all stays finite.
SILENT = -40.0
#: Below this log-SNR a level counts as pure noise and is left out of windows.
LOUDEST = -30.0


def _like(index: Tensor) -> torch.dtype:
    return index.dtype if index.dtype.is_floating_point else torch.float32


class DiscretePath:
    """A variance-preserving path given by ``alphas_cumprod``; between two indices log-SNR is interpolated
    linearly.

    ``alpha = sqrt(abar)``, ``sigma = sqrt(1 - abar)``, ``log_snr = log(abar / (1 - abar))``.
    Source: Ho et al. 2020 (DDPM), arXiv 2006.11239, eq. 4.

    Arguments:
        alphas_cumprod: (T,) strictly falling, in [0, 1); the last may be 0 (zero terminal SNR).

    Raises:
        ValueError: the table is not a noise schedule.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        abar = alphas_cumprod.detach().double().cpu()
        if (
            abar.ndim != 1
            or len(abar) < 2
            or not bool((abar[1:] < abar[:-1]).all())
            or abar[0] >= 1
            or abar[-1] < 0
        ):
            raise ValueError("alphas_cumprod must be a strictly falling sequence in [0, 1)")
        self._log_snr = (abar.log() - (-abar).log1p()).clamp(min=SILENT)
        self._last = int((self._log_snr > LOUDEST).sum()) - 1  # the noisiest index that still has signal

    @classmethod
    def from_betas(
        cls,
        schedule: BetaSchedule = "scaled_linear",
        steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        zero_terminal_snr: bool = False,
    ) -> DiscretePath:
        """The path of a beta schedule.

        Arguments:
            schedule: ``linear`` in beta, ``scaled_linear`` in sqrt(beta) (Stable Diffusion), or
                ``squaredcos_cap_v2`` (cosine, Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17; takes no
                betas).
            steps: T.
            beta_start, beta_end: ends of the linear kinds.
            zero_terminal_snr: shift and stretch so that the last level is pure noise (Lin et al. 2023,
                arXiv 2305.08891, algorithm 1).
        """
        if schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        elif schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        elif schedule == "squaredcos_cap_v2":
            edges = torch.arange(steps + 1, dtype=torch.float64) / steps
            signal = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        else:
            raise ValueError(f"beta schedule {schedule!r} must be linear, scaled_linear or squaredcos_cap_v2")
        abar = torch.cumprod(1 - betas, 0)
        if zero_terminal_snr:
            root = abar.sqrt()
            abar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        return cls(abar)

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, object]) -> DiscretePath:
        """The path of a diffusers DDPM-family scheduler, from its ``scheduler_config.json``."""
        trained = config.get("trained_betas")
        if trained is not None:
            betas = torch.as_tensor(trained, dtype=torch.float64)
            return cls(torch.cumprod(1 - betas, 0))
        return cls.from_betas(
            schedule=str(config.get("beta_schedule", "linear")),  # type: ignore[arg-type]
            steps=int(config.get("num_train_timesteps", 1000)),  # type: ignore[call-overload]
            beta_start=float(config.get("beta_start", 0.0001)),  # type: ignore[arg-type]
            beta_end=float(config.get("beta_end", 0.02)),  # type: ignore[arg-type]
            zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DiscretePath) and torch.equal(self._log_snr, other._log_snr)

    def __hash__(self) -> int:
        return hash((len(self._log_snr), float(self._log_snr[-1])))

    @property
    def steps(self) -> int:
        """``T``."""
        return len(self._log_snr)

    def _level(self, log_snr: Tensor, index: Tensor, dtype: torch.dtype) -> NoiseLevel:
        return NoiseLevel(
            torch.sigmoid(log_snr).sqrt().to(dtype), torch.sigmoid(-log_snr).sqrt().to(dtype), index.to(dtype)
        )

    def at(self, index: Tensor) -> NoiseLevel:
        """Levels at (float) indices, clamped to 0..T-1."""
        table = self._log_snr.to(index.device)
        place = index.double().clamp(0, self.steps - 1)
        low = place.floor().long().clamp(max=self.steps - 2)
        part = place - low
        return self._level(table[low] * (1 - part) + table[low + 1] * part, place, _like(index))

    def at_fraction(self, fraction: Tensor) -> NoiseLevel:
        """Levels at index ``fraction T`` (0.02 of 1000 is 20), at most the noisiest one with a signal."""
        return self.at((fraction * self.steps).clamp(0, self._last))

    def at_log_snr(self, log_snr: Tensor) -> NoiseLevel:
        """Levels at log signal-to-noise ratios, clamped to the path's ends."""
        rising = self._log_snr[: self._last + 1].flip(0).to(log_snr.device)
        wanted = log_snr.double().clamp(rising[0], rising[-1])
        high = torch.searchsorted(rising, wanted.contiguous()).clamp(1, self._last)
        part = (wanted - rising[high - 1]) / (rising[high] - rising[high - 1])
        return self._level(wanted, self._last - (high - 1 + part), _like(log_snr))


class RectifiedFlowPath:
    """``alpha = 1 - sigma``; the scheduler's time is ``scale * sigma`` (SD3 and FLUX: 1000).

    Fractions of the path are shifted as the model's makers shift them, ``sigma = s f / (1 + (s - 1) f)``: of a large
    picture more noise is needed to hide as much.
    Source: Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024 (SD3), arXiv 2403.03206, eq. 23.

    Arguments:
        scale: the time at pure noise.
        shift: ``s``.
        sigma_min, sigma_max: ends of what is drawn; :meth:`at` reaches pure noise.
    """

    steps: int | None = None

    def __init__(
        self, scale: float = 1000.0, shift: float = 1.0, sigma_min: float = 1e-3, sigma_max: float = 0.999
    ) -> None:
        if not 0 < sigma_min < sigma_max < 1:
            raise ValueError(f"0 < sigma_min={sigma_min} < sigma_max={sigma_max} < 1 does not hold")
        if shift <= 0:
            raise ValueError(f"shift={shift} must be positive")
        self.scale, self.shift, self.sigma_min, self.sigma_max = scale, shift, sigma_min, sigma_max

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RectifiedFlowPath) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.scale, self.shift, self.sigma_min, self.sigma_max))

    def _level(self, sigma: Float[Tensor, "B"], most: float, dtype: torch.dtype) -> NoiseLevel:
        sigma = sigma.clamp(self.sigma_min, most)
        alpha = (1 - sigma).clamp(
            min=math.exp(SILENT / 2)
        )  # as at the silent end of a table: all stays finite
        return NoiseLevel(alpha.to(dtype), sigma.to(dtype), (self.scale * sigma).to(dtype))

    def at(self, index: Tensor) -> NoiseLevel:
        """Levels at the scheduler's time, ``sigma = index / scale``."""
        return self._level(index.double() / self.scale, 1.0, _like(index))

    def at_fraction(self, fraction: Tensor) -> NoiseLevel:
        """Levels at the shifted fraction."""
        part = fraction.double()
        return self._level(self.shift * part / (1 + (self.shift - 1) * part), self.sigma_max, _like(fraction))

    def at_log_snr(self, log_snr: Tensor) -> NoiseLevel:
        """``sigma / (1 - sigma) = exp(-log_snr / 2)``, so ``sigma = sigmoid(-log_snr / 2)``."""
        return self._level(torch.sigmoid(-log_snr.double() / 2), self.sigma_max, _like(log_snr))
