"""The header of PLY: the byte order, the comments, the elements and their properties; and elements of plain numbers.

Source: Greg Turk, "The PLY Polygon File Format", 1994.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from threedistill.errors import ThreedistillError

__all__ = ["Element", "Header", "Property", "numbers", "read_header"]

_KINDS = {
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "char": "i1", "int8": "i1", "uchar": "u1",
    "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4",
    "uint": "u4", "uint32": "u4", "half": "f2", "float16": "f2",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_END = b"end_header"
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Property:
    """One property: a number of NumPy's kind ``kind``, or a list of them with its length of ``length`` before it."""

    name: str
    kind: str
    length: str | None = None


@dataclass
class Element:
    """One kind of row.

    Attributes:
        name: what its rows are.
        count: how many of them follow.
        properties: in their order.
    """

    name: str
    count: int
    properties: list[Property] = field(default_factory=list[Property])

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.properties]


@dataclass
class Header:
    """The header.

    Attributes:
        order: NumPy's sign for the order of bytes, "=" for text.
        size: bytes of the header.
        comments: their texts, in order.
        elements: in the order in which they follow.
    """

    order: str
    size: int
    comments: list[str]
    elements: list[Element]

    def element(self, name: str) -> Element | None:
        """The element of this name, if there is one."""
        return next((element for element in self.elements if element.name == name), None)


def read_header(path: Path, data: bytes) -> Header:
    """The header of a PLY file's bytes; lines end in any of the three ways.

    Raises:
        ThreedistillError: no PLY, no end, an unknown byte order, lines that are none, properties twice.
    """

    def unsound(reason: str) -> ThreedistillError:
        return ThreedistillError(f"cannot read {path}: not a sound ply file ({reason})")

    end = data.find(_END, 0, _LONGEST_HEADER)
    if not data.startswith(b"ply") or end < 0:
        raise unsound("its header has no end")
    newline = data.find(b"\n", end, end + len(_END) + 3)
    header = Header("", (newline if newline >= 0 else end + len(_END)) + 1, [], [])
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] == "obj_info":
            continue
        if words[0] == "comment":
            header.comments.append(line.strip()[len("comment") :].strip())
        elif words[0] == "format" and len(words) > 1:
            if words[1] not in _ORDERS:
                raise unsound(f"its format {words[1][:40]!r} is none of {', '.join(_ORDERS)}")
            header.order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and _is_count(words[2]):
            header.elements.append(Element(words[1], int(words[2])))
        elif words[0] == "property" and len(words) >= 3 and header.elements:
            listed = words[1] == "list"
            kinds = [_KINDS.get(kind) for kind in (words[2:4] if listed else words[1:2])]
            kind, length = kinds[-1], kinds[0] if listed else None
            if kind is None or None in kinds or len(words) != (5 if listed else 3):
                raise unsound(f"its property {words[-1][:40]!r} is no number and no list of numbers")
            header.elements[-1].properties.append(Property(words[-1], kind, length))
        else:
            raise unsound(f"its header has a line {line.strip()[:60]!r}")
    if not header.order:
        raise unsound("it does not say its format")
    for element in header.elements:
        if len(set(element.names)) != len(element.names):
            raise unsound(f"a property of its element {element.name[:40]!r} appears twice")
    return header


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 16


def numbers(path: Path, data: bytes, header: Header, name: str) -> np.ndarray:
    """The rows of an element of numbers as a structured array, without a copy where the file is binary.

    Raises:
        ThreedistillError: the file is cut off, or lists stand before or in the element.
    """
    skipped = words = 0
    for element in header.elements:
        bad = [p.name for p in element.properties if p.length]
        if bad:
            raise ThreedistillError(
                f"cannot read {path}: its property {bad[0][:40]!r} is a list where numbers belong"
            )
        kind = np.dtype([(p.name, header.order + p.kind) for p in element.properties])
        if element.name == name:
            break
        skipped += element.count * kind.itemsize
        words += element.count * len(element.properties)
    else:
        raise ThreedistillError(f"cannot read {path}: it has no {name}")
    cut = ThreedistillError(
        f"cannot read {path}: it is cut off, its header promises {element.count} {_PLURALS.get(name, name)}"
    )
    if header.order == "=":
        return _text(path, data[header.size :], element, words, cut)
    if len(data) < header.size + skipped + element.count * kind.itemsize:
        raise cut
    return np.frombuffer(data, kind, element.count, header.size + skipped)


_PLURALS = {"vertex": "splats", "chunk": "chunks"}


def _text(path: Path, body: bytes, element: Element, skipped: int, cut: Exception) -> np.ndarray:
    wanted = skipped + element.count * len(element.properties)
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
