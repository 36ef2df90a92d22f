"""Which axes of a file point up and to the front, and the turn from there into our frame (+Y up, front +Z)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.exports.formats import Format
from threedistill.types import Mesh

__all__ = ["AXES", "Axis", "Frame", "frame_in_file", "frame_of", "frame_to_write", "named_frame", "turned"]

Axis = Literal["x", "-x", "y", "-y", "z", "-z"]
AXES: tuple[Axis, ...] = get_args(Axis)

#: What faces the front where only the up axis is known: glTF's custom, the 3DGS tools' (half a turn about z), and that
#: of modellers and slicers, whose front view looks along +Y.
_FRONT: dict[Axis, Axis] = {"y": "z", "-y": "z", "z": "-y", "-z": "y", "x": "z", "-x": "z"}


@dataclass(frozen=True)
class Frame:
    """The axes of a file.

    Arguments:
        up: the axis that points up.
        front: the axis that the object's front faces.

    Raises:
        UsageError: both lie on one line, or one is no axis.
    """

    up: Axis = "y"
    front: Axis = "z"

    def __post_init__(self) -> None:
        for name in ("up", "front"):
            if getattr(self, name) not in AXES:
                raise UsageError(f"{name}={getattr(self, name)!r} is no axis: {', '.join(AXES)}")
        if self.up.strip("-") == self.front.strip("-"):
            raise UsageError(
                f"up {self.up} and front {self.front} lie on one line; the front is another axis"
            )

    def to_ours(self) -> Float[Tensor, "3 3"]:
        """The rotation R with ``ours = R file``: its rows are the file's right (up x front), up and front."""
        up, front = _unit(self.up), _unit(self.front)
        return torch.stack([torch.linalg.cross(up, front), up, front])


def frame_of(up: Axis, front: Axis | None = None) -> Frame:
    """The frame with this up axis; without a front, the one that goes with it by custom."""
    return Frame(up, front or _FRONT[up])


def named_frame(up: object, front: object = None) -> Frame | None:
    """The frame that a file names, in whatever its texts hold; None where they are no axes."""
    if up not in AXES:
        return None
    ups: Axis = next(axis for axis in AXES if axis == up)
    fronts: Axis | None = next((axis for axis in AXES if axis == front and axis[-1] != ups[-1]), None)
    return frame_of(ups, fronts)


def frame_in_file(
    row: Format, said: Frame | None, up: Axis | None = None, front: Axis | None = None
) -> Frame:
    """The frame of a file that is read: what the user says, else what the file says, else the format's habit."""
    known = said or frame_of(row.frame)
    return known if up is None and front is None else Frame(*_completed(known, up, front))


def frame_to_write(row: Format, up: Axis | None, front: Axis | None = None) -> Frame:
    """The frame of a file that is written: a format that defines its own keeps it, in others the user decides."""
    habit = frame_of(row.frame)
    return habit if row.fixed or (up is None and front is None) else Frame(*_completed(habit, up, front))


def _completed(known: Frame, up: Axis | None, front: Axis | None) -> tuple[Axis, Axis]:
    if up is None:
        return known.up, front or known.front
    return up, front or (known.front if up == known.up else _FRONT[up])


def _unit(axis: Axis) -> Tensor:
    vector = torch.zeros(3, dtype=torch.float64)
    vector["xyz".index(axis[-1])] = -1.0 if axis.startswith("-") else 1.0
    return vector


def turned(mesh: Mesh, rotation: Float[Tensor, "3 3"]) -> Mesh:
    """The mesh with positions and normals turned about the origin."""
    if torch.equal(rotation, torch.eye(3, dtype=rotation.dtype)):
        return mesh
    turn = rotation.to(mesh.vertices).T
    normals = None if mesh.normals is None else mesh.normals @ turn
    return replace(mesh, vertices=mesh.vertices @ turn, normals=normals)
