"""Compositing of projected Gaussians, one pixel and one Gaussian after the other, in plain Python."""

from __future__ import annotations

import math


def splat(means, conics, opacities, features, depths, height, width):
    """One view: nested lists in, (H, W, C) and (H, W) nested lists out."""
    channels = len(features[0])
    order = sorted((d, i) for i, d in enumerate(depths) if d > 0)
    image = [[[0.0] * channels for _ in range(width)] for _ in range(height)]
    opacity = [[0.0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            light = 1.0
            for _, i in order:
                dx, dy = x + 0.5 - means[i][0], y + 0.5 - means[i][1]
                a, b, c = conics[i]
                alpha = min(
                    0.999, opacities[i] * math.exp(-(a * dx * dx + 2 * b * dx * dy + c * dy * dy) / 2)
                )
                if alpha < 1 / 255:
                    continue
                if light * (1 - alpha) < 1e-4:
                    break
                for k in range(channels):
                    image[y][x][k] += light * alpha * features[i][k]
                opacity[y][x] += light * alpha
                light *= 1 - alpha
    return image, opacity
