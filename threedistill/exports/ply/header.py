"""What a PLY file says about itself: its byte order, its comments, its elements and their fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from threedistill.errors import ThreedistillError

__all__ = ["Element", "PlyHeader", "numbers", "read_header"]

KINDS = {
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "char": "i1", "int8": "i1", "uchar": "u1",
    "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4",
    "uint": "u4", "uint32": "u4", "half": "f2", "float16": "f2",
}  # fmt: skip
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_LONGEST_HEADER = 1 << 16


@dataclass
class Element:
    """One kind of row.

    Attributes:
        name: what its rows are.
        count: how many of them follow.
        fields: name and NumPy kind of every field in order; the kind of a list is None.
    """

    name: str
    count: int
    fields: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.fields]


@dataclass
class PlyHeader:
    """The header.

    Attributes:
        order: binary_little_endian, binary_big_endian or ascii.
        start: the first byte behind it.
        comments: their texts, in order.
        elements: in the order in which they follow.
    """

    order: str
    start: int
    comments: list[str]
    elements: list[Element]

    def element(self, name: str) -> Element | None:
        """The element of this name, if there is one."""
        return next((element for element in self.elements if element.name == name), None)


def read_header(path: Path, data: bytes) -> PlyHeader:
    """The header of a PLY file's bytes.

    Raises:
        ThreedistillError: no PLY, no end, an unknown byte order, lines that are none, fields twice.
    """
    head = data[:_LONGEST_HEADER]
    end = head.find(b"\nend_header")
    line_end = data.find(b"\n", end + 1) if end >= 0 else -1
    if not data.startswith(b"ply") or line_end < 0:
        raise ThreedistillError(f"cannot read {path}: not a sound ply file (its header has no end)")
    header = PlyHeader("", line_end + 1, [], [])
    for line in head[:end].decode("latin-1").splitlines():
        words = line.split()
        if not words or words[0] in ("ply", "obj_info"):
            continue
        if words[0] == "comment":
            header.comments.append(line.strip()[len("comment") :].strip())
        elif words[0] == "format" and len(words) > 1:
            header.order = words[1]
        elif words[0] == "element" and len(words) == 3 and _is_count(words[2]):
            header.elements.append(Element(words[1], int(words[2])))
        elif words[0] == "property" and len(words) >= 3 and header.elements:
            kind = None if words[1] == "list" else KINDS.get(words[1])
            if kind is None and words[1] != "list":
                raise ThreedistillError(f"cannot read {path}: its field {words[-1][:40]!r} is no number")
            header.elements[-1].fields.append((words[-1], kind))
        else:
            raise ThreedistillError(f"cannot read {path}: its header has a line {line.strip()[:60]!r}")
    if header.order not in ORDERS:
        raise ThreedistillError(
            f"cannot read {path}: the ply format {header.order[:40]!r} is none of {', '.join(ORDERS)}"
        )
    for element in header.elements:
        if len(set(element.names)) != len(element.names):
            raise ThreedistillError(f"cannot read {path}: a field appears twice in its header")
    return header


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 19


def numbers(path: Path, data: bytes, header: PlyHeader, name: str) -> np.ndarray:
    """The rows of an element of numbers as a structured array, without a copy where the file is binary.

    Raises:
        ThreedistillError: the file is cut off, or lists stand before or in the element.
    """
    skipped = words = 0
    for element in header.elements:
        bad = [field for field, kind in element.fields if kind is None]
        if bad:
            raise ThreedistillError(
                f"cannot read {path}: its field {bad[0][:40]!r} is a list where numbers belong"
            )
        order = ORDERS[header.order]
        kind = np.dtype([(field, order + (kind or "")) for field, kind in element.fields])
        if element.name == name:
            break
        skipped, words = skipped + element.count * kind.itemsize, words + element.count * len(element.fields)
    else:
        raise ThreedistillError(f"cannot read {path}: it has no {name}")
    cut = ThreedistillError(
        f"cannot read {path}: it is cut off, its header promises {element.count} {_PLURALS.get(name, name)}"
    )
    if header.order == "ascii":
        return _text(path, data[header.start :], element, words, cut)
    if len(data) < header.start + skipped + element.count * kind.itemsize:
        raise cut
    return np.frombuffer(data, kind, element.count, header.start + skipped)


_PLURALS = {"vertex": "splats", "chunk": "chunks"}


def _text(path: Path, body: bytes, element: Element, skipped: int, cut: Exception) -> np.ndarray:
    wanted = skipped + element.count * len(element.fields)
    if len(body) < 2 * wanted - 1:  # a digit and a space each
        raise cut
    try:
        with np.errstate(all="ignore"):
            values = np.fromstring(body.decode("latin-1"), np.float64, wanted, sep=" ")
    except (ValueError, DeprecationWarning) as error:
        raise ThreedistillError(f"cannot read {path}: a word among its numbers is none") from error
    if len(values) < wanted:
        raise cut
    kind = np.dtype([(field, "f8") for field in element.names])
    return values[skipped:].view(kind)
