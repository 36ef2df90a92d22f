"""Small splat files stay small: read in a process that may take little more than it has when it starts."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exports.splat_files import ksplat_file, packed_ply, sog_file, spz_body
from tests.exports.test_splat_files import sog_parts
from threedistill.exports.splat_files import write_splats
from threedistill.types import Splats

pytest.importorskip("resource", reason="the bound on memory is a POSIX one")
ROOT = Path(__file__).resolve().parents[2]
#: Imports what reading needs, then allows so many megabytes more. The files' names come as one JSON list.
_CHILD = """
import json, re, resource, sys
from pathlib import Path
import PIL.Image, PIL.PngImagePlugin, PIL.WebPImagePlugin, torch, zstandard
from threedistill.errors import ThreedistillError
from threedistill.exports.splat_files import read_splats
import threedistill.exports.ply.compressed
PIL.Image.new("RGBA", (64, 64)).save("/dev/null", "WEBP")
torch.ones(3).double().norm()
torch.linalg.lstsq(torch.rand(9, 3), torch.rand(9, 3))
now = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (now + (int(sys.argv[1]) << 20),) * 2)
for name in json.loads(sys.argv[2]):
    try:
        print(name, "read", len(read_splats(name)))
    except ThreedistillError as error:
        print(name, "refused", error)
    except MemoryError:
        print(name, "took too much")
"""


def read_within(megabytes: int, folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """What becomes of each file: the words behind its name."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the size of a process is read from /proc")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(megabytes), json.dumps(list(files))], capture_output=True, text=True,
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def claims() -> dict[str, bytes]:
    """Files of a few kilobytes that claim much more, by format and by what claims it."""
    files = {}
    meta, pictures = sog_parts()
    header = b"VP8X" + struct.pack("<IB3x", 10, 0) + (8999).to_bytes(3, "little") * 2
    large = b"RIFF" + struct.pack("<I", len(header) + 4) + b"WEBP" + header
    files["picture.sog"] = sog_file(meta, {**pictures, "sh0.webp": large})
    files["values.sog"] = sog_file(
        json.dumps(meta)[:-1].encode() + b', "x": [' + b"[]," * 500_000 + b"[]]}", pictures
    )
    files["nested.sog"] = sog_file(
        {**meta, "scales": {**meta["scales"], "codebook": [[0.0] * 500] * 256}}, pictures
    )
    files["deep.sog"] = sog_file(b'{"version":' + b"[" * 50_000, pictures)
    files["count.sog"] = sog_file({**meta, "count": 1 << 40}, pictures)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("meta.json", b" " * (100 << 20))
    files["member.sog"] = buffer.getvalue()
    body = bytearray(spz_body(3))
    struct.pack_into("<I", body, 8, 1 << 31)
    files["count.spz"] = gzip.compress(bytes(body))
    struct.pack_into("<I", body, 8, 3_000_000)
    body[12] = 3
    files["stream.spz"] = gzip.compress(bytes(body) + bytes(1 << 20), 1)
    files["behind.spz"] = gzip.compress(spz_body(3) + bytes(160 << 20), 1)  # nothing of it is needed
    frame = struct.pack("<IB", 0xFD2FB528, 0xE0) + struct.pack("<Q", 1 << 40) + b"\1\0\0"
    table = b"".join(struct.pack("<QQ", len(frame), s) for s in (18, 2, 6, 6, 8))
    files["frame.spz"] = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, 2, 0, 12, 0, 5, 32) + table + frame * 5
    for place, name in (
        (4096, "splats"),
        (4100, "room"),
        (4104, "capacity"),
        (4108, "buckets"),
        (4128, "full"),
    ):
        data = bytearray(ksplat_file(1))
        struct.pack_into("<I", data, place, 0xFFFFFFF0)
        files[f"{name}.ksplat"] = bytes(data)
    ply = packed_ply(300)
    files["count.ply"] = ply.replace(b"element vertex 300", b"element vertex 99999999999")
    files["chunks.ply"] = ply.replace(b"element chunk 2", b"element chunk 99999999999")
    text = ply.replace(b"binary_little_endian", b"ascii").replace(b"chunk 2", b"chunk 9999999")
    files["text.ply"] = text + b" 1" * 1000
    return files


def test_files_that_only_claim_are_refused_and_cost_nothing(tmp_path: Path) -> None:
    files = claims()
    found = read_within(150, tmp_path, files)
    assert sum(map(len, files.values())) < 12 << 20
    harmless = ("behind.spz", "capacity.ksplat", "values.sog")  # what is too much in them is not needed
    for name, words in found.items():
        assert words.startswith("read " if name in harmless else "refused cannot read"), (name, words)
    assert "expansion=" in found["stream.spz"] and found["count.sog"].endswith(
        "say --limit splats=1099511627776"
    )
    assert "has 9000 x 9000 pixels where at most" in found["picture.sog"]


def test_honest_files_take_little_more_than_their_splats(tmp_path: Path) -> None:
    """100,000 splats of degree 3 are 24 MB of floats; all that is needed to read them is below three times as much."""
    count = 100_000
    rng = np.random.default_rng(0)
    head = struct.pack("<IIIBBBB", 0x5053474E, 3, count, 3, 18, 0, 0)
    files = {"a.spz": gzip.compress(head + rng.bytes(65 * count), 1)}
    files["a.splat"] = b"".join(
        [struct.pack("<6f", 1, 2, 3, 0.1, 0.2, 0.3) + rng.bytes(4) + bytes([255, 128, 128, 128])] * count
    )
    splats = Splats(
        torch.rand(count, 3), torch.rand(count, 3) - 4, torch.rand(count, 4) + 0.1, torch.rand(count),
        torch.zeros(count, 16, 3),
    )  # fmt: skip
    write_splats(splats, tmp_path / "a.ply")
    files["a.ply"] = (tmp_path / "a.ply").read_bytes()
    assert read_within(80, tmp_path, files) == dict.fromkeys(files, f"read {count}")
