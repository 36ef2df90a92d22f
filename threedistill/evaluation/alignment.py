"""Where an asset stands before it is compared: centring, unit size and rotation about the vertical axis.

Nothing here depends on which way an object faces, so that an asset may be turned and compared again without being
centred anew: the horizontal centre is that of the smallest circle around the object seen from above.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.types import Mesh

__all__ = ["UNIT_RADIUS", "centred", "rotate_y", "smallest_circle", "turned"]

#: Radius that centred objects are given; also that of the largest object in the Toybox world.
UNIT_RADIUS = 0.85


def rotate_y(points: Tensor, angle: float) -> Tensor:
    """(..., 3) points turned about +Y; a positive ``angle`` (radians) takes +Z towards +X, like azimuths."""
    c, s = math.cos(angle), math.sin(angle)
    turn = points.new_tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    return points @ turn.T


def smallest_circle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (2,) and radius of the smallest circle around (N, 2) points.

    Starts on two far points and lets the circle grow around whatever lies outside (Ritter), then shrinks it with the
    Badoiu-Clarkson iteration ``c += (p_far - c) / (k + 1)``, which converges like ``1/k``; 2,000 steps on the convex
    hull are good to about 1e-3 of the radius.
    """
    from scipy.spatial import ConvexHull, QhullError

    points = np.unique(np.asarray(points, dtype=np.float64), axis=0)
    try:
        hull = points[ConvexHull(points).vertices] if len(points) > 3 else points
    except QhullError:  # all points on one line
        hull = points
    centre = (hull.min(0) + hull.max(0)) / 2
    for k in range(1, 2000):
        far = hull[np.argmax(((hull - centre) ** 2).sum(1))]
        centre = centre + (far - centre) / (k + 1)
    return centre, float(np.sqrt(((hull - centre) ** 2).sum(1).max()))


def centred(mesh: Mesh, radius: float = UNIT_RADIUS) -> Mesh:
    """The mesh about the origin, touching a sphere of ``radius``.

    Centre: the middle of its height, and horizontally the centre of the smallest circle seen from above. Both, and
    the scale, are the same whichever way the object is turned about +Y.
    """
    used = mesh.vertices[mesh.faces.reshape(-1).unique()] if len(mesh.faces) else mesh.vertices
    if len(used) == 0:
        raise ThreedistillError(
            "this asset has no faces, so there is nothing to evaluate; run `generate` again"
        )
    flat, _ = smallest_circle(used[:, [0, 2]].detach().cpu().numpy())
    middle = float(used[:, 1].min() + used[:, 1].max()) / 2
    centre = mesh.vertices.new_tensor([float(flat[0]), middle, float(flat[1])])
    reach = float((used - centre).norm(dim=-1).max())
    if not math.isfinite(reach) or reach <= 0:
        raise ThreedistillError("this asset has no extent (or non-finite vertices); run `generate` again")
    return replace(mesh, vertices=(mesh.vertices - centre) * (radius / reach))


def turned(mesh: Mesh, yaw: float, scale: float = 1.0) -> Mesh:
    """The mesh turned about +Y by ``yaw`` radians and scaled about the origin."""
    normals = None if mesh.normals is None else rotate_y(mesh.normals, yaw)
    return replace(mesh, vertices=rotate_y(mesh.vertices, yaw) * scale, normals=normals)
