"""The basic rules: SDS, its aliases, its L2 form, and SDS with noise on the surface: pure functions of the evidence.

A rule returns the unweighted direction ``g`` (up the loss). The update of the scene is
``theta <- theta - lr J^T w(t) g`` with ``J = d x0 / d theta``; the factor ``alpha_t = d x_t / d x0`` is left to the
weight ``w(t)``, as everywhere in the field. The other families: ``rules_student.py`` (VSD, ESD),
``rules_classifier.py`` (CSD, CSM, NFSD), ``rules_reference.py`` (C-SDS, DDS), ``rules_inversion.py`` (ISM, SDI, CDS).
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import CFG, rescale_std
from threedistill.guidance.trajectory import parts_of
from threedistill.protocols import GuidanceRule, NoiseLaw
from threedistill.schedule import Schedule, stations
from threedistill.types import Evidence, NoiseLevel, Query
from threedistill.values import Count, Fraction, NonNegative, settings

__all__ = ["CFD", "MVSDS", "SDS", "SJC", "direction_from_x0", "is_edit", "questions", "wished_x0"]


@settings
class SDS(GuidanceRule):
    """Score distillation sampling: ``g = eps^s(x_t) - eps``.

    The gradient of ``w ||eps^s(x_t) - eps||^2 / 2`` in ``x0`` with the network's Jacobian left out.
    Source: Poole et al. 2022 (DreamFusion), arXiv 2209.14988, eq. 3.

    Arguments:
        cfg: how conditional and unconditional predictions become ``eps^s``.
    """

    cfg: CFG

    def queries(self, progress: float) -> tuple[Query, ...]:
        """What classifier-free guidance asks for."""
        return self.cfg.queries(progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """``eps^s - eps``, detached."""
        return (self.cfg(evidence, progress) - evidence.noise).detach()


@settings
class SJC(GuidanceRule):
    """Score Jacobian chaining: ``g = eps^s - eps`` (variance-reduced), or ``g = eps^s``; to be weighted uniformly.

    In the paper's variance-exploding form ``x = x0 + sigma_bar eps``, ``D = x - sigma_bar eps^s`` and
    ``g = -(D - x0) / sigma_bar`` or ``-(D - x) / sigma_bar``: with ``w = 1`` the first is SDS. Both have the same mean;
    the second keeps the whole noise.
    Source: Wang et al. 2022, arXiv 2212.00774, eq. 10 and section 4.3.

    Arguments:
        cfg: how conditional and unconditional predictions become ``eps^s``.
        variance_reduction: subtract the noise that was added.
    """

    cfg: CFG
    variance_reduction: bool = True

    def queries(self, progress: float) -> tuple[Query, ...]:
        """What classifier-free guidance asks for."""
        return self.cfg.queries(progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        guided = self.cfg(evidence, progress)
        return (guided - evidence.noise if self.variance_reduction else guided).detach()


@settings
class CFD(GuidanceRule):
    """Consistent flow distillation: ``g = eps^s(x_t) - eps~`` with noise ``eps~`` that lies on the surface.

    The direction of SDS, read as a step of the flow of clean pictures along the probability-flow ODE: the noise of a
    view must not change from step to step (it would be another trajectory) and must agree between views (or they follow
    different ones). So ``eps~`` is white noise on the object (``surface_noise.py``), and the level falls over the run.
    ``turns`` replaces it slowly, as the SDE does (the paper's gamma): 0 is the ODE.
    Source: Yan et al. 2025, arXiv 2501.05445, and its code.

    Arguments:
        cfg: how conditional and unconditional predictions become ``eps^s``.
        turns: how often the noise is replaced over a stage, continuously.
        normalize: ``dmd`` divides each sample by ``mean |x0 - x0^s|`` and gives differences of clean pictures, as the
            released code does (to be weighted uniformly).
    """

    cfg: CFG
    turns: NonNegative = 0.0
    normalize: Literal["none", "dmd"] = "none"

    @property
    def noise_law(self) -> NoiseLaw:
        """On the surface."""
        return "surface"

    @property
    def noise_turns(self) -> float:
        """As ``turns`` says."""
        return self.turns

    def queries(self, progress: float) -> tuple[Query, ...]:
        """What classifier-free guidance asks for."""
        return self.cfg.queries(progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        guided = self.cfg.guided(evidence, progress)
        if self.normalize == "none":
            return (guided.eps - evidence.noise).detach()
        off = evidence.x0 - guided.x0
        size = off.abs().mean(tuple(range(1, off.ndim)), keepdim=True)
        return (off / size.clamp_min(1e-8)).detach()


@settings
class MVSDS(GuidanceRule):
    """Multi-view SDS: ``g = (alpha / sigma) (x0 - x0_tilde)``, whose target keeps the contrast of a whole group.

    ``x0_tilde = m x0^s std(x0^c) / std(x0^s) + (1 - m) x0^s``, the standard deviations over all views of a group
    jointly, so that views keep their brightness relative to each other. With ``m = 0`` it is SDS; the paper's loss
    ``||x0 - x0_tilde||^2 / 2`` is ``w = sigma / alpha``. All views of a group share one noise level
    (``guidance.timesteps.draw=shared``, or a prior with a view group).
    Source: Shi et al. 2023 (MVDream), arXiv 2308.16512, section 3.3 and appendix; factor: Lin et al. 2023.

    Arguments:
        cfg: how conditional and unconditional predictions become ``x0^s``.
        rescale: ``m`` in [0, 1].
        group: contiguous views per group; must divide the batch.
    """

    cfg: CFG
    rescale: Fraction = 0.5
    group: Count = 1

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions, and always the conditional one."""
        return (*self.cfg.queries(progress), Query("own", text="view"))

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        guided = self.cfg.guided(evidence, progress).x0
        target = rescale_std(guided, evidence["own"].x0, self.rescale, self.group)
        return direction_from_x0(evidence.x0, target, evidence).detach()


def direction_from_x0(
    x0: Float[Tensor, "B C h w"], target: Float[Tensor, "B C h w"], evidence: Evidence
) -> Float[Tensor, "B C h w"]:
    """The SDS direction in its L2 form: ``eps_hat - eps = (alpha / sigma) (x0 - x0_hat)``.

    So the SDS gradient is that of ``w (alpha / sigma) ||x0 - stop_grad(x0_hat)||^2 / 2``.
    Source: Zhu et al. 2023 (HiFA), arXiv 2305.18766; Guo et al. 2023 (StableDreamer), arXiv 2312.02189.

    Arguments:
        x0: (B, C, h, w) the clean sample.
        target: (B, C, h, w) ``x0_hat``, the prior's (guided) clean prediction.
        evidence: gives the noise level.
    """
    alpha, sigma = evidence.level.scales(x0)
    return (alpha / sigma) * (x0 - target)


def wished_x0(
    x0: Float[Tensor, "B C h w"], direction: Float[Tensor, "B C h w"], level: NoiseLevel
) -> Float[Tensor, "B C h w"]:
    """``x0 - (sigma / alpha) g``: the clean sample that a rule would rather see, the inverse of the L2 form.

    For SDS it is the guided ``x0_hat`` itself; for other rules the target whose SDS direction equals theirs. Decoded
    and put beside the render it shows what a rule is pulling at.
    Source: Guo et al. 2023 (StableDreamer), arXiv 2312.02189, who debug SDS with it.

    Arguments:
        x0: (B, C, h, w) the clean sample.
        direction: (B, C, h, w) the rule's, unweighted.
        level: its noise levels.
    """
    alpha, sigma = level.scales(x0)
    return x0 - sigma / alpha * direction


def questions(rule: GuidanceRule) -> list[Query]:
    """What a rule asks over a stage: at every point where one of its schedules changes what it asks."""
    return [query for progress in stations(*_schedules(rule)) for query in rule.queries(progress)]


def _schedules(settings: object) -> list[Schedule]:
    """The schedules among the fields of a rule and of what it is made of."""
    if isinstance(settings, Schedule):
        return [settings]
    if not is_dataclass(settings) or isinstance(settings, type):
        return []
    return [found for field in fields(settings) for found in _schedules(getattr(settings, field.name))]


def is_edit(rule: GuidanceRule) -> bool:
    """Whether a rule compares with the unedited scene."""
    trajectory = parts_of(rule)[1]
    return trajectory is not None and trajectory.edits
