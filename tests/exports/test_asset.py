"""Settings, the order of the steps, and the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.exports.objects import SIDES, Solid, box, cube, letter_f
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.asset import ExportSettings, build_asset
from threedistill.exports.meshes.surface import is_watertight, welded
from threedistill.exports.video import write_sheet, write_turntable
from threedistill.types import Mesh


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"texture_size": 500}, "export.texture_size=500 must be a power of two"),
        ({"faces": 4}, r"export.faces=4 must lie in \[12, "),
        ({"unit_size": 0.0}, "export.unit_size=0"),
        ({"keep_fraction": 1.5}, "export.keep_fraction=1.5"),
        ({"formats": ()}, "export.formats is empty"),
        ({"formats": ("fbx",)}, "no format 'fbx'"),
        ({"up": "x"}, "export.up='x' must be y or z"),
        ({"origin": "top"}, "export.origin='top'"),
        ({"sh_degree": 4}, r"export.sh_degree=4 must lie in \[0, 3\]"),
        ({"splat_up": "x"}, "export.splat_up='x' must be -y, y or z"),
        ({"normal_map": True}, "export.normal_map needs export.unlit=false"),
        ({"normal_map": True, "unlit": False, "texture_size": 0}, "needs a texture"),
        ({"turntable_passes": ()}, "export.turntable_passes is empty"),
    ],
)
def test_settings_are_checked(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ExportSettings(**change)


def test_an_asset_has_everything_within_budget(f_asset: Mesh) -> None:
    assert len(f_asset.faces) <= 1200 and is_watertight(welded(f_asset).faces)
    assert f_asset.texture is not None and f_asset.texture.shape == (256, 256, 3)
    assert f_asset.normals is not None and f_asset.normals.norm(dim=1) == pytest.approx(1.0, abs=1e-5)
    extent = f_asset.vertices.amax(0) - f_asset.vertices.amin(0)
    assert extent.max() == pytest.approx(1.0) and extent.argmax() == 1
    assert str(f_asset.extras["texture layout"]).startswith("xatlas")


def test_without_texture_there_are_vertex_colours_only() -> None:
    asset = build_asset(
        cube(), ExportSettings(resolution=24, faces=500, texture_size=0, origin="base", unit_size=3)
    )
    assert asset.texture is None and asset.uv is None and asset.colors is not None
    assert asset.vertices[:, 1].min() == pytest.approx(0, abs=1e-6)
    assert (asset.vertices.amax(0) - asset.vertices.amin(0)).max() == pytest.approx(3, abs=1e-5)
    assert set(map(tuple, asset.colors.tolist())) <= set(map(tuple, SIDES.tolist()))


def test_colours_are_asked_in_the_fields_own_frame() -> None:
    """A small box far from the origin: the field must be asked there, not at the normalised place."""
    asked: list[torch.Tensor] = []

    def color(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        asked.append(points)
        assert (normals.norm(dim=1) - 1).abs().max() < 1e-4
        return torch.full_like(points, 0.5)

    solid = Solid(lambda p: box(p, (0.6, 0.5, -0.5), (0.1, 0.2, 0.1)), color)
    build_asset(solid, ExportSettings(resolution=64, faces=500, texture_size=64))
    points = torch.cat(asked)
    assert solid.distance(points).abs().max() < 0.03


def test_torn_decimations_fall_back_to_a_coarser_extraction(monkeypatch: pytest.MonkeyPatch) -> None:
    import fast_simplification

    def tearing(points, faces, target_count, agg):
        return points, faces[:target_count]

    monkeypatch.setattr(fast_simplification, "simplify", tearing)
    solid = letter_f()
    asset = build_asset(solid, ExportSettings(resolution=64, faces=1000, texture_size=0))
    assert len(solid.extractions) > 1 and solid.extractions == sorted(solid.extractions, reverse=True)
    assert len(asset.faces) <= 1000 and is_watertight(asset.faces)


def test_nothing_to_extract_is_an_error() -> None:
    with pytest.raises(ThreedistillError, match="extraction: the mesh is empty"):
        build_asset(Solid(lambda p: torch.ones(p.shape[:-1]), lambda p, n: p), ExportSettings(resolution=8))


def test_turntable_and_sheet_show_the_object(cube_asset: Mesh, tmp_path: Path) -> None:
    write_turntable(cube_asset, tmp_path / "t.webp", frames=8, size=48, fps=10)
    with Image.open(tmp_path / "t.webp") as film:
        assert film.n_frames == 8 and film.size == (48, 48)  # pyright: ignore[reportAttributeAccessIssue]
        assert film.info["loop"] == 0
    write_sheet(cube_asset, tmp_path / "s.png", views=4, size=48)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (4 * 48, 3 * 48)
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))) / 255
    for column, side in enumerate((4, 0, 5, 1)):  # front +z, then round by +x
        middle = pixels[28, column * 48 + 24]
        assert (middle - SIDES[side]).abs().max() < 0.02
        normal = pixels[48 + 28, column * 48 + 24] * 2 - 1
        expected = torch.zeros(3)
        expected[side // 2] = 1 - 2 * (side % 2)
        assert (normal - expected).abs().max() < 0.05
    assert (pixels[0, 0] == 1).all()


def test_depth_is_bright_where_near(cube_asset: Mesh) -> None:
    """The middle of the front against the analytic distance; black where there is nothing."""
    from threedistill.cameras import orbit
    from threedistill.exports.video import render_orbit

    picture = render_orbit(cube_asset, 1, 65, "depth", elevation=0.0)[0]
    assert not picture[0, 0].any() and torch.equal(picture[..., 0], picture[..., 2])
    radius = 0.75**0.5  # half the diagonal of the unit cube, which becomes 1
    distance = float(orbit(1, elevation=0.0, size=65).distance[0])
    expected = 1 - 0.45 * ((distance - 0.5 / radius) - (distance - 1))
    assert picture[32, 32, 0] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_films_show_their_passes_side_by_side(suffix: str, cube_asset: Mesh, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    write_turntable(cube_asset, path, frames=6, size=40, fps=10, passes=("color", "normal", "depth"))
    with Image.open(path) as film:
        assert film.n_frames == 6 and film.size == (120, 40)  # pyright: ignore[reportAttributeAccessIssue]
        assert film.info["loop"] == 0
        first = torch.from_numpy(np.array(film.convert("RGB"))) / 255
        film.seek(3)
        film.load()
        assert film.info["duration"] == 100
        half = torch.from_numpy(np.array(film.convert("RGB"))) / 255
    assert (first[24, 20] - SIDES[4]).abs().max() < 0.1 and (half[24, 20] - SIDES[5]).abs().max() < 0.1
    assert (first[24, 60] - torch.tensor([0.5, 0.5, 1.0])).abs().max() < 0.1  # the front's normal is +z
    assert (first[0, 119] < 0.02).all()


def test_mp4_has_the_frames_and_the_size(cube_asset: Mesh, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="mp4 needs imageio-ffmpeg")
    path = tmp_path / "t.mp4"
    write_turntable(cube_asset, path, frames=12, size=49, fps=24)  # odd: one more row and column
    frames = ffmpeg.read_frames(str(path))
    facts = next(frames)
    decoded = [torch.frombuffer(bytearray(f), dtype=torch.uint8).view(50, 50, 3) / 255 for f in frames]
    assert facts["size"] == (50, 50) and facts["fps"] == 24 and len(decoded) == 12
    assert (decoded[0][29, 24] - SIDES[4]).abs().max() < 0.1  # chroma is halved and quantised
    assert (decoded[6][29, 24] - SIDES[5]).abs().max() < 0.1


def test_turntables_have_three_suffixes(
    cube_asset: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    with pytest.raises(UsageError, match=r"a turntable is \.webp, \.gif or \.mp4"):
        write_turntable(cube_asset, tmp_path / "t.avi")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match=r"pip install 'threedistill\[video\]'"):
        write_turntable(cube_asset, tmp_path / "t.mp4")
    assert not list(tmp_path.iterdir())
