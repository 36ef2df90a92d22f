"""USDZ: Pixar's validators, the package's layout, and the object read back through their library."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.exports.objects import SIDES
from tests.exports.test_formats import assert_reads_as_f
from tests.exports.test_materials import LIT, metal_ball
from threedistill.exports.asset import ExportSettings, build_asset, write_mesh
from threedistill.types import Mesh

KINDS = ("textured", "lit", "vertex colours", "plain", "materials")


def variant(kind: str, mesh: Mesh) -> tuple[Mesh, ExportSettings]:
    settings = ExportSettings(unlit=kind != "lit")
    if kind == "vertex colours":
        mesh = replace(mesh, texture=None, uv=None)
    elif kind == "plain":
        mesh = Mesh(mesh.vertices, mesh.faces)
    elif kind == "materials":
        mesh, settings = build_asset(metal_ball(), LIT), LIT
    return mesh, settings


@pytest.mark.parametrize("kind", KINDS)
def test_pixars_validators_find_nothing(kind: str, cube_asset: Mesh, tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="USD's validators need usd-core")
    from pxr import Usd, UsdValidation

    mesh, settings = variant(kind, cube_asset)
    write_mesh(mesh, tmp_path / "m.usdz", settings)
    stage = Usd.Stage.Open(str(tmp_path / "m.usdz"))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    found = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [f"{e.GetName()}: {e.GetMessage()}" for e in found] == []
    broken = Usd.Stage.CreateInMemory()  # the validators do find things
    assert len(UsdValidation.ValidationContext(validators).Validate(broken)) > 0


@pytest.mark.parametrize("up", ["y", "z"])
def test_an_f_keeps_its_hand_and_its_up(up, f_asset: Mesh, tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="reading USD needs usd-core")
    from pxr import Usd, UsdGeom

    write_mesh(f_asset, tmp_path / "m.usdz", ExportSettings(up=up))
    stage = Usd.Stage.Open(str(tmp_path / "m.usdz"))
    assert UsdGeom.GetStageUpAxis(stage) == up.upper() and UsdGeom.GetStageMetersPerUnit(stage) == 1
    root = stage.GetDefaultPrim()
    assert root and Usd.ModelAPI(root).GetKind() == "component"
    surface = UsdGeom.Mesh(stage.GetPrimAtPath(root.GetPath().AppendChild("surface")))
    points = np.array(surface.GetPointsAttr().Get())
    faces = np.array(surface.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    assert np.allclose(surface.GetExtentAttr().Get(), [points.min(0), points.max(0)])
    if up == "z":
        points = points @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # (x, y, z) -> (x, z, -y)
    mesh = trimesh.Trimesh(points, faces, process=False)
    assert np.allclose(mesh.extents, np.array([0.87, 1.4, 0.52]) / 1.4, atol=0.02)
    assert surface.GetOrientationAttr().Get() == "rightHanded"
    assert_reads_as_f(mesh)


def test_colours_are_found_through_the_network(cube_asset: Mesh, tmp_path: Path) -> None:
    """From the bound material to the picture, as a renderer goes; then the colour at each face's coordinates."""
    pytest.importorskip("pxr", reason="reading USD needs usd-core")
    from PIL import Image
    from pxr import Usd, UsdGeom, UsdShade

    for unlit, name in ((True, "emissiveColor"), (False, "diffuseColor")):
        path = tmp_path / f"{name}.usdz"  # USD remembers what it has opened
        write_mesh(cube_asset, path, ExportSettings(unlit=unlit))
        stage = Usd.Stage.Open(str(path))
        prim = next(p for p in stage.Traverse() if p.IsA(UsdGeom.Mesh))
        material = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()[0]
        shader = material.ComputeSurfaceSource()[0]
        assert shader.GetIdAttr().Get() == "UsdPreviewSurface"
        texture = UsdShade.Shader(shader.GetInput(name).GetConnectedSources()[0][0].source.GetPrim())
        assert texture.GetInput("sourceColorSpace").Get() == "sRGB"
        inside = texture.GetInput("file").Get().path
        with zipfile.ZipFile(path) as package, Image.open(package.open(inside)) as picture:
            pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).astype(np.float32) / 255)
        st = torch.from_numpy(np.array(UsdGeom.PrimvarsAPI(prim).GetPrimvar("st").Get()))
        faces = torch.from_numpy(
            np.array(UsdGeom.Mesh(prim).GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
        ).long()
        points = torch.from_numpy(np.array(UsdGeom.Mesh(prim).GetPointsAttr().Get()))[faces]
        uv, centre = st[faces].mean(1), points.mean(1)
        size = len(pixels)
        color = pixels[((1 - uv[:, 1]) * size).long(), (uv[:, 0] * size).long()]
        inner = points.abs().sort(-1).values[:, :, 1].amax(1) < 0.4
        axis = centre.abs().argmax(1)
        side = axis * 2 + (centre.gather(1, axis[:, None])[:, 0] < 0)
        assert inner.sum() > 20 and (color[inner] - SIDES[side[inner]]).abs().max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_stored_at_multiples_of_64_bytes(kind: str, cube_asset: Mesh, tmp_path: Path) -> None:
    """Read from the local headers, as a reader that maps the package does."""
    mesh, settings = variant(kind, cube_asset)
    path = tmp_path / "a red cube.usdz"
    write_mesh(mesh, path, settings)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as package:
        assert package.testzip() is None
        entries = package.infolist()
    assert entries[0].filename == "a_red_cube.usda"
    assert len(entries) == {"plain": 1, "vertex colours": 1, "materials": 4}.get(kind, 2)
    for entry in entries:
        name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
        begin = entry.header_offset + 30 + name + extra
        assert begin % 64 == 0 and entry.compress_type == zipfile.ZIP_STORED
        assert data[begin : begin + 4] in (b"#usd", b"\x89PNG")
    assert entries[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_facts_with_any_characters_travel_along(cube_asset: Mesh, tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="reading USD needs usd-core")
    import json

    from pxr import Usd

    prompt = 'a "quoted" \\ back\nslash, “schön” @asset@ </path> {x} \u4e2d'
    write_mesh(replace(cube_asset, extras={"prompt": prompt}), tmp_path / "1 über.usdz")
    stage = Usd.Stage.Open(str(tmp_path / "1 über.usdz"))
    facts = json.loads(stage.GetRootLayer().customLayerData["facts"])
    assert facts == {"prompt": prompt}
    assert stage.GetDefaultPrim().GetName() == "_1__ber"
