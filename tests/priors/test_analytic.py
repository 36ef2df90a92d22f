"""Closed-form priors against the gradient of the log density they stand for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import MultivariateNormal

from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.prediction import NoiseLevel
from threedistill.priors.analytic import DiscPrior, GaussianMixturePrior, GaussianPrior, Mixture, Normal
from threedistill.priors.noise_path import DiscretePath
from threedistill.protocols import Prior

SPACE = SimpleNamespace(shape=(2, 1, 2))
PATH = DiscretePath.from_betas()
KINDS = ("eps", "x0", "v", "flow")


def sample(rows=3):
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(rows, *SPACE.shape, generator=generator, dtype=torch.float64)
    alpha, sigma = (torch.full((rows,), v, dtype=torch.float64) for v in (0.6, 0.8))
    return x_t, NoiseLevel(alpha, sigma, torch.zeros(rows, dtype=torch.float64))


def score_of(log_density, x_t):
    x = x_t.clone().requires_grad_(True)
    return torch.autograd.grad(log_density(x).sum(), x)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_score_is_the_gradient_of_its_log_density(kind):
    modes = [(torch.tensor([[[0.5, -1.0]], [[0.3, 2.0]]], dtype=torch.float64), 0.4), (-1.0, 0.9), (1.5, 0.2)]
    mixture = Mixture(tuple(Normal(m, s) for m, s in modes), (0.2, 0.5, 0.3))
    prior = GaussianMixturePrior(SPACE, PATH, {"": mixture}, kind=kind)
    x_t, level = sample()

    def log_density(x):
        parts = []
        for (mean, std), weight in zip(modes, (0.2, 0.5, 0.3)):
            mean = torch.as_tensor(mean, dtype=torch.float64).expand(SPACE.shape).flatten()
            covariance = (0.36 * std**2 + 0.64) * torch.eye(4, dtype=torch.float64)
            parts.append(
                MultivariateNormal(0.6 * mean, covariance).log_prob(x.flatten(1)) + torch.tensor(weight).log()
            )
        return torch.logsumexp(torch.stack(parts), 0)

    answer = prior.predict(x_t, level, prior.conditioning(Conditions([""] * 3)))
    torch.testing.assert_close(answer.eps, -0.8 * score_of(log_density, x_t), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_full_covariance_score(kind):
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    covariance = root @ root.T + 0.1 * torch.eye(4, dtype=torch.float64)
    mean = torch.tensor([[[0.1, -0.4]], [[0.7, 0.2]]], dtype=torch.float64)
    prior = GaussianPrior(SPACE, PATH, {"x": Normal(mean, covariance=covariance)}, kind=kind)
    noisy = MultivariateNormal(
        0.6 * mean.flatten(), 0.36 * covariance + 0.64 * torch.eye(4, dtype=torch.float64)
    )
    x_t, level = sample()
    answer = prior.predict(x_t, level, prior.conditioning(Conditions(["x"] * 3)))
    expected = -0.8 * score_of(lambda x: noisy.log_prob(x.flatten(1)), x_t)
    torch.testing.assert_close(answer.eps, expected, rtol=0, atol=1e-10)


def test_one_call_may_mix_diagonal_and_full_covariances():
    mixed = GaussianPrior(
        SPACE, PATH, {"x": Normal(0.3, covariance=0.5 * torch.eye(4).double()), "": Normal(0.1, 0.7)}
    )
    x_t, level = sample()
    both = mixed.predict(x_t, level, mixed.conditioning(Conditions(["x", "", "x"])))
    for row, text in enumerate(["x", "", "x"]):
        alone = mixed.predict(x_t, level, mixed.conditioning(Conditions([text] * 3)))
        torch.testing.assert_close(both.eps[row], alone.eps[row], rtol=0, atol=1e-12)


def test_diagonal_and_full_covariance_agree():
    std = torch.tensor([[[0.5, 1.0]], [[0.3, 2.0]]], dtype=torch.float64)
    full = Normal(0.3, covariance=torch.diag(std.flatten() ** 2))
    x_t, level = sample()
    answers = []
    for normal in (Normal(0.3, std), full):
        prior = GaussianPrior(SPACE, PATH, {"": normal})
        answers.append(prior.predict(x_t, level, prior.conditioning(Conditions([""] * 3))).eps)
    torch.testing.assert_close(*answers, rtol=0, atol=1e-12)


def test_unknown_text_names_the_known_ones():
    prior = GaussianPrior(SPACE, PATH, {"a duck": Normal(0.0), "": Normal(0.0)})
    prior.conditioning(Conditions(["a duck, back view"]))
    with pytest.raises(UsageError, match=r"no Gaussian for 'a cow'; it knows 'a duck', ''"):
        prior.conditioning(Conditions(["a cow"]))


def test_disc_prior_shows_the_colour_it_was_asked_for():
    prior = DiscPrior(size=16)
    assert isinstance(prior, Prior)
    told = prior.conditioning(
        Conditions(["a blue thing, front view", ""], None, torch.tensor([[0.0, 1.0, 0.0]] * 2))
    )
    picture = prior.space.decode(told["mean"])
    assert picture[0, 8, 8].tolist() == [0.0, 0.0, 1.0] and picture[0, 0, 0].tolist() == [0.0, 1.0, 0.0]
    assert picture[1].unique().tolist() == [0.5] and float(told["variance"][1].max()) == pytest.approx(0.25)
