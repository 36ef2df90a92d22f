"""``--init FILE``: a mesh or splats from another program, brought to this world, kept in the run's folder."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.atomic import write_bytes
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.appearance.pictures import glowing
from threedistill.exports.frames import Axis
from threedistill.exports.read import open_file
from threedistill.training.tensor_file import Damaged, read_tensors, tensor_bytes
from threedistill.types import Cameras, Mesh, Splats

__all__ = ["RADIUS", "load_start", "normalised", "read_start", "render_unedited", "save_start"]

#: Objects fill this radius about the origin while they are optimised, metres (docs/conventions.md).
RADIUS = 0.85

#: Beyond this, a mesh is a scan that nobody decimated.
_MOST_FACES = 4_000_000

#: Gaussians fainter than this say nothing about where the object is.
_FAINT = 0.1

_MESH = ("vertices", "faces", "normals", "colors", "uv", "texture", "normal_map", "metallic_roughness")
_SPLATS = ("means", "log_scales", "quaternions", "opacity_logits", "sh")


def read_start(
    path: str | Path, up: Axis | None = None, front: Axis | None = None, quiet: bool = True
) -> Mesh | Splats:  # fmt: skip
    """The object in a file, brought into the ball that a run optimises in.

    Arguments:
        path: a mesh or splats.
        up, front: the file's axes; None = what it says, else its format's habit.
        quiet: nothing on stderr about what of the file a run cannot use.

    Raises:
        UsageError: missing, unknown, damaged, empty or huge files.
    """
    path = Path(path)
    try:
        opened = open_file(path, up=up, front=front)
    except ThreedistillError as error:
        reason = str(error).removeprefix(f"cannot read {path}: ").removeprefix(f"cannot use {path}: ")
        raise UsageError(f"--init {path}: {reason}") from None
    asset, unused = opened.asset, list(opened.lost)
    if isinstance(asset, Mesh) and len(asset.faces) > _MOST_FACES:
        raise UsageError(
            f"--init {path}: {len(asset.faces)} faces are more than {_MOST_FACES}; reduce the mesh first"
        )
    if isinstance(asset, Mesh):  # fields know one opaque colour
        unused += ["transparency"] if asset.alpha is not None else []
        asset = replace(glowing(asset), alpha=None, alpha_cutoff=None)
    lines = [*opened.notes, *([f"not used: {', '.join(unused)}"] if unused else [])]
    for line in [] if quiet else lines:
        print(f"--init {path}: {line}", file=sys.stderr)
    try:
        return normalised(asset)
    except ThreedistillError as error:
        raise UsageError(f"--init {path}: {error}") from None


def normalised(asset: Mesh | Splats) -> Mesh | Splats:
    """The object centred on its bounding box and scaled to a bounding radius of :data:`RADIUS`.

    Splats are measured by the middle 98 % of their opaque centres per axis, since captures carry stray ones.

    Raises:
        ThreedistillError: nothing in it has an extent.
    """
    points = asset.vertices if isinstance(asset, Mesh) else _solid(asset)
    if isinstance(asset, Mesh):
        low, high = points.amin(0), points.amax(0)
    else:
        ordered = points.sort(0).values
        count = len(ordered) - 1
        low, high = ordered[int(0.01 * count)], ordered[count - int(0.01 * count)]
    center = (low + high) / 2
    within = points[((points >= low) & (points <= high)).all(1)]
    radius = float((within - center).norm(dim=1).max()) if len(within) else 0.0
    if not 0 < radius < float("inf"):
        raise ThreedistillError("the object has no extent: all of it lies on one point")
    scale = RADIUS / radius
    if isinstance(asset, Mesh):
        return replace(asset, vertices=(points - center) * scale)
    moved = replace(
        asset,
        means=(asset.means - center) * scale,
        log_scales=asset.log_scales + torch.log(torch.tensor(scale)),
    )
    keep = moved.means.norm(dim=1) <= 1.15 * RADIUS
    return replace(moved, **{name: getattr(moved, name)[keep] for name in _SPLATS})


def _solid(splats: Splats) -> Tensor:
    """Centres of the Gaussians that can be seen."""
    if not len(splats):
        raise ThreedistillError("the file holds no splats")
    opaque = splats.opacity_logits.sigmoid() > _FAINT
    return splats.means[opaque] if bool(opaque.any()) else splats.means


def save_start(asset: Mesh | Splats, path: Path) -> None:
    """Keep the object in the run's folder: what happens to the user's file no longer matters."""
    names = _MESH if isinstance(asset, Mesh) else _SPLATS
    tensors = {name: value.contiguous() for name in names if (value := getattr(asset, name)) is not None}
    header = {"kind": type(asset).__name__, "extras": json.dumps(asset.extras, default=str)}
    if isinstance(asset, Mesh):
        header["wrap"] = json.dumps(asset.wrap)
    write_bytes(path, tensor_bytes(tensors, header))


def load_start(path: Path) -> Mesh | Splats:
    """What :func:`save_start` kept.

    Raises:
        ThreedistillError: the file is missing or damaged.
    """
    try:
        tensors, header = read_tensors(path)
        fields: dict[str, Any] = {**tensors, "extras": json.loads(header["extras"])}
        if "wrap" in header:
            fields["wrap"] = tuple(json.loads(header["wrap"]))
        return Mesh(**fields) if header["kind"] == "Mesh" else Splats(**fields)
    except (Damaged, FileNotFoundError, KeyError, TypeError, ValueError):
        raise ThreedistillError(
            f"{path}, the run's copy of its --init file, is missing or damaged; start the run anew with --overwrite"
        ) from None


@torch.no_grad()
def render_unedited(
    asset: Mesh | Splats, cameras: Cameras, background: Float[Tensor, "B 3"]
) -> Float[Tensor, "B H W 3"]:
    """The unedited object from the step's cameras over the step's backgrounds."""
    if isinstance(asset, Mesh):
        from threedistill.render.mesh import render_mesh

        return render_mesh(asset, cameras.to("cpu"), background=background.cpu()).rgb.to(background)
    from threedistill.render.splat import render_splats

    return render_splats(asset, cameras, background).rgb
