"""Ray casting by the definition: the ray through each pixel centre against every triangle, in world space."""

from __future__ import annotations

import numpy as np


def cast(vertices, faces, eye, forward, right, up, tan, height, width, near, far):
    """Triangle, barycentrics and view depth per pixel; -1, 0 and 0 where the ray meets nothing in [near, far].

    The pinhole looks along ``forward``; ``tan`` is the tangent of half the vertical field of view.
    """
    triangle = np.full((height, width), -1)
    barycentric = np.zeros((height, width, 3))
    depth = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            x = ((column + 0.5) / width * 2 - 1) * tan * width / height
            y = (1 - (row + 0.5) / height * 2) * tan
            ray = forward + x * right + y * up  # advances by 1 along the viewing axis
            u, v, t = _meet(vertices[faces], eye, ray)
            t = np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (near <= t) & (t <= far), t, np.inf)
            index = int(np.argmin(t))
            if t[index] < np.inf:
                triangle[row, column] = index
                barycentric[row, column] = 1 - u[index] - v[index], u[index], v[index]
                depth[row, column] = t[index]
    return triangle, barycentric, depth


def _meet(corners, eye, ray):
    """Solve ``a + u (b - a) + v (c - a) = eye + t ray`` for each triangle; NaN where there is no one solution."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    system = np.stack([b - a, c - a, np.broadcast_to(-ray, a.shape)], 2)
    solution = np.full((len(corners), 3), np.nan)
    good = np.abs(np.linalg.det(system)) > 1e-14
    solution[good] = np.linalg.solve(system[good], (eye - a)[good][:, :, None])[:, :, 0]
    return solution.T
