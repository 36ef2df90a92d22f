"""Clouds of splats before they become files: checks, similarity transforms, and which way is up in a file.

Rotating a cloud turns its positions, its orientations and its harmonics; leaving out the last is the usual mistake.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.frames import Frame
from threedistill.exports.splats.harmonics import change_degree, rotate_harmonics
from threedistill.render.harmonics import MAX_DEGREE
from threedistill.types import Splats

__all__ = ["check_splats", "from_file_frame", "into_file_frame", "moved", "rotated", "with_degree"]

_BLOCK = 1 << 16


def check_splats(splats: Splats, what: str) -> None:
    """Raise ThreedistillError unless there are splats, of sound shapes, degree and numbers."""
    count = len(splats)
    if count == 0:
        raise ThreedistillError(f"{what}: there are no splats, so there is nothing to write or show")
    shapes = {
        "means": (count, 3), "log_scales": (count, 3), "quaternions": (count, 4), "opacity_logits": (count,),
        "sh": (count, splats.sh.shape[1] if splats.sh.ndim == 3 else 1, 3),
    }  # fmt: skip
    for name, shape in shapes.items():
        values: Tensor = getattr(splats, name)
        if tuple(values.shape) != shape:
            raise ThreedistillError(f"{what}: {name} has the shape {tuple(values.shape)} instead of {shape}")
        bad = int((~torch.isfinite(values)).reshape(count, -1).any(1).sum())
        if bad:
            raise ThreedistillError(
                f"{what}: {bad} of {count} splats have {name} that are not finite numbers"
            )
    if splats.sh.shape[1] not in [(d + 1) ** 2 for d in range(MAX_DEGREE + 1)]:
        raise ThreedistillError(
            f"{what}: {splats.sh.shape[1]} harmonics per colour are no whole degree from 0 to 3 (1, 4, 9 or 16)"
        )
    flat = int((splats.quaternions.norm(dim=1) < 1e-12).sum())
    if flat:
        raise ThreedistillError(f"{what}: {flat} of {count} splats have a rotation of length zero")


def rotated(splats: Splats, rotation: Float[Tensor, "3 3"]) -> Splats:
    """The cloud turned about the origin by a proper rotation, harmonics included."""
    return _turned(splats, rotation, _quaternion(rotation))


def _turned(splats: Splats, rotation: Tensor, quaternion: Tensor) -> Splats:
    turn = rotation.to(splats.means)
    return replace(
        splats,
        means=splats.means @ turn.T,
        quaternions=_multiplied(quaternion.to(splats.quaternions), splats.quaternions),
        sh=rotate_harmonics(splats.sh, rotation),
    )


def moved(splats: Splats, centre: Float[Tensor, "3"], scale: float) -> Splats:
    """The cloud with ``centre`` at the origin, enlarged ``scale`` times."""
    return replace(
        splats, means=(splats.means - centre.to(splats.means)) * scale,
        log_scales=splats.log_scales + torch.log(torch.tensor(scale, dtype=torch.float64)).item(),
    )  # fmt: skip


def with_degree(splats: Splats, degree: int | None) -> Splats:
    """The cloud with harmonics up to ``degree``; None keeps them."""
    return splats if degree is None else replace(splats, sh=change_degree(splats.sh, degree))


def into_file_frame(splats: Splats, frame: Frame) -> Splats:
    """From our frame (+Y up, front +Z) to a file's."""
    return splats if frame == Frame() else rotated(splats, frame.to_ours().T)


def from_file_frame(splats: Splats, frame: Frame) -> Splats:
    """The inverse of :func:`into_file_frame`, in place and block by block: a large cloud never exists twice."""
    if frame == Frame():
        return splats
    rotation = frame.to_ours()
    # The conjugate, not the quaternion of the inverse: half a turn and back is then q again and not -q.
    conjugate = _quaternion(rotation.T) * torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    names = ("means", "log_scales", "quaternions", "opacity_logits", "sh")
    for start in range(0, len(splats), _BLOCK):
        rows = slice(start, start + _BLOCK)
        part = _turned(Splats(*(getattr(splats, name)[rows] for name in names)), rotation, conjugate)
        for name in ("means", "quaternions", "sh"):
            getattr(splats, name)[rows] = getattr(part, name)
    return splats


def _quaternion(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    """(w, x, y, z) of a rotation matrix: the eigenvector of Bar-Itzhack's symmetric matrix for the eigenvalue 1."""
    r = rotation.double()
    k = torch.stack(
        [
            torch.stack(
                [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]
            ),
            torch.stack(
                [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]]
            ),
            torch.stack(
                [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]]
            ),
            torch.stack(
                [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]]
            ),
        ]
    )
    q = torch.linalg.eigh(k / 3).eigenvectors[:, -1]
    q = torch.where(q.abs() < 1e-14, 0.0, q)
    return q * torch.sign(q[q.abs().argmax()])


def _multiplied(a: Float[Tensor, "4"], b: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
    """Hamilton's product a b: first the rotation b, then a."""
    w, x, y, z = a
    left = torch.stack(
        [
            torch.stack([w, -x, -y, -z]),
            torch.stack([x, w, -z, y]),
            torch.stack([y, z, w, -x]),
            torch.stack([z, -y, x, w]),
        ]
    )
    return b @ left.T
