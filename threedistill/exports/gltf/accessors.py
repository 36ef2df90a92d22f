"""Accessors of glTF as arrays: every component type, normalised or not, strided, sparse, compressed.

Source: glTF 2.0 specification, sections 3.6.2 (accessors) and 3.11 (normalised integers).
"""

from __future__ import annotations

import numpy as np

from threedistill.exports.foreign.limits import check_unpacked
from threedistill.exports.gltf.compressed import meshopt
from threedistill.exports.gltf.container import Gltf, pick, unsound
from threedistill.exports.gltf.schema import Accessor

__all__ = ["Accessors", "fractions"]

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_SHAPES = {"SCALAR": (1, 1), "VEC2": (1, 2), "VEC3": (1, 3), "VEC4": (1, 4), "MAT2": (2, 2), "MAT3": (3, 3),
           "MAT4": (4, 4)}  # fmt: skip


def fractions(values: np.ndarray, normalized: bool) -> np.ndarray:
    """Raw components as float32: ``max(c / (2^(b-1) - 1), -1)`` and ``c / (2^b - 1)`` where they are normalised."""
    if not normalized or values.dtype.kind == "f":
        return values.astype(np.float32)
    scaled = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    return np.maximum(scaled, np.float32(-1))


class Accessors:
    """Reads the accessors of an open file; decompressed buffer views are kept.

    Arguments:
        gltf: the file.
    """

    def __init__(self, gltf: Gltf) -> None:
        self.gltf = gltf
        self._decoded: dict[int, bytes] = {}

    def entry(self, index: int, where: str) -> Accessor:
        """The accessor's own description.

        Raises:
            ThreedistillError: there is no such accessor.
        """
        return pick(self.gltf, self.gltf.document.accessors, index, f"{where} names accessor")

    def floats(self, index: int, where: str, width: int | None = None) -> np.ndarray:
        """(count, width) float32, normalised integers as fractions.

        Arguments:
            index: the accessor.
            where: what names it, for messages.
            width: components that belong here; None takes any.

        Raises:
            ThreedistillError: damaged or of another shape.
        """
        entry = self.entry(index, where)
        return self._checked(fractions(self._raw(entry, f"accessor {index}"), entry.normalized), width, where)

    def integers(self, index: int, where: str, width: int | None = None) -> np.ndarray:
        """(count, width) int64 of an accessor of unsigned integers.

        Raises:
            ThreedistillError: damaged, of another shape, or not of unsigned integers.
        """
        entry = self.entry(index, where)
        if entry.component_type not in (5121, 5123, 5125) or entry.normalized:
            raise unsound(self.gltf.path, f"{where} is not of unsigned integers")
        return self._checked(self._raw(entry, f"accessor {index}").astype(np.int64), width, where)

    def _checked(self, values: np.ndarray, width: int | None, where: str) -> np.ndarray:
        if width is not None and values.shape[1] != width:
            raise unsound(self.gltf.path, f"{where} has {values.shape[1]} components, not {width}")
        return values

    def _raw(self, entry: Accessor, where: str) -> np.ndarray:
        """(count, width) as stored, matrices column by column."""
        kind = np.dtype(_COMPONENTS[entry.component_type])
        columns, rows = _SHAPES[entry.type]
        if entry.buffer_view is None:
            check_unpacked(
                self.gltf.path, entry.count * columns * rows * kind.itemsize, self.gltf.size, where
            )
            values = np.zeros((entry.count, columns * rows), kind)
        else:
            values = self._elements(
                entry.buffer_view, entry.byte_offset, kind, entry.count, (columns, rows), where
            )
        if entry.sparse is None:
            return values
        changes, indices, new = entry.sparse.count, entry.sparse.indices, entry.sparse.values
        where = f"{where}, sparse"
        place = self._elements(
            indices.buffer_view, indices.byte_offset, np.dtype(_COMPONENTS[indices.component_type]), changes, (1, 1),
            where,
        ).astype(np.int64)[:, 0]  # fmt: skip
        if place.max() >= entry.count or (np.diff(place) <= 0).any():
            raise unsound(self.gltf.path, f"{where}: its indices do not rise within the accessor")
        values = values.copy()
        values[place] = self._elements(
            new.buffer_view, new.byte_offset, kind, changes, (columns, rows), where
        )
        return values

    def _elements(
        self, view: int, offset: int, kind: np.dtype, count: int, shape: tuple[int, int], where: str
    ) -> np.ndarray:
        """``count`` elements of columns x rows components from a place in a buffer view."""
        data, stride = self.view(view, where)
        columns, rows = shape
        # Columns of matrices begin at multiples of four bytes (3.6.2.4).
        column = rows * kind.itemsize if columns == 1 else -(-rows * kind.itemsize // 4) * 4
        size = column * (columns - 1) + rows * kind.itemsize
        stride = stride or column * columns
        if stride < size:
            raise unsound(self.gltf.path, f"{where}: elements of {size} bytes every {stride} bytes")
        if offset + stride * (count - 1) + size > len(data):
            raise unsound(self.gltf.path, f"{where} reaches beyond its buffer view")
        array = np.ndarray((count, columns, rows), kind, data, offset, (stride, column, kind.itemsize))
        return array.reshape(count, columns * rows)

    def view(self, index: int, where: str) -> tuple[memoryview | bytes, int | None]:
        """The bytes of a buffer view, and the distance of its elements where it has one.

        Raises:
            ThreedistillError: damaged.
        """
        view = pick(self.gltf, self.gltf.document.buffer_views, index, f"{where} names bufferView")
        packed = view.extensions.ext_meshopt or view.extensions.khr_meshopt
        if packed is not None:
            if index not in self._decoded:
                self._decoded[index] = meshopt(self.gltf, packed, f"bufferView {index}")
            return self._decoded[index], packed.byte_stride
        data = self.gltf.buffer(view.buffer, f"bufferView {index}")
        if view.byte_offset + view.byte_length > len(data):
            raise unsound(self.gltf.path, f"bufferView {index} reaches beyond its buffer")
        return memoryview(data)[view.byte_offset : view.byte_offset + view.byte_length], view.byte_stride
