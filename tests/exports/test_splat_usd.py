"""Splats in USD: Pixar's validators, the package's layout, what its library reads, and stages of other writers."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.exports.clouds import FIELDS, axes, cloud, covariances
from tests.exports.test_usd_read import quad
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.foreign.isolated import isolated
from threedistill.exports.read import open_file
from threedistill.exports.settings import FileSettings
from threedistill.exports.splat_files import read_splats, write_splats
from threedistill.exports.splats.cloud import rotated
from threedistill.types import Splats

pytest.importorskip("pxr", reason="splats in USD need usd-core")


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).abs().max())


@pytest.mark.parametrize("degree", [0, 3])
def test_pixars_validators_find_nothing(degree: int, tmp_path: Path) -> None:
    from pxr import Usd, UsdValidation

    write_splats(cloud(degree=degree), tmp_path / "s.usdz")
    stage = Usd.Stage.Open(str(tmp_path / "s.usdz"))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    found = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [f"{e.GetName()}: {e.GetMessage()}" for e in found] == []
    assert [p.GetTypeName() for p in stage.Traverse()] == ["Xform", "ParticleField3DGaussianSplat"]
    broken = Usd.Stage.CreateInMemory()  # the validators do find things
    assert len(UsdValidation.ValidationContext(validators).Validate(broken)) > 0


def test_the_package_begins_with_a_layer_on_a_multiple_of_64_bytes(tmp_path: Path) -> None:
    write_splats(cloud(), tmp_path / "a b-1.usdz")
    data = (tmp_path / "a b-1.usdz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a b-1.usdz") as package:
        (entry,) = package.infolist()
    assert entry.filename == "a_b_1.usdc" and entry.compress_type == zipfile.ZIP_STORED
    name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    assert start % 64 == 0 and data[start : start + 8] == b"PXR-USDC"
    (tmp_path / "sub").mkdir()
    write_splats(cloud(), tmp_path / "sub" / "a b-1.usdz")
    assert (tmp_path / "sub" / "a b-1.usdz").read_bytes() == data


@pytest.mark.parametrize("up", ["y", "z"])
def test_the_library_finds_every_number(up, tmp_path: Path) -> None:
    """Read without us: units, axes, linear scales, opacities, quaternions, harmonics, the box."""
    from pxr import Usd, UsdGeom, UsdVol

    splats = cloud(degree=2)
    write_splats(splats, tmp_path / "s.usdz", FileSettings(splat_up=up))
    stage = Usd.Stage.Open(str(tmp_path / "s.usdz"))
    assert UsdGeom.GetStageUpAxis(stage) == up.upper() and UsdGeom.GetStageMetersPerUnit(stage) == 1
    field = UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim().GetChildren()[0])
    points = np.array(field.GetPositionsAttr().Get())
    expected = splats if up == "y" else rotated(splats, torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
    assert np.allclose(points, expected.means, atol=1e-6)
    assert np.allclose(field.GetScalesAttr().Get(), splats.log_scales.exp(), rtol=1e-5)
    assert np.allclose(field.GetOpacitiesAttr().Get(), splats.opacity_logits.sigmoid(), atol=1e-6)
    for k in (0, 7):
        quaternion = field.GetOrientationsAttr().Get()[k]
        given = torch.tensor([quaternion.GetReal(), *quaternion.GetImaginary()])[None].repeat(200, 1)
        turned = axes(Splats(splats.means, splats.log_scales, given, splats.opacity_logits, splats.sh))[k]
        assert worst(turned, axes(expected)[k]) < 1e-5
    assert field.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 2
    harmonics = np.array(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get()).reshape(200, 9, 3)
    assert np.allclose(harmonics, expected.sh, atol=1e-6)
    low, high = np.array(field.GetExtentAttr().Get())
    reach = 3 * splats.log_scales.exp().amax(1).numpy()[:, None]
    assert np.allclose(low, (points - reach).min(0)) and np.allclose(high, (points + reach).max(0))


@pytest.mark.parametrize("up", [None, "z"])
def test_a_cloud_comes_back(up, tmp_path: Path) -> None:
    splats = cloud(degree=3)
    write_splats(splats, tmp_path / "s.usdz", FileSettings(splat_up=up))
    opened = open_file(tmp_path / "s.usdz")
    found = opened.asset
    assert isinstance(found, Splats) and opened.lost == [] and opened.notes == []
    assert found.extras == splats.extras
    for name in FIELDS:
        if name != "quaternions":
            assert worst(getattr(found, name), getattr(splats, name)) < 2e-5, name
    assert worst(covariances(found), covariances(splats)) < 1e-6


def stage_of(path: Path, text: str, header: str = 'upAxis = "Y"\n metersPerUnit = 1') -> Path:
    path.write_text(f"#usda 1.0\n(\n {header}\n)\n{text}")
    return path


FIELD = """def ParticleField3DGaussianSplat "{name}" {{
 point3{h}[] positions{h2} = [(1, 0, 0), (0, 2, 0)]
 {more}
}}
"""


def test_what_a_field_does_not_say_is_the_schemas_default(tmp_path: Path) -> None:
    """No orientation: none; no scale: 1; no opacity: 1; no harmonics: grey; also where an array is too short."""
    more = "float[] opacities = [0.25]\n quatf[] orientations = [(1, 0, 0, 0)]"
    for text in ("", more):
        path = stage_of(tmp_path / "s.usda", FIELD.format(name="a", h="f", h2="", more=text))
        found = read_splats(path)
        assert found.means.tolist() == [[1, 0, 0], [0, 2, 0]] and not found.log_scales.any()
        assert found.quaternions.tolist() == [[1, 0, 0, 0]] * 2 and float(found.opacity_logits.min()) > 13
        assert found.sh.shape == (2, 1, 3) and not found.sh.any()


def test_halves_units_axes_and_several_fields(tmp_path: Path) -> None:
    """Centimetres, +Z up; a field of halves below a transform, one too long, one hidden, one of another kernel."""
    more = """half3[] scalesh = [(1, 2, 4), (1, 1, 1)]
 half[] opacitiesh = [0.5, 1]
 uniform int radiance:sphericalHarmonicsDegree = 0
 half3[] radiance:sphericalHarmonicsCoefficientsh = [(1, 0, -1), (0, 0, 0)]"""
    text = 'def Xform "top" {\n double3 xformOp:translate = (0, 0, 100)\n double3 xformOp:scale = (2, 2, 2)\n'
    text += ' uniform token[] xformOpOrder = ["xformOp:translate", "xformOp:scale"]\n'
    text += FIELD.format(name="a", h="h", h2="h", more=more) + "}\n"
    text += FIELD.format(name="long", h="f", h2="", more="float[] opacities = [0.5, 0.5, 0.1, 0.1]")
    text += FIELD.format(name="hidden", h="f", h2="", more='token visibility = "invisible"')
    text += 'def ParticleField "other" {\n point3f[] positions = [(0, 0, 0)]\n}\ndef Sphere "ball" {}\n'
    path = stage_of(tmp_path / "s.usda", text, 'upAxis = "Z"\n metersPerUnit = 0.01')
    opened = open_file(path)
    found = opened.asset
    assert isinstance(found, Splats) and opened.frame is not None and opened.frame.up == "z"
    # (x, y, z) with z up is (x, z, -y) with y up.
    expected = torch.tensor([[0.02, 1, 0], [0, 1, -0.04], [0.01, 0, 0], [0, 0, -0.02]])
    assert worst(found.means, expected) < 1e-6
    shape = torch.diag(torch.tensor([0.02, 0.08, 0.04]) ** 2).double()
    assert worst(covariances(found)[0], shape) < 1e-7
    assert worst(found.opacity_logits.sigmoid(), torch.tensor([0.5, 1, 0.5, 0.5])) < 1e-5
    assert found.sh[0, 0].tolist() == [1, 0, -1]
    assert opened.lost == [
        "1 hidden particle fields", "1 particle fields that are no Gaussians", "1 prims of type Sphere",
    ]  # fmt: skip


def test_surflets_are_flat_splats(tmp_path: Path) -> None:
    text = """def ParticleField "a" (prepend apiSchemas = ["ParticleFieldPositionAttributeAPI",
  "ParticleFieldScaleAttributeAPI", "ParticleFieldKernelGaussianSurfletAPI"]) {
 point3f[] positions = [(0, 0, 0)]
 float3[] scales = [(1, 2, 3)]
}"""
    opened = open_file(stage_of(tmp_path / "s.usda", text))
    assert isinstance(opened.asset, Splats) and "flat" in opened.notes[0]
    scales = opened.asset.log_scales[0].exp().tolist()
    assert scales[:2] == pytest.approx([1, 2]) and scales[2] == pytest.approx(0.01)


def test_shears_and_mirrors_are_carried_out(tmp_path: Path) -> None:
    """Every covariance becomes A S A^T; a colour that is red seen from +x is red seen from -x in the mirror."""
    matrix = "((-1, 0, 0, 0), (0, 2, 0, 0), (0.5, 0, 1, 0), (3, 0, 0, 1))"
    more = """float3[] scales = [(0.1, 0.2, 0.3), (0.1, 0.1, 0.1)]
 uniform int radiance:sphericalHarmonicsDegree = 1
 float3[] radiance:sphericalHarmonicsCoefficients = [(0, 0, 0), (0, 0, 0), (0, 0, 0), (-1, 0, 0),
  (0, 0, 0), (0, 0, 0), (0, 0, 0), (-1, 0, 0)]"""
    text = f'def Xform "top" {{\n matrix4d xformOp:transform = {matrix}\n'
    text += ' uniform token[] xformOpOrder = ["xformOp:transform"]\n'
    path = stage_of(tmp_path / "s.usda", text + FIELD.format(name="a", h="f", h2="", more=more) + "}\n")
    found = read_splats(path)
    a = torch.tensor([[-1, 0, 0.5], [0, 2, 0], [0, 0, 1]]).double()  # USD writes matrices for rows
    assert worst(found.means, torch.tensor([[2.0, 0, 0], [3, 4, 0]])) < 1e-6
    expected = a @ torch.diag(torch.tensor([0.01, 0.04, 0.09]).double()) @ a.T
    assert worst(covariances(found)[0], expected) < 1e-6
    from threedistill.render.harmonics import basis

    x = torch.tensor([[1.0, 0, 0]])
    there = float((basis(x, 1)[:, :, None] * found.sh[0]).sum(1)[0, 0])
    back = float((basis(-x, 1)[:, :, None] * found.sh[0]).sum(1)[0, 0])
    assert back > 0.3 and there == pytest.approx(-back)  # before, +x was red


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('def Xform "a" {}', "it holds no splats"),
        ('def ParticleField3DGaussianSplat "a" {}', "it holds no splats"),
        ("def nonsense (((", "not a sound USD file"),
    ],
)
def test_what_is_no_cloud_is_refused_in_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = stage_of(tmp_path / "s.usda", text)
    with pytest.raises(ThreedistillError, match=line) as caught:
        read_splats(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("place", ["within", "the list of files", "its last record"])
def test_packages_that_are_cut_off_are_refused(place: str, tmp_path: Path) -> None:
    """The library finds files from the beginning on, and would take a package without its list for whole."""
    write_splats(cloud(20), tmp_path / "s.usdz")
    whole = (tmp_path / "s.usdz").read_bytes()
    with zipfile.ZipFile(tmp_path / "s.usdz") as package:
        keep = {
            "within": len(whole) // 2,
            "the list of files": package.start_dir,
            "its last record": len(whole) - 3,
        }
    (tmp_path / "s.usdz").write_bytes(whole[: keep[place]])
    with pytest.raises(ThreedistillError, match=r"cannot read .*s\.usdz"):
        read_splats(tmp_path / "s.usdz")


@pytest.mark.parametrize("holds", ["mesh", "splats"])
def test_convert_asks_once_what_a_binary_file_holds(
    holds: str, command: Callable, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded where processes start: one that looks (without taking arrays out), one that reads."""
    import subprocess

    from pxr import Usd

    splats = 'def Xform "Particle" {}\n' + "\n".join(
        FIELD.format(name=f"f{k}", h="f", h2="", more="") for k in range(3)
    )
    square = quad() if holds == "mesh" else splats
    Usd.Stage.Open(str(stage_of(workspace / "a.usda", square))).Export("a.usdc")
    assert b"ParticleField" not in Path("a.usdc").read_bytes()  # compressed: only the library knows
    started: list[str] = []
    run = subprocess.run

    def recording(arguments: list[str], **more: Any) -> Any:
        started.append(arguments[3].rpartition(":")[2])
        return run(arguments, **more)

    monkeypatch.setattr("threedistill.exports.foreign.isolated.subprocess.run", recording)
    assert command("convert", "a.usdc", "b.ply").status == 0
    assert started == ["holds_splats", "meshes_in" if holds == "mesh" else "splats_in"]
    arrays, facts = isolated("threedistill.exports.usd.library:holds_splats", Path("a.usdc"))
    assert arrays == {} and facts == {"splats": holds == "splats"}


def test_convert_writes_and_reads_it(command: Callable, workspace: Path) -> None:
    write_splats(cloud(30, degree=1), workspace / "a.ply")
    assert command("convert", "a.ply", "b.usdz").status == 0
    assert command("convert", "b.usdz", "c.ply").status == 0
    assert worst(read_splats("c.ply").means, read_splats("a.ply").means) < 1e-6
    with pytest.raises(UsageError, match=r"USD files are \+Y or \+Z up"):
        write_splats(cloud(3), "d.usdz", FileSettings(splat_up="-y"))
