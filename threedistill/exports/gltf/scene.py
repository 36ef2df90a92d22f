"""The scene of a glTF file: a tree of nodes, its matrices, skins and instances.

Source: glTF 2.0 specification, sections 3.5 (scenes and nodes) and 3.7.3 (skins); ``EXT_mesh_gpu_instancing``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from threedistill.exports.gltf.accessors import Accessors
from threedistill.exports.gltf.container import Gltf, pick, unsound

__all__ = ["Placed", "Tree", "rotations"]


@dataclass(frozen=True)
class Placed:
    """A mesh where a node shows it.

    Attributes:
        node: which.
        mesh: which.
        matrices: (K, 4, 4) one per instance, each mapping the mesh to the world; of a skinned mesh the identity, since
            its node's own place does not count.
        joints: (J, 4, 4) joints' world matrices times inverse bind matrices, or None.
    """

    node: int
    mesh: int
    matrices: np.ndarray
    joints: np.ndarray | None


def rotations(quaternions: np.ndarray) -> np.ndarray:
    """(K, 3, 3) from (K, 4) quaternions (x, y, z, w); none is assumed to have length 1, and zero turns nothing."""
    length = np.linalg.norm(quaternions, axis=1, keepdims=True)
    unit = np.where(length > 0, quaternions / np.maximum(length, 1e-300), [[0.0, 0.0, 0.0, 1.0]])
    x, y, z, w = unit.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def _composed(translation: np.ndarray, rotation: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(K, 4, 4) matrices T R S."""
    matrices = np.tile(np.eye(4), (len(translation), 1, 1))
    matrices[:, :3, :3] = rotations(rotation) * scale[:, None, :]
    matrices[:, :3, 3] = translation
    return matrices


class Tree:
    """The nodes of a file with their world matrices.

    Arguments:
        gltf: the file.

    Raises:
        ThreedistillError: a node with two parents, or nodes in a circle: glTF demands strict trees (3.5.2).
    """

    def __init__(self, gltf: Gltf) -> None:
        self.gltf = gltf
        self._nodes = gltf.document.nodes
        self._parent = self._parents()
        self._world: dict[int, np.ndarray] = {}
        self._order = self._from_the_roots()

    def _parents(self) -> dict[int, int]:
        parent: dict[int, int] = {}
        for index, node in enumerate(self._nodes):
            for child in node.children:
                pick(self.gltf, self._nodes, child, f"node {index} names node")
                if child in parent:
                    raise unsound(
                        self.gltf.path, f"node {child} is named as a child twice: glTF demands a tree"
                    )
                parent[child] = index
        return parent

    def _from_the_roots(self) -> list[int]:
        """Every node, parents first, with its world matrix computed."""
        order = [index for index in range(len(self._nodes)) if index not in self._parent]
        local = self._locals()
        for index in order:  # grows while it is walked
            above = self._parent.get(index)
            self._world[index] = local[index] if above is None else self._world[above] @ local[index]
            order.extend(self._nodes[index].children)
        if len(order) < len(self._nodes):
            lost = next(index for index in range(len(self._nodes)) if index not in self._world)
            raise unsound(self.gltf.path, f"node {lost} is its own ancestor: glTF demands a tree")
        return order

    def _locals(self) -> np.ndarray:
        """(nodes, 4, 4): every node's matrix within its parent."""
        if not self._nodes:
            return np.zeros((0, 4, 4))
        columns = (
            [getattr(node, name) for node in self._nodes] for name in ("translation", "rotation", "scale")
        )
        matrices = _composed(*(np.array(column, float) for column in columns))
        for index, node in enumerate(self._nodes):
            if node.matrix is not None:
                matrices[index] = np.array(node.matrix, float).reshape(4, 4).T
        return matrices

    def _shown(self) -> list[int]:
        """The nodes of the scene that a viewer shows, parents first.

        Without a named scene it is the first; a file without scenes shows all of its nodes.
        """
        document = self.gltf.document
        if not document.scenes:
            visible = {index: True for index in range(len(self._nodes)) if index not in self._parent}
        else:
            scene = pick(self.gltf, document.scenes, document.scene or 0, "the file names scene")
            visible = dict.fromkeys(scene.nodes, True)
            for root in visible:
                pick(self.gltf, self._nodes, root, "the scene names node")
        shown = []
        for index in self._order:
            seen = visible.get(index) or visible.get(self._parent.get(index, -1), False)
            visible[index] = seen and self._nodes[index].extensions.visibility.visible
            if visible[index]:
                shown.append(index)
        return shown

    def placed(self, accessors: Accessors) -> Iterator[Placed]:
        """Every mesh of the scene that is shown, with its place.

        Raises:
            ThreedistillError: references that lead nowhere, damaged instances or joints.
        """
        document = self.gltf.document
        if not self._nodes:  # a library of meshes: all of them, where they are
            for mesh in range(len(document.meshes)):
                yield Placed(-1, mesh, np.eye(4)[None], None)
            return
        for index in self._shown():
            node = self._nodes[index]
            if node.mesh is None:
                continue
            pick(self.gltf, document.meshes, node.mesh, f"node {index} names mesh")
            if node.skin is not None:
                yield Placed(index, node.mesh, np.eye(4)[None], self._joints(node.skin, accessors))
                continue
            matrices = self._world[index][None]
            if node.extensions.instancing is not None:
                matrices = matrices @ self._instances(index, accessors)
            yield Placed(index, node.mesh, matrices, None)

    def _joints(self, index: int, accessors: Accessors) -> np.ndarray:
        skin = pick(self.gltf, self.gltf.document.skins, index, "a node names skin")
        for joint in skin.joints:
            pick(self.gltf, self._nodes, joint, f"skin {index} names node")
        world = np.stack([self._world[joint] for joint in skin.joints])
        if skin.inverse_bind_matrices is None:
            return world
        stored = accessors.floats(skin.inverse_bind_matrices, f"skin {index}", 16)
        if len(stored) < len(world):
            raise unsound(
                self.gltf.path, f"skin {index} has {len(stored)} matrices for its {len(world)} joints"
            )
        return world @ stored[: len(world)].reshape(-1, 4, 4).transpose(0, 2, 1).astype(float)

    def _instances(self, index: int, accessors: Accessors) -> np.ndarray:
        """(K, 4, 4) matrices of a node's instances, within the node's frame."""
        extension = self._nodes[index].extensions.instancing
        assert extension is not None
        where = f"node {index}'s instances"
        widths = {"TRANSLATION": 3, "ROTATION": 4, "SCALE": 3}
        stored = {
            name: accessors.floats(extension.attributes[name], f"{where} ({name})", width).astype(float)
            for name, width in widths.items()
            if name in extension.attributes
        }
        counts = {len(values) for values in stored.values()}
        if len(counts) != 1:
            raise unsound(self.gltf.path, f"{where} have {'no' if not counts else 'different'} numbers")
        count = counts.pop()
        return _composed(
            stored.get("TRANSLATION", np.zeros((count, 3))),
            stored.get("ROTATION", np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))),
            stored.get("SCALE", np.ones((count, 3))),
        )
