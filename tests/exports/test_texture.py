"""Unwrapping and baking: no overlaps, no background in the gutter, the right colour at the right place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.exports.objects import Solid, ball_with_bands, box, cube, letter_f
from threedistill.errors import ThreedistillError
from threedistill.exports.asset import ExportSettings, build_asset
from threedistill.exports.meshes.bake import bake, fill_gutter
from threedistill.exports.meshes.surface import decimate, vertex_normals
from threedistill.exports.meshes.unwrap import Unwrapped, unwrap
from threedistill.types import Mesh


def spiral() -> Mesh:
    """A ramp of two turns whose upper side is one piece that lies above itself."""

    def distance(p: torch.Tensor) -> torch.Tensor:
        turn = torch.atan2(p[..., 2], p[..., 0]) / (2 * math.pi)
        radius = torch.hypot(p[..., 0], p[..., 2])
        height = p[..., 1] - 0.6 * turn
        layers = torch.stack([(height - k * 0.6).abs() for k in (-1, 0, 1)]).amin(0)
        return torch.stack(
            [(layers - 0.12) * 0.8, (radius - 0.55).abs() - 0.25, p[..., 1].abs() - 0.75]
        ).amax(0)

    return decimate(Solid(distance, lambda p, n: p).extract(64), 3000)


def covering(mesh: Mesh, size: int) -> np.ndarray:
    """How many triangles contain each texel centre strictly, by brute force."""
    assert mesh.uv is not None
    centre = (np.arange(size) + 0.5) / size
    count = np.zeros((size, size), dtype=int)
    for corners in mesh.uv.double().numpy()[mesh.faces.numpy()]:
        low = np.maximum(np.floor(corners.min(0) * size).astype(int), 0)
        high = np.minimum(np.ceil(corners.max(0) * size).astype(int), size)
        u, v = np.meshgrid(centre[low[0] : high[0]], centre[low[1] : high[1]])
        signs = []
        for k in range(3):
            (ax, ay), (bx, by) = corners[k], corners[(k + 1) % 3]
            signs.append((bx - ax) * (v - ay) - (by - ay) * (u - ax))
        inside = np.all(np.array(signs) > 1e-9, 0) | np.all(np.array(signs) < -1e-9, 0)
        count[low[1] : high[1], low[0] : high[0]] += inside
    return count[::-1]  # row 0 at the top


def layouts() -> dict[str, tuple[Mesh, Unwrapped]]:
    f = decimate(letter_f().extract(48), 1200)
    coil = spiral()
    return {
        "xatlas": (f, unwrap(f, 256)),
        "box": (f, unwrap(f, 256, max_faces=10)),
        "folded": (coil, unwrap(coil, 256, max_charts=1)),
    }


@pytest.fixture(scope="module", name="layouts")
def _layouts() -> dict[str, tuple[Mesh, Unwrapped]]:
    return layouts()


@pytest.mark.parametrize("name", ["xatlas", "box", "folded"])
def test_layouts_keep_the_surface_and_do_not_overlap(name: str, layouts) -> None:
    mesh, found = layouts[name]
    assert found.method == ("xatlas" if name == "xatlas" else "box projection")
    assert found.mesh.uv is not None
    assert found.mesh.uv.min() >= 0 and found.mesh.uv.max() <= 1
    before = mesh.vertices[mesh.faces].sum(1).sort(0).values
    after = found.mesh.vertices[found.mesh.faces].sum(1).sort(0).values
    assert torch.equal(before, after)  # the same triangles, split along seams only
    count = covering(found.mesh, 256)
    assert (count > 0).mean() > (0.1 if name == "folded" else 0.3)
    # A fold may remain below the 5 % that the box projection looks for.
    assert (count > 1).sum() <= (0 if name != "folded" else 0.01 * (count > 0).sum())


@pytest.mark.parametrize("name", ["xatlas", "box"])
def test_charts_are_a_gutter_apart(name: str, layouts) -> None:
    """Texels of different charts are never closer than the gutter less the one texel that centres may be off."""
    found = layouts[name][1]
    _, texels = bake(found.mesh, lambda p, n: p * 0, 256, gutter=4)
    chart = chart_of_texels(found.mesh, texels.covered, 256)
    for shift in range(1, 3):
        for axis in (0, 1):
            here = chart.narrow(axis, 0, 256 - shift)
            there = chart.narrow(axis, shift, 256 - shift)
            touching = (here >= 0) & (there >= 0) & (here != there)
            assert not bool(touching.any()), f"charts {shift} texels apart"


def chart_of_texels(mesh: Mesh, covered: torch.Tensor, size: int) -> torch.Tensor:
    """The chart (connected component of the split mesh) seen at each covered texel, -1 elsewhere."""
    import trimesh

    from threedistill.ops.rasterize import rasterize

    assert mesh.uv is not None
    labels = trimesh.graph.connected_component_labels(
        trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).edges_unique,
        len(mesh.vertices),
    )
    clip = torch.cat([mesh.uv * 2 - 1, torch.zeros(len(mesh.uv), 1), torch.ones(len(mesh.uv), 1)], 1)
    triangle = rasterize(clip[None], mesh.faces, size, size).triangle[0].long()
    chart = torch.full((size, size), -1)
    chart[covered] = torch.from_numpy(labels)[mesh.faces[triangle[covered], 0]].long()
    return chart


def test_the_same_mesh_gets_the_same_atlas() -> None:
    mesh = decimate(ball_with_bands().extract(48), 1500)
    for budget in (30_000, 10):
        first, second = (unwrap(mesh, 256, max_faces=budget) for _ in range(2))
        assert torch.equal(first.mesh.faces, second.mesh.faces)
        assert first.mesh.uv is not None and second.mesh.uv is not None
        assert torch.equal(first.mesh.uv, second.mesh.uv)


def test_ragged_surfaces_are_unwrapped_within_bounds() -> None:
    """White noise has thousands of pieces: neither budget lets it reach xatlas, and it still gets its atlas."""
    noise = torch.rand(18, 18, 18, generator=torch.Generator().manual_seed(0))
    solid = Solid(lambda p: 0.5 - noise, lambda p, n: p)
    found = unwrap(solid.extract(18), 256)
    assert found.method == "box projection" and found.charts > 2000
    assert found.mesh.uv is not None and 0 <= float(found.mesh.uv.min()) <= float(found.mesh.uv.max()) <= 1


def test_baked_colours_are_those_of_the_field() -> None:
    """Texture lookups at random surface points against the field itself."""
    object_ = ball_with_bands()
    asset = build_asset(object_, ExportSettings(resolution=64, faces=4000, texture_size=512))
    assert asset.texture is not None and asset.uv is not None
    scale = 1.4 / 1.0  # the ball of diameter 1.4 was brought to 1 m
    generator = torch.Generator().manual_seed(1)
    face = torch.randint(len(asset.faces), (2000,), generator=generator)
    weights = torch.distributions.Dirichlet(torch.ones(3)).sample((2000,))
    corner = asset.faces[face]
    points = (asset.vertices[corner] * weights[..., None]).sum(1) * scale
    uv = (asset.uv[corner] * weights[..., None]).sum(1)
    found = bilinear(asset.texture, uv)
    expected = object_.surface_color(points, points)
    error = (found - expected).abs().amax(1)
    assert error.quantile(0.99) < 0.02 and error.max() < 0.08


def bilinear(texture: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Texture lookups written out: origin bottom left, texel centres at half integers, clamped."""
    height, width, _ = texture.shape
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    x0, y0 = x.floor(), y.floor()
    total = torch.zeros(len(uv), 3)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = (1 - (x - x0 - dx).abs()) * (1 - (y - y0 - dy).abs())
            column = (x0 + dx).clamp(0, width - 1).long()
            total += weight[:, None] * texture[(y0 + dy).clamp(0, height - 1).long(), column]
    return total


@pytest.mark.parametrize("gutter", [2, 6])
def test_no_background_within_the_gutter_nor_at_any_mip_level(gutter: int) -> None:
    """Painted texels are bright; a background texel would be black and would darken the averages."""
    covered = torch.zeros(64, 64, dtype=torch.bool)
    covered[10:20, 12:30] = True
    covered[40:41, 50:51] = True
    texture = torch.zeros(64, 64, 3)
    texture[covered] = 0.9
    filled = fill_gutter(texture, covered, gutter)
    assert torch.equal(filled[covered], texture[covered])
    level = filled.permute(2, 0, 1)[None]
    while level.shape[-1] > 1:
        assert level.min() > 0.899
        level = torch.nn.functional.avg_pool2d(level, 2)


def test_the_gutter_continues_the_nearest_chart() -> None:
    covered = torch.zeros(32, 32, dtype=torch.bool)
    covered[:, :10] = covered[:, 22:] = True
    texture = torch.zeros(32, 32, 3)
    texture[:, :10, 0] = 1
    texture[:, 22:, 2] = 1
    filled = fill_gutter(texture, covered, 4)
    assert torch.equal(filled[:, 10:14], texture[:, 9:10].expand(-1, 4, -1))
    assert torch.equal(filled[:, 18:22], texture[:, 22:23].expand(-1, 4, -1))


def test_every_side_of_a_cube_has_its_colour_over_its_area(cube_asset: Mesh) -> None:
    from tests.exports.objects import SIDES

    assert cube_asset.texture is not None and cube_asset.uv is not None and cube_asset.normals is not None
    corners = cube_asset.vertices[cube_asset.faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = (normal / normal.norm(dim=1, keepdim=True)).abs().amax(1) > 0.999
    inner = flat & (corners.abs().sort(-1).values[:, :, :2].amax((1, 2)) < 0.42)  # away from the edges
    axis = normal.abs().argmax(1)
    side = axis * 2 + (normal.gather(1, axis[:, None])[:, 0] < 0)
    found = bilinear(cube_asset.texture, cube_asset.uv[cube_asset.faces[inner]].mean(1))
    assert set(side[inner].tolist()) == set(range(6))
    assert (found - SIDES[side[inner]]).abs().max() < 0.01


def test_a_field_that_answers_nan_is_refused() -> None:
    mesh = decimate(cube().extract(32), 500)
    found = unwrap(mesh, 64).mesh
    with pytest.raises(ThreedistillError, match="colours that are not finite"):
        bake(found, lambda p, n: p / 0, 64)
    with pytest.raises(ValueError, match="unwrap it first"):
        bake(mesh, lambda p, n: p, 64)


def test_single_triangles_unwrap_and_bake() -> None:
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    mesh.normals = vertex_normals(mesh.vertices, mesh.faces)
    for budget in (30_000, 0):
        baked, texels = bake(
            unwrap(mesh, 64, max_faces=budget).mesh, lambda p, n: torch.full_like(p, 0.4), 64
        )
        assert texels.covered.any() and baked.texture is not None
        assert baked.texture == pytest.approx(torch.full((64, 64, 3), 0.4), abs=1e-6)
    flat = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ThreedistillError, match="covers no texel"):
        bake(unwrap(flat, 64).mesh, lambda p, n: p, 64)


def test_box_is_used_in_objects() -> None:
    """The oracle's own distance: exact outside a box, by hand."""
    assert box(torch.tensor([2.0, 0.0, 0.0]), (0, 0, 0), (0.5, 0.5, 0.5)) == 1.5
