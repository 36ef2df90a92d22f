"""Draco's and meshoptimizer's compression in glTF, through their own libraries (extra ``gltf``: DracoPy, meshopt)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from threedistill.exports.foreign.limits import check_unpacked
from threedistill.exports.gltf.container import Gltf, unsound
from threedistill.exports.gltf.extensions import DRACO, MESHOPT, needs_extra
from threedistill.exports.gltf.schema import Meshopt

__all__ = ["Decoded", "draco", "meshopt"]

_INDEX_MODES = ("TRIANGLES", "INDICES")


@dataclass(frozen=True)
class Decoded:
    """A Draco mesh.

    Attributes:
        indices: (3 F,) the triangles' corners.
        attributes: (N, width) raw values by unique id.
    """

    indices: np.ndarray
    attributes: dict[int, np.ndarray]


def draco(gltf: Gltf, data: bytes, where: str) -> Decoded:
    """The contents of a primitive's Draco buffer.

    Raises:
        ThreedistillError: the library is missing, or the data damaged.
    """
    try:
        import DracoPy
    except ImportError:
        raise needs_extra(gltf.path, DRACO) from None
    if data[:5] != b"DRACO" or len(data) < 11 or data[7] != 1:  # 1: a triangular mesh
        raise unsound(gltf.path, f"{where} holds no Draco mesh")
    try:
        mesh = DracoPy.decode(data)
        found = {int(a["unique_id"]): np.asarray(a["data"]) for a in mesh.attributes}
        indices = np.asarray(mesh.faces).reshape(-1)
    except Exception as error:  # the decoder's own exceptions are of several kinds
        raise unsound(gltf.path, f"{where}: damaged Draco data") from error
    return Decoded(indices, {k: v.reshape(len(v), -1) for k, v in found.items()})


def meshopt(gltf: Gltf, view: Meshopt, where: str) -> bytes:
    """A buffer view as it was before compression.

    Raises:
        ThreedistillError: the library is missing, or the data damaged.
    """
    try:
        import meshopt as library
    except ImportError:
        raise needs_extra(gltf.path, MESHOPT[0]) from None
    data = gltf.buffer(view.buffer, where)
    packed = data[view.byte_offset : view.byte_offset + view.byte_length]
    if len(packed) < view.byte_length:
        raise unsound(gltf.path, f"{where} reaches beyond its buffer")
    check_unpacked(gltf.path, view.count * view.byte_stride, len(packed), where)
    if view.mode in _INDEX_MODES:
        sound = view.byte_stride in (2, 4) and (view.mode != "TRIANGLES" or view.count % 3 == 0)
    else:
        sound = view.byte_stride % 4 == 0
    # What each filter works on; the library would answer with an exception of its own.
    sizes = {"OCTAHEDRAL": (4, 8), "QUATERNION": (8,), "COLOR": (4, 8)}.get(view.filter)
    if (
        not sound
        or (view.mode in _INDEX_MODES and view.filter != "NONE")
        or (sizes and view.byte_stride not in sizes)
    ):
        raise unsound(
            gltf.path, f"{where}: {view.mode} of {view.byte_stride} bytes with the filter {view.filter}"
        )
    try:
        rows = library.decode_gltf_buffer(packed, view.count, view.byte_stride, view.mode, view.filter)
    except Exception as error:  # the decoder's own exceptions are of several kinds
        raise unsound(gltf.path, f"{where}: damaged meshopt data") from error
    rows = np.ascontiguousarray(rows)
    if view.mode in _INDEX_MODES:
        rows = rows.astype("<u2" if view.byte_stride == 2 else "<u4")
    return rows.tobytes()
