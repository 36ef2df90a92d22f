"""One table of what a file may take: small files stay small.

Every size is read from the file's own headers and compared with this table *before* anything is unpacked or
allocated. Some bounds are plain numbers; others grow with the file, so that a large honest file passes where a small
one that claims as much does not. A user who trusts a file raises a bound with ``--limit NAME=N`` (or ``NAME=none``),
which every refusal spells out; a program does it with :func:`limits`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from pathlib import Path

from threedistill.errors import ThreedistillError, UsageError

__all__ = [
    "FREE_BYTES",
    "Limits",
    "check",
    "check_pixels",
    "check_unpacked",
    "current",
    "limits",
    "parse_limits",
]

#: What any file may take in memory, however small it is.
FREE_BYTES = 64 << 20
#: Pixels that a byte of a compressed picture may stand for, where that allows more than ``pixels``.
_PIXELS_PER_BYTE = 4


@dataclass(frozen=True)
class Limits:
    """The table; None lifts a bound.

    Arguments:
        expansion: bytes in memory for each byte of the file, beyond the first 64 MB: archives, compressed and
            claimed counts. (Quantised splats take 4 to 10 times their file, text up to 30 times.)
        splats: splats in a cloud.
        triangles: triangles in a mesh.
        pixels: pixels of all pictures of a file together; a file may have 4 for each byte of its pictures where that
            is more.
        nodes: nodes of a scene.
        members: files in an archive.
        json_values: objects, lists and their elements in a JSON text.
        json_depth: how deep they lie in each other.
    """

    expansion: int | None = 32
    splats: int | None = 50_000_000
    triangles: int | None = 20_000_000
    pixels: int | None = 1 << 25
    nodes: int | None = 200_000
    members: int | None = 10_000
    json_values: int | None = 4_000_000
    json_depth: int | None = 100


_CURRENT: ContextVar[Limits] = ContextVar("threedistill_limits", default=Limits())  # noqa: B039  (it is frozen)
_UNITS = {
    "json_values": "values of JSON", "json_depth": "levels of JSON", "members": "files inside", "pixels": "pixels",
}  # fmt: skip


def current() -> Limits:
    """The table that holds here."""
    return _CURRENT.get()


@contextlib.contextmanager
def limits(changes: Mapping[str, int | None] | None = None, **named: int | None) -> Iterator[Limits]:
    """Within the block, some bounds are others; blocks nest and threads do not share them.

    Arguments:
        changes, named: fields of :class:`Limits` and their new values.
    """
    token = _CURRENT.set(replace(_CURRENT.get(), **{**(changes or {}), **named}))
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(token)


def parse_limits(words: list[str] | None) -> dict[str, int | None]:
    """``["splats=80000000", "pixels=none"]`` as changes for :func:`limits`.

    Raises:
        UsageError: a name that is no limit, or a value that is no positive whole number.
    """
    names = [field.name.replace("_", "-") for field in fields(Limits)]
    found: dict[str, int | None] = {}
    for word in words or ():
        name, _, value = word.partition("=")
        if name not in names:
            raise UsageError(f"--limit {word[:60]}: there is no such limit (there are: {', '.join(names)})")
        if value != "none" and not (value.isascii() and value.isdigit() and len(value) < 19 and int(value)):
            raise UsageError(f"--limit {word[:60]}: {name} needs a whole number above 0, or none")
        found[name.replace("-", "_")] = None if value == "none" else int(value)
    return found


def check(path: Path | str, name: str, amount: int, where: str = "it") -> None:
    """Raise where ``amount`` is more than the limit ``name``.

    Arguments:
        path: the file, for the message.
        name: a field of :class:`Limits`.
        amount: what the file says that it holds.
        where: the part of the file that says so.

    Raises:
        ThreedistillError: with the words that raise the limit.
    """
    limit = getattr(current(), name)
    if limit is not None and amount > limit:
        what = f"{where} holds {amount} {_UNITS.get(name, name)}, more than the limit of {limit}"
        raise _refusal(path, what, name, amount)


def check_unpacked(path: Path | str, unpacked: int, packed: int, what: str = "its contents") -> None:
    """Raise where ``unpacked`` bytes of memory are out of proportion to ``packed`` bytes of file.

    Arguments:
        path: the file, for the message.
        unpacked: bytes that ``what`` will take in memory, from its header.
        packed: bytes of the file, or of the part of it that holds them.
        what: the contents in words.

    Raises:
        ThreedistillError: more than ``expansion`` times as much, beyond 64 MB.
    """
    limit = current().expansion
    if limit is not None and unpacked > FREE_BYTES + limit * packed:
        needed = -(-(unpacked - FREE_BYTES) // max(packed, 1))
        size = f"{unpacked / 1e6:.0f} MB in memory for a file of {packed / 1e6:.3g} MB"
        raise _refusal(
            path, f"{what} would take {size}, more than {limit} times as much", "expansion", needed
        )


def check_pixels(path: Path | str, pixels: int, packed: int, what: str = "its pictures") -> None:
    """Raise where pictures would be too large, by their own headers.

    Arguments:
        path: the file, for the message.
        pixels: width times height, added up over all pictures of the file that are decoded.
        packed: bytes of those pictures as they are stored.
        what: the pictures in words.

    Raises:
        ThreedistillError: more than ``pixels``, and more than 4 for each stored byte.
    """
    limit = current().pixels
    if limit is not None and pixels > max(limit, _PIXELS_PER_BYTE * packed):
        raise _refusal(
            path, f"{pixels} pixels of {what} are more than the limit of {limit}", "pixels", pixels
        )


def _refusal(path: Path | str, what: str, name: str, needed: int) -> ThreedistillError:
    flag = f"--limit {name.replace('_', '-')}={needed}"
    return ThreedistillError(f"cannot read {path}: {what}; if you trust the file, say {flag}")
