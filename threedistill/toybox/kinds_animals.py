"""Animals with an unmistakable front. See :mod:`kinds_fronted` for the rules."""

from __future__ import annotations

from itertools import pairwise

from threedistill.toybox.kinds_fronted import CREAM, DARK, GREY, LIGHT, ORANGE, RED, YELLOW
from threedistill.toybox.shapes import Builder, rotation

__all__ = ["ANIMAL_BUILDERS", "PINK", "dog", "elephant", "fish", "frog", "penguin", "pig", "rabbit"]

PINK = (0.95, 0.58, 0.64)


def dog(b: Builder) -> None:
    v = b.vary
    long, head = v(0.44, 0.52), v(0.25, 0.29)
    pale = b.against(CREAM, (0.72, 0.55, 0.38))
    y, z = 0.44, long * 0.86
    b.ellipsoid((0, 0, -0.06), (0.26, 0.27, long))
    b.ellipsoid((0, 0.06, long * 0.5), (0.25, 0.28, 0.24))
    b.cylinder((0, 0.1, long * 0.6), (0, y - 0.06, z - 0.06), 0.2, 0.18)
    b.ellipsoid((0, y, z), (head * 1.02, head, head), part="head")
    b.ellipsoid((0, y - 0.08, z + head * 0.9), (0.14, 0.115, v(0.2, 0.24)), pale, part="snout")
    b.ellipsoid((0, y - 0.02, z + head * 0.9 + 0.19), (0.065, 0.05, 0.05), DARK, part="nose")
    b.box((0, y - 0.15, z + head * 0.9 + 0.1), (0.13, 0.03, 0.12), DARK, 0.01, part="mouth")
    b.eyes(0.115, y + 0.1, z + head * 0.78, 0.068)
    b.torus((0, y - head * 0.92, z - 0.1), 0.19, 0.05, b.against(RED, YELLOW), rotation(x=28), part="collar")
    hang = v(0.2, 0.26)
    ear = b.against((0.28, 0.15, 0.07), CREAM)
    for side in (-1, 1):
        b.ellipsoid(
            (side * head * 1.04, y - 0.02, z - 0.02),
            (0.075, hang, 0.15),
            ear,
            rotation(z=side * 12),
            part="ears",
        )
        for leg in (-long * 0.72, long * 0.58):
            b.cylinder((side * 0.16, -0.56, leg), (side * 0.16, -0.05, leg), 0.095, 0.12, part="legs")
            b.ellipsoid((side * 0.16, -0.56, leg + 0.05), (0.115, 0.075, 0.15), pale, part="paws")
    b.cylinder((0, 0.12, -long - 0.02), (0, v(0.46, 0.54), -long - 0.2), 0.075, 0.05, part="tail")
    b.hat = (0, y + head * 0.82, z - 0.02, head * 0.7)
    b.neck = (0, y - head * 0.98, z - 0.08, head * 0.82)


def rabbit(b: Builder) -> None:
    v = b.vary
    body, head, ear = v(0.31, 0.35), v(0.26, 0.3), v(0.3, 0.36)
    pale = b.against(LIGHT, (0.93, 0.80, 0.74))
    y, z = 0.54, 0.14
    b.ellipsoid((0, 0, -0.06), (body, 0.42, body * 1.08))
    b.ellipsoid((0, -0.02, body * 0.6), (body * 0.62, 0.3, 0.16), pale, part="belly")
    b.ellipsoid((0, y, z), (head, head * 0.95, head), part="head")
    b.ellipsoid((0, y - 0.07, z + head * 0.98), (0.045, 0.035, 0.035), b.against(PINK, DARK), part="nose")
    b.box((0, y - 0.17, z + head * 0.9), (0.07, 0.1, 0.04), b.against(LIGHT, CREAM), 0.01, part="mouth")
    for side in (-1, 1):
        lean = rotation(z=-side * 10)
        root = (side * 0.12, y + head * 0.72, z - 0.03)
        tip = (root[0] + side * ear * 0.17, root[1] + ear * 0.94, root[2])
        b.ellipsoid(tip, (0.1, ear, 0.065), turn=lean, part="ears")
        b.ellipsoid(
            (tip[0], tip[1], tip[2] + 0.04),
            (0.06, ear * 0.8, 0.045),
            b.against(PINK, DARK),
            lean,
            part="inner ears",
        )
        b.ellipsoid((side * 0.075, y - 0.12, z + head * 0.86), (0.095, 0.075, 0.08), pale, part="snout")
        b.ellipsoid((side * 0.13, -0.16, body * 0.86), (0.085, 0.17, 0.1), part="arms")
        b.ellipsoid((side * 0.27, -0.22, -0.04), (0.15, 0.22, 0.28), part="legs")
        b.ellipsoid((side * 0.2, -0.4, 0.3), (0.12, 0.07, 0.24), pale, part="paws")
    b.eyes(0.135, y + 0.07, z + head * 0.78, 0.07)
    b.ellipsoid((0, -0.2, -body * 1.08 - 0.1), (0.15, 0.15, 0.13), b.against(LIGHT, PINK), part="tail")
    b.hat = (0, y + head * 0.7, z, head * 0.72)
    b.neck = (0, y - head * 0.86, z - 0.04, head * 0.92)


def frog(b: Builder) -> None:
    v = b.vary
    wide, high = v(0.46, 0.54), v(0.28, 0.33)
    pale = b.against((0.90, 0.90, 0.55), LIGHT)
    b.ellipsoid((0, 0, -0.06), (wide, high, 0.48))
    b.ellipsoid((0, -0.07, 0.24), (wide * 0.72, high * 0.86, 0.26), pale, part="belly")
    y = high * 0.72
    b.ellipsoid((0, y, 0.2), (wide * 0.88, 0.26, 0.34), part="head")
    b.ellipsoid((0, y - 0.06, 0.5), (wide * 0.62, 0.03, 0.075), b.against(DARK, RED), part="mouth")
    for side in (-1, 1):
        x = side * wide * 0.48
        b.ellipsoid((x, y + 0.26, 0.22), (0.16, 0.17, 0.15), part="head")
        b.ellipsoid((x, y + 0.29, 0.32), (0.115, 0.12, 0.08), b.against(LIGHT, YELLOW), part="eyes")
        b.ellipsoid(
            (x, y + 0.29, 0.38), (0.065, 0.08, 0.045), b.against(DARK, LIGHT, part="eyes"), part="pupils"
        )
        b.ellipsoid((side * 0.07, y + 0.07, 0.525), (0.022, 0.022, 0.02), DARK, part="nostrils")
        b.ellipsoid(
            (side * wide * 0.98, -0.1, -0.16), (0.15, 0.22, 0.33), turn=rotation(y=side * 12), part="legs"
        )
        b.ellipsoid((side * (wide + 0.04), -high + 0.01, 0.16), (0.15, 0.055, 0.24), pale, part="feet")
        b.cylinder(
            (side * wide * 0.62, 0.0, 0.3), (side * wide * 0.66, -high + 0.02, 0.46), 0.09, 0.075, part="arms"
        )
        b.ellipsoid((side * wide * 0.66, -high + 0.01, 0.52), (0.13, 0.05, 0.15), pale, part="feet")


def penguin(b: Builder) -> None:
    v = b.vary
    wide, tall = v(0.37, 0.43), v(0.54, 0.6)
    white, trim = b.against(LIGHT, (0.25, 0.27, 0.32)), b.against(ORANGE, YELLOW)
    y = tall * 0.98
    head = v(0.26, 0.3)
    b.ellipsoid((0, 0, 0), (wide, tall, wide * 0.92))
    b.ellipsoid((0, -0.06, wide * 0.4), (wide * 0.76, tall * 0.82, wide * 0.62), white, part="belly")
    b.ellipsoid((0, y, 0.02), (head, head, head * 0.96), part="head")
    b.cylinder(
        (0, y - 0.03, head * 0.8), (0, y - 0.07, head + v(0.2, 0.26)), 0.09, 0.0, trim, 10, part="beak"
    )
    for side in (-1, 1):
        b.ellipsoid((side * 0.115, y + 0.02, head * 0.62), (0.125, 0.14, 0.11), white, part="face")
        b.ellipsoid(
            (side * wide * 1.04, 0.06, 0), (0.07, tall * 0.62, 0.17), turn=rotation(z=side * 14), part="wings"
        )
        b.ellipsoid((side * 0.17, -tall * 0.98, 0.2), (0.14, 0.06, 0.2), trim, part="feet")
        b.ellipsoid(
            (side * 0.115, y + 0.05, head * 0.62 + 0.1),
            (0.05, 0.06, 0.035),
            b.against(DARK, part="face"),
            part="eyes",
        )
    b.cylinder((0, -tall * 0.72, -wide * 0.6), (0, -tall * 0.92, -wide * 1.1), 0.14, 0.03, part="tail")
    b.hat = (0, y + head * 0.78, 0, head * 0.76)
    b.neck = (0, y - head * 0.82, 0.02, head * 0.98)


def elephant(b: Builder) -> None:
    v = b.vary
    long, head, ear = v(0.46, 0.54), v(0.3, 0.34), v(0.26, 0.31)
    y, z = 0.26, long * 0.86
    inner = b.against((0.95, 0.70, 0.74), (0.62, 0.36, 0.42))
    b.ellipsoid((0, 0, -0.12), (0.42, 0.4, long))
    b.ellipsoid((0, y, z), (head, head, head * 0.95), part="head")
    spine = [
        (y - 0.04, z + head * 0.8),
        (y - 0.26, z + head + 0.08),
        (y - 0.52, z + head + 0.1),
        (y - 0.66, z + head + 0.26),
    ]
    for k, ((y0, z0), (y1, z1)) in enumerate(pairwise(spine)):
        b.cylinder((0, y0, z0), (0, y1, z1), 0.135 - 0.02 * k, 0.115 - 0.02 * k, part="trunk")
        b.ellipsoid((0, y1, z1), (0.116 - 0.02 * k,) * 3, part="trunk")
    for side in (-1, 1):
        turn = rotation(y=-side * 32)
        at = (side * (head + ear * 0.62), y + 0.04, z - 0.1)
        b.ellipsoid(at, (ear, ear * 1.18, 0.06), turn=turn, part="ears")
        b.ellipsoid(
            (at[0] - side * 0.01, at[1], at[2] + 0.045),
            (ear * 0.72, ear * 0.9, 0.045),
            inner,
            turn,
            part="inner ears",
        )
        b.cylinder(
            (side * 0.17, y - 0.14, z + head * 0.7),
            (side * 0.21, y - 0.3, z + head + 0.16),
            0.055,
            0.01,
            b.against(LIGHT, CREAM),
            8,
            part="tusks",
        )
        for leg in (-long * 0.66, long * 0.46):
            b.cylinder((side * 0.24, -0.56, leg), (side * 0.24, -0.1, leg), 0.14, 0.16, part="legs")
            b.ellipsoid(
                (side * 0.24, -0.53, leg + 0.1),
                (0.1, 0.055, 0.07),
                b.against(CREAM, (0.4, 0.3, 0.25)),
                part="feet",
            )
    b.eyes(0.15, y + 0.1, z + head * 0.74, 0.062)
    b.cylinder((0, 0.1, -long - 0.1), (0, -0.22, -long - 0.2), 0.035, 0.03, part="tail")
    b.ellipsoid((0, -0.26, -long - 0.21), (0.05, 0.08, 0.05), b.against(DARK, LIGHT), part="tail")
    b.hat = (0, y + head * 0.82, z - 0.02, head * 0.7)
    b.neck = (0, y - head * 0.3, z - head * 0.72, head * 1.08)


def fish(b: Builder) -> None:
    v = b.vary
    long, high = v(0.56, 0.64), v(0.38, 0.44)
    fin = b.against(YELLOW, ORANGE, RED)
    b.ellipsoid((0, 0, 0), (0.27, high, long))
    b.ellipsoid(
        (0, -0.05, long * 0.86), (0.13, 0.1, 0.12), b.against((0.95, 0.45, 0.45), YELLOW), part="mouth"
    )
    b.ellipsoid((0, -0.05, long * 0.86 + 0.1), (0.075, 0.03, 0.04), DARK, part="mouth")
    tail = v(0.34, 0.42)
    flat = rotation(y=90)
    for lobe in (
        [(-0.02, -0.06), (tail, -0.44), (tail * 0.75, 0), (-0.02, 0.06)],
        [(-0.02, -0.06), (tail * 0.75, 0), (tail, 0.44), (-0.02, 0.06)],
    ):
        b.extrude(lobe, 0.08, fin, (0, 0, -long * 0.9), flat, part="tail")
    b.extrude(
        [(-0.3, 0), (0.34, 0), (0.3, 0.26), (0.02, 0.3)], 0.07, fin, (0, high * 0.88, 0), flat, part="fins"
    )
    b.extrude(
        [(0.14, 0.0), (-0.1, 0.0), (0.1, -0.2), (0.2, -0.2)],
        0.07,
        fin,
        (0, -high * 0.9, 0),
        flat,
        part="fins",
    )
    for side in (-1, 1):
        b.ellipsoid(
            (side * 0.29, -0.1, 0.02), (0.045, 0.13, 0.2), fin, rotation(y=-side * 28, x=20), part="fins"
        )
        g = rotation(y=side * 58) @ [0, 0, 1.0]
        eye = (side * 0.185, 0.1, long * 0.58)
        b.ellipsoid(eye, (0.11,) * 3, LIGHT, part="eyes")
        b.ellipsoid(
            [e + 0.055 * d for e, d in zip(eye, g)],
            (0.068,) * 3,
            b.against(DARK, LIGHT, part="eyes"),
            part="pupils",
        )


def pig(b: Builder) -> None:
    v = b.vary
    long, thick = v(0.54, 0.62), v(0.38, 0.44)
    snout = b.against((0.98, 0.74, 0.78), (0.78, 0.38, 0.45))
    b.ellipsoid((0, 0, -0.1), (thick, thick * 0.96, long))
    head = v(0.29, 0.33)
    z = long * 0.72
    b.ellipsoid((0, 0.16, z), (head, head * 0.95, head * 0.9), part="head")
    b.cylinder((0, 0.11, z + head * 0.7), (0, 0.11, z + head + 0.12), 0.145, 0.13, snout, 14, part="snout")
    for side in (-1, 1):
        b.ellipsoid((side * 0.055, 0.11, z + head + 0.12), (0.03, 0.045, 0.02), DARK, part="nostrils")
        b.cylinder(
            (side * head * 0.62, 0.34, z - 0.02),
            (side * head * 0.95, 0.58, z + 0.08),
            0.13,
            0,
            snout,
            8,
            part="ears",
        )
        for leg in (-0.42, 0.3):
            b.cylinder(
                (side * 0.22, -0.56, leg), (side * 0.22, -0.15, leg), 0.11, 0.13, None, 12, part="legs"
            )
            b.cylinder(
                (side * 0.22, -0.6, leg),
                (side * 0.22, -0.52, leg),
                0.115,
                color=b.against(DARK, GREY),
                sides=12,
                part="feet",
            )
    b.eyes(0.14, 0.27, z + head * 0.72, 0.06)
    b.torus((0, 0.14, -0.1 - long), 0.085, 0.03, snout, rotation(x=20, z=90), sides=12, part="tail")


ANIMAL_BUILDERS = {
    "pig": pig, "dog": dog, "rabbit": rabbit, "frog": frog, "penguin": penguin, "elephant": elephant, "fish": fish,
}  # fmt: skip
