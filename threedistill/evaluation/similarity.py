"""How alike pictures are: SSIM and PSNR, and an asset's turntable against true variations of what was asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import orbit
from threedistill.evaluation.alignment import centred
from threedistill.evaluation.janus import ELEVATION
from threedistill.types import Mesh

__all__ = [
    "SIZE", "VARIATIONS", "VIEWS", "WINDOW", "Similarity", "nearest", "psnr", "similarity", "ssim", "turntable",
]  # fmt: skip

#: Side of the square window over which SSIM takes means and covariances, pixels.
WINDOW = 7
#: Views of the turntable, pixels per side, and how many true objects the nearest is chosen from.
VIEWS, SIZE, VARIATIONS = 8, 128, 6
#: Below this mean squared error pictures are the same (90 dB).
_LEAST = 1e-9


def ssim(a: Float[Tensor, "B H W 3"], b: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B"]:
    """Structural similarity of pictures in [0, 1], averaged over pixels and channels.

    With means, variances and covariance over 7 x 7 windows (unbiased, windows that leave the picture left out),
    c1 = 0.01^2 and c2 = 0.03^2:

        SSIM = (2 m_a m_b + c1) (2 cov + c2) / ((m_a^2 + m_b^2 + c1) (v_a + v_b + c2))

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity"; the window
    and normalisation are scikit-image's defaults.
    """
    x, y = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    count = WINDOW * WINDOW

    def mean(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, WINDOW, stride=1)

    m_x, m_y = mean(x), mean(y)
    unbiased = count / (count - 1)
    v_x, v_y = unbiased * (mean(x * x) - m_x * m_x), unbiased * (mean(y * y) - m_y * m_y)
    both = unbiased * (mean(x * y) - m_x * m_y)
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * m_x * m_y + c1) * (2 * both + c2) / ((m_x**2 + m_y**2 + c1) * (v_x + v_y + c2))
    return score.mean((1, 2, 3))


def psnr(a: Float[Tensor, "B H W 3"], b: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B"]:
    """Peak signal-to-noise ratio of pictures in [0, 1], decibels: ``-10 log10 mean (a - b)^2``, at most 90."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(_LEAST))).float()


@dataclass(frozen=True)
class Similarity:
    """An asset's turntable beside the nearest of several true objects.

    Attributes:
        ssim: mean over the views of the structural similarity to the nearest object, in [-1, 1].
        psnr: the same of the peak signal-to-noise ratio, decibels.
        worst_ssim: of the view that is least like the truth.
        turn: degrees about +Y, a multiple of 360 / views, at which the asset was compared; 0 = as it stands.
        scale, lift: what was fitted on top of equal bounding radii: a factor on the asset, and metres upwards.
    """

    ssim: float
    psnr: float
    worst_ssim: float
    turn: float
    scale: float = 1.0
    lift: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return asdict(self)


def turntable(mesh: Mesh, *, lit: bool, views: int = VIEWS, size: int = SIZE) -> Float[Tensor, "V H W 3"]:
    """The object on white from all round, centred and sized; ``lit`` as the world shows it, else its own colours."""
    return _ring(centred(mesh), lit, views, size)


def _ring(mesh: Mesh, lit: bool, views: int, size: int) -> Float[Tensor, "V H W 3"]:
    from threedistill.render.mesh import render_mesh

    cameras = orbit(views, elevation=ELEVATION, size=size)
    return render_mesh(mesh, cameras, shading="lambertian" if lit else "none").rgb


def similarity(asset: Mesh, truths: Float[Tensor, "K V H W 3"]) -> Similarity:
    """Compare an asset (drawn unlit: it carries its light in its colours) with true objects (lit).

    The asset may face any way: of the turns by whole steps of the turntable the one with the least squared error
    counts. An antenna too short makes everything else too large when bounding radii are made equal, so size and height
    are fitted too (:func:`_fitted`). Per view the nearest true object counts, as in :func:`nearest`.

    Arguments:
        asset: the mesh read back from its file.
        truths: :func:`turntable` of ``K`` true objects.
    """
    count, size = truths.shape[1], truths.shape[2]
    asset = centred(asset)
    best, scale, lift = _fitted(asset, _small(truths.flatten(0, 1)).unflatten(0, truths.shape[:2]))
    # Turned by k steps, the picture at azimuth a is the one that was k steps before it.
    alike, noise = nearest(_ring(_moved(asset, scale, lift), False, count, size).roll(best, 0), truths)
    turn = (360 * best / count + 180) % 360 - 180
    return Similarity(float(alike.mean()), float(noise.mean()), float(alike.min()), turn, scale, lift)


def _small(x: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B h w 3"]:
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _moved(mesh: Mesh, scale: float, lift: float) -> Mesh:
    return replace(mesh, vertices=mesh.vertices * scale + mesh.vertices.new_tensor([0.0, lift, 0.0]))


def _fitted(asset: Mesh, truths: Float[Tensor, "K V h w 3"]) -> tuple[int, float, float]:
    """Steps of turning, scale and lift with the least squared error to the nearest true object per view.

    The turn is found first, then scale and lift by steps of 4 % and 0.03 m that are halved twice.
    """
    count, size = truths.shape[1], truths.shape[2]
    flat = truths.flatten(2)

    def apart(scale: float, lift: float) -> Float[Tensor, "V V"]:
        mine = _ring(_moved(asset, scale, lift), False, count, size).flatten(1)
        squares = torch.cdist(mine, flat.flatten(0, 1)).square()
        return squares.view(count, len(flat), count).amin(1)  # (mine, true)

    start = apart(1.0, 0.0)
    best = min(range(count), key=lambda k: float(start.roll(k, 0).diagonal().sum()))

    def error(place: tuple[float, float]) -> float:
        return float(apart(*place).roll(best, 0).diagonal().sum())

    place, least, step = (1.0, 0.0), float(start.roll(best, 0).diagonal().sum()), 1.0
    while step > 0.2:
        moves = [(place[0] * (1 + 0.04 * step * s), place[1]) for s in (1, -1)]
        moves += [(place[0], place[1] + 0.03 * step * s) for s in (1, -1)]
        found = min(((error(move), move) for move in moves), default=(least, place))
        if found[0] < least:
            least, place = found
        else:
            step /= 2
    return best, *place


def nearest(
    pictures: Float[Tensor, "V H W 3"], truths: Float[Tensor, "K V H W 3"]
) -> tuple[Float[Tensor, "V"], Float[Tensor, "V"]]:
    """SSIM and PSNR of each picture to whichever of ``K`` true ones of its view is nearest, by either figure."""
    again = pictures.expand(len(truths), *pictures.shape).flatten(0, 1)
    flat = truths.flatten(0, 1)
    shape = truths.shape[:2]
    return ssim(again, flat).view(shape).amax(0), psnr(again, flat).view(shape).amax(0)
