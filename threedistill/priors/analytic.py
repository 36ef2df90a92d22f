"""Priors in closed form: Gaussians and mixtures of them, the yardstick of every rule, and a teacher for
smoke runs.

For data ``N(mu, Sigma)`` the exact answer is ``eps*(x_t) = sigma (alpha^2 Sigma + sigma^2 I)^-1 (x_t - alpha
mu)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.prediction import Prediction, PredictionKind
from threedistill.priors.noise_path import DiscretePath
from threedistill.priors.space import PixelSpace
from threedistill.prompts import without_view
from threedistill.protocols import ImageSpace, NoisePath, Prior, vector_jacobian
from threedistill.types import Condition, Conditioning, NoiseLevel
from threedistill.values import Within, checked

__all__ = ["DiscPrior", "GaussianMixturePrior", "GaussianPrior", "Mixture", "Normal", "gaussian_eps"]


def gaussian_eps(
    x_t: Float[Tensor, "B C h w"], level: NoiseLevel, mean: Tensor, variance: Tensor
) -> Float[Tensor, "B C h w"]:
    """``sigma (x_t - alpha mu) / (alpha^2 S^2 + sigma^2)`` for a diagonal covariance ``S^2``."""
    alpha, sigma = level.scales(x_t)
    return sigma * (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)


@dataclass(frozen=True)
class Normal:
    """One condition of a Gaussian prior.

    Arguments:
        mean: broadcastable to (C, h, w).
        std: a number or a tensor broadcastable to (C, h, w).
        covariance: (n, n) with n = C h w; replaces ``std``.
    """

    mean: Tensor | float
    std: Tensor | float = 1.0
    covariance: Tensor | None = None


@dataclass(frozen=True)
class Mixture:
    """One condition of a mixture prior: ``sum_k weight_k N(mean_k, std_k^2)``."""

    components: tuple[Normal, ...]
    weights: tuple[float, ...]


class GaussianPrior(Prior):
    """A Gaussian per text, with diagonal or full covariance; cameras and backgrounds are ignored.

    Arguments:
        space: what it calls pictures.
        path: its noise path.
        conditions: text (without view words) -> Gaussian; "" is the unconditional one.
        kind: in which parametrisation it answers.

    Raises:
        UsageError: (when asked) a text it has no Gaussian for.
    """

    licence = "Apache-2.0"
    differentiable = True

    def pull_back(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning,
        cotangent: Float[Tensor, "B C h w"],
    ) -> Float[Tensor, "B C h w"]:  # fmt: skip
        """By one backward pass through the closed form."""
        return vector_jacobian(lambda x: self._answer(x, level, conditioning), x_t, cotangent)

    def __init__(
        self,
        space: ImageSpace,
        path: NoisePath,
        conditions: Mapping[str, Normal],
        kind: PredictionKind = "eps",
        name: str = "gaussian",
    ) -> None:
        self.space, self.path, self.name = space, path, name
        self.kind: PredictionKind = kind
        self.conditions = dict(conditions)
        self.device = torch.device("cpu")
        full = any(normal.covariance is not None for normal in self.conditions.values())
        self._spectra = {t: self._spectrum(n) for t, n in self.conditions.items()} if full else {}

    def _spectrum(self, normal: Normal) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of the covariance."""
        if normal.covariance is not None:
            values, vectors = torch.linalg.eigh(normal.covariance)
            return values, vectors
        values = self._stack([normal.std])[0].flatten() ** 2
        return values, torch.eye(len(values), dtype=values.dtype)

    def to(self, device: torch.device | str) -> Self:
        """Answers from ``device`` from now on."""
        self.device = torch.device(device)
        return self

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """``mean`` and ``variance``, or ``mean``, ``eigenvalues`` and ``eigenvectors``, per row."""
        texts = conditions.texts
        normals = [self._lookup(text) for text in texts]
        means = self._stack([n.mean for n in normals])
        if any(n.covariance is not None for n in normals):
            spectra = [self._spectra[without_view(text)] for text in texts]
            return {
                "mean": means,
                "eigenvalues": torch.stack([s[0] for s in spectra]).to(self.device),
                "eigenvectors": torch.stack([s[1] for s in spectra]).to(self.device),
            }
        return {"mean": means, "variance": self._stack([n.std for n in normals]) ** 2}

    def _lookup(self, text: str) -> Normal:
        try:
            return self.conditions[without_view(text)]
        except KeyError:
            known = ", ".join(repr(t) for t in self.conditions)
            raise UsageError(f"prior {self.name} has no Gaussian for {text!r}; it knows {known}") from None

    def _stack(self, values: Sequence[Tensor | float]) -> Tensor:
        tensors = [
            v if isinstance(v, Tensor) else torch.tensor(float(v), dtype=torch.float64) for v in values
        ]
        return torch.stack([t.expand(self.space.shape) for t in tensors]).to(self.device)

    @torch.no_grad()
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The exact answer."""
        return self._answer(x_t, level, conditioning)

    def _answer(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        mean = conditioning["mean"].to(x_t)
        if "variance" in conditioning:
            eps = gaussian_eps(x_t, level, mean, conditioning["variance"].to(x_t))
        else:
            alpha, sigma = (s.view(-1, 1) for s in level.scales(x_t))
            basis, spectrum = conditioning["eigenvectors"].to(x_t), conditioning["eigenvalues"].to(x_t)
            residual = (x_t.flatten(1) - alpha * mean.flatten(1)).unsqueeze(-1)
            inside = (basis.mT @ residual).squeeze(-1) / (alpha**2 * spectrum + sigma**2)
            eps = (sigma * (basis @ inside.unsqueeze(-1)).squeeze(-1)).view_as(x_t)
        return Prediction(Prediction(eps, "eps", x_t, level).read(self.kind), self.kind, x_t, level)


class GaussianMixturePrior(Prior):
    """A mixture of diagonal Gaussians per text: the smallest prior with several modes.

    ``eps* = sum_k r_k eps*_k`` with responsibilities ``r_k ~ weight_k N(x_t; alpha mu_k, v_k)``.

    Arguments:
        space, path, kind: as for :class:`GaussianPrior`.
        conditions: text (without view words) -> mixture, all with equally many components.
    """

    licence = "Apache-2.0"

    def __init__(
        self,
        space: ImageSpace,
        path: NoisePath,
        conditions: Mapping[str, Mixture],
        kind: PredictionKind = "eps",
    ) -> None:
        self.space, self.path, self.name = space, path, "gaussian-mixture"
        self.kind: PredictionKind = kind
        self.conditions = dict(conditions)
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Self:
        """Answers from ``device`` from now on."""
        self.device = torch.device(device)
        return self

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """``means`` and ``variances`` (B, K, C, h, w), ``log_weights`` (B, K)."""

        def full(value: Tensor | float) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float64).expand(self.space.shape)

        mixtures = [self.conditions[without_view(text)] for text in conditions.texts]
        means = torch.stack([torch.stack([full(c.mean) for c in m.components]) for m in mixtures])
        stds = torch.stack([torch.stack([full(c.std) for c in m.components]) for m in mixtures])
        weights = torch.tensor([m.weights for m in mixtures], dtype=torch.float64)
        found = {"means": means, "variances": stds**2, "log_weights": (weights / weights.sum(1, True)).log()}
        return {k: v.to(self.device) for k, v in found.items()}

    @torch.no_grad()
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The exact answer."""
        alpha, sigma = (s.unsqueeze(1) for s in level.scales(x_t))
        variance = alpha**2 * conditioning["variances"].to(x_t) + sigma**2
        residual = x_t.unsqueeze(1) - alpha * conditioning["means"].to(x_t)
        log_density = -0.5 * (residual**2 / variance + variance.log()).flatten(2).sum(-1)
        share = torch.softmax(conditioning["log_weights"].to(x_t) + log_density, 1)
        eps = (share.view(*share.shape, 1, 1, 1) * sigma * residual / variance).sum(1)
        return Prediction(Prediction(eps, "eps", x_t, level).read(self.kind), self.kind, x_t, level)


class DiscPrior(GaussianPrior):
    """``prior=gaussian``: whatever the prompt, a disc of the colour it names; from all sides, a sphere.

    It needs no weights and knows nothing; for trying the machinery out.

    Arguments:
        size: pixels per side.
        radius: of the disc, as a fraction of half the picture.
        std: of the conditional Gaussian around the disc, in units of [-1, 1].
        null_std: of the unconditional Gaussian around grey.
    """

    wants: frozenset[Condition] = frozenset({"text", "background"})

    @checked
    def __init__(
        self,
        size: Annotated[int, Within(1, 4096)] = 64,
        radius: Annotated[float, Within(0, 1, "(]")] = 0.5,
        std: Annotated[float, Within(1e-6, 1e6)] = 0.1,
        null_std: Annotated[float, Within(1e-6, 1e6)] = 0.5,
    ) -> None:
        super().__init__(PixelSpace(size), DiscretePath.from_betas("squaredcos_cap_v2"), {})
        axis = (torch.arange(size) + 0.5) * (2 / size) - 1
        edge = (radius - (axis[:, None] ** 2 + axis**2).sqrt()) * size / 2
        self._inside = (edge + 0.5).clamp(0, 1)
        self._std, self._null_std = std, null_std

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """The disc over the background (white if untold)."""
        means, stds = [], []
        background = conditions.background
        for row, text in enumerate(conditions.texts):
            behind = torch.ones(3) if background is None else background[row].cpu().float()
            inside = self._inside[..., None]
            picture = inside * torch.tensor(_color_word(text)) + (1 - inside) * behind
            means.append((2 * picture - 1).permute(2, 0, 1) if text else torch.zeros(self.space.shape))
            stds.append(self._std if text else self._null_std)
        return {"mean": torch.stack(means).to(self.device), "variance": self._stack(stds) ** 2}


def _color_word(text: str) -> tuple[float, float, float]:
    """sRGB of the first word that is a CSS colour name; grey if there is none."""
    from PIL import ImageColor

    for word in text.lower().replace(",", " ").split():
        if word in ImageColor.colormap:
            red, green, blue = ImageColor.getrgb(word)[:3]
            return red / 255, green / 255, blue / 255
    return 0.5, 0.5, 0.5
