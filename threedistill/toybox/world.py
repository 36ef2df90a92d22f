"""Scenes as meshes: the procedural world behind the embedded prior, and the ground truth for its prompts.

An object is built by the function of its kind, dressed (accessories), painted (stripes, spots) and put into the
ball of radius 0.85 around the origin, +Y up and facing +Z. Every face knows its part, every vertex the slot that
colours it (:mod:`threedistill.toybox.paint`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from threedistill.toybox.grammar import ObjectSpec, Scene
from threedistill.toybox.kinds_animals import ANIMAL_BUILDERS
from threedistill.toybox.kinds_fronted import FRONTED_BUILDERS
from threedistill.toybox.kinds_round import ROUND_BUILDERS
from threedistill.toybox.kinds_things import THING_BUILDERS
from threedistill.toybox.lexicon import COLORS, FRONTED, KINDS, PARTS
from threedistill.toybox.paint import ACCESSORY, MAIN, MARKS, RGB, Coat, Slot, resolve
from threedistill.toybox.shapes import Builder, Solid, Vary, gather, join, rotation
from threedistill.types import Mesh

__all__ = [
    "BUILDERS", "MATT", "RADIUS", "SCALE", "SHINY", "SPOT_RADIUS", "STRIPE_PERIOD", "TALL", "Built", "build",
    "build_parts", "main_color_share", "palette",
]  # fmt: skip

#: Every object stays within this distance of the origin.
RADIUS = 0.85
BUILDERS = FRONTED_BUILDERS | ANIMAL_BUILDERS | THING_BUILDERS | ROUND_BUILDERS
STRIPE_PERIOD = 0.34
SPOT_RADIUS = 0.13
#: How much higher a "tall" thing is, and the scale of "big" and "small" ones beside another.
TALL = 1.45
SCALE = {"big": 1.3, "small": 0.62}
#: (metalness, roughness) of shiny things, and of matt ones beside them (alone, matt things have no gloss at all).
SHINY, MATT = (0.0, 0.28), (0.0, 1.0)

assert set(BUILDERS) == set(KINDS) and set(BUILDERS) - set(ROUND_BUILDERS) == FRONTED


@dataclass(frozen=True)
class Built:
    """A scene of the world.

    Attributes:
        mesh: with vertex colours and normals; ``extras["colors"]`` names the main colours.
        part: (F,) what every face belongs to, an index into :data:`threedistill.toybox.lexicon.PARTS`.
        slot: (N,) what colours every vertex, an index into ``slots``; the corners of a face share it.
        slots: the paints: :func:`palette` gives their colours for any colours of the objects.
        object: (F,) which object of the scene every face belongs to.
    """

    mesh: Mesh
    part: UInt8[Tensor, "F"]
    slot: UInt8[Tensor, "N"]
    slots: tuple[Slot, ...]
    object: UInt8[Tensor, "F"]

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that it has, in the order of :data:`PARTS`."""
        return tuple(PARTS[k] for k in torch.unique(self.part).tolist())

    @property
    def face_slot(self) -> UInt8[Tensor, "F"]:
        """The slot of every face."""
        return self.slot[self.mesh.faces[:, 0]]


def build(scene: Scene, rng: random.Random | None = None) -> Mesh:
    """The scene as a mesh with vertex colours and normals; see :func:`build_parts`."""
    return build_parts(scene, rng).mesh


def build_parts(scene: Scene, rng: random.Random | None = None) -> Built:
    """The scene as a mesh whose faces know their part and whose vertices know what colours them.

    Arguments:
        scene: one object, or two in a relation.
        rng: drives proportions, shades and open colours; None builds the canonical object.

    Returns:
        a mesh within :data:`RADIUS` of the origin, +Y up, front +Z, and its labels.
    """
    solids: list[Solid] = []
    coats: list[Coat] = []
    names = []
    for spec in scene.objects:
        color = spec.color or (rng.choice(KINDS[spec.kind]) if rng else KINDS[spec.kind][0])
        names.append(color)
        solid, coat = _object(spec, color, rng)
        solids.append(solid)
        coats.append(coat)
    if len(solids) == 1:
        solid = solids[0]
    else:
        solids = [s.moved(SCALE.get(o.size or "", 1.0), np.zeros(3)) for s, o in zip(solids, scene.objects)]
        solid = _arrange(solids, scene.relation or "next to", rng)
    fill = 1.0 if rng is None else rng.uniform(0.93, 1.0)
    solid = _fit(solid, RADIUS * fill)
    mesh = solid.mesh(coats)
    mesh.extras["colors"] = names
    if solid.glossy.all():
        mesh.metallic_roughness = torch.tensor(SHINY)[None, None]
    elif solid.glossy.any():
        shine = np.where(solid.glossy[:, None], SHINY, MATT).astype(np.float32)
        mesh.vertex_material = torch.from_numpy(shine)
    slot = torch.from_numpy(solid.slot)
    owner = torch.tensor([s.object for s in solid.slots], dtype=torch.uint8)
    return Built(mesh, torch.from_numpy(solid.part), slot, solid.slots, owner[slot[mesh.faces[:, 0]].long()])


def palette(
    slots: Sequence[Slot], scene: Scene, rng: random.Random | None = None
) -> tuple[Float[np.ndarray, "S 3"], list[str]]:
    """The colours of the slots of a built scene when its objects have the colours of another.

    Whatever the shape was built with, ``scene`` may name other colours, leave them open, and leave out stripes or
    spots (they are painted in the main colour).

    Arguments:
        slots: of the shape (:attr:`Built.slots`).
        scene: the colours; kinds, relation and accessories are those of the shape.
        rng: drives shades and open colours; None takes the words' own.

    Returns:
        sRGB per slot, and the main colours' names.
    """
    names = [o.color or (rng.choice(KINDS[o.kind]) if rng else KINDS[o.kind][0]) for o in scene.objects]
    coats = [_coat(spec, _shade(name, rng), rng) for spec, name in zip(scene.objects, names)]
    return np.array(resolve(slots, coats), np.float32), names


def _shade(color: str, rng: random.Random | None) -> RGB:
    """A colour word as sRGB, slightly varied."""
    base = COLORS[color]
    if rng is None:
        return base
    light = rng.uniform(-0.03, 0.03)
    return tuple(min(0.98, max(0.04, c + light + rng.uniform(-0.02, 0.02))) for c in base)  # type: ignore[return-value]


def _coat(spec: ObjectSpec, main: RGB, rng: random.Random | None) -> Coat:
    """The shades of everything but the main colour."""
    accessory = _shade(spec.accessory[1], rng) if spec.accessory else None
    marks = _shade(spec.pattern_color or "white", rng) if spec.pattern else None
    return Coat(main, marks, accessory, {part: _shade(color, rng) for part, color in spec.parts})


def _object(spec: ObjectSpec, color: str, rng: random.Random | None) -> tuple[Solid, Coat]:
    """One object, dressed and painted, of unit radius around its box centre, and its colours."""
    main = _shade(color, rng)
    builder = Builder(Vary(rng))
    BUILDERS[spec.kind](builder)
    if spec.accessory:
        _dress(builder, spec.accessory[0])
    coat = _coat(spec, main, rng)
    solid = gather(builder, glossy=spec.finish == "shiny")
    if spec.size == "tall":
        solid = solid.stretched(np.array([1.0, TALL, 1.0]))
    solid = _fit(solid, 1.0)
    if spec.pattern:
        solid = _paint(solid, spec.pattern, {part for part, _ in spec.parts}, rng)
    return solid, coat


def _fit(solid: Solid, radius: float) -> Solid:
    """Centred on its box and scaled to the given bounding radius."""
    low, high = solid.bounds()
    center = (low + high) / 2
    size = float(np.sqrt(((solid.vertices - center) ** 2).sum(1).max()))
    return solid.moved(radius / size, -center * radius / size)


def _dress(b: Builder, item: str) -> None:
    """Put a hat on the head or a scarf around the neck."""
    if item == "hat":
        assert b.hat is not None
        x, y, z, r = b.hat
        b.cylinder((x, y, z), (x, y + 0.06, z), r * 1.45, color=ACCESSORY, sides=20, part="hat")
        b.cylinder(
            (x, y + 0.05, z), (x, y + r * 1.35, z), r * 0.92, r * 0.8, color=ACCESSORY, sides=20, part="hat"
        )
    else:
        assert b.neck is not None
        x, y, z, r = b.neck
        b.torus((x, y, z), r, 0.105, ACCESSORY, flat=1.0, part="scarf")
        end = (x + r * 0.45, y - 0.22, z + r * 0.95)
        b.box(end, (0.17, 0.42, 0.09), ACCESSORY, 0.03, rotation(x=-8, z=8), part="scarf")


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


def _paint(solid: Solid, pattern: str, colored: set[str], rng: random.Random | None) -> Solid:
    """Stripes (level rings) or spots on the parts in the main colour, cut finely enough for 64 pixels.

    Faces in the main colour are split until their edges are short, then each takes the slot of its centre. Parts in
    ``colored`` have colours of their own and stay as they are.
    """
    main_slot = np.array([s.paint == MAIN and s.part not in colored for s in solid.slots])
    main_face = main_slot[solid.slot[solid.faces[:, 0]]]
    corners, normals, source = _split(
        solid.vertices[solid.faces[main_face]], solid.normals[solid.faces[main_face]], 0.07
    )
    center = corners.mean(1)
    if pattern == "striped":
        phase = Vary(rng)(0.2, 0.3)
        marked, name = (center[:, 1] / STRIPE_PERIOD + phase) % 1.0 < 0.42, "stripes"
    else:
        marked, name = _near_spots(center, Vary(rng)(-0.1, 0.1)), "spots"
    marks = Slot(name, MARKS)
    slots = solid.slots if marks in solid.slots else (*solid.slots, marks)
    own_slot, own_part = solid.slot[solid.faces[main_face, 0]][source], solid.part[main_face][source]
    slot = np.where(marked, slots.index(marks), own_slot).astype(np.uint8)
    count = len(corners) * 3
    return replace(
        solid,
        vertices=np.concatenate([corners.reshape(-1, 3), solid.vertices]),
        normals=np.concatenate([normals.reshape(-1, 3), solid.normals]),
        faces=np.concatenate([np.arange(count).reshape(-1, 3), solid.faces[~main_face] + count]),
        slot=np.concatenate([np.repeat(slot, 3), solid.slot]),
        part=np.concatenate(
            [np.where(marked, PARTS.index(name), own_part).astype(np.uint8), solid.part[~main_face]]
        ),
        slots=slots,
        glossy=np.concatenate([np.full(count, solid.glossy[0]), solid.glossy]),
    )


def _split(
    corners: np.ndarray, normals: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles (F, 3, 3) halved across their longest edge until no edge is longer than ``limit``.

    Returns:
        corners, normals, and (F,) which triangle each came from.
    """
    done_c, done_n, done_s = [], [], []
    source = np.arange(len(corners))
    while len(corners):
        edges = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2)
        fine = edges.max(1) <= limit
        done_c.append(corners[fine])
        done_n.append(normals[fine])
        done_s.append(source[fine])
        corners, normals, longest = corners[~fine], normals[~fine], edges[~fine].argmax(1)
        source = np.tile(source[~fine], 2)
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
    return np.concatenate(done_c), np.concatenate(done_n), np.concatenate(done_s)


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
