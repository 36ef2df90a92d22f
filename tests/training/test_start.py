"""``--init``: files become starts in this world, bad ones are refused before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.exports.gltf_files import File
from tests.representations.balls import ball_mesh
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.asset import write_mesh
from threedistill.exports.splat_files import write_splats
from threedistill.pipeline import generate, resume
from threedistill.representations.convert import as_splats
from threedistill.rng import Streams
from threedistill.training.run_folder import RunFolder
from threedistill.training.start import RADIUS, load_start, normalised, read_start, save_start
from threedistill.types import Mesh, Splats

TINY = [
    "budget.iterations=4", "budget.views=2", "budget.resolution=24", "budget.grid=40", "budget.faces=400",
    "budget.texture=64", "trainer.preview_every=0", "prior.model.size=24", "export.turntable_frames=0",
    "convert.polish=2", "convert.views=2", "convert.bank=4",
    "representation.model.resolution=12", "representation.model.color.levels=2",
    "representation.model.color.start_levels=1", "representation.model.color.log2_entries=8",
    "representation.model.shape.log2_entries=8",
]  # fmt: skip


def shape() -> Mesh:
    """A ball that is neither in the middle nor of this world's size, its upper half red."""
    ball = ball_mesh(0.5, rings=16)
    return replace(ball, vertices=ball.vertices * 40.0 + torch.tensor([3.0, 100.0, -7.0]))


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_a_mesh_file_fills_the_ball_and_keeps_its_axes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    write_mesh(shape(), path)
    mesh = read_start(path)
    assert isinstance(mesh, Mesh) and mesh.colors is not None
    radii = mesh.vertices.norm(dim=1)
    torch.testing.assert_close(radii, torch.full_like(radii, RADIUS), atol=2e-3, rtol=0)
    above = mesh.colors[mesh.vertices[:, 1] > 0.3].mean(0)
    torch.testing.assert_close(above, torch.tensor([0.9, 0.2, 0.1]), atol=0.02, rtol=0)


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat"])
def test_splat_files_are_told_from_meshes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"splats.{suffix}"
    cloud = as_splats(ball_mesh(0.5, 16), 800, Streams(0))
    write_splats(replace(cloud, means=cloud.means + torch.tensor([2.0, 0.0, 1.0])), path)
    read = read_start(path)
    assert isinstance(read, Splats)
    assert 0.95 * RADIUS < float(read.means.norm(dim=1).max()) < 1.05 * RADIUS
    # Twice as far apart, so twice as large.
    ratio = RADIUS / float(cloud.means.norm(dim=1).max())
    grown = read.log_scales.median().exp() / cloud.log_scales.median().exp()
    assert float(grown) == pytest.approx(ratio, rel=0.05)


def test_stray_splats_do_not_shrink_the_object() -> None:
    cloud = as_splats(ball_mesh(0.5, 16), 1000, Streams(0))
    means = cloud.means.clone()
    means[:5] *= 50
    read = normalised(replace(cloud, means=means))
    assert isinstance(read, Splats)
    assert len(read) == 995
    assert float(read.means.norm(dim=1).median()) > 0.9 * RADIUS


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "init.safetensors"
    for asset in (replace(ball_mesh(0.5, 8), extras={"prompt": "a ball"}), as_splats(ball_mesh(0.5, 8), 30)):
        save_start(asset, path)
        back = load_start(path)
        assert type(back) is type(asset) and back.extras == asset.extras
        for name in ("vertices", "faces", "colors") if isinstance(asset, Mesh) else ("means", "sh"):
            assert torch.equal(getattr(back, name), getattr(asset, name))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ThreedistillError, match="copy of its --init file"):
        load_start(path)


def _obj(text: str) -> bytes:
    return text.encode()


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("gone.glb", None, "there is no such file"),
        ("model.xyz", b"1 2 3", "not one of glb"),
        ("empty.glb", b"", "empty"),
        ("broken.glb", b"glTF this is not", "glb"),
        ("broken.ply", b"ply\nformat ascii 1.0\nend_header\n", "ply"),
        ("nothing.obj", _obj("v 0 0 0\n"), "obj"),
        ("point.obj", _obj("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"), "one point"),
        ("nan.obj", _obj("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"), "finite"),
        ("image.splat", b"\x89PNG123", "splat"),
    ],
)
def test_bad_files_are_one_line_and_nothing_is_written(
    name: str, content: bytes | None, line: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_start(path)
    message = str(caught.value)
    assert message.startswith(f"--init {path}: ") and line in message and "\n" not in message
    if content == b"":
        with pytest.raises(UsageError, match="--init"):
            generate("a red ball", out=tmp_path / "run", prior="gaussian", init=path, quiet=True)
        assert not (tmp_path / "run").exists()


def test_a_run_from_a_file_needs_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed during the conversion, resumed without the file: the same asset as an uninterrupted run's."""
    import threedistill.training.handover as handover

    write_mesh(shape(), tmp_path / "model.glb")

    def make(out: Path):
        return generate(
            "a red thing", out=out, preset="draft", prior="gaussian", representation="dmtet", quiet=True,
            init=tmp_path / "model.glb", overrides=TINY,
        )  # fmt: skip

    whole = make(tmp_path / "whole")
    size = whole.mesh.vertices.amax(0) - whole.mesh.vertices.amin(0)
    torch.testing.assert_close(size, torch.ones(3), atol=0.08, rtol=0)  # still the ball
    with monkeypatch.context() as patch:
        patch.setattr(handover, "save_stage", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "run")
    (tmp_path / "model.glb").unlink()
    resumed = resume(tmp_path / "run", quiet=True)
    assert resumed.asset.read_bytes() == whole.asset.read_bytes()
    assert RunFolder(tmp_path / "run").start.exists()


def test_what_a_run_cannot_use_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = File()
    file.add("cameras", {"type": "perspective"})
    surface = {"baseColorFactor": [1, 0, 0, 0.5]}
    file.show(file.quad({"pbrMetallicRoughness": surface, "alphaMode": "BLEND", "emissiveFactor": [0, 0, 1]}))
    path = file.write(tmp_path / "glass.glb")
    mesh = read_start(path, quiet=False)
    assert capsys.readouterr().err == f"--init {path}: not used: 1 camera, transparency\n"
    assert isinstance(mesh, Mesh) and mesh.colors is not None and mesh.emission is None
    assert torch.allclose(mesh.colors, torch.tensor([1.0, 0, 1]), atol=1e-5)  # what glows is seen
    read_start(path)
    assert capsys.readouterr().err == ""
