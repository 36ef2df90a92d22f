"""Polygons into triangles: faces of any number of corners, convex or not, as OBJ, PLY and USD files have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["triangulated"]


def triangulated(
    points: NDArray[np.floating], corners: NDArray[np.integer], counts: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every polygon as triangles over its own corners.

    A convex polygon becomes a fan about its first corner (a quad is cut there too); others are cut ear by ear. What
    has fewer than three corners vanishes.

    Arguments:
        points: (N, 3) positions.
        corners: (C,) indices into ``points``, polygon after polygon.
        counts: (P,) corners of each polygon; they sum to C.

    Returns:
        (F, 3) positions in ``corners``, in the polygons' order, and (F,) the polygon of each triangle.
    """
    counts = counts.astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    triangles, owners = [], []
    for size in np.unique(counts[counts >= 3]):
        which = np.flatnonzero(counts == size)
        corner = starts[which, None] + np.arange(size)
        fan = np.stack([np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], 1)
        cut = np.broadcast_to(fan, (len(which), size - 2, 3)).copy()
        if size > 3:
            for k in np.flatnonzero(~_convex(points[corners[corner]])):
                cut[k] = _ears(points[corners[corner[k]]])
        triangles.append(
            np.take_along_axis(corner[:, None], cut.reshape(len(which), 1, -1), 2).reshape(-1, 3)
        )
        owners.append(np.repeat(which, size - 2))
    if not triangles:
        return np.empty((0, 3), np.int64), np.empty(0, np.int64)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(triangles)[order], owner[order]


def _normal(polygons: NDArray[np.floating]) -> NDArray[np.floating]:
    """Newell's normals (P, 3) of polygons (P, k, 3): the sums of the cross products of neighbouring corners."""
    middle = polygons - polygons.mean(1, keepdims=True)
    return np.cross(middle, np.roll(middle, -1, 1)).sum(1)


def _convex(polygons: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether each polygon turns the same way at every corner."""
    polygons = polygons.astype(np.float64)
    edge = np.roll(polygons, -1, 1) - polygons
    turn = np.einsum("pkd,pd->pk", np.cross(np.roll(edge, 1, 1), edge), _normal(polygons))
    scale = np.abs(turn).max(1, keepdims=True)
    return (turn >= -1e-9 * scale).all(1)


def _ears(polygon: NDArray[np.floating]) -> NDArray[np.int64]:
    """(k - 2, 3) triangles of one polygon (k, 3), each cut where a corner is convex and its triangle holds no other."""
    normal = _normal(polygon[None].astype(np.float64))[0]
    axis = int(np.abs(normal).argmax())
    flat = np.delete(polygon.astype(np.float64), axis, 1)
    if (normal[axis] < 0) != (axis == 1):  # leaving out the middle axis mirrors
        flat = flat * np.array([-1.0, 1.0])
    left, found = list(range(len(polygon))), []
    while len(left) > 3:
        for i in range(len(left)):
            a, b, c = left[i - 1], left[i], left[(i + 1) % len(left)]
            if _cross(flat[a], flat[b], flat[c]) > 0 and not any(
                _inside(flat[p], flat[a], flat[b], flat[c]) for p in left if p not in (a, b, c)
            ):
                break
        else:  # it crosses itself: no cut is right, any is possible
            i, a, b, c = 1, left[0], left[1], left[2]
        found.append((a, b, c))
        del left[i]
    found.append(tuple(left))
    return np.array(found, dtype=np.int64)


def _cross(a: NDArray[np.floating], b: NDArray[np.floating], c: NDArray[np.floating]) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _inside(p: NDArray[np.floating], *corners: NDArray[np.floating]) -> bool:
    a, b, c = corners
    return _cross(a, b, p) >= 0 and _cross(b, c, p) >= 0 and _cross(c, a, p) >= 0
