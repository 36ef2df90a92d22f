"""A file's mesh made anew (fewer faces, another texture) keeps what the file said of its surface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.exports.gltf_files import CORNERS, QUAD_UV, File, four, png
from tests.exports.test_gltf_materials import MIDDLES, RED, opened, seen, srgb
from threedistill.cli import main
from threedistill.exports.gltf.read import read_gltf
from threedistill.exports.meshes.normal_map import shading_normals
from threedistill.exports.meshes.surface import welded
from threedistill.render.mesh import sample_texture


def full(file: File) -> dict:
    """Everything that a material can have."""
    pixels = np.dstack([four(), np.full((64, 64), 51, np.uint8)])
    packed = np.zeros((4, 4, 3), np.uint8)
    packed[:, :2, 1], packed[:, 2:, 1], packed[:, :, 2] = 51, 204, 102
    normals = np.zeros((4, 4, 3), np.uint8)
    normals[...] = [218, 128, 218]  # 45 degrees towards the tangent
    return {
        "pbrMetallicRoughness": {
            "baseColorTexture": {"index": file.texture(png(pixels))},
            "metallicRoughnessTexture": {"index": file.texture(png(packed))},
        },
        "normalTexture": {"index": file.texture(png(normals))},
        "emissiveFactor": [0, 0, 1],
        "extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 3}},
        "alphaMode": "MASK",
        "alphaCutoff": 0.1,
        "doubleSided": True,
    }


@pytest.mark.parametrize("tiles", [1, 2])  # the layout of the file is kept, or made anew
def test_a_new_texture_keeps_metal_light_holes_and_relief(
    tiles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = File()
    file.show(file.quad(full(file), uv=QUAD_UV * tiles, NORMAL=file.array([[0, 0, 1]] * 4)))
    file.write(tmp_path / "in.glb")
    assert main(["convert", "in.glb", "out.glb", "--texture-size", "128"]) == 0
    assert "not in" not in capsys.readouterr().err
    result = read_gltf(tmp_path / "out.glb")
    mesh = result.mesh
    assert not result.unlit and mesh.double_sided and mesh.alpha_cutoff == 0.1
    assert mesh.uv is not None and mesh.texture is not None and mesh.texture.shape[0] == 128
    inside = [(x / tiles - (tiles - 1) / tiles, y / tiles + (tiles - 1) / tiles) for x, y in MIDDLES]
    assert seen(mesh, *inside)[0] == pytest.approx(RED, abs=0.01)
    assert mesh.emission is not None and mesh.metallic_roughness is not None and mesh.alpha is not None
    uv = (mesh.uv[mesh.faces] * torch.tensor([0.4, 0.35, 0.25])[:, None]).sum(1)
    assert torch.allclose(sample_texture(mesh.emission, uv)[:, 2], torch.tensor(srgb(3.0)), atol=0.01)
    assert torch.allclose(sample_texture(mesh.alpha, uv), torch.tensor(0.2), atol=5e-3)
    metal = sample_texture(mesh.metallic_roughness, uv)
    assert torch.allclose(metal[:, 0], torch.tensor(0.4), atol=5e-3)
    rough = mesh.metallic_roughness[..., 1]
    assert float(rough.min()) < 0.25 < 0.75 < float(rough.max())
    weights = torch.tensor([[0.4, 0.35, 0.25]]).expand(2, 3)
    tilted = shading_normals(mesh, torch.arange(2), weights)
    assert torch.allclose(tilted, torch.tensor([0.5**0.5, 0, 0.5**0.5]).expand(2, 3), atol=0.03)


def test_several_materials_survive_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A palette gives faces no area of texture: they are laid out anew."""
    monkeypatch.chdir(tmp_path)
    file = File()
    for k, glow in enumerate(([0, 0, 0], [0, 1, 0])):
        surface = {"baseColorFactor": [1 - k, 0, k, 1], "metallicFactor": k, "roughnessFactor": 0.5}
        corners = CORNERS + np.array([3 * k, 0, 0], "<f4")
        file.show(file.quad({"pbrMetallicRoughness": surface, "emissiveFactor": glow}, corners=corners))
    mesh = opened(file, tmp_path).mesh
    assert mesh.colors is not None and mesh.emission is not None
    assert main(["convert", "file.glb", "out.glb", "--texture-size", "64"]) == 0
    mesh = read_gltf(tmp_path / "out.glb").mesh
    assert seen(mesh, (0, 0), (3, 0)) == [[1, 0, 0], [0, 0, 1]]
    assert mesh.emission is not None and mesh.metallic_roughness is not None and mesh.uv is not None
    left, right = ((mesh.uv[f].mean(1)) for f in (mesh.faces[:2], mesh.faces[2:]))
    assert (
        sample_texture(mesh.emission, left).max() < 0.01
        and sample_texture(mesh.emission, right)[:, 1].min() > 0.99
    )
    assert sample_texture(mesh.metallic_roughness, left)[:, 0].max() < 0.01
    assert sample_texture(mesh.metallic_roughness, right)[:, 0].min() > 0.99


def test_a_budget_does_not_tear_what_is_cut_along_seams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every corner of every face has its own vertex, as creases and seams make it in other programs' files."""
    monkeypatch.chdir(tmp_path)
    ball = trimesh.creation.icosphere(subdivisions=4)
    file = File()
    corners = ball.vertices[ball.faces].reshape(-1, 3)
    normals = ball.face_normals.repeat(3, 0)
    file.show({"attributes": {"POSITION": file.array(corners), "NORMAL": file.array(normals)}})
    file.write(tmp_path / "ball.glb")
    assert main(["convert", "ball.glb", "small.glb", "--face-budget", "500", "--texture-size", "64"]) == 0
    mesh = welded(read_gltf(tmp_path / "small.glb").mesh)
    small = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert len(small.faces) <= 500 and small.is_watertight
    assert small.volume == pytest.approx(ball.volume, rel=0.02)
