"""A scalar world in double precision: one-pixel pictures and Gaussian priors whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.guidance.evidence import gather
from threedistill.prediction import NoiseLevel
from threedistill.priors.analytic import GaussianPrior, Normal
from threedistill.priors.noise_path import DiscretePath
from threedistill.prompts import PromptSet

SCALAR = SimpleNamespace(shape=(1, 1, 1))


def scalar_prior(conditions, kind="eps"):
    """A prior over single numbers: text -> (mean, std)."""
    normals = {text: Normal(mean, std) for text, (mean, std) in conditions.items()}
    return GaussianPrior(SCALAR, DiscretePath.from_betas(), normals, kind=kind)


def double_level(alpha, sigma, rows):
    """The same noise level for every row, in float64."""
    full = [torch.full((rows,), v, dtype=torch.float64) for v in (alpha, sigma, 0.0)]
    return NoiseLevel(*full)


@pytest.fixture
def ask():
    """Evidence for a rule in the scalar world, at alpha = 0.6, sigma = 0.8."""

    def _ask(rule, prior, x0, noise, negative="", progress=0.0):
        x0 = torch.as_tensor(x0, dtype=torch.float64).view(-1, 1, 1, 1)
        noise = torch.as_tensor(noise, dtype=torch.float64).view(-1, 1, 1, 1)
        prompts = PromptSet("c", negative=negative, view_words=False)
        cameras = orbit(len(x0), size=8)
        return gather(
            rule.queries(progress), {"teacher": prior}, prompts, cameras, None, x0,
            double_level(0.6, 0.8, len(x0)), noise,
        )  # fmt: skip

    return _ask
