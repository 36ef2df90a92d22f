"""Clouds through other programs, both ways: splat-transform, GaussianSplats3D, gaussforge, gsply.

None of them turns a cloud, so a PLY whose y points down becomes an SPZ whose y points down, although SPZ defines +Y up:
what they write there is read with ``up="-y"``, and what we write is upside down in their PLY.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.exports.clouds import cloud, covariances, matched
from tests.node_tools import node_modules, run_node
from tests.python_tools import python_tool, run_python
from threedistill.exports.splat_files import read_splats, write_splats
from threedistill.types import Splats

#: What a format may lose: position, log scale, covariance, opacity, constant colour, higher coefficients. Steps of the
#: formats: 1/255 in opacities and colours (/ 0.282 or 0.15), 1/16 in SPZ's log scales, 1/4096 m in positions of tools
#: that keep 12 bits, 1/32 in the harmonics of a compressed PLY, buckets of 1/8 in SPZ's.
LOSSES = {
    "ply": (1e-6, 1e-6, 1e-7, 1e-5, 1e-6, 1e-6),
    "glb": (1e-6, 1e-5, 1e-6, 1e-5, 1e-5, 1e-5),
    "splat": (1e-6, 1e-5, 2e-3, 4e-3, 0.0145, None),
    "spz": (1.3e-4, 0.032, 6e-3, 2.1e-3, 0.0135, 0.067),
    "sog": (1e-4, 0.05, 0.06, 4e-3, 0.05, 0.05),
    "compressed.ply": (1.2e-3, 2e-3, 2e-4, 2.1e-3, 7e-3, 0.016),
    "ksplat": (5e-5, 1e-3, 1e-4, 4e-3, 0.0145, 6e-3),
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> tuple[Splats, Path]:
    """A cloud within what bytes can hold, and our PLY of it."""
    splats = cloud(600, degree=2)
    splats.sh[:, 0] = splats.sh[:, 0].clamp(-1.7, 1.7)
    splats.opacity_logits = splats.opacity_logits.clamp(-4, 4)  # GaussianSplats3D drops what is not seen
    # gaussforge 0.6.0 writes rotations into SOG that are wrong where theirs in the PLY were of another length than 1.
    splats.quaternions = torch.nn.functional.normalize(splats.quaternions, dim=1)
    write_splats(splats, tmp_path / "source.ply")
    return splats, tmp_path / "source.ply"


def check(found: Splats, expected: Splats, kind: str, harmonics: bool = True) -> None:
    found = matched(found, expected)
    position, scale, shape, opacity, color, higher = LOSSES[kind]

    def worst(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() - b.double()).abs().max())

    assert worst(found.means, expected.means) <= position
    assert worst(found.log_scales, expected.log_scales) <= scale
    assert worst(covariances(found), covariances(expected)) <= shape
    assert worst(found.opacity_logits.sigmoid(), expected.opacity_logits.sigmoid()) <= opacity
    assert worst(found.sh[:, 0], expected.sh[:, 0]) <= color
    if higher is not None and harmonics:
        assert found.sh_degree >= expected.sh_degree
        assert worst(found.sh[:, 1:9], expected.sh[:, 1:]) <= higher
        assert float(found.sh[:, 9:].abs().sum()) < 1e-2


SPLAT_TRANSFORM = [
    ("ply", ()), ("compressed.ply", ()), ("spz", ("--spz-version", "3")), ("spz", ("--spz-version", "4")),
    ("sog", ("-g", "cpu", "--max-workers", "0", "-i", "1")), ("glb", ()),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), SPLAT_TRANSFORM)
def test_we_read_what_splat_transform_writes(
    kind: str,
    options: tuple[str, ...],
    source: tuple[Splats, Path],
    splat_transform: Callable,
    tmp_path: Path,
) -> None:
    splats, path = source
    splat_transform(*options, path, tmp_path / f"theirs.{kind}")
    found = read_splats(tmp_path / f"theirs.{kind}", "-y" if kind == "spz" else None)
    check(found, splats, kind, harmonics=kind != "sog")
    if (
        kind == "sog"
    ):  # its palette is smaller than so small a cloud: what the file holds is what they read from it
        splat_transform(tmp_path / "theirs.sog", tmp_path / "again.ply")
        theirs = matched(read_splats(tmp_path / "again.ply"), found)
        assert torch.allclose(theirs.sh, found.sh, atol=1e-5) and float(found.sh[:, 1:].abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["ply", "splat", "spz", "sog"])
def test_splat_transform_reads_what_we_write(
    kind: str, source: tuple[Splats, Path], splat_transform: Callable, tmp_path: Path
) -> None:
    splats, _ = source
    write_splats(splats, tmp_path / f"ours.{kind}")
    splat_transform(tmp_path / f"ours.{kind}", tmp_path / "theirs.ply")
    check(read_splats(tmp_path / "theirs.ply", "y" if kind == "spz" else None), splats, kind)


_KSPLAT = """
globalThis.window = globalThis; globalThis.self = globalThis;
const fs = require('fs'), [file, out, level] = process.argv.slice(1);
import('@mkkellogg/gaussian-splats-3d').then(async viewer => {
  const three = await import('three'), bytes = fs.readFileSync(file);
  const data = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const splats = viewer.PlyParser.parseToUncompressedSplatArray(data, 2);
  const writer = viewer.SplatBufferGenerator.getStandardGenerator(1, +level, 0, new three.Vector3(), 5.0, 256);
  fs.writeFileSync(out, Buffer.from(writer.generateFromUncompressedSplatArray(splats).bufferData));
}).catch(error => { console.error(error); process.exit(1); });
"""


@pytest.mark.parametrize("level", [0, 1, 2])
def test_we_read_ksplat_of_the_viewer_that_defines_it(
    level: int, source: tuple[Splats, Path], tmp_path: Path
) -> None:
    modules = node_modules("@mkkellogg/gaussian-splats-3d", "0.4.7")
    splats, path = source
    # An import() finds packages beside the current folder only.
    (tmp_path / "node_modules").symlink_to(modules)
    script = tmp_path / "write.cjs"
    script.write_text(_KSPLAT.replace("slice(1)", "slice(2)"))
    done = run_node(str(script), str(path), str(tmp_path / "theirs.ksplat"), str(level), modules=modules)
    assert done.returncode == 0, done.stderr
    check(read_splats(tmp_path / "theirs.ksplat"), splats, "ksplat")


_GAUSSFORGE = """
import gaussforge, sys
source, before, target, after, *version = sys.argv[1:]
options = {'spz_version': int(version[0])} if version else {}
done = gaussforge.GaussForge().convert(open(source, 'rb').read(), before, after, **options)
assert 'error' not in done, done['error']
open(target, 'wb').write(done['data'])
"""
GAUSSFORGE = [
    ("ply",),
    ("compressed.ply",),
    ("splat",),
    ("ksplat",),
    ("sog",),
    ("spz", 2),
    ("spz", 3),
    ("spz", 4),
]


@pytest.mark.parametrize("kind", GAUSSFORGE)
def test_we_read_what_gaussforge_writes(kind: tuple, source: tuple[Splats, Path], tmp_path: Path) -> None:
    """Of harmonics only where 0.6.0 writes them in the formats' own order (findings/gaussforge-writers.sh)."""
    environment = python_tool("gaussforge", "0.6.0")
    splats, path = source
    name, *version = kind
    run_python(_GAUSSFORGE, path, "ply", tmp_path / f"theirs.{name}", name, *version, environment=environment)
    found = read_splats(tmp_path / f"theirs.{name}", "-y" if name == "spz" else None)
    check(found, splats, name, harmonics=name not in ("ksplat", "compressed.ply"))


@pytest.mark.parametrize("kind", ["ply", "splat", "spz", "sog"])
def test_gaussforge_reads_what_we_write(kind: str, source: tuple[Splats, Path], tmp_path: Path) -> None:
    environment = python_tool("gaussforge", "0.6.0")
    splats, _ = source
    write_splats(splats, tmp_path / f"ours.{kind}")
    run_python(
        _GAUSSFORGE, tmp_path / f"ours.{kind}", kind, tmp_path / "theirs.ply", "ply", environment=environment
    )
    check(read_splats(tmp_path / "theirs.ply", "y" if kind == "spz" else None), splats, kind)


_GSPLY = """
import sys
import gsply
for words in sys.argv[1:]:
    source, target, version = words.split('|')
    data = (gsply.read_spz if source.endswith('.spz') else gsply.plyread)(source)
    if target.endswith('.spz'):
        gsply.write_spz(target, data, version=int(version))
    else:
        gsply.plywrite(target, data, compressed=target.endswith('.compressed.ply'))
"""


def test_gsply_both_ways(source: tuple[Splats, Path], tmp_path: Path) -> None:
    """Everything in one process, whose imports take longer than all else."""
    environment = python_tool("gsply", "0.4.6")
    splats, path = source
    written = {"plain.ply": 0, "theirs.compressed.ply": 0, "three.spz": 3, "four.spz": 4}
    jobs = [f"{path}|{tmp_path / name}|{version}" for name, version in written.items()]
    for kind in ("ply", "spz"):
        write_splats(splats, tmp_path / f"ours.{kind}")
        jobs.append(f"{tmp_path / f'ours.{kind}'}|{tmp_path / f'{kind}-read.ply'}|0")
    run_python(_GSPLY, *jobs, environment=environment)
    for name in written:
        kind = name.partition(".")[2]
        check(read_splats(tmp_path / name, "-y" if kind == "spz" else None), splats, kind)
    check(read_splats(tmp_path / "ply-read.ply"), splats, "ply")
    check(read_splats(tmp_path / "spz-read.ply", "y"), splats, "spz")
