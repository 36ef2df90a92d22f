"""The JSON of glTF 2.0 as types: what we read of it, checked once, so that no reader meets a number where an object
belongs.

Names, defaults and ranges are the specification's (Khronos, "glTF 2.0 Specification", chapter 5, and each extension's
own text). What is not listed is not read; what changes the picture and is not read is said by
:mod:`threedistill.exports.gltf.extensions`. The libraries for glTF were looked at first: ``pygltflib`` and ``gltflib``
map JSON to classes without checking types, ranges or references and leave accessors, scenes and materials to the
caller; ``trimesh`` reads the rest and drops quantisation, wrap modes, skins, factors and emission without a word.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field
from pydantic.alias_generators import to_camel

__all__ = [
    "Accessor", "Asset", "Buffer", "BufferView", "Document", "Draco", "Image", "Material", "Mesh", "Meshopt",
    "MetallicRoughness", "Node", "Primitive", "Sampler", "Scene", "Skin", "Sparse", "SpecularGlossiness",
    "Texture", "TextureInfo",
]  # fmt: skip


def _whole(value: Any) -> Any:
    """JSON does not tell 3.0 from 3, and some writers do not either."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Index = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Vector2 = Annotated[list[float], Field(min_length=2, max_length=2)]
Vector3 = Annotated[list[float], Field(min_length=3, max_length=3)]
Vector4 = Annotated[list[float], Field(min_length=4, max_length=4)]
Matrix4 = Annotated[list[float], Field(min_length=16, max_length=16)]
Attributes = dict[str, Index]
_T = TypeVar("_T")
#: A list whose first fault is enough.
Rows = Annotated[list[_T], FailFast()]


def _always(value: _T) -> _T:
    """A default that all objects share: pydantic would copy it for each, which takes longer than the rest."""
    return Field(default_factory=lambda: value)  # type: ignore[return-value]


class _Object(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="ignore", alias_generator=to_camel, allow_inf_nan=False, frozen=True
    )


class Asset(_Object):
    """Who wrote the file, and facts that travel with it."""

    version: str
    generator: str | None = None
    extras: Any = None


class Meshopt(_Object):
    """``EXT_meshopt_compression`` and ``KHR_meshopt_compression`` of a buffer view."""

    buffer: Index
    byte_offset: Index = 0
    byte_length: Count
    byte_stride: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=256)]
    count: Count
    mode: Literal["ATTRIBUTES", "TRIANGLES", "INDICES"]
    filter: Literal["NONE", "OCTAHEDRAL", "QUATERNION", "EXPONENTIAL", "COLOR"] = "NONE"


class _Fallback(_Object):
    fallback: bool = False


class _BufferExtensions(_Object):
    ext_meshopt: _Fallback | None = Field(default=None, validation_alias="EXT_meshopt_compression")
    khr_meshopt: _Fallback | None = Field(default=None, validation_alias="KHR_meshopt_compression")


class Buffer(_Object):
    """Bytes inside the GLB, in the JSON itself, or in a file beside it."""

    byte_length: Count
    uri: str | None = None
    extensions: _BufferExtensions = _always(_BufferExtensions())


class _ViewExtensions(_Object):
    ext_meshopt: Meshopt | None = Field(default=None, validation_alias="EXT_meshopt_compression")
    khr_meshopt: Meshopt | None = Field(default=None, validation_alias="KHR_meshopt_compression")


class BufferView(_Object):
    """A stretch of a buffer."""

    buffer: Index
    byte_offset: Index = 0
    byte_length: Count
    byte_stride: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=252)] | None = None
    extensions: _ViewExtensions = _always(_ViewExtensions())


class _SparseIndices(_Object):
    buffer_view: Index
    byte_offset: Index = 0
    component_type: Annotated[Literal[5121, 5123, 5125], BeforeValidator(_whole)]


class _SparseValues(_Object):
    buffer_view: Index
    byte_offset: Index = 0


class Sparse(_Object):
    """The elements of an accessor that differ from its buffer view, or from zero."""

    count: Count
    indices: _SparseIndices
    values: _SparseValues


class Accessor(_Object):
    """A typed array."""

    buffer_view: Index | None = None
    byte_offset: Index = 0
    component_type: Annotated[Literal[5120, 5121, 5122, 5123, 5125, 5126], BeforeValidator(_whole)]
    normalized: bool = False
    count: Count
    type: Literal["SCALAR", "VEC2", "VEC3", "VEC4", "MAT2", "MAT3", "MAT4"]
    sparse: Sparse | None = None


class Draco(_Object):
    """``KHR_draco_mesh_compression``: which compressed attribute, by its id, is which."""

    buffer_view: Index
    attributes: Attributes


class _PrimitiveExtensions(_Object):
    draco: Draco | None = Field(default=None, validation_alias="KHR_draco_mesh_compression")
    splats: dict[str, Any] | None = Field(default=None, validation_alias="KHR_gaussian_splatting")


class Primitive(_Object):
    """Points, lines or triangles of one material."""

    attributes: Attributes
    indices: Index | None = None
    material: Index | None = None
    mode: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=6)] = 4
    targets: Rows[Attributes] = _always([])
    extensions: _PrimitiveExtensions = _always(_PrimitiveExtensions())


class Mesh(_Object):
    """Primitives that belong together, and the weights of their morph targets."""

    primitives: Annotated[Rows[Primitive], Field(min_length=1)]
    weights: Rows[float] = _always([])


class _Instancing(_Object):
    attributes: Attributes


class _Visibility(_Object):
    visible: bool = True


class _NodeExtensions(_Object):
    instancing: _Instancing | None = Field(default=None, validation_alias="EXT_mesh_gpu_instancing")
    visibility: _Visibility = Field(default=_Visibility(), validation_alias="KHR_node_visibility")


class Node(_Object):
    """A place in the scene."""

    children: Rows[Index] = _always([])
    mesh: Index | None = None
    skin: Index | None = None
    matrix: Matrix4 | None = None
    translation: Vector3 = _always([0, 0, 0])
    rotation: Vector4 = _always([0, 0, 0, 1])
    scale: Vector3 = _always([1, 1, 1])
    weights: Rows[float] = _always([])
    extensions: _NodeExtensions = _always(_NodeExtensions())


class Skin(_Object):
    """Joints, and the matrices that take the mesh to each joint's frame at rest."""

    joints: Annotated[Rows[Index], Field(min_length=1)]
    inverse_bind_matrices: Index | None = None


class Scene(_Object):
    """Root nodes."""

    nodes: Rows[Index] = _always([])


class Sampler(_Object):
    """How a picture goes on beyond the unit square: 33071 clamp, 33648 mirror, 10497 repeat."""

    wrap_s: Annotated[Literal[33071, 33648, 10497], BeforeValidator(_whole)] = 10497
    wrap_t: Annotated[Literal[33071, 33648, 10497], BeforeValidator(_whole)] = 10497


class _Source(_Object):
    source: Index


class _TextureExtensions(_Object):
    webp: _Source | None = Field(default=None, validation_alias="EXT_texture_webp")
    avif: _Source | None = Field(default=None, validation_alias="EXT_texture_avif")


class Texture(_Object):
    """A picture with its sampler; extensions name the same one in another encoding."""

    sampler: Index | None = None
    source: Index | None = None
    extensions: _TextureExtensions = _always(_TextureExtensions())


class Image(_Object):
    """A picture file in a buffer view, in the JSON itself, or beside it."""

    uri: str | None = None
    buffer_view: Index | None = None
    name: str | None = None


class _Transform(_Object):
    offset: Vector2 = _always([0, 0])
    scale: Vector2 = _always([1, 1])
    rotation: float = 0
    tex_coord: Index | None = None


class _TextureInfoExtensions(_Object):
    transform: _Transform | None = Field(default=None, validation_alias="KHR_texture_transform")


class TextureInfo(_Object):
    """A texture, and the coordinates that it is looked up with."""

    index: Index
    tex_coord: Index = 0
    scale: float = 1  # of normal maps
    extensions: _TextureInfoExtensions = _always(_TextureInfoExtensions())


class MetallicRoughness(_Object):
    """The metallic-roughness model."""

    base_color_factor: Vector4 = _always([1, 1, 1, 1])
    base_color_texture: TextureInfo | None = None
    metallic_factor: float = 1
    roughness_factor: float = 1
    metallic_roughness_texture: TextureInfo | None = None


class SpecularGlossiness(_Object):
    """``KHR_materials_pbrSpecularGlossiness``."""

    diffuse_factor: Vector4 = _always([1, 1, 1, 1])
    diffuse_texture: TextureInfo | None = None
    specular_factor: Vector3 = _always([1, 1, 1])
    glossiness_factor: float = 1
    specular_glossiness_texture: TextureInfo | None = None


class _Unlit(_Object):
    pass


class _EmissiveStrength(_Object):
    emissive_strength: Annotated[float, Field(ge=0)] = 1


class _MaterialExtensions(_Object):
    unlit: _Unlit | None = Field(default=None, validation_alias="KHR_materials_unlit")
    emissive_strength: _EmissiveStrength = Field(
        default=_EmissiveStrength(), validation_alias="KHR_materials_emissive_strength"
    )
    specular_glossiness: SpecularGlossiness | None = Field(
        default=None, validation_alias="KHR_materials_pbrSpecularGlossiness"
    )


class Material(_Object):
    """How a surface looks."""

    pbr_metallic_roughness: MetallicRoughness = _always(MetallicRoughness())
    normal_texture: TextureInfo | None = None
    occlusion_texture: TextureInfo | None = None
    emissive_texture: TextureInfo | None = None
    emissive_factor: Vector3 = _always([0, 0, 0])
    alpha_mode: Literal["OPAQUE", "MASK", "BLEND"] = "OPAQUE"
    alpha_cutoff: Annotated[float, Field(ge=0)] = 0.5
    double_sided: bool = False
    extensions: _MaterialExtensions = _always(_MaterialExtensions())


class Document(_Object):
    """A whole glTF file."""

    asset: Asset
    extensions_used: Rows[str] = _always([])
    extensions_required: Rows[str] = _always([])
    buffers: Rows[Buffer] = _always([])
    buffer_views: Rows[BufferView] = _always([])
    accessors: Rows[Accessor] = _always([])
    meshes: Rows[Mesh] = _always([])
    nodes: Rows[Node] = _always([])
    skins: Rows[Skin] = _always([])
    scenes: Rows[Scene] = _always([])
    scene: Index | None = None
    materials: Rows[Material] = _always([])
    textures: Rows[Texture] = _always([])
    images: Rows[Image] = _always([])
    samplers: Rows[Sampler] = _always([])
    animations: Rows[Any] = _always([])
    cameras: Rows[Any] = _always([])
