"""Which plain colour stands behind the object: drawn per view group and step, from the teacher's own law."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.rng import Streams
from threedistill.values import Fraction, Within, settings

__all__ = ["BackgroundSampler"]


@settings
class BackgroundSampler:
    """A plain colour, white, with probability ``white`` (except behind such objects), else uniform over the sRGB cube.

    One colour per view group. A random background is what keeps the field from painting fog in the background's
    colour: whatever is not opaque changes with it.

    Arguments:
        white: probability of the plain colour, in [0, 1].
        clearance: smallest distance in sRGB between the background and ``avoid`` (the object's mean colour), so
            that the silhouette stays visible; in [0, 0.8]. A random colour that is too close moves to
            ``(c + 0.5) mod 1``, which is 0.5 away from it in every channel; the plain one gives way to a random one.
        plain: sRGB in [0, 1]; black where a method wants its objects before nothing.
    """

    white: Fraction = 0.5
    clearance: Annotated[float, Within(0, 0.8)] = 0.35
    plain: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)

    def sample(
        self, rng: Streams, views: int, group: int = 1, avoid: Float[Tensor, "3"] | None = None
    ) -> Float[Tensor, "B 3"]:
        """(B, 3) sRGB colours, equal within each group of ``group`` contiguous views.

        Arguments:
            rng: the iteration's streams; groups are indexed globally, so ranks agree with one process.
            views: number of views of this process, ``B``; a multiple of ``group``.
            group: views per group of a multi-view teacher.
            avoid: (3,) sRGB colour to keep away from, detached; None = anything goes.
        """
        colors = []
        for index in rng.groups(views, group):
            u = rng.generator_uniform("background", index, 4)
            color, plain = u[:3], torch.tensor(self.plain)
            if self._close(color, avoid):
                color = (color + 0.5) % 1.0
            colors.append(plain if float(u[3]) < self.white and not self._close(plain, avoid) else color)
        return torch.stack(colors).repeat_interleave(group, 0)

    def _close(self, color: Tensor, avoid: Tensor | None) -> bool:
        return avoid is not None and float((color - avoid.cpu()).norm()) < self.clearance
