"""Normal maps, metalness and roughness: what is baked, what the files say, what another renderer makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from tests.exports.gltf_files import floats_in, pictures_in, taken_apart
from tests.exports.objects import Solid, ball_with_bands
from threedistill.cameras import orbit
from threedistill.exports.asset import ExportSettings, build_asset, write_mesh
from threedistill.exports.meshes.nearest import MeshField, NearestSurface
from threedistill.exports.meshes.normal_map import bake_normals, shading_normals, vertex_tangents
from threedistill.exports.meshes.unwrap import unwrap
from threedistill.exports.read import read_mesh
from threedistill.types import Mesh

LIT = ExportSettings(
    resolution=96, faces=500, texture_size=256, smooth_iterations=0, unlit=False, normal_map=True
)


class Metal(Solid):
    """Metallic where x > 0, rougher towards the top."""

    def surface_material(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        return torch.stack([(points[:, 0] > 0).float(), ((points[:, 1] + 1) / 2).clamp(0, 1)], 1)


def metal_ball() -> Metal:
    ball = ball_with_bands()
    return Metal(ball.distance, ball.color)


@pytest.fixture(scope="module")
def ball() -> Mesh:
    """A sphere of 500 faces with the relief of its 96^3 self, and a material."""
    return build_asset(metal_ball(), LIT, {"prompt": "a ball"})


def points_on(mesh: Mesh, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    face = torch.randint(len(mesh.faces), (count,), generator=generator)
    weights = torch.rand(count, 3, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    return face, weights, (mesh.vertices[mesh.faces[face]] * weights[..., None]).sum(1)


def test_the_normal_map_restores_what_decimation_took(ball: Mesh) -> None:
    """A sphere's normals are its directions: with the map they are several times nearer to them than without."""
    assert ball.normal_map is not None and ball.normals is not None
    face, weights, points = points_on(ball, 4000)
    truth = torch.nn.functional.normalize(points, dim=1)

    def degrees(normals: torch.Tensor) -> torch.Tensor:
        return torch.rad2deg(torch.acos((normals * truth).sum(1).clamp(-1, 1)))

    corner = ball.faces[face]
    flat = torch.nn.functional.normalize(torch.linalg.cross(
        ball.vertices[corner[:, 1]] - ball.vertices[corner[:, 0]],
        ball.vertices[corner[:, 2]] - ball.vertices[corner[:, 0]]), dim=1)  # fmt: skip
    plain = torch.nn.functional.normalize((ball.normals[corner] * weights[..., None]).sum(1), dim=1)
    mapped = degrees(shading_normals(ball, face, weights))
    assert mapped.mean() < 0.5 * degrees(plain).mean() and mapped.mean() < 0.2 * degrees(flat).mean()
    assert mapped.quantile(0.99) < 2.5
    length = (ball.normal_map * 2 - 1).norm(dim=2)
    assert (length - 1).abs().quantile(0.9) < 0.02 and ball.normal_map[..., 2].min() > 0.5


def test_relief_points_the_right_way() -> None:
    """Ridges along y on a wide slab: a flat quad with their map is shaded like them, not like their reflection."""
    x = torch.linspace(-1, 1, 201)
    y = torch.linspace(-1, 1, 5)
    grid = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    height = 0.05 * torch.sin(6 * grid[:, 0]) + 0.02 * grid[:, 1]
    corner = (torch.arange(200)[:, None] * 5 + torch.arange(4)).reshape(-1)
    fine = Mesh(
        torch.cat([grid, height[:, None]], 1),
        torch.cat(
            [
                torch.stack([corner, corner + 5, corner + 6], 1),
                torch.stack([corner, corner + 6, corner + 1], 1),
            ]
        ),
    )
    quad = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    for turn in (0, 1, 5):  # as it is, turned by a quarter, mirrored
        uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).roll(turn, 0)
        uv = uv.flip(1) if turn >= 4 else uv
        flat = Mesh(
            quad,
            torch.tensor([[0, 1, 2], [0, 2, 3]]),
            normals=torch.tensor([[0.0, 0, 1]]).expand(4, 3),
            uv=uv,
        )
        baked = bake_normals(flat, NearestSurface(fine).shading, 128)
        assert (vertex_tangents(flat)[:, 3] == (-1 if turn >= 4 else 1)).all()
        face, weights, points = points_on(flat, 500)
        slope = 0.3 * torch.cos(6 * points[:, 0])
        truth = torch.nn.functional.normalize(
            torch.stack([-slope, torch.full_like(slope, -0.02), torch.ones_like(slope)], 1), dim=1
        )
        assert (shading_normals(baked, face, weights) - truth).abs().quantile(0.98) < 0.02, turn


#: A quad seen from +z with its picture upright, turned by a quarter, and mirrored.
LAYOUTS = [
    [[0.0, 0], [1, 0], [1, 1], [0, 1]],
    [[0.0, 1], [0, 0], [1, 0], [1, 1]],
    [[1.0, 0], [0, 0], [0, 1], [1, 1]],
]


@pytest.mark.parametrize("uv", LAYOUTS)
def test_a_normal_map_means_what_gltf_says(uv: list, tmp_path: Path) -> None:
    """Decoded without us: ``n = T (2 r - 1) + B (2 g - 1) + N (2 b - 1)``, ``B = w cross(N, T)``, +Y up in the picture.

    Source: glTF 2.0, sections 3.7.2.1 (TANGENT) and 3.9.3 (normalTexture).
    """
    slope = torch.tensor([0.3, 0.2])
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    fine = Mesh(torch.cat([2 * corners, 2 * corners @ slope[:, None]], 1), faces)
    truth = torch.nn.functional.normalize(torch.tensor([-0.3, -0.2, 1.0]), dim=0)
    flat = Mesh(
        torch.cat([corners, torch.zeros(4, 1)], 1), faces,
        normals=torch.tensor([[0.0, 0, 1]]).expand(4, 3), uv=torch.tensor(uv), texture=torch.ones(4, 4, 3),
    )  # fmt: skip
    baked = bake_normals(flat, NearestSurface(fine).shading, 16)
    write_mesh(baked, tmp_path / "m.glb", LIT)
    document, binary = taken_apart(tmp_path / "m.glb")
    normal, tangent = (floats_in(document, binary, name) for name in ("NORMAL", "TANGENT"))
    bitangent = np.cross(normal, tangent[:, :3]) * tangent[:, 3:]
    texture = document["textures"][document["materials"][0]["normalTexture"]["index"]]
    picture = pictures_in(document, binary)[texture["source"]].convert("RGB")
    red, green, blue = np.asarray(picture, dtype=float)[8, 8] / 255 * 2 - 1  # the same everywhere
    seen = tangent[:, :3] * red + bitangent * green + normal * blue
    assert np.abs(seen - truth.numpy()).max() < 0.01
    if uv == LAYOUTS[0]:  # what faces left and down is dark in red and green
        assert [red, green, blue] == pytest.approx(truth.tolist(), abs=0.01)
    # Up in the picture is where the file's v falls: from there and from the corners alone, without TANGENT.
    where, place = floats_in(document, binary, "TEXCOORD_0"), floats_in(document, binary, "POSITION")
    along = np.linalg.lstsq(where - where[0], place - place[0], rcond=None)[0]
    assert np.abs(bitangent + along[1] / np.linalg.norm(along[1])).max() < 1e-6
    painted = replace(
        flat, normal_map=((torch.tensor([0.6, 0.48, 0.64]) + 1) / 2).expand(4, 4, 3).contiguous()
    )
    weights = torch.full((1, 3), 1 / 3)
    expected = tangent[0, :3] * 0.6 + bitangent[0] * 0.48 + normal[0] * 0.64
    found = shading_normals(painted, torch.tensor([0]), weights)[0].numpy()
    assert np.abs(found - expected).max() < 1e-5


def test_tangents_are_unit_orthogonal_and_along_u(ball: Mesh) -> None:
    tangents = vertex_tangents(ball)
    assert ball.normals is not None and ball.uv is not None
    assert (tangents[:, :3].norm(dim=1) - 1).abs().max() < 1e-5 and set(tangents[:, 3].tolist()) <= {
        -1.0,
        1.0,
    }
    assert (tangents[:, :3] * ball.normals).sum(1).abs().max() < 1e-5
    # Finite differences: a step in u within a face moves along the tangent.
    points, uv = ball.vertices[ball.faces].double(), ball.uv[ball.faces].double()
    edges = torch.stack([uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], 1)
    along_u = torch.linalg.solve(
        edges, torch.stack([points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]], 1)
    )[:, 0]
    cosine = torch.nn.functional.cosine_similarity(along_u, tangents[ball.faces[:, 0], :3].double(), dim=1)
    assert cosine.median() > 0.98 and cosine.quantile(0.02) > 0.8


def test_materials_are_baked_where_they_are(ball: Mesh) -> None:
    assert ball.metallic_roughness is not None and ball.uv is not None
    centre = ball.vertices[ball.faces].mean(1)
    uv = ball.uv[ball.faces].mean(1)
    size = ball.metallic_roughness.shape[0]
    row, column = (
        ((1 - uv[:, 1]) * size).long().clamp(0, size - 1),
        (uv[:, 0] * size).long().clamp(0, size - 1),
    )
    found = ball.metallic_roughness[row, column]
    away = centre[:, 0].abs() > 0.05
    assert torch.equal(found[away, 0], (centre[away, 0] > 0).float())
    assert (found[:, 1] - (centre[:, 1] * 1.4 + 1) / 2).abs().max() < 0.03


@pytest.mark.parametrize("maps", ["all", "normal", "material"])
def test_the_official_validator_finds_nothing_in_materials(
    maps: str, ball: Mesh, tmp_path: Path, validate: Callable[[Path], dict]
) -> None:
    mesh = replace(ball, metallic_roughness=None if maps == "normal" else ball.metallic_roughness)
    mesh = replace(mesh, normal_map=None if maps == "material" else ball.normal_map)
    write_mesh(mesh, tmp_path / "m.glb", LIT)
    report = validate(tmp_path / "m.glb")
    assert report["issues"]["messages"] == []
    assert report["info"]["hasTextures"]
    document, _ = taken_apart(tmp_path / "m.glb")
    material = document["materials"][0]
    assert ("normalTexture" in material) == (maps != "material")
    assert ("TANGENT" in document["meshes"][0]["primitives"][0]["attributes"]) == (maps != "material")
    assert material["pbrMetallicRoughness"]["metallicFactor"] == (0 if maps == "normal" else 1)


def test_a_glb_comes_back_with_its_maps(ball: Mesh, tmp_path: Path) -> None:
    write_mesh(ball, tmp_path / "m.glb", LIT)
    seen = next(iter(trimesh.load_scene(tmp_path / "m.glb").geometry.values())).visual.material
    packed = np.asarray(seen.metallicRoughnessTexture.convert("RGB"), dtype=np.float32) / 255
    assert ball.metallic_roughness is not None and ball.normal_map is not None and ball.texture is not None
    assert np.abs(packed[..., 2] - ball.metallic_roughness[..., 0].numpy()).max() < 0.003  # metal is blue
    assert (
        np.abs(packed[..., 1] - ball.metallic_roughness[..., 1].numpy()).max() < 0.003
    )  # roughness is green
    again = read_mesh(tmp_path / "m.glb")
    for name in ("texture", "normal_map", "metallic_roughness"):
        found, expected = getattr(again, name), getattr(ball, name)
        assert found is not None and (found - expected).abs().max() < 0.51 / 255 + 1e-6, name


def test_obj_has_the_pbr_keys(ball: Mesh, tmp_path: Path) -> None:
    write_mesh(ball, tmp_path / "m.obj", LIT)
    lines = (tmp_path / "m.mtl").read_text().splitlines()
    assert {"map_Kd m.png", "map_Pm m_metallic.png", "map_Pr m_roughness.png", "norm m_normal.png"} <= set(
        lines
    )
    assert {p.name for p in tmp_path.iterdir()} == {
        "m.obj", "m.mtl", "m.png", "m_metallic.png", "m_roughness.png", "m_normal.png",
    }  # fmt: skip
    assert ball.metallic_roughness is not None
    with Image.open(tmp_path / "m_roughness.png") as picture:
        grey = np.asarray(picture.convert("L"), dtype=np.float32) / 255
    assert np.abs(grey - ball.metallic_roughness[..., 1].numpy()).max() < 0.003
    mesh = trimesh.load_scene(tmp_path / "m.obj").to_mesh()
    assert mesh.is_winding_consistent and mesh.volume > 0 and len(mesh.faces) == len(ball.faces)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(((a - b) ** 2).mean()))


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_another_library_sees_the_same_pictures(suffix: str, ball: Mesh, tmp_path: Path) -> None:
    """Our render of the asset against rays cast by trimesh into the reopened file, its own texture lookups included."""
    pytest.importorskip("rtree", reason="trimesh's ray caster needs rtree")
    from threedistill.render.mesh import render_mesh

    write_mesh(ball, tmp_path / f"m.{suffix}", LIT)
    cameras = orbit(2, elevation=20.0, size=48)
    ours = render_mesh(replace(ball, colors=None), cameras, supersample=1).rgb.numpy()
    loaded = trimesh.load_scene(tmp_path / f"m.{suffix}").to_mesh()
    origins, directions = (v.reshape(-1, 3).double().numpy() for v in cameras.rays())
    place, ray, face = loaded.ray.intersects_location(origins, directions, multiple_hits=False)
    triangles = loaded.triangles[face]
    barycentric = trimesh.triangles.points_to_barycentric(triangles, place)
    uv = (loaded.visual.uv[loaded.faces[face]] * barycentric[..., None]).sum(1)
    colors = (
        loaded.visual.material.to_color(uv) if suffix == "obj" else loaded.visual.material.baseColorTexture
    )
    if suffix == "glb":
        colors = trimesh.visual.color.uv_to_interpolated_color(uv, colors)
    theirs = np.ones((len(origins), 3))
    theirs[ray] = colors[:, :3] / 255
    assert 0.1 < len(ray) / len(origins) < 0.9
    assert psnr(ours.reshape(-1, 3), theirs) > 28


def test_nearest_points_are_the_nearest() -> None:
    """Against every triangle, by brute force with another formula (dense sampling of each triangle)."""
    mesh = ball_with_bands().extract(12)
    generator = torch.Generator().manual_seed(2)
    points = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator), dim=1) * (
        0.4 + 0.6 * torch.rand(60, 1, generator=generator)
    )
    face, weights = NearestSurface(mesh, samples=4000).at(points)
    assert weights.min() >= -1e-12 and (weights.sum(1) - 1).abs().max() < 1e-9
    found = (mesh.vertices[mesh.faces[face]].double() * weights[..., None]).sum(1)
    steps = torch.linspace(0, 1, 21, dtype=torch.float64)
    u, v = (g.reshape(-1) for g in torch.meshgrid(steps, steps, indexing="ij"))
    u, v = u[u + v <= 1], v[u + v <= 1]
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    everywhere = (a[:, None] + u[:, None] * (b - a)[:, None] + v[:, None] * (c - a)[:, None]).reshape(-1, 3)
    best = torch.cdist(points.double(), everywhere).amin(1)
    assert ((found - points.double()).norm(dim=1) <= best + 1e-9).all()


def test_a_users_layout_is_kept() -> None:
    """A mesh that comes with texture coordinates is baked through them; a useless layout is replaced."""
    mesh = ball_with_bands().extract(24)
    own = unwrap(mesh, 128, max_faces=10).mesh  # some layout, with seams
    own.colors = (own.vertices + 1) / 2
    settings = ExportSettings(texture_size=128, smooth_iterations=0, faces=100_000)
    asset = build_asset(MeshField(own), settings)
    assert asset.extras["texture layout"] == "own" and asset.uv is not None and own.uv is not None
    assert torch.equal(asset.uv, own.uv) and torch.equal(asset.faces, own.faces)
    from threedistill.render.mesh import sample_texture

    assert asset.texture is not None
    centre = asset.uv[asset.faces].mean(1)
    expected = own.colors[own.faces].mean(1)
    assert (sample_texture(asset.texture, centre) - expected).abs().quantile(0.95) < 0.03
    for bad in (own.uv * 3, own.uv * 0, own.uv + float("nan")):
        assert unwrap(replace(own, uv=bad), 128).method != "own"
    assert "own" not in str(
        build_asset(MeshField(own), replace(settings, faces=400)).extras["texture layout"]
    )


def test_a_dmtet_with_a_material_becomes_files(tmp_path: Path, validate: Callable[[Path], dict]) -> None:
    """Metallic below, rough: the same in GLB, OBJ and USDZ, and in another library's hands."""
    from threedistill.representations.dmtet import DMTet
    from threedistill.representations.hashfield import HashSettings

    torch.manual_seed(0)
    small = HashSettings(levels=3, log2_entries=10, start_levels=2, finest_resolution=16)
    field = DMTet(resolution=14, material="pbr", color=small, shape=small, reflectance=small)
    assert field.reflectance is not None
    points = torch.nn.functional.normalize(torch.randn(4000, 3), dim=1) * 0.5
    wanted = torch.stack([torch.where(points[:, 1] < 0, 2.0, -1.0), torch.full((4000,), 1.0)], 1)
    field.reflectance.fit(points, wanted, 0.01, torch.Generator().manual_seed(0), steps=100, batch=1024)
    asset = build_asset(field, replace(LIT, resolution=14, texture_size=128, normal_map=False))
    assert asset.metallic_roughness is not None
    for suffix in ("glb", "obj", "usdz"):
        write_mesh(asset, tmp_path / f"m.{suffix}", LIT)
    report = validate(tmp_path / "m.glb")
    assert report["issues"]["numErrors"] == report["issues"]["numWarnings"] == 0
    assert report["issues"]["messages"] == []
    seen = next(iter(trimesh.load_scene(tmp_path / "m.glb").geometry.values()))
    picture = np.asarray(seen.visual.material.metallicRoughnessTexture.convert("RGB"), dtype=np.float32) / 255
    found = trimesh.visual.color.uv_to_interpolated_color(
        seen.visual.uv, seen.visual.material.metallicRoughnessTexture.convert("RGB")
    )
    below, above = seen.vertices[:, 1] < -0.15, seen.vertices[:, 1] > 0.15
    # The field's own start is added: sigmoid(2 - 3) and sigmoid(-1 - 3), 0.1 + 0.9 sigmoid(1.5).
    assert found[below, 2].mean() / 255 == pytest.approx(0.269, abs=0.03)
    assert found[above, 2].mean() / 255 == pytest.approx(0.018, abs=0.03)
    assert picture[..., 1].mean() == pytest.approx(0.836, abs=0.03)
    keys = (tmp_path / "m.mtl").read_text()
    assert "map_Pm m_metallic.png" in keys and "map_Pr m_roughness.png" in keys
    lit = read_mesh(tmp_path / "m.glb")
    from threedistill.render.mesh import render_mesh

    views = orbit(2, size=32)
    assert lit.metallic_roughness is not None
    glossy, dull = (
        render_mesh(mesh, views, shading="lambertian").rgb
        for mesh in (lit, replace(lit, metallic_roughness=None))
    )
    assert float((glossy - dull).abs().max()) > 0.02
