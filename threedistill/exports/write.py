"""Writing one file: the checks, the turn into the file's axes, and the writer that the table of formats names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from threedistill.errors import UsageError
from threedistill.exports.appearance.pictures import glowing
from threedistill.exports.formats import Format, named, of_kind, writable
from threedistill.exports.frames import frame_to_write, turned
from threedistill.exports.meshes import surface
from threedistill.exports.progress import step
from threedistill.exports.settings import FileSettings
from threedistill.exports.splats.cloud import check_splats, into_file_frame, with_degree
from threedistill.types import Mesh, Splats

__all__ = ["refuse_splats", "write_file", "write_format", "write_mesh"]


def write_file(asset: Mesh | Splats, path: Path, settings: FileSettings, row: Format) -> None:
    """Write an asset in one format, whole or not at all.

    Arguments:
        asset: in our frame (+Y up, front +Z), metres.
        path: where.
        settings: see :class:`FileSettings`.
        row: the format.

    Raises:
        ThreedistillError: an empty or non-finite asset, or a place that cannot be written.
    """
    assert row.write is not None
    with step(f"writing {path.name}"):
        _write(asset, path, settings, row)


def _write(asset: Mesh | Splats, path: Path, settings: FileSettings, row: Format) -> None:
    assert row.write is not None
    if isinstance(asset, Mesh):
        surface.check(asset, f"cannot write {path}")
        # What has no normals is flat to glTF's readers and to ours; other formats leave it to each program.
        if asset.normals is None and (row.name != "glb" or asset.normal_map is not None):
            asset = replace(asset, normals=surface.vertex_normals(asset.vertices, asset.faces))
        if settings.unlit:  # what is shown unlit has one colour
            asset = glowing(asset)
        frame = frame_to_write(row, settings.up)
        row.write(turned(asset, frame.to_ours().T), path, settings, frame)
    else:
        check_splats(asset, f"cannot write {path}")
        frame = frame_to_write(row, settings.splat_up, settings.splat_front)
        cloud = into_file_frame(with_degree(_on_cpu(asset), settings.sh_degree), frame)
        row.write(cloud, path, settings, frame)


def write_mesh(mesh: Mesh, path: Path | str, settings: FileSettings | None = None) -> None:
    """Write one file (OBJ: with its MTL and PNG) in the format its suffix names, whole or not at all.

    Raises:
        UsageError: a suffix that is no format.
        ThreedistillError: an empty or non-finite mesh, or a place that cannot be written.
    """
    path = Path(path)
    write_file(mesh, path, settings or FileSettings(), writable(path, "mesh"))


def write_format(
    name: str, mesh: Mesh | None, splats: Splats | None, path: Path, settings: FileSettings
) -> Path:
    """Write the format of this name, from the splats or from the mesh; returns the path."""
    row = named(name)
    asset = splats if row.kind == "splats" else mesh
    assert asset is not None
    write_file(asset, path, settings, row)
    return path


def refuse_splats(names: Sequence[str]) -> None:
    """Raise UsageError if any of the formats holds splats."""
    wanted = [name for name in names if name in of_kind("splats")]
    if wanted:
        raise UsageError(f"--format {wanted[0]}: there are no splats to write")


def _on_cpu(splats: Splats) -> Splats:
    return Splats(
        splats.means.detach().cpu(), splats.log_scales.detach().cpu(), splats.quaternions.detach().cpu(),
        splats.opacity_logits.detach().cpu(), splats.sh.detach().cpu(), splats.extras,
    )  # fmt: skip
