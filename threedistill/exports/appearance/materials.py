"""A surface's look as files describe it: pictures looked up through coordinates, factors, and what they make together.

Products are taken in linear light: colour = picture x factor x vertex colour (glTF 2.0, 3.9.2). Source of the
conversion from specular-glossiness: Khronos, "KHR_materials_pbrSpecularGlossiness", appendix and its reference
implementation (``convert-between-workflows``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.render.mesh import sample_texture
from threedistill.render.shading import DIELECTRIC, srgb_to_linear
from threedistill.types import Wrap

__all__ = [
    "SLOTS",
    "Alpha",
    "Lookup",
    "Material",
    "Texels",
    "settled",
    "texels",
    "texture_matrix",
    "values_at",
]

Alpha = Literal["opaque", "mask", "blend"]
#: The places where a material can have a picture.
SLOTS = ("base", "packed", "normal", "emission", "specular")
_IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True, eq=False)
class Lookup:
    """A picture and how a mesh's coordinates reach it.

    Attributes:
        picture: (h, w, 4) bytes, row 0 at the top.
        uv_set: which of the mesh's sets of coordinates.
        transform: the affine map from those (origin at the bottom left) to the picture's, two rows of three.
        wrap: what lies beyond the unit square.
    """

    picture: Tensor
    uv_set: int = 0
    transform: tuple[tuple[float, float, float], tuple[float, float, float]] = _IDENTITY
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")

    def place(self, uv: Float[Tensor, "P 2"]) -> Float[Tensor, "P 2"]:
        """Coordinates of the mesh to coordinates of the picture."""
        if self.transform == _IDENTITY:
            return uv
        matrix = torch.tensor(self.transform, dtype=torch.float64)
        return (uv.double() @ matrix[:, :2].T + matrix[:, 2]).to(uv.dtype)

    def at(self, uv: Float[Tensor, "P 2"]) -> Float[Tensor, "P 4"]:
        """Bilinear values in [0, 1] at coordinates of the mesh."""
        return sample_texture(self.picture, self.place(uv), self.wrap) / 255


@dataclass(frozen=True)
class Material:
    """The metallic-roughness model, with specular-glossiness beside it for old files.

    Attributes:
        color: linear base colour and coverage, a factor of ``base`` (sRGB).
        metallic, roughness: factors of ``packed`` (roughness in green, metalness in blue).
        normal: a tangent-space normal map, its x and y to be multiplied with ``normal_scale``.
        glow: linear light that is given off, a factor of ``emission`` (sRGB).
        alpha: what coverage means; below ``cutoff`` a mask is a hole.
        reflectance, glossiness: of the specular-glossiness model, factors of ``specular`` (sRGB, glossiness in alpha);
            ``color`` and ``base`` are the diffuse colour then.
        unlit: the base colour contains its light, nothing else is seen.
    """

    color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    base: Lookup | None = None
    metallic: float = 1.0
    roughness: float = 1.0
    packed: Lookup | None = None
    normal: Lookup | None = None
    normal_scale: float = 1.0
    glow: tuple[float, float, float] = (0.0, 0.0, 0.0)
    emission: Lookup | None = None
    alpha: Alpha = "opaque"
    cutoff: float = 0.5
    double_sided: bool = False
    unlit: bool = False
    reflectance: tuple[float, float, float] | None = None
    glossiness: float = 1.0
    specular: Lookup | None = None

    @property
    def lookups(self) -> dict[str, Lookup]:
        """The pictures by slot."""
        found = {slot: getattr(self, slot) for slot in SLOTS}
        return {slot: lookup for slot, lookup in found.items() if lookup is not None}


def settled(material: Material) -> Material:
    """The material without what cannot be seen of it.

    Light given off by a black surface is the whole of its colour: that is how USD's readers and Blender write what is
    unlit. Of an unlit material only the colour counts.
    """
    glows = max(material.glow) > 0
    if glows and not material.unlit and max(material.color[:3]) <= 0 and material.reflectance is None:
        color = (*material.glow, material.color[3])
        hole = material.alpha != "opaque" and material.base is not None  # its coverage is in another picture
        if max(material.glow) <= 1 and not hole:
            material = replace(material, color=color, base=material.emission, unlit=True)
    if material.unlit:
        return replace(material, glow=(0.0, 0.0, 0.0), emission=None)
    if not glows:
        return replace(material, emission=None)
    return material


@dataclass
class Texels:
    """A material at points, linear.

    Attributes:
        color: (P, 3) base colour.
        coverage: (P, 1), before the material's ``alpha`` is asked what it means.
        metal: (P, 2) metalness and roughness.
        normal: (P, 3) in the tangent frame, not of unit length.
        glow: (P, 3) light given off.
    """

    color: Tensor
    coverage: Tensor
    metal: Tensor
    normal: Tensor
    glow: Tensor


def values_at(material: Material, coordinates: Callable[[int], Tensor]) -> dict[str, Tensor]:
    """What every picture of a material holds at points, (P, 4) in [0, 1] by slot.

    Arguments:
        material: the look.
        coordinates: a set's number to (P, 2) coordinates of the points.
    """
    return {slot: lookup.at(coordinates(lookup.uv_set)) for slot, lookup in material.lookups.items()}


def texels(material: Material, values: dict[str, Tensor], colors: Tensor | None, count: int) -> Texels:
    """The material where its pictures hold ``values``.

    Arguments:
        material: the look.
        values: (P, 4) in [0, 1], by slot, of any of its pictures; the others count as white (a normal: straight up).
        colors: (P, 4) linear factors at the points, or None.
        count: P.
    """
    white = torch.ones(count, 4)
    base = values.get("base", white)
    color = srgb_to_linear(base[:, :3]) * torch.tensor(material.color[:3])
    coverage = base[:, 3:] * material.color[3]
    if colors is not None:
        color, coverage = color * colors[:, :3], coverage * colors[:, 3:]
    if material.reflectance is not None:
        shine = values.get("specular", white)
        specular = srgb_to_linear(shine[:, :3]) * torch.tensor(material.reflectance)
        color, metallic = _metallic(color, specular)
        metal = torch.cat([metallic, 1 - shine[:, 3:] * material.glossiness], 1)
    else:
        packed = values.get("packed", white)
        metal = packed[:, [2, 1]] * torch.tensor([material.metallic, material.roughness])
    normal = torch.tensor([0.0, 0.0, 1.0]).expand(count, 3)
    if "normal" in values:
        scale = torch.tensor([material.normal_scale, material.normal_scale, 1.0])
        normal = (values["normal"][:, :3] * 2 - 1) * scale
    glow = srgb_to_linear(values.get("emission", white)[:, :3]) * torch.tensor(material.glow)
    return Texels(color.clamp(0, 1), coverage.clamp(0, 1), metal.clamp(0, 1), normal, glow)


def _metallic(diffuse: Tensor, specular: Tensor) -> tuple[Tensor, Tensor]:
    """Base colour and metalness that reflect like a diffuse and a specular colour (all linear).

    Metalness solves ``D m^2 + (d (1 - s) / (1 - D) + sp - 2 D) m + D - sp = 0`` with D the reflectance of dielectrics,
    d and sp the perceived brightness of the two colours, and s the largest component of the specular one.
    """

    def brightness(color: Tensor) -> Tensor:
        return (color.square() * torch.tensor([0.299, 0.587, 0.114])).sum(1, keepdim=True).sqrt()

    one_minus = 1 - specular.amax(1, keepdim=True)
    d, sp = brightness(diffuse), brightness(specular)
    b = d * one_minus / (1 - DIELECTRIC) + sp - 2 * DIELECTRIC
    root = (b.square() - 4 * DIELECTRIC * (DIELECTRIC - sp)).clamp(min=0).sqrt()
    metallic = torch.where(sp < DIELECTRIC, 0.0, ((root - b) / (2 * DIELECTRIC)).clamp(0, 1))
    from_diffuse = diffuse * one_minus / (1 - DIELECTRIC) / (1 - metallic).clamp(min=1e-6)
    from_specular = (specular - DIELECTRIC * (1 - metallic)) / metallic.clamp(min=1e-6)
    return torch.lerp(from_diffuse, from_specular, metallic.square()).clamp(0, 1), metallic


def texture_matrix(
    offset: tuple[float, float] | list[float], scale: tuple[float, float] | list[float], rotation: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """glTF's ``T(offset) R(rotation) S(scale)`` of coordinates that begin at the top left, for ours.

    Source: ``KHR_texture_transform`` (coordinates are turned counter-clockwise, which turns the picture clockwise).
    """
    cos, sin = math.cos(rotation), math.sin(rotation)
    stored = torch.tensor(
        [
            [cos * scale[0], sin * scale[1], offset[0]],
            [-sin * scale[0], cos * scale[1], offset[1]],
            [0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )
    flip = torch.tensor([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]], dtype=torch.float64)
    rows = (flip @ stored @ flip)[:2].tolist()
    return (rows[0][0], rows[0][1], rows[0][2]), (rows[1][0], rows[1][1], rows[1][2])
