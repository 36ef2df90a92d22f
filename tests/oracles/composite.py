"""Volume rendering of one ray at a time, from the optical depth in front of each sample."""

from __future__ import annotations

import math
from itertools import pairwise


def composite(density, rgb, start, end, offsets):
    """Lists (colour, opacity, depth, weights)."""
    colours, opacities, depths, weights = [], [], [], []
    for first, last in pairwise(offsets):
        colour, opacity, depth = [0.0, 0.0, 0.0], 0.0, 0.0
        for i in range(first, last):
            in_front = sum(density[j] * (end[j] - start[j]) for j in range(first, i))
            here = density[i] * (end[i] - start[i])
            w = math.exp(-in_front) - math.exp(-in_front - here)
            weights.append(w)
            colour = [c + w * p for c, p in zip(colour, rgb[i])]
            opacity += w
            depth += w * (start[i] + end[i]) / 2
        colours.append(colour)
        opacities.append(opacity)
        depths.append(depth)
    return colours, opacities, depths, weights
