"""Classifier-free guidance, in one convention and in this file only.

``eps^s = eps_u + s (eps_c - eps_u)``: s = 1 is the conditional prediction, s = 0 the unconditional one
(diffusers' convention; the other one in the literature, ``eps_c + s' (eps_c - eps_u)``, is ``s = s' + 1``).
Source: Ho & Salimans 2021, arXiv 2207.12598, eq. 6.

Every variant answers one contract, :class:`CFG`; Perp-Neg is in ``perp_neg.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence, Set
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.prediction import PredictionKind
from threedistill.schedule import Schedule, value_at
from threedistill.types import Condition, Evidence, Prediction, Query
from threedistill.values import Fraction, Within, settings

__all__ = [
    "CFG", "DYNAMIC_QUANTILE", "BeyondClassifierFree", "BlankText", "ClassifierFree", "TextOfCond", "TextOfUncond",
    "at_point", "base_of", "clip_x0", "combine", "need_plain", "rescale_std",
]  # fmt: skip

TextOfUncond = Literal["null", "negative"]
TextOfCond = Literal["view", "base", "source", "category"]
BlankText = Literal["null", "negative", "uncond", "inverse"]

#: Imagen's percentile for dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3).
DYNAMIC_QUANTILE = 0.995


def combine(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """``uncond + scale (cond - uncond)``, in float32 at least: half precision cancels at large scales."""
    dtype = torch.promote_types(cond.dtype, torch.float32)
    uncond, cond = uncond.to(dtype), cond.to(dtype)
    return uncond + scale * (cond - uncond)


def clip_x0(
    x0: Float[Tensor, "B C h w"], how: Literal["none", "static", "dynamic"]
) -> Float[Tensor, "B C h w"]:
    """A clean sample kept inside [-1, 1], the range of pixel priors.

    ``static`` clamps; ``dynamic`` divides each sample by its 99.5 % quantile of ``|x0|`` where that exceeds
    1, which keeps contrast instead of saturating (Imagen).
    """
    if how == "none":
        return x0
    if how == "static":
        return x0.clamp(-1, 1)
    limit = torch.quantile(x0.abs().flatten(1), DYNAMIC_QUANTILE, dim=1).clamp(min=1)
    limit = limit.view(-1, *(1,) * (x0.ndim - 1))
    return x0.clamp(-limit, limit) / limit


def rescale_std(
    guided: Float[Tensor, "B C h w"], cond: Float[Tensor, "B C h w"], mix: float, group: int = 1
) -> Float[Tensor, "B C h w"]:
    """``mix guided std(cond) / std(guided) + (1 - mix) guided``: guidance without its gain in contrast.

    The standard deviations are those of a sample over C, h, w, or of ``group`` contiguous samples jointly (the views
    of a multi-view teacher). A sample without any contrast stays as it is.
    Source: Lin et al. 2023, arXiv 2305.08891, eq. 15-16; jointly over views: Shi et al. 2023 (MVDream),
    arXiv 2308.16512, where both are clean samples.

    Arguments:
        guided, cond: the combined prediction and the conditional one.
        mix: in [0, 1].
        group: samples per group; must divide B.
    """
    if len(guided) % group:
        raise ValueError(f"{len(guided)} samples are not a multiple of groups of {group}")

    def spread(x: Tensor) -> Tensor:
        return x.reshape(len(x) // group, -1).std(1, correction=0).repeat_interleave(group)

    before, after = spread(cond), spread(guided)
    ratio = torch.where(after > 1e-12, before / after.clamp(min=1e-12), torch.ones_like(after))
    return guided * (mix * ratio + (1 - mix)).view(-1, *(1,) * (guided.ndim - 1))


def at_point(name: str, point: str) -> str:
    """The name of a query at a point of a trajectory: ``cond`` at the step's own ``t``, else ``cond@point``."""
    return name if point == "t" else f"{name}@{point}"


@runtime_checkable
class CFG(Protocol):
    """How the predictions with and without the prompt become one: what rules take as ``cfg``."""

    @property
    def scale(self) -> float | Schedule:
        """``s``."""
        ...

    def queries(self, progress: float, point: str = "t", text: TextOfCond = "view") -> tuple[Query, ...]:
        """What it asks about one noisy sample."""
        ...

    def guided(self, evidence: Evidence, progress: float, point: str = "t") -> Prediction:
        """The guided prediction there."""
        ...

    def __call__(self, evidence: Evidence, progress: float, point: str = "t") -> Float[Tensor, "B C h w"]:
        """``eps^s`` there."""
        ...

    def unconditional(self, name: str, text: BlankText = "null", point: str = "t") -> Query:
        """A query without the prompt, told the camera and the image or not as its own unconditional branch is."""
        ...


@settings
class ClassifierFree:
    """Classifier-free guidance ``eps^s = eps_u + s (eps_c - eps_u)``, optionally rescaled and clipped.

    Arguments:
        scale: ``s``, a number or a schedule of progress.
        uncond_camera: whether the unconditional query is told the camera (``keep``) or not (``null``).
        uncond_image: likewise the reference image, of priors that are shown one; they are trained with ``null``.
        uncond_text: ``negative`` asks it about the user's negative prompt where one is given (else the empty one),
            ``null`` always about the empty prompt.
        x0_clip: limits the combined clean sample to [-1, 1] before it is turned back into eps; only for pixel
            priors. ``none`` is exact CFG; ``static`` clamps; ``dynamic`` is Imagen's thresholding.
        rescale: share in [0, 1] of the combined clean sample that is brought back to the contrast of the conditional
            one (:func:`rescale_std`); 0 is exact CFG.
    """

    scale: Annotated[float | Schedule, Within(0, 1000)] = 7.5
    uncond_camera: Literal["keep", "null"] | None = "keep"
    uncond_image: Literal["keep", "null"] | None = "null"
    uncond_text: TextOfUncond | None = "negative"
    x0_clip: Literal["none", "static", "dynamic"] | None = "none"
    rescale: Fraction = 0.0

    def __post_init__(self) -> None:
        # An unquoted `null` in YAML or on the command line arrives as None and means the word.
        for name, word in (
            ("uncond_camera", "null"),
            ("uncond_image", "null"),
            ("uncond_text", "null"),
            ("x0_clip", "none"),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, word)

    @property
    def exact(self) -> bool:
        """Whether the guided prediction is the plain affine combination."""
        return self.x0_clip == "none" and self.rescale == 0

    def unconditional(self, name: str, text: BlankText = "null", point: str = "t") -> Query:
        """A query without the prompt, told the camera and the image or not as the settings say."""
        kept: dict[Condition, str | None] = {"camera": self.uncond_camera, "image": self.uncond_image}
        withheld: Set[Condition] = {what for what, how in kept.items() if how == "null"}
        return Query(at_point(name, point), text=text, withheld=withheld, point=point)

    def both(self, point: str = "t", text: TextOfCond = "view") -> tuple[Query, Query]:
        """``cond`` and ``uncond``, whatever the scale."""
        blank = self.unconditional("uncond", "uncond" if self.uncond_text == "negative" else "null", point)
        return Query(at_point("cond", point), text=text, point=point), blank

    def queries(self, progress: float, point: str = "t", text: TextOfCond = "view") -> tuple[Query, ...]:
        """``cond`` and ``uncond``, less the one that the scale makes superfluous (s = 1 or s = 0).

        Arguments:
            progress: fraction of the stage that is done.
            point: which noisy sample is asked about.
            text: the wording of the conditional query.
        """
        scale = value_at(self.scale, progress)
        cond, uncond = self.both(point, text)
        if scale == 1:
            return (cond,)
        return (uncond,) if scale == 0 else (cond, uncond)

    def guided(self, evidence: Evidence, progress: float, point: str = "t") -> Prediction:
        """The guided prediction; its ``x0`` is the picture the prior would rather see."""
        scale = value_at(self.scale, progress)
        cond = evidence[at_point("uncond" if scale == 0 else "cond", point)]
        uncond = cond if scale in (0, 1) else evidence[at_point("uncond", point)]
        return self.combined(
            (uncond, cond), lambda kind: combine(uncond.read(kind), cond.read(kind), scale), cond
        )

    def combined(
        self,
        answers: Sequence[Prediction],
        how: Callable[[PredictionKind], Float[Tensor, "B C h w"]],
        cond: Prediction,
    ) -> Prediction:
        """Answers about one ``x_t``, combined affinely, then rescaled and clipped.

        Exact guidance is combined in what the network predicts where that is v or flow (eps says nothing of x0 where
        alpha is 0, they do), else in eps. What is rescaled or clipped is combined in x0: the same affine map, and
        better conditioned where alpha is small.

        Arguments:
            answers: what is combined.
            how: the combination of the answers read as a kind; its weights add up to 1.
            cond: the conditional answer, whose contrast is kept.
        """
        kinds = {answer.kind for answer in answers}
        if self.exact:
            kind = cond.kind if kinds in ({"v"}, {"flow"}) else "eps"
            return Prediction(how(kind), kind, cond.x_t, cond.level)
        x0 = how("x0")
        if self.rescale:
            x0 = rescale_std(x0, cond.x0, self.rescale)
        return Prediction(clip_x0(x0, self.x0_clip or "none"), "x0", cond.x_t, cond.level)

    def __call__(self, evidence: Evidence, progress: float, point: str = "t") -> Float[Tensor, "B C h w"]:
        """``eps^s`` at the step's ``x_t``, or at another point."""
        return self.guided(evidence, progress, point).eps


def base_of(cfg: CFG | None) -> ClassifierFree | None:
    """The classifier-free guidance that a variant is or builds on; None for others, and where there is none."""
    found = cfg.base if isinstance(cfg, BeyondClassifierFree) else cfg
    return found if isinstance(found, ClassifierFree) else None


def need_plain(cfg: CFG, rule: str, scale: bool) -> None:
    """Refuse settings of guidance that a rule would not look at, since it combines the answers in a way of its own.

    Arguments:
        cfg: as it was asked for.
        rule: the rule's name, for the message.
        scale: whether it looks at the scale.

    Raises:
        ValueError: another variant than :class:`ClassifierFree`, or one that rescales, clips or words the query without
            the prompt otherwise.
    """
    unread: list[str] = []
    if isinstance(cfg, ClassifierFree):
        if cfg.x0_clip != "none":
            unread.append(f"cfg.x0_clip={cfg.x0_clip}")
        if cfg.rescale:
            unread.append(f"cfg.rescale={cfg.rescale:g}")
        if cfg.uncond_text != "negative":
            unread.append(f"cfg.uncond_text={cfg.uncond_text}")
        if not scale and cfg.scale != 1:
            unread.append("cfg.scale")
    else:
        unread.append(f"cfg={type(cfg).__name__}")
    if unread:
        raise ValueError(
            f"{rule} combines the teacher's answers itself, so {', '.join(unread)} would have no effect; leave it out, "
            "or choose guidance=sds"
        )


class BeyondClassifierFree:
    """What a variant with further questions shares with the classifier-free guidance that it builds on.

    Attributes:
        base: scale, unconditional branch, rescaling and clipping.
    """

    base: ClassifierFree

    @property
    def scale(self) -> float | Schedule:
        """``s`` of the base."""
        return self.base.scale

    def unconditional(self, name: str, text: BlankText = "null", point: str = "t") -> Query:
        """As of the base."""
        return self.base.unconditional(name, text, point)

    @abstractmethod
    def guided(self, evidence: Evidence, progress: float, point: str = "t") -> Prediction:
        """The guided prediction."""

    def __call__(self, evidence: Evidence, progress: float, point: str = "t") -> Float[Tensor, "B C h w"]:
        """``eps^s``."""
        return self.guided(evidence, progress, point).eps
