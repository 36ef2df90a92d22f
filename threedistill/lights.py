"""Laws of light: from where the views of a training step are lit, and as what they are shown."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.panorama import panorama
from threedistill.rng import Streams
from threedistill.schedule import ScheduledNonNegative, stations, value_at
from threedistill.types import Cameras, Shading
from threedistill.values import NonNegative, Within, settings

__all__ = ["Lighting"]


@settings
class Lighting:
    """Directions towards the light and the shading of a step, drawn anew in every step.

    ``headlight``: the light is at the camera. ``near_camera``: ``l = normalise(c + spread n)``, ``n`` standard normal
    and ``c`` the camera's place in metres. ``cone``: about the direction ``c / |c|`` at a uniform azimuth and at an
    angle that is uniform in [0, ``cone``]. ``panorama``: from where a picture of the surroundings is bright, as often
    as it is. What never moves tells little of gloss: a light of its own tells metalness and roughness from paint, and
    shape from what is painted on it.

    Sources: ``near_camera`` Poole et al. 2022 (DreamFusion), arXiv 2209.14988, appendix A.2; ``cone`` Lin et al. 2022
    (Magic3D), arXiv 2211.10440, as threestudio has it. Ours is a direction, theirs a point at 0.8 to 1.5 m; the shares
    of sky, ambient and direct light are those of ``render/shading.py``.

    Arguments:
        law: as above.
        spread: of ``near_camera``, metres.
        cone: of ``cone``, degrees.
        picture: of ``panorama``: an equirectangular picture (``threedistill/panorama.py``).
        mix: shadings and the weights with which a step draws one, numbers or schedules of progress; empty = the stage's
            own shading, always.
    """

    law: Literal["headlight", "near_camera", "cone", "panorama"] = "headlight"
    spread: NonNegative = 1.0
    cone: Annotated[float, Within(0, 180)] = 60.0
    mix: dict[Shading, ScheduledNonNegative] = field(default_factory=dict[Shading, ScheduledNonNegative])
    picture: str | None = None

    def __post_init__(self) -> None:
        if (self.law == "panorama") != (self.picture is not None):
            need = "needs picture=FILE" if self.picture is None else "looks at no picture; leave it out"
            raise ValueError(f"law={self.law} {need}")
        if self.picture is not None:
            panorama(self.picture)
        for progress in stations(*self.mix.values()):
            if self.mix and not sum(value_at(weight, progress) for weight in self.mix.values()) > 0:
                raise ValueError(f"the weights of mix are all 0 at progress {progress:g}; one must be above")

    def direction(self, rng: Streams, cameras: Cameras, group: int = 1) -> Float[Tensor, "B 3"] | None:
        """Unit directions towards the light; None is a headlight.

        Arguments:
            rng: the iteration's streams; groups are indexed globally, so ranks agree with one process.
            cameras: the ``B`` views.
            group: contiguous views that share the draw (of a multi-view teacher); must divide ``B``.
        """
        if self.law == "headlight":
            return None
        groups = rng.groups(len(cameras), group)
        at = cameras.c2w[:, :3, 3]
        if self.law == "near_camera":
            drawn = [rng.generator_normal("light", g, 3) for g in groups]
            return F.normalize(at + self.spread * _each(drawn, group).to(at), dim=1)
        if self.picture is not None:
            drawn = [rng.generator_uniform("light", g, 3) for g in groups]
            return panorama(self.picture).towards(_each(drawn, group)).to(at)
        drawn = [rng.generator_uniform("light", g, 2) for g in groups]
        around, away = _each(drawn, group).to(at).unbind(1)
        around, away = 2 * math.pi * around[:, None], math.radians(self.cone) * away[:, None]
        axis = F.normalize(at, dim=1)
        right, up = cameras.c2w[:, :3, 0], cameras.c2w[:, :3, 1]
        across = F.normalize(right - (right * axis).sum(1, keepdim=True) * axis, dim=1)
        over = torch.linalg.cross(axis, across)
        over = over * (over * up).sum(1, keepdim=True).sign()
        side = around.cos() * across + around.sin() * over
        return F.normalize(away.cos() * axis + away.sin() * side, dim=1)

    def shading(self, rng: Streams, progress: float, own: Shading) -> Shading:
        """The shading of this step, the same for all views; ``own`` is the stage's."""
        if not self.mix:
            return own
        shadings = list(self.mix)
        sums = torch.tensor([value_at(self.mix[one], progress) for one in shadings]).double().cumsum(0)
        drawn = rng.uniform("shading", 1).double() * sums[-1]
        return shadings[int(torch.searchsorted(sums, drawn, right=True))]

    def shows(self, shading: Shading, own: Shading) -> bool:
        """Whether some step shows this shading."""
        if not self.mix:
            return shading == own
        weight = self.mix.get(shading, 0.0)
        return any(value_at(weight, progress) > 0 for progress in stations(weight))


def _each(drawn: list[Tensor], group: int) -> Tensor:
    return torch.stack(drawn).repeat_interleave(group, 0)
