"""What a mesh is made of, whatever its shape: pieces, tunnels, cavities, holes.

A duck that is a duck from all sides can still be riddled: score distillation leaves tunnels where two sides never
agreed, and bubbles where no camera looks. Pictures do not show them; printers, simulators and sculptors do.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from threedistill.evaluation.health import components, welded_faces
from threedistill.types import Mesh

__all__ = [
    "CRUMB", "Part", "Topology", "Wanted", "in_words", "right_tunnels", "split_vertices", "surface", "topology",
    "winding_number",
]  # fmt: skip

#: A piece with less than this share of the surface is a crumb.
CRUMB = 1e-3


@dataclass(frozen=True)
class Topology:
    """The surface of a mesh after vertices at one place are welded.

    Attributes:
        pieces: bodies that hang together, cavities and what is buried in others left out.
        crumbs: those of them with less than 0.1 % of the surface.
        tunnels: sum of the pieces' genus: how many ways there are through them (a ring has one, a ball none).
        cavities: closed spaces inside a body.
        buried: closed bodies inside another, where nobody sees them.
        holes: openings of the surface: loops of edges with one face.
        euler: vertices - edges + faces of everything.
        largest_shares: shares of the surface of the largest pieces, largest first, at most four.
    """

    pieces: int
    crumbs: int
    tunnels: int
    cavities: int
    buried: int
    holes: int
    euler: int
    largest_shares: tuple[float, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Part:
    """One connected surface.

    Attributes:
        euler: vertices - edges + faces.
        holes: loops of its border.
    """

    euler: int
    holes: int

    @property
    def genus(self) -> int:
        """Handles of the surface once its holes are capped: ``(2 - euler - holes) / 2``."""
        return max(0, (2 - self.euler - self.holes) // 2)


def topology(mesh: Mesh) -> Topology:
    """Count a mesh's pieces, tunnels, cavities and holes.

    Vertices where the surface only touches itself are taken apart first, and edges with more than two faces go to the
    pairs that enclose a body, so that two boxes which share an edge are two pieces. A closed surface is a cavity if it
    lies inside the rest and its volume is negative; its own tunnels do not count.
    """
    faces = welded_faces(mesh)
    corners = mesh.vertices.detach().cpu().double().numpy()[mesh.faces.cpu().numpy()]
    real = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces, corners = faces[real], corners[real]
    if len(faces) == 0:
        return Topology(0, 0, 0, 0, 0, 0, 0, ())
    faces = split_vertices(faces, corners)
    label = components(faces)
    parts = [surface(faces[label == k]) for k in range(int(label.max()) + 1)]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    shares = np.bincount(label, weights=area) / max(area.sum(), 1e-30)
    volume = np.bincount(label, weights=np.linalg.det(corners) / 6)
    inside = _enclosed(corners, label, [p.holes == 0 for p in parts])
    cavity = [i and v < 0 for i, v in zip(inside, volume)]
    outer = np.array([not i for i in inside])
    return Topology(
        pieces=int(outer.sum()),
        crumbs=int((outer & (shares < CRUMB)).sum()),
        tunnels=sum(p.genus for p, seen in zip(parts, outer) if seen),
        cavities=int(sum(cavity)),
        buried=int(sum(inside) - sum(cavity)),
        holes=sum(p.holes for p in parts),
        euler=sum(p.euler for p in parts),
        largest_shares=tuple(round(float(s), 4) for s in sorted(shares[outer], reverse=True)[:4]),
    )


def surface(faces: np.ndarray) -> Part:
    """Euler characteristic and holes of one connected (F, 3) surface without touching points."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, uses = np.unique(edges, axis=0, return_counts=True)
    euler = len(np.unique(faces)) - len(unique) + len(faces)
    border = unique[uses == 1]
    return Part(euler, _loops(border))


def _loops(edges: np.ndarray) -> int:
    """Connected pieces of a set of edges: each is one loop once touching points are taken apart."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(edges) == 0:
        return 0
    vertices, index = np.unique(edges, return_inverse=True)
    index = index.reshape(edges.shape)
    graph = coo_matrix((np.ones(len(edges)), (index[:, 0], index[:, 1])), shape=(len(vertices),) * 2)
    return int(connected_components(graph, directed=False)[0])


def split_vertices(faces: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(F, 3) faces whose vertices are one fan of faces each.

    The corners of faces are joined to vertices again, across edges only: two faces that share an edge share its ends.
    Of an edge with more than two faces, those meet that follow each other around it with the body between them.

    Arguments:
        faces: (F, 3) welded.
        corners: (F, 3, 3) positions.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(faces)
    start = faces.reshape(-1)
    end = faces[:, [1, 2, 0]].reshape(-1)
    half = np.arange(3 * count)  # the half edge from corner h to the next corner of its face
    after = (half // 3) * 3 + (half + 1) % 3
    low, high = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((high, low))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (low[order][1:] != low[order][:-1]) | (high[order][1:] != high[order][:-1])
    first = np.flatnonzero(fresh)
    size = np.diff(np.append(first, len(order)))
    one = [order[first[size == 2]]]
    two = [order[first[size == 2] + 1]]
    for at, n in zip(first[size > 2], size[size > 2]):
        pairs = _around(order[at : at + n], start, corners)
        one.append(pairs[:, 0])
        two.append(pairs[:, 1])
    a, b = np.concatenate(one), np.concatenate(two)
    same = start[a] == start[b]  # faces that disagree about the outside run the edge the same way
    starts, ends = np.where(same, b, after[b]), np.where(same, after[b], b)
    joined = np.concatenate([np.stack([a, starts], 1), np.stack([after[a], ends], 1)])
    graph = coo_matrix((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(3 * count,) * 2)
    return connected_components(graph, directed=False)[1].reshape(count, 3)


def _around(halves: np.ndarray, start: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(P, 2) pairs of the half edges of one edge, whose faces enclose a body between them."""
    points = corners[halves // 3]
    turn = np.arange(len(halves))
    tail, head = points[turn, halves % 3], points[turn, (halves + 1) % 3]
    tip = points[turn, (halves + 2) % 3]
    forward = start[halves] == start[halves[0]]
    axis = np.where(forward[0], 1, -1) * (head[0] - tail[0])
    axis = axis / max(float(np.linalg.norm(axis)), 1e-30)
    out = tip - tail - ((tip - tail) @ axis)[:, None] * axis
    x = out[0] / max(float(np.linalg.norm(out[0])), 1e-30)
    angle = np.arctan2(out @ np.cross(axis, x), out @ x) % (2 * math.pi)
    ring = np.argsort(-angle, kind="stable")
    # A face that runs the edge forwards has its outside on the side of larger angles: the body lies below, down to
    # the next face that runs backwards.
    pairs, free = [], set(ring.tolist())
    for k, i in enumerate(ring):
        j = next((int(m) for m in np.roll(ring, -k - 1) if int(m) in free and forward[m] != forward[i]), None)
        if forward[i] and i in free and j is not None:
            pairs.append((halves[i], halves[j]))
            free -= {int(i), j}
    left = sorted(free)
    pairs += [(halves[i], halves[j]) for i, j in zip(left[::2], left[1::2])]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _enclosed(corners: np.ndarray, label: np.ndarray, closed: list[bool]) -> list[bool]:
    """Whether each closed surface lies inside the others: the winding number of them around it is not 0."""
    out = []
    for k, whole in enumerate(closed):
        others = corners[label != k]
        if not whole or len(others) == 0:
            out.append(False)
            continue
        out.append(abs(winding_number(corners[label == k][0].mean(0), others)) > 0.5)
    return out


def winding_number(point: np.ndarray, corners: np.ndarray) -> float:
    """How often (F, 3, 3) triangles wind around a point: the sum of their solid angles over 4 pi.

        tan(w / 2) = det(a, b, c) / (|a| |b| |c| + (a . b) |c| + (b . c) |a| + (c . a) |b|)

    Source: van Oosterom and Strackee 1983, "The solid angle of a plane triangle"; as a test for the inside, Jacobson
    et al. 2013, "Robust inside-outside segmentation using generalized winding numbers".
    """
    a, b, c = np.moveaxis(corners - point, 1, 0)
    la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    above = np.einsum("ij,ij->i", a, np.cross(b, c))
    dot = np.einsum
    below = (
        la * lb * lc + dot("ij,ij->i", a, b) * lc + dot("ij,ij->i", b, c) * la + dot("ij,ij->i", c, a) * lb
    )
    return float(np.arctan2(above, below).sum() / (2 * math.pi))


@dataclass(frozen=True)
class Wanted:
    """The topology that an object should have.

    Attributes:
        tunnels: fewest and most.
        pieces: at most so many.
    """

    tunnels: tuple[int, int] = (0, 0)
    pieces: int = 1


def right_tunnels(found: Topology, wanted: Wanted) -> bool:
    """Whether there are as many ways through it as there should be."""
    return wanted.tunnels[0] <= found.tunnels <= wanted.tunnels[1]


def in_words(found: Topology, wanted: Wanted) -> list[str]:
    """What a person must know: ``["4 tunnels", "2 pieces", "1 cavity"]``; nothing where all is right."""
    said = []
    if not right_tunnels(found, wanted):
        low, high = wanted.tunnels
        right = f" instead of {low if found.tunnels < low else high}" if low else ""
        said.append(_count(found.tunnels, "tunnel") + right)
    if found.pieces > wanted.pieces:
        right = f" instead of {wanted.pieces}" if wanted.pieces > 1 else ""
        said.append(_count(found.pieces, "piece") + right)
    inner = found.cavities + found.buried
    if inner:
        said.append(_count(inner, "cavity", "cavities"))
    if found.holes:
        said.append(_count(found.holes, "hole"))
    return said


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number or 'no'} {one if number == 1 else many or one + 's'}"
