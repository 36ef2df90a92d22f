"""The table of formats: what it says is what files hold, and everything looks it up."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.exports.clouds import cloud
from threedistill.errors import UsageError
from threedistill.exports.aspects import aspects
from threedistill.exports.formats import (
    FORMATS,
    Format,
    format_of,
    later,
    markdown,
    readable_suffixes,
    writable_suffixes,
)
from threedistill.exports.frames import AXES, Frame, frame_of
from threedistill.exports.read import open_file
from threedistill.exports.settings import AssetSettings, ExportSettings, FileSettings
from threedistill.exports.write import write_file
from threedistill.types import Mesh, Splats

ROOT = Path(__file__).resolve().parents[2]
BOTH_WAYS = [name for name, row in FORMATS.items() if row.read and row.write]


def place(function: object) -> object:
    """The function behind a row's lazy one."""
    module, _, name = str(function.__doc__).partition(":")
    return getattr(__import__(module, fromlist=[name]), name)


@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_and_writer_is_there_with_the_tables_signature(name: str) -> None:
    row = FORMATS[name]
    if row.read:
        assert len(inspect.signature(place(row.read)).parameters) == 1  # type: ignore[arg-type]
    if row.sniff:
        assert len(inspect.signature(place(row.sniff)).parameters) == 1  # type: ignore[arg-type]
    assert row.read or row.write
    if row.write is None:
        return
    names = list(inspect.signature(place(row.write)).parameters)  # type: ignore[arg-type]
    assert names[1:] == ["path", "settings", "frame"]
    assert row.suffix == row.suffix.lower() and row.file.endswith(row.suffix)


def rich(f_asset: Mesh) -> Mesh:
    """A mesh with everything that a mesh can have."""
    assert f_asset.texture is not None
    size = f_asset.texture.shape[0]
    blue = torch.tensor([0.5, 0.5, 1.0]).expand(size, size, 3)
    return replace(
        f_asset, normal_map=blue.clone(), metallic_roughness=torch.full((size, size, 2), 0.5),
        extras={"prompt": "an F", "prior_licence": "CC0"},
    )  # fmt: skip


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_format_loses_what_its_row_says_and_nothing_else(name: str, f_asset: Mesh, tmp_path: Path) -> None:
    row = FORMATS[name]
    asset = rich(f_asset) if row.kind == "mesh" else replace(cloud(20, 2), extras={"prompt": "an F"})
    path = tmp_path / row.file
    write_file(asset, path, FileSettings(), row)
    before = aspects(asset, unlit=True)
    opened = open_file(path)
    after = aspects(opened.asset, opened.unlit)
    assert before - set(row.loses) <= after, f"{name} loses more than its row says"
    assert not after & set(row.loses), f"{name} keeps what its row says it loses"


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_file_is_known_by_its_contents(name: str, f_asset: Mesh, tmp_path: Path) -> None:
    row = FORMATS[name]
    path = tmp_path / f"FILE{row.suffix.upper()}"
    write_file(f_asset if row.kind == "mesh" else cloud(9), path, FileSettings(), row)
    assert format_of(path) is row
    if row.begins:
        assert path.read_bytes().startswith(row.begins)


def test_the_documentation_shows_the_table() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert markdown() in page, f"docs/formats.md: put in\n{markdown()}"


@pytest.mark.parametrize("up", AXES)
@pytest.mark.parametrize("front", AXES)
def test_frames_are_rotations_that_bring_up_up_and_the_front_forward(up: str, front: str) -> None:
    def unit(axis: str) -> torch.Tensor:
        return torch.eye(3, dtype=torch.float64)["xyz".index(axis[-1])] * (-1 if axis[0] == "-" else 1)

    if up[-1] == front[-1]:
        with pytest.raises(UsageError, match="one line"):
            Frame(up, front)  # type: ignore[arg-type]
        return
    turn = Frame(up, front).to_ours()  # type: ignore[arg-type]
    assert torch.linalg.det(turn) == 1
    assert torch.equal(turn @ unit(up), torch.tensor([0.0, 1, 0], dtype=torch.float64))
    assert torch.equal(turn @ unit(front), torch.tensor([0.0, 0, 1], dtype=torch.float64))


def test_habits_are_the_documented_ones() -> None:
    assert [frame_of("y").front, frame_of("-y").front, frame_of("z").front] == ["z", "z", "-y"]
    assert FORMATS["stl"].frame == "z" and FORMATS["3dgs"].frame == "-y" and FORMATS["glb"].fixed


@pytest.mark.parametrize("suffix", ["obj", "stl", "ply"])
def test_the_users_axes_are_obeyed_on_reading(suffix: str, f_asset: Mesh, tmp_path: Path) -> None:
    row = FORMATS[suffix]
    write_file(f_asset, tmp_path / row.file, FileSettings(up="y"), row)
    seen = open_file(tmp_path / row.file, up="x", front="-z").asset
    assert isinstance(seen, Mesh)
    scale = 0.1 if suffix == "stl" else 1.0  # the file's x is our up, its -z our front, so its y our left
    points = torch.stack([f_asset.vertices[:, 1], f_asset.vertices[:, 0], -f_asset.vertices[:, 2]], 1) * scale
    assert torch.allclose(seen.vertices.amax(0), points.amax(0), atol=1e-5)
    assert torch.allclose(seen.vertices.amin(0), points.amin(0), atol=1e-5)


def test_settings_of_making_and_of_writing_are_two(f_asset: Mesh) -> None:
    made, written = (set(kind.__dataclass_fields__) for kind in (AssetSettings, FileSettings))
    assert not made & written and set(ExportSettings.__dataclass_fields__) == made | written | {"formats"}


def test_suffixes_are_looked_up() -> None:
    assert set(writable_suffixes("splats")) == {".ply", ".splat", ".spz", ".sog", ".glb", ".usdz"}
    assert ".gltf" in readable_suffixes("mesh") and ".gltf" not in writable_suffixes()
    assert ".mp4" in writable_suffixes() and ".mp4" not in readable_suffixes()


def test_a_row_imports_its_functions_when_they_are_called(clean_python) -> None:
    loaded = clean_python(
        "import sys\nfrom threedistill.exports import formats\nformats.named('glb')\n"
        "print(sorted(m for m in ('torch', 'numpy', 'PIL', 'trimesh') if m in sys.modules))"
    )
    assert loaded.strip() == "[]"
    assert later("math:floor")(2.5) == 2
    assert isinstance(FORMATS["glb"], Format) and isinstance(cloud(2), Splats)
