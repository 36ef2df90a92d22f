"""How much each noise level counts: the ``w(t)`` in front of every rule."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.values import Positive, settings

__all__ = ["Weighting", "WeightingKind", "apply"]

WeightingKind = Literal[
    "uniform",
    "sigma2",
    "alpha_sigma",
    "alpha_sigma2",
    "sigma_over_alpha",
    "alpha_over_sigma",
    "inverse_sigma2",
]


#: The most that ``w`` can be, of the kinds that do not grow without limit.
_MOST = {"uniform": 1.0, "sigma2": 1.0, "alpha_sigma": 0.5, "alpha_sigma2": 2 / 27**0.5}


@settings
class Weighting:
    """``w(t)`` as a function of the noise level, per sample.

    ==================  =======================  ============================================
    kind                w                        used by
    ==================  =======================  ============================================
    uniform             1                        Magic3D coarse, CSD on pixels
    sigma2              sigma^2                  DreamFusion, VSD
    alpha_sigma         alpha sigma              the mean of SDS on a Gaussian prior, but for 1 / v
    alpha_sigma2        alpha sigma^2            Fantasia3D geometry
    sigma_over_alpha    sigma / alpha            ISM; makes SDS the L2 distance to ``x0_hat``
    alpha_over_sigma    alpha / sigma            noise matching
    inverse_sigma2      1 / sigma^2              Fantasia3D (strategy 1)
    ==================  =======================  ============================================

    Arguments:
        kind: one of the above.
        factor: multiplies it (with Adam only the ratio to the regularisers matters).
        cap: upper bound on ``w`` before the factor; None = none.

    Raises:
        ValueError: a cap that no weight of this kind reaches on a variance-preserving path.
    """

    kind: WeightingKind = "sigma2"
    factor: Positive = 1.0
    cap: Positive | None = None

    def __post_init__(self) -> None:
        most = _MOST.get(self.kind)
        if self.cap is not None and most is not None and self.cap >= most:
            raise ValueError(
                f"weighting.cap={self.cap:g} would have no effect: w(t) of kind={self.kind} is at most {most:.3g}; "
                "leave it null, or take factor"
            )

    def __call__(self, level: NoiseLevel) -> Float[Tensor, "B"]:
        """(B,) the weights of ``B`` noise levels."""
        alpha, sigma = level.alpha, level.sigma
        weight = {
            "uniform": lambda: sigma * 0 + 1,
            "sigma2": lambda: sigma**2,
            "alpha_sigma": lambda: alpha * sigma,
            "alpha_sigma2": lambda: alpha * sigma**2,
            "sigma_over_alpha": lambda: sigma / alpha,
            "alpha_over_sigma": lambda: alpha / sigma,
            "inverse_sigma2": lambda: sigma**-2,
        }[self.kind]()
        return self.factor * (weight if self.cap is None else weight.clamp(max=self.cap))


def apply(weight: Float[Tensor, "B"], direction: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    """``w(t) g``, one weight per sample."""
    return weight.to(direction).view(-1, *(1,) * (direction.ndim - 1)) * direction
