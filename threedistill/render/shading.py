"""How albedo becomes colour: the one shading function of the world, the fields and the mesh renderer.

Light is a soft sky from above plus a headlight (or a given direction). Products are taken in linear light:

    irradiance = AMBIENT + SKY (1 + n_y) / 2 + HEADLIGHT max(0, n . l)
    colour     = srgb(linear(albedo) * irradiance)

A surface that faces both the sky and the light has irradiance 1, so no shade is brighter than its albedo.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.types import Shading

AMBIENT = 0.15
SKY = 0.55
HEADLIGHT = 0.30
#: sRGB grey of textureless (clay) renders.
CLAY = 0.85


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
) -> Float[Tensor, "*S 3"]:
    """The colour of surface points, differentiable in albedo and normal.

    Arguments:
        albedo_srgb: sRGB base colour in [0, 1].
        normal: unit outward normals in the world.
        to_camera: unit directions from the points to the camera.
        shading: ``none`` returns the albedo; ``lambertian`` lights it; ``textureless`` lights grey clay;
            ``normal`` paints the world normal as ``(n + 1) / 2``.
        light: unit directions towards the light, broadcastable; None is a headlight (the light is at the camera).

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
    return linear_to_srgb(srgb_to_linear(albedo_srgb) * irradiance)
