"""Opening a file again: what other programs would see, in our frame, checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.limits import check as check_limit
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.formats import Format, Kind, format_of, formats
from threedistill.exports.frames import Axis, frame_in_file, turned
from threedistill.exports.meshes.surface import check
from threedistill.exports.progress import step
from threedistill.exports.splats.cloud import check_splats, from_file_frame
from threedistill.exports.splats.upside_down import upside_down
from threedistill.types import Mesh, Splats

__all__ = ["open_file", "read_asset", "read_asset_splats", "read_mesh"]


def open_file(
    path: Path | str, kind: Kind | None = None, up: Axis | None = None, front: Axis | None = None,
    row: Format | None = None,
) -> Opened:  # fmt: skip
    """The mesh or the splats in a file, in our frame (+Y up, front +Z), in metres where the file knows its unit.

    Arguments:
        path: the file; its suffix says which formats are possible, its contents decide.
        kind: what it must hold; None = either.
        up, front: the file's axes; None = what the file says, else what the format defines, else its habit.
        row: its format, where :func:`format_of` was asked already (which may take opening the file); None = ask it.

    Raises:
        UsageError: a missing file, one of no known format, axes that lie on one line.
        ThreedistillError: a damaged, empty or wrongly named file, numbers that are not finite.
    """
    path = Path(path)
    row = row or format_of(path, kind)
    assert row.read is not None
    try:
        with step(f"reading {path.name}"):
            opened: Opened = row.read(path)
    except OSError as error:
        raise ThreedistillError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    frame = frame_in_file(row, opened.frame, up, front)
    if isinstance(opened.asset, Splats):
        check_splats(opened.asset, f"cannot use {path}")
        asset = from_file_frame(opened.asset, frame)
        guessed = opened.frame is None and up is None and front is None
        hint = upside_down(asset, frame) if guessed else None
        notes = [*opened.notes, f"{path.name} {hint}"] if hint else opened.notes
        return replace(opened, asset=asset, frame=frame, notes=notes)
    check_limit(path, "triangles", len(opened.asset.faces))  # readers of plug-ins need not ask
    check(opened.asset, f"cannot use {path}")
    return replace(opened, asset=turned(opened.asset, frame.to_ours()), frame=frame)


def read_mesh(path: Path | str, up: Axis | None = None, front: Axis | None = None) -> Mesh:
    """A triangle mesh from any format that holds one, in our frame; see :func:`open_file`."""
    asset = open_file(path, "mesh", up, front).asset
    assert isinstance(asset, Mesh)
    return asset


def read_asset(folder: Path) -> Mesh:
    """The mesh of the richest file in a run's asset folder.

    Raises:
        ThreedistillError: there is none.
    """
    for row in formats().values():
        if row.kind == "mesh" and row.read and (folder / row.file).exists():
            return read_mesh(folder / row.file)
    raise ThreedistillError(
        f"{folder.parent} has no asset yet; finish the run with threedistill resume {folder.parent}"
    )


def read_asset_splats(folder: Path) -> Splats:
    """The splats of the most exact file in a run's asset folder.

    Raises:
        ThreedistillError: there are none.
    """
    for row in formats().values():
        if row.kind == "splats" and row.read and (folder / row.file).exists():
            asset = open_file(folder / row.file, "splats").asset
            assert isinstance(asset, Splats)
            return asset
    raise ThreedistillError(f"{folder} holds no splats; threedistill export makes them from its surface")
