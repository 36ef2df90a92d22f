"""What can be seen of a rule without running it: its questions over a stage, and whether it edits a scene."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.trajectory import parts_of
from threedistill.protocols import GuidanceRule
from threedistill.schedule import Schedule, stations
from threedistill.types import Cameras, Mesh, Query, Splats


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


@torch.no_grad()
def render_unedited(
    asset: Mesh | Splats, cameras: Cameras, background: Float[Tensor, "B 3"]
) -> Float[Tensor, "B H W 3"]:
    """The unedited object from the step's cameras over the step's backgrounds."""
    if isinstance(asset, Mesh):
        from threedistill.render.mesh import render_mesh

        return render_mesh(asset, cameras.to("cpu"), background=background.cpu()).rgb.to(background)
    from threedistill.render.splat import render_splats

    return render_splats(asset, cameras, background).rgb
