"""Triangle meshes through trimesh, for the formats that have no reader of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.frames import frame_of
from threedistill.exports.opened import Opened
from threedistill.exports.stl import MARK
from threedistill.exports.surface import welded
from threedistill.types import Mesh

__all__ = ["read_plain", "read_stl"]


def read_plain(path: Path) -> Opened:
    """OBJ or PLY: vertices, faces, a texture or vertex colours."""
    return Opened(_loaded(path))


def read_stl(path: Path) -> Opened:
    """STL: ours come back in metres, others in their own unit; corners on one point are shared again."""
    mesh = _loaded(path)
    with path.open("rb") as file:
        head = file.read(80)
    mesh.vertices = mesh.vertices * (1e-3 if MARK in head else 1.0)
    mesh.normals = None  # trimesh's are the faces'
    up = {b"+Y up": "y", b"+Z up": "z"}
    said = next((axis for words, axis in up.items() if words in head), None) if MARK in head else None
    return Opened(welded(mesh), frame_of(said) if said else None)  # type: ignore[arg-type]


def _loaded(path: Path) -> Mesh:
    """The scene as one mesh (of several textures only a single one can be kept: otherwise colours move to vertices)."""
    import trimesh

    suffix = path.suffix.lower()
    try:
        scene = trimesh.load_scene(path, process=False, maintain_order=True)
        placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
        parts = [
            _part(scene.geometry[name], transform)
            for transform, name in placed
            if isinstance(scene.geometry[name], trimesh.Trimesh) and len(scene.geometry[name].faces)
        ]
    except MemoryError as error:
        raise ThreedistillError(f"cannot read {path}: it claims more data than fits in memory") from error
    except Exception as error:  # trimesh's parsers fail in as many ways as files can be damaged
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise ThreedistillError(f"cannot read {path}: not a sound {suffix[1:]} file ({text})") from error
    if not parts:
        raise ThreedistillError(f"cannot read {path}: it holds no triangles")
    return parts[0] if len(parts) == 1 else _joined(parts)


def _part(geometry: Any, transform: np.ndarray) -> Mesh:
    """One trimesh geometry as our type, brought to its place in the scene by a 4 x 4 matrix."""
    from trimesh.visual import ColorVisuals, TextureVisuals

    def floats(values: object) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32))

    linear = transform[:3, :3]
    mesh = Mesh(
        floats(geometry.vertices @ linear.T + transform[:3, 3]),
        torch.from_numpy(np.array(geometry.faces, dtype=np.int64)),
    )
    mirrored = np.linalg.det(linear) < 0
    if mirrored:
        mesh.faces = mesh.faces.flip(1)
    if "vertex_normals" in geometry._cache:  # the file's own: trimesh would compute others when asked
        normals = geometry.vertex_normals @ np.linalg.inv(linear)  # the inverse transpose, on rows
        mesh.normals = torch.nn.functional.normalize(floats(normals), dim=1)
    visual = geometry.visual
    if isinstance(visual, TextureVisuals):
        image, factor = _base_color(visual.material)
        if visual.uv is not None and len(visual.uv) == len(mesh.vertices):
            mesh.uv = floats(visual.uv)
            mesh.normal_map, mesh.metallic_roughness = _maps(visual.material)
        if mesh.uv is not None and image is not None:
            mesh.texture = image * factor
        elif "color" in visual.vertex_attributes:
            mesh.colors = _vertex_colors(visual.vertex_attributes["color"])
        else:
            mesh.colors = factor.expand(len(mesh.vertices), 3).clone()
    elif isinstance(visual, ColorVisuals) and visual.kind == "vertex":
        mesh.colors = _vertex_colors(visual.vertex_colors)
    return mesh


def _vertex_colors(values: object) -> Tensor:
    array = np.asarray(values)
    top = float(np.iinfo(array.dtype).max) if array.dtype.kind == "u" else 1.0
    return torch.from_numpy((array[:, :3] / top).astype(np.float32)).clamp(0, 1)


def _base_color(material: Any) -> tuple[Tensor | None, Tensor]:
    """A material's sRGB picture, row 0 at the top, or None; and the sRGB-encoded factor to multiply it with."""
    from threedistill.render.shading import linear_to_srgb

    image = getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    if image is None:
        image = getattr(material, "image", None)
    picture = None
    if image is not None:
        picture = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)
    if factor is None:
        return picture, torch.ones(3)
    linear = torch.from_numpy(np.asarray(factor, dtype=np.float32)[:3] / (255 if max(factor) > 1 else 1))
    return picture, linear_to_srgb(linear.clamp(0, 1))


def _maps(material: Any) -> tuple[Tensor | None, Tensor | None]:
    """A material's normal map, and its metalness and roughness with their factors multiplied in."""
    normal = getattr(material, "normalTexture", None)
    packed = getattr(material, "metallicRoughnessTexture", None)
    if packed is not None:
        pixels = torch.from_numpy(np.asarray(packed.convert("RGB"), dtype=np.float32) / 255)
        factors = [getattr(material, name, None) for name in ("metallicFactor", "roughnessFactor")]
        packed = pixels[..., [2, 1]] * torch.tensor([1.0 if f is None else float(f) for f in factors])
    if normal is not None:
        normal = torch.from_numpy(np.asarray(normal.convert("RGB"), dtype=np.float32) / 255)
    return normal, packed


def _joined(parts: list[Mesh]) -> Mesh:
    """Several meshes as one, with vertex colours (a picture is sampled at the vertices)."""
    from threedistill.render.mesh import sample_texture

    start, vertices, faces, colors = 0, [], [], []
    normals = [part.normals for part in parts if part.normals is not None]
    for part in parts:
        vertices.append(part.vertices)
        faces.append(part.faces + start)
        start += len(part.vertices)
        if part.texture is not None and part.uv is not None:
            colors.append(sample_texture(part.texture, part.uv))
        else:
            colors.append(part.colors if part.colors is not None else torch.full_like(part.vertices, 0.7))
    joined = torch.cat(normals) if len(normals) == len(parts) else None
    return Mesh(torch.cat(vertices), torch.cat(faces), normals=joined, colors=torch.cat(colors))
