"""From an optimised representation to files that other programs open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.exports.asset import build_asset, export_asset
    from threedistill.exports.foreign.opened import Opened
    from threedistill.exports.formats import Format, format_of, named, of_kind
    from threedistill.exports.frames import Frame
    from threedistill.exports.read import open_file, read_mesh
    from threedistill.exports.settings import AssetSettings, ExportSettings, FileSettings
    from threedistill.exports.write import write_file, write_mesh
    from threedistill.types import Mesh, Splats

__all__ = [
    "AssetSettings", "ExportSettings", "FileSettings", "Format", "Frame", "Mesh", "Opened", "Splats", "build_asset",
    "export_asset", "format_of", "named", "of_kind", "open_file", "read_mesh", "write_file", "write_mesh",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
