"""glTF's materials as :class:`~threedistill.exports.appearance.materials.Material`, and what of them is not kept."""

from __future__ import annotations

from threedistill.exports.appearance.materials import Alpha, Lookup, Material, texture_matrix
from threedistill.exports.gltf.container import Gltf, pick
from threedistill.exports.gltf.images import Images
from threedistill.exports.gltf.schema import Material as Described
from threedistill.exports.gltf.schema import MetallicRoughness, Texture, TextureInfo
from threedistill.types import Wrap

__all__ = ["Materials"]

_WRAPS: dict[int, Wrap] = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_ALPHA: dict[str, Alpha] = {"OPAQUE": "opaque", "MASK": "mask", "BLEND": "blend"}


class Materials:
    """Reads the materials of an open file, each once.

    Arguments:
        gltf: the file.
        images: its pictures.
        lost: gets what is not kept.
    """

    def __init__(self, gltf: Gltf, images: Images, lost: list[str]) -> None:
        self.gltf, self.images, self.lost = gltf, images, lost
        self._read: dict[int | None, Material] = {}

    def material(self, index: int | None) -> Material:
        """A material; None is glTF's default one (white, metallic, rough).

        Raises:
            ThreedistillError: references that lead nowhere, and pictures that cannot be had.
        """
        if index not in self._read:
            described = Described()
            if index is not None:
                described = pick(self.gltf, self.gltf.document.materials, index, "a primitive names material")
            self._read[index] = self._converted(described)
        return self._read[index]

    def _converted(self, described: Described) -> Material:
        old = described.extensions.specular_glossiness
        model = described.pbr_metallic_roughness if old is None else MetallicRoughness()
        unlit = described.extensions.unlit is not None
        strength = described.extensions.emissive_strength.emissive_strength
        if described.occlusion_texture is not None and not unlit:
            self.lost.append("occlusion maps")
        color = model.base_color_factor if old is None else old.diffuse_factor
        glow = [max(value, 0.0) * strength for value in described.emissive_factor]

        def lookup(info: TextureInfo | None, seen: bool = True) -> Lookup | None:
            return self._lookup(info) if info is not None and seen else None

        # What an unlit surface, or a factor of zero, hides is not asked for.
        return Material(
            color=(color[0], color[1], color[2], color[3]),
            base=lookup(model.base_color_texture if old is None else old.diffuse_texture),
            metallic=model.metallic_factor,
            roughness=model.roughness_factor,
            packed=lookup(model.metallic_roughness_texture),
            normal=lookup(described.normal_texture),
            normal_scale=1.0 if described.normal_texture is None else described.normal_texture.scale,
            glow=(glow[0], glow[1], glow[2]),
            emission=lookup(described.emissive_texture, max(glow) > 0 and not unlit),
            alpha=_ALPHA[described.alpha_mode],
            cutoff=described.alpha_cutoff,
            double_sided=described.double_sided,
            unlit=unlit,
            reflectance=None
            if old is None
            else (old.specular_factor[0], old.specular_factor[1], old.specular_factor[2]),
            glossiness=1.0 if old is None else old.glossiness_factor,
            specular=lookup(None if old is None else old.specular_glossiness_texture),
        )

    def _lookup(self, info: TextureInfo) -> Lookup | None:
        document = self.gltf.document
        texture = pick(self.gltf, document.textures, info.index, "a material names texture")
        source = _source(texture)
        if source is None:
            self.lost.append(f"texture {info.index}, whose picture only an extension holds that is not read")
            return None
        wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
        if texture.sampler is not None:
            sampler = pick(self.gltf, document.samplers, texture.sampler, "a texture names sampler")
            wrap = _WRAPS[sampler.wrap_s], _WRAPS[sampler.wrap_t]
        moved = info.extensions.transform
        picture = self.images.picture(source)
        if moved is None:
            return Lookup(picture, info.tex_coord, wrap=wrap)
        number = info.tex_coord if moved.tex_coord is None else moved.tex_coord
        return Lookup(picture, number, texture_matrix(moved.offset, moved.scale, moved.rotation), wrap)


def _source(texture: Texture) -> int | None:
    """The image of a texture: of several encodings the one that an extension names is meant first."""
    named = texture.extensions.webp or texture.extensions.avif
    return named.source if named is not None else texture.source
