"""The rules: each a pure function of the evidence, returning the unweighted direction ``g`` (up the loss).

The update of the scene is ``theta <- theta - lr J^T w(t) g`` with ``J = d x0 / d theta``; the factor
``alpha_t = d x_t / d x0`` is left to the weight ``w(t)``, as everywhere in the field.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import ClassifierFree
from threedistill.types import Evidence, Query


@dataclass(frozen=True)
class SDS:
    """Score distillation sampling: ``g = eps^s(x_t) - eps``.

    The gradient of ``w ||eps^s(x_t) - eps||^2 / 2`` in ``x0`` with the network's Jacobian left out.
    Source: Poole et al. 2022 (DreamFusion), arXiv 2209.14988, eq. 3.

    Arguments:
        cfg: how conditional and unconditional predictions become ``eps^s``.
    """

    cfg: ClassifierFree

    def queries(self, progress: float) -> tuple[Query, ...]:
        """What classifier-free guidance asks for."""
        return self.cfg.queries(progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """``eps^s - eps``, detached."""
        return (self.cfg(evidence, progress) - evidence.noise).detach()


def direction_from_x0(
    x0: Float[Tensor, "B C h w"], target: Float[Tensor, "B C h w"], evidence: Evidence
) -> Float[Tensor, "B C h w"]:
    """The same direction in its L2 form: ``eps_hat - eps = (alpha / sigma) (x0 - x0_hat)``.

    So the SDS gradient is that of ``w (alpha / sigma) ||x0 - stop_grad(x0_hat)||^2 / 2``.
    Source: Zhu et al. 2023 (HiFA), arXiv 2305.18766; Guo et al. 2023 (StableDreamer), arXiv 2312.02189.

    Arguments:
        x0: (B, C, h, w) the clean sample.
        target: (B, C, h, w) ``x0_hat``, the prior's (guided) clean prediction.
        evidence: gives the noise level.
    """
    alpha, sigma = evidence.level.scales(x0)
    return (alpha / sigma) * (x0 - target)


def x0_view(rule: SDS, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
    """``x0_hat``: what the prior would turn the render into, to be decoded for a debugging picture."""
    return rule.cfg.guided(evidence, progress).x0
