"""Clouds of splats and their files: :func:`read_splats`, :func:`write_splats`, and what the table of formats names.

Readers and writers here see the file's own axes; turning is done where files are opened and written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from threedistill.atomic import write_bytes
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.formats import writable
from threedistill.exports.frames import Axis, Frame
from threedistill.exports.gltf.splats import gltf_splat_bytes, read_gltf_splats
from threedistill.exports.ply.splats import ply_bytes, read_ply
from threedistill.exports.read import open_file
from threedistill.exports.settings import FileSettings
from threedistill.exports.splats.blocks import sound
from threedistill.exports.splats.ksplat import read_ksplat
from threedistill.exports.splats.sog import sog_bytes
from threedistill.exports.splats.sog_read import read_sog
from threedistill.exports.splats.splat import read_splat, splat_bytes
from threedistill.exports.splats.spz import read_spz, spz_bytes
from threedistill.exports.usd.splats import usd_splat_bytes
from threedistill.exports.write import write_file
from threedistill.types import Splats

__all__ = [
    "read_gltf_file", "read_ksplat_file", "read_ply_file", "read_sog_file", "read_splat_file", "read_splats",
    "read_spz_file", "write_gltf_file", "write_ply_file", "write_sog_file", "write_splat_file",
    "write_splats", "write_spz_file", "write_usd_file",
]  # fmt: skip


def write_splats(splats: Splats, path: Path | str, settings: FileSettings | None = None) -> None:
    """Write one file in the format its suffix names (.ply .splat .spz .sog .glb .usdz), whole or not at all.

    Arguments:
        splats: the cloud, in our frame, on any device.
        path: where.
        settings: of which ``splat_up`` and ``sh_degree`` count.

    Raises:
        UsageError: a suffix that is no format for splats.
        ThreedistillError: no splats, numbers that are not finite, or a place that cannot be written.
    """
    path = Path(path)
    write_file(splats, path, settings or FileSettings(), writable(path, "splats"))


def read_splats(path: Path | str, up: Axis | None = None, front: Axis | None = None) -> Splats:
    """A cloud from any of the formats, in our frame (+Y up).

    Arguments:
        path: the file.
        up, front: the axes that point up and to the front in the file; None = what the file says (ours do), else what
            the format defines, else its habit.

    Raises:
        ThreedistillError: missing, unknown, damaged, empty or wrongly named files, in one line.
    """
    asset = open_file(path, "splats", up, front).asset
    assert isinstance(asset, Splats)
    return asset


def read_ply_file(path: Path) -> Opened:
    """3DGS PLY, plain or PlayCanvas' compressed form; ours say which way is up."""
    opened = read_ply(path, path.read_bytes())
    if path.suffix.lower() != ".ply":
        opened.notes.append(f"{path.name} is a PLY file by another name")
    return _sound(path, opened)


def read_sog_file(path: Path) -> Opened:
    """SOG; ours say which way is up."""
    return _sound(path, read_sog(path, path.read_bytes()))


def read_splat_file(path: Path) -> Opened:
    """antimatter15's ``.splat``."""
    return _sound(path, read_splat(path, path.read_bytes()))


def read_ksplat_file(path: Path) -> Opened:
    """mkkellogg's ``.ksplat``."""
    return _sound(path, read_ksplat(path, path.read_bytes()))


def read_spz_file(path: Path) -> Opened:
    """SPZ."""
    return _sound(path, read_spz(path, path.read_bytes()))


def read_gltf_file(path: Path) -> Opened:
    """glTF's ``KHR_gaussian_splatting``."""
    return read_gltf_splats(path)


def _sound(path: Path, opened: Opened) -> Opened:
    """Without the splats that cannot be shown, which are named as lost."""
    assert isinstance(opened.asset, Splats)
    splats, dropped = sound(path, opened.asset)
    return replace(opened, asset=splats, lost=[*opened.lost, *dropped])


def write_ply_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """3DGS PLY with a comment that says which way is up."""
    write_bytes(path, ply_bytes(splats, frame))


def write_sog_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """SOG, which says in its ``meta.json`` which way is up."""
    write_bytes(path, sog_bytes(splats, frame))


def write_splat_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """antimatter15's ``.splat``."""
    write_bytes(path, splat_bytes(splats))


def write_spz_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """SPZ."""
    write_bytes(path, spz_bytes(splats))


def write_gltf_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """glTF's ``KHR_gaussian_splatting``."""
    write_bytes(path, gltf_splat_bytes(splats, path.stem))


def write_usd_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """USD's ``ParticleField3DGaussianSplat`` in a USDZ package."""
    write_bytes(path, usd_splat_bytes(splats, frame, path.stem))
