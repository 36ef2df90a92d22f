"""Between our world and viser's: splats, meshes, cameras, curves.

Both have +Y up; viser's cameras look down +z, ours -z.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from threedistill.cameras import standing
from threedistill.protocols import Representation
from threedistill.render.harmonics import C0
from threedistill.render.projection import rotations
from threedistill.types import Cameras, Mesh, Splats

if TYPE_CHECKING:
    from viser import ViserServer

__all__ = ["SplatArrays", "add_curve", "frustum", "glb_of", "seen_from", "splat_arrays", "surface_arrays"]

#: From our cameras' axes (x right, y up) to viser's (x right, y down).
_FLIP = np.diag([1.0, -1.0, -1.0])


class SplatArrays(TypedDict):
    """The arguments of viser's ``add_gaussian_splats``: (N, 3), (N, 3, 3), (N, 3), (N, 1)."""

    centers: np.ndarray
    covariances: np.ndarray
    rgbs: np.ndarray
    opacities: np.ndarray


def splat_arrays(splats: Splats) -> SplatArrays:
    """What viser draws: centres, covariances, colours without view dependence, opacities."""
    half = rotations(splats.quaternions) * splats.log_scales.exp()[:, None]

    def array(value: Tensor) -> np.ndarray:
        return value.detach().cpu().numpy()

    return {
        "centers": array(splats.means), "covariances": array(half @ half.transpose(1, 2)),
        "rgbs": array((0.5 + C0 * splats.sh[:, 0]).clamp(0, 1)),
        "opacities": array(splats.opacity_logits.sigmoid()[:, None]),
    }  # fmt: skip


def glb_of(mesh: Mesh) -> bytes:
    """A mesh as viser reads it, textures included."""
    from threedistill.exports.settings import FileSettings
    from threedistill.exports.write import write_mesh

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mesh.glb"
        write_mesh(mesh, file, FileSettings())
        return file.read_bytes()


@torch.no_grad()
def surface_arrays(representation: Representation, resolution: int) -> Mesh:
    """The surface of a scene as it is now, with colours at its vertices."""
    from threedistill.exports.meshes.normal_map import normals_of

    mesh = representation.extract(resolution)
    normals = normals_of(mesh)
    colors = representation.surface_color(mesh.vertices, normals).clamp(0, 1)
    return Mesh(mesh.vertices.cpu(), mesh.faces.cpu(), colors=colors.cpu())


def seen_from(camera: Any, height: int) -> Cameras:
    """A browser's camera as one of ours.

    Arguments:
        camera: viser's: ``wxyz``, ``position``, ``fov`` (vertical, radians), ``aspect``.
        height: of the picture; the width follows, and both are multiples of 8.
    """
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = _rotation(camera.wxyz) @ _FLIP, np.asarray(camera.position, dtype=np.float64)
    pose = torch.from_numpy(c2w).float()[None]
    azimuth, elevation, distance = standing(pose[:, :3, 3])
    width = max(8, round(height * min(max(camera.aspect, 0.2), 5.0) / 8) * 8)
    return Cameras(
        c2w=pose, fov_y=torch.tensor([float(camera.fov)]), azimuth=azimuth, elevation=elevation, distance=distance,
        height=height, width=width,
    )  # fmt: skip


def frustum(cameras: Cameras, row: int) -> dict[str, Any]:
    """Where one of our cameras stands, in viser's words."""
    c2w = cameras.c2w[row].detach().cpu().double().numpy()
    return {
        "fov": float(cameras.fov_y[row]), "aspect": cameras.width / cameras.height,
        "wxyz": _quaternion(c2w[:3, :3] @ _FLIP), "position": c2w[:3, 3],
    }  # fmt: skip


def add_curve(server: ViserServer, name: str, x: np.ndarray, y: np.ndarray, across: str) -> Any:
    """One figure of ``metrics.csv`` over steps or rows, at the end of the panel."""
    from viser import uplot

    return server.gui.add_uplot(
        (x, y), (uplot.Series(label=across), uplot.Series(label=name, stroke="#0b62c4", width=2)),
        title=name.replace("_", " "), aspect=2.2, scales={"x": uplot.Scale(time=False)},
        legend=uplot.Legend(show=False),
    )  # fmt: skip


def _rotation(wxyz: Any) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    w, x, y, z = np.asarray(wxyz, dtype=np.float64)
    return Rotation.from_quat([x, y, z, w]).as_matrix()


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(matrix).as_quat()
    return np.array([w, x, y, z])
