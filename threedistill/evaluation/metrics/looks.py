"""Figures of pictures alone: whether neighbouring views agree, and how far assets are from a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.metrics.metric import ScorerMetric, Sight
from threedistill.exports.foreign.beside import Pictures
from threedistill.scoring import Scorer

__all__ = ["Consistency", "Frechet", "Kernel", "folder_pictures", "frechet_distance", "kernel_distance"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_KINDS = ("PNG", "JPEG", "WEBP")


def folder_pictures(folder: str | Path, size: int) -> Float[Tensor, "N H W 3"]:
    """The pictures of a folder (not of folders in it), by name: on white, made square with white, and resized.

    Raises:
        UsageError: no such folder, none in it, or one that cannot be read.
    """
    place = Path(folder).expanduser()
    files = (
        sorted(f for f in place.iterdir() if f.suffix.lower() in _SUFFIXES and f.is_file())
        if place.is_dir()
        else []
    )
    if not files:
        raise UsageError(f"{folder}: no folder with pictures ({' '.join(s[1:] for s in _SUFFIXES)}) in it")
    found = []
    for file in files:
        try:
            rgba = Pictures(file, _KINDS).once(file, file.read_bytes, "the picture").float() / 255
        except (OSError, ThreedistillError) as error:
            raise UsageError(f"{file} cannot be read as a picture: {error}") from None
        rgb = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
        height, width = rgb.shape[:2]
        side = max(height, width)
        square = torch.ones(side, side, 3)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = rgb
        small = F.interpolate(square.permute(2, 0, 1)[None], (size, size), mode="bicubic", antialias=True)
        found.append(small[0].permute(1, 2, 0).clamp(0, 1))
    return torch.stack(found)


class _Seeing(ScorerMetric):
    """Asks an encoder for its features."""

    @torch.no_grad()
    def _features(self, pictures: Tensor) -> Float[Tensor, "N D"]:
        found = self.scorer.features(pictures)
        if found is None:
            raise UsageError(
                f"{type(self.scorer).__name__} does not say what it makes of pictures; choose another scorer"
            )
        return found.double().cpu()


class Consistency(_Seeing):
    """How much neighbouring views of the ring agree: the cosine of their features.

    ``value`` is the mean over all neighbours, ``worst`` the least. A ball has 1; an object that is another one from
    behind has a low ``worst``.

    Arguments:
        scorer: whose features.
    """

    def measure(self, sight: Sight) -> dict[str, float]:
        found = F.normalize(self._features(sight.pictures(self.scorer.size)), dim=-1)
        cosine = (found * found.roll(-1, 0)).sum(-1)
        return {"value": float(cosine.mean()), "worst": float(cosine.min())}


class _Distance(_Seeing):
    """A distance between the pictures of all assets together and those of a folder."""

    higher = False

    def __init__(self, scorer: Scorer, reference: str) -> None:
        super().__init__(scorer)
        self.reference = reference

    @cached_property
    def _theirs(self) -> Float[Tensor, "N D"]:
        return self._features(folder_pictures(self.reference, self.scorer.size))

    def together(self, sights: Sequence[Sight]) -> dict[str, float]:
        theirs = self._theirs
        mine = torch.cat([self._features(sight.pictures(self.scorer.size)) for sight in sights])
        if len(theirs) < 2:
            raise UsageError(f"{self.reference}: a distance between sets needs at least two pictures")
        return {"value": self._between(mine, theirs), "pictures": len(mine), "reference": len(theirs)}

    def _between(self, mine: Tensor, theirs: Tensor) -> float:
        raise NotImplementedError


class Frechet(_Distance):
    """FID: :func:`frechet_distance` in a scorer's features. Figures of different encoders cannot be compared, nor can
    those of few pictures with those of many.

    Source: Heusel et al. 2017, arXiv:1706.08500; on CLIP's features Kynkäänniemi et al. 2023, arXiv:2203.06026.

    Arguments:
        scorer: whose features.
        reference: the folder of pictures.
    """

    def _between(self, mine: Tensor, theirs: Tensor) -> float:
        return frechet_distance(mine, theirs)


class Kernel(_Distance):
    """KID: :func:`kernel_distance` in a scorer's features.

    Source: Binkowski et al. 2018, arXiv:1801.01401.

    Arguments:
        scorer: whose features.
        reference: the folder of pictures.
    """

    def _between(self, mine: Tensor, theirs: Tensor) -> float:
        return kernel_distance(mine, theirs)


def frechet_distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> float:
    """Between the Gaussians with the means and covariances of two sets (N, M >= 2):

        ||m_x - m_y||^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))

    The trace of the root is the sum of the singular values of ``S_x^(1/2) S_y^(1/2)``; with the sets centred as rows of
    ``A`` and ``B`` (``S_x = A^T A``) these are those of ``A B^T``, so no root of a matrix is taken and few pictures in
    many dimensions cost little.
    """
    a = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    b = (y - y.mean(0)) / (len(y) - 1) ** 0.5
    root = torch.linalg.svdvals(a @ b.T).sum()
    between = (x.mean(0) - y.mean(0)).square().sum()
    return float((between + a.square().sum() + b.square().sum() - 2 * root).clamp_min(0))


def kernel_distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> float:
    """The unbiased squared maximum mean discrepancy of two sets (N, M >= 2) under ``k(a, b) = (a.b / D + 1)^3``:

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j)

    It is about 0, and may be below, where both come from one source.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return float(within(kernel(x, x)) + within(kernel(y, y)) - 2 * kernel(x, y).mean())
