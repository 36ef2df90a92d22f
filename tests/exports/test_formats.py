"""Every format read back: hand, up, size, colours where they belong, and bytes that depend on the input only."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.exports.conftest import EXTRAS
from tests.exports.gltf_files import floats_in, taken_apart
from tests.exports.objects import SIDES, inside_f
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.asset import ExportSettings, export_asset, write_mesh
from threedistill.exports.formats import of_kind
from threedistill.exports.meshes.surface import unused_removed
from threedistill.exports.read import read_mesh
from threedistill.render.mesh import sample_texture
from threedistill.types import Mesh

COLORED = ("glb", "obj", "ply")


def untextured(mesh: Mesh) -> Mesh:
    return replace(mesh, uv=None, texture=None)


def in_field_frame(points: np.ndarray) -> torch.Tensor:
    """Points of a reopened F (longest side 1, centred) back where the F was defined.

    The F spans x in [-0.42, 0.45], y in [-0.7, 0.7], z in [-0.12, 0.4].
    """
    return torch.from_numpy(points).float() * 1.4 + torch.tensor([0.015, 0.0, 0.14])


#: On rows: (x, y, z) -> (x, z, -y), from a file whose +Z points up.
Z_UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])


def assert_reads_as_f(mesh: trimesh.Trimesh) -> None:
    """The interior is where the F's is, and where none of its reflections and half turns would be."""
    generator = np.random.default_rng(0)
    points = generator.uniform(mesh.bounds[0] - 0.05, mesh.bounds[1] + 0.05, (1000, 3))
    inside = winding(mesh, points)

    def agreement(flip: tuple[int, int, int]) -> float:
        return float((inside == inside_f(in_field_frame(points * np.array(flip))).numpy()).mean())

    assert agreement((1, 1, 1)) > 0.97
    for flip in [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1), (-1, -1, -1)]:
        assert agreement(flip) < 0.9, flip


def winding(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """Inside by the generalised winding number (solid angles), so that faces turned inside out would show."""
    total = np.zeros(len(points))
    for triangles in np.array_split(mesh.triangles, 8):
        a, b, c = (triangles[None, :, k] - points[:, None] for k in range(3))
        la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
        numerator = (a * np.cross(b, c)).sum(-1)
        dots = [(x * y).sum(-1) for x, y in ((a, b), (b, c), (c, a))]
        solid_angle = 2 * np.arctan2(numerator, la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb)
        total += solid_angle.sum(1)
    return total > 2 * np.pi  # +4 pi inside an outward surface


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_an_f_keeps_its_hand_its_up_and_its_size(suffix: str, f_asset: Mesh, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    write_mesh(f_asset, path)
    mesh = trimesh.load_scene(path, process=False).to_mesh()
    longest = {"stl": 100.0}.get(suffix, 1.0)
    if suffix == "stl":  # slicers take +Z as up
        mesh.vertices = mesh.vertices @ Z_UP
    assert np.allclose(mesh.extents, np.array([0.87, 1.4, 0.52]) / 1.4 * longest, atol=0.02 * longest)
    mesh.apply_scale(1 / longest)
    assert_reads_as_f(mesh)
    if suffix in ("ply", "stl"):
        assert trimesh.load_mesh(path).is_watertight  # seams are closed where the format has no texture


@pytest.mark.parametrize("suffix", COLORED)
def test_normals_come_back_so_that_seams_stay_smooth(suffix: str, f_asset: Mesh, tmp_path: Path) -> None:
    write_mesh(f_asset, tmp_path / f"model.{suffix}")
    mesh = read_mesh(tmp_path / f"model.{suffix}")
    assert mesh.normals is not None and f_asset.normals is not None
    distance, nearest = torch.cdist(mesh.vertices.double(), f_asset.vertices.double()).min(1)
    assert distance.max() < 1e-6
    assert (mesh.normals * f_asset.normals[nearest]).sum(1).min() > 1 - 1e-6


def test_placed_and_mirrored_parts_keep_their_outside(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    assert ball.vertex_normals is not None  # exported with them
    scene = trimesh.Scene()
    scene.add_geometry(
        ball, transform=np.diag([-2.0, 1.0, 1.0, 1.0]) + np.array([[0, 0, 0, 5]] + [[0] * 4] * 3)
    )
    scene.export(tmp_path / "ball.glb", include_normals=True)
    mesh = read_mesh(tmp_path / "ball.glb")
    back = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert back.volume == pytest.approx(2 * ball.volume, rel=1e-4)  # positive: the faces were turned with it
    assert np.allclose(back.bounds, [[3, -1, -1], [7, 1, 1]], atol=1e-5)
    assert mesh.normals is not None
    inward = mesh.vertices - torch.tensor([5.0, 0, 0])
    gradient = torch.nn.functional.normalize(
        inward / torch.tensor([4.0, 1, 1]), dim=1
    )  # of x^2/4 + y^2 + z^2
    assert (mesh.normals * gradient).sum(1).min() > 0.99


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
def test_z_up_files_stand_on_their_feet(suffix: str, f_asset: Mesh, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    write_mesh(f_asset, path, ExportSettings(up="z", stl_size=1000))
    mesh = trimesh.load_scene(path, process=False).to_mesh()
    if suffix == "stl":
        mesh.apply_scale(1e-3)
    mesh.vertices = mesh.vertices @ Z_UP
    assert_reads_as_f(mesh)


def colours_by_place(mesh: Mesh) -> dict[int, torch.Tensor]:
    """The mean colour a reader sees on each side of the cube, sampled at face centres away from the edges."""
    corners = mesh.vertices[mesh.faces]
    if mesh.texture is not None:
        assert mesh.uv is not None
        uv = mesh.uv[mesh.faces].mean(1)
        height, width, _ = mesh.texture.shape
        column = (uv[:, 0] * width).long().clamp(0, width - 1)
        row = ((1 - uv[:, 1]) * height).long().clamp(0, height - 1)
        colors = mesh.texture[row, column]
    else:
        assert mesh.colors is not None
        colors = mesh.colors[mesh.faces].mean(1)
    centre = corners.mean(1)
    inner = corners.abs().sort(-1).values[:, :, 1].amax(1) < 0.4
    axis = centre.abs().argmax(1)
    side = axis * 2 + (centre.gather(1, axis[:, None])[:, 0] < 0)
    return {s: colors[inner & (side == s)] for s in range(6)}


@pytest.mark.parametrize("suffix", COLORED)
@pytest.mark.parametrize("textured", [True, False])
def test_colours_come_back_where_they_were(
    suffix: str, textured: bool, cube_asset: Mesh, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{suffix}"
    write_mesh(cube_asset if textured else untextured(cube_asset), path)
    mesh = read_mesh(path)
    assert (mesh.texture is not None) == (textured and suffix != "ply")
    for side, colors in colours_by_place(mesh).items():
        assert len(colors) > 3
        # 8 bits: half a step; OBJ text and float glTF are finer.
        assert (colors - SIDES[side]).abs().max() < 0.5 / 255 + 1e-3, f"side {side}"


def test_a_reopened_asset_is_converted_with_its_colours(cube_asset: Mesh, tmp_path: Path) -> None:
    write_mesh(cube_asset, tmp_path / "model.glb")
    reopened = read_mesh(tmp_path / "model.glb")
    assert reopened.colors is None and reopened.texture is not None
    for suffix in COLORED:
        write_mesh(reopened, tmp_path / f"again.{suffix}")
        for side, colors in colours_by_place(read_mesh(tmp_path / f"again.{suffix}")).items():
            assert (colors - SIDES[side]).abs().max() < 1 / 255 + 1e-3, f"{suffix}, side {side}"


def test_gltf_vertex_colours_are_linear(cube_asset: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "model.glb"
    write_mesh(untextured(cube_asset), path)
    document, binary = taken_apart(path)
    stored = floats_in(document, binary, "COLOR_0")
    assert cube_asset.colors is not None
    srgb = cube_asset.colors.double().numpy()
    expected = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    assert np.abs(stored - expected).max() < 1e-6


def test_glb_says_what_it_is(cube_asset: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "a red cube.glb"
    write_mesh(cube_asset, path)
    document, _ = taken_apart(path)
    assert document["asset"]["generator"].startswith("threedistill ")
    assert EXTRAS.items() <= document["asset"]["extras"].items()
    assert document["extensionsUsed"] == ["KHR_materials_unlit"]
    material = document["materials"][0]
    assert material["pbrMetallicRoughness"] | {"baseColorTexture": 0} == {
        "metallicFactor": 0.0, "roughnessFactor": 1.0, "baseColorTexture": 0,
    }  # fmt: skip
    assert document["nodes"][0]["name"] == "a red cube"
    assert {v.get("target") for v in document["bufferViews"]} == {34962, 34963, None}
    write_mesh(cube_asset, path, ExportSettings(unlit=False))
    document, _ = taken_apart(path)
    assert "extensionsUsed" not in document and "extensions" not in document["materials"][0]
    reopened = read_mesh(path)
    assert EXTRAS.items() <= reopened.extras.items()


@pytest.mark.parametrize("kind", ["textured", "vertex colours", "lit", "large", "bare triangle"])
def test_the_official_validator_finds_nothing(
    kind: str, cube_asset: Mesh, tmp_path: Path, validate: Callable[[Path], dict]
) -> None:
    mesh, settings = cube_asset, ExportSettings(unlit=kind != "lit")
    if kind == "vertex colours":
        mesh = untextured(mesh)
    elif kind == "large":  # 32-bit indices
        copies = 65535 // len(mesh.vertices) + 1
        mesh = Mesh(
            torch.cat([mesh.vertices + k for k in range(copies)]),
            torch.cat([mesh.faces + k * len(mesh.vertices) for k in range(copies)]),
        )
        assert len(mesh.vertices) > 65535
    elif kind == "bare triangle":
        mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    path = tmp_path / "model.glb"
    write_mesh(mesh, path, settings)
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
    assert issues["numInfos"] == issues["numHints"] == 0, issues["messages"]


def test_obj_names_its_companions_without_spaces(cube_asset: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "a red cube.obj"
    write_mesh(cube_asset, path)
    assert sorted(os.listdir(tmp_path)) == ["a red cube.obj", "a_red_cube.mtl", "a_red_cube.png"]
    text = path.read_text(encoding="utf-8")
    assert "mtllib a_red_cube.mtl" in text and f"# prompt: {EXTRAS['prompt']}" in text
    material = (tmp_path / "a_red_cube.mtl").read_text()
    assert "map_Kd a_red_cube.png" in material and "illum 0" in material


def test_our_stl_comes_back_in_metres_and_closed(f_asset: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "model.stl"
    write_mesh(f_asset, path)
    assert not path.read_bytes().startswith(b"solid")
    mesh = read_mesh(path)
    extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    assert extent.max() == pytest.approx(0.1, rel=1e-5)
    assert trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).is_watertight
    records = np.frombuffer(path.read_bytes()[84:], [("n", "<f4", 3), ("v", "<f4", (3, 3)), ("s", "<u2")])
    cross = np.cross(records["v"][:, 1] - records["v"][:, 0], records["v"][:, 2] - records["v"][:, 0])
    assert (np.einsum("ij,ij->i", cross, records["n"]) >= 0).all()  # normals agree with the winding


def test_equal_input_gives_equal_bytes(f_asset: Mesh, tmp_path: Path) -> None:
    settings = ExportSettings(formats=of_kind("mesh"), turntable_frames=3, preview_size=32)
    first, second = (export_asset(f_asset, tmp_path / name, settings) for name in "ab")
    assert [p.name for p in first] == [
        "model.glb", "model.obj", "model.ply", "model.stl", "model.usdz", "turntable.webp", "sheet.png",
    ]  # fmt: skip
    assert len(os.listdir(tmp_path / "a")) == 9  # with the OBJ's MTL and PNG, and nothing left over
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert len(second) == len(first)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (suffix, damage)
        for suffix in ("glb", "gltf", "obj", "ply", "stl")
        for damage in ("empty", "garbage", "cut", "lying", "missing", "folder")
        if (suffix, damage) != ("obj", "cut")  # lines without faces: the next test
    ],
)
def test_damaged_files_are_refused_in_one_line(
    suffix: str, damage: str, f_asset: Mesh, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{suffix}"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        other = {"glb": "stl", "gltf": "stl", "obj": "glb", "ply": "glb", "stl": "ply"}[suffix]
        source = tmp_path / f"whole.{suffix if suffix != 'gltf' else 'glb'}"
        if damage == "lying":
            source = tmp_path / f"whole.{other}"
        write_mesh(f_asset, source)
        whole = source.read_bytes()
        contents = {
            "empty": b"",
            "garbage": bytes(range(256)) * 40,
            "cut": whole[: len(whole) // 3],
            "lying": whole,
        }
        path.write_bytes(contents[damage])
    with pytest.raises(ThreedistillError, match="cannot read ") as caught:
        read_mesh(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_files_without_faces_or_with_wrong_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(ThreedistillError, match=r"no triangles|not a sound"):
        read_mesh(path)
    path.write_text("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(ThreedistillError, match="1 of 3 vertices are not finite"):
        read_mesh(path)
    with pytest.raises(ThreedistillError, match="not one of glb gltf obj ply stl"):
        read_mesh(tmp_path / "model.fbx")


def test_several_parts_with_transforms_are_joined(cube_asset: Mesh, tmp_path: Path) -> None:
    from trimesh.visual import ColorVisuals

    scene = trimesh.Scene()
    red = trimesh.creation.box(extents=(0.2, 0.2, 0.2))
    red.visual = ColorVisuals(red, vertex_colors=[[255, 0, 0, 255]] * 8)
    scene.add_geometry(red, transform=trimesh.transformations.translation_matrix([1, 0, 0]))
    write_mesh(cube_asset, tmp_path / "cube.glb")
    scene.add_geometry(next(iter(trimesh.load_scene(tmp_path / "cube.glb").geometry.values())))
    scene.export(tmp_path / "both.glb")
    mesh = read_mesh(tmp_path / "both.glb")
    assert mesh.texture is not None and mesh.uv is not None and mesh.colors is None
    right = mesh.vertices[:, 0] > 0.85
    assert right.sum() == 36  # flat beside a part with normals: each corner has its own
    found = sample_texture(mesh.texture, mesh.uv[right], mesh.wrap)
    assert torch.allclose(found, torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-3)
    left = colours_by_place(unused_removed(mesh, mesh.faces[~right[mesh.faces].any(1)]))
    for side, colors in left.items():
        assert len(colors) > 3 and (colors - SIDES[side]).abs().max() < 0.5 / 255 + 1e-3


def test_wrong_suffixes_and_unwritable_places(f_asset: Mesh, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean \.glb\?"):
        write_mesh(f_asset, tmp_path / "model.gltf")
    with pytest.raises(UsageError, match="written as glb, obj, ply, stl, usdz"):
        write_mesh(f_asset, tmp_path / "model")
    (tmp_path / "file").write_text("")
    for suffix in of_kind("mesh"):
        with pytest.raises(ThreedistillError, match="cannot write") as caught:
            write_mesh(f_asset, tmp_path / "file" / f"model.{suffix}")
        assert "\n" not in str(caught.value)
    with pytest.raises(ThreedistillError, match="the mesh is empty"):
        write_mesh(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)), tmp_path / "model.glb")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file(
    f_asset: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.glb"
    path.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ThreedistillError, match="the disk is full; free some space"):
        write_mesh(f_asset, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.glb"]
