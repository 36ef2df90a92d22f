"""3DGS PLY, the layout of INRIA's trainer: float32 parameters before activation, one vertex per splat.

``x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3``: normals are zero, ``f_rest`` is channel-major (all
reds, all greens, all blues), opacity a logit, scales logarithms, rotations (w, x, y, z).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threedistill.errors import ThreedistillError
from threedistill.exports.files import facts_in, generator, jsonable
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.frames import Frame, named_frame
from threedistill.exports.ply.header import Header, numbers, read_header
from threedistill.exports.splats.blocks import THIN, Block, check_count, from_blocks
from threedistill.render.harmonics import C0, MAX_DEGREE
from threedistill.types import Splats

__all__ = ["is_splat_ply", "ply_bytes", "read_ply"]

_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_NEEDED = ("x", "y", "z", *_COLOR, "opacity", *_SCALES, "rot_0", "rot_1", "rot_2", "rot_3")
#: Fields that repeat what the others say, or say nothing.
_REPEATED = ("nx", "ny", "nz", "red", "green", "blue", "alpha")
_REST = re.compile(r"f_rest_(\d{1,4})")
_HEADER_LIMIT = 1 << 16


def ply_bytes(splats: Splats, frame: Frame) -> bytes:
    """The file for a cloud that is already in the file's frame, which a comment notes for our reader."""
    count, bands = len(splats), splats.sh.shape[1]
    rest = splats.sh[:, 1:].transpose(1, 2).reshape(count, -1)  # channel-major
    columns = [
        splats.means, torch.zeros(count, 3), splats.sh[:, 0], rest, splats.opacity_logits[:, None],
        splats.log_scales, splats.quaternions,
    ]  # fmt: skip
    table = np.ascontiguousarray(
        torch.cat([c.detach().cpu().float() for c in columns], 1).numpy(), dtype="<f4"
    )
    names = [*"xyz", "nx", "ny", "nz", *_COLOR, *(f"f_rest_{k}" for k in range(3 * (bands - 1)))]
    names += ["opacity", *_SCALES, *(f"rot_{k}" for k in range(4))]
    header = ["ply", "format binary_little_endian 1.0", f"comment {generator()}"]
    header.append(f"comment up {frame.up} front {frame.front}")
    if splats.extras:  # ASCII: readers decode the header as such
        header.append(f"comment facts {json.dumps(jsonable(splats.extras), sort_keys=True)}")
    header += [f"element vertex {count}", *(f"property float {name}" for name in names), "end_header"]
    return ("\n".join(header) + "\n").encode("ascii") + table.tobytes()


def is_splat_ply(path: Path) -> bool:
    """Whether a PLY holds splats rather than a mesh or bare points."""
    with path.open("rb") as file:
        head = file.read(_HEADER_LIMIT).partition(b"end_header")[0]
    return head.startswith(b"ply") and any(
        key in head for key in (b" f_dc_0", b" rot_0", b" packed_position")
    )


def read_ply(path: Path, data: bytes) -> Opened:
    """The cloud in the file's own axes, with what the file says about those.

    Any order of the fields, any number type, either byte order or text; harmonics of whole degrees. Further fields
    and elements are passed over and named; without ``scale_2`` the file holds 2D Gaussians, which become flat splats.
    PlayCanvas' compressed form is read too.

    Raises:
        ThreedistillError: a field is missing, the harmonics are no whole degree, the file is cut off.
    """
    from threedistill.exports.ply.compressed import is_compressed, read_compressed_ply

    header = read_header(path, data)
    frame, facts, mode = _said(header.comments)
    if is_compressed(header):
        splats, lost = read_compressed_ply(path, data, header, flat=mode == "2dgs")
    else:
        splats, lost = _read_plain(path, data, header, flat=mode == "2dgs")
        vertex = header.element("vertex")
        if vertex is not None and "scale_2" not in vertex.names:
            mode = "2dgs"
    splats.extras.update(facts)
    return Opened(splats, frame, lost=lost, notes=[_MODES[mode]] if mode in _MODES else [])


_MODES = {
    "2dgs": "the file holds 2D Gaussians (surfels): they are read as flat splats",
    "mip": "the cloud was trained with an antialiasing filter (Mip-Splatting), which viewers have to switch on",
}


def _said(comments: list[str]) -> tuple[Frame | None, dict[str, Any], str | None]:
    """Axes, facts and kind of splats, as far as comments say them.

    Ours are ``up`` and ``facts``; nerfstudio writes ``Vertical Axis: z``, Brush ``SplatRenderMode: mip`` or ``2dgs``,
    Postshot ``antialiased 1``.
    """
    frame, facts, mode = None, {}, None
    for comment in comments:
        words = [*comment.lower().split(), "", "", "", ""]
        if words[0] == "up":
            frame = named_frame(words[1], words[3] if words[2] == "front" else None)
        elif words[:2] == ["vertical", "axis:"]:
            frame = named_frame(words[2])
        elif words[0] == "splatrendermode:":
            mode = words[1]
        elif words[0] == "antialiased" and words[1] in ("0", "1"):
            mode = "mip" if words[1] == "1" else None
        elif words[0] == "facts":
            facts = facts_in(comment[len("facts") :])
    return frame, facts, mode


def _read_plain(path: Path, data: bytes, header: Header, flat: bool) -> tuple[Splats, list[str]]:
    vertex = header.element("vertex")
    if vertex is None:
        raise ThreedistillError(f"cannot read {path}: it has no vertices")
    bands, rest = _harmonics(path, vertex.names)
    colors = _checked_fields(path, vertex.names)
    if vertex.count == 0:
        raise ThreedistillError(f"cannot read {path}: it holds no splats")
    table = numbers(path, data, header, "vertex")
    degree = min(round(bands**0.5) - 1, MAX_DEGREE)
    check_count(path, vertex.count, degree, len(data))
    surfels = flat or "scale_2" not in vertex.names
    higher = (degree + 1) ** 2 - 1

    def decode(rows: slice) -> Block:
        part = table[rows]

        def columns(*wanted: str) -> np.ndarray:
            return np.stack([part[name].astype(np.float32) for name in wanted], 1)

        scales = columns(*_SCALES[: 2 if surfels else 3])
        if surfels:
            scales = np.concatenate([scales, scales.min(1, keepdims=True) + THIN], 1)
        sh = np.empty((len(part), higher + 1, 3), np.float32)
        sh[:, 0] = columns(*colors) if colors == _COLOR else (columns(*colors) / 255 - 0.5) / C0
        for k in range(higher):
            sh[:, 1 + k] = columns(*(rest[channel * (bands - 1) + k] for channel in range(3)))
        return Block(
            columns("x", "y", "z"), scales, columns("rot_0", "rot_1", "rot_2", "rot_3"),
            columns("opacity")[:, 0], sh,
        )  # fmt: skip

    splats = from_blocks(vertex.count, degree, decode)
    known = (*_NEEDED, *_REPEATED, *rest)
    unknown = [name for name in vertex.names if name not in known]
    lost = [f"the field{'s' * (len(unknown) > 1)} {_few(unknown)}"] if unknown else []
    others = [element.name for element in header.elements if element is not vertex and element.count]
    if others:
        lost.append(f"the element{'s' * (len(others) > 1)} {_few(others)}")
    if bands > (MAX_DEGREE + 1) ** 2:
        lost.append(f"harmonics above degree {MAX_DEGREE}")
    return splats, lost


def _few(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _harmonics(path: Path, names: list[str]) -> tuple[int, list[str]]:
    """How many coefficients a channel has, the constant one included; the ``f_rest`` fields in their order."""
    rest = sorted((name for name in names if _REST.fullmatch(name)), key=lambda name: int(name[7:]))
    bands = len(rest) // 3 + 1
    whole = len(rest) % 3 == 0 and round(bands**0.5) ** 2 == bands
    if not whole or rest != [f"f_rest_{k}" for k in range(len(rest))]:
        raise ThreedistillError(
            f"cannot read {path}: {len(rest)} f_rest fields are no whole degree of harmonics (0, 9, 24 or 45 are)"
        )
    return bands, rest


def _checked_fields(path: Path, names: list[str]) -> tuple[str, ...]:
    """The fields of the constant colour; raises where those of splats are missing."""
    colored = all(name in names for name in ("red", "green", "blue"))
    optional = {"scale_2", *(_COLOR if colored else ())}
    missing = [name for name in _NEEDED if name not in names and name not in optional]
    if missing:
        raise ThreedistillError(
            f"cannot read {path}: not a splat ply, it lacks {', '.join(missing)}"
            + (" (a mesh or a point cloud?)" if "opacity" in missing and "rot_0" in missing else "")
        )
    return _COLOR if all(name in names for name in _COLOR) else ("red", "green", "blue")
