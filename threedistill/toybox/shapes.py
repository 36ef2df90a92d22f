"""The primitives that Toybox objects are made of, and the builder that gathers them into one mesh.

Templates of unit primitives are tessellated once and reused, so building an object is a handful of affine maps.
All primitives have outward normals and counter-clockwise faces; nothing here knows about kinds of objects.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from threedistill.toybox.lexicon import PARTS
from threedistill.toybox.paint import MAIN, RGB, Coat, Paint, Slot, resolve
from threedistill.types import Mesh

__all__ = ["Builder", "Color", "Patch", "Solid", "Vary", "Vec", "gather", "join", "rotation"]

Vec = Sequence[float] | np.ndarray
Patch = tuple[np.ndarray, np.ndarray, np.ndarray]  # vertices, normals, faces
Color = RGB | Paint | None  # None is the main colour


class Vary:
    """Small random proportions: ``vary(low, high)`` is uniform, or the middle for the canonical object."""

    def __init__(self, rng: random.Random | None):
        self.rng = rng

    def __call__(self, low: float, high: float) -> float:
        return (low + high) / 2 if self.rng is None else self.rng.uniform(low, high)


def rotation(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Rotation by degrees about X, then Y, then Z."""
    cx, cy, cz = (math.cos(math.radians(a)) for a in (x, y, z))
    sx, sy, sz = (math.sin(math.radians(a)) for a in (x, y, z))
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles of a (rows + 1, columns + 1) vertex grid."""
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    a = (i * (columns + 1) + j).ravel()
    b, c, d = a + 1, a + columns + 1, a + columns + 2
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


@lru_cache(maxsize=8)
def _sphere(columns: int, rows: int) -> Patch:
    theta = np.linspace(0, math.pi, rows + 1)[:, None]
    phi = np.linspace(0, 2 * math.pi, columns + 1)[None]
    xyz = [np.sin(theta) * np.sin(phi), np.cos(theta) * np.ones_like(phi), np.sin(theta) * np.cos(phi)]
    vertices = np.stack(xyz, -1).reshape(-1, 3)
    faces = _grid_faces(rows, columns)
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return vertices, vertices, faces[area > 1e-9]


@lru_cache(maxsize=64)
def _rounded_box(bevel: tuple[float, float, float]) -> Patch:
    """The unit cube [-1, 1]^3 with edges cut by ``bevel`` (per axis, in units of the half size)."""
    vertices, normals, faces, count = [], [], [], 0
    inner = 1 - np.array(bevel)
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (1.0, -1.0):
            steps_u = np.array([-1, -inner[u], inner[u], 1])
            steps_v = np.array([-1, -inner[v], inner[v], 1])
            point = np.zeros((4, 4, 3))
            point[..., u] = steps_u[:, None] * sign
            point[..., v] = steps_v[None, :]
            point[..., axis] = sign
            core = np.clip(point, -inner, inner)
            normal = (point - core) / np.array(bevel)
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            vertices.append((core + normal * np.array(bevel)).reshape(-1, 3))
            normals.append(normal.reshape(-1, 3))
            faces.append(_grid_faces(3, 3) + count)
            count += 16
    flat = np.concatenate(vertices), np.concatenate(normals), np.concatenate(faces)
    corners, facing = flat[0][flat[2]], flat[1][flat[2]].sum(1)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    wrong = (cross * facing).sum(1) < 0
    flat[2][wrong] = flat[2][wrong][:, ::-1]
    return flat


@lru_cache(maxsize=8)
def _torus_angles(around: int, tube: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, v = np.meshgrid(
        np.linspace(0, 2 * math.pi, around + 1), np.linspace(0, -2 * math.pi, tube + 1), indexing="ij"
    )
    return u, v, _grid_faces(around, tube)[:, ::-1]


@dataclass
class Builder:
    """Gathers the pieces of one object; every piece says which part of it it is, and how it is painted.

    Attributes:
        vary: the source of proportions.
        hat, neck: where accessories go: (x, y, z, radius), set by kinds with a head.
    """

    vary: Vary
    pieces: list[tuple[Patch, np.ndarray, int]] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    hat: tuple[float, float, float, float] | None = None
    neck: tuple[float, float, float, float] | None = None

    def against(self, *choices: RGB, part: str | None = None) -> Paint:
        """The first of the choices that differs clearly from the main colour, or from that of another part."""
        return Paint(choices, part or "main")

    def add(self, patch: Patch, color: RGB | Paint | None, part: str | np.ndarray, name: str) -> None:
        """Add a piece.

        Arguments:
            patch: vertices, normals, faces.
            color: sRGB, a :class:`Paint`, or None for the main colour.
            part: what it is, a name in :data:`PARTS`, or (F,) their indices for every face.
            name: the part whose colour it takes when one is asked for.
        """
        paint = MAIN if color is None else color if isinstance(color, Paint) else Paint((color,))
        slot = Slot(name, paint)
        if slot not in self.slots:
            self.slots.append(slot)
        of_face = (
            part if isinstance(part, np.ndarray) else np.full(len(patch[2]), PARTS.index(part), np.uint8)
        )
        self.pieces.append((patch, of_face, self.slots.index(slot)))

    def ellipsoid(
        self, center: Vec, radii: Vec, color: Color = None, turn: np.ndarray | None = None, part: str = "body"
    ) -> None:
        """An axis-aligned ellipsoid, turned about its centre."""
        big = max(radii)
        vertices, normals, faces = (
            _sphere(20, 12) if big > 0.2 else _sphere(12, 8) if big > 0.08 else _sphere(8, 6)
        )
        r = np.asarray(radii, dtype=np.float64)
        v, n = vertices * r, normals / r
        n = n / np.linalg.norm(n, axis=1, keepdims=True)
        if turn is not None:
            v, n = v @ turn.T, n @ turn.T
        self.add((v + np.asarray(center), n, faces), color, part, part)

    def box(self, center: Vec, size: Vec, color: Color = None, bevel: float = 0.05,
            turn: np.ndarray | None = None, part: str = "body") -> None:  # fmt: skip
        """A box of full ``size`` with edges rounded by ``bevel`` metres."""
        half = np.asarray(size, dtype=np.float64) / 2
        relative = tuple(float(min(0.9, max(1e-3, round(bevel / h, 2)))) for h in half)
        vertices, normals, faces = _rounded_box(relative)  # type: ignore[arg-type]
        v, n = vertices * half, normals / half
        n = n / np.linalg.norm(n, axis=1, keepdims=True)
        if turn is not None:
            v, n = v @ turn.T, n @ turn.T
        self.add((v + np.asarray(center), n, faces), color, part, part)

    def lathe(self, profile: Sequence[tuple[float, float]], color: Color = None, center: Vec = (0, 0, 0),
              axis: Vec = (0, 1, 0), sides: int = 20, smooth: bool = True, part: str = "body") -> None:  # fmt: skip
        """A surface of revolution through (radius, height) points from bottom to top, about ``axis``."""
        points = np.asarray(profile, dtype=np.float64)
        phi = np.linspace(0, 2 * math.pi, sides + 1)
        around = np.stack([np.sin(phi), np.zeros_like(phi), np.cos(phi)], -1)
        edge = np.diff(points, axis=0)
        slope = np.stack([edge[:, 1], -edge[:, 0]], 1)
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)
        if smooth:
            at = np.concatenate([slope[:1], slope[:-1] + slope[1:], slope[-1:]])
            at /= np.maximum(np.linalg.norm(at, axis=1, keepdims=True), 1e-12)
            rings, ring_normals = points, at
            faces = _grid_faces(len(points) - 1, sides)
        else:
            rings = np.repeat(points, 2, axis=0)[1:-1]
            ring_normals = np.repeat(slope, 2, axis=0)
            faces = np.concatenate([_grid_faces(1, sides) + 2 * k * (sides + 1) for k in range(len(edge))])
        v = rings[:, None, :1] * around[None] + rings[:, None, 1:] * np.array([0.0, 1, 0])
        n = ring_normals[:, None, :1] * around[None] + ring_normals[:, None, 1:] * np.array([0.0, 1, 0])
        v, n = v.reshape(-1, 3), n.reshape(-1, 3)
        y = np.asarray(axis, dtype=np.float64)
        y = y / np.linalg.norm(y)
        if y[1] < 0.999:
            x = np.cross(y, [0.0, 0.0, 1.0] if abs(y[2]) < 0.9 else [1.0, 0.0, 0.0])
            x /= np.linalg.norm(x)
            frame = np.stack([x, y, np.cross(x, y)], 1)
            v, n = v @ frame.T, n @ frame.T
        corners = v[faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        # Rings run bottom to top, which turns the grid's winding inside out; rings at the axis leave slivers.
        self.add((v + np.asarray(center), n, faces[area > 1e-9][:, ::-1]), color, part, part)

    def cylinder(self, start: Vec, end: Vec, radius: float, end_radius: float | None = None,
                 color: Color = None, sides: int = 14, part: str = "body") -> None:  # fmt: skip
        """A capped frustum between two points; ``end_radius=0`` makes a cone."""
        a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        length = float(np.linalg.norm(b - a))
        top = radius if end_radius is None else end_radius
        profile = [(0.0, 0.0), (radius, 0.0), (max(top, 1e-4), length), (0.0, length)]
        self.lathe(profile, color, a, b - a, sides, smooth=False, part=part)

    def torus(self, center: Vec, ring: float, tube: float, color: Color = None,
              turn: np.ndarray | None = None, flat: float = 1.0, sides: int = 20, part: str = "body",
              hole: str | None = None) -> None:  # fmt: skip
        """A torus around Y (before ``turn``); ``flat`` scales its height, ``hole`` names its inner faces as a part."""
        u, v, faces = _torus_angles(sides, 10)
        n = np.stack([np.cos(v) * np.sin(u), np.sin(v), np.cos(v) * np.cos(u)], -1).reshape(-1, 3)
        spine = np.stack([np.sin(u), np.zeros_like(u), np.cos(u)], -1).reshape(-1, 3)
        p = spine * ring + n * tube
        p[:, 1] *= flat
        inner = ((n * spine)[faces].sum(2).mean(1)) < -0.35
        n = n / np.array([1, flat, 1])
        n /= np.linalg.norm(n, axis=1, keepdims=True)
        if turn is not None:
            p, n = p @ turn.T, n @ turn.T
        of_face = np.full(len(faces), PARTS.index(part), np.uint8)
        if hole:
            of_face[inner] = PARTS.index(hole)
        self.add((p + np.asarray(center), n, faces), color, of_face, part)

    def extrude(self, outline: Sequence[tuple[float, float]], depth: float, color: Color = None,
                center: Vec = (0, 0, 0), turn: np.ndarray | None = None, part: str = "body") -> None:  # fmt: skip
        """A convex outline in XY (counter-clockwise), thickened to ``depth`` along Z, flat shaded."""
        flat = np.asarray(outline, dtype=np.float64)
        count = len(flat)
        front = np.concatenate([flat, np.full((count, 1), depth / 2)], 1)
        back = front * np.array([1, 1, -1])
        vertices, normals, faces = (
            [front, back],
            [np.tile([0.0, 0, 1], (count, 1)), np.tile([0.0, 0, -1], (count, 1))],
            [],
        )
        fan = np.array([[0, i, i + 1] for i in range(1, count - 1)])
        faces += [fan, fan[:, ::-1] + count]
        base = 2 * count
        for i in range(count):
            j = (i + 1) % count
            quad = np.stack([front[i], back[i], back[j], front[j]])
            normal = np.cross(quad[1] - quad[0], quad[2] - quad[0])
            vertices.append(quad)
            normals.append(np.tile(normal / np.linalg.norm(normal), (4, 1)))
            faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + base)
            base += 4
        v, n = np.concatenate(vertices), np.concatenate(normals)
        if turn is not None:
            v, n = v @ turn.T, n @ turn.T
        self.add((v + np.asarray(center), n, np.concatenate(faces)), color, part, part)

    def eyes(self, x: float, y: float, z: float, radius: float, gaze: Vec = (0, 0, 1)) -> None:
        """Two white eyes with dark pupils, looking along ``gaze``."""
        g = np.asarray(gaze, dtype=np.float64) / np.linalg.norm(gaze)
        pupil = self.against((0.05, 0.05, 0.06), (0.97, 0.97, 0.97), part="eyes")
        for side in (-1, 1):
            c = np.array([side * x, y, z])
            self.ellipsoid(c, (radius,) * 3, (0.97, 0.97, 0.97), part="eyes")
            self.ellipsoid(c + g * radius * 0.55, (radius * 0.62,) * 3, pupil, part="pupils")


@dataclass
class Solid:
    """A gathered object.

    Attributes:
        vertices, normals: (N, 3).
        faces: (F, 3).
        slot: (N,) index into ``slots``: what colours the vertex.
        part: (F,) index into :data:`PARTS`: what the face belongs to.
        slots: the paints.
        glossy: (N,) whether the vertex is of a shiny object.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    slot: np.ndarray
    part: np.ndarray
    slots: tuple[Slot, ...]
    glossy: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.vertices.min(0), self.vertices.max(0)

    def moved(self, scale: float, shift: np.ndarray) -> Solid:
        """Scaled about the origin, then shifted."""
        return replace(self, vertices=self.vertices * scale + shift)

    def stretched(self, factors: np.ndarray) -> Solid:
        """Scaled by (3,) ``factors`` about the origin, normals with it."""
        normals = self.normals / factors
        normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return replace(self, vertices=self.vertices * factors, normals=normals)

    def mesh(self, coats: Sequence[Coat]) -> Mesh:
        """The solid in the colours of its objects."""
        colors = np.array(resolve(self.slots, coats), np.float32)[self.slot]
        return Mesh(
            vertices=torch.from_numpy(self.vertices.astype(np.float32)),
            faces=torch.from_numpy(np.ascontiguousarray(self.faces, dtype=np.int64)),
            normals=torch.from_numpy(self.normals.astype(np.float32)),
            colors=torch.from_numpy(colors),
        )


def gather(builder: Builder, glossy: bool = False) -> Solid:
    """All pieces as one solid."""
    pieces = builder.pieces
    offsets = np.cumsum([0] + [len(p[0][0]) for p in pieces[:-1]])
    vertices = np.concatenate([p[0][0] for p in pieces])
    return Solid(
        vertices,
        np.concatenate([p[0][1] for p in pieces]),
        np.concatenate([p[0][2] + o for p, o in zip(pieces, offsets)]),
        np.concatenate([np.full(len(p[0][0]), p[2], np.uint8) for p in pieces]),
        np.concatenate([p[1] for p in pieces]),
        tuple(builder.slots),
        np.full(len(vertices), glossy),
    )


def join(solids: Sequence[Solid]) -> Solid:
    """Several solids as one; the slots of the k-th belong to object k."""
    offsets = np.cumsum([0] + [len(s.vertices) for s in solids[:-1]])
    shifts = np.cumsum([0] + [len(s.slots) for s in solids[:-1]])
    return Solid(
        np.concatenate([s.vertices for s in solids]),
        np.concatenate([s.normals for s in solids]),
        np.concatenate([s.faces + o for s, o in zip(solids, offsets)]),
        np.concatenate([s.slot + np.uint8(o) for s, o in zip(solids, shifts)]),
        np.concatenate([s.part for s in solids]),
        tuple(replace(slot, object=k) for k, s in enumerate(solids) for slot in s.slots),
        np.concatenate([s.glossy for s in solids]),
    )
