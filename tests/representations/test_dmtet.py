"""DMTet: closed forms, gradients by differences, what it starts from, what it becomes, and that it repeats itself."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.representations.balls import ball_image, ball_mesh, iou, psnr
from tests.representations.test_signed_distance import box
from threedistill import cameras
from threedistill.config import build, compose
from threedistill.errors import ThreedistillError, UsageError
from threedistill.lights import Lighting
from threedistill.ops.antialias import face_neighbours
from threedistill.protocols import RenderContext, Representation
from threedistill.render.mesh import face_normals, render_mesh, sample_texture
from threedistill.render.surface import render_surface, vertex_normals
from threedistill.representations import meshstats
from threedistill.representations.dmtet import DMTet
from threedistill.representations.fitting import fit_photometric
from threedistill.representations.hashfield import HashField, HashSettings
from threedistill.rng import Streams
from threedistill.training.planning import build_plan
from threedistill.types import Mesh

GOLDEN = Path(__file__).with_name("golden_dmtet.json")
RATES = {
    "table": 0.01,
    "mlp": 0.003,
    "shape_table": 0.01,
    "shape_mlp": 0.003,
    "sdf": 0.003,
    "displacement": 0.01,
}
SMALL = HashSettings(levels=4, log2_entries=10, start_levels=2, finest_resolution=32)


def small(**given) -> DMTet:
    torch.manual_seed(0)
    return DMTet(**{"resolution": 14, "color": SMALL, "shape": SMALL, **given})


def context(views: int, **given) -> RenderContext:
    return RenderContext(**{"progress": 1.0, "background": torch.ones(views, 3), **given})


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def test_it_is_a_representation():
    assert isinstance(small(), Representation)


@pytest.mark.parametrize("geometry", ["field", "explicit"])
@pytest.mark.parametrize("supersample", [1, 2])
def test_the_start_is_a_sphere(geometry, supersample):
    field = small(resolution=24, geometry=geometry, supersample=supersample)
    views, background = cameras.orbit(3, elevation=25, size=64), torch.tensor([[0.1, 0.7, 0.3]]).expand(3, 3)
    with torch.no_grad():
        out = field.render(views, context(3, background=background))
    _, mask = ball_image(views, 0.5, background)
    assert iou(out.opacity[..., 0] > 0.5, mask) > 0.97
    outside = out.opacity[..., 0] == 0
    torch.testing.assert_close(out.rgb[outside], background[:, None, None].expand_as(out.rgb)[outside])
    centre = out.depth[:, 31:33, 31:33, 0]
    torch.testing.assert_close(
        centre, (views.distance - 0.5)[:, None, None].expand(3, 2, 2), rtol=0, atol=0.01
    )
    mesh = field.extract(200)
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.01)


def test_it_shows_what_the_mesh_renderer_shows():
    field = small(resolution=20)
    mesh = field.extract(100)
    mesh.normals = vertex_normals(mesh.vertices, mesh.faces)
    mesh.colors = torch.full_like(mesh.vertices, 0.5)
    views = cameras.orbit(2, elevation=30, size=48)
    for shading in ("none", "lambertian", "textureless", "normal"):
        truth = render_mesh(mesh, views, shading=shading, supersample=4)
        out = render_surface(
            mesh.vertices,
            mesh.faces,
            lambda at, _: torch.full_like(at, 0.5),
            views,
            torch.ones(2, 3),
            shading=shading,
        )
        assert psnr(out.rgb, truth.rgb) > 35
        torch.testing.assert_close(out.opacity.sum(), truth.opacity.sum(), rtol=5e-3, atol=0)
        if shading != "none":
            solid = truth.opacity[..., 0] == 1
            cosine = (out.normal[solid] * truth.normal[solid]).sum(-1)
            assert float(cosine.quantile(0.05)) > 0.99


@pytest.mark.parametrize("shading", ["none", "normal", "lambertian"])
def test_gradients_by_differences(shading):
    """From the signed distances and displacements to the picture, through everything in between."""
    material = "pbr" if shading == "lambertian" else "lambert"
    field = small(
        resolution=8, geometry="explicit", texture_gradient=True, color_jitter=0, material=material
    ).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        field.sdf += 0.01 * torch.randn(field.sdf.shape, generator=generator, dtype=torch.float64)
        for known in field._fields():
            known.table.mul_(2e3)
    views = cameras.place(*(torch.tensor([v], dtype=torch.float64) for v in (0.3, 0.2, 3.0, 0.8)), 20, 20)
    weight = torch.rand(1, 20, 20, 3, generator=generator, dtype=torch.float64)
    white = context(1, background=torch.ones(1, 3, dtype=torch.float64), shading=shading)

    def loss() -> Tensor:
        field.refresh()
        return (field.render(views, white).rgb * weight).sum()

    leaves = [field.sdf, field.displacement]
    if shading != "normal":  # which does not show the colours
        leaves.append(field.color.table)
    if field.reflectance is not None:
        leaves += [field.reflectance.table, field.reflectance.weights[-1]]
    grads = torch.autograd.grad(loss(), leaves)
    for leaf, grad in zip(leaves, grads):
        assert float(grad.abs().max()) > 0
        for _ in range(4):
            direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                step = 1e-7
                leaf += step * direction
                high = loss()
                leaf -= 2 * step * direction
                low = loss()
                leaf += step * direction
            difference = float((high - low) / (2 * step))
            assert difference == pytest.approx(float((grad * direction).sum()), rel=2e-4, abs=1e-5)


def test_silhouettes_move_the_field_but_colours_do_not():
    field = small()
    views = cameras.orbit(2, size=32)
    field.render(views, context(2)).opacity.mean().backward()
    assert float(field.shape.table.grad.abs().max()) > 0
    assert field.color.table.grad is None or float(field.color.table.grad.abs().max()) == 0
    # A picture of constant colour on the same background has no silhouette.
    field.zero_grad()
    mesh = field.surface(1.0)
    out = render_surface(
        mesh.vertices, mesh.topology.faces, lambda at, _: torch.ones_like(at), views, torch.ones(2, 3)
    )
    out.rgb.sum().backward()
    assert float(field.shape.table.grad.abs().max()) == 0


def test_regularisers_in_closed_form():
    cube = box(-0.5, 0.5)
    neighbours = face_neighbours(cube.faces)
    assert float(meshstats.normal_consistency(cube.vertices, cube.faces, neighbours)) == pytest.approx(
        12 / 18
    )
    ball = ball_mesh(0.5, rings=64)
    field = small(resolution=24)
    surface = field.surface(1.0)
    vertices, (_, faces, tets) = surface.vertices.detach(), surface.topology
    assert float(meshstats.normal_consistency(vertices, faces, surface.neighbours)) < 0.02
    crossed = field.tets[tets]
    exact = field.points.norm(dim=1) - 0.5
    assert float(meshstats.eikonal(field.points, exact, crossed)) < 1e-3
    assert float(meshstats.eikonal(field.points, 3 * exact, crossed)) == pytest.approx(4.0, rel=0.02)
    # Crossing from -a to +a: twice the cross-entropy of the wrong sign, ln(1 + exp(a)) each.
    two = torch.tensor([-0.7, 0.7])
    expected = 2 * math.log1p(math.exp(0.7))
    assert float(meshstats.sign_change(two, torch.tensor([[0, 1]]))) == pytest.approx(expected)
    # A regular tetrahedron's vertices are 4/3 of their own length from the mean of the others.
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    tetrahedron = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    assert float(meshstats.laplacian(corners, tetrahedron)) == pytest.approx(3 * (4 / 3) ** 2)
    # As the originals divide: 3 edges a vertex, from which the sum is 3 times as far; normals lie along the corners.
    assert float(meshstats.laplacian_length(corners, tetrahedron)) == pytest.approx(3 * math.sqrt(3) * 4 / 3)
    assert float(meshstats.vertex_consistency(corners, tetrahedron)) == pytest.approx(1 + 1 / 3)
    assert float(meshstats.vertex_consistency(ball.vertices, ball.faces)) < 0.01
    cosine = (vertex_normals(ball.vertices, ball.faces) * ball.vertices).sum(1) / 0.5
    assert float(cosine.median()) > 0.999
    assert float((face_normals(Mesh(corners, tetrahedron)) * corners[tetrahedron].mean(1)).sum(1).min()) > 0


def test_it_starts_from_a_mesh_and_its_colours():
    ball = ball_mesh(0.6)
    field = small(resolution=20)
    field.init_from_mesh(ball, Streams(5))
    mesh = field.extract(100)
    assert float((mesh.vertices.norm(dim=1) - 0.6).abs().max()) < 0.01
    colors = field.surface_color(mesh.vertices, mesh.vertices)
    upper, lower = mesh.vertices[:, 1] > 0.1, mesh.vertices[:, 1] < -0.1
    assert float((colors[upper] - torch.tensor([0.9, 0.2, 0.1])).abs().mean()) < 0.03
    assert float((colors[lower] - torch.tensor([0.1, 0.3, 0.8])).abs().mean()) < 0.03
    again = small(resolution=20)
    again.init_from_mesh(ball, Streams(5))
    for a, b in zip(field.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("geometry", ["field", "explicit"])
def test_it_starts_from_a_density(geometry):
    field = small(resolution=20, geometry=geometry)
    field.init_from_density(
        lambda x: 40 * torch.sigmoid(20 * (0.4 - x.norm(dim=1))), 20.0, Streams(0),
        color=lambda x, n: torch.tensor([0.2, 0.8, 0.4]).expand_as(x),
    )  # fmt: skip
    mesh = field.extract(100)
    assert float((mesh.vertices.norm(dim=1) - 0.4).abs().max()) < 0.02
    colors = field.surface_color(mesh.vertices, mesh.vertices)
    assert float((colors - torch.tensor([0.2, 0.8, 0.4])).abs().max()) < 0.05
    with pytest.raises(ThreedistillError, match="nowhere above 50"):
        field.init_from_density(lambda x: torch.zeros_like(x[:, 0]), 50.0, Streams(0))


def test_extraction_below_the_grids_resolution():
    field = small(resolution=20)
    fine, coarse = field.extract(20), field.extract(12)
    assert len(coarse.faces) < len(fine.faces) / 2
    assert volume(coarse) == pytest.approx(volume(fine), rel=0.1)
    assert bool((face_neighbours(coarse.faces) >= 0).all()) and bool((face_neighbours(fine.faces) >= 0).all())


def test_nothing_inside_and_nothing_outside():
    field = small(geometry="explicit")
    with torch.no_grad():
        field.sdf.fill_(0.3)
    field.refresh()
    out = field.render(cameras.orbit(2, size=16), context(2))
    assert bool((out.rgb == 1).all()) and bool((out.opacity == 0).all())
    (out.rgb.sum() + sum(v for v in out.stats.values())).backward()
    with pytest.raises(ThreedistillError, match="empty"):
        field.extract(32)
    with torch.no_grad():
        field.sdf.fill_(-0.3)
    with pytest.raises(ThreedistillError, match="full"):
        field.extract(32)
    field.refresh()
    assert bool((face_neighbours(field.surface(1.0).topology.faces) >= 0).all())  # the border stays outside


def train(field: DMTet, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    views, truth = cameras.orbit(2, size=24), ball_mesh(0.62, rings=16)
    target = render_mesh(truth, views).rgb
    for step in range(first, last):
        rng = Streams(0).at(step)
        out = field.render(views, context(2, progress=step / 12, rng=rng))
        loss = (
            (out.rgb - target).square().mean() + 0.01 * out.stats["eikonal"] + 0.01 * out.stats["laplacian"]
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        field.after_step(step, step / 12, rng)


@pytest.mark.parametrize("geometry", ["field", "explicit"])
def test_a_resumed_run_repeats_the_uninterrupted_one(geometry):
    def make() -> tuple[DMTet, torch.optim.Optimizer]:
        field = small(geometry=geometry, refresh_every=3)
        groups = [{"params": p, "lr": RATES[n]} for n, p in field.parameter_groups().items()]
        return field, torch.optim.Adam(groups, eps=1e-15)

    whole, optimizer = make()
    train(whole, optimizer, 0, 9)
    part, optimizer = make()
    train(part, optimizer, 0, 5)
    state, moments = part.state_dict(), optimizer.state_dict()
    resumed, optimizer = make()
    resumed.load_state_dict(state)
    optimizer.load_state_dict(moments)
    train(resumed, optimizer, 5, 9)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert torch.equal(whole.extract(64).vertices, resumed.extract(64).vertices)


def test_twenty_steps_follow_the_recorded_losses():
    """Regenerate with THREEDISTILL_REGENERATE=1 after a change that is meant to move them."""
    field = small(resolution=16)
    losses = fit_photometric(
        field,
        ball_mesh(0.62, rings=16),
        steps=20,
        views=2,
        size=32,
        bank=8,
        seed=3,
        rates=RATES,
        shading="none",
    )
    if os.environ.get("THREEDISTILL_REGENERATE"):
        GOLDEN.write_text(json.dumps({"losses": losses}, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())["losses"]
    # Native and twin kernels sum in different orders; Adam's division amplifies that.
    assert losses == pytest.approx(golden, rel=2e-2)
    assert losses[:3] == pytest.approx(golden[:3], rel=1e-4)


def torus() -> Mesh:
    theta, phi = torch.meshgrid(*[torch.arange(48) * (2 * math.pi / 48)] * 2, indexing="ij")
    ring = 0.55 + 0.2 * phi.cos()
    vertices = torch.stack([ring * theta.sin(), 0.2 * phi.sin(), ring * theta.cos()], -1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    a, b = i * 48 + j, i * 48 + (j + 1) % 48
    c, d = (i + 1) % 48 * 48 + j, (i + 1) % 48 * 48 + (j + 1) % 48
    faces = torch.cat([torch.stack([a, c, b], -1).view(-1, 3), torch.stack([b, c, d], -1).view(-1, 3)])
    return Mesh(vertices, faces)


def test_a_torus_keeps_its_hole():
    field = small(resolution=20)
    field.init_from_mesh(torus(), Streams(0))
    mesh = field.extract(64)
    assert len(mesh.vertices) - len(mesh.faces) // 2 == 0  # Euler's characteristic
    assert volume(mesh) == pytest.approx(volume(torus()), rel=0.03)


@pytest.mark.parametrize("spoilt", ["hollow", "bored"])
def test_what_no_view_sees_is_solid_in_the_asset(spoilt):
    """A ball with a hollow, or with a hole from below: without an inner surface, elsewhere as it was, bit for bit."""
    field = small(resolution=20, geometry="explicit", radius=0.6)
    plain, middle = field.extract(64), field.points
    if spoilt == "hollow":
        missing = 0.25 - middle.norm(dim=1)  # the part that is cut away: above 0 within
    else:
        column = 1.2 * field.cell - middle[:, [0, 2]].norm(dim=1)
        missing = torch.minimum(column, 0.2 - middle[:, 1])  # up to above the middle
    with torch.no_grad():
        field.sdf.copy_(torch.maximum(field.sdf, missing))
    field.refresh()
    assert len(field.surface().topology.faces) > len(plain.faces)  # an inner surface
    mended = field.extract(64)
    assert volume(mended) == pytest.approx(volume(plain), rel=0.02)
    away = plain.vertices[:, 1] > -0.4
    assert torch.equal(mended.vertices[mended.vertices[:, 1] > -0.4], plain.vertices[away])


def test_yielding_changes_gradients_only():
    views = cameras.orbit(2, elevation=60, size=24)
    pictures, grads = [], []
    for yielding in (0.0, 5.0):
        field = small(yielding=yielding, geometry="explicit")
        out = field.render(views, context(2, progress=0.0))
        centre = out.rgb[:, 11:13, 11:13].sum()  # far from any outline
        grads.append(torch.autograd.grad(centre, field.sdf)[0])
        pictures.append(out.rgb.detach())
    torch.testing.assert_close(pictures[0], pictures[1], rtol=0, atol=1e-6)
    assert float(grads[0].abs().max()) == 0
    # Grey before white: the sum falls where the surface comes forward, that is where the distance falls.
    assert float(grads[1].sum()) > 0 and float(grads[1].min()) >= 0


def test_a_fit_opens_a_hole():
    truth = torus()
    truth.colors = torch.tensor([0.8, 0.3, 0.1]).expand(len(truth.vertices), 3)
    field = small(resolution=24, yielding=20, yield_until=0.8)
    fit_photometric(field, truth, steps=120, views=4, size=48, bank=32, rates=RATES, shading="none")
    mesh = field.extract(64)
    views = cameras.orbit(6, elevation=40, size=64)
    shown, true = (render_mesh(m, views).opacity[..., 0] > 0.5 for m in (mesh, truth))
    assert iou(shown, true) > 0.9
    assert len(mesh.vertices) - len(mesh.faces) // 2 == 0


def test_a_fit_splits_the_sphere_in_two():
    ball = ball_mesh(0.28, rings=16)
    apart = torch.tensor([0.42, 0.0, 0.0])
    truth = Mesh(
        torch.cat([ball.vertices - apart, ball.vertices + apart]),
        torch.cat([ball.faces, ball.faces + len(ball.vertices)]),
        colors=torch.tensor([0.8, 0.3, 0.1]).expand(2 * len(ball.vertices), 3),
    )
    field = small(resolution=24)
    fit_photometric(field, truth, steps=150, views=4, size=48, bank=32, rates=RATES, shading="none")
    mesh = field.extract(64)
    views = cameras.orbit(6, elevation=40, size=64)
    shown, true = (render_mesh(m, views).opacity[..., 0] > 0.5 for m in (mesh, truth))
    assert iou(shown, true) > 0.93
    assert len(mesh.vertices) - len(mesh.faces) // 2 == 4  # two closed parts without holes


def test_hash_fields():
    torch.manual_seed(0)
    field = HashField(2, SMALL, 1.0)
    assert [field.active_levels(p) for p in (0.0, 0.25, 0.5, 1.0)] == [2, 3, 4, 4]
    assert float(field(torch.rand(50, 3)).abs().max()) < 1e-3
    points = torch.rand(4000, 3) * 1.6 - 0.8
    truth = torch.stack([points[:, 0], points[:, 1] * 2], 1)
    field.fit(points, truth, 0.0, torch.Generator().manual_seed(0), steps=150, batch=1024)
    assert float((field(points).sigmoid() - truth.sigmoid()).abs().mean()) < 0.03


def test_levels_stay_on_in_a_later_stage():
    """A stage that takes over a trained field begins with progress 0, but not with half of its levels."""
    field = small(resolution=10)
    fit_photometric(field, ball_mesh(0.6, rings=16), steps=3, views=2, size=16, bank=4, rates=RATES)
    later = small(resolution=10)
    later.load_state_dict(field.state_dict())
    views = cameras.orbit(2, size=16)
    with torch.no_grad():
        end, start = (f.render(views, context(2, progress=p)) for f, p in ((field, 1.0), (later, 0.0)))
    assert torch.equal(end.rgb, start.rgb)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": 2}, "resolution=2"), ({"radius": 1.5}, "radius=1.5"), ({"deformation": 0.4}, "deformation=0.4"),
        ({"geometry": "both"}, "geometry='both'"), ({"supersample": 0}, "supersample=0"),
        ({"material": "gold"}, "material='gold'"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        small(**given)


def test_the_configuration_builds_it_and_weighs_its_regularisers():
    config = compose(prompt="a yellow duck", representation="dmtet")
    assert build(config["regularizers"], "regularizers").weights["eikonal"] > 0
    field = build(config["representation"]["model"], "representation.model")
    assert isinstance(field, DMTet)
    build(config["optim"], "optim").build(field.parameter_groups())
    plain = build(compose(prompt="a yellow duck")["regularizers"], "regularizers").weights
    assert not {"eikonal", "laplacian", "normal_consistency", "sign_change"} & {
        k for k, v in plain.items() if v
    }


def metal_ball(radius: float = 0.55) -> Mesh:
    """A ball, metallic on its right half and smooth on its upper half, whose texture is a map of the sphere."""
    rings, turns = 24, 48
    v, u = torch.meshgrid(torch.linspace(0, 1, rings + 1), torch.linspace(0, 1, turns + 1), indexing="ij")
    theta, phi = (1 - v) * math.pi, u * 2 * math.pi
    points = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], -1) * radius
    a = (torch.arange(rings)[:, None] * (turns + 1) + torch.arange(turns)).flatten()
    b, c, d = a + 1, a + turns + 1, a + turns + 2
    faces = torch.cat([torch.stack([a, b, d], 1), torch.stack([a, d, c], 1)])
    y, x = torch.meshgrid(torch.arange(32), torch.arange(64), indexing="ij")
    material = torch.stack([(x < 32).float(), torch.where(y < 16, 0.25, 0.8)], -1)
    points = points.reshape(-1, 3)
    return Mesh(
        points, faces, normals=points / radius, uv=torch.stack([u, v], -1).reshape(-1, 2),
        texture=torch.tensor([0.8, 0.6, 0.3]).expand(32, 64, 3), metallic_roughness=material,
    )  # fmt: skip


def quarters(points: Tensor) -> list[Tensor]:
    """Which points lie well within metallic smooth, metallic rough, dull smooth, dull rough."""
    right, up = points[:, 0], points[:, 1]
    return [(a * right > 0.15) & (b * up > 0.15) for a in (1, -1) for b in (1, -1)]


def test_a_material_begins_rough_and_is_shown_only_where_it_is_lit():
    plain, glossy = small(), small(material="pbr")
    views = cameras.orbit(2, size=24)
    points = torch.nn.functional.normalize(torch.randn(50, 3), dim=1) * 0.5
    assert plain.surface_material(points, points) is None
    found = glossy.surface_material(points, points)
    assert found is not None and found.shape == (50, 2)
    torch.testing.assert_close(found, torch.tensor([[0.0474, 0.6602]]).expand(50, 2), atol=0.01, rtol=0)
    assert not any(name.startswith("reflectance") for name in plain.state_dict())
    for shading in ("none", "normal", "textureless"):
        a, b = (f.render(views, context(2, shading=shading)).rgb for f in (plain, glossy))
        assert torch.equal(a, b)
    lit = glossy.render(views, context(2, shading="lambertian")).rgb
    assert not torch.equal(lit, plain.render(views, context(2, shading="lambertian")).rgb)


def test_a_fit_finds_the_material():
    """From lit pictures alone, starting rough and hardly metallic; the truth is rendered from the mesh's texture."""
    truth = metal_ball()
    field = small(resolution=16, material="pbr")
    field.init_from_mesh(replace(truth, metallic_roughness=None), Streams(0))
    groups = field.parameter_groups()
    optimizer = torch.optim.Adam(
        [{"params": groups["reflectance_table"], "lr": 0.02}, {"params": groups["reflectance_mlp"], "lr": 0.01},
         {"params": groups["table"], "lr": 0.003}], eps=1e-15,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for i in range(150):
        azimuth, elevation = torch.rand(2, 4, generator=generator) * torch.tensor([[6.28], [1.4]])
        views = cameras.place(azimuth, elevation - 0.5, 2.9 * torch.ones(4), 0.5 * torch.ones(4), 32, 32)
        light = torch.nn.functional.normalize(
            views.c2w[:, :3, 3] + torch.randn(4, 3, generator=generator), dim=1
        )
        target = render_mesh(truth, views, shading="lambertian", light=light, supersample=1)
        out = field.render(views, context(4, shading="lambertian", light=light))
        loss = (out.rgb - target.rgb).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        field.after_step(i, 1.0, Streams(0))
    points = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator), dim=1) * 0.55
    found = field.surface_material(points, points)
    assert found is not None
    metallic, roughness = (torch.stack([found[part, k].mean() for part in quarters(points)]) for k in (0, 1))
    assert float((metallic - torch.tensor([1.0, 1.0, 0.0, 0.0])).abs().max()) < 0.1
    assert float((roughness - torch.tensor([0.25, 0.8, 0.25, 0.8])).abs().max()) < 0.15


#: Light, how far cameras go round (degrees to both sides, and up and down), and how far off the worst figure is.
GLOSS = {
    "from one place, sampled light": (Lighting("cone", cone=90), 0.0, (0.0, 0.1)),
    "from one place, headlight": (Lighting(), 0.0, (0.2, 1.0)),
    "within 15 degrees, headlight": (Lighting(), 15.0, (0.0, 0.15)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", GLOSS)
def test_which_light_tells_gloss_from_paint(case):
    """A ball of four materials, paint and material unknown, its shape given.

    A headlight that stays where it is shows one picture, which paint explains; one that travels is sampled light.
    """
    light, around, (least, most) = GLOSS[case]
    truth, known = metal_ball(), small(resolution=20, material="pbr")
    field = small(resolution=20, material="pbr")
    known.init_from_mesh(truth, Streams(0))
    field.init_from_mesh(replace(truth, texture=None, metallic_roughness=None), Streams(0))
    groups, steps = field.parameter_groups(), 300
    rates = {"reflectance_table": 0.05, "reflectance_mlp": 0.02, "table": 0.01, "mlp": 0.005}
    optimizer = torch.optim.Adam(
        [{"params": groups[name], "lr": rate} for name, rate in rates.items()], eps=1e-15
    )
    generator = torch.Generator().manual_seed(0)
    for i in range(steps):
        for group, rate in zip(optimizer.param_groups, rates.values()):
            group["lr"] = rate * 0.1 ** max(0.0, 2 * i / steps - 1)
        turn, lift = 2 * torch.rand(2, 4, generator=generator) - 1
        azimuth, elevation = turn * math.radians(around), 0.3 + lift * math.radians(around)
        views = cameras.place(azimuth, elevation, 2.9 * torch.ones(4), 0.5 * torch.ones(4), 40, 40)
        lit = context(4, shading="lambertian", light=light.direction(Streams(1).at(i), views))
        with torch.no_grad():
            target = known.render(views, lit).rgb
        optimizer.zero_grad(set_to_none=True)
        (field.render(views, lit).rgb - target).square().mean().backward()
        optimizer.step()
        field.after_step(i, 1.0, Streams(0))
    points = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator), dim=1) * 0.55
    found, true = field.surface_material(points, points), known.surface_material(points, points)
    assert found is not None and true is not None
    parts = [part & (points[:, 2] > 0.15) for part in quarters(points)]  # where all of them are seen
    table = [[values[part].median(0).values for part in parts] for values in (found, true)]
    found, true = (torch.stack(rows) for rows in table)
    columns = [" ".join(f"{value:.2f}" for value in values[:, k]) for values in (found, true) for k in (0, 1)]
    print("| {} | {} | {} | of {} and {}".format(case, *columns))
    worst = float((found - true).abs().max())
    assert least <= worst < most


def test_a_material_comes_along():
    """From a mesh with its maps, from a stage without a material, and back into a texture."""
    from threedistill.exports.asset import ExportSettings, build_asset
    from threedistill.representations.convert import ConvertSettings, convert

    field = small(material="pbr", resolution=20)
    field.init_from_mesh(metal_ball(), Streams(0))
    points = torch.nn.functional.normalize(torch.randn(2000, 3), dim=1) * 0.55
    found = field.surface_material(points, points)
    assert found is not None
    expected = torch.tensor([[1.0, 0.25], [1, 0.8], [0, 0.25], [0, 0.8]])
    for part, value in zip(quarters(points), expected):
        assert float((found[part] - value).abs().mean()) < 0.05
    plain = small(resolution=20)
    plain.init_from_mesh(metal_ball(), Streams(0))
    later = small(material="pbr", resolution=20)
    convert(plain, later, ConvertSettings(), Streams(1), RATES)
    assert torch.equal(later.values, plain.values) and torch.equal(later.color.table, plain.color.table)
    settings = ExportSettings(resolution=20, faces=2000, texture_size=128, unlit=False)
    asset = build_asset(field, settings)
    assert asset.metallic_roughness is not None and asset.uv is not None
    assert build_asset(plain, settings).metallic_roughness is None
    seen = sample_texture(asset.metallic_roughness, asset.uv)
    for part, value in zip(quarters(asset.vertices), expected):
        assert float((seen[part] - value).abs().mean()) < 0.06


def test_a_material_that_no_stage_shows_lit_is_refused():
    chosen = ["representation=dmtet", "representation.model.material=pbr"]
    with pytest.raises(
        UsageError, match=r"material=pbr: no stage shows lit pictures.*stages\.0\.shading=lambertian"
    ):
        build_plan(compose(prompt="a red ball", overrides=chosen))
    build_plan(compose(prompt="a red ball", overrides=[*chosen, "stages.0.shading=lambertian"]))
