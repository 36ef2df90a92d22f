"""Pieces, tunnels, cavities and holes of meshes where they are known."""

import numpy as np
import pytest
import torch

from threedistill.evaluation.silhouette import occupancy
from threedistill.evaluation.topology import Topology, Wanted, in_words, topology, winding_number
from threedistill.ops.marching_cubes import marching_cubes
from threedistill.toybox.evaluation.truth import wanted_of
from threedistill.toybox.grammar import ObjectSpec, Scene, parse
from threedistill.toybox.lexicon import KINDS, TUNNELS
from threedistill.toybox.paint import Coat
from threedistill.toybox.shapes import Builder, Vary, gather
from threedistill.toybox.world import build
from threedistill.types import Mesh


def solid(*makes) -> Mesh:
    builder = Builder(Vary(None))
    for make in makes:
        make(builder)
    return gather(builder).mesh([Coat((0.5, 0.5, 0.5))])


def ball(x=0.0, radius=0.4):
    return lambda b: b.ellipsoid((x, 0, 0), (radius,) * 3)


def ring(b):
    b.torus((0, 0, 0), 0.5, 0.2)


def box(x=0.0, y=0.0, size=1.0) -> Mesh:
    corner = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).float() * size
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))]
    return Mesh(corner + torch.tensor([x, y, 0.0]), torch.tensor(faces))


def union(*meshes: Mesh) -> Mesh:
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes])
    return Mesh(
        torch.cat([m.vertices for m in meshes]),
        torch.cat([m.faces + int(o) for m, o in zip(meshes, offsets)]),
    )


def flipped(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces.flip(1))


def of_field(field, size=40) -> Mesh:
    axis = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = marching_cubes(field(x, y, z), 0.0, (-1, -1, -1), 2 / (size - 1))
    return Mesh(vertices, faces)


def double_ring(x, y, z):
    def at(center):
        return 0.13**2 - ((torch.sqrt((x - center) ** 2 + y**2) - 0.35) ** 2 + z**2)

    return torch.maximum(at(-0.35), at(0.35))


def counts(found: Topology):
    return found.pieces, found.tunnels, found.cavities, found.holes


def test_ball_ring_and_two_rings():
    found = topology(solid(ball()))
    assert counts(found) == (1, 0, 0, 0) and found.euler == 2 and found.largest_shares == (1.0,)
    assert counts(topology(solid(ring))) == (1, 1, 0, 0)
    found = topology(of_field(double_ring))
    assert counts(found) == (1, 2, 0, 0) and found.euler == -2
    assert counts(topology(solid(ring, ball(3)))) == (2, 1, 0, 0)


def test_a_hollow_ball_has_a_cavity_and_a_ball_in_a_ball_is_buried():
    hollow = union(solid(ball(radius=0.8)), flipped(solid(ball(radius=0.4))))
    assert counts(topology(hollow)) == (1, 0, 1, 0)
    nested = topology(union(solid(ball(radius=0.8)), solid(ball(radius=0.4))))
    assert counts(nested) == (1, 0, 0, 0) and nested.buried == 1
    # A tunnel of the cavity is nobody's way through.
    assert counts(topology(union(solid(ball(radius=0.9)), flipped(solid(ring))))) == (1, 0, 1, 0)
    shell = of_field(lambda x, y, z: 0.1 - (torch.sqrt(x * x + y * y + z * z) - 0.6).abs())
    assert counts(topology(shell)) == (1, 0, 1, 0)
    # Turned inside out and alone, it is no cavity: there is nothing around it.
    assert counts(topology(flipped(solid(ball())))) == (1, 0, 0, 0)


def test_missing_faces_are_holes_and_no_tunnels():
    mesh = solid(ball())
    centers = mesh.vertices[mesh.faces].mean(1)
    open_above = Mesh(mesh.vertices, mesh.faces[centers[:, 1] < 0.25])
    assert counts(topology(open_above)) == (1, 0, 0, 1)
    both = Mesh(mesh.vertices, mesh.faces[centers[:, 1].abs() < 0.25])
    assert counts(topology(both)) == (1, 0, 0, 2)
    donut = solid(ring)
    keep = torch.ones(len(donut.faces), dtype=torch.bool)
    keep[[5, 200]] = False
    found = topology(Mesh(donut.vertices, donut.faces[keep]))
    assert counts(found) == (1, 1, 0, 2)


def test_what_only_touches_is_taken_apart():
    at_edge, at_corner = union(box(), box(1, 1)), union(box(), box(1, 1))
    at_corner.vertices[8:, 2] += 1
    assert counts(topology(at_edge)) == (2, 0, 0, 0)
    assert counts(topology(at_corner)) == (2, 0, 0, 0)
    # Four boxes around a square gap, joined only along edges, are four pieces.
    around = union(box(), box(1, 1), box(2, 0), box(1, -1))
    assert counts(topology(around)) == (4, 0, 0, 0)
    # Where bodies are parted along an edge, the space between them hangs together.
    caves = union(box(-3, -3, 9), flipped(box()), flipped(box(1, 1)))
    caves.vertices[:8, 2] -= 3
    assert counts(topology(caves)) == (1, 0, 1, 0)


def test_seams_and_slivers_change_nothing():
    mesh = solid(ring)
    corners = mesh.vertices[mesh.faces].flatten(
        0, 1
    )  # every face with vertices of its own, as at texture seams
    alone = Mesh(corners, torch.arange(len(corners)).view(-1, 3))
    assert counts(topology(alone)) == (1, 1, 0, 0)
    sliver = Mesh(mesh.vertices, torch.cat([mesh.faces, mesh.faces[:1, [0, 0, 1]]]))
    assert counts(topology(sliver)) == (1, 1, 0, 0)
    empty = Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.long))
    assert counts(topology(empty)) == (0, 0, 0, 0)


def test_crumbs_and_shares():
    found = topology(solid(ball(), ball(2, 0.2), ball(4, 0.005)))
    assert found.pieces == 3 and found.crumbs == 1
    assert found.largest_shares[:2] == pytest.approx((0.8, 0.2), abs=0.03)


def test_winding_numbers():
    mesh = box()
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()]
    assert winding_number(np.array([0.4, 0.5, 0.6]), corners) == pytest.approx(1)
    assert winding_number(np.array([1.4, 0.5, 0.6]), corners) == pytest.approx(0, abs=1e-12)
    assert winding_number(np.array([0.5, 0.5, 0.5]), np.concatenate([corners, corners])) == pytest.approx(2)


def test_words_name_what_is_wrong_and_nothing_else():
    duck, mug = (wanted_of(parse(f"a red {kind}").scene) for kind in ("duck", "mug"))
    pair = wanted_of(parse("a red mug next to a blue donut").scene)
    assert (duck, mug, pair) == (Wanted(), Wanted((1, 1)), Wanted((2, 2), 2))
    good = Topology(1, 0, 0, 0, 0, 0, 2, (1.0,))
    assert in_words(good, duck) == [] and in_words(good, mug) == ["no tunnels instead of 1"]
    assert in_words(Topology(1, 0, 4, 0, 0, 0, -6, (1.0,)), duck) == ["4 tunnels"]
    assert in_words(Topology(1, 0, 4, 0, 0, 0, -6, (1.0,)), mug) == ["4 tunnels instead of 1"]
    assert in_words(Topology(3, 1, 2, 1, 1, 1, 2, (0.5,)), pair) == [
        "3 pieces instead of 2",
        "2 cavities",
        "1 hole",
    ]
    cat = wanted_of(parse("a cat").scene)
    said = [in_words(Topology(1, 0, k, 0, 0, 0, 2, (1.0,)), cat) for k in (0, 2, 3)]
    assert said == [[], [], ["3 tunnels"]]


#: Surfaces without thickness: the grid sees nothing in them.
OPEN = {"lamp", "vase", "umbrella", "mug"}
#: Overlaps of its parts leave slits that the table leaves out: no teacher shows them.
SLITS = {"house", "teddy bear", "pumpkin"}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - OPEN - SLITS))
def test_the_table_of_tunnels_is_what_the_world_has(kind):
    """On a grid of 48^3, which a 64-pixel teacher comes to, counted by the Euler characteristic of its cubes."""
    measure = pytest.importorskip("skimage.measure")
    solid_ = occupancy(build(Scene((ObjectSpec(kind),))), 48, 0.9).numpy()
    pieces = measure.label(solid_, connectivity=3).max()
    cavities = measure.label(~np.pad(solid_, 1), connectivity=1).max() - 1
    tunnels = pieces + cavities - measure.euler_number(solid_, connectivity=3)
    low, high = TUNNELS.get(kind, (0, 0))
    assert pieces == 1 and low <= tunnels <= high
