"""What other programs make of a scene is read as the scene: gltfpack, glTF-Transform, trimesh, Blender."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.exports.gltf_files import CORNERS, QUAD_UV, File, four, png
from tests.exports.test_gltf_atlas import checker
from tests.node_tools import node_modules, run_node
from threedistill.cameras import orbit
from threedistill.exports.appearance.joined import Joined
from threedistill.exports.gltf.read import read_gltf
from threedistill.render.mesh import render_mesh, sample_texture
from threedistill.render.shading import linear_to_srgb
from threedistill.types import Mesh


def scene(path: Path) -> Path:
    """A ball of vertex colours, plain boxes (one mirrored, one small), a tiled picture, a tinted one with holes."""
    file = File()
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    colors = np.clip((ball.vertices + 0.6) / 1.2, 0, 1)
    attributes = {
        "POSITION": file.array(ball.vertices), "NORMAL": file.array(ball.vertices / 0.6), "COLOR_0": file.array(colors),
    }  # fmt: skip
    ball_primitive = {"attributes": attributes, "indices": file.array(ball.faces.reshape(-1), "u2")}
    ball_primitive["material"] = file.add("materials", {"pbrMetallicRoughness": {"metallicFactor": 0}})
    file.show(ball_primitive, translation=[0, 1, 0])
    box = trimesh.creation.box((0.5, 0.8, 0.3))
    shape = {"attributes": {"POSITION": file.array(box.vertices[box.faces].reshape(-1, 3)),
                            "NORMAL": file.array(box.face_normals.repeat(3, 0))}}  # fmt: skip
    plain = {"baseColorFactor": [0.8, 0.1, 0.1, 1], "metallicFactor": 0, "roughnessFactor": 0.5}
    shape["material"] = file.add("materials", {"pbrMetallicRoughness": plain})
    first = file.show(shape, translation=[-1.5, 0, 0], rotation=[0, 0.38268343, 0, 0.92387953])
    mesh = file.document["nodes"][first]["mesh"]
    for more in (
        {"translation": [1.5, 0, 0], "scale": [-1, 1.5, 1]},
        {"translation": [0, 0, 1.5], "scale": [0.5] * 3},
    ):
        file.document["scenes"][0]["nodes"].append(file.add("nodes", {"mesh": mesh, **more}))
    normal = file.array([[0, 0, 1]] * 4)
    tiled = {"baseColorTexture": {"index": file.texture(png(four()))}, "metallicFactor": 0}
    file.show(
        file.quad({"pbrMetallicRoughness": tiled}, uv=QUAD_UV * 2, NORMAL=normal), translation=[0, 0, -1.5]
    )
    tinted = {"baseColorTexture": {"index": file.texture(png(checker(4, 16)))}, "metallicFactor": 0,
              "baseColorFactor": [0.2, 0.5, 1, 1]}  # fmt: skip
    quad = file.quad(
        {"pbrMetallicRoughness": tinted, "doubleSided": True}, corners=CORNERS * 0.7, NORMAL=normal
    )
    file.show(quad, translation=[0, -0.8, 0], rotation=[-0.70710678, 0, 0, 0.70710678])
    return file.write(path)


def pictures(mesh: Mesh) -> torch.Tensor:
    """From all around and from below, at one size whatever the mesh's own."""
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    mesh.vertices = (mesh.vertices - (low + high) / 2) / (high - low).max()
    views = [orbit(5, elevation=e, size=96, distance=2.2) for e in (-25.0, 35.0)]
    return torch.cat([render_mesh(mesh, cameras).rgb for cameras in views])


def assert_same(found: Joined, right: Joined, share: float, tolerance: float = 0.03) -> None:
    """Bounds, number of triangles, and pictures that differ at ``share`` of their pixels at most."""
    box = [torch.cat([m.mesh.vertices.amin(0), m.mesh.vertices.amax(0)]) for m in (found, right)]
    assert torch.allclose(box[0], box[1], atol=2e-3), box
    assert len(found.mesh.faces) == len(right.mesh.faces)
    assert found.lost == right.lost and found.unlit == right.unlit
    a, b = pictures(found.mesh), pictures(right.mesh)
    assert ((a - b).abs().amax(-1) > tolerance).float().mean() < share


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene(tmp_path_factory.mktemp("gltf") / "scene.glb")


@pytest.fixture(scope="module")
def gltfpack() -> Callable[..., None]:
    modules = node_modules("gltfpack", "1.3.0")

    def run(*words: str | Path) -> None:
        done = run_node(str(modules / "gltfpack" / "cli.js"), *map(str, words), modules=modules)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def gltf_transform() -> Callable[..., None]:
    modules = node_modules("@gltf-transform/cli", "4.5.1")

    def run(*words: str | Path) -> None:
        program = modules / "@gltf-transform" / "cli" / "bin" / "cli.js"
        done = run_node(str(program), *map(str, words), modules=modules)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def some(now: str, later: str) -> list:
    """Cases of which the later ones only run by name: each starts node."""
    marked = [pytest.param(words.strip(), marks=pytest.mark.slow) for words in later.split(",")]
    return [words.strip() for words in now.split(",")] + marked


@pytest.mark.parametrize(
    "options",
    some(",-mi -kn,-cc,-c -ce khr", "-noq,-vpn,-vpf -vtf -vnf,-vi,-c,-cc -ce khr -vc 12,-cf -vp 16"),
)
def test_gltfpack(options: str, source: Path, gltfpack: Callable[..., None], tmp_path: Path) -> None:
    """Quantised, instanced, compressed with both names of meshopt's extension and with a fallback."""
    gltfpack("-i", source, "-o", tmp_path / "packed.glb", *options.split())
    # Colours and coordinates have 8 and 12 bits then; edges move by a pixel.
    assert_same(read_gltf(tmp_path / "packed.glb"), read_gltf(source), 0.01)


@pytest.mark.parametrize(
    "command",
    some(
        "quantize,meshopt,draco,webp,instance --min 2,sparse",
        "copy,meshopt --level high,draco --method sequential,avif,dedup,join,weld,reorder,flatten,unlit,"
        "palette --min 1",
    ),
)
def test_gltf_transform(
    command: str, source: Path, gltf_transform: Callable[..., None], tmp_path: Path
) -> None:
    name, *options = command.split()
    gltf_transform(name, source, tmp_path / "made.glb", *options)
    right = read_gltf(source)
    right.unlit = name == "unlit"
    lossy = name in ("webp", "avif")
    assert_same(read_gltf(tmp_path / "made.glb"), right, 0.02 if lossy else 0.01, 0.1 if lossy else 0.03)


def test_a_gltf_with_its_files_beside_it(
    source: Path, gltf_transform: Callable[..., None], tmp_path: Path
) -> None:
    gltf_transform("copy", source, tmp_path / "made.gltf")
    assert {p.suffix for p in tmp_path.iterdir()} == {".gltf", ".bin", ".png"}
    assert_same(read_gltf(tmp_path / "made.gltf"), read_gltf(source), 0.001)


def test_trimesh(tmp_path: Path) -> None:
    """A scene with turned, mirrored and repeated parts, vertex colours and a picture, as trimesh writes it."""
    from PIL import Image
    from trimesh.transformations import rotation_matrix, scale_matrix, translation_matrix
    from trimesh.visual import ColorVisuals, TextureVisuals
    from trimesh.visual.material import PBRMaterial

    ball = trimesh.creation.icosphere(subdivisions=2)
    colors = np.full((len(ball.vertices), 4), 255, np.uint8)
    colors[:, 0] = 51  # trimesh stores bytes, which glTF defines as linear
    ball.visual = ColorVisuals(ball, vertex_colors=colors)
    quad = trimesh.Trimesh(CORNERS, [[0, 1, 2], [0, 2, 3]], process=False)
    material = PBRMaterial(baseColorTexture=Image.fromarray(four()), metallicFactor=0.25, roughnessFactor=0.5)
    quad.visual = TextureVisuals(QUAD_UV * [1, -1] + [0, 1], material)
    shown = trimesh.Scene()
    shown.add_geometry(ball, "ball", geom_name="ball", transform=translation_matrix([0, 0, 5]))
    shown.graph.update("again", geometry="ball", matrix=translation_matrix([4, 0, 0]) @ scale_matrix(-0.5))
    shown.add_geometry(quad, transform=rotation_matrix(np.pi / 2, [0, 1, 0], [9, 0, 0]))
    shown.export(tmp_path / "trimesh.glb")
    mesh = read_gltf(tmp_path / "trimesh.glb").mesh
    bounds = torch.from_numpy(shown.bounds).float()
    assert torch.allclose(torch.stack([mesh.vertices.amin(0), mesh.vertices.amax(0)]), bounds, atol=1e-5)
    balls = mesh.faces[(mesh.vertices[:, 0] < 8.9)[mesh.faces].all(1)]
    volume = trimesh.Trimesh(mesh.vertices.numpy(), balls.numpy(), process=False).volume
    assert volume == pytest.approx(ball.volume * 1.125, rel=1e-3)  # the mirrored one is not inside out
    assert mesh.texture is not None and mesh.uv is not None and mesh.metallic_roughness is not None
    color = sample_texture(mesh.texture, mesh.uv, mesh.wrap)
    linear = torch.tensor([0.2, 1, 1])
    assert torch.allclose(
        color[(mesh.vertices[:, 2] > 3.5) & (mesh.vertices[:, 2] < 7)], linear_to_srgb(linear), atol=3e-3
    )
    flat = mesh.vertices[:, 0] > 8.9
    metal = sample_texture(mesh.metallic_roughness, mesh.uv[flat], mesh.wrap)
    assert torch.allclose(metal, torch.tensor([0.25, 0.5]), atol=3e-3)
    corner = flat & (mesh.vertices[:, 1] > 0.9) & (mesh.vertices[:, 2] > 9.9)
    inside = mesh.uv[corner] * 0.8 + mesh.uv[flat].mean(0) * 0.2
    top_left = sample_texture(mesh.texture, inside, mesh.wrap)  # as seen from +X
    assert torch.allclose(top_left, torch.tensor([1.0, 0, 0]), atol=0.01)


BLENDER = """
import sys, bpy
source, target = sys.argv[-2:]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=source)
bpy.ops.export_scene.gltf(filepath=target, export_format="GLB", export_vertex_color="MATERIAL")
"""


@pytest.mark.slow
def test_blender(source: Path, tmp_path: Path) -> None:
    """Blender's importer and exporter in a row."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", BLENDER, str(source), str(tmp_path / "again.glb")],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    except OSError as error:
        pytest.skip(f"no Python: {error}")
    if "No module named 'bpy'" in done.stderr:
        pytest.skip("Blender is not here: pip install bpy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(read_gltf(tmp_path / "again.glb"), read_gltf(source), 0.02)
