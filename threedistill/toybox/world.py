"""Scenes as meshes: the procedural world behind the embedded prior, and the ground truth for its prompts.

An object is built by the function of its kind, dressed (accessories), painted (stripes, spots) and put into the
ball of radius 0.85 around the origin, +Y up and facing +Z.
"""

from __future__ import annotations

import math
import random

import numpy as np

from threedistill.toybox.grammar import COLORS, FRONTED, KINDS, ObjectSpec, Scene
from threedistill.toybox.kinds_fronted import FRONTED_BUILDERS
from threedistill.toybox.kinds_round import ROUND_BUILDERS
from threedistill.toybox.shapes import Builder, Solid, Vary, gather, join, rotation
from threedistill.types import Mesh

#: Every object stays within this distance of the origin.
RADIUS = 0.85
BUILDERS = FRONTED_BUILDERS | ROUND_BUILDERS
STRIPE_PERIOD = 0.34
SPOT_RADIUS = 0.13

assert set(BUILDERS) == set(KINDS) and set(FRONTED_BUILDERS) == FRONTED


def build(scene: Scene, rng: random.Random | None = None) -> Mesh:
    """The scene as a mesh with vertex colours and normals.

    Arguments:
        scene: one object, or two in a relation.
        rng: drives proportions, shades and open colours; None builds the canonical object.

    Returns:
        a mesh within :data:`RADIUS` of the origin, +Y up, front +Z; ``extras["colors"]`` names the main colours.
    """
    solids = []
    names = []
    for spec in scene.objects:
        color = spec.color or (rng.choice(KINDS[spec.kind]) if rng else KINDS[spec.kind][0])
        names.append(color)
        solids.append(_object(spec, color, rng))
    solid = solids[0] if len(solids) == 1 else _arrange(solids, scene.relation or "next to", rng)
    fill = 1.0 if rng is None else rng.uniform(0.93, 1.0)
    mesh = _fit(solid, RADIUS * fill).mesh()
    mesh.extras["colors"] = names
    return mesh


def _shade(color: str, rng: random.Random | None) -> tuple[float, float, float]:
    """A colour word as sRGB, slightly varied."""
    base = COLORS[color]
    if rng is None:
        return base
    light = rng.uniform(-0.03, 0.03)
    return tuple(min(0.98, max(0.04, c + light + rng.uniform(-0.02, 0.02))) for c in base)  # type: ignore[return-value]


def _object(spec: ObjectSpec, color: str, rng: random.Random | None) -> Solid:
    """One object, dressed and painted, of unit radius around its box centre."""
    builder = Builder(_shade(color, rng), Vary(rng))
    BUILDERS[spec.kind](builder)
    if spec.accessory:
        _dress(builder, spec.accessory[0], _shade(spec.accessory[1], rng))
    solid = _fit(gather(builder.parts), 1.0)
    if spec.pattern:
        solid = _paint(solid, spec.pattern, np.array(_shade(spec.pattern_color or "white", rng)), rng)
    return solid


def _fit(solid: Solid, radius: float) -> Solid:
    """Centred on its box and scaled to the given bounding radius."""
    low, high = solid.bounds()
    center = (low + high) / 2
    size = float(np.sqrt(((solid.vertices - center) ** 2).sum(1).max()))
    return solid.moved(radius / size, -center * radius / size)


def _dress(b: Builder, item: str, color: tuple[float, float, float]) -> None:
    """Put a hat on the head or a scarf around the neck."""
    if item == "hat":
        assert b.hat is not None
        x, y, z, r = b.hat
        b.cylinder((x, y, z), (x, y + 0.06, z), r * 1.45, color=color, sides=20)
        b.cylinder((x, y + 0.05, z), (x, y + r * 1.35, z), r * 0.92, r * 0.8, color, 20)
    else:
        assert b.neck is not None
        x, y, z, r = b.neck
        b.torus((x, y, z), r, 0.105, color, flat=1.0)
        b.box((x + r * 0.45, y - 0.22, z + r * 0.95), (0.17, 0.42, 0.09), color, 0.03, rotation(x=-8, z=8))


def _arrange(solids: list[Solid], relation: str, rng: random.Random | None) -> Solid:
    """Two objects, one on top of the other or side by side on the same ground."""
    first, second = solids
    vary = Vary(rng)
    if relation == "on":
        first = first.moved(vary(0.62, 0.7), np.zeros(3))
        second = second.moved(vary(0.8, 0.9), np.zeros(3))
        rest = second.bounds()[1][1] - first.bounds()[0][1] - 0.01
        return join([first.moved(1.0, np.array([0.0, rest, 0.0])), second])
    # "A next to B": A at the viewer's left when seen from the front.
    gap = vary(0.08, 0.14)
    left = first.moved(1.0, np.array([-first.bounds()[1][0] - gap / 2, -first.bounds()[0][1], 0.0]))
    right = second.moved(1.0, np.array([-second.bounds()[0][0] + gap / 2, -second.bounds()[0][1], 0.0]))
    return join([left, right])


def _paint(solid: Solid, pattern: str, marks: np.ndarray, rng: random.Random | None) -> Solid:
    """Stripes (level rings) or spots on the parts in the main colour, cut finely enough for 64 pixels.

    Faces in the main colour are split until their edges are short, then each takes the colour of its centre.
    """
    main_face = solid.is_main[solid.faces].all(1)
    corners, normals = _split(
        solid.vertices[solid.faces[main_face]], solid.normals[solid.faces[main_face]], 0.07
    )
    base = solid.colors[solid.faces[main_face][0, 0]]
    center = corners.mean(1)
    if pattern == "striped":
        phase = Vary(rng)(0.2, 0.3)
        marked = (center[:, 1] / STRIPE_PERIOD + phase) % 1.0 < 0.42
    else:
        marked = _near_spots(center, Vary(rng)(-0.1, 0.1))
    colors = np.where(marked[:, None], marks, base)
    rest_faces = solid.faces[~main_face]
    count = len(corners) * 3
    return Solid(
        np.concatenate([corners.reshape(-1, 3), solid.vertices]),
        np.concatenate([normals.reshape(-1, 3), solid.normals]),
        np.concatenate([np.repeat(colors, 3, axis=0), solid.colors]),
        np.concatenate([np.arange(count).reshape(-1, 3), rest_faces + count]),
        np.concatenate([np.repeat(~marked, 3), np.zeros(len(solid.vertices), bool)]),
    )


def _split(corners: np.ndarray, normals: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (F, 3, 3) halved across their longest edge until no edge is longer than ``limit``."""
    done_c, done_n = [], []
    while len(corners):
        edges = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2)
        fine = edges.max(1) <= limit
        done_c.append(corners[fine])
        done_n.append(normals[fine])
        corners, normals, longest = corners[~fine], normals[~fine], edges[~fine].argmax(1)
        rows = np.arange(len(corners))[:, None]
        order = (longest[:, None] + np.arange(3)) % 3
        c, n = corners[rows, order], normals[rows, order]
        middle, middle_n = (c[:, 0] + c[:, 1]) / 2, n[:, 0] + n[:, 1]
        middle_n /= np.maximum(np.linalg.norm(middle_n, axis=1, keepdims=True), 1e-9)
        corners = np.concatenate(
            [np.stack([c[:, 0], middle, c[:, 2]], 1), np.stack([middle, c[:, 1], c[:, 2]], 1)]
        )
        normals = np.concatenate(
            [np.stack([n[:, 0], middle_n, n[:, 2]], 1), np.stack([middle_n, n[:, 1], n[:, 2]], 1)]
        )
    return np.concatenate(done_c), np.concatenate(done_n)


def _near_spots(points: np.ndarray, turn: float) -> np.ndarray:
    """Whether each surface point lies in a spot.

    A spot sits where a direction from the origin leaves the object, for directions evenly spread over the sphere
    (golden angle), unless it would touch an earlier one. So two objects of a kind have their spots at nearly the same
    places: what is somewhere else in every picture is grey in their mean, and score distillation draws the mean.

    Arguments:
        points: (F, 3) centres of the faces.
        turn: radians about +Y.
    """
    count = 96
    # Not from pole to pole: early directions are spread over the whole sphere.
    k = np.arange(count) * 55 % count
    height = 1 - (2 * k + 1) / count
    angle = k * math.pi * (3 - math.sqrt(5)) + turn
    across = np.sqrt(1 - height**2)
    toward = np.stack([across * np.sin(angle), height, across * np.cos(angle)], 1)
    distance = np.linalg.norm(points, axis=1)
    alignment = points / np.maximum(distance, 1e-9)[:, None] @ toward.T
    exits = points[(alignment + 0.1 * distance[:, None]).argmax(0)]
    centers: list[np.ndarray] = []
    for candidate in exits:
        if all(((candidate - c) ** 2).sum() > (2.6 * SPOT_RADIUS) ** 2 for c in centers):
            centers.append(candidate)
    spots = np.stack(centers)
    return (((points[:, None] - spots[None]) ** 2).sum(2) < SPOT_RADIUS**2).any(1)


def main_color_share(mesh: Mesh, color: tuple[float, float, float], tolerance: float = 0.1) -> float:
    """Share of the surface area whose colour lies within ``tolerance`` (sRGB, per channel) of ``color``."""
    assert mesh.colors is not None
    corners = mesh.vertices[mesh.faces].numpy()
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face_color = mesh.colors[mesh.faces].mean(1).numpy()
    near = (np.abs(face_color - np.array(color)) < tolerance).all(1)
    return float(area[near].sum() / area.sum())
