"""A glTF primitive as triangles in the world: modes, morph targets, skins, instances.

Source: glTF 2.0 specification, sections 3.7.2 (meshes, morph targets) and 3.7.3 (skins).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from threedistill.exports.foreign.limits import check
from threedistill.exports.gltf.accessors import Accessors, fractions
from threedistill.exports.gltf.compressed import Decoded, draco
from threedistill.exports.gltf.container import Gltf, unsound
from threedistill.exports.gltf.scene import Placed
from threedistill.exports.gltf.schema import Node, Primitive

__all__ = ["Geometry", "Triangles", "triangle_count"]

_TRIANGLES, _STRIP, _FAN = 4, 5, 6


@dataclass
class Geometry:
    """Triangles with what a material needs to be looked up.

    Attributes:
        vertices: (N, 3) float32, in the world.
        faces: (F, 3) int64, counter-clockwise from outside.
        normals: (N, 3) float32 unit normals, or None.
        uvs: (N, 2) float32 by the number of the set, as stored (origin at the top left).
        colors: (N, 4) float32 linear, to be multiplied with the base colour, or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None
    uvs: dict[int, np.ndarray]
    colors: np.ndarray | None


def triangle_count(mode: int, corners: int) -> int:
    """How many triangles so many corners make."""
    return corners // 3 if mode == _TRIANGLES else max(corners - 2, 0) if mode in (_STRIP, _FAN) else 0


def _faces(mode: int, corners: np.ndarray) -> np.ndarray:
    """(F, 3) vertex indices; strips alternate their winding, degenerate triangles of strips and fans are joints."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    index = np.arange(max(len(corners) - 2, 0))
    if mode == _STRIP:
        odd = index % 2
        faces = np.stack([corners[index], corners[index + 1 + odd], corners[index + 2 - odd]], 1)
    else:
        faces = np.stack(
            [corners[index + 1], corners[index + 2], np.broadcast_to(corners[:1], index.shape)], 1
        )
    return faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]


def _numbered(attributes: dict[str, int], name: str) -> list[int]:
    """The sets of an attribute that a primitive has, in order: ``TEXCOORD_0``, ``TEXCOORD_1``, ..."""
    found = (re.fullmatch(rf"{name}_(\d{{1,3}})", key) for key in attributes)
    return sorted(int(match[1]) for match in found if match)


class Triangles:
    """Reads the primitives of an open file; what several nodes show is read once.

    Arguments:
        gltf: the file.
        accessors: its arrays.
    """

    def __init__(self, gltf: Gltf, accessors: Accessors) -> None:
        self.gltf, self.accessors = gltf, accessors
        self._compressed: dict[int, Decoded] = {}
        self._total = 0

    def read(self, primitive: Primitive, placed: Placed, where: str) -> Geometry:
        """A primitive with its morph targets' weights applied, skinned or placed, once per instance.

        Raises:
            ThreedistillError: damaged, or more triangles than the limit.
        """
        corners = self._corners(primitive, where)
        vertices = self._attribute(primitive, "POSITION", 3, where)
        self._bounded(triangle_count(primitive.mode, len(corners)), len(vertices), len(placed.matrices))
        if len(corners) and corners.max() >= len(vertices):
            raise unsound(self.gltf.path, f"{where}: a corner is vertex {corners.max()} of {len(vertices)}")
        faces = _faces(primitive.mode, corners)
        held = {"POSITION": vertices}
        if "NORMAL" in primitive.attributes:
            held["NORMAL"] = self._attribute(primitive, "NORMAL", 3, where)
        for k in _numbered(primitive.attributes, "TEXCOORD"):
            held[f"TEXCOORD_{k}"] = self._attribute(primitive, f"TEXCOORD_{k}", 2, where)
        if "COLOR_0" in primitive.attributes:
            color = self._attribute(primitive, "COLOR_0", None, where)
            if color.shape[1] not in (3, 4):
                raise unsound(self.gltf.path, f"{where}: COLOR_0 has {color.shape[1]} components")
            held["COLOR_0"] = np.pad(color, ((0, 0), (0, 4 - color.shape[1])), constant_values=1)
        for name, values in held.items():
            if len(values) != len(vertices):
                raise unsound(
                    self.gltf.path, f"{where}: {len(values)} of {name}, {len(vertices)} of POSITION"
                )
        self._morph(primitive, placed, held, where)
        if placed.joints is not None:
            matrices = self._skin(primitive, placed.joints, len(vertices), where)
            return _geometry(held, faces, matrices[None])
        return _geometry(held, faces, placed.matrices[:, None])

    def _bounded(self, triangles: int, vertices: int, instances: int) -> None:
        self._total += max(triangles, vertices // 3) * instances
        check(self.gltf.path, "triangles", self._total, "its scene")

    def _corners(self, primitive: Primitive, where: str) -> np.ndarray:
        if primitive.extensions.draco is not None and self._usable(primitive):
            return self._draco(primitive, where).indices.astype(np.int64)
        if primitive.indices is None:
            count = self.accessors.entry(primitive.attributes["POSITION"], where).count
            check(self.gltf.path, "triangles", count // 3, where)
            return np.arange(count)
        return self.accessors.integers(primitive.indices, f"{where}.indices", 1)[:, 0]

    def _usable(self, primitive: Primitive) -> bool:
        """Whether the compressed data are to be taken: where they are optional, others may stand beside them."""
        if "KHR_draco_mesh_compression" in self.gltf.document.extensions_required:
            return True
        entry = self.accessors.entry(primitive.attributes["POSITION"], "a primitive")
        return entry.buffer_view is None

    def _draco(self, primitive: Primitive, where: str) -> Decoded:
        extension = primitive.extensions.draco
        assert extension is not None
        if extension.buffer_view not in self._compressed:
            data, _ = self.accessors.view(extension.buffer_view, where)
            self._compressed[extension.buffer_view] = draco(self.gltf, bytes(data), where)
        return self._compressed[extension.buffer_view]

    def _stored(self, primitive: Primitive, name: str, width: int | None, where: str) -> np.ndarray | None:
        """The raw values of a compressed attribute; None where it is not compressed."""
        extension = primitive.extensions.draco
        if extension is None or name not in extension.attributes or not self._usable(primitive):
            return None
        decoded = self._draco(primitive, where)
        values = decoded.attributes.get(extension.attributes[name])
        if values is None or (width is not None and values.shape[1] != width):
            raise unsound(self.gltf.path, f"{where}: its Draco data hold no {name} of this shape")
        return values

    def _attribute(self, primitive: Primitive, name: str, width: int | None, where: str) -> np.ndarray:
        stored = self._stored(primitive, name, width, where)
        index = primitive.attributes[name]
        if stored is not None:
            return fractions(stored, self.accessors.entry(index, where).normalized)
        return self.accessors.floats(index, f"{where}.{name}", width)

    def _morph(self, primitive: Primitive, placed: Placed, held: dict[str, np.ndarray], where: str) -> None:
        """Add the targets' displacements, weighted by the node's weights, else the mesh's."""
        nodes, meshes = self.gltf.document.nodes, self.gltf.document.meshes
        node = nodes[placed.node] if placed.node >= 0 else Node()
        weights = node.weights or meshes[placed.mesh].weights
        for number, (weight, target) in enumerate(zip(weights, primitive.targets)):
            for name, index in target.items():
                if weight == 0 or name not in held:
                    continue
                width = None if name == "COLOR_0" else held[name].shape[1]
                moved = self.accessors.floats(index, f"{where}.targets[{number}].{name}", width)
                if len(moved) != len(held[name]):
                    raise unsound(self.gltf.path, f"{where}: target {number} has {len(moved)} of {name}")
                if name == "COLOR_0":
                    moved = np.pad(moved[:, :4], ((0, 0), (0, max(4 - moved.shape[1], 0))))
                held[name] = held[name] + np.float32(weight) * moved
        if primitive.targets and "COLOR_0" in held:
            held["COLOR_0"] = held["COLOR_0"].clip(0, 1)

    def _skin(self, primitive: Primitive, joints: np.ndarray, count: int, where: str) -> np.ndarray:
        """(N, 4, 4): ``sum_k w_k J_k`` at every vertex, over the joints that it names."""
        names, attributes = _numbered(primitive.attributes, "JOINTS"), primitive.attributes
        if not names:
            raise unsound(self.gltf.path, f"{where} has a skin, but no JOINTS_0")
        index, weight = [], []
        for k in names:
            if f"WEIGHTS_{k}" not in attributes:
                raise unsound(self.gltf.path, f"{where} has JOINTS_{k}, but no WEIGHTS_{k}")
            stored = self._stored(primitive, f"JOINTS_{k}", 4, where)
            if stored is None:
                stored = self.accessors.integers(attributes[f"JOINTS_{k}"], f"{where}.JOINTS_{k}", 4)
            index.append(stored.astype(np.int64))
            weight.append(self._attribute(primitive, f"WEIGHTS_{k}", 4, where).astype(float))
        joint, weights = np.concatenate(index, 1), np.concatenate(weight, 1)
        if len(joint) != count or len(weights) != count:
            raise unsound(self.gltf.path, f"{where}: joints and weights of {len(joint)} of {count} vertices")
        joint = np.where(weights == 0, 0, joint)
        if joint.min() < 0 or joint.max() >= len(joints):
            raise unsound(self.gltf.path, f"{where}: joint {joint.max()} of {len(joints)}")
        total = weights.sum(1, keepdims=True)
        # Quantised weights may miss 1 by rounding; a vertex without any follows the first joint.
        weights = np.where(np.abs(total) > 1e-9, weights / np.where(np.abs(total) > 1e-9, total, 1), 0)
        weights[np.abs(total[:, 0]) <= 1e-9, 0] = 1
        blended = np.zeros((count, 4, 4))
        for k in range(joint.shape[1]):
            blended += weights[:, k, None, None] * joints[joint[:, k]]
        return blended


def _geometry(held: dict[str, np.ndarray], faces: np.ndarray, matrices: np.ndarray) -> Geometry:
    """The attributes placed by matrices (K, N or 1, 4, 4), once per instance."""
    count, instances = len(held["POSITION"]), len(matrices)
    linear, offset = matrices[..., :3, :3], matrices[..., :3, 3]
    with np.errstate(over="ignore", invalid="ignore"):  # checked once for the whole mesh
        points = _turned(linear, held["POSITION"]) + offset
        determinant = np.linalg.det(linear)
        normals = None
        if "NORMAL" in held:
            # Cofactors: the inverse transpose times the determinant, which flat scalings have too.
            a, b, c = linear[..., 0], linear[..., 1], linear[..., 2]
            cofactor = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -1)
            turned = _turned(cofactor * np.where(determinant < 0, -1, 1)[..., None, None], held["NORMAL"])
            length = np.linalg.norm(turned, axis=2, keepdims=True)
            normals = np.where(length > 0, turned / np.maximum(length, 1e-300), 0)
            normals = normals.reshape(-1, 3).astype(np.float32)
    determinant = np.broadcast_to(determinant, (instances, count)).reshape(-1)
    step = (np.arange(instances) * count)[:, None, None]
    all_faces = (faces[None] + step).reshape(-1, 3)
    mirrored = (determinant < 0)[all_faces].sum(1) > 1
    all_faces[mirrored] = all_faces[mirrored][:, ::-1]

    def repeated(values: np.ndarray) -> np.ndarray:
        return np.tile(values, (instances, 1)) if instances > 1 else values

    uvs = {k: repeated(held[f"TEXCOORD_{k}"]) for k in _numbered(dict.fromkeys(held, 0), "TEXCOORD")}
    colors = repeated(held["COLOR_0"]) if "COLOR_0" in held else None
    return Geometry(points.reshape(-1, 3).astype(np.float32), all_faces, normals, uvs, colors)


def _turned(linear: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(K, N, 3): (N, 3) vectors under (K, N or 1, 3, 3) matrices."""
    if linear.shape[1] == 1:
        return rows.astype(float) @ linear[:, 0].transpose(0, 2, 1)
    return np.einsum("knij,nj->kni", linear, rows.astype(float))
