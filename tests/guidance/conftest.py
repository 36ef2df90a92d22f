"""A scalar world in double precision: one-pixel pictures and Gaussian priors whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.guidance.evidence import gather
from threedistill.guidance.trajectory import Situation, collect
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


def vp_level(alpha, rows, path=None):
    """The level of a variance-preserving path at which ``alpha`` is the signal, with its place on the path."""
    log_snr = torch.full((rows,), alpha**2 / (1 - alpha**2), dtype=torch.float64).log()
    return (path or DiscretePath.from_betas()).at_log_snr(log_snr)


def scalars(values):
    """Numbers as one-pixel pictures."""
    return torch.as_tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def situation(networks, x0, noise, alpha=0.6, reference=None, **wordings):
    """A step in the scalar world: the prompt is "c", the negative "n", the category "a k", the source "s"."""
    x0, noise = scalars(x0), scalars(noise)
    networks = networks if isinstance(networks, dict) else {"teacher": networks}
    prompts = PromptSet(
        "c", **{"prior_negative": "n", "view_words": False, "category": "k", "source": "s", **wordings}
    )
    reference = None if reference is None else scalars(reference)
    path = next(iter(networks.values())).path
    return Situation(
        networks,
        prompts,
        Conditions(cameras=orbit(len(x0), size=8)),
        x0,
        vp_level(alpha, len(x0), path),
        noise,
        None,
        reference,
    )


def direction(rule, networks, x0, noise, progress=0.0, **options):
    """What a rule, its trajectory included, says in the scalar world, as a flat tensor."""
    step = situation(networks, x0, noise, **options)
    return rule(collect(rule, step, progress), progress).flatten()


@pytest.fixture
def ask():
    """Evidence for a rule in the scalar world, at alpha = 0.6, sigma = 0.8."""

    def _ask(rule, prior, x0, noise, negative="", progress=0.0):
        x0 = torch.as_tensor(x0, dtype=torch.float64).view(-1, 1, 1, 1)
        noise = torch.as_tensor(noise, dtype=torch.float64).view(-1, 1, 1, 1)
        prompts = PromptSet("c", negative=negative, view_words=False)
        cameras = orbit(len(x0), size=8)
        return gather(
            rule.queries(progress), {"teacher": prior}, prompts, Conditions(cameras=cameras), x0,
            double_level(0.6, 0.8, len(x0)), noise,
        )  # fmt: skip

    return _ask
