"""Ray marching by walking from the origin in tiny distances, without the slab test."""

from __future__ import annotations

import math


def entry(origin, direction, bound, near, fine=1e-4, reach=12.0):
    """The first distance >= near at which the ray is inside the box, to within ``fine``; None if it never is."""
    for i in range(int((reach - near) / fine)):
        t = near + i * fine
        if all(abs(o + t * d) <= bound for o, d in zip(origin, direction)):
            return t
    return None


def intervals(origin, direction, occupied, bound, step, jitter, first):
    """(start, end) of the kept steps from ``first`` on, until the ray has left the box for good."""
    size = len(occupied)
    found, i = [], 0
    while True:
        start = first + (i + jitter) * step
        at = [o + (start + step / 2) * d for o, d in zip(origin, direction)]
        if any(abs(a) > bound and (a > 0) == (d > 0) and d != 0 for a, d in zip(at, direction)):
            return found
        cell = [math.floor((a + bound) * size / (2 * bound)) for a in at]
        if all(0 <= c < size for c in cell) and occupied[cell[0]][cell[1]][cell[2]]:
            found.append((start, start + step))
        i += 1
