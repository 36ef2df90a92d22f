"""Mutated splat files of every format: read or refused in one line, quickly, in little memory.

The long run: ``pytest -n 0 -m slow tests/fuzz/test_splats.py -s`` prints its counts.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import random
import re
import struct
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.exports.clouds import cloud
from tests.exports.splat_files import ksplat_file, packed_ply, ply_file, sog_file, spz_body
from tests.exports.test_splat_files import sog_parts, splat_records
from threedistill.errors import ThreedistillError
from threedistill.exports.read import open_file
from threedistill.exports.splat_files import write_splats
from threedistill.types import Splats

resource = pytest.importorskip("resource", reason="peak memory is measured as POSIX does")
#: Seconds and megabytes that a file of a few kilobytes may take.
_SECONDS, _MEGABYTES = 20, 200
_NUMBERS = (
    b"0",
    b"-1",
    b"99999999999",
    b"4294967295",
    b"1e308",
    b"NaN",
    b"2147483648",
    b"3",
    b"[[[]]]",
    b'"x"',
)
_USD = """#usda 1.0
(
    upAxis = "Y"
)
def ParticleField3DGaussianSplat "a" {
    point3f[] positions = [(1, 0, 0), (0, 2, 0)]
    float[] opacities = [0.5, 1]
}
"""


def sources(folder: Path) -> dict[str, list[bytes]]:
    """Sound files, by suffix."""
    found: dict[str, list[bytes]] = {
        "ply": [ply_file([{"filter_3D": 1.0}] * 3), packed_ply(600, 1), ply_file(without=["scale_2"])],
        "splat": [splat_records((1, 1, 1), 40)],
        "ksplat": [ksplat_file(level, degree) for level in (0, 1, 2) for degree in (0, 2)],
        "spz": [gzip.compress(spz_body(version, 1), mtime=0) for version in (1, 2, 3)],
        "sog": [sog_file(*sog_parts())], "glb": [],
    }  # fmt: skip
    for suffix in ("ply", "splat", "spz", "sog", "glb"):
        write_splats(cloud(100, degree=2), folder / f"seed.{suffix}")
        found[suffix].append((folder / f"seed.{suffix}").read_bytes())
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Cut, prolonged, doubled, shortened, or with numbers, bytes or bits changed."""
    found, kind = bytearray(data), rng.randrange(10)
    place = rng.randrange(max(len(found), 1))
    if kind == 0:
        return bytes(found[:place])
    if kind == 1:
        return bytes(found) + rng.randbytes(rng.randrange(1, 200))
    if kind == 2:
        found[place:place] = found[: rng.randrange(1, 500)]
    elif kind == 3:
        del found[place : place + rng.randrange(1, 300)]
    elif kind in (4, 5) and (numbers := list(re.finditer(rb"\d+", bytes(found[:6000])))):
        number = rng.choice(numbers)
        found[number.start() : number.end()] = rng.choice(_NUMBERS)
    else:
        reach = len(found) if rng.random() < 0.5 else min(len(found), 300)
        for _ in range(rng.choice((1, 1, 2, 5, 20, 100))):
            place = rng.randrange(reach)
            found[place] = rng.choice(
                (0, 255, 127, 128, rng.randrange(256), found[place] ^ (1 << rng.randrange(8)))
            )
        if rng.random() < 0.3:
            place = rng.randrange(max(reach - 4, 1))
            found[place : place + 4] = struct.pack(
                "<I", rng.choice((0xFFFFFFFF, 0x7FFFFFFF, 1 << 28, 1_000_000))
            )
    return bytes(found)


def mutated_inside(suffix: str, data: bytes, rng: random.Random) -> bytes:
    """The same behind the compression or the container, so that its checksums and lengths stay true."""
    if rng.random() < 0.4:
        return mutated(data, rng)
    if suffix == "spz" and data[:2] == b"\x1f\x8b":
        return gzip.compress(mutated(gzip.decompress(data), rng), 1, mtime=0)
    if suffix == "sog":
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            files = {name: bundle.read(name) for name in bundle.namelist()}
        name = rng.choice(["meta.json", *files])
        files[name] = mutated(files[name], rng)
        return sog_file(files.pop("meta.json"), files)  # type: ignore[arg-type]
    if suffix == "glb":
        length = struct.unpack_from("<I", data, 12)[0]
        text = mutated(data[20 : 20 + length], rng)
        text += b" " * (-len(text) % 4)
        body = struct.pack("<I4s", len(text), b"JSON") + text + data[20 + length :]
        return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
    return mutated(data, rng)


def attack(tries: int, seed: int, files: dict[str, list[bytes]], folder: Path) -> Counter[str]:
    """Counts of what became of the files; raises where one is not read, and not refused in one short line."""
    rng, counts = random.Random(seed), Counter[str]()
    for attempt in range(tries):
        suffix = rng.choice(list(files))
        path = folder / f"mutated.{suffix}"
        path.write_bytes(mutated_inside(suffix, rng.choice(files[suffix]), rng))
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            opened = open_file(path, "splats")
            assert (
                isinstance(opened.asset, Splats)
                and len(opened.asset)
                and bool(opened.asset.means.isfinite().all())
            )
            counts[f"{suffix} {'read in part' if opened.lost else 'read'}"] += 1
        except ThreedistillError as error:
            text = str(error).replace(str(path), "FILE")
            assert "\n" not in text and len(text) < 300, (attempt, text)
            counts[f"{suffix} refused"] += 1
        except Exception as error:
            raise AssertionError(f"try {attempt} of seed {seed}, {suffix}: {error!r}") from error
        assert time.process_time() - start < _SECONDS, (attempt, suffix)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        assert grown < _MEGABYTES, (attempt, suffix, grown)
    return counts


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    torch.ones(2).double().norm()  # what libraries load once is no file's
    counts = attack(300, 0, sources(tmp_path), tmp_path)
    assert sum(counts.values()) == 300 and all(
        counts[f"{s} refused"] and counts[f"{s} read"] for s in sources(tmp_path)
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_mutated_files(seed: int, tmp_path: Path) -> None:
    counts = attack(2500, seed, sources(tmp_path), tmp_path)
    print("\n" + "\n".join(f"{what:24} {count}" for what, count in sorted(counts.items())))


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("pxr") is None, reason="USD needs usd-core")
def test_many_mutated_usd_files(tmp_path: Path) -> None:
    """Fewer: each is read in a process of its own, which may crash."""
    write_splats(cloud(100, degree=1), tmp_path / "seed.usdz")
    files = {"usda": [_USD.encode()], "usdz": [(tmp_path / "seed.usdz").read_bytes()]}
    print("\n", attack(150, 1, files, tmp_path))
