"""Guidance by two conditions, words and pictures of the object, each with a scale of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import BlankText, ClassifierFree, TextOfCond, at_point
from threedistill.schedule import Schedule, ScheduledNonNegative, value_at
from threedistill.types import Condition, Evidence, Prediction, Query
from threedistill.values import settings


@settings
class TwoConditions:
    """``eps^s = eps(0, 0) + s_I [eps(0, I) - eps(0, 0)] + s_T [eps(T, I) - eps(0, I)]``: pictures first, then words.

    ``s_I = s_T`` is classifier-free guidance whose unconditional branch is told neither. Asks three questions per view.
    Source: Brooks et al. 2023 (InstructPix2Pix), arXiv 2211.09800, eq. 3.

    Arguments:
        base: ``s_T`` (its scale), the text and the camera of the branches without the prompt, rescaling and clipping;
            what it says about the reference image is not looked at.
        image_scale: ``s_I``, a number or a schedule of progress.
    """

    base: ClassifierFree
    image_scale: ScheduledNonNegative = 1.5

    @property
    def scale(self) -> float | Schedule:
        """``s_T``."""
        return self.base.scale

    def unconditional(self, name: str, text: BlankText = "null", point: str = "t") -> Query:
        """As of the base."""
        return self.base.unconditional(name, text, point)

    def queries(self, progress: float, point: str = "t", text: TextOfCond = "view") -> tuple[Query, ...]:
        """Words and pictures, pictures alone, and neither; less what the scales make superfluous."""
        cond, blank = self.base.both(point, text)
        image: frozenset[Condition] = frozenset({"image"})
        given = replace(cond, given=image)
        shown = replace(blank, name=at_point("image", point), withheld=blank.withheld - image, given=image)
        untold = replace(blank, withheld=blank.withheld | image)
        text_scale, image_scale = value_at(self.scale, progress), value_at(self.image_scale, progress)
        return (
            given,
            *([shown] if text_scale != image_scale else []),
            *([untold] if image_scale != 1 else []),
        )

    def guided(self, evidence: Evidence, progress: float, point: str = "t") -> Prediction:
        """The guided prediction."""
        text_scale, image_scale = value_at(self.scale, progress), value_at(self.image_scale, progress)
        cond = evidence[at_point("cond", point)]
        parts = [(cond, text_scale)]
        if text_scale != image_scale:
            parts.append((evidence[at_point("image", point)], image_scale - text_scale))
        if image_scale != 1:
            parts.append((evidence[at_point("uncond", point)], 1 - image_scale))

        def combined(kind: Literal["eps", "x0"]) -> Tensor:
            # In float32 at least: half precision cancels at large scales.
            read = [(one.read(kind), weight) for one, weight in parts]
            wide = torch.promote_types(read[0][0].dtype, torch.float32)
            return torch.stack([weight * value.to(wide) for value, weight in read]).sum(0)

        if self.base.exact:
            return Prediction(combined("eps"), "eps", cond.x_t, cond.level)
        return self.base.finished(combined("x0"), cond)

    def __call__(self, evidence: Evidence, progress: float, point: str = "t") -> Float[Tensor, "B C h w"]:
        """``eps^s``."""
        return self.guided(evidence, progress, point).eps
