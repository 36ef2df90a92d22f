"""Splats in USD: a ``ParticleField3DGaussianSplat`` of UsdVol (OpenUSD 26.3 and later), in a USDZ package.

Linear scales, opacities in [0, 1], quaternions, and harmonics splat by splat; binary, since text would be three times
as large. Writing and reading need USD's own library (extra ``usd``).
"""

# pyright: reportAttributeAccessIssue=false
# (USD's library comes without types.)

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.files import facts_in, generator, jsonable
from threedistill.exports.foreign.isolated import isolated
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.frames import Axis, Frame, frame_of
from threedistill.exports.splats.blocks import Block, check_count, from_blocks, logit, sound
from threedistill.exports.splats.place import joined, placed
from threedistill.exports.usd.write import package
from threedistill.types import Splats

__all__ = ["is_usd_splats", "read_usd_splats", "usd_splat_bytes"]

_SIGMAS = 3.0
_PRIM = b"ParticleField"
_BINARY = b"PXR-USDC"


def _need_library(what: str) -> None:
    if importlib.util.find_spec("pxr") is None:
        raise ThreedistillError(f"{what}: splats in USD need its library; pip install 'threedistill[usd]'")


def usd_splat_bytes(splats: Splats, frame: Frame, name: str = "asset") -> bytes:
    """The package for a cloud that is already in the file's frame.

    Raises:
        UsageError: an up axis that USD does not know.
        ThreedistillError: the extra ``usd`` is not installed.
    """
    if frame.up not in ("y", "z"):
        raise UsageError(
            f"USD files are +Y or +Z up, not {frame.up}; write them without --up, or with --up z"
        )
    _need_library(f"cannot write {name}.usdz")
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdVol, Vt

    root = re.sub(r"\W", "_", name, flags=re.ASCII)
    root = root if re.match(r"[A-Za-z_]", root) else f"_{root}"
    layer = Sdf.Layer.CreateAnonymous(".usdc")
    stage = Usd.Stage.Open(layer)
    facts = json.dumps(jsonable(splats.extras), ensure_ascii=False, sort_keys=True)
    layer.customLayerData = {"creator": generator(), "facts": facts}
    UsdGeom.SetStageUpAxis(stage, frame.up.upper())
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    top = UsdGeom.Xform.Define(stage, f"/{root}").GetPrim()
    Usd.ModelAPI(top).SetKind("component")
    stage.SetDefaultPrim(top)
    field = UsdVol.ParticleField3DGaussianSplat.Define(stage, f"/{root}/splats")

    def floats(values: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(values.float().numpy())

    scales = torch.exp(splats.log_scales.double())
    turns = torch.nn.functional.normalize(splats.quaternions.double(), dim=1)[
        :, [1, 2, 3, 0]
    ]  # real part last
    field.CreatePositionsAttr(Vt.Vec3fArray.FromNumpy(floats(splats.means)))
    field.CreateOrientationsAttr(Vt.QuatfArray.FromNumpy(floats(turns)))
    field.CreateScalesAttr(Vt.Vec3fArray.FromNumpy(floats(scales)))
    field.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(floats(torch.sigmoid(splats.opacity_logits.double()))))
    field.CreateRadianceSphericalHarmonicsDegreeAttr(splats.sh_degree)
    field.CreateRadianceSphericalHarmonicsCoefficientsAttr(
        Vt.Vec3fArray.FromNumpy(floats(splats.sh.reshape(-1, 3)))
    )
    reach = _SIGMAS * scales.amax(1, keepdim=True)
    corners = ((splats.means - reach).amin(0), (splats.means + reach).amax(0))
    field.CreateExtentAttr(Vt.Vec3fArray([Gf.Vec3f(*corner.tolist()) for corner in corners]))
    with tempfile.TemporaryDirectory(prefix="threedistill-") as folder:
        file = Path(folder) / f"{root}.usdc"
        layer.Export(str(file))
        return package({f"{root}.usdc": file.read_bytes()})


def is_usd_splats(path: Path) -> bool:
    """Whether a USD file holds splats."""
    data = path.read_bytes()
    if _PRIM in data:
        return True
    if _BINARY not in data or importlib.util.find_spec("pxr") is None:
        return False
    try:  # its tokens are compressed: only its library knows
        return isolated("threedistill.exports.usd.library:holds_splats", path)[1]["splats"]
    except ThreedistillError:
        return False


def read_usd_splats(path: Path) -> Opened:
    """Every particle field of Gaussians of a stage, placed by its transforms, in metres and the stage's axes.

    Raises:
        ThreedistillError: no splats, damaged files, or the extra ``usd`` is not installed.
    """
    _need_library(f"cannot read {path}")
    arrays, facts = isolated("threedistill.exports.usd.library:splats_in", path)
    clouds, lost = [], list(facts["lost"])
    for k, field in enumerate(facts["fields"]):
        cloud, dropped = sound(
            path, _cloud(path, {name: arrays.get(f"{k}/{name}") for name in _NAMES}, field)
        )
        lost += dropped
        try:
            clouds.append(placed(cloud, arrays[f"{k}/matrix"] * np.array([[facts["unit"]]] * 3 + [[1.0]])))
        except ValueError as error:
            raise ThreedistillError(f"cannot read {path}: {error}") from None
        if field["degree"] > 3:
            lost.append(f"harmonics above degree 3 (of {field['degree']})")
    splats = joined(clouds)
    splats.extras.update(facts_in(facts["facts"]))
    up: Axis = "z" if facts["up"] == "Z" else "y"
    notes = ["the file holds 2D Gaussians (surflets): they are read as flat splats"]
    return Opened(
        splats, frame_of(up), lost=lost, notes=notes if any(f["flat"] for f in facts["fields"]) else []
    )


_NAMES = ("positions", "orientations", "scales", "opacities", "harmonics")


def _cloud(path: Path, given: dict[str, np.ndarray | None], field: dict[str, Any]) -> Splats:
    """One field in its own space; what it does not say is the schema's default."""
    positions = given["positions"]
    assert positions is not None
    count = len(positions)
    harmonics = given["harmonics"]
    degree = 0 if harmonics is None else round(harmonics.shape[1] ** 0.5) - 1
    check_count(path, count, degree, path.stat().st_size)

    def rows_of(name: str, rows: slice, default: tuple[float, ...]) -> np.ndarray:
        values = given[name]
        return (
            np.tile(np.array(default, np.float32), (rows.stop - rows.start, 1))
            if values is None
            else values[rows]
        )

    def decode(rows: slice) -> Block:
        with np.errstate(divide="ignore"):
            scales = np.log(np.abs(rows_of("scales", rows, (1, 1, 1))))
        if field["flat"]:
            scales[:, 2] = -np.inf
        turns = rows_of("orientations", rows, (0, 0, 0, 1))[:, [3, 0, 1, 2]]
        opacity = logit(rows_of("opacities", rows, (1,))[:, 0].astype(np.float64), 1e-6)
        sh = np.zeros((len(turns), 1, 3), np.float32) if harmonics is None else harmonics[rows]
        return Block(positions[rows], scales, turns, opacity, sh)

    return from_blocks(count, degree, decode)
