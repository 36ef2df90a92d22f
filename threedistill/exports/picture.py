"""The files of a result that is a picture: ``model.png``, all pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.atomic import write_bytes
from threedistill.exports.files import png_bytes

__all__ = ["write_pictures"]


def write_pictures(
    groups: Sequence[Float[Tensor, "N H W 3"]], folder: Path | str, stem: str = "model"
) -> Path:
    """Write one PNG with every picture in a row, a white gap between them; returns its path.

    Arguments:
        groups: (N, H, W, 3) sRGB in [0, 1], of one or several canvases of one size.
        folder, stem: where, and the file's name.
    """
    pictures = torch.cat(list(groups))
    gap = pictures.new_ones(pictures.shape[1], max(pictures.shape[2] // 32, 1), 3)
    strips = [part for picture in pictures for part in (gap, picture)][1:]
    path = Path(folder) / f"{stem}.png"
    write_bytes(path, png_bytes(torch.cat(strips, 1)))
    return path
