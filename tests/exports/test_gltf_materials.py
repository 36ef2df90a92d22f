"""What glTF surfaces look like, against the specification: files by hand, right values by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exports.gltf_files import CORNERS, FOUR, QUAD_UV, File, four, png
from threedistill.errors import ThreedistillError
from threedistill.exports.appearance.joined import Joined
from threedistill.exports.gltf.read import read_gltf
from threedistill.render.mesh import sample_texture
from threedistill.types import Mesh

RED, GREEN, BLUE, YELLOW = ([float(v) for v in FOUR.reshape(-1, 3)[k] / 255.0] for k in range(4))
GREY = np.full((4, 4, 3), 188, np.uint8)  # sRGB 188 is half of the light, linear 0.5


def opened(file: File, tmp_path: Path) -> Joined:
    return read_gltf(file.write(tmp_path / "file.glb"))


def srgb(linear: float) -> float:
    """IEC 61966-2-1."""
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def seen(mesh: Mesh, *places: tuple[float, float]) -> list[list[float]]:
    """The base colour at places (x, y) of the quad in z = 0, whatever holds it."""
    found = []
    for x, y in places:
        for face in mesh.faces:
            a, b, c = mesh.vertices[face][:, :2].double()
            weights = torch.linalg.solve(torch.stack([b - a, c - a], 1), torch.tensor([x, y]).double() - a)
            weights = torch.cat([1 - weights.sum()[None], weights])
            if weights.min() >= -1e-9:
                break
        else:
            raise AssertionError(f"no face at {x}, {y}")
        if mesh.texture is not None:
            assert mesh.uv is not None
            uv = (mesh.uv[face].double() * weights[:, None]).sum(0)[None]
            color = sample_texture(mesh.texture, uv.float(), mesh.wrap)[0]
        else:
            assert mesh.colors is not None
            color = (mesh.colors[face].double() * weights[:, None]).sum(0)
        found.append([round(float(v), 3) for v in color])
    return found


def textured(file: File, sampler: dict | None = None, size: int = 64, **info: object) -> dict:
    texture = file.texture(png(four(size)), sampler)
    return {"pbrMetallicRoughness": {"baseColorTexture": {"index": texture, **info}}}


MIDDLES = ((-0.5, 0.5), (0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
def test_coordinates_of_every_type_show_the_picture_upright(kind: str, tmp_path: Path) -> None:
    file = File()
    primitive = file.quad(textured(file), uv=None)
    top = {"f4": 1, "u1": 255, "u2": 65535}[kind]
    primitive["attributes"]["TEXCOORD_0"] = file.array(QUAD_UV * top, kind, normalized=kind != "f4")
    file.show(primitive)
    assert seen(opened(file, tmp_path).mesh, *MIDDLES) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (None, [RED, GREEN, BLUE, YELLOW]),  # repeat is the default, 3.8.4.5
        ({}, [RED, GREEN, BLUE, YELLOW]),
        ({"wrapS": 10497, "wrapT": 33071}, [RED, GREEN, RED, GREEN]),  # clamped below 0: the upper row
        ({"wrapS": 33648, "wrapT": 10497}, [GREEN, RED, YELLOW, BLUE]),  # from 3 to 4 a mirror looks back
        ({"wrapS": 33648, "wrapT": 33648}, [YELLOW, BLUE, GREEN, RED]),
    ],
)
def test_pictures_go_on_as_their_sampler_says(sampler: dict | None, expected: list, tmp_path: Path) -> None:
    file = File()
    file.show(file.quad(textured(file, sampler), uv=QUAD_UV + np.array([3, -5])))
    assert seen(opened(file, tmp_path).mesh, *MIDDLES) == expected


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"scale": [0.5, 0.5]}, [RED] * 4),
        ({"scale": [0.5, 0.5], "offset": [0.5, 0.0]}, [GREEN] * 4),
        ({"offset": [0.0, 0.5]}, [BLUE, YELLOW, RED, GREEN]),
        # Coordinates are turned counter-clockwise (v points down) about the picture's top left: what was seen at
        # (u, v) is now at (v, -u).
        ({"rotation": math.pi / 2}, [BLUE, RED, YELLOW, GREEN]),
        ({"rotation": math.pi / 2, "scale": [0.5, 1.0], "offset": [0.0, 0.5]}, [RED, RED, GREEN, GREEN]),
    ],
)  # fmt: skip
def test_texture_transforms(transform: dict, expected: list, tmp_path: Path) -> None:
    file = File()
    file.use("KHR_texture_transform", required=True)
    file.show(file.quad(textured(file, extensions={"KHR_texture_transform": transform})))
    assert seen(opened(file, tmp_path).mesh, *MIDDLES) == expected


def test_a_transform_may_name_another_set_of_coordinates(tmp_path: Path) -> None:
    file = File()
    material = textured(file, extensions={"KHR_texture_transform": {"texCoord": 1}})
    file.show(file.quad(material, uv=QUAD_UV * 0, TEXCOORD_1=file.array(QUAD_UV)))
    assert seen(opened(file, tmp_path).mesh, *MIDDLES) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colours_times_the_factor_are_linear(kind: str, width: int, tmp_path: Path) -> None:
    """Section 3.9.2; half of each, with factors 0.2, 0.5, 0.05."""
    file = File()
    top = {"f4": 1, "u1": 255, "u2": 65535}[kind]
    values = np.tile([0.5, 0.5, 0.5, 1.0][:width], (4, 1)) * top
    color = file.array(np.round(values) if top > 1 else values, kind, normalized=top > 1, stride=4 * width)
    material = {"pbrMetallicRoughness": {"baseColorFactor": [0.2, 0.5, 0.05, 1]}}
    file.show(file.quad(material, COLOR_0=color))
    expected = [srgb(0.1), srgb(0.25), srgb(0.025)]
    for color in seen(opened(file, tmp_path).mesh, *MIDDLES):
        assert color == pytest.approx(expected, abs=2e-3)


def test_factor_times_picture_is_taken_in_linear_light(tmp_path: Path) -> None:
    file = File()
    texture = file.texture(png(GREY))
    surface = {"baseColorTexture": {"index": texture}, "baseColorFactor": [1, 0.5, 0, 1]}
    file.show(file.quad({"pbrMetallicRoughness": surface}))
    expected = [188 / 255, srgb(0.25), 0]
    assert seen(opened(file, tmp_path).mesh, (0, 0))[0] == pytest.approx(expected, abs=3e-3)


def test_picture_times_varying_vertex_colours_is_painted_anew(tmp_path: Path) -> None:
    file = File()
    color = file.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])  # red below, blue above
    texture = file.texture(png(GREY))
    file.show(file.quad({"pbrMetallicRoughness": {"baseColorTexture": {"index": texture}}}, COLOR_0=color))
    result = opened(file, tmp_path)
    assert result.mesh.texture is not None and not result.lost
    below, middle, above = seen(result.mesh, (0, -0.95), (0, 0), (0, 0.95))
    assert below == pytest.approx([srgb(0.5 * 0.975), 0, srgb(0.5 * 0.025)], abs=0.06)
    assert middle == pytest.approx([srgb(0.25), 0, srgb(0.25)], abs=0.02)
    assert above == pytest.approx([srgb(0.5 * 0.025), 0, srgb(0.5 * 0.975)], abs=0.06)


def test_metal_and_roughness_are_channels_times_factors(tmp_path: Path) -> None:
    file = File()
    packed = np.zeros((4, 4, 3), np.uint8)
    packed[..., 0], packed[..., 1], packed[..., 2] = 17, 204, 102  # red is not read, 3.9.2
    surface = {"metallicFactor": 0.5, "roughnessFactor": 0.25,
               "metallicRoughnessTexture": {"index": file.texture(png(packed))}}  # fmt: skip
    file.show(file.quad({"pbrMetallicRoughness": surface}))
    metal = opened(file, tmp_path).mesh.metallic_roughness
    assert metal is not None and metal.shape == (4, 4, 2)
    assert torch.allclose(metal, torch.tensor([0.2, 0.2]).expand(4, 4, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("material", "expected"),
    [
        (None, [[1.0, 1.0]]),  # the default material is metallic and rough, 3.9
        ({"pbrMetallicRoughness": {}}, [[1.0, 1.0]]),
        ({"pbrMetallicRoughness": {"metallicFactor": 0}}, None),  # as a mesh without a material
        ({"pbrMetallicRoughness": {"metallicFactor": 0.25, "roughnessFactor": 0.5}}, [[0.25, 0.5]]),
    ],
)
def test_factors_without_pictures_are_constants(
    material: dict | None, expected: list | None, tmp_path: Path
) -> None:
    file = File()
    file.show(file.quad(material, uv=None))
    metal = opened(file, tmp_path).mesh.metallic_roughness
    assert (None if metal is None else metal.reshape(-1, 2).tolist()) == expected


def test_emission_with_its_strength(tmp_path: Path) -> None:
    file = File()
    material = {
        "emissiveFactor": [1, 0.5, 0], "emissiveTexture": {"index": file.texture(png(GREY))},
        "extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 8}},
    }  # fmt: skip
    file.show(file.quad(material))
    result = opened(file, tmp_path)
    assert result.mesh.emission is not None and not result.unlit
    expected = [srgb(4), srgb(2), 0]
    assert result.mesh.emission[1, 1].tolist() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("picture", [True, False])
def test_light_on_black_is_an_unlit_colour(picture: bool, tmp_path: Path) -> None:
    """How Blender writes what USD said is only emitted."""
    file = File()
    material: dict = {
        "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]},
        "emissiveFactor": [1, 0.5, 0.25],
    }
    if picture:
        material |= {"emissiveFactor": [1, 1, 1], "emissiveTexture": {"index": file.texture(png(four()))}}
    file.show(file.quad(material))
    result = opened(file, tmp_path)
    assert result.unlit and result.mesh.emission is None
    expected = (
        [RED, GREEN, BLUE, YELLOW] if picture else [[1.0, round(srgb(0.5), 3), round(srgb(0.25), 3)]] * 4
    )
    assert seen(result.mesh, *MIDDLES) == expected


def test_unlit_is_said_and_hides_emission(tmp_path: Path) -> None:
    file = File()
    file.use("KHR_materials_unlit", required=True)
    material = {**textured(file), "emissiveFactor": [1, 1, 1], "extensions": {"KHR_materials_unlit": {}}}
    file.show(file.quad(material))
    result = opened(file, tmp_path)
    assert result.unlit and result.mesh.emission is None and result.mesh.metallic_roughness is None
    assert seen(result.mesh, *MIDDLES) == [RED, GREEN, BLUE, YELLOW]


def test_unlit_beside_lit_gives_its_colour_off(tmp_path: Path) -> None:
    file = File()
    lit = {"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0, 0, 1], "metallicFactor": 0}}
    unlit = {
        "pbrMetallicRoughness": {"baseColorFactor": [0, 0.5, 0, 1]},
        "extensions": {"KHR_materials_unlit": {}},
    }
    file.show(file.quad(lit), file.quad(unlit, corners=CORNERS + 5))
    result = opened(file, tmp_path)
    assert not result.unlit and any("unlit" in phrase for phrase in result.lost)
    mesh = result.mesh
    assert mesh.uv is not None and mesh.emission is not None and mesh.colors is not None
    glow = sample_texture(mesh.emission, mesh.uv, mesh.wrap)
    assert torch.allclose(glow[:4], torch.zeros(4, 3)) and torch.allclose(mesh.colors[4:], torch.zeros(4, 3))
    assert torch.allclose(glow[4:], torch.tensor([0, srgb(0.5), 0]).expand(4, 3), atol=1e-4)
    assert torch.allclose(mesh.colors[:4], torch.tensor([srgb(0.5), 0, 0]).expand(4, 3), atol=1e-4)


@pytest.mark.parametrize("mode", ["OPAQUE", "MASK", "BLEND"])
def test_coverage_is_read_only_where_the_mode_asks_for_it(mode: str, tmp_path: Path) -> None:
    file = File()
    pixels = np.dstack([four(4), np.full((4, 4), 128, np.uint8)])
    surface = {"baseColorTexture": {"index": file.texture(png(pixels))}, "baseColorFactor": [1, 1, 1, 0.5]}
    material = {"pbrMetallicRoughness": surface, "alphaMode": mode, "doubleSided": True}
    file.show(file.quad(material | ({"alphaCutoff": 0.125} if mode == "MASK" else {})))
    mesh = opened(file, tmp_path).mesh
    assert mesh.double_sided
    if mode == "OPAQUE":
        assert mesh.alpha is None
    else:
        assert mesh.alpha is not None
        assert torch.allclose(mesh.alpha, torch.full((4, 4, 1), 64 / 255))
    assert mesh.alpha_cutoff == (0.125 if mode == "MASK" else None)


def test_a_normal_map_keeps_its_bytes_and_obeys_its_scale(tmp_path: Path) -> None:
    normals = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    for scale in (1.0, 2.0):
        file = File()
        file.show(file.quad({"normalTexture": {"index": file.texture(png(normals)), "scale": scale}}))
        found = opened(file, tmp_path).mesh.normal_map
        assert found is not None
        if scale == 1:
            assert ((found * 255).round().numpy() == normals).all()
        else:
            local = (normals / 255.0 * 2 - 1) * [2, 2, 1]
            local /= np.linalg.norm(local, axis=-1, keepdims=True)
            assert np.abs(found.numpy() * 2 - 1 - local).max() < 1e-5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_picture_formats(kind: str, tmp_path: Path) -> None:
    file = File()
    data = (
        png(four(), kind, quality=95)
        if kind == "JPEG"
        else png(four(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    )
    mime = f"image/{kind.lower()}"
    texture = file.texture(data, mime=mime)
    if kind == "WEBP":
        file.use("EXT_texture_webp", required=True)
        file.document["textures"][texture] = {"extensions": {"EXT_texture_webp": {"source": 0}}}
    file.show(file.quad({"pbrMetallicRoughness": {"baseColorTexture": {"index": texture}}}))
    for found, right in zip(seen(opened(file, tmp_path).mesh, *MIDDLES), [RED, GREEN, BLUE, YELLOW]):
        assert found == pytest.approx(right, abs=0.02)


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "I;16"])
def test_every_mode_of_png(mode: str, tmp_path: Path) -> None:
    import io

    from PIL import Image

    grey = np.array([[0, 255], [255, 64]], np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    file = File()
    texture = file.texture(buffer.getvalue())
    file.show(file.quad({"pbrMetallicRoughness": {"baseColorTexture": {"index": texture}}}))
    picture = opened(file, tmp_path).mesh.texture
    assert picture is not None
    last = 64 / 255 if mode != "1" else 0.0
    assert picture[..., 0].reshape(-1).tolist() == pytest.approx([0, 1, 1, last], abs=0.01)


def test_specular_glossiness_becomes_metal_and_roughness(tmp_path: Path) -> None:
    """A metal: black diffuse, coloured specular. A dielectric: grey diffuse, specular 0.04."""
    for diffuse, specular, color, metal in (
        ([0, 0, 0, 1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1], 1.0),
        ([0.5, 0.25, 0.125, 1], [0.04, 0.04, 0.04], [0.5, 0.25, 0.125], 0.0),
    ):
        file = File()
        file.use("KHR_materials_pbrSpecularGlossiness", required=True)
        old = {"diffuseFactor": diffuse, "specularFactor": specular, "glossinessFactor": 0.7}
        file.show(file.quad({"extensions": {"KHR_materials_pbrSpecularGlossiness": old}}))
        mesh = opened(file, tmp_path).mesh
        assert mesh.metallic_roughness is not None
        assert mesh.metallic_roughness[0, 0].tolist() == pytest.approx([metal, 0.3], abs=0.02)
        assert seen(mesh, (0, 0))[0] == pytest.approx([srgb(v) for v in color], abs=0.02)


def test_specular_glossiness_with_pictures_of_two_sizes(tmp_path: Path) -> None:
    file = File()
    shine = np.zeros((2, 2, 4), np.uint8)
    shine[..., :3], shine[..., 3] = 56, 102  # sRGB 56 is linear 0.04
    old = {"diffuseTexture": {"index": file.texture(png(four()))},
           "specularGlossinessTexture": {"index": file.texture(png(shine))}}  # fmt: skip
    file.show(file.quad({"extensions": {"KHR_materials_pbrSpecularGlossiness": old}}))
    mesh = opened(file, tmp_path).mesh
    for found, right in zip(seen(mesh, *MIDDLES), [RED, GREEN, BLUE, YELLOW]):
        assert found == pytest.approx(right, abs=0.02)
    assert mesh.metallic_roughness is not None
    assert mesh.metallic_roughness[0, 0].tolist() == pytest.approx([0, 0.6], abs=0.02)


def test_what_is_not_kept_is_named(tmp_path: Path) -> None:
    file = File()
    file.use("KHR_materials_transmission", "KHR_materials_variants", "ACME_sparkles")
    material = textured(file)
    material["occlusionTexture"] = {"index": 0}
    material["extensions"] = {"KHR_materials_transmission": {"transmissionFactor": 1}}
    file.show(file.quad(material))
    file.add("animations", {"channels": [], "samplers": []})
    file.add("animations", {"channels": [], "samplers": []})
    assert set(opened(file, tmp_path).lost) == {
        "2 animations", "occlusion maps", "KHR_materials_transmission", "ACME_sparkles",
    }  # fmt: skip


def test_a_picture_without_coordinates_is_named(tmp_path: Path) -> None:
    file = File()
    file.show(file.quad(textured(file), uv=None))
    result = opened(file, tmp_path)
    assert result.mesh.texture is None and result.lost == [
        "pictures of parts that have no texture coordinates"
    ]


def test_a_picture_that_only_an_unknown_extension_holds_is_named(tmp_path: Path) -> None:
    file = File()
    material = textured(file)
    file.document["textures"][0] = {"extensions": {"KHR_texture_basisu": {"source": 0}}}
    file.use("KHR_texture_basisu")
    file.show(file.quad(material))
    lost = opened(file, tmp_path).lost
    assert "KHR_texture_basisu" in lost and any("texture 0" in phrase for phrase in lost)


def test_facts_come_back(tmp_path: Path) -> None:
    file = File()
    file.document["asset"]["extras"] = {"prompt": "a red cube"}
    file.show(file.quad())
    assert opened(file, tmp_path).mesh.extras == {"prompt": "a red cube"}
    file.document["asset"]["extras"] = [1, 2]
    assert opened(file, tmp_path).mesh.extras == {}


def test_nothing_is_asked_of_pictures_that_are_not_seen(tmp_path: Path) -> None:
    """An occlusion map, and the emission of a surface whose factor is zero, may be anything."""
    file = File()
    broken = file.texture(b"not a picture")
    file.show(file.quad({"occlusionTexture": {"index": broken}, "emissiveTexture": {"index": broken}}))
    assert opened(file, tmp_path).mesh.emission is None
    file.document["materials"][0]["emissiveFactor"] = [1, 1, 1]
    with pytest.raises(ThreedistillError, match="image 0 is no sound picture"):
        opened(file, tmp_path)
