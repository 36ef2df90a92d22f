"""The elements of PLY as tables: text or binary, lists of any length, whatever they are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.limits import check_unpacked
from threedistill.exports.ply.header import Header, Property

__all__ = ["Table", "elements"]


@dataclass
class Table:
    """One element's rows.

    Attributes:
        columns: numbers by property.
        lists: of list properties, all values one after the other and the length of each row's.
    """

    columns: dict[str, np.ndarray]
    lists: dict[str, tuple[np.ndarray, np.ndarray]]


def elements(path: Path, data: bytes, header: Header) -> dict[str, Table]:
    """All elements by name, in the file's types.

    Raises:
        ThreedistillError: fewer bytes than the head promises.
    """
    least = sum(
        element.count * sum(np.dtype(p.length or p.kind).itemsize for p in element.properties)
        for element in header.elements
    )
    left = len(data) - header.size
    if header.order == "=":
        least = sum(2 * element.count * len(element.properties) for element in header.elements) - 1
    if least > left:
        counts = ", ".join(f"{element.count} {element.name}" for element in header.elements)
        raise ThreedistillError(f"cannot read {path}: it is cut off, its header promises {counts}")
    read = (
        _Words(path, data[header.size :])
        if header.order == "="
        else _Bytes(path, data, header.size, header.order)
    )
    return {element.name: read.table(element.count, element.properties) for element in header.elements}


class _Bytes:
    """Rows of binary elements; rows whose lists have equal lengths are taken together."""

    def __init__(self, path: Path, data: bytes, start: int, order: str) -> None:
        self.path, self.data, self.at, self.order = path, data, start, order

    def table(self, count: int, properties: list[Property]) -> Table:
        """The next ``count`` rows."""
        columns: dict[str, list[np.ndarray]] = {p.name: [] for p in properties if p.length is None}
        lists: dict[str, list[np.ndarray]] = {p.name: [] for p in properties if p.length}
        lengths: dict[str, list[np.ndarray]] = {name: [] for name in lists}
        done, step = 0, 1 << 30
        while done < count:
            sizes = self._sizes(properties)
            fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
            for p, size in zip(properties, sizes):
                if p.length:
                    fields += [
                        (f"length {p.name}", self.order + p.length),
                        (p.name, self.order + p.kind, (size,)),
                    ]
                else:
                    fields.append((p.name, self.order + p.kind))
            row = np.dtype(fields)
            room = (len(self.data) - self.at) // row.itemsize if row.itemsize else count
            rows = np.frombuffer(self.data, row, min(count - done, step, room), self.at)
            good = len(rows)
            for p, size in zip(properties, sizes):
                if p.length:
                    other = np.flatnonzero(rows[f"length {p.name}"][:good] != size)
                    good = int(other[0]) if len(other) else good
            if good == 0:
                raise ThreedistillError(f"cannot read {self.path}: it is cut off after {done} rows")
            step = max(16, 4 * good)  # after a short run the next ones are likely short
            for p, size in zip(properties, sizes):
                values = rows[p.name][:good]
                if p.length:
                    lists[p.name].append(values.reshape(-1))
                    lengths[p.name].append(np.full(good, size))
                else:
                    columns[p.name].append(values)
            self.at += good * row.itemsize
            done += good
        empty = np.empty(0)
        return Table(
            {name: np.concatenate(blocks or [empty]) for name, blocks in columns.items()},
            {
                name: (
                    np.concatenate(blocks or [empty]),
                    np.concatenate(lengths[name] or [empty.astype(int)]),
                )
                for name, blocks in lists.items()
            },
        )

    def _sizes(self, properties: list[Property]) -> list[int]:
        """The lengths of the lists of the row that comes next."""
        at, sizes = self.at, []
        for p in properties:
            size = 0
            if p.length:
                kind = np.dtype(self.order + p.length)
                if at + kind.itemsize > len(self.data):
                    raise ThreedistillError(f"cannot read {self.path}: it is cut off")
                size = int(np.frombuffer(self.data, kind, 1, at)[0])
                at += kind.itemsize
                if size < 0 or size * np.dtype(p.kind).itemsize > len(self.data) - at:
                    raise ThreedistillError(
                        f"cannot read {self.path}: it is cut off, or a list's length is wrong ({size})"
                    )
                at += size * np.dtype(p.kind).itemsize
            else:
                at += np.dtype(p.kind).itemsize
            sizes.append(size)
        return sizes


class _Words:
    """Rows of text elements: words, wherever lines end."""

    def __init__(self, path: Path, data: bytes) -> None:
        check_unpacked(path, 60 * data.count(b" "), len(data))
        self.path, self.words, self.at = path, data.split(), 0

    def table(self, count: int, properties: list[Property]) -> Table:
        """The next ``count`` rows."""
        try:
            if not any(p.length for p in properties):
                return Table(self._block(count, properties), {})
            return self._rows(count, properties)
        except (ValueError, OverflowError) as error:
            text = " ".join(str(error).split())[:80]
            raise ThreedistillError(f"cannot read {self.path}: not a sound ply file ({text})") from error

    def _block(self, count: int, properties: list[Property]) -> dict[str, np.ndarray]:
        width = len(properties)
        words = self.words[self.at : self.at + count * width]
        if len(words) < count * width:
            raise ThreedistillError(f"cannot read {self.path}: it is cut off")
        self.at += count * width
        table = np.array(words, dtype=np.float64).reshape(count, width)
        return {p.name: _typed(table[:, k], p.kind) for k, p in enumerate(properties)}

    def _rows(self, count: int, properties: list[Property]) -> Table:
        words, at = self.words, self.at
        values: dict[str, list[bytes]] = {p.name: [] for p in properties}
        lengths: dict[str, list[int]] = {p.name: [] for p in properties if p.length}
        for _ in range(count):
            for p in properties:
                size = 1
                if p.length:
                    if at >= len(words):
                        raise ThreedistillError(f"cannot read {self.path}: it is cut off")
                    size = int(words[at])
                    at += 1
                    lengths[p.name].append(size)
                if size < 0 or at + size > len(words):
                    raise ThreedistillError(f"cannot read {self.path}: it is cut off")
                values[p.name] += words[at : at + size]
                at += size
        self.at = at
        arrays = {p.name: _typed(np.array(values[p.name], dtype=np.float64), p.kind) for p in properties}
        return Table(
            {p.name: arrays[p.name] for p in properties if not p.length},
            {name: (arrays[name], np.array(sizes, dtype=np.int64)) for name, sizes in lengths.items()},
        )


def _typed(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers in a property's type; what does not fit in a whole number's is refused."""
    if kind[0] == "f":
        return values.astype(kind)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(f"a number is outside of {kind}")
    return values.astype(kind)
