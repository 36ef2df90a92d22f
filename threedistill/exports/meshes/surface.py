"""Cleaning an extracted surface: components, smoothing, decimation, normals, size and origin.

Everything here is deterministic: sums run through ``bincount`` (serial, in double) rather than atomics.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.types import Mesh

__all__ = [
    "Origin", "bare", "check", "connected", "decimate", "frame", "is_watertight", "keep_components", "normalise",
    "placed", "smooth", "unused_removed", "vertex_normals", "welded",
]  # fmt: skip

Origin = Literal["center", "base"]


def check(mesh: Mesh, what: str) -> None:
    """Raise ThreedistillError unless the mesh has faces, finite vertices and indices within range."""
    if len(mesh.faces) == 0 or len(mesh.vertices) == 0:
        raise ThreedistillError(f"{what}: the mesh is empty (no faces), so there is nothing to export")
    bad = int((~torch.isfinite(mesh.vertices)).any(1).sum())
    if bad:
        raise ThreedistillError(f"{what}: {bad} of {len(mesh.vertices)} vertices are not finite numbers")
    low, high = int(mesh.faces.min()), int(mesh.faces.max())
    if low < 0 or high >= len(mesh.vertices):
        raise ThreedistillError(
            f"{what}: a face names vertex {low if low < 0 else high}, there are {len(mesh.vertices)}"
        )
    extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    if float(extent.max()) <= 0:
        raise ThreedistillError(f"{what}: all {len(mesh.vertices)} vertices lie on one point")


def _edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Undirected edges (E, 2), low index first, and how often each is used."""
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    base = int(faces.max()) + 1
    keys, uses = torch.unique(directed.amin(1) * base + directed.amax(1), return_counts=True)
    return torch.stack([keys // base, keys % base], 1), uses


def is_watertight(faces: Int[Tensor, "F 3"]) -> bool:
    """Whether every edge is shared by exactly two faces, which run along it in opposite directions."""
    if len(faces) == 0:
        return False
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    base = int(faces.max()) + 1
    forward = torch.sort(directed[:, 0] * base + directed[:, 1]).values
    backward = torch.sort(directed[:, 1] * base + directed[:, 0]).values
    return bool((forward[1:] != forward[:-1]).all()) and torch.equal(forward, backward)


def unused_removed(mesh: Mesh, faces: Int[Tensor, "F 3"]) -> Mesh:
    """The mesh with only these faces and the vertices they use, order kept."""
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    used[faces.reshape(-1)] = True
    index = used.cumsum(0) - 1

    def rows(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[used]

    return replace(
        mesh, vertices=mesh.vertices[used], faces=index[faces], normals=rows(mesh.normals),
        colors=rows(mesh.colors), uv=rows(mesh.uv),
    )  # fmt: skip


def bare(mesh: Mesh) -> Mesh:
    """The mesh without its pictures."""
    return replace(
        mesh, texture=None, normal_map=None, metallic_roughness=None, emission=None, alpha=None, alpha_cutoff=None,
        wrap=("clamp", "clamp"),
    )  # fmt: skip


def welded(mesh: Mesh, alike: float = 0.01) -> Mesh:
    """The mesh with vertices at exactly one position merged, without its texture.

    Unwrapping splits vertices along seams; formats without texture coordinates get the closed surface back. Of
    merged vertices the first one's normal and colour stay. Corners of different colours are not merged: there the
    surface has an edge in its paint, and stays open.

    Arguments:
        mesh: the mesh.
        alike: colours whose channels differ by no more are one colour.
    """
    count = len(mesh.vertices)
    _, place = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    merged = torch.arange(count)
    waiting = torch.ones(count, dtype=torch.bool)
    while bool(waiting.any()):  # a round for each colour that meets at one point
        left = waiting.nonzero()[:, 0]
        first = torch.full((int(place.max()) + 1,), count).scatter_reduce(0, place[left], left, "amin")
        target = first[place[left]]
        same = torch.ones(len(left), dtype=torch.bool)
        if mesh.colors is not None:
            same = ((mesh.colors[left] - mesh.colors[target]).abs() <= alike).all(1)
        merged[left[same]] = target[same]
        waiting[left[same]] = False
    return unused_removed(replace(bare(mesh), uv=None), merged[mesh.faces])


def connected(count: int, a: Int[Tensor, "E"], b: Int[Tensor, "E"]) -> Int[Tensor, "count"]:
    """The lowest node reachable from each of ``count`` nodes along the undirected edges a - b."""
    label = torch.arange(count)
    while True:
        low = torch.minimum(label[a], label[b])
        merged = label.clone()
        # Roots are merged too, so that whole trees move at once (the number of rounds is logarithmic).
        for target in (a, b, label[a], label[b]):
            merged.scatter_reduce_(0, target, low, "amin")
        merged = merged[merged]
        if torch.equal(merged, label):
            return label
        label = merged


def _face_components(mesh: Mesh) -> Int[Tensor, "F"]:
    """The number of each face's connected component (faces that share a vertex are connected)."""
    a, b = _edges(mesh.faces)[0].T
    label = connected(len(mesh.vertices), a, b)
    return torch.unique(label[mesh.faces[:, 0]], return_inverse=True)[1]


def _inside(point: Tensor, corners: Float[Tensor, "F 3 3"]) -> bool:
    """Whether a point lies inside a closed surface: parity of the crossings of one slanted ray."""
    direction = torch.tensor([0.5773, 0.6121, 0.5403], dtype=corners.dtype)
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = torch.linalg.cross(direction.expand_as(ac), ac)
    determinant = (ab * p).sum(1)
    to_point = point - a
    u = (to_point * p).sum(1) / determinant
    q = torch.linalg.cross(to_point, ab)
    v = (q * direction).sum(1) / determinant
    t = (q * ac).sum(1) / determinant
    return bool(((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)).sum() % 2)


def keep_components(mesh: Mesh, fraction: float = 0.05) -> Mesh:
    """The mesh without floaters and inner shells.

    A connected component stays if its area is at least ``fraction`` of the largest one's, it is wound outward
    (a cavity's wall is not), and it does not lie inside a larger component that stays.
    """
    component = _face_components(mesh)
    corners = mesh.vertices.double()[mesh.faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = torch.bincount(component, weights=cross.norm(dim=1) / 2)
    volume = torch.bincount(component, weights=(corners[:, 0] * cross).sum(1) / 6)
    kept: list[int] = []
    for c in torch.argsort(area, descending=True, stable=True).tolist():
        if area[c] < fraction * area.max():
            break
        point = corners[component == c][0, 0]
        hidden = any(_inside(point, corners[component == k]) for k in kept)
        if not kept or (volume[c] > 0 and not hidden):
            kept.append(c)
    wanted = torch.zeros(len(area), dtype=torch.bool)
    wanted[kept] = True
    return unused_removed(mesh, mesh.faces[wanted[component]])


def smooth(mesh: Mesh, iterations: int, pass_down: float = 0.5, pass_up: float = -0.53) -> Mesh:
    """Taubin's smoothing: each iteration is ``v += lambda L v``, then ``v += mu L v``.

    L is the umbrella operator (mean of the neighbours minus the vertex). ``mu < -lambda < 0`` undoes the
    shrinking of plain Laplacian smoothing: low frequencies pass unchanged, the staircase of a voxel grid goes.

    Arguments:
        iterations: pairs of steps; 0 returns the mesh.
        pass_down, pass_up: lambda and mu.

    Source: Taubin, "A signal processing approach to fair surface design", SIGGRAPH 1995.
    """
    if iterations == 0:
        return mesh
    a, b = _edges(mesh.faces)[0].T
    ends, others = torch.cat([a, b]), torch.cat([b, a])
    count = len(mesh.vertices)
    degree = torch.bincount(ends, minlength=count).clamp(min=1).double()
    vertices = mesh.vertices.double().T.contiguous()
    for factor in (pass_down, pass_up) * iterations:
        mean = torch.stack([torch.bincount(ends, weights=v[others], minlength=count) for v in vertices])
        vertices = vertices + factor * (mean / degree - vertices)
    return replace(mesh, vertices=vertices.T.to(mesh.vertices.dtype).contiguous(), normals=None)


def decimate(mesh: Mesh, budget: int) -> Mesh:
    """At most ``budget`` faces by quadric edge collapse; watertight input stays so where possible.

    More careful settings are tried when collapses tear or fold the surface; the caller can tell by
    :func:`is_watertight` that none succeeded.
    """
    if len(mesh.faces) <= budget:
        return mesh
    import fast_simplification

    closed = is_watertight(mesh.faces)
    best: Mesh | None = None
    for aggressiveness in (7.0, 4.0, 2.0):
        vertices, faces, *_ = fast_simplification.simplify(
            mesh.vertices.double().numpy(),
            mesh.faces.to(torch.int32).numpy(),
            target_count=budget,
            agg=aggressiveness,
        )
        result = Mesh(
            torch.from_numpy(np.asarray(vertices)).to(mesh.vertices.dtype),
            torch.from_numpy(np.asarray(faces)).long(), extras=mesh.extras,
        )  # fmt: skip
        a, b, c = result.faces.T
        result = unused_removed(result, result.faces[(a != b) & (b != c) & (c != a)])
        if len(result.faces) > budget:  # a careful setting may stop early; the budget is a promise
            continue
        if not closed or is_watertight(result.faces):
            return result
        best = best or result
    if best is None:
        raise ThreedistillError(
            f"the surface of {len(mesh.faces)} faces cannot be reduced to {budget}; ask for more faces"
        )
    return best


def vertex_normals(vertices: Float[Tensor, "N 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "N 3"]:
    """Unit normals, each the sum of its faces' normals weighted by area and corner angle.

    The sum is of ``n_f * angle`` with ``n_f`` the cross product of two edges. A vertex without any area gets +Y.
    """
    corners = vertices.double()[faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    ahead = torch.nn.functional.normalize(corners.roll(-1, 1) - corners, dim=-1, eps=1e-30)
    angle = torch.acos((-ahead * ahead.roll(1, 1)).sum(-1).clamp(-1, 1))  # (F, 3)
    weighted = (angle[..., None] * normal[:, None]).reshape(-1, 3)
    index, count = faces.reshape(-1), len(vertices)
    total = torch.stack([torch.bincount(index, weights=w, minlength=count) for w in weighted.T], 1)
    length = total.norm(dim=1, keepdim=True)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=total.dtype)
    return torch.where(length > 1e-20, total / length.clamp(min=1e-30), up).to(vertices.dtype)


def frame(mesh: Mesh, unit_size: float, origin: Origin) -> tuple[Float[Tensor, "3"], float]:
    """The point that becomes the origin, and the enlargement that makes the longest side ``unit_size`` metres."""
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    middle = (low + high) / 2
    if origin == "base":
        middle[1] = low[1]
    return middle, unit_size / float((high - low).max())


def normalise(mesh: Mesh, unit_size: float, origin: Origin) -> Mesh:
    """The mesh with its longest side ``unit_size`` metres, its origin at the centre of its box or base."""
    middle, scale = frame(mesh, unit_size, origin)
    return replace(mesh, vertices=(mesh.vertices - middle) * scale)


def placed(mesh: Mesh, up: Literal["y", "z"], scale: float = 1.0) -> Mesh:
    """The mesh scaled and, for ``up="z"``, turned a quarter about X: +Y becomes +Z and the front faces -Y."""

    def turned(values: Tensor) -> Tensor:
        return values if up == "y" else torch.stack([values[:, 0], -values[:, 2], values[:, 1]], 1)

    normals = None if mesh.normals is None else turned(mesh.normals)
    return replace(mesh, vertices=turned(mesh.vertices) * scale, normals=normals)
