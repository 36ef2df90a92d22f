"""Truths that owe nothing to the package's renderers: a two-coloured ball seen by closed form, and its mesh."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedistill.types import Cameras, Mesh

UPPER, LOWER = (0.9, 0.2, 0.1), (0.1, 0.3, 0.8)


def ball_image(cameras: Cameras, radius: float, background: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W, 3) colours and (B, H, W) mask of a ball that is red above the equator and blue below."""
    origins, directions = cameras.rays()
    along = -(origins * directions).sum(-1)
    discriminant = along**2 - (origins**2).sum(-1) + radius**2
    mask = discriminant > 0
    height = (origins + directions * (along - discriminant.clamp_min(0).sqrt())[..., None])[..., 1]
    color = torch.where((height > 0)[..., None], torch.tensor(UPPER), torch.tensor(LOWER))
    return torch.where(mask[..., None], color, background[:, None, None, :]), mask


def ball_mesh(radius: float, rings: int = 32) -> Mesh:
    """The same ball as a mesh of ``2 rings`` meridians, with doubled vertices at the equator."""
    latitudes = torch.cat(
        [torch.linspace(0, math.pi / 2, rings // 2 + 1), torch.linspace(math.pi / 2, math.pi, rings // 2 + 1)]
    )
    longitudes = torch.arange(2 * rings) * (math.pi / rings)
    theta, phi = torch.meshgrid(latitudes, longitudes, indexing="ij")
    vertices = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], -1) * radius
    faces = []
    for i in range(len(latitudes) - 1):
        for j in range(2 * rings):
            a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
            c, d = a + 2 * rings, b + 2 * rings
            faces += [[a, c, b], [b, c, d]]
    upper = (torch.arange(len(latitudes)) <= rings // 2)[:, None, None].expand(-1, 2 * rings, 1)
    colors = torch.where(upper, torch.tensor(UPPER), torch.tensor(LOWER)).reshape(-1, 3)
    return Mesh(vertices.reshape(-1, 3), torch.tensor(faces), colors=colors)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())
