"""Pictures beyond the unit square, and light, holes and constants in the files that can hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exports.gltf_files import pictures_in, taken_apart
from threedistill.exports.appearance.pictures import glowing, with_vertex_colors
from threedistill.exports.asset import ExportSettings, write_mesh
from threedistill.render.mesh import picture_at, render_mesh, sample_texture
from threedistill.render.shading import linear_to_srgb, srgb_to_linear
from threedistill.types import Mesh

#: 2 rows of 3 texels.
PICTURE = torch.tensor([[[0.0], [1.0], [2.0]], [[10.0], [11.0], [12.0]]])


def quad(**more: object) -> Mesh:
    """Two metres square in the plane z = 0, facing +Z, with the coordinates of one picture."""
    vertices = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    return Mesh(vertices, faces, uv=uv, **more)  # type: ignore[arg-type]


def texel(column: int, row: int) -> list[float]:
    """Where the centre of a texel lies, for any whole numbers."""
    return [(column + 0.5) / 3, 1 - (row + 0.5) / 2]


@pytest.mark.parametrize(
    ("wrap", "columns"),
    [
        ("repeat", [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]),  # of the columns -4 .. 5
        ("mirror", [2, 2, 1, 0, 0, 1, 2, 2, 1, 0]),
        ("clamp", [0, 0, 0, 0, 0, 1, 2, 2, 2, 2]),
    ],
)
def test_each_wrap_mode_continues_as_opengl_defines_it(wrap: str, columns: list[int]) -> None:
    places = torch.tensor([texel(column, 0) for column in range(-4, 6)])
    seen = sample_texture(PICTURE, places, (wrap, "clamp"))[:, 0]  # type: ignore[arg-type]
    assert torch.allclose(seen, torch.tensor(columns).float(), atol=1e-5)
    # Along v the same, independent of u.
    places = torch.tensor([texel(1, row) for row in range(-3, 5)])
    seen = sample_texture(PICTURE, places, ("clamp", wrap))[:, 0]  # type: ignore[arg-type]
    rows = {
        "repeat": [1, 0, 1, 0, 1, 0, 1, 0],
        "mirror": [1, 1, 0, 0, 1, 1, 0, 0],
        "clamp": [0] * 4 + [1] * 4,
    }
    rows["mirror"] = [min(r % 4, 3 - r % 4) for r in range(-3, 5)]
    assert torch.allclose(seen, 1 + 10 * torch.tensor(rows[wrap]).float(), atol=1e-5)


def test_repeated_pictures_blend_across_their_border() -> None:
    border = torch.tensor([[0.0, 0.75], [1.0, 0.75], [7.0, 0.75], [-40.0, 0.75]])  # between columns 2 and 0
    assert torch.allclose(sample_texture(PICTURE, border, ("repeat", "clamp")), torch.ones(4, 1), atol=1e-4)
    assert torch.allclose(
        sample_texture(PICTURE, border[:2], ("clamp", "clamp"))[:, 0], torch.tensor([0.0, 2.0])
    )


def test_inside_the_square_all_modes_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(7, 5, 3, generator=generator)
    inner = torch.rand(200, 2, generator=generator) * 0.7 + 0.15
    expected = sample_texture(picture, inner)
    for wrap in ("repeat", "mirror"):
        assert torch.allclose(sample_texture(picture, inner, (wrap, wrap)), expected, atol=1e-5)
    assert torch.isfinite(
        sample_texture(picture, torch.tensor([[float("nan"), 1e30]]), ("repeat", "mirror"))
    ).shape


def test_a_constant_needs_no_coordinates() -> None:
    mesh = replace(quad(), uv=None)
    found = picture_at(mesh, torch.tensor([[[0.25, 0.5]]]), lambda values: values)
    assert torch.equal(found, torch.tensor([[0.25, 0.5]]).expand(4, 2))
    with pytest.raises(ValueError, match="needs texture coordinates"):
        picture_at(mesh, PICTURE, lambda values: values)


def test_emission_is_seen_in_linear_light() -> None:
    from threedistill.cameras import orbit

    mesh = quad(texture=torch.full((1, 1, 3), 0.5), emission=torch.full((2, 2, 3), 0.6))
    expected = linear_to_srgb(srgb_to_linear(torch.tensor(0.5)) + srgb_to_linear(torch.tensor(0.6)))
    folded = glowing(mesh)
    assert folded.emission is None and folded.texture is not None
    assert torch.allclose(folded.texture, expected.expand(2, 2, 3), atol=1e-6)
    camera = orbit(1, size=16)
    for shown in (mesh, folded):
        middle = render_mesh(shown, camera).rgb[0, 8, 8]
        assert torch.allclose(middle, expected.expand(3), atol=1e-5)
    plain = glowing(replace(mesh, texture=None, uv=None, emission=torch.full((1, 1, 3), 0.6)))
    assert plain.colors is not None and bool((plain.colors == 1).all())


@pytest.mark.parametrize(
    ("wrap", "codes"), [(("repeat", "mirror"), (10497, 33648)), (("clamp", "repeat"), (33071, 10497))]
)
def test_glb_and_usdz_say_how_pictures_go_on(
    wrap: tuple, codes: tuple[int, int], tmp_path: Path, validate: Callable[[Path], dict]
) -> None:
    from pxr import Usd, UsdShade

    mesh = quad(texture=torch.rand(4, 4, 3), wrap=wrap)
    write_mesh(mesh, tmp_path / "m.glb")
    sampler = taken_apart(tmp_path / "m.glb")[0]["samplers"][0]
    assert (sampler["wrapS"], sampler["wrapT"]) == codes
    assert validate(tmp_path / "m.glb")["issues"]["numErrors"] == 0
    write_mesh(mesh, tmp_path / "m.usdz")
    stage = Usd.Stage.Open(str(tmp_path / "m.usdz"))
    shader = UsdShade.Shader(stage.GetPrimAtPath("/m/material/color"))
    assert (shader.GetInput("wrapS").Get(), shader.GetInput("wrapT").Get()) == wrap


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("cutoff", [None, 0.25])
def test_light_holes_and_factors_reach_glb(
    constant: bool, cutoff: float | None, tmp_path: Path, validate: Callable[[Path], dict]
) -> None:
    size = 1 if constant else 8
    emission = torch.full((size, size, 3), 0.5)
    emission[0, 0] = linear_to_srgb(torch.tensor([4.0, 1.0, 0.5]))  # stronger than white
    alpha = torch.full((size, size, 1), 0.2)
    mesh = quad(
        colors=torch.full((4, 3), 0.5), emission=emission, alpha=alpha, alpha_cutoff=cutoff, double_sided=True,
        metallic_roughness=torch.tensor([0.25, 0.75]).expand(size, size, 2),
    )  # fmt: skip
    write_mesh(mesh, tmp_path / "m.glb", ExportSettings(unlit=False))
    issues = validate(tmp_path / "m.glb")["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
    document, binary = taken_apart(tmp_path / "m.glb")
    images = pictures_in(document, binary)
    material = document["materials"][0]
    assert material["doubleSided"] is True
    assert material["alphaMode"] == ("BLEND" if cutoff is None else "MASK")
    assert material.get("alphaCutoff") == cutoff
    strength = material["extensions"]["KHR_materials_emissive_strength"]["emissiveStrength"]
    assert strength == pytest.approx(4.0, rel=1e-5)
    surface = material["pbrMetallicRoughness"]
    if constant:
        assert not images
        assert material["emissiveFactor"] == pytest.approx([1, 0.25, 0.125], rel=1e-5)
        assert surface["baseColorFactor"] == pytest.approx([1, 1, 1, 0.2])
        assert (surface["metallicFactor"], surface["roughnessFactor"]) == (0.25, 0.75)
    else:
        kinds = [image["name"].split("-", 1)[1] for image in document["images"]]
        assert kinds == ["base-colour", "metallic-roughness", "emission"]
        assert images[0].mode == "RGBA" and np.asarray(images[0])[..., 3].max() == 51
        packed = np.asarray(images[1])
        assert packed[0, 0, 1:].tolist() == [191, 64]
        first = srgb_to_linear(torch.from_numpy(np.asarray(images[2])[0, 0] / 255.0)) * strength
        assert torch.allclose(first.float(), torch.tensor([4.0, 1.0, 0.5]), rtol=0.02)


@pytest.mark.parametrize("constant", [True, False])
def test_light_holes_and_factors_reach_usdz(constant: bool, tmp_path: Path) -> None:
    from pxr import Usd, UsdGeom, UsdShade

    size = 1 if constant else 4
    emission = linear_to_srgb(torch.tensor([2.0, 0.5, 0.0])).expand(size, size, 3)
    mesh = quad(
        texture=torch.full((4, 4, 3), 0.5), emission=emission, alpha=torch.full((4, 4, 1), 0.2), alpha_cutoff=0.25,
        metallic_roughness=torch.tensor([0.25, 0.75]).expand(size, size, 2), double_sided=True,
    )  # fmt: skip
    write_mesh(mesh, tmp_path / "m.usdz", ExportSettings(unlit=False))
    stage = Usd.Stage.Open(str(tmp_path / "m.usdz"))
    assert UsdGeom.Mesh(stage.GetPrimAtPath("/m/surface")).GetDoubleSidedAttr().Get() is True
    surface = UsdShade.Shader(stage.GetPrimAtPath("/m/material/surface"))
    assert surface.GetInput("opacityThreshold").Get() == pytest.approx(0.25)
    assert surface.GetInput("opacity").GetConnectedSources()[0][0].sourceName == "a"
    if constant:
        assert tuple(surface.GetInput("emissiveColor").Get()) == pytest.approx((2, 0.5, 0), abs=1e-5)
        assert surface.GetInput("metallic").Get() == pytest.approx(0.25)
        assert surface.GetInput("roughness").Get() == pytest.approx(0.75)
    else:
        reader = UsdShade.Shader(stage.GetPrimAtPath("/m/material/emission"))
        assert surface.GetInput("emissiveColor").HasConnectedSource()
        assert tuple(reader.GetInput("scale").Get()) == pytest.approx((2, 2, 2, 1), rel=1e-5)


def test_an_initial_object_keeps_how_its_picture_goes_on(tmp_path: Path) -> None:
    from threedistill.training.start import load_start, save_start

    mesh = quad(texture=torch.rand(4, 4, 3), wrap=("repeat", "mirror"))
    save_start(mesh, tmp_path / "start.safetensors")
    again = load_start(tmp_path / "start.safetensors")
    assert isinstance(again, Mesh) and again.wrap == ("repeat", "mirror")


@pytest.mark.parametrize("wrap", ["repeat", "mirror", "clamp"])
def test_a_corner_has_the_colour_beside_it_not_the_one_beyond(wrap: str) -> None:
    """Four plain fields: at the very corner of a picture that repeats, a lookup is the mean of all four."""
    fields = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]]])
    picture = fields.repeat_interleave(8, 0).repeat_interleave(8, 1)
    mesh = quad(texture=picture, wrap=(wrap, wrap))
    mesh = replace(
        mesh,
        vertices=torch.cat([mesh.vertices, torch.zeros(1, 3)]),
        uv=torch.cat([mesh.uv, mesh.uv[:1] + 0.25]),
    )
    colors = with_vertex_colors(mesh).colors
    expected = torch.stack([fields[1, 0], fields[1, 1], fields[0, 1], fields[0, 0], fields[1, 0]])
    assert torch.allclose(colors, expected, atol=1e-6)  # the last one belongs to no face
