"""Kinds without a front: they look alike, or nearly so, from all sides. See :mod:`kinds_fronted` for the rules."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from threedistill.toybox.kinds_fronted import CREAM, DARK, GREY, LIGHT, RED, WOOD
from threedistill.toybox.shapes import Builder, rotation

__all__ = [
    "LEAF", "ROUND_BUILDERS", "TAN", "YELLOW_CHERRY", "apple", "ball", "cactus", "cone", "cube", "cupcake", "donut",
    "flower", "ice_cream", "lamp", "mushroom", "pumpkin", "table", "tree", "umbrella", "vase",
]  # fmt: skip

YELLOW_CHERRY = (0.98, 0.83, 0.15)
TAN = (0.87, 0.66, 0.38)
LEAF = (0.20, 0.55, 0.15)


def ball(b: Builder) -> None:
    b.ellipsoid((0, 0, 0), (0.6, 0.6, 0.6))


def donut(b: Builder) -> None:
    v = b.vary
    ring, tube = v(0.5, 0.55), v(0.24, 0.29)
    b.torus((0, 0.05, 0), ring, tube * 1.03, flat=0.9, sides=28, part="icing", hole="hole")
    b.torus((0, -0.06, 0), ring, tube, b.against(TAN, WOOD), flat=0.85, sides=28, part="dough", hole="hole")
    colors = [(0.98, 0.95, 0.9), (0.95, 0.25, 0.25), (0.25, 0.5, 0.95), (0.98, 0.85, 0.2), (0.3, 0.75, 0.35)]
    for k in range(16):
        angle = k * 2.399
        r = ring + tube * 0.55 * math.sin(k * 1.7)
        lift = 0.05 + tube * 0.92 * math.sqrt(max(0.0, 1 - ((r - ring) / tube) ** 2))
        b.ellipsoid(
            (r * math.sin(angle), lift, r * math.cos(angle)),
            (0.065, 0.035, 0.065),
            b.against(colors[k % 5], LIGHT),
            part="sprinkles",
        )


def cone(b: Builder) -> None:
    v = b.vary
    r, tall = v(0.40, 0.46), v(1.0, 1.2)
    b.box((0, -0.03, 0), (r * 2.5, 0.1, r * 2.5), bevel=0.03, part="base")
    b.lathe([(r, 0), (r * 0.66, tall * 0.36)], sides=24)
    b.lathe([(r * 0.66, tall * 0.36), (r * 0.45, tall * 0.58)], b.against(LIGHT, GREY), sides=24, part="band")
    b.lathe([(r * 0.45, tall * 0.58), (r * 0.14, tall * 0.93), (r * 0.08, tall), (0, tall)], sides=24)


def mushroom(b: Builder) -> None:
    v = b.vary
    r, cap, stem = v(0.58, 0.68), v(0.44, 0.54), v(0.52, 0.62)
    pale = b.against(CREAM, TAN)
    b.lathe(
        [(0, -stem), (0.24, -stem), (0.2, -stem * 0.6), (0.17, 0.0), (0.17, 0.1)], pale, sides=16, part="stem"
    )
    dome = [(r * math.cos(a), cap * math.sin(a)) for a in [k * math.pi / 2 / 8 for k in range(9)]]
    b.lathe([(0.12, 0.02), (r * 0.9, -0.06), *dome], sides=28)
    spot = b.against(LIGHT, RED)
    turn = v(-0.08, 0.08)
    for lift, count, size in ((0.30, 6, 0.1), (0.80, 4, 0.105), (1.5, 1, 0.11)):
        for k in range(count):
            angle = 2 * math.pi * (k + turn) / count + lift
            c = (
                r * math.cos(lift) * math.sin(angle),
                cap * math.sin(lift),
                r * math.cos(lift) * math.cos(angle),
            )
            b.ellipsoid(c, (size, size * 0.8, size), spot, part="spots")


def tree(b: Builder) -> None:
    v = b.vary
    trunk, r = v(0.36, 0.5), v(0.44, 0.52)
    b.cylinder((0, -trunk, 0), (0, 0.15, 0), 0.12, 0.09, b.against(WOOD, DARK), part="trunk")
    for k, y in enumerate((0.0, 0.34, 0.66)):
        w = r * (1 - 0.24 * k)
        b.lathe([(0.05, y - 0.02), (w, y), (w * 0.62, y + 0.24), (0.0, y + 0.56)], sides=20)


def table(b: Builder) -> None:
    v = b.vary
    wide, tall = v(1.0, 1.2), v(0.52, 0.66)
    b.box((0, 0, 0), (wide, 0.12, wide * 0.86), bevel=0.03)
    for x in (-1, 1):
        for z in (-1, 1):
            b.box(
                (x * (wide / 2 - 0.09), -tall / 2, z * (wide * 0.43 - 0.09)),
                (0.13, tall, 0.13),
                bevel=0.02,
                part="legs",
            )


def lamp(b: Builder) -> None:
    v = b.vary
    r, tall = v(0.42, 0.5), v(0.42, 0.52)
    metal = b.against(GREY, DARK)
    b.lathe([(r, 0), (r * 0.56, tall)], sides=24, part="shade")
    b.lathe(
        [(r * 0.97, 0), (r * 0.54, tall * 0.97)][::-1],
        b.against((0.99, 0.95, 0.8), TAN),
        sides=24,
        part="inside",
    )
    b.cylinder((0, tall - 0.03, 0), (0, tall, 0), r * 0.56, color=None, sides=24, part="shade")
    b.cylinder((0, -0.56, 0), (0, tall, 0), 0.05, color=metal, sides=10, part="pole")
    b.lathe([(0, -0.62), (0.3, -0.62), (0.29, -0.57), (0.1, -0.5), (0, -0.5)], metal, part="base")


def cube(b: Builder) -> None:
    b.box((0, 0, 0), (1.0, 1.0, 1.0), bevel=0.05)


def vase(b: Builder) -> None:
    v = b.vary
    r, neck, lip = v(0.38, 0.46), v(0.16, 0.21), v(0.24, 0.3)
    belly = [(0, -0.62), (r * 0.6, -0.62), (r * 0.86, -0.42), (r, -0.15), (r * 0.86, 0.12)]
    b.lathe([*belly, (neck * 1.2, 0.36), (neck, 0.48), (lip, 0.62), (lip * 0.86, 0.61)], sides=24)
    b.lathe([(lip * 0.88, 0.61), (neck * 0.9, 0.48), (0.0, 0.4)], DARK, sides=20, part="inside")


def cactus(b: Builder) -> None:
    v = b.vary
    r, tall = v(0.19, 0.23), v(0.8, 0.95)
    pot = b.against((0.72, 0.38, 0.22), (0.85, 0.8, 0.7))
    b.lathe(
        [(0, -0.36), (0.2, -0.36), (0.27, -0.06), (0.29, -0.06), (0.29, 0.02), (0.24, 0.02), (0.0, -0.03)],
        pot,
        smooth=False,
        part="pot",
    )
    b.lathe(
        [(r, 0), (r, tall - r), (r * 0.86, tall - r * 0.5), (r * 0.5, tall - r * 0.13), (0, tall)], sides=18
    )
    for side, low in ((-1, v(0.26, 0.34)), (1, v(0.38, 0.48))):
        x = side * (r + 0.24)
        b.cylinder((0, low, 0), (x, low, 0), 0.115, color=None, sides=12, part="arms")
        b.ellipsoid((x, low, 0), (0.115,) * 3, part="arms")
        b.cylinder((x, low, 0), (x, low + 0.26, 0), 0.115, 0.11, sides=12, part="arms")
        b.ellipsoid((x, low + 0.26, 0), (0.11,) * 3, part="arms")
    b.ellipsoid(
        (0, tall, 0), (0.1, 0.07, 0.1), b.against((0.97, 0.45, 0.65), (0.98, 0.85, 0.2)), part="blossom"
    )


def apple(b: Builder) -> None:
    v = b.vary
    r = v(0.5, 0.56)
    points = [
        (0.0, -0.40),
        (0.14, -0.46),
        (0.34, -0.40),
        (0.49, -0.16),
        (0.54, 0.08),
        (0.48, 0.32),
        (0.3, 0.45),
        (0.13, 0.42),
        (0.0, 0.32),
    ]
    b.lathe([(x * r / 0.54, y) for x, y in points], sides=24)
    b.cylinder((0, 0.32, 0), (0.04, 0.62, 0.02), 0.05, 0.055, b.against(WOOD, DARK), 8, part="stem")
    b.ellipsoid((0.17, 0.56, 0), (0.18, 0.05, 0.1), b.against(LEAF, (0.55, 0.8, 0.2)), part="leaf")


def cupcake(b: Builder) -> None:
    v = b.vary
    r = v(0.46, 0.52)
    wrap = b.against((0.80, 0.62, 0.40), (0.55, 0.75, 0.85))
    b.lathe(
        [(0, -0.34), (r * 0.66, -0.34), (r * 0.88, 0.06), (0, 0.06)],
        wrap,
        sides=18,
        smooth=False,
        part="wrapper",
    )
    for k, y in enumerate((0.12, 0.32, 0.5)):
        w = r * (1.02, 0.76, 0.46)[k]
        b.ellipsoid((0, y, 0), (w, 0.19, w), part="icing")
    b.ellipsoid((0, 0.66, 0), (r * 0.22, 0.12, r * 0.22), part="icing")
    b.ellipsoid((0, 0.78, 0), (0.11,) * 3, b.against((0.85, 0.08, 0.12), YELLOW_CHERRY), part="cherry")


def pumpkin(b: Builder) -> None:
    v = b.vary
    r, high = v(0.27, 0.31), v(0.36, 0.42)
    for k in range(9):
        angle = 2 * math.pi * k / 9
        b.ellipsoid((r * math.sin(angle), 0, r * math.cos(angle)), (0.26, high, 0.26))
    b.ellipsoid((0, 0, 0), (r, high * 0.9, r))
    green = b.against(LEAF, WOOD)
    b.cylinder((0, high * 0.8, 0), (0.02, high + 0.12, 0), 0.1, 0.065, green, 8, part="stem")
    b.cylinder((0.02, high + 0.1, 0), (0.1, high + 0.24, 0.03), 0.066, 0.07, green, 8, part="stem")
    b.ellipsoid(
        (0.2, high + 0.03, 0.08),
        (0.2, 0.045, 0.14),
        b.against((0.35, 0.65, 0.2), LEAF),
        rotation(z=-12),
        part="leaf",
    )


def ice_cream(b: Builder) -> None:
    v = b.vary
    r, tall = v(0.36, 0.42), v(0.74, 0.86)
    wafer = b.against((0.85, 0.62, 0.32), (0.55, 0.34, 0.16))
    line = b.against((0.62, 0.40, 0.17), (0.92, 0.76, 0.5), part="wafer")
    b.lathe(
        [(0.0, -tall), (0.03, -tall), (r * 0.88, 0.0), (0.0, 0.0)],
        wafer,
        sides=24,
        smooth=False,
        part="wafer",
    )
    for k in (0.3, 0.55, 0.8):
        b.torus((0, -tall * (1 - k), 0), r * 0.88 * k + 0.01, 0.018, line, sides=24, part="lines")
    b.torus((0, -0.03, 0), r * 0.88, 0.055, wafer, sides=24, part="wafer")
    b.ellipsoid((0, r * 0.6, 0), (r, r * 0.92, r))
    for k in range(9):
        angle = 2 * math.pi * k / 9
        b.ellipsoid((r * 0.86 * math.sin(angle), 0.06, r * 0.86 * math.cos(angle)), (0.13, 0.11, 0.13))
    b.ellipsoid((0, r * 1.7, 0), (r * 0.8, r * 0.76, r * 0.8))
    b.ellipsoid((0, r * 2.44, 0), (0.13,) * 3, b.against((0.85, 0.08, 0.12), YELLOW_CHERRY), part="cherry")


def flower(b: Builder) -> None:
    v = b.vary
    reach, stalk = v(0.3, 0.35), v(0.66, 0.78)
    green = b.against(LEAF, (0.55, 0.8, 0.2))
    b.cylinder((0, -stalk, 0), (0, 0.02, 0), 0.06, 0.055, green, 10, part="stem")
    for k in range(8):
        turn = rotation(y=45 * k) @ rotation(x=-60)
        b.ellipsoid(
            turn @ [0, reach * 0.95, 0] + np.array([0, 0.06, 0]),
            (0.165, reach, 0.06),
            turn=turn,
            part="petals",
        )
    b.ellipsoid((0, 0.02, 0), (0.15, 0.1, 0.15), green, part="stem")
    b.ellipsoid(
        (0, 0.19, 0), (0.21, 0.11, 0.21), b.against((0.98, 0.80, 0.12), (0.40, 0.22, 0.08)), part="center"
    )
    for side in (-1, 1):
        b.ellipsoid(
            (side * 0.24, -stalk * v(0.62, 0.72), 0),
            (0.25, 0.05, 0.12),
            green,
            rotation(z=side * 32),
            part="leaf",
        )


def umbrella(b: Builder) -> None:
    v = b.vary
    r, dome = v(0.66, 0.76), v(0.34, 0.42)
    metal = b.against(GREY, DARK)
    arc = [(r * math.cos(a), dome * math.sin(a)) for a in [k * math.pi / 2 / 8 for k in range(9)]]
    b.lathe(arc, sides=24, smooth=True)
    b.lathe(
        [(max(x - 0.02, 0.0), y - 0.02) for x, y in reversed(arc)],
        b.against((0.25, 0.25, 0.28), LIGHT),
        sides=24,
        part="inside",
    )
    for k in range(8):
        angle = math.pi * k / 4
        at = (r * math.sin(angle), 0.0, r * math.cos(angle))
        b.ellipsoid(at, (0.045,) * 3, metal, part="tips")
        for low, high in ((0, 2), (2, 4), (4, 6), (6, 8)):
            (x0, y0), (x1, y1) = arc[low], arc[high]
            s, c = math.sin(angle), math.cos(angle)
            b.cylinder((x0 * s, y0, x0 * c), (x1 * s, y1 + 0.005, x1 * c), 0.025, 0.022, sides=6)
    b.cylinder((0, dome - 0.02, 0), (0, dome + 0.14, 0), 0.05, 0.02, metal, 8, part="tips")
    low = v(0.78, 0.9)
    b.cylinder((0, -low, 0), (0, dome - 0.02, 0), 0.04, color=metal, sides=10, part="pole")
    grip = b.against(WOOD, DARK)
    hook = [
        (0.13 - 0.13 * math.cos(a), -low - 0.13 * math.sin(a)) for a in [k * math.pi / 6 for k in range(7)]
    ]
    b.cylinder((0, -low, 0), (0, -low + 0.22, 0), 0.06, color=grip, sides=10, part="handle")
    for (x0, y0), (x1, y1) in pairwise(hook):
        b.cylinder((x0, y0, 0), (x1, y1, 0), 0.06, color=grip, sides=10, part="handle")
        b.ellipsoid((x1, y1, 0), (0.06,) * 3, grip, part="handle")


ROUND_BUILDERS = {
    "ball": ball, "donut": donut, "cone": cone, "mushroom": mushroom, "tree": tree, "table": table, "lamp": lamp,
    "cube": cube, "vase": vase, "cactus": cactus, "apple": apple, "cupcake": cupcake, "pumpkin": pumpkin,
    "ice cream": ice_cream, "flower": flower, "umbrella": umbrella,
}  # fmt: skip
