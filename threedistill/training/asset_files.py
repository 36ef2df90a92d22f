"""From what was optimised to the files of its asset, as a surface, as splats, or as both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from threedistill.exports.asset import ExportSettings, build_asset, export_asset, placed_splats
from threedistill.exports.formats import of_kind
from threedistill.protocols import Surface
from threedistill.types import Mesh, Splats

__all__ = ["splats_for", "write_asset"]


def write_asset(
    representation: Surface, folder: Path, settings: ExportSettings, extras: Mapping[str, object]
) -> list[Path]:
    """Write the asset in every format asked for; the paths, meshes first.

    A representation made of splats always gets its ``model.glb`` (evaluation and other programs want a surface) and
    its ``splats.ply``, whatever else is asked for.

    Raises:
        UsageError: mp4 without its encoder.
        ThreedistillError: nothing to extract, or a place that cannot be written.
    """
    if representation.splats() is not None:
        settings = replace(settings, formats=tuple(dict.fromkeys(["glb", *settings.formats, "3dgs"])))
    mesh = build_asset(representation, settings, extras)
    return export_asset(mesh, folder, settings, splats_for(settings.formats, mesh, representation))


def splats_for(formats: Sequence[str], mesh: Mesh, source: Surface | None = None) -> Splats | None:
    """The asset as splats, in its mesh's frame: its own, or flat ones on the surface; None where no format asks.

    Arguments:
        formats: what is to be written.
        mesh: the asset, made by :func:`threedistill.exports.asset.build_asset` where ``source`` is given.
        source: what it was made of.
    """
    if not set(formats) & set(of_kind("splats")):
        return None
    own = None if source is None else source.splats()
    if own is not None:
        return placed_splats(own, mesh)
    from threedistill.representations.convert import as_splats

    return replace(as_splats(mesh), extras={k: v for k, v in mesh.extras.items() if k != "texture layout"})
