"""OBJ, PLY and STL as other programs write them: each file is made here by hand, each value follows from its format."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.read import open_file, read_mesh
from threedistill.render.mesh import sample_texture
from threedistill.types import Mesh

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
QUAD = "f 1/1 2/2 3/3 4/4\n"
#: Bottom left, bottom right, top right, top left.
CORNERS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]


def picture(path: Path) -> None:
    """Four colours, one in each quarter."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    for color, rows, columns in zip(CORNERS, [8, 8, 0, 0], [0, 8, 8, 0]):
        pixels[rows : rows + 8, columns : columns + 8] = color
    Image.fromarray(pixels).save(path)


def obj(folder: Path, text: str, mtl: str = "", name: str = "a") -> Opened:
    """An OBJ read back; ``mtl`` goes beside it."""
    (folder / f"{name}.obj").write_text(("mtllib a.mtl\n" if mtl else "") + text)
    if mtl:
        (folder / "a.mtl").write_text(mtl)
    return open_file(folder / f"{name}.obj")


def mesh_of(opened: Opened) -> Mesh:
    assert isinstance(opened.asset, Mesh)
    return opened.asset


def seen(mesh: Mesh, x: float, y: float) -> list[float]:
    """The colour at a point of the xy plane, through the first triangle that holds it."""
    for face in mesh.faces:
        corner = mesh.vertices[face][:, :2].double()
        system = torch.cat([corner.T, torch.ones(1, 3, dtype=torch.float64)])
        if abs(float(torch.linalg.det(system))) < 1e-12:
            continue
        weights = torch.linalg.solve(system, torch.tensor([x, y, 1.0], dtype=torch.float64))
        if float(weights.min()) > -1e-6:
            if mesh.texture is not None and mesh.uv is not None:
                uv = (weights[:, None] * mesh.uv[face].double()).sum(0).float()
                return sample_texture(mesh.texture, uv[None], mesh.wrap)[0].tolist()
            assert mesh.colors is not None
            return (weights[:, None] * mesh.colors[face].double()).sum(0).tolist()
    raise AssertionError("no triangle there")


def assert_pictured(mesh: Mesh, size: float = 1.0) -> None:
    for color, (x, y) in zip(CORNERS, [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]):
        assert seen(mesh, x * size, y * size) == pytest.approx([c / 255 for c in color], abs=0.01)


@pytest.mark.parametrize("faces", [QUAD, "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n", "f -4/-4 -3/-3 -2/-2 -1/-1\n",
                                   "f 1/1 2/2 \\\n3/3 4/4\n"])  # fmt: skip
def test_a_quad_is_its_two_triangles(faces: str, tmp_path: Path) -> None:
    picture(tmp_path / "q.png")
    mesh = mesh_of(obj(tmp_path, SQUARE + "usemtl m\n" + faces, "newmtl m\nmap_Kd q.png\n"))
    assert len(mesh.faces) == 2 and len(mesh.vertices) == 4
    assert_pictured(mesh)


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("map_Kd -s 1 1 1 -clamp on q.png", "q.png"),
        ("map_Kd -blendu on -blendv off -mm 0 1 -o 0 0 0 my picture.png", "my picture.png"),
        ("map_kd  C:\\art\\wood\\q.png", "q.png"),
        ("map_Kd ../elsewhere/q.png", "q.png"),
        ("map_Kd textures/q%201.png", "textures/q 1.png"),
        ("\tmap_Kd\tq.png", "q.png"),
    ],
)
def test_a_map_is_found_whatever_stands_before_its_name(line: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    picture(tmp_path / file)
    opened = obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, f"newmtl m\nKd 1 1 1\n{line}\n")
    assert_pictured(mesh_of(opened))
    assert opened.lost == []


def test_scale_and_offset_of_a_map_move_its_coordinates(tmp_path: Path) -> None:
    picture(tmp_path / "q.png")
    mesh = mesh_of(
        obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, "newmtl m\nmap_Kd -s .5 .5 -o .5 .5 0 q.png\n")
    )
    assert seen(mesh, 0.2, 0.2) == pytest.approx([0, 0, 1], abs=0.01)  # the top right quarter everywhere
    mesh = mesh_of(obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, "newmtl m\nmap_Kd -s 2 2 2 q.png\n"))
    assert seen(mesh, 0.1, 0.1) == seen(mesh, 0.6, 0.6) == pytest.approx([1, 0, 0], abs=0.01)


def test_a_picture_that_cannot_be_had_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ThreedistillError, match=r"the picture of map_Kd 'gone.png' is missing; put it into"):
        obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, "newmtl m\nmap_Kd gone.png\n")
    (tmp_path / "q.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ThreedistillError, match=r"'q.png' is no sound picture"):
        obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, "newmtl m\nmap_Kd q.png\n")


def test_unused_materials_need_no_pictures(tmp_path: Path) -> None:
    opened = obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, "newmtl m\nKd 1 0 0\nnewmtl n\nmap_Kd gone.png\n")
    assert seen(mesh_of(opened), 0.5, 0.5) == pytest.approx([1, 0, 0], abs=1e-4)


def test_materials_that_are_not_there_are_named(tmp_path: Path) -> None:
    opened = obj(tmp_path, "mtllib gone.mtl\n" + SQUARE + "usemtl red\n" + QUAD)
    assert opened.lost == ["its materials (gone.mtl is not beside it)"]


@pytest.mark.parametrize(("head", "expected"), [("", 0.5), ("# Blender 4.2.0 MTL File: 'None'\n", 0.7354)])
def test_a_color_without_a_picture(head: str, expected: float, tmp_path: Path) -> None:
    """The format leaves open whether Kd is linear: Blender's is, others show it as it stands."""
    mtl = f"{head}newmtl a\nKd 0.5 0.5 0.5\nnewmtl b\nKd 1 0 0\n"
    two = SQUARE.replace("vt", "#vt") + "v 2 0 0\nv 2 1 0\n"
    mesh = mesh_of(obj(tmp_path, two + "usemtl a\nf 1 2 3 4\nusemtl b\nf 2 5 6 3\n", mtl))
    assert seen(mesh, 0.5, 0.5) == pytest.approx([expected] * 3, abs=1e-3)
    assert seen(mesh, 1.5, 0.5) == pytest.approx([1, 0, 0], abs=1e-3)


def test_emission_coverage_and_metal_arrive(tmp_path: Path) -> None:
    picture(tmp_path / "q.png")
    Image.new("L", (4, 4), 128).save(tmp_path / "half.png")
    opened = obj(
        tmp_path, SQUARE + "usemtl m\n" + QUAD,
        "newmtl m\nKd 1 1 1\nKe 1 1 1\nmap_Ke q.png\nd 0.5\nmap_Pm half.png\nPm 1\nPr 0.25\n",
    )  # fmt: skip
    mesh = mesh_of(opened)
    assert mesh.emission is not None and mesh.alpha is not None and mesh.metallic_roughness is not None
    assert mesh.emission[-1, 0].tolist() == pytest.approx([1, 0, 0], abs=0.01)
    assert float(mesh.alpha.max()) == pytest.approx(0.5)
    assert mesh.metallic_roughness[0, 0].tolist() == pytest.approx([128 / 255, 0.25], abs=1e-3)
    glow = obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, "newmtl m\nKd 0 0 0\nKe 1 1 1\nmap_Ke q.png\n")
    assert glow.unlit and mesh_of(glow).emission is None  # light and nothing else: unlit
    assert_pictured(mesh_of(glow))
    assert obj(tmp_path, SQUARE + "usemtl m\n" + QUAD, "newmtl m\nillum 0\nmap_Kd q.png\n").unlit


def test_a_concave_polygon_keeps_its_area_and_its_notch(tmp_path: Path) -> None:
    """An arrow head, in each of the coordinate planes and both ways round."""
    shape = [(0, 0), (2, 1), (0, 2), (1, 1)]
    for axes in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        for order in (shape, shape[::-1]):
            points = [[(x, y, 0)[a] for a in axes] for x, y in order]
            lines = "".join(f"v {x} {y} {z}\n" for x, y, z in points)
            mesh = mesh_of(obj(tmp_path, lines + "f 1 2 3 4\n"))
            a, b, c = mesh.vertices[mesh.faces].unbind(1)
            cross = torch.linalg.cross(b - a, c - a)
            assert float(cross.norm(dim=1).sum() / 2) == pytest.approx(
                1.0
            )  # 2 of the hull minus 1 of the notch
            assert float(cross.sum(0).norm() / 2) == pytest.approx(1.0)  # all the same way round


def test_what_is_no_triangle_is_named(tmp_path: Path) -> None:
    opened = obj(tmp_path, SQUARE + QUAD + "l 1 2\nl 2 3\np 1\n")
    assert opened.lost == ["2 lines", "1 point"]
    with pytest.raises(ThreedistillError, match=r"it holds no triangles \(it holds 1 line\)"):
        obj(tmp_path, SQUARE + "l 1 2\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "a face names v 9, there are 3"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/5 2/5 3/5\n", "a face names vt 5, there are 0"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -9\n", "line 4: '-9' is no corner"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "line 4: '0' is no corner"),
        ("v 0 0 x\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "'v 0 0 x'"),
        ("v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "'v 0 0'"),
        ("v 0 0 0\nv 1 0 0\nf 1 2\n", "fewer than three corners"),
        ("v 0 0 0\nf\n", "it holds no triangles"),
    ],
)
def test_wrong_lines_are_named(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ThreedistillError, match=reason):
        obj(tmp_path, text)


# --- PLY -------------------------------------------------------------------------------------------------------------

POINTS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0)]
FACES = [(0, 1, 2, 3), (1, 4, 2)]


def ply(
    path: Path, order: str = "little", length: str = "uchar", index: str = "int", name: str = "vertex_indices",
    swapped: bool = False, color: str = "uchar",
) -> None:  # fmt: skip
    """A quad and a triangle, coloured at the vertices, in one of PLY's many ways."""
    codes = {"uchar": "B", "ushort": "H", "int": "i", "uint": "I", "short": "h", "float": "f"}
    scale = {"uchar": 255, "ushort": 65535, "float": 1}[color]
    colors = [[scale, 0, 0], [0, scale, 0], [0, 0, scale], [scale, scale, 0], [0, 0, 0]]
    vertex = "".join(f"property float {a}\n" for a in "xyz") + "".join(
        f"property {color} {c}\n" for c in ("red", "green", "blue")
    )
    head = [f"element vertex {len(POINTS)}\n{vertex}", f"element face {len(FACES)}\nproperty uchar flags\n"
            f"property list {length} {index} {name}\n"]  # fmt: skip
    text = (
        f"ply\nformat {'ascii' if order == 'ascii' else f'binary_{order}_endian'} 1.0\ncomment made by hand\n"
    )
    text += "".join(head[::-1] if swapped else head) + "end_header\n"
    if order == "ascii":
        rows = [" ".join(map(str, [*p, *c])) for p, c in zip(POINTS, colors)]
        faces = [" ".join(map(str, [7, len(f), *f])) for f in FACES]
        path.write_text(text + "\n".join([*faces, *rows] if swapped else [*rows, *faces]) + "\n")
        return
    sign = "<" if order == "little" else ">"
    body = [
        b"".join(struct.pack(f"{sign}3f3{codes[color]}", *p, *c) for p, c in zip(POINTS, colors)),
        b"".join(struct.pack(f"{sign}B{codes[length]}{len(f)}{codes[index]}", 7, len(f), *f) for f in FACES),
    ]  # fmt: skip
    path.write_bytes(text.encode() + b"".join(body[::-1] if swapped else body))


@pytest.mark.parametrize(
    "ways",
    [
        {}, {"order": "ascii"}, {"order": "big"}, {"swapped": True}, {"order": "ascii", "swapped": True},
        {"length": "int", "index": "uint"}, {"length": "ushort", "index": "short", "name": "vertex_index"},
        {"color": "ushort"}, {"color": "float"}, {"color": "float", "order": "big"},
    ],
)  # fmt: skip
def test_every_way_of_writing_a_ply_is_one_mesh(ways: dict, tmp_path: Path) -> None:
    ply(tmp_path / "a.ply", **ways)
    mesh = read_mesh(tmp_path / "a.ply")
    assert mesh.vertices.tolist() == [list(map(float, p)) for p in POINTS]
    assert sorted(map(tuple, mesh.faces.tolist())) == [(0, 1, 2), (0, 2, 3), (1, 4, 2)]
    assert mesh.colors is not None
    assert torch.allclose(
        mesh.colors[:4], torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]), atol=1e-3
    )


def test_runs_of_mixed_polygons_are_read_whole(tmp_path: Path) -> None:
    """Many polygons of changing size, against the same in text."""
    draw = np.random.default_rng(0)
    points = draw.normal(size=(50, 3)).astype("<f4")
    faces = [draw.permutation(50)[: draw.integers(3, 6)] for _ in range(300)]
    faces[100:200] = [draw.permutation(50)[:3] for _ in range(100)]
    head = "element vertex 50\nproperty float x\nproperty float y\nproperty float z\nelement face 300\n"
    head += "property list uchar int vertex_indices\nend_header\n"
    body = points.tobytes() + b"".join(bytes([len(f)]) + f.astype("<i4").tobytes() for f in faces)
    (tmp_path / "b.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\n" + head.encode() + body)
    rows = [" ".join(repr(float(v)) for v in p) for p in points]
    rows += [" ".join(map(str, [len(f), *f])) for f in faces]
    (tmp_path / "t.ply").write_text("ply\nformat ascii 1.0\n" + head + "\n".join(rows) + "\n")
    binary, text = read_mesh(tmp_path / "b.ply"), read_mesh(tmp_path / "t.ply")
    assert torch.equal(binary.faces, text.faces) and torch.equal(binary.vertices, text.vertices)
    assert len(binary.faces) == sum(len(f) - 2 for f in faces)


def test_colors_of_faces_and_coordinates_of_corners(tmp_path: Path) -> None:
    picture(tmp_path / "q.png")
    head = "ply\nformat ascii 1.0\n{}element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 2\nproperty list uchar int vertex_indices\n"
    points = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
    colors = "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    (tmp_path / "c.ply").write_text(head.format("") + colors + points + "3 0 1 2 255 0 0\n3 0 2 3 0 0 255\n")
    mesh = read_mesh(tmp_path / "c.ply")
    assert seen(mesh, 0.8, 0.2) == pytest.approx([1, 0, 0], abs=1e-3)
    assert seen(mesh, 0.2, 0.8) == pytest.approx([0, 0, 1], abs=1e-3)
    corners = "property list uchar float texcoord\nend_header\n"
    body = points + "3 0 1 2 6 0 0 1 0 1 1\n3 0 2 3 6 0 0 1 1 0 1\n"
    (tmp_path / "t.ply").write_text(head.format("comment TextureFile q.png\n") + corners + body)
    assert_pictured(read_mesh(tmp_path / "t.ply"))
    (tmp_path / "q.png").unlink()
    with pytest.raises(ThreedistillError, match=r"its TextureFile 'q.png' is missing"):
        read_mesh(tmp_path / "t.ply")


def test_coordinates_of_vertices_stay_theirs_where_lists_of_corners_are_empty(tmp_path: Path) -> None:
    picture(tmp_path / "q.png")
    head = "ply\nformat ascii 1.0\ncomment TextureFile q.png\nelement vertex 3\n"
    head += "".join(f"property float {name}\n" for name in ("x", "y", "z", "s", "t"))
    head += "element face 1\nproperty list uchar int vertex_indices\nproperty list uchar float texcoord\n"
    head += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    (tmp_path / "v.ply").write_text(head + "0 0 0 0 0\n1 0 0 1 0\n1 1 0 1 1\n3 2 0 1 0 255 255 255\n")
    mesh = read_mesh(tmp_path / "v.ply")
    assert mesh.uv is not None and torch.equal(mesh.uv, mesh.vertices[:, :2])


def test_strips_and_unknown_properties(tmp_path: Path) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    head += (
        "property float curvature\nelement tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    )
    (tmp_path / "s.ply").write_text(head + "0 0 0 1\n1 0 0 2\n0 1 0 3\n1 1 0 4\n8 0 1 2 3 -1 0 1 2\n")
    opened = open_file(tmp_path / "s.ply")
    assert sorted(map(tuple, mesh_of(opened).faces.tolist())) == [(0, 1, 2), (0, 1, 2), (2, 1, 3)]
    assert opened.lost == ["curvature of its vertex element"]


@pytest.mark.parametrize("cut", [1, 5, 17, 40])
@pytest.mark.parametrize("order", ["little", "ascii"])
def test_a_ply_that_is_cut_off_is_refused(cut: int, order: str, tmp_path: Path) -> None:
    ply(tmp_path / "a.ply", order=order, swapped=order == "ascii")
    data = (tmp_path / "a.ply").read_bytes().rstrip(b"\n")
    (tmp_path / "a.ply").write_bytes(data[: -cut - (order == "ascii")])
    with pytest.raises(ThreedistillError, match=r"cannot read .*(cut off|a face names)"):
        read_mesh(tmp_path / "a.ply")


# --- welding, STL ----------------------------------------------------------------------------------------------------


def test_corners_of_different_colors_are_not_welded(command: Callable, workspace: Path) -> None:
    """Two squares that share an edge, one red, one blue: both stay what they are in PLY."""
    two = SQUARE.replace("vt", "#vt") + "v 2 0 0\nv 2 1 0\n"
    obj(
        workspace,
        two + "usemtl a\nf 1 2 3 4\nusemtl b\nf 2 5 6 3\n",
        "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n",
    )
    assert command("convert", "a.obj", "a.ply").status == 0
    mesh = read_mesh(workspace / "a.ply")
    assert len(mesh.vertices) == 8
    assert seen(mesh, 0.9, 0.5) == pytest.approx([1, 0, 0]) and seen(mesh, 1.1, 0.5) == pytest.approx(
        [0, 0, 1]
    )
    same = SQUARE.replace("vt", "#vt") + "v 1 0 0\nv 1 1 0\nv 2 0 0\nv 2 1 0\nf 1 2 3 4\nf 5 7 8 6\n"
    obj(workspace, same, name="b")
    assert command("convert", "b.obj", "b.ply").status == 0
    assert len(read_mesh(workspace / "b.ply").vertices) == 6


def test_both_forms_of_stl_are_one_solid(tmp_path: Path) -> None:
    corners = np.array([[[0, 0, 0], [1, 0, 0], [0, 2, 0]], [[0, 0, 0], [0, 2, 0], [0, 0, 3]]], "<f4")
    text = "".join(
        "facet normal 0 0 0\n outer loop\n" + "".join(f"  vertex {x} {y} {z}\n" for x, y, z in t)
        + " endloop\nendfacet\n" for t in corners
    )  # fmt: skip
    (tmp_path / "t.stl").write_text(f"solid one\n{text}endsolid one\n")
    record = np.zeros(2, dtype=[("n", "<f4", 3), ("c", "<f4", (3, 3)), ("s", "<u2")])
    record["c"] = corners
    head = b"solid, says this binary file".ljust(80)
    (tmp_path / "b.stl").write_bytes(head + struct.pack("<I", 2) + record.tobytes())
    for name in ("t.stl", "b.stl"):
        mesh = read_mesh(tmp_path / name)
        assert len(mesh.vertices) == 4 and len(mesh.faces) == 2
        assert mesh.vertices.amax(0).tolist() == [1, 3, 0]  # +Z up in the file: (x, y, z) -> (x, z, -y)
        assert mesh.vertices.amin(0).tolist() == [0, 0, -2]
    record["s"] = 0x7C00
    (tmp_path / "b.stl").write_bytes(head + struct.pack("<I", 2) + record.tobytes())
    assert open_file(tmp_path / "b.stl").lost == ["its colours, which no two programs write alike"]
    (tmp_path / "b.stl").write_bytes(head + struct.pack("<I", 3) + record.tobytes())
    with pytest.raises(ThreedistillError, match="its header promises 3 triangles"):
        read_mesh(tmp_path / "b.stl")
    (tmp_path / "t.stl").write_text(f"solid one\n{text.replace('vertex 0.0', 'vertex', 1)}endsolid\n")
    with pytest.raises(ThreedistillError, match="not a sound stl"):
        read_mesh(tmp_path / "t.stl")
