"""Marching tetrahedra: the zero set of a signed distance on a tetrahedral grid, differentiable.

Doi and Koide (1991), as used by DMTet (Shen et al. 2021). Which edges are crossed and how their crossings form
triangles depends on signs alone (native kernel, torch twin); where the crossings lie is plain torch.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.ops._native import Kernel, shape_error, use_native

__all__ = ["TetTopology", "marching_tets", "tet_topology", "tet_topology_reference", "tet_vertices"]

_kernel = Kernel("marching_tets", "ppiippppppp")
_CHUNK = 1 << 14  # tetrahedra per task; the kernel counts in the same chunks
_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))

#: Crossings keep this fraction of an edge away from its ends: a distance of exactly 0 at a point would otherwise
#: put several vertices on one place and make triangles without area.
_MARGIN = 1e-3


class TetTopology(NamedTuple):
    """A surface on a grid without its places.

    Attributes:
        edges: (M, 2) int32, the grid edge each vertex lies on, lower point first, in rising order.
        faces: (F, 3) int32 rows of ``edges``, counter-clockwise from outside.
        tets: (K,) int64, the tetrahedra the surface passes through, in rising order.
    """

    edges: Int[Tensor, "M 2"]
    faces: Int[Tensor, "F 3"]
    tets: Int[Tensor, "K"]


def marching_tets(
    points: Float[Tensor, "N 3"], sdf: Float[Tensor, "N"], tets: Int[Tensor, "T 4"]
) -> tuple[Float[Tensor, "M 3"], TetTopology]:
    """The surface ``sdf = 0`` within a tetrahedral grid: :func:`tet_topology`, then :func:`tet_vertices`.

    Where the grid is conforming, the surface is watertight except where it meets the grid's border.

    Args:
        points: grid points, metres; differentiable.
        sdf: signed distance at the points, negative inside; differentiable.
        tets: point indices, of positive volume.

    Returns:
        vertices (one per crossed grid edge) and topology.

    Raises:
        ValueError: a shape or type is wrong.
        IndexError: a tetrahedron names a point that does not exist.
    """
    topology = tet_topology(sdf, tets)
    return tet_vertices(points, sdf, topology), topology


def tet_topology(signs: Float[Tensor, "N"], tets: Int[Tensor, "T 4"]) -> TetTopology:
    """Which edges of a tetrahedral grid a surface crosses, and its triangles.

    Inside is ``signs < 0``. A tetrahedron with one corner on its own side gives a triangle, one with two and two
    corners a quadrilateral, cut in two.

    Args:
        signs: values at the grid's points; not differentiable.
        tets: point indices, of positive volume; int32 is taken as is.

    Raises:
        ValueError: a shape or type is wrong.
        IndexError: a tetrahedron names a point that does not exist.
    """
    if signs.ndim != 1 or not signs.is_floating_point():
        raise shape_error("marching_tets", "sdf", "(N,) floating point", signs)
    if tets.ndim != 2 or tets.shape[1] != 4 or tets.is_floating_point():
        raise shape_error("marching_tets", "tets", "(T, 4) integers", tets)
    run = _tet_topology if torch.compiler.is_compiling() else _run
    return TetTopology(*run(signs.detach(), tets.to(torch.int32)))


def tet_vertices(
    points: Float[Tensor, "N 3"], sdf: Float[Tensor, "N"], topology: TetTopology
) -> Float[Tensor, "M 3"]:
    """Where a surface crosses the edges of its grid, differentiable in both.

    On an edge with ends a, b: ``v = p_a + f (p_b - p_a)``, ``f = s_a / (s_a - s_b)``, kept within [0.001, 0.999].

    Args:
        points: grid points, metres.
        sdf: signed distance at the points; should have the signs that the topology was made from.
        topology: of :func:`tet_topology`.

    Raises:
        ValueError: a shape or type is wrong.

    Source: Shen et al., "Deep marching tetrahedra", 2021, section 3.1.2, equation 1.
    """
    if points.ndim != 2 or points.shape[1] != 3 or not points.is_floating_point():
        raise shape_error("marching_tets", "points", "(N, 3) floating point", points)
    if sdf.shape != points.shape[:1] or sdf.dtype != points.dtype:
        raise shape_error("marching_tets", "sdf", f"({points.shape[0]},) {points.dtype}", sdf)
    a, b = topology.edges[:, 0].long(), topology.edges[:, 1].long()
    sa, sb = sdf.index_select(0, a), sdf.index_select(0, b)
    gap = sa - sb
    # Signs of another origin may disagree with `sdf` in the last digit; the edge's middle is as good as any.
    level = gap == 0
    fraction = torch.where(
        level, torch.full_like(gap, 0.5), sa / torch.where(level, torch.ones_like(gap), gap)
    )
    fraction = fraction.clamp(_MARGIN, 1 - _MARGIN)
    pa, pb = points.index_select(0, a), points.index_select(0, b)
    return pa + fraction[:, None] * (pb - pa)


@cache
def _table() -> Tensor:
    """(16, 2, 3) int32 edge numbers of the triangles of each sign pattern, -1 where there is none.

    Derived, not typed in: the crossings of a reference tetrahedron are wound so that the normal leaves the inside.
    """
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    number = {frozenset(pair): index for index, pair in enumerate(_EDGES)}
    table = torch.full((16, 2, 3), -1, dtype=torch.int32)
    for case in range(1, 15):
        inside = [c for c in range(4) if case >> c & 1]
        outside = [c for c in range(4) if not case >> c & 1]
        if len(inside) == 2:  # a quadrilateral, walked so that neighbours share a face
            (i, j), (o, p) = inside, outside
            loop = [number[frozenset(pair)] for pair in ((i, o), (i, p), (j, p), (j, o))]
        else:
            lone, rest = (inside[0], outside) if len(inside) == 1 else (outside[0], inside)
            loop = [number[frozenset((lone, other))] for other in rest]
        middle = torch.stack([(corners[_EDGES[e][0]] + corners[_EDGES[e][1]]) / 2 for e in loop])
        normal = torch.linalg.cross(middle[1] - middle[0], middle[2] - middle[0])
        if float(normal @ (corners[outside].mean(0) - corners[inside].mean(0))) < 0:
            loop.reverse()
        for k in range(len(loop) - 2):
            table[case, k] = torch.tensor([loop[0], loop[k + 1], loop[k + 2]])
    return table


def _run(signs: Tensor, tets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not use_native(signs, tets):
        edges, faces, crossed = tet_topology_reference(signs, tets)
        return edges, faces, crossed
    signs, tets = signs.contiguous(), tets.contiguous()
    table = _table().contiguous()
    points, count = signs.shape[0], tets.shape[0]
    chunks = (count + _CHUNK - 1) // _CHUNK
    counts = torch.zeros(chunks, 2, dtype=torch.int64)  # crossed tetrahedra and triangles of each chunk
    given = (signs, tets, points, count, table, counts)
    _kernel(signs.dtype, *given, None, None, None, None, None)
    ends = counts.cumsum(0)
    crossed, triangles = (int(n) for n in ends[-1]) if chunks else (0, 0)
    starts = (ends - counts).contiguous()
    edges = torch.empty(4 * crossed, 2, dtype=torch.int32)
    faces = torch.empty(triangles, 3, dtype=torch.int32)
    which = torch.empty(crossed, dtype=torch.int64)
    vertices = torch.zeros(1, dtype=torch.int64)
    _kernel(signs.dtype, *given, starts, edges, faces, which, vertices)
    return edges[: int(vertices)].clone(), faces, which


_tet_topology = torch.library.custom_op(
    "threedistill::tet_topology", _run, mutates_args=(),
    schema="(Tensor signs, Tensor tets) -> (Tensor, Tensor, Tensor)",
)  # fmt: skip


@_tet_topology.register_fake
def _(signs, tets):
    context = torch.library.get_ctx()
    vertices, faces, crossed = (context.new_dynamic_size() for _ in range(3))
    return (
        tets.new_empty(vertices, 2),
        tets.new_empty(faces, 3),
        tets.new_empty(crossed, dtype=torch.int64),
    )


def tet_topology_reference(signs: Float[Tensor, "N"], tets: Int[Tensor, "T 4"]) -> TetTopology:
    """The torch twin of :func:`tet_topology`."""
    points, device = signs.shape[0], signs.device
    if len(tets) and (int(tets.min()) < 0 or int(tets.max()) >= points):
        raise IndexError("marching_tets: an index points outside its array")
    inside = (signs < 0).to(torch.uint8)
    case = sum((inside[tets[:, k].long()] << k for k in range(4)), torch.zeros_like(tets[:, 0]))
    crossed = ((case > 0) & (case < 15)).nonzero()[:, 0]
    case = case[crossed].long()
    triangles = _table().to(device)[case]  # (K, 2, 3)
    used = triangles[..., 0] >= 0
    ends = torch.tensor(_EDGES, device=device)
    pairs = tets[crossed].long()[:, ends]  # (K, 6, 2)
    keys = pairs.amin(-1) * points + pairs.amax(-1)
    cut = inside[pairs[..., 0]] != inside[pairs[..., 1]]
    unique, index = torch.unique(keys[cut], return_inverse=True)
    vertex = torch.zeros_like(keys)
    vertex[cut] = index
    rows = torch.arange(len(crossed), device=device)[:, None].expand_as(used)[used]
    faces = vertex[rows[:, None], triangles[used].long()]
    base = max(points, 1)
    edges = torch.stack([unique // base, unique % base], 1)
    return TetTopology(edges.int(), faces.int(), crossed)
