"""Which way is up in splat files: one rule for all formats, the user's word before it, and a hint without either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.exports.clouds import cloud, covariances, matched
from threedistill.exports.formats import FORMATS
from threedistill.exports.frames import Frame
from threedistill.exports.read import open_file
from threedistill.exports.settings import FileSettings
from threedistill.exports.splat_files import read_splats, write_splats
from threedistill.exports.splats.cloud import into_file_frame, rotated
from threedistill.exports.splats.upside_down import upside_down
from threedistill.types import Splats

KINDS = [
    n for n, row in FORMATS.items() if row.kind == "splats" and row.read and row.write and n != "usd-splat"
]
#: Turns of a file into our frame, worked out by hand: the columns are where its x, y and z go.
TURNS = {
    ("-y", None): [[-1, 0, 0], [0, -1, 0], [0, 0, 1]], ("-y", "-z"): [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
    ("z", None): [[1, 0, 0], [0, 0, 1], [0, -1, 0]], ("y", "x"): [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
}  # fmt: skip


@pytest.mark.parametrize(("up", "front"), TURNS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_users_word_about_a_file_is_obeyed_in_every_format(kind: str, up, front, tmp_path: Path) -> None:
    splats = cloud(60, degree=2)
    path = tmp_path / f"a{FORMATS[kind].suffix}"
    write_splats(
        splats, path, FileSettings(splat_up="y")
    )  # the file's axes are now our own, whatever it says
    found = matched(
        read_splats(path, up, front), turned := rotated(splats, torch.tensor(TURNS[up, front]).double())
    )
    assert float((found.means - turned.means).abs().max()) < 1e-4
    assert float((covariances(found) - covariances(turned)).abs().max()) < 0.02
    if found.sh_degree:  # SPZ's steps of 1/16, mixed by the turn
        assert float((found.sh[:, 1:] - turned.sh[:, 1:]).abs().max()) < 0.2


@pytest.mark.parametrize(
    ("kind", "up"), [("3dgs", "-y"), ("splat", "-y"), ("sog", "-y"), ("spz", "y"), ("gltf-splat", "y")]
)
def test_files_that_say_nothing_are_as_their_format_defines(kind: str, up: str, tmp_path: Path) -> None:
    assert FORMATS[kind].frame == up and FORMATS[kind].fixed == (up == "y")
    if kind in ("spz", "splat"):  # these cannot say anything
        write_splats(cloud(9), path := tmp_path / f"a{FORMATS[kind].suffix}")
        assert open_file(path).frame == Frame(up, "z")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["ply", "sog"])
def test_half_a_turn_about_x_for_viewers_that_undo_one(suffix: str, tmp_path: Path) -> None:
    """``--up -y --front -z``: (x, y, z) is (x, -y, -z) in the file, which says so and comes back."""
    splats = cloud(40, degree=1)
    write_splats(splats, tmp_path / f"a.{suffix}", FileSettings(splat_up="-y", splat_front="-z"))
    opened = open_file(tmp_path / f"a.{suffix}")
    assert opened.frame == Frame("-y", "-z") and isinstance(opened.asset, Splats)
    assert float((matched(opened.asset, splats).means - splats.means).abs().max()) < 1e-4
    raw = read_splats(tmp_path / f"a.{suffix}", "y")
    x = torch.tensor([1.0, -1, -1])
    assert float((torch.cdist(raw.means, splats.means * x).amin(1)).max()) < 1e-3


def test_flags_choose_the_axes_that_are_written(command: Callable, workspace: Path) -> None:
    write_splats(cloud(20), workspace / "a.ply")
    assert command("convert", "a.ply", "x.ply", "--up", "-y", "--front", "-z").status == 0
    assert b"comment up -y front -z\n" in Path("x.ply").read_bytes()
    assert command("convert", "a.ply", "y.ply", "--up", "y").status == 0
    assert b"comment up y front z\n" in Path("y.ply").read_bytes()
    done = command("convert", "a.ply", "b.spz", "--up", "-y")
    assert done.status == 0 and "spz defines its axes: --up and --front have no effect on b.spz" in done.err
    assert command("convert", "b.spz", "c.ply", "--from-up", "-y").status == 0
    found = matched(
        read_splats("c.ply"), rotated(read_splats("a.ply"), torch.diag(torch.tensor([-1.0, -1, 1])))
    )
    assert len(found) == 20
    done = command("convert", "a.ply", "m.ply", "--as", "mesh", "--front", "x")
    assert done.status == 2 and "--front needs splats" in done.err
    done = command("convert", "a.ply", "z.ply", "--up", "-y", "--front", "y")
    assert done.status == 2 and "lie on one line" in done.err


def ground(count: int = 2000, seed: int = 0) -> Splats:
    """A floor and a ball on it."""
    generator = torch.Generator().manual_seed(seed)
    splats = cloud(count, degree=0, seed=seed)
    floor = torch.rand(count, 3, generator=generator) * torch.tensor([4, 0.05, 4]) - torch.tensor(
        [2, 1.02, 2]
    )
    splats.means = torch.where((torch.arange(count) % 2 == 0)[:, None], floor, splats.means)
    splats.opacity_logits = splats.opacity_logits.abs()
    return splats


def test_clouds_that_stand_on_their_heads_are_noticed(command: Callable, workspace: Path) -> None:
    splats = ground()
    assert upside_down(splats, Frame()) is None
    turned = into_file_frame(splats, Frame("-y", "z"))
    assert "--from-up -y" in (upside_down(turned, Frame()) or "")
    assert upside_down(cloud(3000), Frame()) is None and upside_down(ground(500), Frame()) is None
    write_splats(turned, workspace / "a.spz")  # as programs do that put a PLY's axes into it
    done = command("convert", "a.spz", "b.ply")
    assert done.status == 0 and len(done.err.splitlines()) == 1
    assert done.err.startswith("a.spz looks upside down: ") and "--from-up -y" in done.err
    for words in (("a.spz", "--from-up", "-y"), ("a.spz", "--from-up", "y"), ("b.ply",)):
        done = command("convert", words[0], "c.sog", *words[1:], "--overwrite")
        assert done.status == 0 and "upside down" not in done.err, words
