"""The direction of every rule for Gaussian priors, written out picture by picture from the Gaussians' formulas.

Nothing here asks a network or uses the package's rules, guidance or trajectories: only means, standard deviations,
noise levels and arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Gaussian:
    """The score of ``N(mean, std^2)`` at any noise level."""

    mean: Tensor | float
    std: float

    def eps(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma * (x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)


@dataclass
class World:
    """Who believes what: with the prompt, with nothing, with the category, of the unedited scene, of the renders."""

    cond: Gaussian
    null: Gaussian
    category: Gaussian
    source: Gaussian
    student: Gaussian
    unedited: Tensor
    scale: float
    #: fraction of the path -> (alpha, sigma), (B, 1, 1, 1) each
    level: object
    fraction: float
    #: where between the ends of its segment a rule's second point lies
    share: float = 0.5
    #: what a rule draws besides the noise
    drawn: Tensor | float = 0.0

    def guided(self, x: Tensor, alpha: Tensor, sigma: Tensor, cond: Gaussian | None = None) -> Tensor:
        with_prompt = (cond or self.cond).eps(x, alpha, sigma)
        without = self.null.eps(x, alpha, sigma)
        return without + self.scale * (with_prompt - without)

    def inverted(self, x0: Tensor, end: float, who: Gaussian, stride: float, most: int) -> Tensor:
        """DDIM inversion of a Gaussian: every step scales the distance from its mean."""
        steps = min(math.ceil(end / stride - 1e-6), most)
        growth = 1.0
        for k in range(steps):
            now, then = (s / a for a, s in (self.level(end * k / steps), self.level(end * (k + 1) / steps)))
            growth = growth * (1 + (then - now) * now / (who.std**2 + now**2))
        return self.level(end)[0] * (who.mean + (x0 - who.mean) * growth)

    def direction(self, rule: str, x0: Tensor, noise: Tensor) -> Tensor:
        """``g`` of a rule in its default configuration (but for the pins of ``test_matrix.py``) at progress 0."""
        alpha, sigma = self.level(self.fraction)
        x = alpha * x0 + sigma * noise
        if rule in ("sds", "sjc", "mvsds", "cfd", "bridge"):  # the bridge's first stage
            return self.guided(x, alpha, sigma) - noise
        if rule in ("vsd", "esd", "usd"):  # a fresh student knows no cameras, and poses are even at first
            return self.guided(x, alpha, sigma) - self.student.eps(x, alpha, sigma)
        if rule == "csd":
            return self.cond.eps(x, alpha, sigma) - self.null.eps(x, alpha, sigma)
        if rule == "nfsd":  # no negative prompt: what is off the domain is nothing
            return self.scale * (self.cond.eps(x, alpha, sigma) - self.null.eps(x, alpha, sigma))
        if rule == "csds":
            return self.guided(x, alpha, sigma) - self.category.eps(x, alpha, sigma)
        if rule == "dds":
            before = alpha * self.unedited + sigma * noise
            return self.guided(x, alpha, sigma) - self.guided(before, alpha, sigma, self.source)
        if rule == "csm":
            x = self.inverted(x0, self.fraction, self.null, 0.2, 5)
            return self.scale * (self.cond.eps(x, alpha, sigma) - self.null.eps(x, alpha, sigma))
        if rule == "ism":
            lower = self.fraction - 0.1
            x_s = self.inverted(x0, lower, self.null, 0.2, 5)
            at_s = self.null.eps(x_s, *self.level(lower))
            alpha_s, sigma_s = self.level(lower)
            x = alpha * (x_s - sigma_s * at_s) / alpha_s + sigma * at_s
            return self.guided(x, alpha, sigma) - at_s
        if rule == "sdi":
            kappa = (self.inverted(x0, self.fraction, self.cond, 0.1, 10) - alpha * x0) / sigma
            return self.guided(alpha * x0 + sigma * kappa, alpha, sigma) - kappa
        if rule == "cds":
            upper = self.guided(x, alpha, sigma)
            alpha_s, sigma_s = self.level(self.fraction - 0.2)
            lower = alpha_s * (x - sigma * upper) / alpha + sigma_s * upper
            return upper - self.guided(lower, alpha_s, sigma_s)
        if rule == "sctd":
            return self._segment(x0, noise)
        if rule == "sim":
            return self._implicit(x, noise, alpha, sigma)
        if rule == "trace":
            return self._bridge(x0, x, alpha, sigma)
        raise AssertionError(f"no closed form for {rule}: write it here")

    def _segment(self, x0: Tensor, noise: Tensor) -> Tensor:
        """Up from the edge without the prompt, over a point between, and back with it: fifths of [0.02, 0.98]."""
        width = 0.96 / 5
        edge = 0.02 + width * int((self.fraction - 0.02) / width)
        between = edge + 0.01 + self.share * (self.fraction - edge - 0.02)
        e, s, t = (self.level(f) for f in (edge, between, self.fraction))

        def step(x: Tensor, eps: Tensor, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]) -> Tensor:
            return there[0] * (x - here[1] * eps) / here[0] + there[1] * eps

        x_e = e[0] * x0 + e[1] * noise
        x_s = step(x_e, self.null.eps(x_e, *e), e, s)
        x_t = step(x_s, self.null.eps(x_s, *s), s, t)
        guided = self.guided(x_t, *t)
        back = step(x_t, guided, t, s)
        over = step(back, self.null.eps(back, *s), s, e)
        return (over - x_e) + (self.scale + 1) * (x_e - step(x_t, guided, t, e))

    def _bridge(self, x0: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The middle of the bridge to the guided picture: half of its variance lies before, half behind."""
        target = (x - sigma * self.guided(x, alpha, sigma)) / alpha
        half = (0.1 + (0.1 * 0.187) ** 0.5 + 0.187) / 6
        x_b = (target + x0) / 2 + (half / 2) ** 0.5 * self.drawn
        return (x_b - target) / half**0.5 - self.student.eps(x_b, *self.level(0.5))

    def _implicit(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The gradient of ``<d / |d|, eps_student - eps>``: every Gaussian's Jacobian is a number."""
        student, dims = self.student.eps(x, alpha, sigma), (1, 2, 3)
        d, error = self.guided(x, alpha, sigma) - student, student - noise
        norm = d.square().sum(dims, keepdim=True).sqrt()
        unit = d / norm
        across = (error - unit * (unit * error).sum(dims, keepdim=True)) / norm
        slopes = [sigma / (alpha**2 * who.std**2 + sigma**2) for who in (self.cond, self.null, self.student)]
        teacher = (self.scale * slopes[0] + (1 - self.scale) * slopes[1]) * across
        return alpha * (teacher + slopes[2] * (unit - across))

    def rest(self, rule: str, x0: Tensor, noise: Tensor) -> Tensor:
        """Where a contracting rule comes to rest without noise: directions are affine in ``x0``, pixel by pixel."""
        here, there = (self.direction(rule, x0 + step, 0 * noise) for step in (0.0, 1.0))
        slope = there - here
        assert bool((slope > 0).all()), "this rule does not contract"
        return x0 - here / slope
