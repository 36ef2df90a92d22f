"""The hash encoding by its definition, one point and one corner at a time, in Python integers and floats."""

from __future__ import annotations

import math


def level_table(levels, log2_entries, base, finest):
    """(scale, resolution, size, hashed) of each level, from the paper's growth factor."""
    growth = (finest / base) ** (1 / (levels - 1)) if levels > 1 else 1.0
    out = []
    for level in range(levels):
        scale = base * growth**level - 1
        if abs(scale - round(scale)) < 1e-6:
            scale = float(round(scale))
        resolution = math.ceil(scale) + 1
        dense = -(-(resolution**3) // 8) * 8
        size = min(dense, 2**log2_entries)
        out.append((scale, resolution, size, resolution**3 > size))
    return out


def encode(points, table, levels, features, log2_entries, base, finest):
    """Lists of ``levels * features`` numbers, one per point."""
    result = []
    for point in points:
        row, start = [], 0
        for scale, resolution, size, hashed in level_table(levels, log2_entries, base, finest):
            at = [min(max(p, 0.0), 1.0) * scale + 0.5 for p in point]
            cell = [math.floor(a) for a in at]
            sums = [0.0] * features
            for corner in range(8):
                step = [corner & 1, corner >> 1 & 1, corner >> 2 & 1]
                weight = 1.0
                for axis in range(3):
                    inside = at[axis] - cell[axis]
                    weight *= inside if step[axis] else 1 - inside
                x, y, z = (cell[axis] + step[axis] for axis in range(3))
                if hashed:
                    entry = (x ^ (y * 2654435761) % 2**32 ^ (z * 805459861) % 2**32) % size
                else:
                    entry = (x + resolution * y + resolution**2 * z) % size
                for f in range(features):
                    sums[f] += weight * float(table[start + entry][f])
            row += sums
            start += size
        result.append(row)
    return result
