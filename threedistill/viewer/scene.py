"""Between our world and viser's: splats, meshes and cameras. Both have +Y up; viser's cameras look down +z, ours -z."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from threedistill.protocols import Representation
from threedistill.render.harmonics import C0
from threedistill.types import Cameras, Mesh, Splats

__all__ = ["SplatArrays", "frustum", "glb_of", "seen_from", "splat_arrays", "surface_arrays"]

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
    w, x, y, z = torch.nn.functional.normalize(splats.quaternions, dim=1).unbind(1)
    rotation = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ], 1,
    ).view(-1, 3, 3)  # fmt: skip
    half = rotation * splats.log_scales.exp()[:, None]

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
    position = np.asarray(camera.position, dtype=np.float64)
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = _rotation(camera.wxyz) @ _FLIP, position
    distance = max(float(np.linalg.norm(position)), 1e-6)
    width = max(8, round(height * min(max(camera.aspect, 0.2), 5.0) / 8) * 8)
    return Cameras(
        c2w=torch.from_numpy(c2w).float()[None],
        fov_y=torch.tensor([float(camera.fov)]),
        azimuth=torch.tensor([math.atan2(position[0], position[2])]),
        elevation=torch.tensor([math.asin(max(-1.0, min(1.0, position[1] / distance)))]),
        distance=torch.tensor([distance]),
        height=height,
        width=width,
    )  # fmt: skip


def frustum(cameras: Cameras, row: int) -> dict[str, Any]:
    """Where one of our cameras stands, in viser's words."""
    c2w = cameras.c2w[row].detach().cpu().double().numpy()
    return {
        "fov": float(cameras.fov_y[row]), "aspect": cameras.width / cameras.height,
        "wxyz": _quaternion(c2w[:3, :3] @ _FLIP), "position": c2w[:3, 3],
    }  # fmt: skip


def _rotation(wxyz: Any) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    w, x, y, z = np.asarray(wxyz, dtype=np.float64)
    return Rotation.from_quat([x, y, z, w]).as_matrix()


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(matrix).as_quat()
    return np.array([w, x, y, z])
