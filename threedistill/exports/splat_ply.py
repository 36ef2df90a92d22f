"""3DGS PLY, the layout of INRIA's trainer: float32 parameters before activation, one vertex per splat.

``x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3``: normals are zero, ``f_rest`` is channel-major (all
reds, all greens, all blues), opacity a logit, scales logarithms, rotations (w, x, y, z).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threedistill.errors import ThreedistillError
from threedistill.exports.gltf import generator, jsonable
from threedistill.exports.limits import check
from threedistill.types import Splats

__all__ = ["is_splat_ply", "ply_bytes", "read_ply"]

_KINDS = {
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "char": "i1", "int8": "i1", "uchar": "u1",
    "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4",
    "uint": "u4", "uint32": "u4",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_NEEDED = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
    "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
#: Fields that repeat what the others say, or say nothing.
_IGNORED = ("nx", "ny", "nz", "red", "green", "blue", "alpha")
#: f_rest fields -> degree.
_REST = {0: 0, 9: 1, 24: 2, 45: 3}
_HEADER_LIMIT = 1 << 16


def ply_bytes(splats: Splats, up: str) -> bytes:
    """The file for a cloud that is already in the file's frame; ``up`` is noted in a comment for our reader."""
    count, bands = len(splats), splats.sh.shape[1]
    rest = splats.sh[:, 1:].transpose(1, 2).reshape(count, -1)  # channel-major
    columns = [
        splats.means, torch.zeros(count, 3), splats.sh[:, 0], rest, splats.opacity_logits[:, None],
        splats.log_scales, splats.quaternions,
    ]  # fmt: skip
    table = np.ascontiguousarray(
        torch.cat([c.detach().cpu().float() for c in columns], 1).numpy(), dtype="<f4"
    )
    names = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{k}" for k in range(3))]
    names += [f"f_rest_{k}" for k in range(3 * (bands - 1))]
    names += ["opacity", *(f"scale_{k}" for k in range(3)), *(f"rot_{k}" for k in range(4))]
    header = ["ply", "format binary_little_endian 1.0", f"comment {generator()}", f"comment up {up}"]
    if splats.extras:  # ASCII: readers decode the header as such
        header.append(f"comment facts {json.dumps(jsonable(splats.extras), sort_keys=True)}")
    header += [f"element vertex {count}", *(f"property float {name}" for name in names), "end_header"]
    return ("\n".join(header) + "\n").encode("ascii") + table.tobytes()


class _Header:
    """What a PLY says about itself, as far as splats go."""

    def __init__(self, data: bytes, path: Path) -> None:
        text, mark, _ = data[:_HEADER_LIMIT].partition(b"end_header")
        line_end = data.find(b"\n", len(text))
        if not data.startswith(b"ply") or not mark or line_end < 0:
            raise ThreedistillError(f"cannot read {path}: not a sound ply file (its header has no end)")
        self.start = line_end + 1
        self.order, self.up, self.facts = "", None, {}
        self.elements: list[tuple[str, int, list[tuple[str, str]]]] = []
        for line in text.decode("latin-1").splitlines():
            words = line.split()
            if not words:
                continue
            if words[0] == "format" and len(words) > 1:
                self.order = words[1]
            elif words[:2] == ["comment", "up"] and len(words) == 3 and words[2] in ("-y", "y", "z"):
                self.up = words[2]
            elif words[:2] == ["comment", "facts"]:
                self.facts = _facts(line.split("facts", 1)[1])
            elif words[0] == "element" and len(words) == 3 and words[2].isdigit():
                self.elements.append((words[1], int(words[2]), []))
            elif words[0] == "property" and len(words) >= 3 and self.elements:
                self.elements[-1][2].append((words[-1], words[1]))
        if self.order not in _ORDERS:
            raise ThreedistillError(
                f"cannot read {path}: the ply format {self.order!r} is none of {', '.join(_ORDERS)}"
            )


def _facts(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_splat_ply(path: Path) -> bool:
    """Whether a PLY holds splats rather than a mesh or bare points."""
    with path.open("rb") as file:
        head = file.read(_HEADER_LIMIT).partition(b"end_header")[0]
    return head.startswith(b"ply") and any(
        key in head for key in (b" f_dc_0", b" rot_0", b" packed_position")
    )


def read_ply(path: Path, data: bytes) -> tuple[Splats, str | None]:
    """The cloud in the file's own frame, and the up axis if the file names it.

    Any order of the fields, any number type, either byte order or text; harmonics of degree 0 to 3.

    Raises:
        ThreedistillError: a field is missing or unknown, the harmonics are no whole degree, the file is cut off.
    """
    header = _Header(data, path)
    if any(name == "chunk" for name, _, _ in header.elements):
        raise ThreedistillError(
            f"cannot read {path}: it is PlayCanvas' compressed ply; write it as ply with splat-transform first"
        )
    if not header.elements or header.elements[0][0] != "vertex":
        raise ThreedistillError(f"cannot read {path}: a splat ply begins with its vertices")
    _, count, fields = header.elements[0]
    names = [name for name, _ in fields]
    degree = _check_fields(path, names)
    if count == 0:
        raise ThreedistillError(f"cannot read {path}: it holds no splats")
    check(path, "splats", count)
    table = _table(path, data[header.start :], header.order, count, fields)
    index = {name: k for k, name in enumerate(names)}

    def columns(*wanted: str) -> torch.Tensor:
        return table[:, [index[name] for name in wanted]].float()

    dc = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    rest = (degree + 1) ** 2 - 1
    higher = columns(*(f"f_rest_{k}" for k in range(3 * rest))).view(count, 3, rest).transpose(1, 2)
    splats = Splats(
        means=columns("x", "y", "z"), log_scales=columns("scale_0", "scale_1", "scale_2"),
        quaternions=columns("rot_0", "rot_1", "rot_2", "rot_3"), opacity_logits=columns("opacity")[:, 0],
        sh=torch.cat([dc, higher], 1).contiguous(), extras=header.facts,
    )  # fmt: skip
    return splats, header.up


def _check_fields(path: Path, names: list[str]) -> int:
    """The degree of the harmonics; raises where the fields are not those of splats."""
    if len(set(names)) != len(names):
        raise ThreedistillError(f"cannot read {path}: a field appears twice in its header")
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise ThreedistillError(
            f"cannot read {path}: not a splat ply, it lacks {', '.join(missing)}"
            + (" (a mesh or a point cloud?)" if "f_dc_0" in missing and "rot_0" in missing else "")
        )
    rest = sum(name.startswith("f_rest_") for name in names)
    unknown = [n for n in names if n not in _NEEDED and n not in _IGNORED and not n.startswith("f_rest_")]
    if unknown:
        raise ThreedistillError(
            f"cannot read {path}: unknown fields {', '.join(unknown[:5])}; a splat ply has "
            f"{' '.join(_NEEDED)}, f_rest_* and perhaps normals"
        )
    if rest not in _REST or any(f"f_rest_{k}" not in names for k in range(rest)):
        raise ThreedistillError(
            f"cannot read {path}: {rest} f_rest fields are no whole degree of harmonics (0, 9, 24 or 45 are)"
        )
    return _REST[rest]


def _table(path: Path, body: bytes, order: str, count: int, fields: list[tuple[str, str]]) -> torch.Tensor:
    """(count, fields) numbers in double."""
    bad = [kind for _, kind in fields if kind not in _KINDS]
    if bad:
        raise ThreedistillError(f"cannot read {path}: splats have numbers, not {bad[0]} properties")
    cut = ThreedistillError(f"cannot read {path}: it is cut off, its header promises {count} splats")
    if order == "ascii":
        try:
            words = body.split(maxsplit=count * len(fields))[: count * len(fields)]
            values = np.array(words, dtype="S").astype(np.float64)
        except ValueError as error:
            raise ThreedistillError(f"cannot read {path}: {error}") from error
        if len(values) < count * len(fields):
            raise cut
        return torch.from_numpy(values.reshape(count, len(fields)))
    kind = np.dtype([(name, _ORDERS[order] + _KINDS[k]) for name, k in fields])
    if len(body) < count * kind.itemsize:
        raise cut
    rows = np.frombuffer(body, dtype=kind, count=count)
    return torch.from_numpy(np.stack([rows[name].astype(np.float64) for name, _ in fields], 1))
