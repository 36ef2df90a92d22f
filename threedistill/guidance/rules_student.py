"""Rules that compare the teacher with a student, a model of what the scene looks like now: VSD, ESD, SIM and USD.

The student is trained beside the scene (``training/system.py``); here it is one more source of predictions. It is told
the view-independent prompt and, except where a rule asks it blind, the camera; it has no guidance of its own.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.anchor import anchored_student
from threedistill.guidance.cfg import CFG, ClassifierFree
from threedistill.protocols import GuidanceRule
from threedistill.schedule import ScheduledFraction, value_at
from threedistill.types import Evidence, Prediction, Query
from threedistill.values import NonNegative, Positive, settings

__all__ = ["ESD", "SIM", "USD", "VSD", "Divergence", "divergence_weight", "estimated_log_ratio"]

Normalization = Literal["none", "dmd"]
Divergence = Literal[
    "reverse_kl", "forward_kl", "jensen_shannon", "hellinger", "jeffreys", "softened_reverse_kl"
]


def divergence_weight(log_ratio: Float[Tensor, "B"], kind: Divergence) -> Float[Tensor, "B"]:
    """``h(r) = f''(r) r^2`` at ``r = p_t(x_t) / q_t(x_t)``: what weighs the score difference under ``D_f(p||q)``.

    ====================  ================  ===========
    divergence            f(r)              h(r)
    ====================  ================  ===========
    reverse_kl            -log r            1 (VSD)
    forward_kl            r log r           r
    jensen_shannon        see below         r / (r + 1)
    hellinger             1 - sqrt r        sqrt(r) / 4
    jeffreys              (r - 1) log r     r + 1
    softened_reverse_kl   see below         1 / (r + 1)
    ====================  ================  ===========

    Jensen-Shannon: ``r log r - (r + 1) log((r + 1) / 2)``; softened reverse KL: ``(r + 1) log(1 / 2 + 1 / (2 r))``.
    Source: Xu et al. 2025 (f-distill), arXiv 2502.15681: gradient = h(r) times the score difference. The table of h
    is DERIVED from ``h = f'' r^2``; the tests check it against differences of the divergences themselves.
    """
    half = log_ratio / 2
    return {
        "reverse_kl": lambda: torch.ones_like(log_ratio),
        "forward_kl": log_ratio.exp,
        "jensen_shannon": log_ratio.sigmoid,
        "hellinger": lambda: half.exp() / 4,
        "jeffreys": lambda: log_ratio.exp() + 1,
        "softened_reverse_kl": (-log_ratio).sigmoid,
    }[kind]()


def estimated_log_ratio(teacher: Prediction, student: Prediction) -> Float[Tensor, "B"]:
    """A guess at ``log p_t(x_t) - log q_t(x_t)`` from the two noise predictions alone, DERIVED.

    Near a mode much narrower than the noise, ``log p_t(x_t) = -||eps(x_t)||^2 / 2 + const``. So
    ``(||eps_student||^2 - ||eps_teacher||^2) / 2``, here per element (mean instead of sum) so that it stays within
    reach of an exponential, and clamped to [-10, 10]. A discriminator, which the paper trains, needs real pictures.
    """
    dims = tuple(range(1, teacher.x_t.ndim))
    return ((student.eps.square() - teacher.eps.square()).mean(dims) / 2).clamp(-10, 10)


@settings
class ESD(GuidanceRule):
    """Entropic score distillation: ``g = eps^s - lambda eps_student(no camera) - (1 - lambda) eps_student(camera)``.

    It adds ``lambda`` times the entropy of the renders over all cameras to what VSD minimises, which resists views
    that all look alike. ``lambda = 0`` is VSD and asks the student once; ``lambda = 1`` only asks it blind. "No
    camera" is not "no text". The student must be trained with camera dropout, or its blind answer means nothing.
    Source: Wang et al. 2024 (Taming Mode Collapse), arXiv 2401.00909, eq. 9, as on the official project page
    (threestudio's ``guidance_scale_lora = 1 - lambda``). Normalisation: Yin et al. 2024 (DMD2), arXiv 2405.14867.
    f-divergences: see :func:`divergence_weight`.

    Arguments:
        cfg: guidance of the teacher.
        lam: ``lambda`` in [0, 1], a number or a schedule of progress.
        anchor: as for :class:`VSD`.
        normalize: ``dmd`` gives ``(x0_student - x0_teacher) / mean |x0 - x0_teacher|`` per sample (to be weighted
            uniformly) instead of the difference of noises.
        divergence: the f-divergence that is minimised; all but ``reverse_kl`` multiply each sample by ``h(r)`` over
            its mean in the batch, with r from :func:`estimated_log_ratio` (experimental).
    """

    cfg: CFG
    lam: ScheduledFraction = 0.5
    anchor: ScheduledFraction = 0.0
    normalize: Normalization = "none"
    divergence: Divergence = "reverse_kl"

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions, and the student with and without its camera where they count."""
        lam = value_at(self.lam, progress)
        student: tuple[Query, ...] = ()
        if lam < 1:
            student += (Query("student", network="student", text="base"),)
        if lam > 0:
            student += (Query("student blind", network="student", text="base", withheld={"camera"}),)
        return (*self.cfg.queries(progress), *student)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        lam = value_at(self.lam, progress)
        teacher = self.cfg.guided(evidence, progress)
        student = anchored_student(evidence, _student(evidence, lam), value_at(self.anchor, progress))
        return _student_direction(evidence, teacher, student, self.normalize, self.divergence)


@settings
class VSD(GuidanceRule):
    """Variational score distillation: ``g = eps^s - eps_student(camera)``, ESD with ``lambda = 0``.

    The gradient of ``E_t[(sigma / alpha) w KL(q_t(x_t | camera) || p_t(x_t | prompt))]`` over the law q of renders. A
    perfect camera-conditional student of one scene makes it SDS, a fresh student that equals the teacher makes it CSD.
    Source: Wang et al. 2023 (ProlificDreamer), arXiv 2305.16213, eq. 9.

    ``anchor`` is not published. A student's answer is some of the scene and some of the teacher it grew from, and what
    it does not see of a render has no restoring force: there ``g`` is its error alone, and colours drift. With
    ``anchor = a`` its answer is ``(1 - a) eps_student + a eps``, a share of the perfect student of one scene, which is
    known: ``g = (1 - a) (eps^s - eps_student) + a (eps^s - eps)``, from VSD to SDS.

    Arguments:
        cfg: guidance of the teacher.
        anchor: ``a`` in [0, 1], a number or a schedule of progress; 0 is the published rule.
        normalize, divergence: as for :class:`ESD`.
    """

    cfg: CFG
    anchor: ScheduledFraction = 0.0
    normalize: Normalization = "none"
    divergence: Divergence = "reverse_kl"

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions, and the student's view of the same sample."""
        return _beside_student(self.cfg, progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        teacher = self.cfg.guided(evidence, progress)
        student = anchored_student(evidence, _student(evidence, 0.0), value_at(self.anchor, progress))
        return _student_direction(evidence, teacher, student, self.normalize, self.divergence)


@settings
class SIM(GuidanceRule):
    """Score implicit matching: ``g = alpha (d L / d x_t)``, ``L = <u, eps_student - eps>``, with nothing left out.

    ``u = d / sqrt(||d||^2 + c^2)``, ``d = eps^s - eps_student``, norms per sample. Weighted by ``sigma / alpha`` it is
    the gradient of a distance between the scores themselves instead of a Kullback-Leibler divergence; the derivative
    goes through ``u`` and through both networks, so it costs a backward pass through each prediction:

        e = eps_student - eps,  p = (e - u <u, e>) / sqrt(||d||^2 + c^2),  dL/d eps^s = p,  dL/d eps_student = u - p.

    Source: Luo et al. 2024 (SIM), arXiv 2410.16794; in 3D: Bai et al. 2025 (Dive3D), arXiv 2506.13594, whose code has
    ``c = 0`` and the direction of the scores' difference alone.

    Arguments:
        cfg: guidance of the teacher, plain: its Jacobian is combined as its answers are.
        softness: ``c``, in the units of ``||d||``; 0 is the norm itself.
    """

    differentiates = True
    cfg: CFG
    softness: NonNegative = 0.0

    def __post_init__(self) -> None:
        _need_derivative("sim", self.cfg)

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions, and the student's view of the same sample."""
        return _beside_student(self.cfg, progress)

    def cotangents(self, evidence: Evidence, progress: float) -> dict[str, Float[Tensor, "B C h w"]]:
        """``d L / d eps`` of the teacher's answers and of the student's."""
        student = evidence["student"].eps
        dims = tuple(range(1, student.ndim))
        difference, error = self.cfg(evidence, progress) - student, student - evidence.noise
        norm = (difference.square().sum(dims, keepdim=True) + self.softness**2).sqrt().clamp(min=1e-12)
        unit = difference / norm
        across = (error - unit * (unit * error).sum(dims, keepdim=True)) / norm
        return {**_through_guidance(self.cfg, evidence, across, progress), "student": unit - across}

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """``alpha`` times what was pulled back, detached."""
        assert evidence.pulled is not None
        return (evidence.level.scales(evidence.x0)[0] * evidence.pulled).detach()


@settings
class USD(GuidanceRule):
    """Uniform score distillation: VSD, and a pull towards the poses that the teacher seldom sees.

    ``g = eps^s - eps_student + u``, ``u = (sigma / alpha) N dL/dx0`` cut to the length of VSD's part, per sample, ``N``
    the numbers in it. ``L = -log sum_k q_k p(k | x0^s) / mean(k)`` compares how the guided prediction is posed with the
    running mean of that at this noise (:class:`~threedistill.guidance.poses.Poses`); its gradient goes through the
    decoder and the teacher: ``dL/dx0 = v - sigma J^T v`` with ``v = dL/dx0^s``, ``J = d eps^s / d x_t``.
    Source: Zheng et al. 2025 (RecDreamer), arXiv 2502.12640, and its code.

    Arguments:
        cfg: guidance of the teacher, plain: its Jacobian is combined as its answers are.
        most: longest ``u``, in lengths of VSD's part.
        anchor: of VSD's part, as there.
    """

    differentiates = True
    appraises = True
    cfg: CFG
    most: Positive = 1.0
    anchor: ScheduledFraction = 0.0

    def __post_init__(self) -> None:
        _need_derivative("usd", self.cfg)

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions, and the student's view of the same sample."""
        return _beside_student(self.cfg, progress)

    def appraised(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The guided prediction."""
        return self.cfg.guided(evidence, progress).x0

    def cotangents(self, evidence: Evidence, progress: float) -> dict[str, Float[Tensor, "B C h w"]]:
        """``v`` for the teacher's answers as guidance combines them."""
        assert evidence.appraisal is not None
        return _through_guidance(self.cfg, evidence, evidence.appraisal.gradient, progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        assert evidence.appraisal is not None and evidence.pulled is not None
        alpha, sigma = evidence.level.scales(evidence.x0)
        dims = tuple(range(1, evidence.x0.ndim))
        student = anchored_student(evidence, evidence["student"], value_at(self.anchor, progress))
        direction = self.cfg(evidence, progress) - student.eps
        turn = (
            sigma / alpha * evidence.x0[0].numel() * (evidence.appraisal.gradient - sigma * evidence.pulled)
        )
        length, longest = (v.square().sum(dims, keepdim=True).sqrt() for v in (turn, self.most * direction))
        return (direction + turn * (longest / length.clamp(min=1e-12)).clamp(max=1)).detach()


def _beside_student(cfg: CFG, progress: float) -> tuple[Query, ...]:
    """Guidance's questions, and the student's view of the same sample."""
    return (*cfg.queries(progress), Query("student", network="student", text="base"))


def _need_derivative(name: str, cfg: CFG) -> None:
    """Refuse guidance whose Jacobian is not that of a sum of answers."""
    if not isinstance(cfg, ClassifierFree):
        raise ValueError(f"{name} differentiates plain guidance, not cfg={type(cfg).__name__}; leave it out")
    for option, used in (("x0_clip", cfg.x0_clip != "none"), ("rescale", cfg.rescale != 0)):
        if used:
            raise ValueError(f"{name} differentiates plain guidance, without cfg.{option}; leave it out")


def _through_guidance(
    cfg: CFG, evidence: Evidence, cotangent: Float[Tensor, "B C h w"], progress: float
) -> dict[str, Float[Tensor, "B C h w"]]:
    """The cotangents of the teacher's answers that belong to one of ``eps^s``."""
    scale = value_at(cfg.scale, progress)
    shares = {"cond": scale, "uncond": 1 - scale}
    return {name: share * cotangent for name, share in shares.items() if name in evidence.predictions}


def _student(evidence: Evidence, lam: float) -> Prediction:
    """``lambda`` parts of the blind student and the rest of the seeing one."""
    if lam == 0:
        return evidence["student"]
    blind = evidence["student blind"]
    if lam == 1:
        return blind
    return Prediction(torch.lerp(evidence["student"].eps, blind.eps, lam), "eps", blind.x_t, blind.level)


def _student_direction(
    evidence: Evidence, teacher: Prediction, student: Prediction, normalize: Normalization, divergence: Divergence
) -> Float[Tensor, "B C h w"]:  # fmt: skip
    column = (-1,) + (1,) * (evidence.x0.ndim - 1)
    if normalize == "dmd":
        dims = tuple(range(1, evidence.x0.ndim))
        distance = (evidence.x0 - teacher.x0).abs().mean(dims, keepdim=True).clamp(min=1e-6)
        direction = (student.x0 - teacher.x0) / distance
    else:
        direction = teacher.eps - student.eps
    if divergence != "reverse_kl":
        weight = divergence_weight(estimated_log_ratio(teacher, student), divergence)
        direction = direction * (weight / weight.mean()).to(direction).view(column)
    return direction.detach()
