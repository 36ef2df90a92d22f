"""Kinds with an unmistakable front (towards +Z): each function builds one object of roughly unit size.

Every function takes a :class:`Builder` and uses ``None`` as the colour of the parts that the colour word governs;
their area is the largest in every kind. Sizes are free: the world centres and scales afterwards.
"""

from __future__ import annotations

import math

from threedistill.toybox.shapes import Builder, rotation

__all__ = [
    "CREAM", "DARK", "FRONTED_BUILDERS", "GLASS", "GREY", "LIGHT", "ORANGE", "RED", "WOOD", "YELLOW", "airplane",
    "car", "cat", "chair", "duck", "house", "mug", "owl", "robot", "rocket", "snowman", "teddy_bear", "television",
]  # fmt: skip

DARK = (0.07, 0.07, 0.08)
LIGHT = (0.95, 0.95, 0.93)
CREAM = (0.95, 0.87, 0.70)
ORANGE = (0.98, 0.50, 0.06)
YELLOW = (0.98, 0.83, 0.15)
RED = (0.86, 0.12, 0.10)
GLASS = (0.58, 0.80, 0.92)
GREY = (0.55, 0.56, 0.58)
WOOD = (0.42, 0.25, 0.12)


def duck(b: Builder) -> None:
    v = b.vary
    long, high = v(0.52, 0.62), v(0.48, 0.56)
    b.ellipsoid((0, 0, 0), (v(0.38, 0.44), 0.36, long))
    b.ellipsoid((0, 0.20, -long * 0.88), (0.20, 0.12, 0.26), turn=rotation(x=35), part="tail")
    head = v(0.27, 0.32)
    b.ellipsoid((0, high, 0.34), (head,) * 3, part="head")
    b.ellipsoid((0, 0.28, 0.28), (0.22, 0.25, 0.22), part="head")
    beak = b.against(ORANGE, YELLOW)
    b.ellipsoid((0, high - 0.05, 0.34 + head + 0.06), (0.16, 0.055, 0.18), beak, part="beak")
    b.eyes(0.15, high + 0.11, 0.34 + head * 0.72, 0.075)
    for side in (-1, 1):
        b.ellipsoid((side * 0.39, 0.06, -0.08), (0.07, 0.2, 0.34), turn=rotation(x=12), part="wings")
        b.ellipsoid((side * 0.16, -0.37, 0.12), (0.12, 0.05, 0.18), beak, part="feet")
    b.hat = (0, high + head * 0.78, 0.30, head * 0.75)
    b.neck = (0, high - head * 0.86, 0.31, head * 0.92)


def car(b: Builder) -> None:
    v = b.vary
    length, width = v(1.5, 1.7), v(0.72, 0.82)
    b.box((0, 0, 0), (width, 0.34, length), bevel=0.1)
    cabin, back = v(0.74, 0.86), -0.14
    b.box((0, 0.30, back), (width * 0.88, 0.34, cabin), bevel=0.1, part="cabin")
    front = back + cabin / 2
    b.box((0, 0.30, front - 0.02), (width * 0.72, 0.22, 0.08), GLASS, 0.03, part="windows")
    b.box((0, 0.30, back - cabin / 2 + 0.02), (width * 0.6, 0.18, 0.08), DARK, 0.03, part="windows")
    for side in (-1, 1):
        b.box((side * width * 0.42, 0.30, back), (0.06, 0.2, cabin * 0.72), DARK, 0.02, part="windows")
        for z in (-0.3, 0.3):
            hub = side * width * 0.43
            b.cylinder(
                (hub, -0.17, z * length),
                (hub + side * 0.12, -0.17, z * length),
                0.2,
                color=DARK,
                part="wheels",
            )
            b.cylinder(
                (hub, -0.17, z * length),
                (hub + side * 0.14, -0.17, z * length),
                0.09,
                color=b.against(LIGHT, DARK, part="wheels"),
                sides=10,
                part="hubs",
            )
        b.ellipsoid(
            (side * width * 0.33, 0.04, length / 2 - 0.01),
            (0.11, 0.09, 0.06),
            b.against(YELLOW, LIGHT),
            part="lights",
        )
        b.box(
            (side * width * 0.36, 0.05, -length / 2),
            (0.16, 0.08, 0.05),
            b.against(RED, DARK),
            0.02,
            part="lights",
        )
    b.box((0, -0.06, length / 2), (width * 0.5, 0.1, 0.05), b.against(DARK, LIGHT), 0.02, part="grille")


def robot(b: Builder) -> None:
    v = b.vary
    width, tall = v(0.58, 0.68), v(0.58, 0.68)
    steel = b.against(GREY, LIGHT)
    b.box((0, 0, 0), (width, tall, 0.44), bevel=0.05)
    head = v(0.42, 0.5)
    y = tall / 2 + 0.26
    b.cylinder((0, tall / 2 - 0.02, 0), (0, tall / 2 + 0.12, 0), 0.1, color=steel, part="joints")
    b.box((0, y, 0), (head, 0.36, 0.40), bevel=0.05, part="head")
    b.eyes(head * 0.24, y + 0.05, 0.2, 0.085)
    b.box((0, y - 0.11, 0.2), (head * 0.55, 0.06, 0.04), b.against(DARK, LIGHT), 0.01, part="mouth")
    b.cylinder((0, y + 0.17, 0), (0, y + 0.34, 0), 0.045, color=steel, sides=8, part="antenna")
    b.ellipsoid((0, y + 0.36, 0), (0.085,) * 3, b.against(RED, YELLOW), part="antenna")
    b.box((0, 0.02, 0.22), (width * 0.62, tall * 0.5, 0.05), b.against(LIGHT, GREY), 0.02, part="panel")
    for x, c in ((-0.1, RED), (0.1, (0.1, 0.6, 0.2))):
        b.ellipsoid((x, 0.06, 0.25), (0.07,) * 3, c, part="buttons")
    for side in (-1, 1):
        b.ellipsoid((side * (width / 2 + 0.04), tall * 0.33, 0), (0.1,) * 3, steel, part="joints")
        b.box((side * (width / 2 + 0.1), -0.02, 0), (0.15, tall * 0.75, 0.18), bevel=0.05, part="arms")
        b.ellipsoid((side * (width / 2 + 0.1), -tall * 0.45, 0.02), (0.1, 0.1, 0.1), steel, part="hands")
        b.box((side * width * 0.25, -tall / 2 - 0.17, 0), (0.19, 0.36, 0.22), bevel=0.04, part="legs")
        b.box((side * width * 0.25, -tall / 2 - 0.36, 0.07), (0.22, 0.1, 0.36), steel, 0.03, part="feet")
    b.hat = (0, y + 0.16, 0, head * 0.5)
    b.neck = (0, tall / 2 + 0.05, 0, 0.27)


def snowman(b: Builder) -> None:
    v = b.vary
    low, middle, top = v(0.42, 0.48), v(0.31, 0.36), v(0.23, 0.27)
    y1 = low + middle * 0.62
    y2 = y1 + middle + top * 0.55
    dark = b.against(DARK, LIGHT)
    b.ellipsoid((0, 0, 0), (low, low * 0.95, low))
    b.ellipsoid((0, y1, 0), (middle,) * 3)
    b.ellipsoid((0, y2, 0), (top,) * 3, part="head")
    b.cylinder(
        (0, y2, top * 0.9),
        (0, y2 - 0.02, top + v(0.22, 0.3)),
        0.07,
        0,
        b.against(ORANGE, RED, YELLOW),
        part="nose",
    )
    for side in (-1, 1):
        b.ellipsoid((side * top * 0.4, y2 + top * 0.35, top * 0.84), (0.055,) * 3, dark, part="eyes")
        b.cylinder(
            (side * middle * 0.8, y1 + 0.08, 0),
            (side * (middle + 0.36), y1 + 0.26, 0.06),
            0.05,
            0.04,
            WOOD,
            7,
            part="arms",
        )
    for k in range(3):
        b.ellipsoid(
            (0, y1 + 0.14 - 0.15 * k, middle * (0.93, 1.0, 0.93)[k]), (0.06,) * 3, dark, part="buttons"
        )
    b.hat = (0, y2 + top * 0.8, 0, top * 0.82)
    b.neck = (0, y2 - top * 0.85, 0, top * 0.95)


def teddy_bear(b: Builder) -> None:
    v = b.vary
    belly, head = v(0.38, 0.44), v(0.31, 0.36)
    y = belly * 1.02 + head * 0.72
    pad = b.against(CREAM, (0.75, 0.58, 0.42))
    b.ellipsoid((0, 0, 0), (belly, belly * 1.08, belly * 0.9))
    b.ellipsoid((0, -0.02, belly * 0.52), (belly * 0.62, belly * 0.68, belly * 0.46), pad, part="belly")
    b.ellipsoid((0, y, 0.02), (head * 1.08, head, head), part="head")
    b.ellipsoid((0, y - 0.09, head * 0.86), (0.155, 0.12, 0.13), pad, part="snout")
    b.ellipsoid((0, y - 0.03, head * 0.86 + 0.12), (0.055, 0.042, 0.04), DARK, part="nose")
    for side in (-1, 1):
        b.ellipsoid((side * head * 0.8, y + head * 0.8, -0.02), (0.14, 0.14, 0.09), part="ears")
        b.ellipsoid((side * head * 0.8, y + head * 0.8, 0.05), (0.085, 0.085, 0.05), pad, part="inner ears")
        b.ellipsoid(
            (side * head * 0.40, y + 0.09, head * 0.9), (0.065,) * 3, b.against(DARK, LIGHT), part="eyes"
        )
        b.ellipsoid(
            (side * (belly + 0.06), 0.14, 0.14),
            (0.14, 0.28, 0.14),
            turn=rotation(x=-35, z=side * 28),
            part="arms",
        )
        b.ellipsoid((side * 0.27, -belly * 0.82, 0.38), (0.15, 0.15, 0.28), part="legs")
        b.ellipsoid((side * 0.27, -belly * 0.80, 0.62), (0.10, 0.11, 0.05), pad, part="paws")
    b.hat = (0, y + head * 0.82, 0, head * 0.72)
    b.neck = (0, y - head * 0.86, 0.03, head * 0.95)


def house(b: Builder) -> None:
    v = b.vary
    wide, tall, deep = v(0.95, 1.1), v(0.82, 0.96), v(0.75, 0.9)
    roof = b.against((0.50, 0.16, 0.13), (0.30, 0.32, 0.38))
    b.box((0, 0, 0), (wide, tall, deep), bevel=0.015)
    peak, over = v(0.28, 0.38), 0.05
    gable = [(-wide / 2, 0), (wide / 2, 0), (0, peak)]
    b.extrude(gable, deep * 0.98, center=(0, tall / 2, 0))
    slope = ((wide / 2 + over) ** 2 + (peak + 0.08) ** 2) ** 0.5
    tilt = math.degrees(math.atan2(peak, wide / 2))
    for side in (-1, 1):
        b.box(
            (side * (wide / 4 + 0.02), tall / 2 + peak / 2 + 0.03, 0), (slope, 0.07, deep + 2 * over), roof, 0.01,
            rotation(z=-side * tilt),
        part="roof")  # fmt: skip
    front = deep / 2
    door = b.against(WOOD, LIGHT)
    b.box((0, -tall / 2 + 0.21, front), (0.24, 0.42, 0.06), door, 0.01, part="door")
    b.ellipsoid((0.07, -tall / 2 + 0.2, front + 0.04), (0.028,) * 3, YELLOW, part="knobs")
    for side in (-1, 1):
        x = side * wide * 0.32
        b.box((x, 0.03, front), (0.2, 0.22, 0.05), b.against(LIGHT, DARK), 0.01, part="frames")
        b.box((x, 0.03, front + 0.01), (0.15, 0.17, 0.05), GLASS, 0.01, part="windows")
    b.ellipsoid((0, tall / 2 + peak * 0.35, front), (0.09, 0.09, 0.03), GLASS, part="windows")
    b.box((wide * 0.28, tall / 2 + peak * 0.75, -deep * 0.2), (0.14, 0.36, 0.14), roof, 0.01, part="chimney")


def television(b: Builder) -> None:
    v = b.vary
    wide, tall = v(1.1, 1.3), v(0.8, 0.92)
    b.box((0, 0, 0), (wide, tall, 0.42), bevel=0.07)
    b.box((0, 0, -0.26), (wide * 0.66, tall * 0.66, 0.2), bevel=0.06)
    b.box((-0.1, 0.02, 0.2), (wide * 0.68, tall * 0.72, 0.05), DARK, 0.02, part="frames")
    b.box((-0.1, 0.02, 0.22), (wide * 0.62, tall * 0.64, 0.05), GLASS, 0.02, part="screen")
    knob = b.against(LIGHT, DARK)
    for y in (0.22, 0.0):
        b.cylinder((wide * 0.38, y, 0.18), (wide * 0.38, y, 0.27), 0.07, color=knob, sides=12, part="knobs")
    b.box((wide * 0.38, -0.22, 0.2), (0.13, 0.18, 0.04), DARK, 0.01, part="speaker")
    metal = b.against(GREY, DARK)
    apart, high = v(0.3, 0.42), v(0.3, 0.4)
    for side in (-1, 1):
        tip = (side * apart, tall / 2 + high, 0)
        b.cylinder((side * 0.03, tall / 2, 0), tip, 0.045, color=metal, sides=8, part="antenna")
        b.ellipsoid(tip, (0.075,) * 3, metal, part="antenna")
        foot = (side * wide * 0.36, -tall / 2 + 0.02, 0)
        b.cylinder(foot, (side * wide * 0.42, -tall / 2 - 0.17, 0), 0.08, color=WOOD, sides=8, part="legs")


def mug(b: Builder) -> None:
    v = b.vary
    r, tall = v(0.42, 0.5), v(0.86, 1.0)
    h = tall / 2
    b.lathe(
        [
            (0.0, -h),
            (r * 0.9, -h),
            (r * 0.97, -h + 0.05),
            (r, 0),
            (r, h - 0.02),
            (r * 0.96, h),
            (r * 0.9, h - 0.02),
        ],
        sides=24,
    )
    b.lathe(
        [(r * 0.9, h - 0.03), (r * 0.88, 0), (r * 0.85, -h + 0.12)],
        b.against(LIGHT, CREAM),
        sides=24,
        part="inside",
    )
    b.cylinder((0, h - 0.2, 0), (0, h - 0.16, 0), r * 0.9, color=(0.25, 0.13, 0.06), sides=20, part="drink")
    b.torus((r + 0.04, 0, 0), v(0.25, 0.3), 0.065, turn=rotation(x=90), part="handle")
    mark = b.against(LIGHT, (0.15, 0.15, 0.4))
    b.ellipsoid((0, 0.02, r - 0.06), (0.22, 0.22, 0.1), mark, part="badge")
    dot = b.against(DARK, LIGHT, part="badge")
    for side in (-1, 1):
        b.ellipsoid((side * 0.085, 0.08, r + 0.025), (0.05, 0.06, 0.03), dot, part="eyes")
    b.ellipsoid((0, -0.07, r + 0.02), (0.11, 0.04, 0.025), dot, part="smile")


def owl(b: Builder) -> None:
    v = b.vary
    wide, tall = v(0.42, 0.48), v(0.56, 0.64)
    pale = b.against(CREAM, (0.72, 0.56, 0.40))
    b.ellipsoid((0, 0, 0), (wide, tall, wide * 0.9))
    b.ellipsoid((0, -0.18, wide * 0.42), (wide * 0.66, tall * 0.58, wide * 0.5), pale, part="belly")
    y = tall * 0.45
    for side in (-1, 1):
        x = side * v(0.17, 0.19)
        b.ellipsoid((x, y, wide * 0.70), (0.19, 0.19, 0.10), pale, part="face")
        b.ellipsoid((x, y, wide * 0.70 + 0.06), (0.14, 0.14, 0.07), LIGHT, part="eyes")
        b.ellipsoid(
            (x, y, wide * 0.70 + 0.11), (0.08, 0.08, 0.05), b.against(DARK, LIGHT, part="eyes"), part="pupils"
        )
        b.cylinder(
            (side * 0.24, tall * 0.72, 0), (side * 0.34, tall * 1.12, 0.02), 0.12, 0, None, 10, part="ears"
        )
        b.ellipsoid(
            (side * wide * 0.95, -0.06, -0.04), (0.09, 0.38, 0.24), turn=rotation(z=side * 8), part="wings"
        )
        b.ellipsoid(
            (side * 0.16, -tall * 0.96, 0.2), (0.11, 0.06, 0.16), b.against(ORANGE, YELLOW), part="feet"
        )
    b.cylinder(
        (0, y - 0.06, wide * 0.78),
        (0, y - 0.2, wide + 0.08),
        0.085,
        0.0,
        b.against(ORANGE, YELLOW),
        10,
        part="beak",
    )
    b.box((0, -tall * 0.72, -wide * 0.75), (0.3, 0.1, 0.34), bevel=0.04, turn=rotation(x=-35), part="tail")
    b.hat = (0, tall * 0.86, 0, 0.27)
    b.neck = (0, 0.06, 0.0, wide * 1.0)


def airplane(b: Builder) -> None:
    v = b.vary
    long, span = v(0.86, 0.98), v(1.7, 1.95)
    b.ellipsoid((0, 0, 0), (0.2, 0.22, long))
    chord = v(0.42, 0.5)
    b.box((0, -0.02, 0.12), (span, 0.07, chord), bevel=0.03, part="wings")
    b.box((0, 0.06, -long * 0.84), (span * 0.4, 0.05, chord * 0.6), bevel=0.02, part="tail")
    b.extrude(
        [(-0.22, 0), (0.16, 0), (0.2, 0.42), (0.02, 0.42)],
        0.06,
        center=(0, 0.08, -long * 0.82),
        turn=rotation(y=90),
        part="tail",
    )
    b.ellipsoid((0, 0.17, 0.34), (0.14, 0.14, 0.26), b.against(GLASS, DARK), part="windows")
    nose = b.against(RED, YELLOW)
    b.ellipsoid((0, 0, long), (0.1, 0.1, 0.12), nose, part="nose")
    b.box(
        (0, 0, long + 0.05),
        (0.72, 0.09, 0.03),
        b.against(DARK, LIGHT),
        0.01,
        rotation(z=v(20, 30)),
        part="propeller",
    )
    for side in (-1, 1):
        b.ellipsoid((side * span * 0.44, -0.02, 0.12), (0.1, 0.05, chord * 0.5), nose, part="tips")
        b.cylinder(
            (side * 0.16, -0.12, 0.3), (side * 0.22, -0.3, 0.3), 0.045, color=GREY, sides=7, part="struts"
        )
        b.cylinder(
            (side * 0.19, -0.32, 0.3), (side * 0.27, -0.32, 0.3), 0.1, color=DARK, sides=12, part="wheels"
        )


def rocket(b: Builder) -> None:
    v = b.vary
    r, tall = v(0.28, 0.34), v(1.0, 1.2)
    h = tall / 2
    trim = b.against(RED, LIGHT)
    b.lathe(
        [(0.0, -h), (r * 0.75, -h), (r * 0.95, -h * 0.4), (r, h * 0.1), (r * 0.9, h * 0.7), (r * 0.72, h)],
        sides=20,
    )
    b.lathe(
        [(r * 0.74, h - 0.01), (r * 0.5, h + 0.2), (r * 0.22, h + 0.38), (0.0, h + 0.46)],
        trim,
        sides=20,
        part="nose",
    )
    fin = [(0.0, -0.24), (0.34, -0.44), (0.34, -0.2), (0.0, 0.2)]
    for angle in (45, 135, 225, 315):
        turn = rotation(y=angle)
        b.extrude(fin, 0.07, trim, center=turn @ [r * 0.72, -h + 0.12, 0], turn=turn, part="fins")
    b.cylinder((0, -h - 0.1, 0), (0, -h + 0.02, 0), r * 0.62, r * 0.5, DARK, part="nozzle")
    b.lathe(
        [(0.02, -h - 0.36), (r * 0.4, -h - 0.16), (r * 0.45, -h - 0.08)],
        b.against(ORANGE, YELLOW),
        sides=12,
        part="flame",
    )
    for y, s in ((h * 0.42, 0.15), (-h * 0.16, 0.12)):
        b.ellipsoid((0, y, r * 0.93), (s, s, 0.07), b.against(LIGHT, DARK), part="frames")
        b.ellipsoid((0, y, r * 0.93 + 0.03), (s * 0.7, s * 0.7, 0.07), (0.25, 0.55, 0.8), part="windows")


def chair(b: Builder) -> None:
    v = b.vary
    wide, deep, seat, back = v(0.7, 0.82), v(0.68, 0.78), v(0.48, 0.6), v(0.62, 0.78)
    b.box((0, 0, 0), (wide, 0.12, deep), bevel=0.03)
    b.box((0, back / 2, -deep / 2 + 0.06), (wide, back, 0.12), bevel=0.03, part="backrest")
    b.box(
        (0, 0.08, 0.04),
        (wide * 0.82, 0.09, deep * 0.78),
        b.against(CREAM, (0.35, 0.4, 0.55)),
        0.04,
        part="cushion",
    )
    for x in (-1, 1):
        for z in (-1, 1):
            b.box(
                (x * (wide / 2 - 0.07), -seat / 2, z * (deep / 2 - 0.07)),
                (0.12, seat, 0.12),
                bevel=0.02,
                part="legs",
            )


def cat(b: Builder) -> None:
    v = b.vary
    body, head = v(0.3, 0.35), v(0.28, 0.33)
    pale = b.against(LIGHT, CREAM, (0.7, 0.65, 0.6))
    b.ellipsoid((0, 0, -0.08), (body, 0.46, body * 1.1))
    b.ellipsoid((0, 0.02, body * 0.62), (body * 0.6, 0.34, 0.16), pale, part="belly")
    y = 0.52
    z = 0.12
    b.ellipsoid((0, y, z), (head * 1.1, head, head * 0.95), part="head")
    ear = v(0.24, 0.3)
    for side in (-1, 1):
        b.cylinder(
            (side * head * 0.62, y + head * 0.6, z),
            (side * head * 0.85, y + head * 0.6 + ear, z),
            0.14,
            0,
            None,
            10,
            part="ears",
        )
        b.cylinder(
            (side * head * 0.62, y + head * 0.64, z + 0.06),
            (side * head * 0.8, y + head * 0.6 + ear * 0.75, z + 0.05),
            0.09,
            0,
            (0.95, 0.6, 0.65),
            8,
            part="inner ears",
        )
        b.ellipsoid(
            (side * 0.13, y + 0.06, z + head * 0.83),
            (0.075, 0.085, 0.05),
            b.against((0.75, 0.9, 0.3), LIGHT),
            part="eyes",
        )
        b.ellipsoid(
            (side * 0.13, y + 0.06, z + head * 0.83 + 0.035),
            (0.035, 0.07, 0.03),
            b.against(DARK, LIGHT, part="eyes"),
            part="pupils",
        )
        b.ellipsoid((side * 0.07, y - 0.1, z + head * 0.85), (0.09, 0.075, 0.09), pale, part="snout")
        b.ellipsoid((side * 0.14, -0.26, 0.24), (0.1, 0.2, 0.13), part="legs")
        b.ellipsoid((side * 0.14, -0.43, 0.30), (0.1, 0.065, 0.15), pale, part="paws")
        b.ellipsoid((side * 0.28, -0.3, -0.08), (0.15, 0.2, 0.26), part="legs")
    b.ellipsoid((0, y - 0.04, z + head * 0.95 + 0.04), (0.04, 0.03, 0.03), (0.95, 0.5, 0.55), part="nose")
    b.ellipsoid((0, -0.30, -body - 0.14), (0.08, 0.09, 0.3), turn=rotation(x=-15), part="tail")
    b.ellipsoid((0, -0.02, -body - 0.42), (0.075, 0.3, 0.085), turn=rotation(x=-14), part="tail")
    b.hat = (0, y + head * 0.82, z, head * 0.66)
    b.neck = (0, y - head * 0.84, z - 0.02, head * 0.95)


FRONTED_BUILDERS = {
    "duck": duck, "car": car, "robot": robot, "snowman": snowman, "teddy bear": teddy_bear, "house": house,
    "television": television, "mug": mug, "owl": owl, "airplane": airplane, "rocket": rocket, "chair": chair,
    "cat": cat,
}  # fmt: skip
