"""Several materials in one mesh: every picture, factor and colour is still where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exports.gltf_files import CORNERS, QUAD_UV, File, four, png
from tests.exports.test_gltf_materials import (
    BLUE,
    GREEN,
    GREY,
    MIDDLES,
    RED,
    YELLOW,
    opened,
    seen,
    srgb,
    textured,
)
from threedistill.exports.foreign.limits import limits
from threedistill.exports.gltf.read import read_gltf
from threedistill.render.mesh import sample_texture
from threedistill.types import Mesh

RIGHT = tuple((x + 2.5, y) for x, y in MIDDLES)
BESIDE = CORNERS + np.array([2.5, 0, 0], "<f4")


def checker(cells: int, pixels: int = 4) -> np.ndarray:
    """A black and white checkerboard."""
    board = np.indices((cells, cells)).sum(0) % 2 * 255
    return np.repeat(np.repeat(board, pixels, 0), pixels, 1)[..., None].repeat(3, -1).astype(np.uint8)


def test_two_pictures_stay_whole_and_a_tint_stays_with_its_own(tmp_path: Path) -> None:
    file = File()
    one = textured(file)
    two = {"pbrMetallicRoughness": {**one["pbrMetallicRoughness"], "baseColorFactor": [1, 0, 0, 1]}}
    file.show(file.quad(one), file.quad(two, corners=BESIDE))
    result = opened(file, tmp_path)
    mesh = result.mesh
    assert mesh.texture is not None and mesh.colors is None and not result.lost
    assert seen(mesh, *MIDDLES) == [RED, GREEN, BLUE, YELLOW]
    assert seen(mesh, *RIGHT) == [RED, [0, 0, 0], [0, 0, 0], RED]
    # To the texel: all of the 64 x 64 are there, unfiltered.
    centres = torch.tensor([[(x + 0.5) / 32 - 1, 1 - (y + 0.5) / 32] for y in range(64) for x in range(64)])
    found = torch.tensor(seen(mesh, *map(tuple, centres[::97].tolist())))
    expected = torch.from_numpy(four().reshape(-1, 3)[::97] / 255.0).float()
    assert (found - expected).abs().max() < 2e-3


def test_rectangles_continue_as_their_sampler_would(tmp_path: Path) -> None:
    """Filtering at the border of a repeated picture meets its other side, as it did before."""
    file = File()
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, 0] = 255
    sampled = {"pbrMetallicRoughness": {"baseColorTexture": {"index": file.texture(png(stripes))}}}
    file.show(file.quad(sampled), file.quad(textured(file), corners=BESIDE))
    mesh = opened(file, tmp_path).mesh
    assert seen(mesh, (0.9999, 0))[0] == pytest.approx([0.5] * 3, abs=0.01)  # between columns 7 and 0


def test_repeats_far_from_zero_are_brought_near_before_they_are_copied(tmp_path: Path) -> None:
    file = File()
    far = QUAD_UV * 2 + np.array([300, -200])
    file.show(file.quad(textured(file), uv=far), file.quad(textured(file), corners=BESIDE))
    mesh = opened(file, tmp_path).mesh
    assert mesh.texture is not None and mesh.texture.shape[1] < 300
    quarter = [(x / 2 - 0.5, y / 2 + 0.5) for x, y in MIDDLES]
    assert seen(mesh, *quarter) == [RED, GREEN, BLUE, YELLOW]
    assert seen(mesh, *((x + 1, y - 1) for x, y in quarter)) == [RED, GREEN, BLUE, YELLOW]


def test_tiles_that_start_in_different_periods_share_their_texels(tmp_path: Path) -> None:
    """A floor of 3 x 3 quads, each with a whole picture, needs no nine pictures."""
    file = File()
    material = textured(file)
    grid = [(i, j) for i in range(3) for j in range(3)]
    corners = np.concatenate([CORNERS + np.array([2 * i, 2 * j, 0]) for i, j in grid]).astype("<f4")
    uv = np.concatenate([QUAD_UV + np.array([i, -j]) for i, j in grid]).astype("<f4")
    faces = np.concatenate([np.array([0, 1, 2, 0, 2, 3]) + 4 * k for k in range(9)])
    floor = {"attributes": {"POSITION": file.array(corners), "TEXCOORD_0": file.array(uv)},
             "indices": file.array(faces, "u2"), "material": file.add("materials", material)}  # fmt: skip
    file.show(floor, file.quad(textured(file), corners=CORNERS - 10))
    mesh = opened(file, tmp_path).mesh
    assert mesh.texture is not None and mesh.texture.shape[0] * mesh.texture.shape[1] < 160 * 160
    for i, j in grid:
        assert seen(mesh, *((x + 2 * i, y + 2 * j) for x, y in MIDDLES)) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("wrap", [10497, 33648, 33071])
def test_many_repeats_over_one_face(wrap: int, tmp_path: Path) -> None:
    file = File()
    material = textured(file, {"wrapS": wrap, "wrapT": wrap})
    file.show(file.quad(material, uv=QUAD_UV * 3 - 1), file.quad(textured(file), corners=BESIDE))
    mesh = opened(file, tmp_path).mesh
    middle = [(x / 3, y / 3) for x, y in MIDDLES]
    assert seen(mesh, *middle) == [RED, GREEN, BLUE, YELLOW]
    left = {
        10497: [RED, GREEN, BLUE, YELLOW],
        33648: [GREEN, RED, YELLOW, BLUE],
        33071: [RED, RED, BLUE, BLUE],
    }
    assert seen(mesh, *((x - 2 / 3, y) for x, y in middle)) == left[wrap]


def test_all_maps_come_along(tmp_path: Path) -> None:
    file = File()
    packed, normal = np.zeros((8, 8, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    packed[..., 1], packed[..., 2] = 51, 204
    normal[...] = [255, 128, 128]  # along the tangent
    full = textured(file)
    full["pbrMetallicRoughness"]["metallicRoughnessTexture"] = {"index": file.texture(png(packed))}
    full["normalTexture"] = {"index": file.texture(png(normal))}
    full |= {"emissiveTexture": {"index": file.texture(png(GREY))}, "emissiveFactor": [0, 1, 0]}
    plain = {
        "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 0.5, "baseColorFactor": [1, 0, 0, 1]}
    }
    file.show(file.quad(full), file.quad(plain, uv=None, corners=BESIDE))
    mesh = opened(file, tmp_path).mesh
    assert mesh.uv is not None
    for picture, left, right in (
        (mesh.metallic_roughness, [0.8, 0.2], [0.0, 0.5]),
        (mesh.normal_map, [1.0, 0.5, 0.5], [0.5, 0.5, 1.0]),
        (mesh.emission, [0.0, 188 / 255, 0.0], [0.0, 0.0, 0.0]),
    ):
        assert picture is not None
        found = sample_texture(picture, mesh.uv, mesh.wrap)
        assert torch.allclose(found[:4], torch.tensor(left).expand(4, -1), atol=5e-3)
        assert torch.allclose(found[4:], torch.tensor(right).expand(4, -1), atol=5e-3)
    assert seen(mesh, *MIDDLES, (2.5, 0)) == [RED, GREEN, BLUE, YELLOW, RED]


def test_holes_and_glass_keep_their_meaning(tmp_path: Path) -> None:
    def described(file: File, mode: str, alpha: int, cutoff: float = 0.5) -> dict:
        pixels = np.full((4, 4, 4), 255, np.uint8)
        pixels[..., 3] = alpha
        surface = {"baseColorTexture": {"index": file.texture(png(pixels))}}
        return {"pbrMetallicRoughness": surface, "alphaMode": mode} | (
            {"alphaCutoff": cutoff} if mode == "MASK" else {}
        )

    for modes, expected, cutoff in (
        ((("MASK", 100, 0.25), ("OPAQUE", 7, 0.5)), [100 / 255, 1.0], 0.25),
        ((("MASK", 100, 0.25), ("MASK", 100, 0.5)), [1.0, 0.0], 0.5),
        ((("MASK", 100, 0.25), ("BLEND", 100, 0.5)), [1.0, 100 / 255], None),
    ):
        file = File()
        first, second = (described(file, *mode) for mode in modes)
        file.show(file.quad(first), file.quad(second, corners=BESIDE))
        mesh = opened(file, tmp_path).mesh
        assert mesh.alpha is not None and mesh.uv is not None
        found = sample_texture(mesh.alpha, mesh.uv, mesh.wrap)[:, 0]
        assert torch.allclose(found, torch.tensor(expected).repeat_interleave(4), atol=2e-3)
        assert mesh.alpha_cutoff == cutoff


def test_plain_colours_need_no_pictures(tmp_path: Path) -> None:
    file = File()
    colors = ([1, 0, 0, 1], [0, 0, 1, 1])
    first, second = ({"pbrMetallicRoughness": {"baseColorFactor": c, "metallicFactor": 0}} for c in colors)
    file.show(file.quad(first), file.quad(second, corners=BESIDE))
    mesh = opened(file, tmp_path).mesh
    assert mesh.texture is None and mesh.metallic_roughness is None and mesh.uv is None
    assert seen(mesh, (0, 0), (2.5, 0)) == [[1, 0, 0], [0, 0, 1]]


def test_a_palette_says_what_vertices_cannot(tmp_path: Path) -> None:
    file = File()
    for k in range(5):
        surface = {"baseColorFactor": [k / 4, 0, 0, 1], "metallicFactor": k / 4, "roughnessFactor": 1 - k / 4}
        glow = [0, k / 4, 0]
        corners = CORNERS + np.array([3 * k, 0, 0], "<f4")
        file.show(
            file.quad({"pbrMetallicRoughness": surface, "emissiveFactor": glow}, corners=corners, uv=None)
        )
    mesh = opened(file, tmp_path).mesh
    assert mesh.texture is None and mesh.colors is not None and mesh.uv is not None
    assert mesh.metallic_roughness is not None and mesh.emission is not None
    metal, glow = (sample_texture(p, mesh.uv, mesh.wrap) for p in (mesh.metallic_roughness, mesh.emission))
    share = torch.arange(5).repeat_interleave(4) / 4
    assert torch.allclose(metal, torch.stack([share, 1 - share], 1), atol=1e-6)
    assert torch.allclose(glow[:, 1], torch.tensor([srgb(float(s)) for s in share]), atol=1e-5)


def test_pictures_with_two_sets_of_coordinates_are_painted_anew(tmp_path: Path) -> None:
    file = File()
    material = textured(file)
    material |= {
        "emissiveFactor": [1, 1, 1],
        "emissiveTexture": {"index": file.texture(png(checker(2, 32))), "texCoord": 1},
    }
    turned = QUAD_UV[[1, 2, 3, 0]]
    file.show(file.quad(material, TEXCOORD_1=file.array(turned)))
    result = opened(file, tmp_path)
    mesh = result.mesh
    assert not result.lost and mesh.emission is not None
    for found, right in zip(seen(mesh, *MIDDLES), [RED, GREEN, BLUE, YELLOW]):
        assert found == pytest.approx(right, abs=0.02)
    light = Mesh(mesh.vertices, mesh.faces, uv=mesh.uv, texture=mesh.emission, wrap=mesh.wrap)
    white = [round(sum(color)) == 3 for color in seen(light, *MIDDLES)]
    # The checkerboard is black at its top left; the corner below left of the quad shows its bottom right.
    assert white == [True, False, False, True]


def test_what_does_not_fit_is_reduced_by_its_mean_and_said(tmp_path: Path) -> None:
    file = File()
    fine = {"pbrMetallicRoughness": {"baseColorTexture": {"index": file.texture(png(checker(64, 1)))}}}
    file.show(file.quad(fine), file.quad(textured(file), corners=BESIDE))
    with limits(pixels=64 * 64 + 64 * 64):
        result = read_gltf(file.write(tmp_path / "file.glb"))
    assert result.mesh.texture is not None
    height, width = result.mesh.texture.shape[:2]
    assert height * width <= 2 * 64 * 64
    (phrase,) = result.lost
    assert phrase.startswith("its pictures' full resolution") and f"{width} x {height}" in phrase
    grey = np.array(seen(result.mesh, (-0.3, 0.1), (0.4, -0.6), (0.1, 0.7)))
    assert np.abs(grey - 0.5).max() < 0.25  # not one of the two colours by chance


def test_forty_materials(tmp_path: Path) -> None:
    file = File()
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (40, 3))
    for k, color in enumerate(colors):
        pixels = np.broadcast_to(color, (8 + k, 16, 3)).astype(np.uint8)
        material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": file.texture(png(pixels))}}}
        file.show(file.quad(material, corners=CORNERS + np.array([3 * k, 0, 0], "<f4")))
    mesh = opened(file, tmp_path).mesh
    found = np.array(seen(mesh, *((3.0 * k, 0.3) for k in range(40))))
    assert np.abs(found - colors / 255).max() < 2e-3
    assert len(mesh.vertices) == 160 and mesh.uv is not None
    assert float(mesh.uv.min()) >= 0 and float(mesh.uv.max()) <= 1
