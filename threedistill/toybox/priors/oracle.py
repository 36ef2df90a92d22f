"""``prior=oracle``: a Gaussian around the true picture of a Toybox object at exactly that camera.

It drives the whole path before any network is trained, and tells an error of the scene from an error of the
prior: what the oracle cannot teach, no prior can.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Conditions, Role
from threedistill.errors import UsageError
from threedistill.prediction import Prediction, PredictionKind
from threedistill.priors.analytic import gaussian_eps
from threedistill.priors.noise_path import DiscretePath
from threedistill.priors.space import PixelSpace
from threedistill.prompts import without_view
from threedistill.protocols import Prior
from threedistill.toybox.grammar import words
from threedistill.toybox.priors.texts import check_text
from threedistill.types import Cameras, Condition, Conditioning, Mesh, NoiseLevel, Shading
from threedistill.values import Within, checked

__all__ = ["OraclePrior", "ground_truth"]


@lru_cache(maxsize=8)
def ground_truth(prompt: str) -> Mesh:
    """The Toybox mesh that a prompt describes, in its canonical proportions.

    Raises:
        UsageError: words outside the Toybox vocabulary.
    """
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.world import build

    return build(parse(prompt).scene, None)


class OraclePrior(Prior):
    """``p(x0 | prompt, camera, background) = N(true picture, std^2)``, broad and grey for the empty prompt.

    Arguments:
        size: pixels per side.
        std: of the conditional Gaussian, in units of [-1, 1].
        null_std: of the unconditional one.
        shading: of the true picture; "none" shows the albedo.
        kind: in which parametrisation it answers.
    """

    name = "oracle"
    space: PixelSpace
    licence = "Apache-2.0"
    wants: frozenset[Condition] = frozenset({"text", "camera", "background"})

    @checked
    def __init__(
        self,
        size: Annotated[int, Within(1, 4096)] = 64,
        std: Annotated[float, Within(1e-6, 1e6)] = 0.08,
        null_std: Annotated[float, Within(1e-6, 1e6)] = 0.5,
        shading: Shading = "none",
        kind: PredictionKind = "v",
    ) -> None:
        self.space = PixelSpace(size)
        self.path = DiscretePath.from_betas("squaredcos_cap_v2")
        self.std, self.null_std = std, null_std
        self.shading: Shading = shading
        self.kind: PredictionKind = kind
        self.device = torch.device("cpu")

    @classmethod
    def check_text(cls, text: str, role: Role, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Refuses words that the world does not have."""
        return check_text(text, role, words())

    def to(self, device: torch.device | str) -> Self:
        """Answers from ``device`` from now on."""
        self.device = torch.device(device)
        return self

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """The true pictures as ``mean``, and ``variance``, per row.

        Raises:
            UsageError: a text without a camera, or words outside the Toybox vocabulary.
        """
        texts, cameras, background = conditions.texts, conditions.cameras, conditions.background
        mean = torch.zeros(len(texts), *self.space.shape)
        std = torch.full((len(texts), 1, 1, 1), self.null_std)
        rows_of: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            if text:
                rows_of.setdefault(without_view(text), []).append(row)
        for text, rows in rows_of.items():
            if cameras is None:
                raise UsageError("prior=oracle must be told the camera; it cannot be asked without one")
            std[rows] = self.std
            mean[rows] = self.space.encode(self._pictures(text, cameras[rows], background, rows))
        return {"mean": mean.to(self.device), "variance": (std**2).to(self.device)}

    def _pictures(self, text: str, cameras: Cameras, background: Tensor | None, rows: list[int]) -> Tensor:
        from threedistill.render.mesh import render_mesh

        behind = torch.ones(len(rows), 3) if background is None else background[rows].cpu()
        views = cameras.to("cpu").resized(self.space.size, self.space.size)
        with torch.no_grad():
            return render_mesh(ground_truth(text), views, shading=self.shading, background=behind).rgb

    @torch.no_grad()
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The exact answer of the Gaussian."""
        mean, variance = conditioning["mean"].to(x_t), conditioning["variance"].to(x_t)
        eps = Prediction(gaussian_eps(x_t, level, mean, variance), "eps", x_t, level)
        return Prediction(eps.read(self.kind), self.kind, x_t, level)
