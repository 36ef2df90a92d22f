"""What stands behind the object: a plain colour, drawn per view group and step, or surroundings."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threedistill.panorama import panorama
from threedistill.render.harmonics import MAX_DEGREE, basis
from threedistill.render.shading import linear_to_srgb
from threedistill.rng import Streams
from threedistill.schedule import ScheduledFraction, bounds, value_at
from threedistill.types import Cameras
from threedistill.values import Fraction, Within, settings

__all__ = ["BackgroundSampler", "Surroundings"]


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
        learned: probability, a number or a schedule of progress, that surroundings stand there instead: learned ones
            (:class:`Surroundings`), or those of the picture.
        picture: an equirectangular picture (``threedistill/panorama.py``) in place of surroundings that are learned.
        degree: of the surroundings' harmonics; 0 = one colour that is learned.
        lr: their learning rate.
    """

    white: Fraction = 0.5
    clearance: Annotated[float, Within(0, 0.8)] = 0.35
    plain: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    learned: ScheduledFraction = 0.0
    degree: Annotated[int, Within(0, MAX_DEGREE)] = MAX_DEGREE
    lr: Annotated[float, Within(0, 100)] = 0.001
    picture: str | None = None

    def __post_init__(self) -> None:
        if self.picture is not None:
            if not self.surrounds:
                raise ValueError(
                    "picture is never seen with learned=0; set learned to how often it stands there"
                )
            panorama(self.picture)

    @property
    def surrounds(self) -> bool:
        """Whether surroundings are ever seen."""
        return bounds(self.learned)[1] > 0

    @property
    def learns(self) -> bool:
        """Whether they are learned."""
        return self.surrounds and self.picture is None

    def pictured(self, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
        """What the cameras see of the picture, sRGB in [0, 1]; radiances above 1 are white."""
        assert self.picture is not None
        found = panorama(self.picture)
        seen = found.at(cameras.rays()[1])
        return (linear_to_srgb(seen.clamp(min=0)) if found.linear else seen).clamp(0, 1)

    def surrounded(self, rng: Streams, views: int, group: int, progress: float) -> Bool[Tensor, "B"]:
        """The views of this step that have the surroundings behind them, equal within a group.

        Arguments:
            rng, views, group: as for :meth:`sample`.
            progress: fraction of the stage that is done.
        """
        share = value_at(self.learned, progress)
        drawn = [bool(rng.generator_uniform("surroundings", i) < share) for i in rng.groups(views, group)]
        return torch.tensor(drawn).repeat_interleave(group, 0)

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


class Surroundings(nn.Module):
    """A colour for every direction: ``sigmoid(sum_k Y_k(d) c_k)``, sRGB, grey before the first step.

    It is optimised with the scene, of which it is no part: an asset has none. What the prior wants to see around an
    object need not become fog in front of it.

    Source: Poole et al. 2022 (DreamFusion), arXiv 2209.14988, appendix A.2, whose colours are a small network's.

    Arguments:
        degree: of the spherical harmonics.
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.coefficients = nn.Parameter(torch.zeros((degree + 1) ** 2, 3))

    def forward(self, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
        """What the cameras see at infinity."""
        directions = cameras.rays()[1].to(self.coefficients)
        return (basis(directions, self.degree) @ self.coefficients).sigmoid()
