"""Meshes from USD (``.usd .usda .usdc .usdz``) through USD's own library, the extra ``usd``."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.appearance.joined import Part, joined
from threedistill.exports.appearance.materials import Alpha, Lookup, Material
from threedistill.exports.files import facts_in
from threedistill.exports.foreign.beside import Pictures
from threedistill.exports.foreign.isolated import isolated
from threedistill.exports.foreign.limits import check
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.frames import frame_of
from threedistill.exports.meshes.polygons import triangulated
from threedistill.types import Wrap

__all__ = ["read_usd"]

_WRAPS: dict[str, Wrap] = {"clamp": "clamp", "black": "clamp", "mirror": "mirror"}
_CHANNELS = {"r": 0, "g": 1, "b": 2, "a": 3}
Arrays = dict[str, np.ndarray]


def read_usd(path: Path) -> Opened:
    """Every visible mesh of a stage, placed by its transforms, in metres and the stage's axes, with its materials.

    Raises:
        ThreedistillError: no meshes, damaged files, a missing picture, or the extra ``usd`` is not installed.
    """
    if importlib.util.find_spec("pxr") is None:
        raise ThreedistillError(f"cannot read {path}: USD needs its library; pip install 'threedistill[usd]'")
    arrays, facts = isolated("threedistill.exports.usd.meshes:meshes_in", path)
    check(path, "triangles", sum(len(arrays[f"{k}/corners"]) for k in range(len(facts["meshes"]))) // 3)
    lost: list[str] = list(facts["lost"])
    pictures = Pictures(path)

    def picture(number: int) -> Tensor:
        return pictures.once(number, lambda: arrays[f"picture/{number}"].tobytes(), f"picture {number}")

    materials = [_Reader(entry, picture, lost).material() for entry in facts["materials"]]
    parts: list[Part] = []
    for k, mesh in enumerate(facts["meshes"]):
        parts += _parts(arrays, k, mesh, facts["unit"], materials, facts["materials"])
    if not parts:
        raise ThreedistillError(f"cannot read {path}: it holds no triangles")
    result = joined(parts)
    result.mesh.extras = facts_in(facts["facts"])
    frame = frame_of("z" if facts["up"] == "Z" else "y")
    return Opened(result.mesh, frame, result.unlit, [*dict.fromkeys([*lost, *result.lost])])


def _parts(
    arrays: Arrays, k: int, mesh: dict[str, Any], unit: float, materials: list[tuple[Material, bool]],
    entries: list[dict[str, Any]],
) -> list[Part]:  # fmt: skip
    """One mesh, a part for each of its materials."""
    matrix = arrays[f"{k}/matrix"]
    points = (arrays[f"{k}/points"] @ matrix[:3, :3] + matrix[3, :3]) * unit
    corners, counts = arrays[f"{k}/corners"], arrays[f"{k}/counts"]
    faces, owner = triangulated(points, corners, counts)
    if mesh["left"] != (np.linalg.det(matrix[:3, :3]) < 0):  # a mirror turns the other way round once more
        faces = faces[:, ::-1]
    found = []
    for index, number in enumerate(mesh["materials"]):
        own = faces[arrays[f"{k}/owner"][owner] == index].reshape(-1)
        if not len(own):
            continue
        material, painted = (Material(metallic=0.0), True) if number is None else materials[number]
        sets = [] if number is None else entries[number]["sets"]
        columns: dict[str, np.ndarray] = {
            f"uv/{n}": arrays[f"{k}/uv/{n}"] for n in sets if f"{k}/uv/{n}" in arrays
        }
        names = ["normals", *(["displayColor", "displayOpacity"] if painted else [])]
        columns |= {name: arrays[f"{k}/{name}"] for name in names if f"{k}/{name}" in arrays}
        keys = np.concatenate([corners[own, None].astype(np.float64), *(c[own] for c in columns.values())], 1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        rows = own[first]
        normals, color = columns.get("normals"), columns.get("displayColor")
        colors = None
        if color is not None:
            cover = columns.get("displayOpacity", np.ones((len(corners), 1), np.float32))
            colors = torch.from_numpy(np.concatenate([color, cover], 1)[rows].astype(np.float32)).clamp(0, 1)
        if normals is not None:
            normals = normals[rows] @ np.linalg.pinv(matrix[:3, :3]).T
        if mesh["double"] and not material.double_sided:
            material = replace(material, double_sided=True)
        found.append(
            Part(
                torch.from_numpy(points[corners[rows]].astype(np.float32)),
                torch.from_numpy(inverse.reshape(-1, 3).astype(np.int64)),
                None if normals is None else torch.nn.functional.normalize(_tensor(normals), dim=1),
                {n: _tensor(columns[f"uv/{s}"][rows]) for n, s in enumerate(sets) if f"uv/{s}" in columns},
                colors, material,
            )
        )  # fmt: skip
    return found


class _Reader:
    """One ``UsdPreviewSurface``.

    Arguments:
        entry: its inputs: numbers, the word ``displayColor``, or a picture.
        picture: a picture's number to the picture.
        lost: gets what cannot be kept.
    """

    def __init__(self, entry: dict[str, Any], picture: Any, lost: list[str]) -> None:
        self.entry, self.picture, self.lost = entry, picture, lost

    def material(self) -> tuple[Material, bool]:
        """The material, and whether the mesh's own ``displayColor`` is a factor of it."""
        painted = "displayColor" in (self.entry["diffuseColor"], self.entry["emissiveColor"])
        base, color = self._color("diffuseColor")
        emission, glow = self._color("emissiveColor")
        if (
            self.entry["emissiveColor"] == "displayColor"
        ):  # what is painted glows: that is the whole of its colour
            base, color, glow = None, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
        packed, metallic, roughness = self._packed()
        opacity, threshold = self.entry["opacity"], self.entry["opacityThreshold"]
        alpha: Alpha = "opaque"
        cover = 1.0
        if isinstance(opacity, dict):
            same = base is not None and opacity["picture"] == self.entry["diffuseColor"]["picture"]
            if same and opacity["channel"] == "a":
                alpha = "mask" if isinstance(threshold, list) and threshold[0] > 0 else "blend"
            else:
                self.lost.append("an opacity map that is not the colour's own")
        elif opacity[0] < 1:
            cover, alpha = float(opacity[0]), "blend"
        if isinstance(self.entry["useSpecularWorkflow"], list) and self.entry["useSpecularWorkflow"][0]:
            self.lost.append("specular colours")
        normal = self.entry["normal"]
        return Material(
            color=(*color, cover), base=base, metallic=metallic, roughness=roughness, packed=packed,
            normal=self._lookup(normal) if isinstance(normal, dict) else None, glow=glow, emission=emission,
            alpha=alpha,
            cutoff=float(threshold[0]) if alpha == "mask" else 0.5,
            unlit=self.entry["emissiveColor"] == "displayColor",
        ), painted  # fmt: skip

    def _color(self, name: str) -> tuple[Lookup | None, tuple[float, float, float]]:
        """The picture of a colour, and its linear factor."""
        value = self.entry[name]
        if isinstance(value, str):
            return None, (1.0, 1.0, 1.0)
        if isinstance(value, list):
            r, g, b = ([*value, *value, *value])[:3]
            return None, (max(r, 0.0), max(g, 0.0), max(b, 0.0))
        if any(value["bias"][:3]):
            self.lost.append(f"the bias of a picture of {name}")
        r, g, b = value["scale"][:3]
        return self._lookup(value), (max(r, 0.0), max(g, 0.0), max(b, 0.0))

    def _lookup(self, value: dict[str, Any]) -> Lookup:
        rows = value["transform"]
        wrap: list[Wrap] = [_WRAPS.get(word, "repeat") for word in value["wrap"]]
        return Lookup(
            self.picture(value["picture"]), self.entry["sets"].index(value["set"]), (tuple(rows[0]), tuple(rows[1])),
            (wrap[0], wrap[1]),
        )  # fmt: skip

    def _packed(self) -> tuple[Lookup | None, float, float]:
        """Roughness and metalness in glTF's packing, and their factors."""
        values = {name: self.entry[name] for name in ("roughness", "metallic")}
        factors = {n: float(v[0]) if isinstance(v, list) else float(v["scale"][_CHANNELS.get(v["channel"], 0)])
                   for n, v in values.items()}  # fmt: skip
        maps = {name: value for name, value in values.items() if isinstance(value, dict)}
        if not maps:
            return None, factors["metallic"], factors["roughness"]
        known = next(iter(maps.values()))
        first = self._lookup(known)
        channels = [torch.full_like(first.picture[..., 0], 255) for _ in range(4)]
        for name, value in maps.items():
            found = self.picture(value["picture"])
            if found.shape != first.picture.shape or (value["transform"], value["set"]) != (
                known["transform"],
                known["set"],
            ):
                self.lost.append(f"a map of {name} of another size or place than its fellow")
                continue
            channels[{"roughness": 1, "metallic": 2}[name]] = found[..., _CHANNELS.get(value["channel"], 0)]
        packed = Lookup(torch.stack(channels, -1), first.uv_set, first.transform, first.wrap)
        return packed, factors["metallic"], factors["roughness"]


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
