"""Writing and reading clouds of splats: one function each, the suffix names the format.

Inside, a cloud is in our frame (+Y up, front +Z). Files of the 3DGS tools have y pointing down by habit; SPZ and glTF
define +Y up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from threedistill.atomic import write_bytes
from threedistill.errors import ThreedistillError, UsageError, nearest
from threedistill.exports.gltf_splats import gltf_splat_bytes, read_gltf_splats
from threedistill.exports.sog import read_sog, sog_bytes
from threedistill.exports.splat_bytes import read_splat, splat_bytes
from threedistill.exports.splat_cloud import (
    SplatUp,
    check_splats,
    from_file_frame,
    into_file_frame,
    with_degree,
)
from threedistill.exports.splat_ply import ply_bytes, read_ply
from threedistill.exports.spz import read_spz, spz_bytes
from threedistill.render.harmonics import MAX_DEGREE
from threedistill.types import Splats

__all__ = ["SPLAT_SUFFIXES", "SplatSettings", "read_splats", "write_splats"]

SPLAT_SUFFIXES = (".ply", ".splat", ".spz", ".sog", ".glb", ".gltf")
#: What a file begins with -> the suffix it should have.
_BEGINNINGS = {b"ply": ".ply", b"glTF": ".glb", b"\x1f\x8b": ".spz", b"NGSP": ".spz", b"PK\x03\x04": ".sog"}
_ALIKE = {".gltf": ".glb"}


@dataclass(frozen=True)
class SplatSettings:
    """How a cloud is written.

    Arguments:
        sh_degree: harmonics up to this degree (0 to 3), padded with zeros where there are fewer; None keeps them.
            ``.splat`` has room for degree 0 only.
        up: the axis that points up in PLY, ``.splat`` and ``.sog``; SPZ and glTF are +Y up by definition.
    """

    sh_degree: int | None = None
    up: SplatUp = "-y"

    def __post_init__(self) -> None:
        if self.sh_degree is not None and not 0 <= self.sh_degree <= MAX_DEGREE:
            raise UsageError(
                f"sh_degree={self.sh_degree} must lie in [0, 3]: splats have no higher harmonics"
            )
        if self.up not in ("-y", "y", "z"):
            raise UsageError(f"up={self.up!r} must be -y, y or z")


def write_splats(splats: Splats, path: Path | str, settings: SplatSettings | None = None) -> None:
    """Write one file in the format its suffix names (.ply .splat .spz .sog .glb), whole or not at all.

    Arguments:
        splats: the cloud, in our frame, on any device.
        path: where.
        settings: see :class:`SplatSettings`.

    Raises:
        UsageError: a suffix that is no format for splats.
        ThreedistillError: no splats, numbers that are not finite, or a place that cannot be written.
    """
    path, settings = Path(path), settings or SplatSettings()
    suffix = path.suffix.lower()
    writable = [s for s in SPLAT_SUFFIXES if s != ".gltf"]
    if suffix not in writable:
        close = nearest(suffix, writable, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"cannot write {path}: {hint}splats are written as {', '.join(s[1:] for s in writable)}"
        )
    check_splats(splats, f"cannot write {path}")
    cloud = with_degree(_on_cpu(splats), settings.sh_degree)
    if suffix == ".spz":
        data = spz_bytes(cloud)
    elif suffix == ".glb":
        data = gltf_splat_bytes(cloud, path.stem)
    else:
        cloud = into_file_frame(cloud, settings.up)
        if suffix == ".ply":
            data = ply_bytes(cloud, settings.up)
        elif suffix == ".sog":
            data = sog_bytes(cloud, settings.up)
        else:
            data = splat_bytes(cloud)
    write_bytes(path, data)


def read_splats(path: Path | str, up: SplatUp | None = None) -> Splats:
    """A cloud from any of the formats, in our frame (+Y up).

    Arguments:
        path: the file.
        up: which axis points up in a PLY, ``.splat`` or ``.sog``; None = what the file says (ours do), else -y.

    Raises:
        ThreedistillError: missing, unknown, damaged, empty or wrongly named files, in one line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SPLAT_SUFFIXES:
        names = " ".join(s[1:] for s in SPLAT_SUFFIXES)
        raise ThreedistillError(f"cannot read {path}: splats come as {names}")
    if not path.is_file():
        raise ThreedistillError(f"cannot read {path}: there is no such file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ThreedistillError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not data:
        raise ThreedistillError(f"cannot read {path}: the file is empty")
    _check_name(path, suffix, data)
    if suffix == ".ply":
        cloud, said = read_ply(path, data)
    elif suffix == ".sog":
        cloud, said = read_sog(path, data)
    elif suffix == ".splat":
        cloud, said = read_splat(path, data), None
    else:
        cloud, said = (read_spz if suffix == ".spz" else read_gltf_splats)(path, data), "y"
        up = None
    check_splats(cloud, f"cannot use {path}")
    return from_file_frame(cloud, up or said or "-y")  # type: ignore[arg-type]


def _check_name(path: Path, suffix: str, data: bytes) -> None:
    """Raise where a file's first bytes say that it is something else than its name."""
    expected = _ALIKE.get(suffix, suffix)
    for beginning, actual in _BEGINNINGS.items():
        if data.startswith(beginning) and actual != expected:
            raise ThreedistillError(
                f"cannot read {path}: it is not what its name says, but a {actual[1:]} file"
            )


def _on_cpu(splats: Splats) -> Splats:
    return Splats(
        splats.means.detach().cpu(), splats.log_scales.detach().cpu(), splats.quaternions.detach().cpu(),
        splats.opacity_logits.detach().cpu(), splats.sh.detach().cpu(), splats.extras,
    )  # fmt: skip
