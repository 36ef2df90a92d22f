"""USD of other programs: stages made with USD's own library or by hand, read back by value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.exports.test_foreign_meshes import assert_pictured, mesh_of, picture, seen
from threedistill.errors import ThreedistillError
from threedistill.exports.read import open_file, read_mesh

pytest.importorskip("pxr", reason="USD is read by its own library, the extra usd")

HEAD = '#usda 1.0\n(\n    metersPerUnit = 1\n    upAxis = "Y"\n)\n'
TEXTURED = """
def Material "m"
{
    token outputs:surface.connect = </m/s.outputs:surface>
    def Shader "s"
    {
        uniform token info:id = "UsdPreviewSurface"
        color3f inputs:diffuseColor.connect = </m/t.outputs:rgb>
        float inputs:roughness = 0.25
        token outputs:surface
    }
    def Shader "t"
    {
        uniform token info:id = "UsdUVTexture"
        asset inputs:file = @textures/q.png@
        token inputs:wrapS = "repeat"
        token inputs:wrapT = "repeat"
        float2 inputs:st.connect = </m/r.outputs:result>
        float3 outputs:rgb
    }
    def Shader "r"
    {
        uniform token info:id = "UsdPrimvarReader_float2"
        string inputs:varname = "map1"
        float2 outputs:result
    }
}
"""


def quad(name: str = "quad", more: str = "", material: str = "", transform: str = "") -> str:
    """One square of side 1, counter-clockwise, with coordinates by corner."""
    bound = f"rel material:binding = </{material}>" if material else ""
    api = '(prepend apiSchemas = ["MaterialBindingAPI"])' if material else ""
    return f"""
def Mesh "{name}" {api}
{{
    int[] faceVertexCounts = [4]
    int[] faceVertexIndices = [0, 1, 2, 3]
    point3f[] points = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    texCoord2f[] primvars:map1 = [(0, 0), (1, 0), (1, 1), (0, 1)] (interpolation = "faceVarying")
    int[] primvars:map1:indices = [0, 1, 2, 3]
    uniform token subdivisionScheme = "none"
    {bound}
    {transform}
    {more}
}}
"""


def stage(folder: Path, body: str, head: str = HEAD, name: str = "a.usda") -> Path:
    (folder / name).write_text(head + body)
    return folder / name


def test_a_texture_by_corners_arrives(tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    picture(tmp_path / "textures" / "q.png")
    opened = open_file(stage(tmp_path, quad(material="m") + TEXTURED))
    mesh = mesh_of(opened)
    assert_pictured(mesh)
    assert not opened.unlit and opened.lost == [] and mesh.wrap == ("repeat", "repeat")
    assert mesh.metallic_roughness is not None
    assert mesh.metallic_roughness[0, 0].tolist() == pytest.approx([0, 0.25])


@pytest.mark.parametrize("suffix", ["usdc", "usd", "usdz"])
def test_every_container_holds_the_same(suffix: str, tmp_path: Path) -> None:
    from pxr import Usd, UsdUtils

    (tmp_path / "textures").mkdir()
    picture(tmp_path / "textures" / "q.png")
    source = stage(tmp_path, quad(material="m") + TEXTURED)
    target = tmp_path / f"b.{suffix}"
    if suffix == "usdz":
        assert UsdUtils.CreateNewUsdzPackage(str(source), str(target))
        (tmp_path / "textures" / "q.png").unlink()
    else:
        Usd.Stage.Open(str(source)).Export(str(target))
    assert_pictured(read_mesh(target))


def test_units_axes_transforms_and_hands(tmp_path: Path) -> None:
    """A Z-up stage in centimetres, a moved parent, a mirrored left-handed child: the front stays the front."""
    head = HEAD.replace("metersPerUnit = 1", "metersPerUnit = 0.01").replace('"Y"', '"Z"')
    child = quad(more='uniform token orientation = "leftHanded"', transform=(
        'double3 xformOp:scale = (-100, 100, 100)\nuniform token[] xformOpOrder = ["xformOp:scale"]'
    ))  # fmt: skip
    body = 'def Xform "p"\n{\ndouble3 xformOp:translate = (0, 0, 200)\n'
    body += 'uniform token[] xformOpOrder = ["xformOp:translate"]\n' + child + "}\n"
    mesh = read_mesh(stage(tmp_path, body, head))
    # In the file: x from -1 to 0, y from 0 to 1, z = 2 (metres); ours: (x, y, z) -> (x, z, -y).
    assert torch.allclose(mesh.vertices.amin(0), torch.tensor([-1.0, 2, -1]), atol=1e-6)
    assert torch.allclose(mesh.vertices.amax(0), torch.tensor([0.0, 2, 0]), atol=1e-6)
    a, b, c = mesh.vertices[mesh.faces[0]]
    # Left-handed, it faces -z in its own space, and a mirror along x leaves that as it is: down.
    assert torch.linalg.cross(b - a, c - a)[1] < 0


def test_subsets_have_their_own_materials(tmp_path: Path) -> None:
    colored = "".join(
        f'def Material "{name}"\n{{\ntoken outputs:surface.connect = </{name}/s.outputs:surface>\n'
        f'def Shader "s"\n{{\nuniform token info:id = "UsdPreviewSurface"\n'
        f"color3f inputs:diffuseColor = {color}\ntoken outputs:surface\n}}\n}}\n"
        for name, color in (("red", "(1, 0, 0)"), ("blue", "(0, 0, 1)"))
    )
    two = """
def Mesh "two" (prepend apiSchemas = ["MaterialBindingAPI"])
{
    int[] faceVertexCounts = [4, 4]
    int[] faceVertexIndices = [0, 1, 2, 3, 1, 4, 5, 2]
    point3f[] points = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0), (2, 1, 0)]
    uniform token subdivisionScheme = "none"
    rel material:binding = </red>
    def GeomSubset "right" (prepend apiSchemas = ["MaterialBindingAPI"])
    {
        uniform token elementType = "face"
        uniform token familyName = "materialBind"
        int[] indices = [1]
        rel material:binding = </blue>
    }
}
"""
    mesh = read_mesh(stage(tmp_path, two + colored))
    assert seen(mesh, 0.9, 0.5) == pytest.approx([1, 0, 0], abs=1e-3)
    assert seen(mesh, 1.1, 0.5) == pytest.approx([0, 0, 1], abs=1e-3)


def test_display_colors_are_linear_and_of_any_interpolation(tmp_path: Path) -> None:
    one = quad(more="color3f[] primvars:displayColor = [(0.5, 0.5, 0.5)]")
    assert seen(read_mesh(stage(tmp_path, one)), 0.5, 0.5) == pytest.approx([0.7354] * 3, abs=1e-3)
    each = 'color3f[] primvars:displayColor = [(1,0,0), (0,1,0), (0,0,1), (1,1,0)] (interpolation = "vertex")'
    mesh = read_mesh(stage(tmp_path, quad(more=each)))
    assert seen(mesh, 0, 0) == pytest.approx([1, 0, 0], abs=1e-3)
    assert seen(mesh, 1, 1) == pytest.approx([0, 0, 1], abs=1e-3)


def test_instances_hidden_prims_and_what_is_no_mesh(tmp_path: Path) -> None:
    body = (
        'def PointInstancer "many"\n{\nint[] protoIndices = [0, 0]\n'
        "point3f[] positions = [(0, 0, 0), (5, 0, 0)]\nrel prototypes = </many/quad>\n" + quad() + "}\n"
        + quad("gone", more='token visibility = "invisible"') + 'def Sphere "ball"\n{\n}\n'
        + quad("cage", transform='double3 xformOp:translate = (0, 3, 0)\n'
               'uniform token[] xformOpOrder = ["xformOp:translate"]').replace('"none"', '"catmullClark"')
    )  # fmt: skip
    opened = open_file(stage(tmp_path, body))
    mesh = mesh_of(opened)
    assert len(mesh.faces) == 6
    assert mesh.vertices.amax(0).tolist() == [6, 4, 0]
    assert opened.lost == ["1 prim of type Sphere", "subdivision (its surfaces are read as their cages)"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (quad(material="m") + TEXTURED, r"the picture of /m/t 'textures/q.png' is missing"),
        ('def Sphere "ball"\n{\n}\n', r"it holds no meshes \(it holds 1 of type Sphere\)"),
        (quad().replace("[4]", "[5]"), "do not add up"),
        (
            quad().replace("[0, 1, 2, 3]\n    point", "[0, 1, 2, 9]\n    point"),
            "names a point that is not there",
        ),
        ("def Mesh {", "not a sound USD file"),
    ],
)
def test_what_cannot_be_read_is_one_line(body: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ThreedistillError, match=reason):
        read_mesh(stage(tmp_path, body))


def test_a_picture_outside_its_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(tmp_path / "q.png")
    body = quad(material="m") + TEXTURED.replace("textures/q.png", "../q.png")
    with pytest.raises(ThreedistillError, match="lies outside its folder"):
        read_mesh(stage(tmp_path / "in", body))


def test_without_its_library_usd_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    path = stage(tmp_path, quad())
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pxr" else find(name))
    with pytest.raises(ThreedistillError, match=r"pip install 'threedistill\[usd\]'"):
        read_mesh(path)


def test_usd_is_converted_from_the_command_line(command: Callable, workspace: Path) -> None:
    stage(workspace, quad())
    assert command("convert", "a.usda", "a.glb").status == 0
    assert len(read_mesh(workspace / "a.glb").faces) == 2
