"""The one table of file formats: writing, reading, ``convert``, ``Result.export``, ``--init``, ``list formats`` and the
documentation look everything up here. Standard library only; readers and writers are imported on first use.

A plug-in adds a format with a file ``format/NAME.yaml`` in its folder of configurations: the same columns, readers and
writers as ``package.module:function`` (docs/extend/format.md).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from threedistill.errors import ThreedistillError, UsageError, nearest
from threedistill.plugins import config_dirs

__all__ = [
    "FORMATS", "Aspect", "Format", "Kind", "file_of", "format_of", "formats", "later", "markdown", "named",
    "of_kind", "readable_suffixes", "writable", "writable_suffixes",
]  # fmt: skip

Kind = Literal["mesh", "splats", "film"]
#: What an asset can have and a format may be unable to hold.
Aspect = Literal[
    "texture", "vertex colours", "normal map", "metalness and roughness", "emission", "transparency",
    "view dependence", "unlit", "facts",
]  # fmt: skip
_ASPECTS: tuple[str, ...] = get_args(Aspect)


@dataclass(frozen=True)
class Format:
    """One format.

    Arguments:
        name: what ``--format`` calls it.
        suffix: of its files, lower case, with the dot.
        file: its file in an asset folder.
        kind: what it holds; a film is written from a mesh and never read.
        about: one line for users.
        read: ``path -> Opened``; None where files are only written.
        write: ``(asset, path, FileSettings, Frame)``, the asset already in that frame; None where files are only read.
        sniff: whether a file with the suffix holds this format, where several formats share one.
        frame: the axis that points up by the format's habit or definition.
        fixed: the frame is the format's definition: settings do not change it.
        loses: what it cannot hold.
        also: further suffixes that the reader knows.
        begins: the first bytes of every file; none where the format has no such mark.
    """

    name: str
    suffix: str
    file: str
    kind: Kind
    about: str
    read: Callable[..., Any] | None = None
    write: Callable[..., Any] | None = None
    sniff: Callable[[Path], bool] | None = None
    frame: Literal["y", "-y", "z"] = "y"
    fixed: bool = False
    loses: tuple[Aspect, ...] = ()
    also: tuple[str, ...] = ()
    begins: tuple[bytes, ...] = ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Every suffix that the reader knows."""
        return (self.suffix, *self.also)


def later(place: str) -> Callable[..., Any]:
    """The function at ``module:name``, imported when it is first called: choosing a format loads nothing heavy."""
    module, _, name = place.partition(":")

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments)

    call.__qualname__ = call.__name__ = name
    call.__doc__ = place
    return call


def _ours(place: str) -> Callable[..., Any]:
    return later(f"threedistill.exports.{place}")


_MATERIAL: tuple[Aspect, ...] = ("normal map", "metalness and roughness", "emission", "transparency")
_ROWS = (
    Format(
        "glb", ".glb", "model.glb", "mesh", "binary glTF 2.0 with its textures inside", fixed=True,
        read=_ours("gltf.read:read_glb"), write=_ours("gltf.write:write_glb"), also=(".gltf",), begins=(b"glTF", b"{"),
    ),
    Format(
        "obj", ".obj", "model.obj", "mesh", "Wavefront OBJ with MTL and PNG", read=_ours("obj.read:read_obj"),
        write=_ours("obj.write:write_obj"), loses=("facts",),
    ),
    Format(
        "ply", ".ply", "model.ply", "mesh", "mesh with vertex colours", read=_ours("ply.read:read_ply_mesh"),
        write=_ours("ply.write:write_ply"), loses=("texture", *_MATERIAL, "unlit", "facts"), begins=(b"ply",),
    ),
    Format(
        "stl", ".stl", "model.stl", "mesh", "shape only, millimetres, for printing", frame="z",
        read=_ours("stl:read_stl"), write=_ours("stl:write_stl"),
        loses=("texture", "vertex colours", *_MATERIAL, "unlit", "facts"),
    ),
    Format(
        "usdz", ".usdz", "model.usdz", "mesh", "USD with its textures inside (reading: extra usd)",
        read=_ours("usd.read:read_usd"), write=_ours("usd.write:write_usdz"), also=(".usd", ".usda", ".usdc"),
        begins=(b"PK\x03\x04", b"PXR-USDC", b"#usda"),
    ),
    Format(
        "3dgs", ".ply", "splats.ply", "splats", "Gaussian splats as the 3DGS tools write them", frame="-y",
        read=_ours("splat_files:read_ply_file"), write=_ours("splat_files:write_ply_file"),
        sniff=_ours("ply.splats:is_splat_ply"), also=(".splat",), begins=(b"ply",),
        # some programs call the same file .splat
    ),
    Format(
        "splat", ".splat", "splats.splat", "splats", "Gaussian splats, 32 bytes each, no view dependence", frame="-y",
        read=_ours("splat_files:read_splat_file"), write=_ours("splat_files:write_splat_file"),
        loses=("view dependence", "facts"),
    ),
    Format(
        "ksplat", ".ksplat", "splats.ksplat", "splats", "Gaussian splats of GaussianSplats3D (mkkellogg)", frame="-y",
        read=_ours("splat_files:read_ksplat_file"), loses=("facts",),
    ),
    Format(
        "spz", ".spz", "splats.spz", "splats", "Gaussian splats, compressed (Niantic)", fixed=True, loses=("facts",),
        read=_ours("splat_files:read_spz_file"), write=_ours("splat_files:write_spz_file"),
        begins=(b"\x1f\x8b", b"NGSP"),
    ),
    Format(
        "sog", ".sog", "splats.sog", "splats", "Gaussian splats, compressed (PlayCanvas)", frame="-y",
        read=_ours("splat_files:read_sog_file"), write=_ours("splat_files:write_sog_file"), begins=(b"PK\x03\x04",),
    ),
    Format(
        "gltf-splat", ".glb", "splats.glb", "splats", "Gaussian splats in glTF, KHR_gaussian_splatting", fixed=True,
        read=_ours("splat_files:read_gltf_file"), write=_ours("splat_files:write_gltf_file"), also=(".gltf",),
        sniff=_ours("gltf.splats:is_gltf_splats"), begins=(b"glTF", b"{"),
    ),
    Format(
        "usd-splat", ".usdz", "splats.usdz", "splats",
        "Gaussian splats in USD, ParticleField3DGaussianSplat (extra usd)",
        read=_ours("usd.splats:read_usd_splats"), write=_ours("splat_files:write_usd_file"),
        also=(".usd", ".usda", ".usdc"), sniff=_ours("usd.splats:is_usd_splats"),
        begins=(b"PK\x03\x04", b"PXR-USDC", b"#usda"),
    ),
    Format(
        "mp4", ".mp4", "turntable.mp4", "film", "turntable, H.264 (extra video)", write=_ours("video:write_film"),
    ),
    Format("gif", ".gif", "turntable.gif", "film", "turntable, 256 colours", write=_ours("video:write_film")),
    Format("webp", ".webp", "turntable.webp", "film", "turntable", write=_ours("video:write_film")),
    Format(
        "sheet", ".png", "sheet.png", "film", "eight views with normals and depth", write=_ours("video:write_still"),
    ),
)  # fmt: skip

#: The formats of the package itself, by name.
FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}


def formats() -> dict[str, Format]:
    """Every format by name: ours, then those of plug-ins.

    Raises:
        UsageError: a plug-in's row that is wrong.
    """
    found = dict(FORMATS)
    for _, folder in config_dirs():
        for file in sorted((folder / "format").glob("*.yaml")):
            row = _row(file, file.stat().st_mtime_ns)
            if row.name in found:
                raise UsageError(f"{file}: there is a format {row.name!r} already; choose another file name")
            found[row.name] = row
    return found


def named(name: str) -> Format:
    """The format of this name.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    known = formats()
    if name not in known:
        close = nearest(name, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"no format {name!r}{hint} (there are {', '.join(known)})")
    return known[name]


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """The names of the formats that hold one of these kinds and can be written."""
    return tuple(name for name, row in formats().items() if row.kind in kinds and row.write)


def file_of(name: str) -> str:
    """The file of a format in an asset folder."""
    return named(name).file


def readable_suffixes(*kinds: Kind) -> tuple[str, ...]:
    """Every suffix that can be read, of these kinds or of all."""
    rows = [row for row in formats().values() if row.read and (not kinds or row.kind in kinds)]
    return tuple(dict.fromkeys(suffix for row in rows for suffix in row.suffixes))


def writable_suffixes(*kinds: Kind) -> tuple[str, ...]:
    """Every suffix that can be written, of these kinds or of all."""
    rows = [row for row in formats().values() if row.write and (not kinds or row.kind in kinds)]
    return tuple(dict.fromkeys(row.suffix for row in rows))


def writable(path: Path, *kinds: Kind) -> Format:
    """The format that a path's suffix names, among those of these kinds.

    Raises:
        UsageError: there is none.
    """
    suffix = path.suffix.lower()
    for row in formats().values():
        if row.write and row.suffix == suffix and (not kinds or row.kind in kinds):
            return row
    names = writable_suffixes(*kinds)
    close = nearest(suffix, names, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    what = "splats are" if kinds == ("splats",) else "a mesh is" if "mesh" in kinds else "files are"
    raise UsageError(f"cannot write {path}: {hint}{what} written as {', '.join(n[1:] for n in names)}")


def format_of(path: Path, kind: Kind | None = None) -> Format:
    """The format of a file: its suffix says which are possible, its contents decide among them.

    Raises:
        UsageError: no such file, or a suffix that nothing reads.
        ThreedistillError: an empty file, one that is not what its name says, or one of the other kind.
    """
    suffix = path.suffix.lower()
    if suffix not in readable_suffixes():
        names = " ".join(s[1:] for s in (readable_suffixes(kind) if kind else readable_suffixes()))
        raise UsageError(f"cannot read {path}: not one of {names}")
    if not path.is_file():
        raise UsageError(f"cannot read {path}: there is no such file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ThreedistillError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not head:
        raise ThreedistillError(f"cannot read {path}: the file is empty")
    rows = [row for row in formats().values() if row.read and suffix in row.suffixes]
    _check_beginning(path, head, rows)
    if kind and not any(row.kind == kind for row in rows):
        names = " ".join(s[1:] for s in readable_suffixes(kind))
        what = "splats come as" if kind == "splats" else "a mesh comes as"
        raise UsageError(f"cannot read {path}: {what} {names}")
    sniffed = next((row for row in rows if row.sniff and row.sniff(path)), None)
    plain = [row for row in rows if row.sniff is None]
    if sniffed and kind in (None, sniffed.kind):
        return sniffed
    if sniffed and kind == "mesh":
        raise ThreedistillError(f"cannot read {path} as a mesh: it holds splats")
    # What no sniffer claims and was asked for goes to its reader, which says what is missing.
    return next(row for row in (*plain, *rows) if kind in (None, row.kind))


def _check_beginning(path: Path, head: bytes, rows: Iterable[Format]) -> None:
    """Raise where a file's first bytes are another format's and none of those that its name allows."""
    if any(head.startswith(mark) for row in rows for mark in row.begins):
        return
    for row in formats().values():
        if any(len(mark) > 1 and head.startswith(mark) for mark in row.begins):
            actual = row.suffix[1:] if not head.startswith(b"PK") else "zip (sog or usdz)"
            raise ThreedistillError(f"cannot read {path}: it is not what its name says, but a {actual} file")


def markdown() -> str:
    """The table for the documentation."""
    lines = ["| `--format` | file | holds | up | read | cannot hold |", "|---|---|---|---|---|---|"]
    for row in FORMATS.values():
        up = "-" if row.kind == "film" else f"+{row.frame.upper()}".replace("+-", "-")
        up += " (defined)" if row.fixed else ""
        read = " ".join(s[1:] for s in row.suffixes) if row.read else "-"
        cells = [f"`{row.name}`", f"`{row.file}`", row.about, up, read, ", ".join(row.loses) or "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@functools.lru_cache(maxsize=64)
def _row(file: Path, changed: int) -> Format:
    """A plug-in's row; ``changed``, the file's time, makes an edited file be read anew."""
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        given = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise UsageError(f"{file} is not a mapping; see docs/extend/format.md")
    known = {f.name for f in fields(Format)} - {"name", "about"}
    if unknown := [str(key) for key in given if key not in known]:
        close = nearest(unknown[0], known, 1)
        hint = f"did you mean {close[0]}?" if close else f"a format has {', '.join(sorted(known))}"
        raise UsageError(f"{file}: unknown key {unknown[0]!r}; {hint}")
    about = next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")), "")
    values: dict[str, Any] = {
        "name": file.stem,
        "about": about,
        "file": f"model{given.get('suffix', '')}",
        **given,
    }
    for key in ("suffix", "kind"):
        if not isinstance(values.get(key), str):
            raise UsageError(f"{file}: {key} is missing or no text")
    if values["kind"] not in get_args(Kind):
        raise UsageError(f"{file}: kind={values['kind']!r} is none of {', '.join(get_args(Kind))}")
    if not values["suffix"].startswith(".") or values["suffix"] != values["suffix"].lower():
        raise UsageError(f"{file}: suffix={values['suffix']!r} must be lower case and begin with a dot")
    if values.get("frame", "y") not in ("y", "-y", "z"):
        raise UsageError(f"{file}: frame={values['frame']!r} must be y, -y or z")
    for key in ("read", "write", "sniff"):
        if (place := values.get(key)) is not None:
            if not isinstance(place, str) or place.count(":") != 1:
                raise UsageError(f"{file}: {key}={place!r} must be package.module:function")
            values[key] = later(place)
    if not values.get("read") and not values.get("write"):
        raise UsageError(f"{file}: a format needs read, write or both")
    for key in ("loses", "also", "begins"):
        listed = values.get(key) or []
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise UsageError(
                f"{file}: {key}={listed!r} must be a list of texts (in quotes where YAML reads a word)"
            )
        values[key] = tuple(listed)
    if wrong := [aspect for aspect in values["loses"] if aspect not in _ASPECTS]:
        raise UsageError(f"{file}: loses names {wrong[0]!r}, which is none of {', '.join(_ASPECTS)}")
    values["begins"] = tuple(mark.encode() for mark in values["begins"])
    return Format(**values)
