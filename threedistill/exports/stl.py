"""Binary STL in millimetres, for printing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from threedistill.atomic import write_bytes
from threedistill.exports.frames import Frame
from threedistill.exports.gltf import generator
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh

__all__ = ["MARK", "write_stl"]

#: In the 80-byte header, so that the reader knows the unit.
MARK = b"unit=mm"


def write_stl(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """Write the mesh, its longest side ``stl_size`` millimetres; STL holds neither colours nor shared vertices."""
    longest = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    corners = (mesh.vertices * (settings.stl_size / longest)).double()[mesh.faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = torch.nn.functional.normalize(normal, dim=1, eps=1e-30)
    records = np.zeros(
        len(mesh.faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")]
    )
    records["normal"], records["corners"] = normal.numpy(), corners.numpy()
    # A header that starts with "solid" would be taken for the text format.
    header = b"binary STL, %s, +%s up, %s" % (MARK, frame.up.upper().encode(), generator().encode())
    write_bytes(
        path, header[:80].ljust(80) + np.uint32(len(records)).astype("<u4").tobytes() + records.tobytes()
    )
