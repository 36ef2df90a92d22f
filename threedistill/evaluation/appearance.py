"""How colourful, how sharp and how varied assets are, against pictures of the world that taught them.

The teacher has seen the world under a headlight and the asset carries its light in its colours, so the asset is drawn
unlit and the ground truth lit. None of the figures needs the two to face the same way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import orbit
from threedistill.evaluation.alignment import centred
from threedistill.evaluation.janus import ELEVATION
from threedistill.types import Mesh, Rendering

__all__ = [
    "HIGH", "SIZE", "VIEWS", "Appearance", "appearance", "detail", "distance", "diversity", "high_frequency",
    "pictures", "saturation", "spread", "world_spread",
]  # fmt: skip

#: Views all round, and pixels per side: the teacher's own size.
VIEWS, SIZE = 12, 64
#: Cycles per pixel from which a picture's energy counts as high-frequency: half of the Nyquist limit.
HIGH = 0.25
#: Weights of Rec. 709 luma.
_LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class Appearance:
    """An asset's colours and detail beside those of its ground truth.

    Attributes:
        saturation: mean over the object's pixels of ``max(r, g, b) - min(r, g, b)``, sRGB, in [0, 1].
        saturation_error: that minus the ground truth's; positive = too colourful.
        detail: mean squared luma Laplacian inside the object (its outline left out), over the ground truth's; 1 = as
            much fine structure as the truth, less = smoother, more = finer or grainier.
        high_frequency: energy of the pictures above a quarter cycle per pixel over the ground truth's; outline
            included.
    """

    saturation: float
    saturation_error: float
    detail: float
    high_frequency: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return asdict(self)


def pictures(mesh: Mesh, *, lit: bool, views: int = VIEWS, size: int = SIZE) -> Rendering:
    """The object on white from ``views`` azimuths at the evaluation elevation, centred and sized first."""
    from threedistill.render.mesh import render_mesh

    cameras = orbit(views, elevation=ELEVATION, size=size)
    return render_mesh(centred(mesh), cameras, shading="lambertian" if lit else "none")


def appearance(asset: Mesh, truth: Mesh) -> Appearance:
    """Measure ``asset`` (drawn unlit) against ``truth`` (drawn lit)."""
    mine, theirs = pictures(asset, lit=False), pictures(truth, lit=True)
    return Appearance(
        saturation=saturation(mine.rgb, mine.opacity),
        saturation_error=saturation(mine.rgb, mine.opacity) - saturation(theirs.rgb, theirs.opacity),
        detail=_ratio(detail(mine.rgb, mine.opacity), detail(theirs.rgb, theirs.opacity)),
        high_frequency=_ratio(high_frequency(mine.rgb), high_frequency(theirs.rgb)),
    )


def _ratio(value: float, reference: float) -> float:
    return value / max(reference, 1e-12)


def saturation(rgb: Float[Tensor, "V H W 3"], opacity: Float[Tensor, "V H W 1"]) -> float:
    """Mean of ``max - min`` over the channels of the pixels that the object fills."""
    solid = opacity[..., 0] > 0.999
    if not solid.any():
        return 0.0
    pixels = rgb[solid]
    return float((pixels.amax(-1) - pixels.amin(-1)).mean())


def detail(rgb: Float[Tensor, "V H W 3"], opacity: Float[Tensor, "V H W 1"]) -> float:
    """Mean squared five-point Laplacian of luma over pixels whose 5 x 5 neighbourhood the object fills."""
    inside = -F.max_pool2d(-(opacity[..., 0][:, None] > 0.999).float(), 5, stride=1, padding=2)
    inside[..., :2, :] = inside[..., -2:, :] = 0  # the picture's border has no neighbourhood
    inside[..., :2] = inside[..., -2:] = 0
    if not inside.any():
        return 0.0
    kernel = rgb.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    curved = F.conv2d(_luma(rgb)[:, None], kernel, padding=1)
    return float(curved[inside > 0].square().mean())


def high_frequency(rgb: Float[Tensor, "V H W 3"]) -> float:
    """Energy per pixel of luma at radial frequencies above :data:`HIGH` cycles per pixel (Parseval-normalised)."""
    luma = _luma(rgb)
    height, width = luma.shape[-2:]
    spectrum = torch.fft.fft2(luma - luma.mean((-2, -1), keepdim=True)).abs().square()
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    return float(spectrum[:, radius > HIGH].sum() / (len(luma) * (height * width) ** 2))


def _luma(rgb: Tensor) -> Tensor:
    return rgb @ rgb.new_tensor(_LUMA)


def distance(a: Float[Tensor, "V H W 3"], b: Float[Tensor, "V H W 3"]) -> float:
    """Root mean squared difference of two rings of pictures at the turn about the vertical that brings them nearest.

    ``min_k sqrt(mean_v ||a_v - b_{v+k}||^2)``: objects that differ only in where they face are at distance 0.
    """
    first, second = a.flatten(1), b.flatten(1)
    gram = first @ second.T
    squares = first.square().sum() + second.square().sum()
    count = len(a)
    cross = torch.stack([gram.roll(-k, 1).diagonal().sum() for k in range(count)])
    return float(((squares - 2 * cross.max()).clamp_min(0) / first.numel()).sqrt())


def spread(rings: Sequence[Float[Tensor, "V H W 3"]]) -> float:
    """Mean :func:`distance` over all pairs; 0 for fewer than two."""
    pairs = [distance(a, b) for a, b in combinations(rings, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def world_spread(
    prompt: str, truth: Callable[[str, random.Random], Mesh | None], samples: int = 6, seed: int = 0
) -> float | None:
    """:func:`spread` of ``samples`` true objects of a prompt: proportions, shades, sizes.

    Arguments:
        prompt: what they are.
        truth: draws one (:meth:`~threedistill.protocols.Critic.truth`); None = there is no truth.
        samples, seed: how many, and which.
    """
    drawn = [truth(prompt, random.Random(f"spread/{seed}/{prompt}/{k}")) for k in range(samples)]
    meshes = [mesh for mesh in drawn if mesh is not None]
    return spread([pictures(mesh, lit=True).rgb for mesh in meshes]) if meshes else None


def diversity(rings: Sequence[Float[Tensor, "V H W 3"]], reference: float | None) -> float | None:
    """How much seeds of one prompt differ, relative to the world: ``spread(rings) / reference``.

    0 = every seed makes the same object (mode collapse), 1 = as varied as the world. Flaws that differ between
    seeds count as variety too, so read it beside the judge's figures.

    Arguments:
        rings: :func:`pictures` of one asset per seed; None is returned for fewer than two.
        reference: :func:`world_spread` of the prompt; without one None is returned.
    """
    if len(rings) < 2 or not reference:
        return None
    return spread(rings) / reference
