"""The meshes that USD's library finds, in a process of its own (:mod:`threedistill.exports.foreign.isolated`).

Every corner of every polygon comes out with its own coordinates, normal and colour, whatever their interpolation.
Sources: openusd.org, ``UsdGeomMesh``, ``UsdGeomPrimvar``, ``UsdGeomPointInstancer``, "UsdPreviewSurface Specification".
"""

# pyright: reportAttributeAccessIssue=false
# (USD's library comes without types.)

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pxr import Ar, Sdf, Usd, UsdGeom, UsdShade

from threedistill.errors import ThreedistillError
from threedistill.exports.usd.library import open_stage

__all__ = ["meshes_in"]

_NOW = Usd.TimeCode.EarliestTime()
#: The inputs of UsdPreviewSurface that are read, and their defaults.
_INPUTS: dict[str, tuple[float, ...]] = {
    "diffuseColor": (0.18, 0.18, 0.18), "emissiveColor": (0, 0, 0), "metallic": (0,), "roughness": (0.5,),
    "opacity": (1,), "opacityThreshold": (0,), "normal": (0, 0, 1), "useSpecularWorkflow": (0,),
}  # fmt: skip


def meshes_in(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every visible mesh: ``k/points``, ``k/counts``, ...; the materials, and the bytes of their pictures.

    Raises:
        ThreedistillError: there are none, the file is damaged, or a picture is missing.
    """
    stage = open_stage(path)
    found = _Found(path)
    skipped: Counter[str] = Counter()
    cache = UsdGeom.XformCache(_NOW)
    rows = iter(Usd.PrimRange(stage.GetPseudoRoot(), Usd.TraverseInstanceProxies()))
    for prim in rows:
        if prim.IsA(UsdGeom.Imageable) and not _seen(prim):
            rows.PruneChildren()
        elif prim.IsA(UsdGeom.PointInstancer):
            rows.PruneChildren()
            _instances(UsdGeom.PointInstancer(prim), cache, found)
        elif prim.IsA(UsdGeom.Mesh):
            found.mesh(UsdGeom.Mesh(prim), np.array(cache.GetLocalToWorldTransform(prim)))
        elif (
            prim.IsA(UsdGeom.Gprim)
            or prim.IsA(UsdGeom.Camera)
            or prim.GetTypeName() in ("Skeleton", "SkelAnimation")
        ):
            skipped[prim.GetTypeName()] += 1
    if not found.meshes:
        held = ", ".join(f"{n} of type {kind}" for kind, n in skipped.items())
        raise ThreedistillError(
            f"cannot read {path}: it holds no meshes{f' (it holds {held})' if held else ''}"
        )
    data = stage.GetRootLayer().customLayerData.get("facts")
    lost = [f"{n} {'prims' if n > 1 else 'prim'} of type {kind}" for kind, n in skipped.items()]
    return found.arrays, {
        "meshes": found.meshes, "materials": list(found.materials.values()), "up": str(UsdGeom.GetStageUpAxis(stage)),
        "unit": UsdGeom.GetStageMetersPerUnit(stage), "facts": data if isinstance(data, str) else None,
        "lost": [*lost, *dict.fromkeys(found.lost)],
    }  # fmt: skip


def _seen(prim: Usd.Prim) -> bool:
    """Whether a prim is to be rendered: visible, and no guide or proxy."""
    image = UsdGeom.Imageable(prim)
    return image.ComputeVisibility(_NOW) != UsdGeom.Tokens.invisible and image.ComputePurpose() in (
        UsdGeom.Tokens.default_, UsdGeom.Tokens.render,
    )  # fmt: skip


def _instances(instancer: UsdGeom.PointInstancer, cache: UsdGeom.XformCache, found: _Found) -> None:
    """The meshes of an instancer's prototypes, once for each instance."""
    stage, world = (
        instancer.GetPrim().GetStage(),
        np.array(cache.GetLocalToWorldTransform(instancer.GetPrim())),
    )
    roots = [stage.GetPrimAtPath(place) for place in instancer.GetPrototypesRel().GetTargets()]
    matrices = instancer.ComputeInstanceTransformsAtTime(_NOW, _NOW)
    kinds = instancer.GetProtoIndicesAttr().Get(_NOW) or []
    for kind, matrix in zip(kinds, matrices):
        if not 0 <= kind < len(roots) or not roots[kind]:
            continue
        inverse = np.linalg.inv(np.array(cache.GetLocalToWorldTransform(roots[kind])))
        for prim in Usd.PrimRange(roots[kind], Usd.TraverseInstanceProxies()):
            if prim.IsA(UsdGeom.Mesh):
                local = np.array(cache.GetLocalToWorldTransform(prim)) @ inverse
                found.mesh(UsdGeom.Mesh(prim), local @ np.array(matrix) @ world)


class _Found:
    """What has been read so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays: dict[str, np.ndarray] = {}
        self.meshes: list[dict[str, Any]] = []
        self.materials: dict[str, dict[str, Any]] = {}
        self.lost: list[str] = []
        self._pictures: dict[str, int] = {}

    def mesh(self, mesh: UsdGeom.Mesh, matrix: np.ndarray) -> None:
        """Add a mesh under a matrix that multiplies rows."""
        points = mesh.GetPointsAttr().Get(_NOW)
        counts, corners = mesh.GetFaceVertexCountsAttr().Get(_NOW), mesh.GetFaceVertexIndicesAttr().Get(_NOW)
        if not points or not counts or not corners:
            return
        where = mesh.GetPrim().GetPath()
        counts, corners = np.array(counts, np.int64), np.array(corners, np.int64)
        if (counts < 0).any() or counts.sum() != len(corners):
            raise ThreedistillError(
                f"cannot read {self.path}: the counts of {where} do not add up to its corners"
            )
        if corners.min() < 0 or corners.max() >= len(points):
            raise ThreedistillError(
                f"cannot read {self.path}: a face of {where} names a point that is not there"
            )
        if mesh.GetSubdivisionSchemeAttr().Get() not in (UsdGeom.Tokens.none, None):
            self.lost.append("subdivision (its surfaces are read as their cages)")
        k = len(self.meshes)
        self.arrays |= {
            f"{k}/points": np.array(points, np.float64), f"{k}/counts": counts, f"{k}/corners": corners,
            f"{k}/matrix": matrix,
        }  # fmt: skip
        normals = mesh.GetNormalsAttr().Get(_NOW)
        primvars = UsdGeom.PrimvarsAPI(mesh)
        if primvars.HasPrimvar("normals"):
            self._put(k, "normals", *_primvar(primvars.GetPrimvar("normals")), corners, counts, 3)
        elif normals:
            self._put(
                k, "normals", np.array(normals), str(mesh.GetNormalsInterpolation()), corners, counts, 3
            )
        for name, width in (("displayColor", 3), ("displayOpacity", 1)):
            primvar = primvars.FindPrimvarWithInheritance(name)
            if primvar and primvar.HasValue():
                self._put(k, name, *_primvar(primvar), corners, counts, width)
        subsets, owner = (
            UsdShade.MaterialBindingAPI(mesh).GetMaterialBindSubsets(),
            np.zeros(len(counts), np.int64),
        )
        used = [self._material(UsdShade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()[0])]
        for subset in subsets:
            own = np.array(subset.GetIndicesAttr().Get(_NOW) or [], np.int64)
            owner[own[(own >= 0) & (own < len(counts))]] = len(used)
            used.append(
                self._material(UsdShade.MaterialBindingAPI(subset.GetPrim()).ComputeBoundMaterial()[0])
            )
        self.arrays[f"{k}/owner"] = owner
        sets = {name for m in used if m is not None for name in list(self.materials.values())[m]["sets"]}
        for name in sets:
            primvar = primvars.FindPrimvarWithInheritance(name)
            if primvar and primvar.HasValue():
                self._put(k, f"uv/{name}", *_primvar(primvar), corners, counts, 2)
        left = mesh.GetOrientationAttr().Get(_NOW) == UsdGeom.Tokens.leftHanded
        double = bool(mesh.GetDoubleSidedAttr().Get(_NOW))
        self.meshes.append({"materials": used, "left": left, "double": double})

    def _put(
        self, k: int, name: str, values: np.ndarray, interpolation: str, corners: np.ndarray, counts: np.ndarray,
        width: int,
    ) -> None:  # fmt: skip
        """Values by corner, whatever they were given for; what has the wrong length is as if it were missing."""
        values = values.reshape(-1, width) if values.size % width == 0 else values[:0]
        index = {
            "constant": np.zeros(len(corners), np.int64), "uniform": np.repeat(np.arange(len(counts)), counts),
            "vertex": corners, "varying": corners, "faceVarying": np.arange(len(corners)),
        }.get(interpolation)  # fmt: skip
        if index is not None and len(values) > index.max(initial=0):
            self.arrays[f"{k}/{name}"] = values[index].astype(np.float32)

    def _material(self, material: UsdShade.Material) -> int | None:
        """The number of a material; None where there is none, or none that is read."""
        if not material:
            return None
        place = str(material.GetPath())
        if place not in self.materials:
            shader = material.ComputeSurfaceSource()[0]
            if not shader or shader.GetIdAttr().Get() != "UsdPreviewSurface":
                self.lost.append("materials that are no UsdPreviewSurface")
                return None
            entry: dict[str, Any] = {"sets": []}
            for name, default in _INPUTS.items():
                entry[name] = self._input(shader, name, default, entry)
            self.materials[place] = entry
        return list(self.materials).index(place)

    def _input(
        self, shader: UsdShade.Shader, name: str, default: tuple[float, ...], entry: dict[str, Any]
    ) -> Any:
        """A list of numbers, ``"displayColor"``, or a picture with how it is looked up."""
        given = shader.GetInput(name)
        if not given:
            return list(default)
        attributes = given.GetValueProducingAttributes()
        attribute = attributes[0] if attributes else None
        if attribute is None:
            return list(default)
        source = UsdShade.Shader(attribute.GetPrim())
        kind = source.GetIdAttr().Get() if source and UsdShade.Output.IsOutput(attribute) else None
        if kind is None:
            value = attribute.Get(_NOW)
            return list(default) if value is None else np.atleast_1d(np.array(value, np.float64)).tolist()
        if kind == "UsdUVTexture":
            return self._texture(source, attribute.GetBaseName(), entry)
        if kind.startswith("UsdPrimvarReader") and _text(_value(source, "varname")) == "displayColor":
            return "displayColor"
        self.lost.append(f"what {kind} gives its materials")
        return list(default)

    def _texture(self, shader: UsdShade.Shader, channel: str, entry: dict[str, Any]) -> dict[str, Any]:
        file = _value(shader, "file")
        where = f"the picture of {shader.GetPath()}"
        found: dict[str, Any] = {
            "picture": self._picture(file, where), "channel": channel,
            "wrap": [str(_value(shader, f"wrap{axis}") or "useMetadata") for axis in "ST"],
            "scale": list(_value(shader, "scale") or (1, 1, 1, 1)),
            "bias": list(_value(shader, "bias") or (0, 0, 0, 0)),
            "transform": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        }  # fmt: skip
        reader = _source(shader, "st")
        if reader and reader.GetIdAttr().Get() == "UsdTransform2d":
            found["transform"] = _transform(reader)
            reader = _source(reader, "in")
        name = _text(_value(reader, "varname")) if reader else ""
        found["set"] = name or "st"
        entry["sets"] = list(dict.fromkeys([*entry["sets"], found["set"]]))
        return found

    def _picture(self, file: Any, where: str) -> int:
        """The number of a picture, whose bytes are kept."""
        if not isinstance(file, Sdf.AssetPath) or not file.path:
            raise ThreedistillError(f"cannot read {self.path}: {where} names no file")
        resolved = file.resolvedPath
        folder = str(self.path.parent.resolve())
        outside = not str(Path(resolved.split("[")[0]).resolve()).startswith(folder)
        asset = Ar.GetResolver().OpenAsset(Ar.ResolvedPath(resolved)) if resolved and not outside else None
        if asset is None:
            state = "lies outside its folder" if resolved and outside else "is missing"
            raise ThreedistillError(f"cannot read {self.path}: {where} {file.path[:80]!r} {state}")
        if resolved not in self._pictures:
            self._pictures[resolved] = len(self._pictures)
            self.arrays[f"picture/{self._pictures[resolved]}"] = np.frombuffer(asset.GetBuffer(), np.uint8)
        return self._pictures[resolved]


def _primvar(primvar: UsdGeom.Primvar) -> tuple[np.ndarray, str]:
    return np.array(primvar.ComputeFlattened(_NOW) or [], np.float64), str(primvar.GetInterpolation())


def _value(shader: UsdShade.Shader, name: str) -> Any:
    """An input's value, through the interfaces that it may be connected to."""
    given = shader.GetInput(name)
    attributes = given.GetValueProducingAttributes() if given else []
    return attributes[0].Get(_NOW) if attributes else None


def _source(shader: UsdShade.Shader, name: str) -> UsdShade.Shader | None:
    given = shader.GetInput(name)
    attributes = given.GetValueProducingAttributes() if given else []
    if not attributes or not UsdShade.Output.IsOutput(attributes[0]):
        return None
    return UsdShade.Shader(attributes[0].GetPrim())


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _transform(shader: UsdShade.Shader) -> list[list[float]]:
    """``UsdTransform2d``: scaled, then turned counter-clockwise, then moved."""
    angle = np.deg2rad(float(_value(shader, "rotation") or 0.0))
    x, y = (float(v) for v in (_value(shader, "scale") or (1, 1)))
    a, b = (float(v) for v in (_value(shader, "translation") or (0, 0)))
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return [[cos * x, -sin * y, a], [sin * x, cos * y, b]]
