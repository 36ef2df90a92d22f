"""MTL, OBJ's material files, PBR keys included, as :class:`~threedistill.exports.appearance.materials.Material`.

Sources: Alias|Wavefront, "Object Files (.obj)" and "MTL Material Format", 1995; the PBR extension by Exocortex (``Pm``
``Pr`` ``map_Pm`` ``norm``), which Blender writes; roughness from ``Ns`` as Blender's importer has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from threedistill.exports.appearance.materials import Lookup, Material
from threedistill.exports.foreign.beside import Pictures
from threedistill.render.shading import srgb_to_linear

__all__ = ["Entry", "materials", "parsed"]

#: Option of a map -> how many words it takes at most; those that are no numbers end it.
_OPTIONS = {
    "-s": 3, "-o": 3, "-t": 3, "-mm": 2, "-blendu": 1, "-blendv": 1, "-boost": 1, "-texres": 1, "-clamp": 1, "-bm": 1,
    "-imfchan": 1, "-type": 1, "-cc": 1,
}  # fmt: skip
_WORDS = {"-blendu", "-blendv", "-clamp", "-imfchan", "-type", "-cc"}
_KNOWN_MAPS = ("map_kd", "map_ke", "map_d", "map_pr", "map_pm", "norm")
#: Maps without an equal here, and what they are.
_LOST = {
    "map_ks": "specular maps", "map_ns": "specular maps", "map_bump": "bump maps", "bump": "bump maps",
    "disp": "displacement maps", "refl": "reflection maps", "map_ka": None, "decal": "decals",
}  # fmt: skip


@dataclass
class Entry:
    """One ``newmtl``: its numbers and its maps by key in lower case, as they stand."""

    numbers: dict[str, list[float]] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)


def parsed(text: str) -> tuple[dict[str, Entry], bool]:
    """The materials of a file by name, and whether its colours are linear.

    The format does not say which colours it means. MeshLab, three.js and most viewers show ``Kd 0.5`` as the grey 0.5
    of a picture (sRGB); Blender writes linear numbers, and says that it wrote the file.
    """
    found: dict[str, Entry] = {}
    entry = Entry()
    for line in text.splitlines():
        key, rest = (*line.split(None, 1), "", "")[:2]
        key, rest = key.lower(), rest.strip()
        if key == "newmtl":
            entry = found.setdefault(rest, Entry())
        elif key in _KNOWN_MAPS or key in _LOST:
            entry.maps[key] = rest
        elif key and not key.startswith("#"):
            entry.numbers[key] = _numbers(rest.split())
    return found, bool(re.match(r"\s*#\s*Blender", text))


def materials(path: Path, entries: dict[str, Entry], linear: bool, lost: list[str]) -> dict[str, Material]:
    """The materials by name.

    Arguments:
        path: the OBJ, in whose folder the pictures are.
        entries, linear: from :func:`parsed`.
        lost: gets what cannot be kept.

    Raises:
        ThreedistillError: a picture that is missing, damaged or too large.
    """
    pictures = Pictures(path)
    return {name: _material(entry, linear, pictures, lost) for name, entry in entries.items()}


def _material(entry: Entry, linear: bool, pictures: Pictures, lost: list[str]) -> Material:
    def lookup(key: str) -> Lookup | None:
        return _lookup(pictures, key, entry.maps[key], lost) if key in entry.maps else None

    def number(key: str, default: float) -> float:
        return (entry.numbers.get(key) or [default])[0]

    for key in entry.maps:
        if name := _LOST.get(key):
            lost.append(name)
    base, glow, cover = lookup("map_kd"), lookup("map_ke"), lookup("map_d")
    if cover is not None:
        base = _covered(base, cover, lost)
    diffuse = _color(entry, "kd", 1.0, linear)
    emitted = _color(entry, "ke", 0.0, linear)
    if glow is not None and "ke" not in entry.numbers:
        emitted = (1.0, 1.0, 1.0)
    opacity = number("d", 1.0 - number("tr", 0.0))
    shine = number("ns", 0.0) if max(_color(entry, "ks", 0.0, True)) > 0 else 0.0
    metal, rough = lookup("map_pm"), lookup("map_pr")
    see_through = opacity < 1 or cover is not None
    return Material(
        color=(*diffuse, min(max(opacity, 0.0), 1.0)),
        base=base,
        metallic=number("pm", 1.0 if metal is not None else 0.0),
        roughness=number(
            "pr", 1.0 if rough is not None else 1 - (min(max(shine, 0.0), 1000.0) / 1000) ** 0.5
        ),
        packed=_packed(metal, rough, lost),
        normal=lookup("norm"),
        glow=emitted,
        emission=glow if max(emitted) > 0 else None,
        alpha="blend" if see_through else "opaque",
        unlit=(entry.numbers.get("illum") or [2.0])[0] == 0,
    )


def _color(entry: Entry, key: str, default: float, linear: bool) -> tuple[float, float, float]:
    """A colour of three numbers, or of one for all, as linear light."""
    given = entry.numbers.get(key) or [default]
    rgb = torch.tensor((given * 3)[:3] if len(given) < 3 else given[:3]).clamp(min=0)
    if not linear:
        rgb = torch.where(rgb <= 1, srgb_to_linear(rgb.clamp(0, 1)), rgb)
    r, g, b = rgb.tolist()
    return r, g, b


def _lookup(pictures: Pictures, key: str, line: str, lost: list[str]) -> Lookup:
    """The picture of a map's line, with its options."""
    options, name = _options(line)
    picture = pictures.named(name, f"the picture of {key.replace('kd', 'Kd').replace('ke', 'Ke')}")
    scale, offset = [*_numbers(options.get("-s", [])), 1.0, 1.0], [*_numbers(options.get("-o", [])), 0.0, 0.0]
    if "-mm" in options and _numbers(options["-mm"]) not in ([0, 1], [0]):
        lost.append(f"the option -mm of {key}")
    if any(_numbers(options.get("-t", []))):
        lost.append(f"the option -t of {key}")
    clamp = options.get("-clamp") == ["on"]
    return Lookup(
        picture,
        transform=((scale[0], 0.0, offset[0]), (0.0, scale[1], offset[1])),
        wrap=("clamp", "clamp") if clamp else ("repeat", "repeat"),
    )


def _options(line: str) -> tuple[dict[str, list[str]], str]:
    """The options of a map and the name behind them, which may hold spaces."""
    found: dict[str, list[str]] = {}
    rest = line.strip()
    while (match := re.match(r"(-[a-z]+)(\s+|$)", rest)) and match.group(1) in _OPTIONS:
        option, rest = match.group(1), rest[match.end() :]
        words: list[str] = []
        while len(words) < _OPTIONS[option] and (word := re.match(r"(\S+)(\s+|$)", rest)):
            if option not in _WORDS and not _numbers([word.group(1)]):
                break
            words.append(word.group(1))
            rest = rest[word.end() :]
        found[option] = words
    return found, rest


def _numbers(words: list[str]) -> list[float]:
    """The words that are numbers."""
    found = []
    for word in words:
        try:
            found.append(float(word))
        except ValueError:
            continue
    return found


def _covered(base: Lookup | None, cover: Lookup, lost: list[str]) -> Lookup:
    """The colour's picture with the coverage of ``map_d`` in its fourth channel (its red one, or its own alpha)."""
    own_alpha = bool((cover.picture[..., 3] < 255).any())
    values = cover.picture[..., 3] if own_alpha else cover.picture[..., 0]
    if base is None:
        white = torch.full_like(cover.picture, 255)
        return Lookup(torch.cat([white[..., :3], values[..., None]], -1), 0, cover.transform, cover.wrap)
    if base.picture.shape[:2] != cover.picture.shape[:2] or base.transform != cover.transform:
        lost.append("coverage maps of another size than the colour's")
        return base
    return Lookup(torch.cat([base.picture[..., :3], values[..., None]], -1), 0, base.transform, base.wrap)


def _packed(metal: Lookup | None, rough: Lookup | None, lost: list[str]) -> Lookup | None:
    """glTF's packing of two grey pictures: roughness in green, metalness in blue."""
    known = metal or rough
    if known is None:
        return None
    if metal is not None and rough is not None and metal.picture.shape != rough.picture.shape:
        lost.append("a metalness map of another size than the roughness map")
        metal = None
    white = torch.full_like(known.picture[..., 0], 255)
    channels = [
        white,
        rough.picture[..., 0] if rough is not None else white,
        metal.picture[..., 0] if metal is not None else white,
        white,
    ]
    return Lookup(torch.stack(channels, -1), 0, known.transform, known.wrap)
