"""STL: written binary and in millimetres, for printing; read in both of its forms.

Sources: 3D Systems, "StereoLithography Interface Specification", 1988; the colours that some programs put into binary
files are no part of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from threedistill.atomic import write_bytes
from threedistill.errors import ThreedistillError
from threedistill.exports.files import generator
from threedistill.exports.foreign.limits import check
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.frames import Axis, Frame, frame_of
from threedistill.exports.meshes.surface import welded
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh

__all__ = ["MARK", "read_stl", "write_stl"]

#: In the 80-byte header, so that the reader knows the unit.
MARK = b"unit=mm"
_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])


def write_stl(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """Write the mesh, its longest side ``stl_size`` millimetres; STL holds neither colours nor shared vertices."""
    longest = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    corners = (mesh.vertices * (settings.stl_size / longest)).double()[mesh.faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = torch.nn.functional.normalize(normal, dim=1, eps=1e-30)
    records = np.zeros(len(mesh.faces), dtype=_RECORD)
    records["normal"], records["corners"] = normal.numpy(), corners.numpy()
    # A header that starts with "solid" would be taken for the text format.
    header = b"binary STL, %s, +%s up, %s" % (MARK, frame.up.upper().encode(), generator().encode())
    write_bytes(
        path, header[:80].ljust(80) + np.uint32(len(records)).astype("<u4").tobytes() + records.tobytes()
    )


def read_stl(path: Path) -> Opened:
    """Triangles, their corners shared again where they lie on one point.

    Ours come back in metres and say which way is up; others are taken in their own unit. Text files may hold several
    solids; a binary file may begin with ``solid`` too, so its length decides.

    Raises:
        ThreedistillError: no triangles, or fewer than the file promises.
    """
    data = path.read_bytes()
    lost: list[str] = []
    count = int.from_bytes(data[80:84], "little") if len(data) >= 84 else -1
    text = data.lstrip()[:5].lower() == b"solid" and len(data) != 84 + 50 * count
    text = text and (b"facet" in data.lower() or b"endsolid" in data.lower())
    if text:
        corners = _from_text(path, data)
        if b"endsolid" not in data.lower()[data.lower().rfind(b"endfacet") :]:
            lost.append("its end (it is cut off)")
    else:
        if count < 0 or len(data) < 84 + 50 * count:
            promised = f", its header promises {count} triangles" if count >= 0 else ""
            raise ThreedistillError(f"cannot read {path}: it is cut off{promised}")
        check(path, "triangles", count)
        records = np.frombuffer(data, _RECORD, count, 84)
        corners = records["corners"].astype(np.float32)
        if records["spare"].any():
            lost.append("its colours, which no two programs write alike")
    if not len(corners):
        raise ThreedistillError(f"cannot read {path}: it holds no triangles")
    head = b"" if text else data[:80]
    ours = MARK in head
    points = torch.from_numpy(corners.reshape(-1, 3).copy()) * (1e-3 if ours else 1.0)
    mesh = Mesh(points, torch.arange(len(points)).reshape(-1, 3))
    ups: dict[bytes, Axis] = {b"+Y up": "y", b"+Z up": "z"}
    said: list[Axis] = [axis for words, axis in ups.items() if ours and words in head]
    finite = bool(torch.isfinite(points).all())  # what is not is named where files are opened
    return Opened(welded(mesh) if finite else mesh, frame_of(said[0]) if said else None, lost=lost)


def _from_text(path: Path, data: bytes) -> np.ndarray:
    """(F, 3, 3) corners of every facet."""
    found = re.findall(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", data, re.IGNORECASE)
    facets = len(re.findall(rb"\bfacet\s+normal\b", data, re.IGNORECASE))
    if len(found) != 3 * facets:
        raise ThreedistillError(
            f"cannot read {path}: not a sound stl file ({facets} facets with {len(found)} corners)"
        )
    check(path, "triangles", facets)
    try:
        return np.array(found, dtype=np.float64).astype(np.float32).reshape(-1, 3, 3)
    except ValueError as error:
        raise ThreedistillError(f"cannot read {path}: not a sound stl file ({str(error)[:60]})") from error
