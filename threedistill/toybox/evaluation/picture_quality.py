"""How much a prior's own pictures look like its world: against true objects at the same cameras, and as a set.

``threedistill toybox judge`` (without an asset) prints these. A teacher cannot teach what it cannot draw, so they are
the ceiling of every distilled asset.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import orbit
from threedistill.evaluation.similarity import nearest, psnr
from threedistill.toybox.evaluation.prior_figures import Sampler, sampling
from threedistill.toybox.grammar import parse
from threedistill.toybox.judge import Judge
from threedistill.types import Cameras

__all__ = [
    "DIRECTIONS", "PROMPTS", "VARIATIONS", "Pictures", "ReferenceGain", "as_dict", "detail", "frechet_distance",
    "judge_features", "judge_prompt", "mean_figures", "reference_gain", "set_distance", "table", "true_pictures",
]  # fmt: skip

#: Plain things, patterns, accessories and a pair; the first eight are plain.
PROMPTS = (
    "a red duck", "a green house", "a purple robot", "a yellow television", "a white owl",
    "a pink mug with blue spots", "a yellow donut", "a brown cat", "a green owl wearing a purple scarf",
    "a black car with yellow stripes", "a red apple on a purple table", "a yellow snowman wearing a red hat",
)  # fmt: skip
#: True objects of a prompt of which the nearest counts: the canonical one, and random ones.
VARIATIONS = 6
#: Number of the random object that stands for "another true object".
_OTHER = 777
#: A pixel is of the object where the truth is darker than this in some channel (on white).
_WHITE = 0.97
#: Directions of the judge's features, the strongest among true pictures, in which sets are compared.
DIRECTIONS = 32


@dataclass(frozen=True)
class Pictures:
    """Figures of the pictures of one prompt, or their means over prompts.

    Attributes:
        ssim, psnr: to the nearest of :data:`VARIATIONS` true objects, mean over views; dB.
        detail: energy of the Laplacian inside the object over the canonical object's: a blur is below 1, grain above.
        other_ssim, other_psnr, other_detail: the same of another true object in place of the pictures.
    """

    ssim: float
    psnr: float
    detail: float
    other_ssim: float
    other_psnr: float
    other_detail: float


def detail(pictures: Float[Tensor, "B H W 3"], truth: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B"]:
    """Energy of the Laplacian inside the true object, over the truth's: ``mean |L a| / mean |L b|``.

    Arguments:
        pictures: sRGB in [0, 1].
        truth: the same views of a true object on white.

    Returns:
        the ratio of each picture; NaN where the object has no 20 inner pixels.
    """

    def laplacian(x: Tensor) -> Tensor:
        around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
        return (4 * x[:, 1:-1, 1:-1] - around).abs().mean(-1)

    # Two pixels from the outline, which is softened over one: where it is says nothing of what is drawn inside.
    covered = truth.amin(-1) < _WHITE
    inside = torch.zeros_like(covered)
    inside[:, 2:-2, 2:-2] = covered[:, 2:-2, 2:-2] & covered[:, :-4, 2:-2] & covered[:, 4:, 2:-2]
    inside[:, 2:-2, 2:-2] &= covered[:, 2:-2, :-4] & covered[:, 2:-2, 4:]
    inside = inside[:, 1:-1, 1:-1]
    count = inside.sum((1, 2))
    mine, its = ((laplacian(x) * inside).sum((1, 2)) / count.clamp_min(1) + 1e-4 for x in (pictures, truth))
    return torch.where(count > 20, mine / its, torch.nan)


def true_pictures(prompt: str, cameras: Cameras, variation: int | None) -> Float[Tensor, "B H W 3"]:
    """The world's object for a prompt on white, as random ``variation`` or the canonical one."""
    from threedistill.render.mesh import render_mesh
    from threedistill.toybox.world import build

    mesh = build(parse(prompt).scene, None if variation is None else random.Random(variation))
    return render_mesh(mesh, cameras, shading="lambertian", background=torch.ones(len(cameras), 3)).rgb


def _mean(values: Tensor) -> float:
    """The geometric mean of ratios, of those that are numbers."""
    return float(values[values.isfinite()].log().mean().exp())


def judge_prompt(
    sampler: Sampler, prompt: str, size: int, views: int = 4, variations: int = VARIATIONS, seed: int = 0
) -> Pictures:
    """The figures of one prompt's pictures from all round, on white."""
    cameras = orbit(views, size=size)
    truths = torch.stack([true_pictures(prompt, cameras, k or None) for k in range(variations)])
    drawn = sampler(
        [prompt] * views, cameras, torch.ones(views, 3), torch.Generator().manual_seed(seed)
    ).float()
    other = true_pictures(prompt, cameras, _OTHER)
    (ssim, psnr), (other_ssim, other_psnr) = nearest(drawn, truths), nearest(other, truths)
    return Pictures(
        float(ssim.mean()), float(psnr.mean()), _mean(detail(drawn, truths[0])),
        float(other_ssim.mean()), float(other_psnr.mean()), _mean(detail(other, truths[0])),
    )  # fmt: skip


def mean_figures(found: Sequence[Pictures]) -> Pictures:
    """Means over prompts; of the ratios, geometric ones."""
    out = {}
    for field in fields(Pictures):
        values = torch.tensor([getattr(x, field.name) for x in found])
        out[field.name] = _mean(values) if "detail" in field.name else float(values.mean())
    return Pictures(**out)


@torch.no_grad()
def judge_features(judge: Judge, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B F"]:
    """What the judge's heads read of pictures."""
    kept: list[Tensor] = []
    handle = judge.network.pose.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    try:
        judge(images)
    finally:
        handle.remove()
    return torch.cat(kept).double()


def frechet_distance(a: Float[Tensor, "N F"], b: Float[Tensor, "M F"]) -> float:
    """``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` of two sets' Gaussians.

    Source: Heusel et al. 2017, "GANs trained by a two time-scale update rule", section 4; Dowson and Landau 1982.
    """
    a, b = a.double(), b.double()
    first, second = (torch.atleast_2d(torch.cov(x.T)) for x in (a, b))
    # The trace of the root of a product of two covariances: of the symmetric S_a^(1/2) S_b S_a^(1/2), which has the
    # same eigenvalues.
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross)


def set_distance(
    sampler: Sampler, judge: Judge, prompts: Sequence[str], size: int, views: int = 8, seed: int = 0,
    progress: Callable[[str], None] = lambda _line: None,
) -> float:  # fmt: skip
    """How far the set of pictures is from the set of true ones, over how far two sets of true ones are apart.

    Frechet distances of the judge's features in their :data:`DIRECTIONS` principal directions among true pictures: of
    sets of a few hundred pictures no more can be told. 1 = pictures are as far from the world as the world's own
    variations are.

    Arguments:
        sampler: draws pictures.
        judge: whose features are compared.
        prompts: of which each is seen from ``views`` directions.
        size: pixels.
        views, seed: of the sets.
        progress: told of every prompt.
    """
    drawn, one, two = [], [], []
    generator = torch.Generator().manual_seed(seed)
    for k, prompt in enumerate(prompts):
        cameras = orbit(views, size=size)
        drawn.append(sampler([prompt] * views, cameras, torch.ones(views, 3), generator).float())
        for column, begin in ((one, 1000), (two, 2000)):
            # Every view shows an object of its own, as every sample does.
            column += [true_pictures(prompt, cameras[v : v + 1], begin + 100 * k + v) for v in range(views)]
        progress(prompt)
    samples, truth, again = (judge_features(judge, torch.cat(x)) for x in (drawn, one, two))
    both = torch.cat([truth, again])
    _, _, directions = torch.linalg.svd(both - both.mean(0), full_matrices=False)
    kept = directions[:DIRECTIONS].T
    return frechet_distance(samples @ kept, truth @ kept) / frechet_distance(again @ kept, truth @ kept)


@dataclass(frozen=True)
class ReferenceGain:
    """What a reference view from the front is worth: PSNR (dB) of pictures from the sides to the very same object.

    Attributes:
        words: told words and camera.
        shown: told these and shown the view.
    """

    words: float
    shown: float

    @property
    def gain(self) -> float:
        """dB."""
        return self.shown - self.words


def reference_gain(
    pipeline: Any, prompts: Sequence[str], steps: int = 16, scale: float = 3.0, seed: int = 0
) -> ReferenceGain:
    """How much nearer pictures from the sides come to an object whose front is shown.

    Arguments:
        pipeline: a loaded prior that can be shown pictures.
        prompts: of each a random true object is drawn, seen from the front and from both sides.
        steps, scale: of sampling and of guidance; None = the pipeline's own.
        seed: of objects and noise; with and without the view they start from the same noise.
    """
    from threedistill.cameras import camera_vectors
    from threedistill.render.mesh import render_mesh
    from threedistill.toybox.model import camera
    from threedistill.toybox.world import build

    front, sides = (camera(a, size=pipeline.size) for a in ([0.0], [90.0, -90.0]))
    found: list[list[float]] = []
    for k, prompt in enumerate(prompts):
        mesh = build(parse(prompt).scene, random.Random(f"reference/{seed}/{k}"))
        white = torch.ones(2, 3)
        truth = render_mesh(mesh, sides, shading="lambertian", background=white).rgb
        seen = render_mesh(mesh, front, shading="lambertian", background=white[:1]).rgb
        views = (2 * seen.permute(0, 3, 1, 2) - 1)[None].expand(2, -1, -1, -1, -1)
        told = camera_vectors(front, 1)[None].expand(2, -1, -1)

        scores = []
        for extra in ({}, {"views": views, "view_cameras": told}):
            pictures = pipeline(
                [prompt] * 2, sides, white, generator=torch.Generator().manual_seed(seed + k),
                **sampling(scale, steps), **extra,
            )  # fmt: skip
            scores.append(float(psnr(pictures.cpu().float(), truth).mean()))
        found.append(scores)
    words, shown = torch.tensor(found).mean(0).tolist()
    return ReferenceGain(words, shown)


def table(
    rows: dict[str, Pictures], mean: Pictures, distance: float | None, reference: ReferenceGain | None = None
) -> str:
    """The figures as lines for people."""
    head = f"{'':40s}{'SSIM':>7s}{'PSNR':>7s}{'detail':>8s}   another true object"
    lines = [head]
    for name, x in (*rows.items(), ("mean", mean)):
        lines.append(
            f"{name:40s}{x.ssim:7.3f}{x.psnr:7.1f}{x.detail:8.2f}"
            f"   {x.other_ssim:.3f} {x.other_psnr:.1f} {x.other_detail:.2f}"
        )
    if distance is not None:
        lines.append(f"set of pictures to set of renders, over two sets of renders: {distance:.1f}")
    if reference is not None:
        lines.append(
            f"shown the front of an object, PSNR from its sides: {reference.words:.1f} -> {reference.shown:.1f} dB "
            f"({reference.gain:+.1f})"
        )
    return "\n".join(lines)


def as_dict(
    rows: dict[str, Pictures], mean: Pictures, distance: float | None, reference: ReferenceGain | None = None
) -> dict[str, object]:
    """The figures as plain numbers for JSON."""
    prompts = {name: asdict(x) for name, x in rows.items()}
    shown = None if reference is None else asdict(reference) | {"gain": reference.gain}
    return {"prompts": prompts, "mean": asdict(mean), "set_distance": distance, "reference": shown}
