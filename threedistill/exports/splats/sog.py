"""``.sog`` (PlayCanvas, version 2): parameters as pixels of lossless WebP pictures, with ``meta.json`` in one zip.

Positions are 16 bits of ``sign(x) log(1 + |x|)`` between their extremes; scales and degree-0 colours are indices into
256-entry codebooks; rotations the three smallest components in bytes; harmonics above degree 0 an index into a
palette of similar splats, whose entries are codebook indices again. Source: developer.playcanvas.com, "SOG format".
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from typing import Any

import numpy as np

from threedistill.errors import ThreedistillError
from threedistill.exports.files import generator, jsonable
from threedistill.exports.frames import Frame
from threedistill.exports.splats.codebooks import codebook, palette
from threedistill.types import Splats

__all__ = ["sog_bytes"]

_ACROSS = 64  # palette entries in a row of the centroid picture
_LARGEST_SIDE = 16383  # of a WebP picture
_ROOT2 = math.sqrt(2.0)
#: The components that are stored where component k is the largest, (w, x, y, z).
_KEPT = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def sog_bytes(splats: Splats, frame: Frame) -> bytes:
    """The file for a cloud that is already in the file's frame, which is noted for our reader."""
    count = len(splats)
    means = splats.means.double().numpy()
    order = _morton(means)
    width = -(-math.ceil(math.sqrt(count)) // 4) * 4
    height = -(-count // width)
    height = -(-height // 4) * 4
    if max(width, height) > _LARGEST_SIDE:
        raise ThreedistillError(f"{count} splats are more than one sog file holds; keep fewer")
    pictures: dict[str, bytes] = {}

    def paint(name: str, channels: np.ndarray) -> list[str]:
        """Rows of 4 bytes, one per splat, as a picture."""
        image = np.zeros((height * width, 4), np.uint8)
        image[:, 3] = 255
        image[:count] = channels[order]
        pictures[name] = _webp(image.reshape(height, width, 4))
        return [name]

    folded = np.sign(means) * np.log1p(np.abs(means))
    low, high = folded.min(0), folded.max(0)
    steps = np.rint((folded - low) / np.maximum(high - low, 1e-30) * 65535).astype(np.int64)
    opaque = np.full((count, 1), 255)
    asset: dict[str, object] = {"generator": generator(), "up": frame.up, "front": frame.front}
    if splats.extras:
        asset["extras"] = jsonable(splats.extras)
    meta: dict[str, Any] = {"version": 2, "count": count, "asset": asset}
    meta["means"] = {
        "mins": low.tolist(), "maxs": high.tolist(),
        "files": paint("means_l.webp", np.hstack([steps & 255, opaque]))
        + paint("means_u.webp", np.hstack([steps >> 8, opaque])),
    }  # fmt: skip
    book, labels = codebook(splats.log_scales.double().numpy())
    meta["scales"] = {"codebook": book, "files": paint("scales.webp", np.hstack([labels, opaque]))}
    meta["quats"] = {"files": paint("quats.webp", _rotations(splats.quaternions.double().numpy()))}
    book, labels = codebook(splats.sh[:, 0].double().numpy())
    opacity = 1 / (1 + np.exp(-splats.opacity_logits.double().numpy()))
    alpha = np.rint(opacity * 255).astype(np.int64)[:, None]
    meta["sh0"] = {"codebook": book, "files": paint("sh0.webp", np.hstack([labels, alpha]))}
    if splats.sh_degree:
        rest = splats.sh[:, 1:].double().numpy()
        centres, label = palette(rest.reshape(count, -1))
        book, entries = codebook(centres)
        pictures["shN_centroids.webp"] = _centroids(entries.reshape(len(centres), -1, 3))
        two_bytes = np.stack([label & 255, label >> 8, 0 * label], 1)
        meta["shN"] = {
            "count": len(centres), "bands": splats.sh_degree, "codebook": book,
            "files": ["shN_centroids.webp", *paint("shN_labels.webp", np.hstack([two_bytes, opaque]))],
        }  # fmt: skip
    text = json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode()
    return _zipped({**pictures, "meta.json": text})


def _morton(means: np.ndarray) -> np.ndarray:
    """Neighbours in space become neighbours in the pictures, which then compress better."""
    low, high = means.min(0), means.max(0)
    cell = ((means - low) / np.maximum(high - low, 1e-30) * 1023).astype(np.int64)
    code = np.zeros(len(means), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cell[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


def _rotations(quaternions: np.ndarray) -> np.ndarray:
    """(N, 4) bytes: three components times sqrt 2 in [-1, 1], and 252 + the index of the largest."""
    q = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    largest = np.abs(q).argmax(1)
    q *= np.where(np.take_along_axis(q, largest[:, None], 1) < 0, -_ROOT2, _ROOT2)
    kept = np.take_along_axis(q, _KEPT[largest], 1)
    return np.hstack([np.rint((kept * 0.5 + 0.5) * 255).clip(0, 255), 252 + largest[:, None]]).astype(
        np.int64
    )


def _centroids(entries: np.ndarray) -> bytes:
    """(P, coefficients, 3) codebook indices as a picture, 64 entries side by side."""
    count, coefficients, _ = entries.shape
    rows = -(-count // _ACROSS)
    image = np.zeros((rows * _ACROSS, coefficients, 4), np.uint8)
    image[..., 3] = 255
    image[:count, :, :3] = entries
    return _webp(image.reshape(rows, _ACROSS * coefficients, 4))


def _webp(image: np.ndarray) -> bytes:
    """Lossless, the colours of transparent pixels included."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True, exact=True, quality=80, method=4)
    return buffer.getvalue()


def _zipped(files: dict[str, bytes]) -> bytes:
    """A zip without compression (pictures are compressed already) and without dates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name, data in files.items():
            bundle.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()
