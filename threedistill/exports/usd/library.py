"""What USD's own library reads from a file, in a process of its own (:mod:`threedistill.exports.foreign.isolated`).

Source: openusd.org, "ParticleField" of UsdVol, and the schema's own documentation on missing and short attributes.
"""

# pyright: reportAttributeAccessIssue=false
# (USD's library comes without types.)

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pxr import Tf, Usd, UsdGeom, UsdUtils, UsdVol

from threedistill.errors import ThreedistillError

__all__ = ["holds_splats", "open_stage", "splats_in"]

_HIGHEST_DEGREE = 3
_NOW = Usd.TimeCode.EarliestTime()


def _load_plugins() -> None:
    """Everything that USD loads on first use, so that memory can be bounded from here on."""
    stage = Usd.Stage.CreateInMemory("warm.usdc")
    field = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/field")
    UsdGeom.Imageable(field).ComputeVisibility()
    with tempfile.TemporaryDirectory(prefix="threedistill-") as folder:
        stage.Export(f"{folder}/warm.usdc")
        package = f"{folder}/warm.usdz"
        UsdUtils.CreateNewUsdzPackage(f"{folder}/warm.usdc", package)
        Usd.Stage.Open(package)


_load_plugins()


def open_stage(path: Path) -> Usd.Stage:
    """The composed stage of a USD file.

    Raises:
        ThreedistillError: damaged files, and files that name others outside their folder.
    """
    with path.open("rb") as file:
        package = file.read(4) == b"PK\x03\x04"
    if package and not zipfile.is_zipfile(
        path
    ):  # the library reads on from its beginning, whatever is missing
        raise ThreedistillError(f"cannot read {path}: the package has no end (its list of files is cut off)")
    kept = UsdUtils.CoalescingDiagnosticDelegate()  # what it says about a file is not for stderr
    try:
        stage = Usd.Stage.Open(str(path))
    except Tf.ErrorException as error:
        first = str(getattr(error.args[0] if error.args else error, "commentary", error))
        text = " ".join(first.replace(str(path), path.name).split())[:160]
        raise ThreedistillError(f"cannot read {path}: not a sound USD file ({text})") from None
    del kept
    if stage is None:
        raise ThreedistillError(f"cannot read {path}: not a sound USD file")
    return stage


def holds_splats(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Whether :func:`splats_in` would find any, as the fact ``splats``: up to the first one, and without its arrays.

    Raises:
        ThreedistillError: the file is damaged.
    """
    stage = open_stage(path)  # its prims live as long as it does
    for prim in stage.Traverse(Usd.TraverseInstanceProxies()):
        shown = prim.IsA(UsdVol.ParticleField) and _kernel(prim) and not _hidden(prim)
        if shown and len(next(_given(prim, "positions"), ())):
            return {}, {"splats": True}
    return {}, {"splats": False}


def splats_in(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every particle field of Gaussians: ``k/positions``, ``k/matrix``, ...; and the stage's facts.

    Raises:
        ThreedistillError: there are none, or the file is damaged.
    """
    stage = open_stage(path)
    arrays: dict[str, np.ndarray] = {}
    lost: dict[str, int] = {}
    fields: list[dict[str, Any]] = []
    for prim in stage.Traverse(Usd.TraverseInstanceProxies()):
        if prim.IsA(UsdVol.ParticleField):
            kernel = _kernel(prim)
            if kernel is None or _hidden(prim):
                what = "hidden particle fields" if kernel else "particle fields that are no Gaussians"
                lost[what] = lost.get(what, 0) + 1
                continue
            found = _field(prim)
            if found:
                arrays |= {f"{len(fields)}/{name}": value for name, value in found[0].items()}
                fields.append({"degree": found[1], "flat": kernel == "flat"})
        elif prim.IsA(UsdGeom.Gprim) or prim.IsA(UsdGeom.Camera):
            what = f"prims of type {prim.GetTypeName()}"
            lost[what] = lost.get(what, 0) + 1
    if not fields:
        raise ThreedistillError(f"cannot read {path}: it holds no splats (ParticleField3DGaussianSplat)")
    facts = stage.GetRootLayer().customLayerData.get("facts")
    return arrays, {
        "fields": fields, "up": str(UsdGeom.GetStageUpAxis(stage)), "unit": UsdGeom.GetStageMetersPerUnit(stage),
        "facts": facts if isinstance(facts, str) else None, "lost": [f"{n} {what}" for what, n in lost.items()],
    }  # fmt: skip


def _kernel(prim: Usd.Prim) -> str | None:
    """``solid`` for ellipsoids, ``flat`` for discs, None for what is no Gaussian."""
    if prim.IsA(UsdVol.ParticleField3DGaussianSplat) or prim.HasAPI(
        UsdVol.ParticleFieldKernelGaussianEllipsoidAPI
    ):
        return "solid"
    return "flat" if prim.HasAPI(UsdVol.ParticleFieldKernelGaussianSurfletAPI) else None


def _hidden(prim: Usd.Prim) -> bool:
    return UsdGeom.Imageable(prim).ComputeVisibility() == UsdGeom.Tokens.invisible


def _given(prim: Usd.Prim, name: str) -> Iterator[Any]:
    """What a field says of ``name``, as its library holds it: float attributes come before half ones."""
    for attribute in (prim.GetAttribute(name), prim.GetAttribute(f"{name}h")):
        given = attribute.Get(_NOW) if attribute else None
        if given is not None:
            yield given


def _field(prim: Usd.Prim) -> tuple[dict[str, np.ndarray], int] | None:
    """The attributes of one field, as long as its positions; None where there are none.

    What is too long is cut, what is too short is as if it were missing.
    """

    def values(name: str, width: int, count: int | None = None, each: int = 1) -> np.ndarray | None:
        for given in _given(prim, name):
            array = np.array(given, np.float32).reshape(-1, width)
            if count is None:
                return array
            if len(array) >= count * each:
                return array[: count * each]
        return None

    positions = values("positions", 3)
    if positions is None or not len(positions):
        return None
    count = len(positions)
    found = {"positions": positions}
    for name, width in (("orientations", 4), ("scales", 3), ("opacities", 1)):
        given = values(name, width, count)
        if given is not None:
            found[name] = given
    degree = prim.GetAttribute("radiance:sphericalHarmonicsDegree")
    degree = int(degree.Get(_NOW) or 0) if degree else 0
    if 0 <= degree <= 16:
        given = values("radiance:sphericalHarmonicsCoefficients", 3, count, (degree + 1) ** 2)
        if given is not None:
            kept = (min(degree, _HIGHEST_DEGREE) + 1) ** 2
            found["harmonics"] = np.ascontiguousarray(given.reshape(count, -1, 3)[:, :kept])
    matrix = UsdGeom.Imageable(prim).ComputeLocalToWorldTransform(_NOW)
    found["matrix"] = np.array(matrix, np.float64).T  # USD multiplies rows
    return found, degree
