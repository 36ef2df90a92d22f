"""Reading ``.sog`` (PlayCanvas): version 2 as :mod:`threedistill.exports.splats.sog` writes it, and its predecessor.

In version 1 (no ``version`` in ``meta.json``) bytes are steps between two extremes instead of indices into codebooks,
and opacities are logits: 256 evenly spaced entries are the same thing. Source: developer.playcanvas.com, "SOG format".
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.bounded import open_picture, parse_json, unzip
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.frames import named_frame
from threedistill.exports.splats.blocks import Block, check_count, from_blocks, logit, with_largest

__all__ = ["read_sog"]

_ACROSS = 64  # palette entries in a row of the centroid picture
_LARGEST_PALETTE = 1 << 16
#: A picture has room for its splats and some rows of padding, not for anything.
_PADDING = 1 << 20
_LARGEST_COORDINATE = 60.0  # of the folded positions: e^60 is beyond everything


def read_sog(path: Path, data: bytes) -> Opened:
    """The cloud in the file's own axes, with what the file says about those.

    Raises:
        ThreedistillError: no zip, another version, pictures that are missing, too small or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            meta = parse_json(
                path, unzip(path, bundle, ["meta.json"], len(data))["meta.json"], "its meta.json"
            )
            return _File(path, data, meta, bundle).opened()
    except ThreedistillError:
        raise
    except Exception as error:  # zip, JSON, WebP and their contents can each be damaged in many ways
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise ThreedistillError(f"cannot read {path}: not a sound sog file ({text})") from error


class _File:
    """An open bundle and its checked description."""

    def __init__(self, path: Path, data: bytes, meta: Any, bundle: zipfile.ZipFile) -> None:
        if not isinstance(meta, dict):
            raise ValueError("its meta.json holds no object")
        self.path, self.meta, self.bundle, self.packed = path, meta, bundle, len(data)
        version = meta.get("version", 1)
        if version not in (1, 2):
            raise ThreedistillError(
                f"cannot read {path}: sog version {str(version)[:20]} is not known (1 and 2 are)"
            )
        self.first = version == 1
        count = meta["means"]["shape"][0] if self.first else meta["count"]
        if isinstance(count, bool) or not isinstance(count, int):
            raise ValueError("its count is no whole number")
        self.count = count
        self.degree = self._degree()
        check_count(path, count, self.degree, len(data))

    def _degree(self) -> int:
        rest = self.meta.get("shN")
        if not rest:
            return 0
        if self.first:
            width = self._picture("shN", 0, _LARGEST_PALETTE * 15 + _PADDING).shape[1]
            bands = {192: 1, 512: 2, 960: 3}.get(width, 0)
        else:
            bands = rest["bands"]
        if bands not in (1, 2, 3):
            raise ThreedistillError(
                f"cannot read {self.path}: harmonics of degree {str(bands)[:20]} are not supported (0 to 3)"
            )
        return int(bands)

    def opened(self) -> Opened:
        """The cloud and what comes with it."""
        low, high = (_numbers(self.meta["means"][name], 3) for name in ("mins", "maxs"))
        if max(abs(low).max(), abs(high).max()) > _LARGEST_COORDINATE:
            raise ValueError("its positions lie beyond everything")
        lower, upper = self._rows("means", 0), self._rows("means", 1)
        quats, scales, colors = self._rows("quats"), self._rows("scales"), self._rows("sh0")
        scale_book, color_book = self._book("scales", 3), self._book("sh0", 4 if self.first else 3)
        rest = self._palette() if self.degree else None

        def decode(rows: slice) -> Block:
            steps = lower[rows, :3] | (upper[rows, :3].astype(np.uint16) << 8)
            folded = low + (high - low) * (steps / 65535)
            color = np.take_along_axis(color_book, colors[rows].astype(np.int64)[:, : color_book.shape[1]], 0)
            opacity = color[:, 3] if self.first else logit(colors[rows, 3] / 255)
            sh = np.zeros((len(steps), (self.degree + 1) ** 2, 3), np.float32)
            sh[:, 0] = color[:, :3]
            if rest is not None:
                labels, entries = rest
                sh[:, 1:] = entries[labels[rows, 0] | (labels[rows, 1].astype(np.int64) << 8)]
            return Block(
                np.sign(folded) * np.expm1(np.abs(folded)),
                np.take_along_axis(scale_book, scales[rows, :3].astype(np.int64), 0),
                _unpacked(quats[rows]), opacity, sh,
            )  # fmt: skip

        splats = from_blocks(self.count, self.degree, decode)
        asset = self.meta.get("asset")
        extras = asset.get("extras") if isinstance(asset, dict) else None
        if isinstance(extras, dict):
            splats.extras.update(extras)
        notes = []
        if self.meta.get("model") == "antialiased":
            notes.append("the cloud was trained with an antialiasing filter (Mip-Splatting)")
        said = asset if isinstance(asset, dict) else {}
        return Opened(splats, named_frame(said.get("up"), said.get("front")), notes=notes)

    def _picture(self, part: str, index: int, most: int) -> np.ndarray:
        """(H, W, 4) bytes."""
        name = self.meta[part]["files"][index]
        if not isinstance(name, str):
            raise ValueError(f"{part} names no files")
        data = unzip(self.path, self.bundle, [name], self.packed)[name]
        with open_picture(self.path, data, f"its picture {name[:40]}", most, ("WEBP", "PNG")) as picture:
            return np.asarray(picture.convert("RGBA"))

    def _rows(self, part: str, index: int = 0) -> np.ndarray:
        """(count, 4) bytes: a pixel for each splat."""
        flat = self._picture(part, index, 4 * self.count + _PADDING).reshape(-1, 4)
        if len(flat) < self.count:
            raise ValueError(f"{part} has {len(flat)} pixels for {self.count} splats")
        return flat[: self.count]

    def _book(self, part: str, channels: int) -> np.ndarray:
        """(256, channels): what a byte stands for."""
        given = self.meta[part]
        if self.first:
            low, high = (_numbers(given[name], channels) for name in ("mins", "maxs"))
            return low + (high - low) * (np.arange(256) / 255)[:, None]
        book = _numbers(given["codebook"])
        if len(book) > 256:
            raise ValueError(f"its codebook of {part} has {len(book)} entries")
        padded = np.full(256, np.nan)  # a splat that names a missing entry is dropped as not finite
        padded[: len(book)] = book
        return np.repeat(padded[:, None], channels, 1)

    def _palette(self) -> tuple[np.ndarray, np.ndarray]:
        """The pictures' label of each splat, and (65536, coefficients, 3) harmonics of each label (zeros beyond)."""
        coefficients = (self.degree + 1) ** 2 - 1
        image = self._picture("shN", 0, (_LARGEST_PALETTE + _ACROSS) * coefficients)
        rest = self.meta["shN"]
        if image.shape[1] != _ACROSS * coefficients:
            raise ValueError(
                f"its picture of harmonics is {image.shape[1]} pixels wide for degree {self.degree}"
            )
        entries = image[..., :3].reshape(-1, coefficients, 3)
        if self.first:
            low, high = (float(_numbers([rest[name]], 1)[0]) for name in ("mins", "maxs"))
            book = low + (high - low) * np.arange(256) / 255
        else:
            book = self._book("shN", 1)[:, 0]
            entries = entries[: max(int(rest.get("count", len(entries))), 0)]
        table = np.zeros((_LARGEST_PALETTE, coefficients, 3), np.float32)
        table[: len(entries)] = book.astype(np.float32)[entries]
        return self._rows("shN", 1), table


def _numbers(values: Any, length: int | None = None) -> np.ndarray:
    """A list of finite numbers as an array; raises ValueError otherwise."""
    numbers = isinstance(values, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not numbers or (length is not None and len(values) != length):
        raise ValueError(f"a list of {length or 'finite'} numbers is missing")
    return np.array(values, float)


def _unpacked(pixels: np.ndarray) -> np.ndarray:
    """Quaternions (w, x, y, z) from their three smallest components; without a largest one they are zero."""
    largest = pixels[:, 3].astype(np.int64) - 252
    q = with_largest(largest.clip(0, 3), (pixels[:, :3] / 255 * 2 - 1) / math.sqrt(2.0))
    q[largest < 0] = 0
    return q
