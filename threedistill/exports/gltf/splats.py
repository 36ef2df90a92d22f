"""glTF splats, ``KHR_gaussian_splatting``: a primitive of points whose attributes are the splats, in a GLB.

The frame is glTF's, which is ours. Viewers without the extension show coloured points. Source: the extension's
specification (release candidate of 2026), kernel ``ellipse``, colour space ``srgb_rec709_display``.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.gltf.accessors import Accessors
from threedistill.exports.gltf.buffer import Buffer, glb_file
from threedistill.exports.gltf.container import open_gltf, unsound
from threedistill.exports.gltf.scene import Tree
from threedistill.exports.gltf.schema import Primitive
from threedistill.exports.splats.blocks import check_count, sound
from threedistill.exports.splats.place import joined, placed
from threedistill.render.harmonics import C0
from threedistill.render.shading import srgb_to_linear
from threedistill.types import Splats

__all__ = ["EXTENSION", "gltf_splat_bytes", "is_gltf_splats", "read_gltf_splats"]

EXTENSION = "KHR_gaussian_splatting"


def gltf_splat_bytes(splats: Splats, name: str = "asset") -> bytes:
    """The cloud as a GLB: linear scales, opacities in [0, 1], unit quaternions (x, y, z, w), float coefficients."""
    buffer = Buffer()
    opacity = torch.sigmoid(splats.opacity_logits.double())
    quaternion = torch.nn.functional.normalize(splats.quaternions.double(), dim=1)
    attributes = {"POSITION": buffer.attribute(splats.means, "positions", bounds=True)}
    color = srgb_to_linear((0.5 + C0 * splats.sh[:, 0]).clamp(0, 1))
    attributes["COLOR_0"] = buffer.bytes_attribute(
        torch.cat([color, opacity[:, None].to(color)], 1), "points"
    )
    rows = {
        "ROTATION": quaternion[:, [1, 2, 3, 0]], "SCALE": torch.exp(splats.log_scales.double()), "OPACITY": opacity,
    }  # fmt: skip
    for degree in range(splats.sh_degree + 1):
        for k in range(2 * degree + 1):
            rows[f"SH_DEGREE_{degree}_COEF_{k}"] = splats.sh[:, degree * degree + k]
    for key, values in rows.items():
        attributes[f"{EXTENSION}:{key}"] = buffer.attribute(values, key.lower())
    primitive = {
        "attributes": attributes,
        "mode": 0,
        "extensions": {
            EXTENSION: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "projection": "perspective",
                "sortingMethod": "cameraDistance",
            }
        },
    }
    document: dict[str, object] = {
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
    }
    return glb_file(document, buffer, splats.extras)


def is_gltf_splats(path: Path) -> bool:
    """Whether a GLB or glTF file holds splats rather than a mesh."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
            if head[:4] == b"glTF" and len(head) == 20:
                text = file.read(min(struct.unpack_from("<I", head, 12)[0], path.stat().st_size))
            else:
                text = head + file.read()
    except OSError:
        return False
    if EXTENSION.encode() not in text:
        return False
    try:
        meshes = open_gltf(path).document.meshes
    except ThreedistillError:
        return True  # reading it says what is wrong
    return any(primitive.extensions.splats is not None for mesh in meshes for primitive in mesh.primitives)


def read_gltf_splats(path: Path) -> Opened:
    """The cloud of every splat primitive of the scene, placed by its nodes, in our frame.

    Raises:
        ThreedistillError: no splats, missing attributes, another colour space or kernel, damaged files.
    """
    gltf = open_gltf(path)
    accessors = Accessors(gltf)
    clouds: list[Splats] = []
    lost: list[str] = []
    total = 0
    for shown in Tree(gltf).placed(accessors):
        for number, primitive in enumerate(gltf.document.meshes[shown.mesh].primitives):
            if primitive.extensions.splats is None:
                continue
            cloud = _cloud(accessors, primitive, f"meshes[{shown.mesh}].primitives[{number}]")
            total += len(cloud) * len(shown.matrices)
            check_count(path, total, cloud.sh_degree, gltf.size)
            cloud, dropped = sound(path, cloud)
            lost += dropped
            try:
                clouds += [placed(cloud, matrix) for matrix in shown.matrices]
            except ValueError as error:
                raise unsound(path, str(error)) from None
    if not clouds:
        raise ThreedistillError(f"cannot read {path}: it holds no splats ({EXTENSION})")
    splats, extras = joined(clouds), gltf.document.asset.extras
    return Opened(replace(splats, extras=extras if isinstance(extras, dict) else {}), lost=lost)


def _cloud(accessors: Accessors, primitive: Primitive, where: str) -> Splats:
    """The splats of a primitive, where they are stored."""
    path, said = accessors.gltf.path, primitive.extensions.splats
    assert said is not None
    for key, known in (("kernel", "ellipse"), ("colorSpace", "srgb_rec709_display")):
        if said.get(key, known) != known:
            what = {"kernel": "of the kernel", "colorSpace": "in the colour space"}[key]
            raise ThreedistillError(
                f"cannot read {path}: splats {what} {str(said[key])[:40]!r} are not supported"
            )
    if primitive.mode != 0:
        raise ThreedistillError(f"cannot read {path}: its splats are not points (mode 0)")

    def attribute(key: str, width: int) -> Tensor:
        semantic = key if key == "POSITION" else f"{EXTENSION}:{key}"
        if semantic not in primitive.attributes:
            raise ThreedistillError(f"cannot read {path}: its splats lack {semantic}")
        return torch.from_numpy(
            accessors.floats(primitive.attributes[semantic], f"{where}.{semantic}", width)
        )

    degree = 0
    while degree < 3 and f"{EXTENSION}:SH_DEGREE_{degree + 1}_COEF_0" in primitive.attributes:
        degree += 1
    names = [f"SH_DEGREE_{l}_COEF_{k}" for l in range(degree + 1) for k in range(2 * l + 1)]
    parts = {"POSITION": 3, "SCALE": 3, "ROTATION": 4, "OPACITY": 1} | dict.fromkeys(names, 3)
    values = {key: attribute(key, width) for key, width in parts.items()}
    if len({len(rows) for rows in values.values()}) != 1:
        raise unsound(path, f"{where}: the attributes of its splats have different lengths")
    opacity = values["OPACITY"][:, 0].clamp(1e-6, 1 - 1e-6)
    return Splats(
        values["POSITION"], values["SCALE"].log(), values["ROTATION"][:, [3, 0, 1, 2]],
        torch.logit(opacity.double()).float(), torch.stack([values[name] for name in names], 1),
    )  # fmt: skip
