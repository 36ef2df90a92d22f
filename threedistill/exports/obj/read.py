"""Wavefront OBJ with its materials.

Polygons of any size, coordinates and normals by corner, negative indices, lines continued with a backslash, vertex
colours (``v x y z r g b``), several material files, names with spaces. What a mesh cannot be (lines, points, free-form
curves and surfaces) is named. Source: Alias|Wavefront, "Object Files (.obj)", 1995.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.appearance.joined import Part, joined
from threedistill.exports.appearance.materials import Material
from threedistill.exports.foreign.beside import beside
from threedistill.exports.foreign.limits import check
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.meshes.polygons import triangulated
from threedistill.exports.obj.mtl import Entry, materials, parsed
from threedistill.render.shading import srgb_to_linear
from threedistill.texts import is_number

__all__ = ["read_obj"]

#: Keywords of what is no triangle, and what to call it.
_LOST = {
    "l": "line", "p": "point", "curv": "free-form curve", "curv2": "free-form curve", "surf": "free-form surface",
}  # fmt: skip
_PLAIN = Material(metallic=0.0)


@dataclass
class _Text:
    """What the lines of a file say.

    Attributes:
        rows: the numbers behind ``v``, ``vt`` and ``vn``, as they stand.
        corners: per corner of every face: indices of position, coordinates (-1: none) and normal (-1: none).
        counts: corners of each face.
        used: per face, which of ``names`` it is made of.
        names: of materials, in the order of their first use; the first is "", for faces before any ``usemtl``.
        libraries: the material files.
        left: how often a keyword of :data:`_LOST` came.
    """

    rows: dict[str, list[list[str]]] = field(default_factory=lambda: {"v": [], "vt": [], "vn": []})
    corners: list[tuple[int, int, int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: [""])
    libraries: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


def read_obj(path: Path) -> Opened:
    """The faces of an OBJ with their materials.

    Raises:
        ThreedistillError: no faces, indices or numbers that are wrong, a picture that is missing.
    """
    text = _scanned(path)
    if not text.corners:
        held = ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for what, n in text.left.items())
        raise ThreedistillError(
            f"cannot read {path}: it holds no triangles{f' (it holds {held})' if held else ''}"
        )
    points, colors = _positions(path, text.rows["v"])
    uv, normals = _table(path, text.rows["vt"], 2, "vt"), _table(path, text.rows["vn"], 3, "vn")
    corners = np.array(text.corners, dtype=np.int64)
    for column, (table, what) in enumerate([(points, "v"), (uv, "vt"), (normals, "vn")]):
        worst = int(corners[:, column].max())
        if worst >= len(table):
            raise ThreedistillError(
                f"cannot read {path}: a face names {what} {worst + 1}, there are {len(table)}"
            )
    lost = [f"{count} {what}{'s' if count > 1 else ''}" for what, count in text.left.items()]
    faces, owner = triangulated(points, corners[:, 0], np.array(text.counts))
    check(path, "triangles", len(faces))
    looks = _materials(path, text, lost)
    used = np.array(text.used)[owner]
    parts = []
    for index in np.unique(used):
        own = corners[faces[used == index].reshape(-1)]
        rows, place = np.unique(own, axis=0, return_inverse=True)
        parts.append(
            Part(
                _tensor(points[rows[:, 0]]), torch.from_numpy(place.reshape(-1, 3).astype(np.int64)),
                _normals(normals, rows[:, 2]), {0: _tensor(uv[rows[:, 1]])} if (rows[:, 1] >= 0).all() else {},
                None if colors is None else _linear(colors[rows[:, 0]]), looks.get(text.names[index], _PLAIN),
            )
        )  # fmt: skip
    if not parts:
        raise ThreedistillError(f"cannot read {path}: its faces have fewer than three corners")
    result = joined(parts)
    return Opened(result.mesh, unlit=result.unlit, lost=[*dict.fromkeys([*lost, *result.lost])])


def _scanned(path: Path) -> _Text:
    """Every line, in order; an index counts from the rows above it where it is negative."""
    found = _Text()
    rows, names, current, known = found.rows, {"": 0}, 0, {}
    v, vt, vn = rows["v"], rows["vt"], rows["vn"]
    for number, line in _lines(path):
        words = line.split()
        key = words[0] if words else "#"
        if key in rows:
            rows[key].append(words[1:])
        elif key in ("f", "fo"):
            for word in words[1:]:
                corner = known.get(word)
                if corner is None:
                    try:
                        corner = _corner(word, len(v), len(vt), len(vn))
                    except ValueError:
                        raise ThreedistillError(
                            f"cannot read {path}: line {number}: {word[:40]!r} is no corner of a face"
                        ) from None
                    if "-" not in word:
                        known[word] = corner
                found.corners.append(corner)
            found.counts.append(len(words) - 1)
            found.used.append(current)
        elif key == "usemtl":
            name = line.split(None, 1)[1].strip() if len(words) > 1 else ""
            current = names.setdefault(name, len(names))
        elif key == "mtllib":
            found.libraries.append(line.split(None, 1)[1].strip() if len(words) > 1 else "")
        elif key in _LOST:
            found.left[_LOST[key]] += 1
    found.names = list(names)
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, continued ones put together, without remarks."""
    waiting = ""
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
        if line.endswith("\\"):
            waiting += line[:-1] + " "
            continue
        line, waiting = waiting + line, ""
        if not line.lstrip().startswith("#"):
            yield number, line.partition(" #")[0] if line[:1] in "vf" else line


def _corner(word: str, *counts: int) -> tuple[int, int, int]:
    """``3/1/2``, ``3//2``, ``-1``: the three indices from 0; -1 where there is none."""
    found = []
    for part, count in zip([*word.split("/"), "", ""][:3], counts):
        index = int(part) if part else 0
        found.append(index - 1 if index > 0 else count + index if index < 0 else -1)
        if index < 0 and count + index < 0:
            raise ValueError
    if found[0] < 0:
        raise ValueError
    return found[0], found[1], found[2]


def _positions(path: Path, rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray | None]:
    """(N, 3) positions, and (N, 3) sRGB colours where every vertex has some."""
    points = _table(path, rows, 3, "v")
    if not rows or not all(len(row) in (6, 7) for row in rows):
        return points, None
    colors = _table(path, [row[3:6] for row in rows], 3, "v")
    return points, colors / (255 if colors.max(initial=0) > 1 else 1)


def _table(path: Path, rows: list[list[str]], width: int, key: str) -> np.ndarray:
    """(N, width) numbers; coordinates may leave out their last."""
    if key == "vt":
        rows = [row if len(row) >= 2 else [*row, "0"] for row in rows]
    try:
        return np.array([row[:width] for row in rows], dtype=np.float64).reshape(-1, width)
    except ValueError:
        for row in rows:
            if len(row) < width or not all(map(is_number, row[:width])):
                shown = " ".join([key, *row])[:60]
                raise ThreedistillError(f"cannot read {path}: not a sound obj file ({shown!r})") from None
        raise


def _materials(path: Path, text: _Text, lost: list[str]) -> dict[str, Material]:
    """The materials that faces use, by name."""
    entries: dict[str, Entry] = {}
    linear, missing = False, []
    for line in text.libraries:
        # The line is one name with spaces, or several names.
        names = [line] if beside(path, line) else re.findall(r"\S+", line)
        for name in names:
            file = beside(path, name)
            if file is None:
                missing.append(name)
                continue
            found, linear = parsed(file.read_bytes().decode("utf-8", "replace"))
            entries |= {key: entry for key, entry in found.items() if key not in entries}
    wanted = {name: entries[name] for name in text.names if name in entries}
    if missing and any(name and name not in entries for name in text.names):
        lost.append(f"its materials ({', '.join(missing)[:80]} is not beside it)")
    return materials(path, wanted, linear, lost)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _normals(normals: np.ndarray, rows: np.ndarray) -> Tensor | None:
    if not (rows >= 0).all():
        return None
    return torch.nn.functional.normalize(_tensor(normals[rows]), dim=1)


def _linear(colors: np.ndarray) -> Tensor:
    """(N, 4) linear factors of sRGB colours."""
    rgb = srgb_to_linear(_tensor(colors).clamp(0, 1))
    return torch.cat([rgb, torch.ones(len(rgb), 1)], 1)
