"""The procedural world: size, orientation, colours, patterns."""

import random

import numpy as np
import pytest
import torch

from threedistill.cameras import orbit
from threedistill.render.mesh import face_normals, render_mesh
from threedistill.toybox.grammar import COLORS, FRONTED, KINDS, ObjectSpec, Scene, parse, random_scene
from threedistill.toybox.world import RADIUS, build, main_color_share


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_fit_face_outwards_and_repeat(kind):
    scene = Scene((ObjectSpec(kind, "blue"),))
    for rng in (None, random.Random(1), random.Random(2)):
        mesh = build(scene, rng)
        radius = mesh.vertices.norm(dim=1).max()
        assert 0.6 < radius <= RADIUS + 1e-5
        assert torch.isfinite(mesh.vertices).all()
        torch.testing.assert_close(mesh.normals.norm(dim=1), torch.ones(len(mesh.normals)))
        # Winding and normals tell the same outside (nearly everywhere: slivers at poles may not).
        facing = (face_normals(mesh) * mesh.normals[mesh.faces].mean(1)).sum(1)
        assert (facing > 0).float().mean() > 0.995
    again = build(scene, random.Random(2))
    assert torch.equal(again.vertices, mesh.vertices) and torch.equal(again.colors, mesh.colors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("color", ["red", "white", "brown"])
def test_the_colour_word_governs_the_largest_area(kind, color):
    """On pictures from low (10 deg) and high (40 deg) no other colour covers as many pixels over all sides."""
    mesh = build(Scene((ObjectSpec(kind, color),)))
    views = torch.cat([orbit(4, 10.0, size=48).c2w, orbit(4, 40.0, size=48, start=45.0).c2w])
    cameras = orbit(8, 20.0, size=48)
    cameras = type(cameras)(
        views, cameras.fov_y, cameras.azimuth, cameras.elevation, cameras.distance, 48, 48
    )
    seen = render_mesh(mesh, cameras, shading="none", supersample=1)
    pixels = seen.rgb[seen.opacity[..., 0] > 0.5].numpy()
    near = (np.abs(pixels - np.array(COLORS[color])) < 0.02).all(1)
    others = pixels[~near]
    _, counts = (
        np.unique(np.round(others, 2), axis=0, return_counts=True) if len(others) else (0, np.zeros(1))
    )
    assert near.sum() > counts.max()
    assert main_color_share(mesh, COLORS[color]) > 0.3


#: Where each fronted kind shows what only its front has: a picture from the front differs from the one from behind.
@pytest.mark.parametrize("kind", sorted(FRONTED))
def test_fronts_cannot_be_mistaken_for_backs(kind):
    mesh = build(Scene((ObjectSpec(kind, "green"),)))
    images = render_mesh(mesh, orbit(4, 15.0, size=64), shading="lambertian").rgb
    front, back = images[0], images[2]
    mirrored = back.flip(1)
    difference = min(float((front - back).abs().amax(-1).gt(0.15).float().mean()),
                     float((front - mirrored).abs().amax(-1).gt(0.15).float().mean()))  # fmt: skip
    assert difference > 0.01, f"{kind}: front and back differ in only {difference:.2%} of the pixels"


BEAK, DARK, GLASS = (0.98, 0.50, 0.06), (0.07, 0.07, 0.08), (0.58, 0.80, 0.92)


@pytest.mark.parametrize(
    ("kind", "marker"),
    [
        ("duck", BEAK),
        ("snowman", BEAK),
        ("owl", DARK),
        ("car", GLASS),
        ("television", GLASS),
        ("house", GLASS),
    ],
)
def test_front_markers_are_on_plus_z(kind, marker):
    mesh = build(Scene((ObjectSpec(kind, "green"),)))
    near = (mesh.colors - torch.tensor(marker)).abs().amax(1) < 0.06
    assert near.any() and mesh.vertices[near, 2].mean() > 0.15
    assert mesh.vertices[near, 0].mean().abs() < 0.1


def test_patterns_cover_a_good_part_of_the_main_colour_only():
    for text in (
        "a red duck with white stripes",
        "a blue mug with yellow spots",
        "a green cube with black stripes",
    ):
        scene = parse(text).scene
        mesh = build(scene, random.Random(0))
        spec = scene.objects[0]
        assert 0.1 < main_color_share(mesh, COLORS[spec.pattern_color]) < 0.6
        assert main_color_share(mesh, COLORS[spec.color]) > 0.25


@pytest.mark.parametrize(
    "text", ["a red ball with white spots", "a red duck with white stripes", "a red mushroom"]
)
def test_marks_are_at_the_same_places_on_every_object(text):
    """Else their mean, which is what score distillation draws, would be a mixture of the colours."""
    views = orbit(4)
    seen = [render_mesh(build(parse(text).scene, random.Random(k)), views).rgb for k in range(12)]
    mean = torch.stack(seen).mean(0)
    pale = mean.amin(-1) > 0.7  # the marks of nearly all; with random places 0.05 to 0.11 of the object
    inside = render_mesh(build(parse(text).scene), views).opacity[..., 0] > 0.99
    assert 0.12 < float((pale & inside).sum() / inside.sum()) < 0.5


def middle(mesh, color):
    """The mean vertex of the parts in a colour."""
    return mesh.vertices[(mesh.colors - torch.tensor(COLORS[color])).abs().amax(1) < 0.01].mean(0)


def test_accessories_and_pairs_appear():
    assert main_color_share(build(parse("a yellow duck wearing a blue hat").scene), COLORS["blue"]) > 0.03
    on = build(parse("a red ball on a blue cube").scene)
    assert middle(on, "red")[1] > middle(on, "blue")[1] + 0.3
    beside = build(parse("a red ball next to a blue cube").scene)
    assert middle(beside, "red")[0] < middle(beside, "blue")[0] - 0.3


def test_random_scenes_build_within_the_ball():
    rng = random.Random(5)
    for _ in range(40):
        mesh = build(random_scene(rng, tier_two=0.8), rng)
        assert mesh.vertices.norm(dim=1).max() <= RADIUS + 1e-5
        assert (mesh.colors >= 0).all() and (mesh.colors <= 1).all()
