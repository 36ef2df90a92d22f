"""Every file an asset can become: its name, its kind, what it is for. Standard library only."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

__all__ = ["FILMS", "FORMATS", "MESHES", "SPLATS", "Format", "FormatInfo", "file_of"]

Format = Literal[
    "glb", "obj", "ply", "stl", "usdz", "3dgs", "splat", "spz", "sog", "gltf-splat", "mp4", "gif", "webp", "sheet"
]  # fmt: skip


class FormatInfo(NamedTuple):
    """One format.

    Attributes:
        file: the name of its file in an asset folder.
        kind: what it holds.
        about: one line for users.
    """

    file: str
    kind: Literal["mesh", "splats", "film"]
    about: str


FORMATS: dict[str, FormatInfo] = {
    "glb": FormatInfo("model.glb", "mesh", "binary glTF 2.0 with its textures inside"),
    "obj": FormatInfo("model.obj", "mesh", "Wavefront OBJ with MTL and PNG"),
    "ply": FormatInfo("model.ply", "mesh", "mesh with vertex colours"),
    "stl": FormatInfo("model.stl", "mesh", "shape only, millimetres, for printing"),
    "usdz": FormatInfo("model.usdz", "mesh", "USD with its textures inside"),
    "3dgs": FormatInfo("splats.ply", "splats", "Gaussian splats as the 3DGS tools write them"),
    "splat": FormatInfo("splats.splat", "splats", "Gaussian splats, 32 bytes each, no view dependence"),
    "spz": FormatInfo("splats.spz", "splats", "Gaussian splats, compressed (Niantic)"),
    "sog": FormatInfo("splats.sog", "splats", "Gaussian splats, compressed (PlayCanvas)"),
    "gltf-splat": FormatInfo("splats.glb", "splats", "Gaussian splats in glTF, KHR_gaussian_splatting"),
    "mp4": FormatInfo("turntable.mp4", "film", "turntable, H.264 (extra video)"),
    "gif": FormatInfo("turntable.gif", "film", "turntable, 256 colours"),
    "webp": FormatInfo("turntable.webp", "film", "turntable"),
    "sheet": FormatInfo("sheet.png", "film", "eight views with normals and depth"),
}
assert tuple(FORMATS) == get_args(Format)

MESHES = tuple(name for name, info in FORMATS.items() if info.kind == "mesh")
SPLATS = tuple(name for name, info in FORMATS.items() if info.kind == "splats")
FILMS = tuple(name for name, info in FORMATS.items() if info.kind == "film")


def file_of(name: str) -> str:
    """The file of a format in an asset folder."""
    return FORMATS[name].file
