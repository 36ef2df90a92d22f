"""What becomes of every extension of glTF: honoured, without effect on a still mesh, or said.

A file lists in ``extensionsRequired`` what a reader must know to show it rightly. Whatever of that we do not honour is
refused by name before anything else is read; of ``extensionsUsed``, what changes the picture is named as lost.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from threedistill.errors import ThreedistillError

__all__ = ["DRACO", "MESHOPT", "SPLATS", "check_required", "lost_extensions", "needs_extra"]

DRACO = "KHR_draco_mesh_compression"
#: The two names of meshoptimizer's compression.
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
SPLATS = "KHR_gaussian_splatting"

#: Read as their specifications say.
_HONOURED = {
    "KHR_mesh_quantization", "KHR_texture_transform", "KHR_materials_unlit", "KHR_materials_emissive_strength",
    "KHR_materials_pbrSpecularGlossiness", "EXT_mesh_gpu_instancing", "EXT_texture_webp", "EXT_texture_avif",
    "KHR_node_visibility", SPLATS,
}  # fmt: skip
#: Decoded with a library of the extra ``gltf``, by what it imports.
_LIBRARIES = {DRACO: "DracoPy", **dict.fromkeys(MESHOPT, "meshopt")}
#: What cannot change the still picture of a mesh, or has a default that is read (variants).
_WITHOUT_EFFECT = {
    "KHR_materials_variants", "KHR_xmp", "KHR_xmp_json_ld", "KHR_animation_pointer", "KHR_node_hoverability",
    "KHR_node_selectability", "KHR_interactivity", "KHR_audio_emitter", "KHR_physics_rigid_bodies",
    "KHR_implicit_shapes", "EXT_mesh_manifold", "EXT_mesh_features", "EXT_structural_metadata", "EXT_instance_features",
    "MSFT_lod", "MSFT_screencoverage", "FB_geometry_metadata", "OMI_physics_body", "OMI_physics_shape", "VRM",
    "VRMC_vrm", "VRMC_springBone", "VRMC_node_constraint", "VRMC_vrm_animation", "GODOT_single_root",
}  # fmt: skip
#: What makes a file readable that needs one of them, besides the extra.
_WAY_OUT = {
    DRACO: "npx @gltf-transform/cli copy IN OUT",
    **dict.fromkeys(MESHOPT, "npx @gltf-transform/cli copy IN OUT"),
    "KHR_texture_basisu": "npx @gltf-transform/cli ktxdecompress IN OUT",
    "KHR_texture_procedurals": "bake its textures in the program that wrote it",
}  # fmt: skip


def _have(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def needs_extra(path: Path | str, extension: str) -> ThreedistillError:
    """The refusal of compressed data whose decoder is not installed."""
    return ThreedistillError(
        f"cannot read {path}: it needs {extension}; pip install 'threedistill[gltf]', or decode it: "
        f"{_WAY_OUT[extension]}"
    )


def check_required(path: Path | str, required: Sequence[str]) -> None:
    """Refuse a file that needs what we do not honour.

    Raises:
        ThreedistillError: every such extension is named, with a way out where there is one.
    """
    missing = [name for name in required if name in _LIBRARIES and not _have(_LIBRARIES[name])]
    if missing:
        raise needs_extra(path, missing[0])
    unknown = [n for n in dict.fromkeys(required) if n not in _HONOURED | _WITHOUT_EFFECT | set(_LIBRARIES)]
    if unknown:
        names = ", ".join(name[:60] for name in unknown[:8])
        ways = [_WAY_OUT[name] for name in unknown if name in _WAY_OUT]
        out = f"convert it first: {ways[0]}" if ways else "write it without in the program that it comes from"
        raise ThreedistillError(f"cannot read {path}: it needs {names}, which is not supported; {out}")


def lost_extensions(used: Iterable[str]) -> list[str]:
    """Those of a file's extensions that would change the picture and are not read."""
    known = _HONOURED | _WITHOUT_EFFECT | set(_LIBRARIES)
    return [name[:60] for name in dict.fromkeys(used) if name not in known]
