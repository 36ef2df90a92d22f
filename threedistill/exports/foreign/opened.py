"""What a reader hands over: the object, the axes it is in, and what of the file it could not keep."""

from __future__ import annotations

from dataclasses import dataclass, field

from threedistill.exports.frames import Frame
from threedistill.types import Mesh, Splats

__all__ = ["Opened"]


@dataclass
class Opened:
    """The contents of one file.

    Attributes:
        asset: a mesh or a cloud of splats.
        frame: the axes that the file says it has; None = the format's habit. Readers do not turn the asset,
            :func:`threedistill.exports.read.open_file` does.
        unlit: the colours contain their light: they are to be shown as they are.
        lost: what of the file is not in the asset, a phrase each ("2 cameras"), for the one line that says so.
        notes: what else the user should know, a sentence each.
    """

    asset: Mesh | Splats
    frame: Frame | None = None
    unlit: bool = False
    lost: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
