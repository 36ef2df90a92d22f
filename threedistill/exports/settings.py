"""The settings of an export: how an asset is made, and how it is written into files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from threedistill.exports.formats import formats
from threedistill.exports.meshes.surface import Origin
from threedistill.render.harmonics import MAX_DEGREE

__all__ = ["AssetSettings", "ExportSettings", "FileSettings", "PassName"]

PassName = Literal["color", "normal", "depth"]


@dataclass(frozen=True)
class AssetSettings:
    """How an asset is made: its surface, its budget, its texture, its size.

    Arguments:
        resolution: samples per axis when the surface is extracted.
        faces: triangles at most.
        texture_size: texels a side, a power of two; 0 keeps vertex colours instead of a texture.
        smooth_iterations: Taubin iterations on the extracted surface; 0 leaves its staircase.
        keep_fraction: components with less than this fraction of the largest one's area are dropped, and so are
            those inside others; 0 keeps every one.
        gutter: texels between charts, filled with the charts' colours.
        unit_size: longest side, metres.
        origin: at the centre of the bounding box, or of its base.
        normal_map: the relief that decimation takes away is baked into a normal map (needs ``unlit=false``: unlit
            colours have no normals).
        unwrap_max_faces, unwrap_max_charts: beyond either, a box projection replaces xatlas.
    """

    resolution: int = 160
    faces: int = 10_000
    texture_size: int = 512
    smooth_iterations: int = 10
    keep_fraction: float = 0.025
    gutter: int = 4
    unit_size: float = 1.0
    origin: Origin = "center"
    normal_map: bool = False
    unwrap_max_faces: int = 30_000
    unwrap_max_charts: int = 2_000

    def __post_init__(self) -> None:
        _check_ranges(self, {
            "resolution": (8, 1024), "faces": (12, 10_000_000), "smooth_iterations": (0, 1000),
            "keep_fraction": (0, 1), "gutter": (1, 64), "unit_size": (1e-4, 1e4),
            "unwrap_max_faces": (0, 10_000_000), "unwrap_max_charts": (0, 10_000_000),
        })  # fmt: skip
        size = self.texture_size
        if size and not (16 <= size <= 8192 and size & (size - 1) == 0):
            raise ValueError(
                f"export.texture_size={size} must be a power of two in [16, 8192], or 0 for vertex colours"
            )
        if size and size < 4 * self.gutter:
            raise ValueError(
                f"export.gutter={self.gutter} leaves no room in export.texture_size={size}: at most {size // 4}"
            )
        if self.origin not in ("center", "base"):
            raise ValueError(f"export.origin={self.origin!r} must be center or base")
        if self.normal_map and not self.texture_size:
            raise ValueError("export.normal_map needs a texture: export.texture_size=512")


@dataclass(frozen=True)
class FileSettings:
    """How an asset is written: its axes, its unit, its degree, its pictures.

    Arguments:
        up: the axis that points up in mesh files whose format leaves it open; None = the format's habit (STL: z).
        splat_up: the same in splat files (their habit is -y); SPZ and glTF define +Y.
        splat_front: the axis that the front faces in splat files; None = what goes with their up axis (with -y it is z,
            half a turn about z; -z is half a turn about x, which some viewers undo).
        sh_degree: harmonics of splats up to this degree, padded with zeros; None keeps what there is. ``.splat`` has
            room for degree 0 only.
        stl_size: longest side in STL files, millimetres.
        obj_glow: in OBJ, unlit colours are emitted (``map_Ke``): right in Blender and three.js, but unseen where only
            ``map_Kd`` is read.
        unlit: the colours contain their light: viewers show them as they are (``KHR_materials_unlit``).
        turntable_frames: frames of a turntable; 0 writes neither ``turntable.webp`` nor ``sheet.png``.
        turntable_passes: what a turntable shows side by side.
        preview_size: pixels a side of turntable frames and sheet cells.
    """

    up: Literal["y", "z"] | None = None
    splat_up: Literal["-y", "y", "z"] | None = None
    splat_front: Literal["x", "-x", "y", "-y", "z", "-z"] | None = None
    sh_degree: int | None = None
    stl_size: float = 100.0
    obj_glow: bool = False
    unlit: bool = True
    turntable_frames: int = 24
    turntable_passes: tuple[PassName, ...] = ("color",)
    preview_size: int = 256

    def __post_init__(self) -> None:
        _check_ranges(
            self, {"stl_size": (1e-2, 1e5), "turntable_frames": (0, 1000), "preview_size": (16, 4096)}
        )
        if self.up not in (None, "y", "z"):
            raise ValueError(f"export.up={self.up!r} must be y or z")
        if self.splat_up not in (None, "-y", "y", "z"):
            raise ValueError(f"export.splat_up={self.splat_up!r} must be -y, y or z")
        axes = ("x", "-x", "y", "-y", "z", "-z")
        if self.splat_front not in (None, *axes):
            raise ValueError(f"export.splat_front={self.splat_front!r} must be one of {', '.join(axes)}")
        if self.sh_degree is not None and self.sh_degree not in range(MAX_DEGREE + 1):
            raise ValueError(
                f"export.sh_degree={self.sh_degree} must lie in [0, {MAX_DEGREE}]: splats have no higher harmonics"
            )
        if not self.turntable_passes:
            raise ValueError("export.turntable_passes is empty: name at least one of color, normal, depth")


@dataclass(frozen=True)
class ExportSettings(AssetSettings, FileSettings):
    """Both, as the configuration holds them side by side (``export.faces``, ``export.up``), and what is written.

    Arguments:
        formats: names of :func:`threedistill.exports.formats.formats`.
    """

    formats: tuple[str, ...] = ("glb",)

    def __post_init__(self) -> None:
        AssetSettings.__post_init__(self)
        FileSettings.__post_init__(self)
        if self.normal_map and self.unlit:
            raise ValueError(
                "export.normal_map needs export.unlit=false: unlit colours are shown without normals"
            )
        if not self.formats:
            raise ValueError(f"export.formats is empty: name at least one of {', '.join(formats())}")
        known = formats()
        if unknown := [name for name in self.formats if name not in known]:
            raise ValueError(f"export.formats: no format {unknown[0]!r} (there are {', '.join(known)})")


def _check_ranges(settings: object, ranges: dict[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise ValueError(f"export.{name}={value} must lie in [{low:g}, {high:g}]")
