"""Reading glTF 2.0 (``.glb``, ``.gltf``) as one mesh, as its specification has it.

Files beside this one, by concept: the container and its checks (``gltf_container``, ``gltf_schema``), what becomes of
extensions (``gltf_extensions``), arrays and their compression (``gltf_accessors``, ``gltf_compressed``), places
(``gltf_scene``), triangles (``gltf_geometry``), pictures and materials (``gltf_images``, ``gltf_materials``).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from threedistill.errors import ThreedistillError
from threedistill.exports.appearance.joined import Joined, Part, joined
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.gltf.accessors import Accessors
from threedistill.exports.gltf.container import Gltf, open_gltf
from threedistill.exports.gltf.extensions import SPLATS, lost_extensions
from threedistill.exports.gltf.geometry import Geometry, Triangles, triangle_count
from threedistill.exports.gltf.images import Images
from threedistill.exports.gltf.materials import Materials
from threedistill.exports.gltf.scene import Tree
from threedistill.exports.gltf.schema import Primitive
from threedistill.exports.meshes.surface import check

__all__ = ["read_glb", "read_gltf"]

_NOT_TRIANGLES = {0: "points", 1: "lines", 2: "lines", 3: "lines"}


def read_glb(path: Path) -> Opened:
    """:func:`read_gltf` for the table of formats."""
    result = read_gltf(path)
    return Opened(result.mesh, unlit=result.unlit, lost=result.lost)


def read_gltf(path: Path) -> Joined:
    """The triangles of the scene that a viewer shows, at rest, with their materials.

    Vertices are in metres, +Y up, as glTF defines them; skinned meshes stand where their joints put them.

    Raises:
        ThreedistillError: what cannot be read, in one line: missing and damaged files, wrong references, required
            extensions that are not honoured, no triangles, and what is beyond the limits.
    """
    gltf = open_gltf(path)
    accessors = Accessors(gltf)
    lost = _not_kept(gltf)
    triangles, materials = Triangles(gltf, accessors), Materials(gltf, Images(gltf, accessors), lost)
    parts, left_out = [], Counter[str]()
    for placed in Tree(gltf).placed(accessors):
        for number, primitive in enumerate(gltf.document.meshes[placed.mesh].primitives):
            where = f"meshes[{placed.mesh}].primitives[{number}]"
            reason = _unusable(gltf, accessors, primitive, where)
            if reason is not None:
                left_out[reason] += 1
                continue
            geometry = triangles.read(primitive, placed, where)
            if len(geometry.faces):
                parts.append(_part(geometry, materials, primitive))
    if not parts:
        held = f" (it holds {', '.join(left_out)})" if left_out else ""
        raise ThreedistillError(f"cannot read {path}: it holds no triangles{held}")
    lost += [f"{count} primitives of {reason}" if count > 1 else f"a primitive of {reason}"
             for reason, count in left_out.items()]  # fmt: skip
    for part in parts:
        bad = int((~torch.isfinite(part.vertices)).any(1).sum())
        if bad:
            raise ThreedistillError(
                f"cannot use {path}: {bad} of {len(part.vertices)} vertices are not finite numbers"
            )
    result = joined(parts)
    check(result.mesh, f"cannot use {path}")
    extras = gltf.document.asset.extras
    result.mesh.extras = extras if isinstance(extras, dict) else {}
    result.lost = list(dict.fromkeys([*lost, *result.lost]))
    return result


def _unusable(gltf: Gltf, accessors: Accessors, primitive: Primitive, where: str) -> str | None:
    """Why a primitive cannot be triangles, in a word; None where it can."""
    if primitive.extensions.splats is not None:
        return f"splats ({SPLATS})"
    if primitive.mode in _NOT_TRIANGLES:
        return _NOT_TRIANGLES[primitive.mode]
    if "POSITION" not in primitive.attributes:
        return "no positions"
    index = primitive.attributes["POSITION"] if primitive.indices is None else primitive.indices
    count = accessors.entry(index, where).count
    return None if triangle_count(primitive.mode, count) else "fewer than three corners"


def _part(geometry: Geometry, materials: Materials, primitive: Primitive) -> Part:
    uvs = {
        k: torch.from_numpy(uv) * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])
        for k, uv in geometry.uvs.items()
    }
    return Part(
        torch.from_numpy(geometry.vertices), torch.from_numpy(geometry.faces.astype("int64")),
        None if geometry.normals is None else torch.from_numpy(geometry.normals), uvs,
        None if geometry.colors is None else torch.from_numpy(geometry.colors).clamp(0, 1),
        materials.material(primitive.material),
    )  # fmt: skip


def _not_kept(gltf: Gltf) -> list[str]:
    """What of the file a still mesh cannot hold."""
    document, lost = gltf.document, []
    counts = {"animation": len(document.animations), "camera": len(document.cameras),
              "other scene": len(document.scenes) - 1}  # fmt: skip
    for name, count in counts.items():
        if count > 0:
            lost.append(f"{count} {name}{'s' if count > 1 else ''}")
    return [*lost, *lost_extensions(document.extensions_used)]
