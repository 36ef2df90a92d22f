"""Clouds placed by a matrix, as the nodes of a scene place them: turns, sizes, mirrors and shears."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from threedistill.exports.splats.cloud import rotated
from threedistill.exports.splats.harmonics import rotate_harmonics
from threedistill.types import Splats

__all__ = ["joined", "placed"]

_BLOCK = 1 << 16


def placed(splats: Splats, matrix: np.ndarray) -> Splats:
    """The cloud under ``x -> A x + t``, with every covariance ``A S A^T``.

    The colours turn with the orthogonal factor of A's polar decomposition, mirrors included. Turns with one scale keep
    scales and rotations exactly; under anything else they are found again from the covariances.

    Arguments:
        splats: any.
        matrix: (4, 4), columns as in ``matrix @ (x, y, z, 1)``; invertible.

    Raises:
        ValueError: it is not finite, or flattens the cloud.
    """
    linear, shift = np.asarray(matrix, float)[:3, :3], np.asarray(matrix, float)[:3, 3]
    size = abs(np.linalg.det(linear)) ** (1 / 3) if np.isfinite(matrix).all() else 0.0
    if not 1e-12 < size < 1e12:
        raise ValueError("its splats are placed by a matrix that cannot be inverted")
    turn = linear / size
    if np.allclose(turn @ turn.T, np.eye(3), atol=1e-5) and np.linalg.det(turn) > 0:
        if not np.allclose(turn, np.eye(3), atol=1e-9):
            splats = rotated(splats, torch.from_numpy(turn))
        means, scales = splats.means, splats.log_scales
        if size != 1:
            means, scales = means * size, scales + math.log(size)
        return replace(splats, means=means + torch.from_numpy(shift).to(means), log_scales=scales)
    left, _, right = np.linalg.svd(linear)
    scales, quaternions = torch.empty_like(splats.log_scales), torch.empty_like(splats.quaternions)
    for start in range(0, len(splats), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scales[rows], quaternions[rows] = _again(splats.log_scales[rows], splats.quaternions[rows], linear)
    return replace(
        splats,
        means=(splats.means.double() @ torch.from_numpy(linear).T + torch.from_numpy(shift)).to(splats.means),
        log_scales=scales, quaternions=quaternions,
        sh=rotate_harmonics(splats.sh, torch.from_numpy(left @ right)),
    )  # fmt: skip


def _again(
    log_scales: torch.Tensor, quaternions: torch.Tensor, linear: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log scales and quaternions of ``A R S``: its left singular vectors and its singular values."""
    from scipy.spatial.transform import Rotation

    axes = Rotation.from_quat(quaternions.double().numpy()[:, [1, 2, 3, 0]]).as_matrix()
    left, values, _ = np.linalg.svd(linear @ axes * np.exp(log_scales.double().numpy())[:, None, :])
    left[:, :, 2] *= np.linalg.det(left)[:, None]  # an ellipsoid looks the same under a mirror of its axes
    found = Rotation.from_matrix(left).as_quat()[:, [3, 0, 1, 2]]
    return torch.from_numpy(np.log(np.maximum(values, 1e-30))).to(log_scales), torch.from_numpy(found).to(
        quaternions
    )


def joined(clouds: list[Splats]) -> Splats:
    """Several clouds as one, harmonics padded to the highest degree among them; extras are the first's."""
    if len(clouds) == 1:
        return clouds[0]
    width = max(cloud.sh.shape[1] for cloud in clouds)
    padded = [torch.nn.functional.pad(c.sh, (0, 0, 0, width - c.sh.shape[1])) for c in clouds]

    def all_of(name: str) -> torch.Tensor:
        return torch.cat([getattr(cloud, name) for cloud in clouds])

    return Splats(
        all_of("means"), all_of("log_scales"), all_of("quaternions"), all_of("opacity_logits"), torch.cat(padded),
        clouds[0].extras,
    )  # fmt: skip
