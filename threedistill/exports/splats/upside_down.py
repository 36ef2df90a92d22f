"""A guess at whether a cloud stands on its head, for files whose axes nobody has named."""

from __future__ import annotations

import torch

from threedistill.exports.frames import Frame
from threedistill.types import Splats

__all__ = ["upside_down"]

#: Fewer splats than this say nothing.
_FEWEST = 1000
_LOOKED_AT = 100_000
#: The layers compared, as a share of the height, and how many times fuller the upper one is.
_LAYER, _RATIO = 0.15, 3.0
_OPPOSITE = {"y": "-y", "-y": "y", "z": "-z", "-z": "z", "x": "-x", "-x": "x"}


def upside_down(splats: Splats, frame: Frame) -> str | None:
    """What to tell the user about a cloud that looks upside down; None where it does not.

    Things stand on something, and grounds are where most splats of a capture lie: the lowest layer of a cloud is
    fuller than the highest. Where it is far emptier, the file's axes are not what was taken for them; SPZ files are
    the usual case, since many programs write a PLY's axes into them.

    Arguments:
        splats: in our frame.
        frame: what was taken for the file's axes.
    """
    step = max(len(splats) // _LOOKED_AT, 1)
    height = splats.means[::step, 1][splats.opacity_logits[::step] > -2]
    if len(height) < _FEWEST:
        return None
    low, high = torch.quantile(height, torch.tensor([0.01, 0.99]).to(height)).tolist()
    layer = _LAYER * (high - low)
    below, above = int((height <= low + layer).sum()), int((height >= high - layer).sum())
    if high <= low or above <= _RATIO * below:
        return None
    return (
        f"looks upside down: {above} of {len(height)} splats lie in its highest layer and {below} in its lowest; "
        f"if so, read it with --from-up {_OPPOSITE[frame.up]}"
    )
