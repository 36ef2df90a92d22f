"""Clouds of splats and their files: :func:`read_splats`, :func:`write_splats`, and what the table of formats names.

Readers and writers here see the file's own axes; turning is done where files are opened and written.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from threedistill.atomic import write_bytes
from threedistill.exports.formats import writable
from threedistill.exports.frames import Axis, Frame, frame_of
from threedistill.exports.gltf_splats import gltf_splat_bytes, read_gltf_splats
from threedistill.exports.opened import Opened
from threedistill.exports.read import open_file
from threedistill.exports.settings import FileSettings
from threedistill.exports.sog import read_sog, sog_bytes
from threedistill.exports.splat_bytes import read_splat, splat_bytes
from threedistill.exports.splat_ply import ply_bytes, read_ply
from threedistill.exports.spz import read_spz, spz_bytes
from threedistill.exports.write import write_file
from threedistill.types import Splats

__all__ = ["read_splats", "write_splats"]


def write_splats(splats: Splats, path: Path | str, settings: FileSettings | None = None) -> None:
    """Write one file in the format its suffix names (.ply .splat .spz .sog .glb), whole or not at all.

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
    """3DGS PLY; ours say which way is up."""
    return _opened(*read_ply(path, path.read_bytes()))


def read_sog_file(path: Path) -> Opened:
    """SOG; ours say which way is up."""
    return _opened(*read_sog(path, path.read_bytes()))


def read_splat_file(path: Path) -> Opened:
    """antimatter15's ``.splat``."""
    return Opened(read_splat(path, path.read_bytes()))


def read_spz_file(path: Path) -> Opened:
    """SPZ."""
    return Opened(read_spz(path, path.read_bytes()))


def read_gltf_file(path: Path) -> Opened:
    """glTF's ``KHR_gaussian_splatting``."""
    return Opened(read_gltf_splats(path))


def _opened(splats: Splats, up: str | None) -> Opened:
    return Opened(splats, frame_of(up) if up in get_args(Axis) else None)  # type: ignore[arg-type]


def write_ply_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """3DGS PLY with a comment that says which way is up."""
    write_bytes(path, ply_bytes(splats, frame.up))


def write_sog_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """SOG, which says in its ``meta.json`` which way is up."""
    write_bytes(path, sog_bytes(splats, frame.up))


def write_splat_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """antimatter15's ``.splat``."""
    write_bytes(path, splat_bytes(splats))


def write_spz_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """SPZ."""
    write_bytes(path, spz_bytes(splats))


def write_gltf_file(splats: Splats, path: Path, settings: FileSettings, frame: Frame) -> None:
    """glTF's ``KHR_gaussian_splatting``."""
    write_bytes(path, gltf_splat_bytes(splats, path.stem))
