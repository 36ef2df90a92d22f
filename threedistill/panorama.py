"""Pictures of all that is around: equirectangular, from ordinary files or Radiance's, as what is seen and as light.

The middle column of the picture lies behind the object for a camera in front of it (-Z), what is right of it is to that
camera's right (+X); the top row is +Y.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.messages import shown

__all__ = ["MAX_PIXELS", "Panorama", "decoded_radiance", "panorama"]

#: 8192 x 4096; twice that many would not be seen in any render here.
MAX_PIXELS = 2**25
#: Rec. 709.
_LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class Panorama:
    """What is seen in every direction.

    Attributes:
        picture: (H, W, 3), row 0 at the top; sRGB in [0, 1], or radiances.
        linear: whether they are radiances.
    """

    picture: Float[Tensor, "H W 3"]
    linear: bool

    def at(self, directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """What unit directions look at, bilinear between the pixels; left and right edges meet."""
        height, width = self.picture.shape[:2]
        picture = self.picture.to(directions)
        x, y, z = directions.unbind(-1)
        column = (0.5 + torch.atan2(x, -z) / (2 * math.pi)) * width - 0.5
        row = (y.clamp(-1, 1).acos() / math.pi * height - 0.5).clamp(0, height - 1)
        left, top = column.floor(), row.floor()
        right_share, low_share = (column - left)[..., None], (row - top)[..., None]
        x0, y0 = left.long() % width, top.long()
        x1, y1 = (x0 + 1) % width, (y0 + 1).clamp(max=height - 1)
        upper = picture[y0, x0] * (1 - right_share) + picture[y0, x1] * right_share
        lower = picture[y1, x0] * (1 - right_share) + picture[y1, x1] * right_share
        return upper * (1 - low_share) + lower * low_share

    @functools.cached_property
    def _light(self) -> Float[Tensor, "n"]:
        """How much light has come from the pixels up to each, summed."""
        height, width = self.picture.shape[:2]
        radiance = self.picture.double().clamp(min=0) ** (1.0 if self.linear else 2.2)
        rows = (torch.arange(height, dtype=torch.float64) + 0.5) / height * math.pi
        light = (radiance @ radiance.new_tensor(_LUMA)) * rows.sin()[:, None]
        if not float(light.sum()) > 0:
            light = rows.sin()[:, None].expand(height, width)  # darkness comes from everywhere
        return light.flatten().cumsum(0)

    def towards(self, drawn: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Unit directions from which the light comes, each as often as it is bright.

        Arguments:
            drawn: uniform in [0, 1): which pixel, and where in it.
        """
        height, width = self.picture.shape[:2]
        whole = self._light
        pixel = torch.searchsorted(whole, drawn[:, 0].double().to(whole) * whole[-1], right=True)
        pixel = pixel.clamp(max=len(whole) - 1)
        turn = ((pixel % width + drawn[:, 1].double()) / width - 0.5) * 2 * math.pi
        down = (pixel // width + drawn[:, 2].double()) / height * math.pi
        return torch.stack([down.sin() * turn.sin(), down.cos(), -down.sin() * turn.cos()], 1).to(drawn)


@functools.lru_cache(maxsize=4)
def panorama(file: str) -> Panorama:
    """The panorama in a file: PNG, JPEG or WebP, or Radiance's ``.hdr``; read once.

    Raises:
        UsageError: missing, damaged, too large, or not twice as wide as high.
    """
    path = Path(file).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"panorama {shown(file)}: {(error.strerror or str(error)).lower()}") from None
    linear = data[:2] == b"#?"
    try:
        picture = decoded_radiance(data) if linear else _decoded(path)
    except ValueError as error:
        raise UsageError(f"panorama {shown(file)}: {error}") from None
    height, width = picture.shape[:2]
    if width != 2 * height:
        raise UsageError(
            f"panorama {shown(file)}: {width} x {height} pixels; all that is around is twice as wide as high"
        )
    return Panorama(picture, linear)


def _decoded(path: Path) -> Float[Tensor, "H W 3"]:
    """An ordinary picture."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as file:
            _bounded(*file.size)
            return torch.from_numpy(np.array(file.convert("RGB"))).float() / 255
    except OSError:
        raise ValueError("no sound PNG, JPEG, WebP or Radiance picture") from None


def _bounded(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, where {MAX_PIXELS} are the most")


def decoded_radiance(data: bytes) -> Float[Tensor, "H W 3"]:
    """Radiance's RGBE picture, ``m 2^(e - 136)`` with mantissas and exponent of a byte each.

    Scanlines of 8 to 32767 pixels may be packed: 2, 2, the width, then each of the four planes in runs, a count above
    128 repeating one byte ``count - 128`` times, others giving so many bytes.

    Raises:
        ValueError: no such picture, damaged, too large, or not in the order -Y +X.

    Source: Ward, "Real pixels", Graphics Gems II, 1991; the Radiance reference manual, "Picture files".
    """
    head, _, body = data.partition(b"\n\n")
    size, _, body = body.partition(b"\n")
    words = size.split()
    if len(words) != 4 or words[0] != b"-Y" or words[2] != b"+X" or not (words[1] + words[3]).isdigit():
        raise ValueError("no Radiance picture from the top left (-Y H +X W)")
    if b"FORMAT=32-bit_rle_rgbe" not in head:
        raise ValueError("a Radiance picture that is not 32-bit_rle_rgbe")
    height, width = int(words[1]), int(words[3])
    _bounded(width, height)
    rows, at = np.zeros((height, 4, width), np.uint8), 0
    for row in rows:
        if body[at : at + 2] == b"\2\2" and 8 <= width < 32768:
            at = _unpacked(body, at, row)
        else:
            flat = np.frombuffer(body[at : at + 4 * width], np.uint8)
            if len(flat) != 4 * width:
                raise ValueError("a Radiance picture that ends too early")
            row[:] = flat.reshape(width, 4).T
            at += 4 * width
    exponents = rows[:, 3].astype(np.int32)
    scale = np.where(exponents > 0, np.ldexp(1.0, exponents - 136), 0.0)
    return torch.from_numpy((rows[:, :3] * scale[:, None]).transpose(0, 2, 1).astype(np.float32).copy())


def _unpacked(body: bytes, at: int, row: np.ndarray) -> int:
    """One packed scanline into (4, width) bytes; where the next one begins."""
    width = row.shape[1]
    if len(body) < at + 4 or int.from_bytes(body[at + 2 : at + 4], "big") != width:
        raise ValueError("a Radiance picture with a scanline of another width")
    at += 4
    for plane in row:
        done = 0
        while done < width:
            count = body[at] if at < len(body) else 0
            repeated = count > 128
            count -= 128 if repeated else 0
            used = 1 if repeated else count
            if not 0 < count <= width - done or at + 1 + used > len(body):
                raise ValueError("a Radiance picture with a damaged scanline")
            plane[done : done + count] = np.frombuffer(body[at + 1 : at + 1 + used], np.uint8)
            done, at = done + count, at + 1 + used
    return at
