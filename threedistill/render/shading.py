"""How albedo becomes colour: the one shading function of the world, the fields and the mesh renderer.

Light is a soft sky from above plus a headlight (or a given direction). Products are taken in linear light:

    irradiance = AMBIENT + SKY (1 + n_y) / 2 + HEADLIGHT max(0, n . l)
    colour     = srgb(linear(albedo) * irradiance)

A surface that faces both the sky and the light has irradiance 1, so no shade is brighter than its albedo.

With metalness m and roughness r the same light is also reflected (:func:`reflected`), as glTF 2.0 mixes the two:

    colour = srgb(min(1, (1 - m) (1 - E_0.04) linear(albedo) irradiance + reflected))
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.types import Shading

__all__ = [
    "AMBIENT", "CLAY", "DIELECTRIC", "HEADLIGHT", "SKY", "linear_to_srgb", "reflected", "shade", "srgb_to_linear",
]  # fmt: skip

AMBIENT = 0.15
SKY = 0.55
HEADLIGHT = 0.30
#: sRGB grey of textureless (clay) renders.
CLAY = 0.85
#: Reflectance of dielectrics at normal incidence (glTF 2.0: refractive index 1.5).
DIELECTRIC = 0.04
#: Smallest alpha = roughness^2: below, a highlight is smaller than any pixel.
_LEAST_ALPHA = 1e-3


def srgb_to_linear(x: Tensor) -> Tensor:
    """sRGB-encoded values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """Linear light in [0, 1] to sRGB-encoded values (IEC 61966-2-1)."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def shade(
    albedo_srgb: Float[Tensor, "*S 3"],
    normal: Float[Tensor, "*S 3"],
    to_camera: Float[Tensor, "*S 3"],
    shading: Shading,
    light: Float[Tensor, "*S 3"] | None = None,
    material: Float[Tensor, "*S 2"] | None = None,
) -> Float[Tensor, "*S 3"]:
    """The colour of surface points, differentiable in albedo, normal and material.

    Arguments:
        albedo_srgb: sRGB base colour in [0, 1].
        normal: unit outward normals in the world.
        to_camera: unit directions from the points to the camera.
        shading: ``none`` returns the albedo; ``lambertian`` lights it; ``textureless`` lights grey clay;
            ``normal`` paints the world normal as ``(n + 1) / 2``.
        light: unit directions towards the light, broadcastable; None is a headlight (the light is at the camera).
        material: metalness and roughness in [0, 1], which ``lambertian`` also shows; None is without gloss.

    Returns:
        sRGB in [0, 1].
    """
    if shading == "none":
        return albedo_srgb
    if shading == "normal":
        return (normal + 1) / 2
    towards = to_camera if light is None else light
    facing = (normal * towards).sum(-1, keepdim=True).clamp(min=0)
    irradiance = AMBIENT + SKY * (1 + normal[..., 1:2]) / 2 + HEADLIGHT * facing
    if shading == "textureless":
        return linear_to_srgb(srgb_to_linear(torch.full_like(irradiance, CLAY)) * irradiance).expand_as(
            normal
        )
    albedo = srgb_to_linear(albedo_srgb)
    if material is None:
        return linear_to_srgb(albedo * irradiance)
    metallic, roughness = material[..., :1], material[..., 1:]
    f0 = DIELECTRIC + (albedo - DIELECTRIC) * metallic
    gloss, share = reflected(f0, roughness, normal, to_camera, towards)
    return linear_to_srgb(((1 - metallic) * (1 - share) * albedo * irradiance + gloss).clamp(max=1))


def reflected(
    f0: Float[Tensor, "*#S _"],
    roughness: Float[Tensor, "*#S 1"],
    normal: Float[Tensor, "*#S 3"],
    to_camera: Float[Tensor, "*#S 3"],
    towards: Float[Tensor, "*#S 3"],
) -> tuple[Float[Tensor, "*S _"], Float[Tensor, "*S 1"]]:
    """What a rough (GGX) surface reflects of the light, in linear light, and the share E that a dielectric reflects.

        reflected = pi HEADLIGHT D V F (n . l) + (AMBIENT + SKY S) (f0 A + B),   E = DIELECTRIC A + B
        D = alpha^2 / (pi ((n . h)^2 (alpha^2 - 1) + 1)^2),  alpha = roughness^2,  F = f0 + (1 - f0) (1 - v . h)^5
        V = 1 / (2 (n . l) g(n . v) + 2 (n . v) g(n . l)),  g(x) = sqrt(x^2 (1 - alpha^2) + alpha^2)
        S = (1 + d_y / sqrt(d_y^2 + alpha^2 (1 - d_y^2))) / 2,  d ~ n + k (2 (n . v) n - v - n)
        k = (1 - alpha) (sqrt(1 - alpha) + alpha)

    A and B are the integral of the lobe over directions, fitted by Karis; d is where a rough lobe leans to; S is the
    share of sky around d: the horizon's edge for a mirror, what the normal sees for alpha = 1.

    Arguments:
        f0: reflectance at normal incidence.
        roughness: in [0, 1].
        normal, to_camera, towards: unit vectors; the last leads to the light.

    Sources: Walter et al. 2007, "Microfacet models for refraction through rough surfaces" (D); Heitz 2014,
    "Understanding the masking-shadowing function", eq. 99 (V); Karis 2014, "Physically based shading on mobile" (A,
    B); Lagarde and de Rousiers 2014, "Moving Frostbite to PBR", section 4.9.3 (d); glTF 2.0 specification, appendix B
    (F and the mixture). S is ours.
    """
    alpha = (roughness**2).clamp(min=_LEAST_ALPHA)
    squared = alpha**2
    n_v = (normal * to_camera).sum(-1, keepdim=True).clamp(min=1e-3)
    n_l = (normal * towards).sum(-1, keepdim=True).clamp(min=0)
    half = F.normalize(towards + to_camera, dim=-1)
    n_h = (normal * half).sum(-1, keepdim=True).clamp(0, 1)
    v_h = (to_camera * half).sum(-1, keepdim=True).clamp(0, 1)
    lobe = squared / (math.pi * (n_h**2 * (squared - 1) + 1) ** 2)
    visible = 0.5 / (
        n_l * (n_v**2 * (1 - squared) + squared).sqrt() + n_v * (n_l**2 * (1 - squared) + squared).sqrt()
    )
    fresnel = f0 + (1 - f0) * (1 - v_h) ** 5
    direct = math.pi * HEADLIGHT * lobe * visible * fresnel * n_l

    lean = (1 - alpha) * ((1 - alpha).clamp(min=1e-6).sqrt() + alpha)
    mirrored = 2 * n_v * normal - to_camera
    upward = F.normalize(normal + lean * (mirrored - normal), dim=-1)[..., 1:2]
    sky = (1 + upward / (upward**2 * (1 - squared) + squared).sqrt()) / 2
    fitted = torch.minimum((1 - roughness) ** 2, torch.exp2(-9.28 * n_v)) * (1 - roughness)
    fitted = fitted + 0.0425 - 0.0275 * roughness
    scale = 1.04 - 0.572 * roughness - 1.04 * fitted
    offset = 0.022 * roughness - 0.04 + 1.04 * fitted
    return direct + (AMBIENT + SKY * sky) * (f0 * scale + offset), DIELECTRIC * scale + offset
