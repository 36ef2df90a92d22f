"""The table of limits, its override, and that sizes are checked before anything is unpacked."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.exports.clouds import cloud
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.foreign.bounded import gunzip, open_picture, parse_json, unzip
from threedistill.exports.foreign.limits import (
    FREE_BYTES,
    Limits,
    check,
    check_pixels,
    check_unpacked,
    current,
    limits,
    parse_limits,
)
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.formats import named
from threedistill.exports.read import open_file
from threedistill.exports.settings import ExportSettings
from threedistill.exports.splat_files import write_splats
from threedistill.types import Mesh

ROOT = Path(__file__).resolve().parents[2]


def test_a_refusal_names_the_words_that_lift_it() -> None:
    with pytest.raises(ThreedistillError) as caught:
        check("a.ply", "splats", 60_000_000)
    assert str(caught.value) == (
        "cannot read a.ply: it holds 60000000 splats, more than the limit of 50000000; "
        "if you trust the file, say --limit splats=60000000"
    )
    with limits(parse_limits([str(caught.value).rpartition(" ")[2]])):
        check("a.ply", "splats", 60_000_000)
        with limits(splats=None):
            check("a.ply", "splats", 1 << 60)
        assert current().splats == 60_000_000
    assert current() == Limits()


def test_the_table_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "formats.md").read_text("utf-8").split("## Limits")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (\d+) \|$", text, re.MULTILINE))
    assert rows == {name.replace("_", "-"): str(value) for name, value in asdict(Limits()).items()}


def test_a_texture_has_room_for_its_gutter() -> None:
    ExportSettings(texture_size=16, gutter=4)
    ExportSettings(texture_size=0, gutter=64)
    with pytest.raises(
        ValueError, match=r"export.gutter=5 leaves no room in export.texture_size=16: at most 4"
    ):
        ExportSettings(texture_size=16, gutter=5)


def test_the_flag_reaches_the_readers(command: Callable, workspace: Path) -> None:
    """Recorded at the reader: what holds while ``convert`` reads, and that nothing is left behind."""
    write_splats(cloud(10), workspace / "a.ply")
    done = command("convert", "a.ply", "b.ply", "--limit", "splats=9")
    assert done.status == 1 and "it holds 10 splats, more than the limit of 9" in done.err
    assert "say --limit splats=10" in done.err and not Path("b.ply").exists()
    assert command("convert", "a.ply", "b.ply", "--limit", "splats=10").status == 0
    assert command("convert", "a.ply", "c.ply").status == 0
    done = command("convert", "a.ply", "d.ply", "--limit", "splat=10")
    assert done.status == 2 and "no such limit" in done.err


def test_triangles_are_counted_whatever_the_reader_asks(tmp_path: Path) -> None:
    """A plug-in's reader that knows no limits: one bound holds, and raising it lifts it."""
    square = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]])
    )
    row = replace(named("stl"), read=lambda path: Opened(square))
    with limits(triangles=1), pytest.raises(ThreedistillError) as caught:
        open_file(tmp_path / "a.stl", row=row)
    assert "it holds 2 triangles, more than the limit of 1; " in str(caught.value)
    for raised in parse_limits([str(caught.value).rpartition(" ")[2]])["triangles"], None:
        with limits(triangles=raised):
            assert open_file(tmp_path / "a.stl", row=row).asset is not None


def test_expansion_grows_with_the_file() -> None:
    check_unpacked("a", FREE_BYTES, 0)
    check_unpacked("a", FREE_BYTES + 32_000, 1_000)
    with pytest.raises(ThreedistillError, match=r"more than 32 times .* --limit expansion=33$"):
        check_unpacked("a", FREE_BYTES + 32_001, 1_000)
    with limits(expansion=33):
        check_unpacked("a", FREE_BYTES + 32_001, 1_000)


def test_pixels_grow_with_the_picture() -> None:
    check_pixels("a", 1 << 25, 10)
    check_pixels("a", 1 << 28, 1 << 26)
    with pytest.raises(ThreedistillError, match=r"--limit pixels=33554433$"):
        check_pixels("a", (1 << 25) + 1, 10)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("splat=3", "no such limit (there are: expansion, splats, "),
        ("splats", "splats needs a whole number above 0, or none"),
        ("splats=0", "splats needs a whole number"), ("splats=-3", "needs a whole number"),
        ("splats=1e9", "needs a whole number"), ("splats=" + "9" * 5000, "needs a whole number"),
        ("pixels=²", "needs a whole number"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(word: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_limits([word])
    assert text in str(caught.value) and len(str(caught.value)) < 250


def test_words_are_understood() -> None:
    assert parse_limits(["json-values=7", "pixels=none"]) == {"json_values": 7, "pixels": None}
    assert parse_limits(None) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"[" * 101 + b"]" * 101, "its JSON holds 101 levels of JSON, more than the limit of 100"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "its JSON holds 101 levels of JSON"),
        (b'{"a": 1', "its JSON is not sound"),
        (b'"\xff"', "its JSON is not sound"),
        (b"1" * 5000, "its JSON is not sound"),
    ],
)
def test_json_is_counted_before_it_is_read(text: bytes, found: str) -> None:
    with pytest.raises(ThreedistillError) as caught:
        parse_json("a.glb", text)
    assert found in str(caught.value)


def test_json_values_are_bounded_and_strings_are_not_structure() -> None:
    text = json.dumps({"name": '[{,"\\[[' * 1000, "ä,": [1, 2, {"x": ["\\", '\\"']}]}).encode()
    assert parse_json("a", text) == json.loads(text)
    with limits(json_values=9, json_depth=4):
        parse_json("a", text)  # 1 object + 1 comma, 1 list + 2, 1 object, 1 list + 1 = 8
    with limits(json_values=7), pytest.raises(ThreedistillError, match="8 values of JSON"):
        parse_json("a", text)
    deep = b"[" * 100_000 + b"]" * 100_000
    with limits(json_depth=None), pytest.raises(ThreedistillError, match="nested 100000 levels deep"):
        parse_json("a", deep)


def test_gzip_stops_where_it_is_told() -> None:
    data = gzip.compress(b"x" * 1000) + gzip.compress(b"y" * 1000)
    assert gunzip("a", data) == b"x" * 1000 + b"y" * 1000
    assert gunzip("a", data, 1500) == b"x" * 1000 + b"y" * 500
    assert gunzip("a", data[:-30]) in (b"x" * 1000, b"x" * 1000 + b"y" * 1000)
    with pytest.raises(ThreedistillError, match="its gzip stream is damaged"):
        gunzip("a", data[:12] + b"\xff\xff\xff" + data[15:])
    large = gzip.compress(bytes(FREE_BYTES + (4 << 20)))
    with limits(expansion=2), pytest.raises(ThreedistillError, match=r"--limit expansion="):
        gunzip("a", large)


def test_zip_members_are_added_up_first() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("small", b"abc", zipfile.ZIP_STORED)
        bundle.writestr("large", bytes(FREE_BYTES // 2 + (1 << 20)))
        bundle.writestr("larger", bytes(FREE_BYTES // 2 + (1 << 20)))
    size = len(buffer.getvalue())
    with zipfile.ZipFile(buffer) as bundle:
        assert unzip("a", bundle, ["small"], size) == {"small": b"abc"}
        with limits(expansion=1), pytest.raises(ThreedistillError, match="--limit expansion="):
            unzip("a", bundle, ["large", "larger"], size)
        with pytest.raises(ThreedistillError, match="it lacks its part 'none'"):
            unzip("a", bundle, ["none"], size)
        with limits(members=2), pytest.raises(ThreedistillError, match="3 files inside"):
            unzip("a", bundle, ["small"], size)
    damaged = buffer.getvalue().replace(b"abc", b"abd")
    refused = pytest.raises(ThreedistillError, match="its part 'small' is damaged")
    with zipfile.ZipFile(io.BytesIO(damaged)) as bundle, refused:
        unzip("a", bundle, ["small"], size)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "lossless"])
def test_pictures_are_measured_by_their_headers(kind: str) -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.zeros((30, 70, 3), np.uint8))
    picture.save(
        buffer, "WEBP" if kind == "lossless" else kind, **({"lossless": True} if kind == "lossless" else {})
    )
    data = buffer.getvalue()
    assert open_picture("a", data, "its colours").size == (70, 30)
    with pytest.raises(ThreedistillError, match="its colours has 70 x 30 pixels where at most 2000 belong"):
        open_picture("a", data, "its colours", most=2000)
    with limits(pixels=100):
        if 4 * len(data) < 2100:
            with pytest.raises(ThreedistillError, match="2100 pixels of its colours"):
                open_picture("a", data, "its colours")
    with pytest.raises(ThreedistillError, match="no sound picture"):
        open_picture("a", data, "its colours", kinds=["BMP"])


def test_a_picture_that_only_claims_its_size_is_not_opened() -> None:
    """16384 x 16384 pixels in thirty bytes: an extended WebP header and nothing else."""
    header = b"VP8X" + struct.pack("<IB3x", 10, 0) + (16383).to_bytes(3, "little") * 2
    data = b"RIFF" + struct.pack("<I", len(header) + 4) + b"WEBP" + header
    with pytest.raises(ThreedistillError, match="268435456 pixels of its colours are more"):
        open_picture("a", data, "its colours")
    with pytest.raises(ThreedistillError, match="no sound picture"), limits(pixels=None):
        open_picture("a", data[:25], "its colours")
