"""glTF's arrays, triangles and places against the specification: files by hand, right values by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.exports.gltf_files import CORNERS, QUAD, File
from threedistill.errors import ThreedistillError
from threedistill.exports.asset import FileSettings, write_mesh
from threedistill.exports.gltf.read import read_gltf
from threedistill.types import Mesh


def box(mesh: Mesh) -> list[float]:
    return [round(float(v), 5) for v in (*mesh.vertices.amin(0), *mesh.vertices.amax(0))]


def opened(file: File, tmp_path: Path) -> Mesh:
    return read_gltf(file.write(tmp_path / "file.glb")).mesh


@pytest.mark.parametrize(
    ("kind", "top"), [("i1", 127), ("u1", 255), ("i2", 32767), ("u2", 65535)]
)  # section 3.11 of the specification
@pytest.mark.parametrize("stride", [None, 12])
def test_normalised_positions_are_fractions(kind: str, top: int, stride: int | None, tmp_path: Path) -> None:
    file = File()
    file.use("KHR_mesh_quantization", required=True)
    low = -top if kind.startswith("i") else 0
    rows = [[low, low, 0], [top, low, 0], [top, top, 0], [low, top, 0]]
    attributes = {"POSITION": file.array(rows, kind, normalized=True, stride=stride)}
    file.show({"attributes": attributes, "indices": file.array(QUAD, "u2")}, scale=[2, 2, 2])
    side = -2.0 if low else 0.0
    assert box(opened(file, tmp_path)) == [side, side, 0, 2, 2, 0]


def test_plain_integers_are_themselves_and_the_lowest_is_no_more_than_minus_one(tmp_path: Path) -> None:
    file = File()
    rows = [[-300, -300, 7], [300, -300, 7], [300, 300, 7], [-300, 300, 7]]
    file.show({"attributes": {"POSITION": file.array(rows, "i2")}, "indices": file.array(QUAD, "u1")})
    assert box(opened(file, tmp_path)) == [-300, -300, 7, 300, 300, 7]
    file = File()
    rows = [[-128, -127, 0], [127, -127, 0], [127, 127, 0], [-128, 127, 0]]
    file.show({"attributes": {"POSITION": file.array(rows, "i1", True)}, "indices": file.array(QUAD, "u4")})
    assert box(opened(file, tmp_path)) == [-1, -1, 0, 1, 1, 0]


@pytest.mark.parametrize("based", [True, False])
def test_sparse_elements_replace_those_of_the_view_or_zeros(based: bool, tmp_path: Path) -> None:
    file = File()
    position = file.array(CORNERS) if based else file.add(
        "accessors", {"componentType": 5126, "count": 4, "type": "VEC3"}
    )  # fmt: skip
    file.document["accessors"][position]["sparse"] = {
        "count": 2,
        "indices": {"bufferView": file.view(np.array([1, 2], "<u2").tobytes()), "componentType": 5123},
        "values": {"bufferView": file.view(np.array([[5, 0, 0], [5, 6, 0]], "<f4").tobytes())},
    }
    file.show({"attributes": {"POSITION": position}, "indices": file.array(QUAD, "u2")})
    mesh = opened(file, tmp_path)
    rest = [[-1, -1, 0], [-1, 1, 0]] if based else [[0, 0, 0], [0, 0, 0]]
    assert mesh.vertices.tolist() == [rest[0], [5, 0, 0], [5, 6, 0], rest[1]]


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    ("mode", "order", "faces"),
    [
        (4, [0, 1, 2, 2, 1, 3], [[0, 1, 2], [2, 1, 3]]),
        (5, [0, 1, 2, 3, 4], [[0, 1, 2], [1, 3, 2], [2, 3, 4]]),  # every second one the other way round
        (6, [0, 1, 2, 3, 4], [[1, 2, 0], [2, 3, 0], [3, 4, 0]]),
    ],
)
def test_every_mode_with_triangles(
    mode: int, order: list[int], faces: list, indexed: bool, tmp_path: Path
) -> None:
    file = File()
    points = np.random.default_rng(0).normal(size=(5, 3))
    attributes = {"POSITION": file.array(points if indexed else points[order])}
    primitive = {"attributes": attributes, "mode": mode}
    if indexed:
        primitive["indices"] = file.array(order, "u1")
    file.show(primitive)
    mesh = opened(file, tmp_path)
    expected = points[order if not indexed else slice(None)]
    # A triangle may begin at any of its corners.
    found = [sorted(np.roll(face, k).tolist() for k in range(3)) for face in mesh.faces.numpy()]
    if indexed:
        assert found == [sorted(np.roll(face, k).tolist() for k in range(3)) for face in faces]
    corners = mesh.vertices[mesh.faces].double()
    expected_corners = torch.from_numpy(points[faces])
    assert torch.allclose(corners.sum(1), expected_corners.sum(1), atol=1e-5)
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    a, b, c = expected_corners.unbind(1)
    assert torch.allclose(normal, torch.linalg.cross(b - a, c - a), atol=1e-4)
    assert len(mesh.vertices) == len(expected)


def test_joints_of_strips_are_no_triangles(tmp_path: Path) -> None:
    file = File()
    file.show({"attributes": {"POSITION": file.array(np.eye(6)[:, :3] + np.arange(6)[:, None])}, "mode": 5,
               "indices": file.array([0, 1, 2, 2, 3, 3, 4, 5], "u2")})  # fmt: skip
    assert len(opened(file, tmp_path).faces) == 2


def test_points_and_lines_are_named_where_they_are_left_out(tmp_path: Path) -> None:
    file = File()
    points = {"attributes": {"POSITION": file.array(CORNERS)}, "mode": 0}
    file.show(file.quad(), points, {**points, "mode": 3}, {**points, "mode": 1})
    result = read_gltf(file.write(tmp_path / "file.glb"))
    assert len(result.mesh.faces) == 2
    assert {"a primitive of points", "2 primitives of lines"} <= set(result.lost)
    file = File()
    file.show({"attributes": {"POSITION": file.array(CORNERS)}, "mode": 0})
    with pytest.raises(ThreedistillError, match=r"holds no triangles \(it holds points\)"):
        opened(file, tmp_path)


def test_nodes_are_placed_by_their_parents_and_a_mirror_turns_faces(tmp_path: Path) -> None:
    file = File()
    normal = file.array([[0, 0, 1]] * 4)
    child = file.show(file.quad(NORMAL=normal), translation=[3, 0, 0])
    half = math.sqrt(0.5)
    parent = file.add(  # a quarter about +z: x becomes y
        "nodes", {"children": [child], "rotation": [0, 0, half, half], "scale": [-2, 1, 1]}
    )
    file.document["scenes"][0]["nodes"] = [parent]
    mesh = opened(file, tmp_path)
    assert box(mesh) == [-1, -8, 0, 1, -4, 0]
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a)[:, 2] > 0).all()  # still seen from +Z
    assert mesh.normals is not None and torch.allclose(mesh.normals, torch.tensor([[0.0, 0, 1]]).expand(4, 3))


def test_a_matrix_is_stored_by_columns_and_normals_stay_perpendicular(tmp_path: Path) -> None:
    file = File()
    matrix = np.eye(4)
    matrix[0, 2], matrix[:3, 3] = 1, (1, 2, 3)  # x += z
    slope = np.array([[0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0]], float)
    normal = file.array([[-math.sqrt(0.5), 0, math.sqrt(0.5)]] * 4)
    file.show(file.quad(corners=slope, NORMAL=normal), matrix=matrix.T.reshape(-1).tolist())
    mesh = opened(file, tmp_path)
    assert box(mesh) == [1, 2, 3, 3, 3, 4]
    edges = mesh.vertices[1:] - mesh.vertices[0]
    assert mesh.normals is not None
    assert (mesh.normals[0] @ edges.T).abs().max() < 1e-6 and mesh.normals[0].norm() == pytest.approx(1)
    assert mesh.normals[0, 2] > 0


def skinned(file: File, weights: list[list[float]], **node: object) -> None:
    """A quad that two joints move: the first one metre along x, the second two along y."""
    inverse = np.tile(np.eye(4), (2, 1, 1))
    inverse[:, 0, 3] = -10  # the joints stand at x = 10 where the mesh is bound
    first = file.add("nodes", {"translation": [11, 0, 0]})
    second = file.add("nodes", {"translation": [10, 2, 0]})
    file.document["scenes"][0]["nodes"] += [first, second]
    stored = inverse.transpose(0, 2, 1).reshape(2, 16)
    skin = file.add("skins", {"joints": [first, second], "inverseBindMatrices": file.array(stored)})
    attributes = {"JOINTS_0": file.array([[0, 1, 0, 0]] * 4, "u1"), "WEIGHTS_0": file.array(weights)}
    file.show(file.quad(**attributes), skin=skin, **node)


def test_a_skin_places_its_mesh_and_the_nodes_own_place_does_not_count(tmp_path: Path) -> None:
    file = File()
    skinned(file, [[1, 0, 0, 0]] * 2 + [[0, 1, 0, 0]] * 2, translation=[100, 0, 0], scale=[0.01] * 3)
    mesh = opened(file, tmp_path)
    assert torch.allclose(mesh.vertices, torch.tensor([[0.0, -1, 0], [2, -1, 0], [1, 3, 0], [-1, 3, 0]]))


def test_weights_are_mixed_and_need_not_add_up(tmp_path: Path) -> None:
    file = File()
    skinned(file, [[0.25, 0.25, 0, 0]] * 3 + [[0, 0, 0, 0]])
    mesh = opened(file, tmp_path)
    moved = torch.tensor([0.5, 1, 0])  # half of each; a vertex without weights follows the first joint
    expected = torch.from_numpy(CORNERS.copy()) + torch.stack([moved] * 3 + [torch.tensor([1.0, 0, 0])])
    assert torch.allclose(mesh.vertices, expected)


def test_normalised_weights_and_a_skin_without_matrices(tmp_path: Path) -> None:
    file = File()
    joint = file.add("nodes", {"translation": [0, 0, 4]})
    file.document["scenes"][0]["nodes"].append(joint)
    skin = file.add("skins", {"joints": [joint]})
    weights = file.array([[255, 0, 0, 0]] * 4, "u1", normalized=True)
    file.show(file.quad(JOINTS_0=file.array([[0] * 4] * 4, "u2"), WEIGHTS_0=weights), skin=skin)
    assert box(opened(file, tmp_path)) == [-1, -1, 4, 1, 1, 4]


@pytest.mark.parametrize("at", ["mesh", "node"])
def test_morph_targets_move_by_their_weights(at: str, tmp_path: Path) -> None:
    file = File()
    primitive = file.quad()
    zeros = file.add("accessors", {"componentType": 5126, "count": 4, "type": "VEC3", "sparse": {
        "count": 1, "indices": {"bufferView": file.view(b"\x02"), "componentType": 5121},
        "values": {"bufferView": file.view(np.array([0, 0, 8], "<f4").tobytes())}}})  # fmt: skip
    primitive["targets"] = [{"POSITION": file.array(np.tile([1.0, 0, 0], (4, 1)))}, {"POSITION": zeros}]
    node = file.show(primitive, **({"weights": [1, 0.5]} if at == "node" else {}))
    file.document["meshes"][0]["weights"] = [1, 0.5] if at == "mesh" else [0, 0]
    assert node == 0
    mesh = opened(file, tmp_path)
    assert mesh.vertices.tolist() == [[0, -1, 0], [2, -1, 0], [2, 1, 4], [0, 1, 0]]


def test_instances_are_turned_scaled_and_moved_in_their_nodes_frame(tmp_path: Path) -> None:
    file = File()
    file.use("EXT_mesh_gpu_instancing", required=True)
    half = round(math.sqrt(0.5) * 127)
    attributes = {
        "TRANSLATION": file.array([[0, 0, 0], [10, 0, 0], [20, 0, 0]]),
        "ROTATION": file.array([[0, 0, 0, 127], [0, half, 0, half], [0, 0, 0, 127]], "i1", normalized=True),
        "SCALE": file.array([[1, 1, 1], [1, 1, 1], [3, 3, 3]]),
    }
    file.show(
        file.quad(), translation=[0, 0, 5], extensions={"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    )
    mesh = opened(file, tmp_path)
    assert len(mesh.faces) == 6 and len(mesh.vertices) == 12
    parts = mesh.vertices.reshape(3, 4, 3)
    assert parts[0].amin(0).tolist() == [-1, -1, 5] and parts[0].amax(0).tolist() == [1, 1, 5]
    assert torch.allclose(parts[1].amin(0), torch.tensor([10.0, -1, 4]), atol=1e-5)  # a quarter about +y
    assert torch.allclose(parts[1].amax(0), torch.tensor([10.0, 1, 6]), atol=1e-5)
    assert parts[2].amin(0).tolist() == [17, -3, 5] and parts[2].amax(0).tolist() == [23, 3, 5]


def test_only_the_scene_that_is_shown_is_read(tmp_path: Path) -> None:
    file = File()
    file.show(file.quad())
    mesh = file.document["nodes"][0]["mesh"]
    other = file.add("nodes", {"mesh": mesh, "translation": [9, 0, 0]})
    hidden = file.add(
        "nodes", {"extensions": {"KHR_node_visibility": {"visible": False}}, "children": [2 + 1]}
    )
    file.add("nodes", {"mesh": mesh, "translation": [0, 9, 0]})
    file.document["scenes"][0]["nodes"].append(hidden)
    file.add("scenes", {"nodes": [other]})
    file.add("cameras", {"type": "perspective"})
    result = read_gltf(file.write(tmp_path / "file.glb"))
    assert box(result.mesh) == [-1, -1, 0, 1, 1, 0]
    assert {"1 other scene", "1 camera"} <= set(result.lost)
    file.document["scene"] = 1
    assert box(opened(file, tmp_path)) == [8, -1, 0, 10, 1, 0]


def test_files_without_scenes_or_nodes_show_what_they_have(tmp_path: Path) -> None:
    file = File()
    file.show(file.quad(), translation=[0, 0, 1])
    del file.document["scenes"], file.document["scene"]
    assert box(opened(file, tmp_path)) == [-1, -1, 1, 1, 1, 1]
    del file.document["nodes"]
    assert box(opened(file, tmp_path)) == [-1, -1, 0, 1, 1, 0]


def test_some_parts_with_normals_and_some_without(tmp_path: Path) -> None:
    file = File()
    file.show(file.quad(NORMAL=file.array([[0, 1, 0]] * 4)), file.quad(corners=CORNERS + 5))
    mesh = opened(file, tmp_path)
    assert mesh.normals is not None  # those without are flat (3.7.2.1)
    assert mesh.normals[:4].tolist() == [[0, 1, 0]] * 4 and torch.allclose(mesh.normals[4:, 2], torch.ones(6))
    assert torch.allclose(mesh.vertices[mesh.faces][2:].mean((0, 1)), torch.tensor([5.0, 5, 5]), atol=0.4)


def test_what_has_no_normals_stays_flat(tmp_path: Path) -> None:
    """glTF's readers draw it so; made-up normals would round it."""
    file = File()
    cube = trimesh.creation.box()
    file.show(
        {
            "attributes": {"POSITION": file.array(cube.vertices)},
            "indices": file.array(cube.faces.reshape(-1), "u2"),
        }
    )
    mesh = opened(file, tmp_path)
    assert mesh.normals is None and len(mesh.vertices) == 8
    write_mesh(mesh, tmp_path / "again.glb", FileSettings(unlit=False))
    again = read_gltf(tmp_path / "again.glb").mesh
    assert again.normals is None and len(again.vertices) == 8
