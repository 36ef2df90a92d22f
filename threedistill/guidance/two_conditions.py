"""Guidance by two conditions, words and pictures of the object, each with a scale of its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from threedistill.guidance.cfg import BeyondClassifierFree, ClassifierFree, TextOfCond, at_point
from threedistill.prediction import PredictionKind
from threedistill.schedule import ScheduledNonNegative, value_at
from threedistill.types import Condition, Evidence, Prediction, Query
from threedistill.values import settings

__all__ = ["TwoConditions"]


@settings
class TwoConditions(BeyondClassifierFree):
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

        def combination(kind: PredictionKind) -> Tensor:
            # In float32 at least: half precision cancels at large scales.
            read = [(one.read(kind), weight) for one, weight in parts]
            wide = torch.promote_types(read[0][0].dtype, torch.float32)
            return torch.stack([weight * value.to(wide) for value, weight in read]).sum(0)

        return self.base.combined([answer for answer, _ in parts], combination, cond)
