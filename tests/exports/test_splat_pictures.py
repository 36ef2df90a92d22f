"""What a file does to the picture: render, write, read, render; and turning a cloud is turning the camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.exports.clouds import cloud
from threedistill.cameras import orbit
from threedistill.exports.settings import FileSettings
from threedistill.exports.splat_files import read_splats, write_splats
from threedistill.exports.splats.cloud import rotated
from threedistill.render.splat import render_splats
from threedistill.types import Cameras, Splats

#: dB at 48 x 48 on a random cloud. PLY and glTF are exact to float32 (measured: 120, where the measure ends); the
#: others were measured at 65 (splat), 40 (spz) and 64 (sog) and are held a little below.
LEAST = {"ply": 90.0, "glb": 90.0, "splat": 60.0, "spz": 37.0, "sog": 58.0}


def scene(degree: int) -> Splats:
    splats = cloud(150, degree=degree, seed=3)
    return replace(splats, sh=torch.cat([splats.sh[:, :1].clamp(-1.5, 1.5), splats.sh[:, 1:]], 1))


def pictures(splats: Splats, cameras: Cameras) -> torch.Tensor:
    return render_splats(splats, cameras, torch.ones(len(cameras), 3)).rgb


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean().clamp(min=1e-12)))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_ply_shows_the_same_picture(degree: int, tmp_path: Path) -> None:
    cameras = orbit(3, elevation=20.0, size=48)
    splats = scene(degree)
    before = pictures(splats, cameras)
    assert before.std() > 0.05  # there is something to see
    for up in ("-y", "y", "z"):
        write_splats(splats, tmp_path / "a.ply", FileSettings(splat_up=up))
        assert psnr(pictures(read_splats(tmp_path / "a.ply"), cameras), before) >= LEAST["ply"], up


@pytest.mark.parametrize("suffix", ["splat", "spz", "sog", "glb"])
def test_compressed_files_show_nearly_the_same_picture(suffix: str, tmp_path: Path) -> None:
    cameras = orbit(3, elevation=20.0, size=48)
    splats = scene(0 if suffix == "splat" else 3)
    write_splats(splats, tmp_path / f"a.{suffix}")
    after = psnr(pictures(read_splats(tmp_path / f"a.{suffix}"), cameras), pictures(splats, cameras))
    assert after >= LEAST[suffix]


def test_turning_the_cloud_is_turning_the_camera() -> None:
    """Harmonics included: with the bands left as they were, the pictures differ visibly."""
    cameras = orbit(2, elevation=10.0, size=48)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    splats = scene(3)
    c2w = cameras.c2w.clone()
    c2w[:, :3] = turn @ c2w[:, :3]
    turned_cameras = replace(cameras, c2w=c2w)
    before = pictures(splats, cameras)
    after = pictures(rotated(splats, turn), turned_cameras)
    assert psnr(after, before) > 75
    forgotten = replace(rotated(splats, turn), sh=splats.sh)
    assert psnr(pictures(forgotten, turned_cameras), before) < 35


def test_every_viewer_frame_stands_upright(tmp_path: Path) -> None:
    """A splat above the origin: up in our frame, down (-y) in a 3DGS file, up again where asked."""
    splats = scene(0)
    splats = Splats(
        *(getattr(splats, n)[:1] for n in ("means", "log_scales", "quaternions", "opacity_logits", "sh"))
    )
    splats.means = torch.tensor([[0.1, 0.7, 0.2]])
    places = {}
    for up in ("-y", "y", "z"):
        write_splats(splats, tmp_path / "a.ply", FileSettings(splat_up=up))
        body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")[2]
        places[up] = torch.frombuffer(bytearray(body[:12]), dtype=torch.float32).tolist()
    assert places["-y"] == pytest.approx([-0.1, -0.7, 0.2])
    assert places["y"] == pytest.approx([0.1, 0.7, 0.2])
    assert places["z"] == pytest.approx([0.1, -0.2, 0.7])
