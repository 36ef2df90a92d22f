"""What one Python program sees of a file, and what it writes: run by interchange.py, with the program's Python.

    python interchange_py.py PROGRAM version
    python interchange_py.py PROGRAM read FILE           # prints {"points": ..., "faces": ..., "colors": ...}
    python interchange_py.py PROGRAM write FILE OUT      # opens FILE, saves it as OUT

Nothing of threedistill is imported here. ``colors`` are sRGB in [0, 1], one per point; null where there are none.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

Seen = tuple[Any, int, Any]  # points (N, 3), number of faces, colours (N, 3) or None


def _sampled(image: Any, uv: Any, from_top: bool) -> Any:
    """The nearest texels at coordinates; ``from_top``: v = 0 is the picture's first row."""
    import numpy as np

    picture, uv = np.asarray(image, float), np.asarray(uv, float) % 1.0
    height, width = picture.shape[:2]
    v = uv[:, 1] if from_top else 1 - uv[:, 1]
    row = np.clip((v * height).astype(int), 0, height - 1)
    column = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
    return picture[row, column, :3] / 255


def trimesh_read(path: str) -> Seen:
    import trimesh

    mesh = trimesh.load_scene(path, process=False).to_mesh()
    visual = mesh.visual
    known = visual.kind == "texture" and getattr(visual, "uv", None) is not None
    colors = visual.to_color().vertex_colors[:, :3] / 255 if known else None
    if visual.kind == "vertex":
        colors = visual.vertex_colors[:, :3] / 255
    return mesh.vertices, len(mesh.faces), colors


def trimesh_write(path: str, out: str) -> None:
    import trimesh

    trimesh.load_scene(path, process=False).to_mesh().export(out)


def open3d_read(path: str) -> Seen:
    import numpy as np
    import open3d as o3d

    mesh = o3d.io.read_triangle_mesh(path, True)
    points, faces = np.asarray(mesh.vertices), np.asarray(mesh.triangles)
    if mesh.has_vertex_colors():
        return points, len(faces), np.asarray(mesh.vertex_colors)
    if mesh.has_triangle_uvs() and mesh.has_textures():
        uv, image = np.asarray(mesh.triangle_uvs), np.asarray(mesh.textures[0])
        return points[faces.reshape(-1)], len(faces), _sampled(image, uv, True)  # it turns pictures over
    return points, len(faces), None


def open3d_write(path: str, out: str) -> None:
    import open3d as o3d

    mesh = o3d.io.read_triangle_mesh(path, True)
    mesh.compute_triangle_normals()  # STL wants them
    if not o3d.io.write_triangle_mesh(out, mesh):
        raise SystemExit("it could not write the file")


def pymeshlab_read(path: str) -> Seen:
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    meshes.load_new_mesh(path)
    mesh = meshes.current_mesh()
    if mesh.has_wedge_tex_coord() and mesh.texture_number():
        meshes.compute_color_from_texture_per_vertex()
    elif not mesh.has_vertex_color():
        return mesh.vertex_matrix(), mesh.face_number(), None
    return mesh.vertex_matrix(), mesh.face_number(), mesh.vertex_color_matrix()[:, :3]


def pymeshlab_write(path: str, out: str) -> None:
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    meshes.load_new_mesh(path)
    meshes.save_current_mesh(out)


def _blender_open(path: str) -> Any:
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    suffix = Path(path).suffix
    {
        ".glb": bpy.ops.import_scene.gltf, ".obj": bpy.ops.wm.obj_import, ".ply": bpy.ops.wm.ply_import,
        ".stl": bpy.ops.wm.stl_import, ".usdz": bpy.ops.wm.usd_import,
    }[suffix](filepath=path)  # fmt: skip
    return bpy


def blender_read(path: str) -> Seen:
    import numpy as np

    bpy = _blender_open(path)
    points, colors, faces = [], [], 0
    for one in [o for o in bpy.context.scene.objects if o.type == "MESH"]:
        mesh = one.data
        mesh.calc_loop_triangles()
        faces += len(mesh.loop_triangles)
        images = [n.image for m in mesh.materials if m and m.node_tree for n in m.node_tree.nodes
                  if n.type == "TEX_IMAGE" and n.image]  # fmt: skip
        place = np.array(one.matrix_world)
        corners = [loop.vertex_index for loop in mesh.loops]
        at = np.array([v.co for v in mesh.vertices]) @ place[:3, :3].T + place[:3, 3]
        points.append(at[corners])
        if images and mesh.uv_layers.active:
            uv = np.array([d.uv for d in mesh.uv_layers.active.data])
            width, height = images[0].size
            rows = np.array(images[0].pixels[:]).reshape(height, width, 4)[::-1] * 255
            colors.append(_sampled(rows, uv, False))
        elif mesh.color_attributes:
            layer = mesh.color_attributes.active_color
            values = np.array([d.color_srgb[:3] for d in layer.data])
            colors.append(values[corners] if layer.domain == "POINT" else values)
    found = np.concatenate(points)
    if Path(path).suffix in (".glb", ".obj", ".usdz"):  # it turns +Y up into +Z up
        found = found[:, [0, 2, 1]] * np.array([1, 1, -1])
    return found, faces, np.concatenate(colors) if colors else None


def blender_write(path: str, out: str) -> None:
    bpy = _blender_open(path)
    suffix = Path(out).suffix
    if suffix == ".glb":
        bpy.ops.export_scene.gltf(filepath=out)
    elif suffix == ".obj":
        bpy.ops.wm.obj_export(filepath=out, path_mode="COPY")
    elif suffix == ".ply":
        bpy.ops.wm.ply_export(filepath=out, export_colors="SRGB", forward_axis="Y", up_axis="Z")
    elif suffix == ".stl":
        bpy.ops.wm.stl_export(filepath=out)
    else:
        bpy.ops.wm.usd_export(filepath=out, convert_orientation=True)


def meshio_read(path: str) -> Seen:
    import meshio

    mesh = meshio.read(path)
    return mesh.points, sum(len(block.data) for block in mesh.cells if block.type == "triangle"), None


def meshio_write(path: str, out: str) -> None:
    import meshio

    mesh = meshio.read(path)
    meshio.Mesh(mesh.points, mesh.cells).write(out, binary=True) if out.endswith(
        ("ply", "stl")
    ) else meshio.Mesh(mesh.points, mesh.cells).write(out)


def pyvista_read(path: str) -> Seen:
    import pyvista

    mesh = pyvista.read(path)
    if isinstance(mesh, pyvista.MultiBlock):
        mesh = mesh.combine().extract_surface()
    mesh = mesh.triangulate()
    names = [n for n in ("RGB", "RGBA", "COLOR_0") if n in mesh.point_data]
    if not names:
        return mesh.points, mesh.n_cells, None
    colors = mesh.point_data[names[0]][:, :3]
    colors = colors / (255 if colors.dtype.kind == "u" else 1)
    return mesh.points, mesh.n_cells, colors


def pyvista_write(path: str, out: str) -> None:
    import pyvista

    mesh = pyvista.read(path)
    if isinstance(mesh, pyvista.MultiBlock):
        mesh = mesh.combine().extract_surface()
    if out.endswith(".obj"):
        pyvista.Plotter(off_screen=True)
        plot = pyvista.Plotter(off_screen=True)
        plot.add_mesh(mesh)
        plot.export_obj(out)
    else:
        mesh.save(out, **({"texture": "RGB"} if out.endswith(".ply") and "RGB" in mesh.point_data else {}))


def pygltflib_read(path: str) -> Seen:
    import io

    import numpy as np
    import pygltflib
    from PIL import Image

    gltf = pygltflib.GLTF2().load(path)
    binary = gltf.binary_blob()

    def values(index: int) -> Any:
        accessor = gltf.accessors[index]
        view = gltf.bufferViews[accessor.bufferView]
        kind = {5126: "<f4", 5125: "<u4", 5123: "<u2", 5121: "u1"}[accessor.componentType]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor.type]
        start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
        return np.frombuffer(binary, kind, accessor.count * width, start).reshape(-1, width)

    primitive = gltf.meshes[0].primitives[0]
    points, faces = values(primitive.attributes.POSITION), len(values(primitive.indices)) // 3
    if primitive.attributes.TEXCOORD_0 is None or not gltf.images:
        return points, faces, None
    view = gltf.bufferViews[gltf.images[0].bufferView]
    start = view.byteOffset or 0
    image = Image.open(io.BytesIO(binary[start : start + view.byteLength])).convert("RGB")
    return points, faces, _sampled(image, values(primitive.attributes.TEXCOORD_0), True)


def pygltflib_write(path: str, out: str) -> None:
    import pygltflib

    pygltflib.GLTF2().load(path).save(out)


def usd_read(path: str) -> Seen:
    import io

    import numpy as np
    from PIL import Image
    from pxr import Ar, Usd, UsdGeom, UsdShade

    stage = Usd.Stage.Open(path)
    for prim in stage.Traverse():
        if prim.GetTypeName() == "ParticleField3DGaussianSplat":
            means = np.array(prim.GetAttribute("positions").Get())
            harmonics = np.array(prim.GetAttribute("radiance:sphericalHarmonicsCoefficients").Get())
            place = np.array(UsdGeom.Xformable(prim).ComputeLocalToWorldTransform(Usd.TimeCode.Default()))
            means = means @ place[:3, :3] + place[3, :3]  # USD's matrices stand behind rows
            dc = harmonics.reshape(len(means), -1, 3)[:, 0]
            return means, len(means), 0.5 + 0.28209479177387814 * dc
    mesh = next(UsdGeom.Mesh(p) for p in stage.Traverse() if p.IsA(UsdGeom.Mesh))
    points, counts = np.array(mesh.GetPointsAttr().Get()), np.array(mesh.GetFaceVertexCountsAttr().Get())
    uv = np.array(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").ComputeFlattened())
    shader = next(
        s for p in stage.Traverse() if (s := UsdShade.Shader(p)) and s.GetIdAttr().Get() == "UsdUVTexture"
    )
    asset = Ar.GetResolver().OpenAsset(Ar.ResolvedPath(shader.GetInput("file").Get().resolvedPath))
    image = Image.open(io.BytesIO(bytes(asset.GetBuffer()))).convert("RGB")
    return points, int((counts - 2).sum()), _sampled(image, uv, False)


def usd_write(path: str, out: str) -> None:
    from pxr import Usd, UsdUtils

    if out.endswith(".usdz"):
        flat = str(Path(out).with_suffix(".flat.usda"))
        Usd.Stage.Open(path).Export(flat)
        raise SystemExit(0 if UsdUtils.CreateNewUsdzPackage(flat, out) else 1)
    Usd.Stage.Open(path).Export(out)


def plyfile_read(path: str) -> Seen:
    import numpy as np
    import plyfile

    data = plyfile.PlyData.read(path)
    vertex = data["vertex"]
    if "f_dc_0" in vertex.data.dtype.names:
        dc = np.stack([vertex[f"f_dc_{k}"] for k in range(3)], 1)
        return np.stack([vertex[a] for a in "xyz"], 1), len(vertex.data), 0.5 + 0.28209479177387814 * dc
    colors = np.stack([vertex[c] for c in ("red", "green", "blue")], 1) / 255
    return np.stack([vertex[a] for a in "xyz"], 1), len(data["face"].data), colors


def plyfile_write(path: str, out: str) -> None:
    import plyfile

    data = plyfile.PlyData.read(path)
    data.text = False
    data.write(out)


def numpystl_read(path: str) -> Seen:
    from stl import mesh

    found = mesh.Mesh.from_file(path)
    return found.vectors.reshape(-1, 3), len(found.vectors), None


def numpystl_write(path: str, out: str) -> None:
    import stl
    from stl import mesh

    mesh.Mesh.from_file(path).save(out, mode=stl.Mode.ASCII)


def gsply_read(path: str) -> Seen:
    import gsply

    data = gsply.plyread(path)
    return data.means, len(data.means), 0.5 + 0.28209479177387814 * data.sh0.reshape(-1, 3)


def gsply_write(path: str, out: str) -> None:
    import gsply

    data = gsply.plyread(path)
    if out.endswith(".spz"):
        gsply.write_spz(out, data)
    elif out.endswith(".sog"):
        gsply.sogwrite(out, data)
    else:
        gsply.plywrite(out, data.means, data.scales, data.quats, data.opacities, data.sh0, data.shN)


def gaussforge_write(path: str, out: str) -> None:
    import gaussforge

    kinds = [Path(name).suffix[1:] for name in (path, out)]
    result = gaussforge.GaussForge().convert(Path(path).read_bytes(), *kinds)
    if "error" in result:
        raise SystemExit(result["error"])
    Path(out).write_bytes(result["data"])


#: Program -> the distribution that says its version.
PACKAGES = {
    "trimesh": "trimesh", "open3d": "open3d", "pymeshlab": "pymeshlab", "blender": "bpy", "meshio": "meshio",
    "pyvista": "vtk", "pygltflib": "pygltflib", "usd": "usd-core", "plyfile": "plyfile", "numpystl": "numpy-stl",
    "gsply": "gsply", "gaussforge": "gaussforge",
}  # fmt: skip


def main(program: str, verb: str, *words: str) -> None:
    """Do what the command line says."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries talk; stdout carries the answer
    if verb == "version":
        answer: object = importlib.metadata.version(PACKAGES[program])
    elif verb == "write":
        globals()[f"{program}_write"](*words)
        answer = None
    else:
        import numpy as np

        points, faces, colors = globals()[f"{program}_read"](*words)
        rounded = None if colors is None else np.asarray(colors, float).round(4).tolist()
        answer = {
            "points": np.asarray(points, float).round(6).tolist(),
            "faces": int(faces),
            "colors": rounded,
        }
    print(json.dumps(answer), file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
