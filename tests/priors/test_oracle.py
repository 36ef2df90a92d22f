"""The oracle: its answer is the true picture, and descending SDS under it arrives there."""

from __future__ import annotations

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.evidence import gather
from threedistill.guidance.rules import SDS
from threedistill.guidance.surrogate import surrogate
from threedistill.guidance.weighting import Weighting, apply
from threedistill.prompts import PromptSet
from threedistill.protocols import Prior
from threedistill.render.mesh import render_mesh
from threedistill.toybox.priors.oracle import OraclePrior, ground_truth


def test_sds_under_the_oracle_reaches_the_true_picture():
    prior, prompts = OraclePrior(size=32), PromptSet("a red mushroom")
    assert isinstance(prior, Prior)
    cameras, background = orbit(3, size=32), torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    truth = render_mesh(ground_truth("a red mushroom"), cameras, background=background).rgb
    picture = torch.full((3, 32, 32, 3), 0.5, requires_grad=True)
    rule, weight = SDS(ClassifierFree(1.0)), Weighting("sigma_over_alpha")
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        level = prior.path.at_fraction(0.3 + 0.5 * torch.rand(3, generator=generator))
        x0 = prior.space.encode(picture)
        noise = torch.randn(x0.shape, generator=generator)
        evidence = gather(
            rule.queries(0),
            {"teacher": prior},
            prompts,
            Conditions((), cameras, background),
            x0,
            level,
            noise,
        )
        direction = apply(weight(level), rule(evidence, 0.0))
        (gradient,) = torch.autograd.grad(surrogate(x0, direction), picture)
        picture = (picture - 0.3 * gradient).detach().requires_grad_(True)
    error = (picture.detach() - truth).abs()
    assert float(error.mean()) < 0.02 and float((truth - background[:, None, None]).abs().mean()) > 0.05


def test_oracle_needs_a_camera_and_known_words():
    prior = OraclePrior(size=16)
    with pytest.raises(UsageError, match="prior=oracle must be told the camera"):
        prior.conditioning(Conditions(["a red mushroom"]))
    with pytest.raises(UsageError, match="does not know 'dragon'"):
        prior.conditioning(Conditions(["a dragon"], orbit(1)))
    told = prior.conditioning(Conditions(["", ""]))
    assert told["mean"].abs().max() == 0 and float(told["variance"].min()) == 0.25
