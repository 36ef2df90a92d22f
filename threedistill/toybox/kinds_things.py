"""More things with an unmistakable front. See :mod:`kinds_fronted` for the rules."""

from __future__ import annotations

import math

from threedistill.toybox.kinds_fronted import CREAM, DARK, GLASS, GREY, LIGHT, RED, WOOD, YELLOW
from threedistill.toybox.shapes import Builder, rotation

__all__ = ["BRASS", "THING_BUILDERS", "clock", "sofa", "train", "truck"]

BRASS = (0.93, 0.72, 0.22)


def train(b: Builder) -> None:
    v = b.vary
    long, r, wide = v(0.7, 0.8), v(0.25, 0.29), v(0.62, 0.68)
    front = long - 0.06
    trim = b.against(RED, YELLOW)
    b.cylinder((0, 0.1, -0.2), (0, 0.1, front), r, sides=20)
    b.box((0, 0.2, -0.42), (wide, 0.72, 0.5), bevel=0.03, part="cabin")
    b.box((0, 0.59, -0.42), (wide + 0.12, 0.07, 0.62), trim, 0.02, part="roof")
    b.box((0, -0.2, 0.02), (wide * 0.88, 0.13, long * 1.8), b.against(DARK, GREY), 0.02, part="chassis")
    b.cylinder(
        (0, 0.1, front),
        (0, 0.1, front + 0.04),
        r * 0.84,
        color=b.against(DARK, GREY),
        sides=20,
        part="grille",
    )
    b.ellipsoid((0, 0.1, front + 0.04), (0.07, 0.07, 0.04), b.against(BRASS, LIGHT), part="grille")
    b.ellipsoid(
        (0, 0.1 + r + 0.03, front - 0.02), (0.085, 0.085, 0.075), b.against(YELLOW, LIGHT), part="lights"
    )
    b.cylinder(
        (0, 0.28, front - 0.2), (0, 0.58, front - 0.2), 0.08, color=b.against(DARK, GREY), part="chimney"
    )
    b.cylinder(
        (0, 0.54, front - 0.2),
        (0, v(0.66, 0.72), front - 0.2),
        0.09,
        0.145,
        b.against(DARK, GREY),
        part="chimney",
    )
    b.ellipsoid((0, 0.1 + r, 0.08), (0.11, 0.12, 0.11), b.against(BRASS, LIGHT), part="dome")
    b.extrude(
        [(-0.3, -0.14), (0.3, -0.14), (0.2, 0.06), (-0.2, 0.06)],
        0.16,
        trim,
        (0, -0.22, long * 0.9 + 0.04),
        part="bumper",
    )
    for side in (-1, 1):
        hub = side * wide * 0.42
        b.box(
            (side * wide * 0.49, 0.32, -0.42),
            (0.05, 0.26, 0.26),
            b.against(GLASS, DARK),
            0.02,
            part="windows",
        )
        b.box((side * 0.2, 0.44, -0.165), (0.14, 0.16, 0.04), b.against(GLASS, DARK), 0.02, part="windows")
        for z, size in ((-0.44, 0.2), (0.02, 0.16), (0.42, 0.16)):
            b.cylinder(
                (hub, size - 0.48, z),
                (hub + side * 0.1, size - 0.48, z),
                size,
                color=b.against(DARK, GREY),
                sides=16,
                part="wheels",
            )
            b.cylinder(
                (hub, size - 0.48, z),
                (hub + side * 0.12, size - 0.48, z),
                size * 0.42,
                color=b.against(LIGHT, DARK, part="wheels"),
                sides=10,
                part="hubs",
            )
        b.box((hub + side * 0.13, -0.31, 0.0), (0.03, 0.05, 0.86), GREY, 0.01, part="joints")


def clock(b: Builder) -> None:
    v = b.vary
    r, deep = v(0.48, 0.54), v(0.26, 0.32)
    face = b.against(LIGHT, CREAM)
    metal = b.against(BRASS, GREY)
    b.cylinder((0, 0, -deep / 2), (0, 0, deep / 2), r, sides=28)
    b.ellipsoid((0, 0, -deep / 2), (r * 0.88, r * 0.88, 0.1))
    b.torus((0, 0, deep / 2), r * 0.94, 0.06, turn=rotation(x=90), sides=28)
    b.cylinder((0, 0, deep / 2), (0, 0, deep / 2 + 0.02), r * 0.88, color=face, sides=28, part="face")
    ink = b.against(DARK, LIGHT, part="face")
    for k in range(12):
        a = k * math.pi / 6
        size = (0.06, 0.13, 0.03) if k % 3 == 0 else (0.035, 0.07, 0.03)
        at = (r * 0.72 * math.sin(a), r * 0.72 * math.cos(a), deep / 2 + 0.025)
        b.box(at, size, ink, 0.005, rotation(z=-k * 30), part="numerals")
    front = deep / 2 + 0.04
    for turn, long, wide in ((rotation(z=58), 0.4, 0.07), (rotation(z=-60), 0.58, 0.05)):
        b.box(turn @ [0, r * long / 2, front], (wide, r * long, 0.03), ink, 0.005, turn, part="pointers")
    b.ellipsoid((0, 0, front + 0.01), (0.055, 0.055, 0.03), b.against(RED, DARK, part="face"), part="knobs")
    for side in (-1, 1):
        turn = rotation(z=-side * 34)
        b.ellipsoid(turn @ [0, r + 0.15, 0], (0.21, 0.16, 0.2), metal, turn, part="bells")
        b.cylinder(turn @ [0, r - 0.04, 0], turn @ [0, r + 0.06, 0], 0.05, color=GREY, sides=8, part="joints")
        foot = rotation(z=side * 150)
        b.cylinder(foot @ [0, r - 0.06, 0], foot @ [0, r + 0.2, 0], 0.075, 0.055, metal, 10, part="legs")
    b.cylinder((0, r - 0.02, 0), (0, r + 0.2, 0), 0.035, color=GREY, sides=8, part="handle")
    b.torus((0, r + 0.3, 0), 0.13, 0.04, metal, rotation(x=90), part="handle")


def sofa(b: Builder) -> None:
    v = b.vary
    wide, deep, back = v(1.25, 1.4), v(0.58, 0.66), v(0.54, 0.64)
    soft = b.against(CREAM, (0.38, 0.42, 0.55))
    b.box((0, -0.08, 0), (wide, 0.26, deep), bevel=0.06)
    b.box((0, back / 2 - 0.06, -deep / 2 + 0.06), (wide, back, 0.2), bevel=0.08, part="backrest")
    for side in (-1, 1):
        b.box((side * (wide / 2 - 0.06), 0.08, 0.02), (0.2, 0.44, deep + 0.06), bevel=0.08, part="arms")
        b.box((side * wide * 0.21, 0.1, 0.07), (wide * 0.4, 0.15, deep * 0.82), soft, 0.05, part="cushion")
        b.box(
            (side * wide * 0.21, 0.3, -deep / 2 + 0.2),
            (wide * 0.38, 0.34, 0.13),
            soft,
            0.05,
            rotation(x=-10),
            part="cushion",
        )
        for z in (-1, 1):
            x = side * (wide / 2 - 0.1)
            b.cylinder(
                (x, -0.36, z * deep * 0.38),
                (x, -0.16, z * deep * 0.38),
                0.05,
                0.065,
                b.against(WOOD, DARK),
                10,
                part="legs",
            )


def truck(b: Builder) -> None:
    v = b.vary
    wide, cargo, tall = v(0.62, 0.7), v(0.86, 1.0), v(0.66, 0.78)
    b.box((0, tall / 2, -0.34), (wide, tall, cargo), bevel=0.04)
    cab = 0.46
    nose = -0.34 + cargo / 2 + cab / 2 + 0.05
    b.box((0, 0.26, nose), (wide * 0.94, 0.52, cab), b.against(LIGHT, GREY), 0.08, part="cabin")
    face = nose + cab / 2
    b.box((0, 0.36, face - 0.02), (wide * 0.74, 0.2, 0.07), (0.2, 0.3, 0.42), 0.03, part="windows")
    b.box((0, 0.09, face), (wide * 0.5, 0.1, 0.05), DARK, 0.02, part="grille")
    b.box((0, -0.02, nose - 0.5), (wide * 0.86, 0.1, cargo + cab), DARK, 0.02, part="chassis")
    b.box((0, 0.0, face + 0.01), (wide * 0.96, 0.09, 0.09), GREY, 0.03, part="bumper")
    for side in (-1, 1):
        b.ellipsoid((side * wide * 0.35, 0.11, face), (0.075, 0.07, 0.05), YELLOW, part="lights")
        b.box(
            (side * wide * 0.46, 0.36, nose + 0.04),
            (0.05, 0.18, 0.22),
            (0.2, 0.3, 0.42),
            0.02,
            part="windows",
        )
        for z in (-0.62, -0.28, nose):
            hub = side * wide * 0.36
            b.cylinder((hub, -0.1, z), (hub + side * 0.15, -0.1, z), 0.165, color=DARK, part="wheels")
            b.cylinder(
                (hub, -0.1, z),
                (hub + side * 0.165, -0.1, z),
                0.075,
                color=b.against(LIGHT, DARK, part="wheels"),
                sides=10,
                part="hubs",
            )


THING_BUILDERS = {"truck": truck, "train": train, "clock": clock, "sofa": sofa}
