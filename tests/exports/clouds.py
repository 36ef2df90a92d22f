"""Clouds of splats to write and compare."""

from __future__ import annotations

import torch

from threedistill.types import Splats

FIELDS = ("means", "log_scales", "quaternions", "opacity_logits", "sh")


def cloud(count: int = 200, degree: int = 3, seed: int = 0) -> Splats:
    """Random splats within the unit ball, elongated, coloured, more strongly by view the lower the degree."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    sh = normal(count, (degree + 1) ** 2, 3) * 0.15
    sh[:, 0] = normal(count, 3)
    means = torch.nn.functional.normalize(normal(count, 3), dim=1) * torch.rand(count, 1, generator=generator)
    return Splats(
        means, normal(count, 3) * 0.5 - 3, normal(count, 4), normal(count) * 2, sh, {"prompt": "ein Öhr"}
    )


def axes(splats: Splats) -> torch.Tensor:
    """(N, 3, 3): the local axes in the world, as columns."""
    w, x, y, z = torch.nn.functional.normalize(splats.quaternions.double(), dim=1).unbind(1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ], 1,
    ).view(-1, 3, 3)  # fmt: skip


def covariances(splats: Splats) -> torch.Tensor:
    """(N, 3, 3): what orientation and scales mean together, free of signs and orders."""
    scaled = axes(splats) * splats.log_scales.double().exp()[:, None]
    return scaled @ scaled.transpose(1, 2)


def matched(found: Splats, expected: Splats) -> Splats:
    """The found splats in the order of the expected ones (formats sort them), by position."""
    distance, index = torch.cdist(expected.means.double(), found.means.double()).min(1)
    assert len(set(index.tolist())) == len(expected) == len(found), "splats were lost or merged"
    assert distance.max() < 1e-3
    return Splats(*(getattr(found, name)[index] for name in FIELDS), extras=found.extras)
