"""Frozen diffusion models, analytic stand-ins for them, the spaces they see and the noise paths they know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.conditions import Conditions
    from threedistill.prediction import NoiseLevel, Prediction
    from threedistill.priors.analytic import DiscPrior, GaussianMixturePrior, GaussianPrior
    from threedistill.priors.diffusers import DiffusersPrior
    from threedistill.priors.lora import LoRA, LoRAStudent
    from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
    from threedistill.priors.space import FoldedPixelSpace, LatentSpace, PixelSpace
    from threedistill.priors.student import Gaussian, GaussianStudent
    from threedistill.protocols import Prior

__all__ = [
    "Conditions", "DiffusersPrior", "DiscPrior", "DiscretePath", "FoldedPixelSpace", "Gaussian",
    "GaussianMixturePrior", "GaussianPrior", "GaussianStudent", "LatentSpace", "LoRA", "LoRAStudent", "NoiseLevel",
    "PixelSpace", "Prediction", "Prior", "RectifiedFlowPath",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
