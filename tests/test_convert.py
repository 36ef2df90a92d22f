"""``threedistill convert`` and ``export``: from file to file, kinds and options, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from tests.exports.clouds import cloud
from tests.exports.objects import ball_with_bands, letter_f
from threedistill.errors import UsageError
from threedistill.exports.asset import ExportSettings, build_asset, write_mesh
from threedistill.exports.formats import FORMATS, of_kind
from threedistill.exports.read import read_mesh
from threedistill.exports.splat_files import read_splats, write_splats
from threedistill.types import Mesh

SMALL = ExportSettings(resolution=40, faces=800, texture_size=64, turntable_frames=0)


@pytest.fixture(scope="module")
def f_mesh() -> Mesh:
    return build_asset(letter_f(), SMALL, {"prompt": "an F"})


@pytest.fixture
def f_file(f_mesh: Mesh, workspace: Path) -> Path:
    write_mesh(f_mesh, workspace / "f.glb", SMALL)
    return workspace / "f.glb"


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "usdz", "glb"])
def test_meshes_keep_their_size_and_their_faces(
    suffix: str, f_file: Path, f_mesh: Mesh, command: Callable
) -> None:
    done = command("convert", "f.glb", f"out.{suffix}")
    assert done.status == 0 and done.out == f"out.{suffix}\n"
    if suffix != "usdz":
        mesh = read_mesh(Path(f"out.{suffix}"))
        assert len(mesh.faces) == len(f_mesh.faces)
        extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
        expected = f_mesh.vertices.amax(0) - f_mesh.vertices.amin(0)
        assert torch.allclose(extent, expected * (0.1 if suffix == "stl" else 1), atol=1e-5)


def test_a_mesh_is_reduced_textured_and_resized(f_file: Path, f_mesh: Mesh, command: Callable) -> None:
    done = command(
        "convert",
        "f.glb",
        "small.glb",
        "--face-budget",
        "200",
        "--texture-size",
        "128",
        "--normal-map",
        "--json",
    )
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["kind"] == "mesh" and facts["faces"] <= 200
    mesh = read_mesh(Path("small.glb"))
    assert mesh.texture is not None and mesh.texture.shape == (128, 128, 3) and mesh.normal_map is not None
    assert torch.allclose(mesh.vertices.amax(0), f_mesh.vertices.amax(0), atol=0.02)  # where it was, as large
    assert (
        command("convert", "f.glb", "big.obj", "--unit-size", "3", "--origin", "base", "--up", "z").status
        == 0
    )
    big = read_mesh(Path("big.obj"))
    assert float(big.vertices[:, 2].max()) == pytest.approx(3, abs=1e-4)
    assert float(big.vertices[:, 2].min()) == pytest.approx(0, abs=1e-4)
    assert command("convert", "big.obj", "back.glb", "--from-up", "z").status == 0
    back = read_mesh(Path("back.glb"))
    assert float(back.vertices[:, 1].max()) == pytest.approx(3, abs=1e-4)


def test_clouds_become_every_format(command: Callable, workspace: Path) -> None:
    splats = replace(cloud(50, degree=2), extras={"prompt": "a cloud"})
    write_splats(splats, workspace / "in.ply")
    for suffix in ("splat", "spz", "sog", "glb", "ply"):
        done = command("convert", "in.ply", f"out.{suffix}", "--sh-degree", "1", "--json")
        assert done.status == 0, done.err
        facts = json.loads(done.out)
        lost = facts.pop("lost", [])
        assert facts == {"file": f"out.{suffix}", "kind": "splats", "splats": 50}
        expected = {"splat": ["view dependence", "facts"], "spz": ["facts"]}.get(suffix, [])
        assert lost == expected and (f"not in out.{suffix}: {', '.join(lost)}" in done.err) == bool(lost)
        assert read_splats(workspace / f"out.{suffix}").sh_degree == (0 if suffix == "splat" else 1)
    assert command("convert", "in.ply", "big.ply", "--unit-size", "10", "--up", "y").status == 0
    means = read_splats(workspace / "big.ply").means
    assert float((means.amax(0) - means.amin(0)).max()) == pytest.approx(10, rel=1e-4)


def test_a_mesh_becomes_splats_and_a_mesh_again(command: Callable, workspace: Path) -> None:
    """A coloured ball there and back: its place, its size and its colours."""
    ball = build_asset(ball_with_bands(), ExportSettings(resolution=32, faces=1500, texture_size=0))
    ball.vertices = ball.vertices * 2 + torch.tensor([5.0, 0, 0])
    write_mesh(ball, workspace / "ball.ply")
    assert command("convert", "ball.ply", "cloud.ply", "--as", "splats", "--splats", "1500").status == 0
    splats = read_splats(workspace / "cloud.ply")
    assert len(splats) == 1500
    distance = (splats.means - torch.tensor([5.0, 0, 0])).norm(dim=1)
    assert (distance - 1).abs().max() < 0.08  # chords, and discs that lie a little inside
    done = command(
        "convert", "cloud.ply", "again.ply", "--as", "mesh", "--texture-size", "0", "--resolution", "48"
    )
    assert done.status == 0, done.err
    again = read_mesh(workspace / "again.ply")
    offset = again.vertices - torch.tensor([5.0, 0, 0])
    assert (offset.norm(dim=1) - 1).abs().mean() < 0.1
    assert (offset.amax(0) + offset.amin(0)).abs().max() < 0.1
    assert again.colors is not None
    expected = ball_with_bands().surface_color(offset / offset.norm(dim=1, keepdim=True) * 0.7, offset)
    assert (again.colors - expected).abs().mean() < 0.1


def test_films_of_a_file(f_file: Path, command: Callable) -> None:
    assert command("convert", "f.glb", "turn.gif").status == 0
    assert command("convert", "f.glb", "sheet.png").status == 0
    assert Path("turn.gif").read_bytes()[:4] == b"GIF8" and Path("sheet.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["f.glb"], 2, "convert takes two files, not 1"),
        (["f.fbx", "o.glb"], 2, "cannot read f.fbx: not one of glb"),
        (["none.glb", "o.obj"], 2, "cannot read none.glb: there is no such file"),
        (["f.glb", "o.fbx"], 2, "cannot write o.fbx"),
        (["f.glb", "o.sogg"], 2, "did you mean .sog?"),
        (["f.glb", "o.obj", "--as", "splats"], 2, "splats are written as ply, splat"),
        (["f.glb", "o.obj", "--sh-degree", "1"], 2, "--sh-degree needs splats"),
        (["f.glb", "o.spz", "--sh-degree", "7"], 2, "--sh-degree must lie between 0 and 3, not 7"),
        (["f.glb", "o.glb", "--texture-size", "100"], 2, "texture_size=100 must be a power of two"),
        (["c.ply", "o.spz", "--face-budget", "100"], 2, "--face-budget needs a mesh"),
        (["c.ply", "o.spz", "--resolution", "99"], 2, "--resolution needs a cloud that becomes a mesh"),
        (["c.ply", "o.spz", "--splats", "100"], 2, "--splats needs a mesh that becomes splats"),
        (["f.glb", "f.glb"], 2, "f.glb exists; replace it with --overwrite"),
        (["lies.glb", "o.obj"], 1, "lies.glb: it is not what its name says, but a ply file"),
        (["lies.ply", "o.spz"], 1, "cannot read lies.ply"),
        (["lies.spz", "o.ply"], 1, "it is not what its name says, but a glb file"),
        (["nan.obj", "o.glb"], 1, "1 of 3 vertices are not finite"),
        (["empty.obj", "o.glb"], 1, "cannot read empty.obj"),
        (["flat.obj", "o.spz"], 1, "flat.obj"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(
    words: list[str], status: int, text: str, f_file: Path, command: Callable, workspace: Path
) -> None:
    write_splats(cloud(5), workspace / "c.ply")
    for name in ("lies.glb", "lies.ply", "lies.spz"):
        (workspace / name).write_bytes(f_file.read_bytes() if name != "lies.glb" else b"ply\nnothing\n" * 9)
    (workspace / "f.fbx").write_bytes(b"fbx")
    (workspace / "nan.obj").write_text("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n")
    (workspace / "empty.obj").write_text("v 0 0 0\n")
    (workspace / "flat.obj").write_text("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n")
    before = sorted(os.listdir())
    done = command("convert", *words)
    assert done.status == status and text in done.err and done.err.count("\n") == 1, done.err
    assert sorted(os.listdir()) == before


def test_odd_meshes_pass_and_huge_ones_do_not(command: Callable, workspace: Path) -> None:
    """Two balls through each other, one of them open: nothing is repaired behind the user's back, nothing fails."""
    one, other = (trimesh.creation.icosphere(subdivisions=2) for _ in range(2))
    other.apply_translation([0.7, 0, 0])
    both = trimesh.util.concatenate([one, other])
    both.update_faces([True] * (len(both.faces) - 5) + [False] * 5)
    both.export(workspace / "both.ply")
    assert command("convert", "both.ply", "out.glb", "--texture-size", "64").status == 0
    assert len(read_mesh(workspace / "out.glb").faces) == len(both.faces)
    assert command("convert", "both.ply", "few.glb", "--face-budget", "300").status == 0
    done = command("convert", "both.ply", "out.stl", "--limit", "triangles=100")
    assert done.status == 1 and f"{len(both.faces)} triangles, more than the limit of 100" in done.err
    assert not Path("out.stl").exists()
    assert command("convert", "both.ply", "out.stl", "--limit", f"triangles={len(both.faces)}").status == 0


@pytest.fixture
def run_dir(f_mesh: Mesh, workspace: Path) -> Path:
    """A finished run's folder, as far as export looks."""
    from threedistill.config import compose, write_config

    folder = workspace / "run"
    (folder / "asset").mkdir(parents=True)
    write_config(compose(prompt="a duck", overrides=["export.preview_size=32"]), folder / "config.yaml")
    write_mesh(f_mesh, folder / "asset" / "model.glb", SMALL)
    return folder


def test_a_run_is_exported_as_everything(run_dir: Path, f_mesh: Mesh, command: Callable) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="mp4 needs imageio-ffmpeg")
    names = [name for name, row in FORMATS.items() if row.write and name != "sheet"]
    done = command(
        "export",
        "run",
        "--out",
        "out",
        "--format",
        ",".join(names),
        "export.turntable_frames=3",
        "--sh-degree",
        "1",
    )
    assert done.status == 0, done.err
    assert done.out.split() == [f"out/{FORMATS[name].file}" for name in names]
    assert all(Path(line).stat().st_size > 100 for line in done.out.split())
    clouds = [read_splats(Path("out") / FORMATS[name].file) for name in of_kind("splats")]
    assert {c.sh_degree for c in clouds} == {0, 1} and {len(c) for c in clouds} == {20_000}
    for found in clouds:  # all in one frame, the mesh's
        assert torch.allclose(found.means.amax(0), f_mesh.vertices.amax(0), atol=0.03)


def test_export_says_what_it_needs(run_dir: Path, command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    done = command("export", "run", "--format", "glb,mp4", "--out", "o")
    assert done.status == 2 and "pip install 'threedistill[video]'" in done.err and not Path("o").exists()
    done = command(
        "generate", "a red ball", "--format", "glb,mp4", "--out", "o"
    )  # at once, not after the work
    assert done.status == 2 and "pip install 'threedistill[video]'" in done.err and not Path("o").exists()
    done = command("export", "run", "--format", "obj", "--face-budget", "100", "--out", "o")
    assert done.status == 2 and "has no checkpoint of its last stage" in done.err and not Path("o").exists()
    done = command("export", "run", "--format", "obj", "--up", "z", "export.up=y", "--out", "o")
    assert done.status == 2 and "--up z and export.up=y disagree" in done.err
    done = command("export", "run", "--format", "splats", "--out", "o")
    assert done.status == 2 and "did you mean splat?" in done.err


def test_an_asset_made_of_splats_is_written_as_both(tmp_path: Path) -> None:
    """Whatever was asked for: a GLB and splats.ply, in one frame and at one size."""
    from threedistill.protocols import Representation
    from threedistill.representations.convert import as_splats
    from threedistill.training.finish import write_asset
    from threedistill.types import Rendering, Splats

    class Cloud(Representation):
        def __init__(self) -> None:
            super().__init__()
            self.solid = letter_f()

        def extract(self, resolution: int) -> Mesh:
            return self.solid.extract(resolution)

        def surface_color(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
            return self.solid.surface_color(points, normals)

        def render(self, cameras: object, context: object) -> Rendering:
            raise AssertionError("nobody looks at it")

        def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
            return {}

        def splats(self) -> Splats:
            return as_splats(self.solid.extract(40), 3000)

    settings = replace(SMALL, formats=("stl", "spz"))
    files = write_asset(Cloud(), tmp_path, settings, {"prompt": "an F"})
    assert [f.name for f in files] == ["model.glb", "model.stl", "splats.spz", "splats.ply"]
    mesh, splats = read_mesh(tmp_path / "model.glb"), read_splats(tmp_path / "splats.ply")
    assert len(splats) == 3000 and splats.extras["prompt"] == "an F" == mesh.extras["prompt"]
    assert torch.allclose(splats.means.amax(0), mesh.vertices.amax(0), atol=0.04)
    assert torch.allclose(splats.means.amin(0), mesh.vertices.amin(0), atol=0.04)
    # Without splats of its own, only what was asked for.
    files = write_asset(letter_f(), tmp_path / "field", replace(SMALL, formats=("3dgs",)), {})  # type: ignore[arg-type]
    assert [f.name for f in files] == ["splats.ply"]


def test_files_are_converted_from_python_as_from_the_command_line(f_file: Path, command: Callable) -> None:
    import threedistill

    made = threedistill.convert("f.glb", "py.ply", unit_size=2.0, up="z")
    assert command("convert", "f.glb", "cli.ply", "--unit-size", "2", "--up", "z").status == 0
    assert Path("py.ply").read_bytes() == Path("cli.ply").read_bytes()
    assert made.kind == "mesh" and made.faces == len(read_mesh(Path("py.ply")).faces) and made.vertices > 0
    assert "texture (its colours go to the vertices)" in made.lost
    with pytest.raises(UsageError, match=r"py\.ply exists"):
        threedistill.convert("f.glb", "py.ply")
    with pytest.raises(UsageError, match="needs splats"):
        threedistill.convert("f.glb", "other.obj", sh_degree=1)
