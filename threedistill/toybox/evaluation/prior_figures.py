"""Judging the embedded prior's own 2D samples: kind, colour and view rates, camera adherence, grain.

These are the figures of the model card. Everything is judged by the independent network on held-out captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import place, view_name
from threedistill.evaluation.silhouette import mask_iou, silhouettes
from threedistill.evaluation.statistics import Estimate, bootstrap
from threedistill.rng import Streams
from threedistill.toybox.evaluation.judging import attributes
from threedistill.toybox.evaluation.parts import parts_shown
from threedistill.toybox.grammar import ParsedPrompt, parse
from threedistill.toybox.judge import VIEWS, Judge, JudgeReading, scene_labels
from threedistill.toybox.lexicon import FRONTED, VIEW_WORDINGS
from threedistill.toybox.scenes import held_out
from threedistill.types import Cameras

__all__ = [
    "FIGURES", "GOALS", "Sample", "Sampler", "cameras_of", "draw", "grain", "ground_truth_sampler", "judge_samples",
    "main", "object_mask", "plan_samples", "sampling", "score", "summarise", "told_views", "toybox_sampler",
    "variety",
    "write_contact_sheet",
]  # fmt: skip

#: (texts, cameras or None, backgrounds, generator) -> (B, H, W, 3) sRGB samples in [0, 1].
Sampler = Callable[[Sequence[str], "Cameras | None", Tensor, torch.Generator], Tensor]

#: What the figures have to reach (held-out captions without patterns, accessories and pairs).
GOALS = {"kind": 0.90, "color": 0.95, "view": 0.85}
FIGURES = (
    "kind", "color", "extras", "view", "azimuth_error", "within_30", "front", "clean", "grain", "iou", "parts",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One sampled picture's place in the figures.

    Attributes:
        prompt: the held-out caption.
        text: what the prior was told.
        camera: (azimuth, elevation) it was told, radians, or None.
        view: the view it was asked for, by word or camera.
    """

    prompt: str
    text: str
    camera: tuple[float, float] | None
    view: str | None


def grain(images: Float[Tensor, "B H W 3"], flat: float = 0.06) -> Float[Tensor, "B"]:
    """Mean absolute difference to the 3x3 median where the picture is flat (no edge in the 5x5 surroundings).

    Flat: the range of the 3x3 median over 5x5 pixels stays below ``flat`` in every channel. Pictures without a flat
    pixel get NaN. Ground-truth renders score about 0.001.
    """
    x = images.permute(0, 3, 1, 2).float()
    count, _, height, width = x.shape
    windows = F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3).view(count, 3, 9, height, width)
    median = windows.median(2).values
    padded = F.pad(median, (2, 2, 2, 2), mode="replicate")
    extent = F.max_pool2d(padded, 5, 1) + F.max_pool2d(-padded, 5, 1)
    calm = (extent < flat).all(1)
    # The plain background is calm by construction; the object is what matters.
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], -1).median(-1).values
    calm &= ((median - border[:, :, None, None]).abs() > 0.1).any(1)
    difference = (x - median).abs().mean(1)
    total = calm.flatten(1).sum(1)
    return torch.where(total > 0, (difference * calm).flatten(1).sum(1) / total.clamp_min(1), torch.nan)


def object_mask(
    images: Float[Tensor, "B H W 3"], background: Float[Tensor, "B 3"], tolerance: float = 0.12
) -> Tensor:
    """(B, H, W) booleans: pixels that differ from the plain background."""
    return ((images - background[:, None, None]).abs() > tolerance).any(-1)


def told_views(seeds: int, with_camera: bool) -> list[tuple[float, float]]:
    """(azimuth, elevation) in radians that every caption is asked for: all round, one in eight from above."""
    out = []
    # Not on the borders between views, where no answer is wrong.
    start = 0.0 if seeds % 8 else 0.5
    for index in range(seeds):
        azimuth = 2 * math.pi * (index + start) / seeds - math.pi
        elevation = math.radians(52 if with_camera and index % 8 == 7 else 15)
        out.append((azimuth, elevation))
    return out


def plan_samples(prompts: Sequence[str], seeds: int, mode: str) -> list[Sample]:
    """What is sampled: ``camera`` tells the camera, ``words`` a view word and no camera, ``bare`` neither."""
    out = []
    for prompt in prompts:
        for azimuth, elevation in told_views(seeds, mode == "camera"):
            view: str = view_name(azimuth, elevation)
            if mode == "camera":
                out.append(Sample(prompt, prompt, (azimuth, elevation), view))
            elif mode == "words":
                out.append(Sample(prompt, f"{prompt}, {VIEW_WORDINGS[view][0]}", None, view))
            elif mode == "bare":
                out.append(Sample(prompt, prompt, None, None))
            else:
                raise ValueError(f"mode {mode!r} is none of camera, words, bare")
    return out


def cameras_of(samples: Sequence[Sample], size: int = 64) -> Cameras:
    """The cameras of samples that have one, at the shared evaluation distance and field of view."""
    angles = torch.tensor([s.camera for s in samples])
    ones = torch.ones(len(samples))
    return place(angles[:, 0], angles[:, 1], ones * 2.9, ones * math.radians(44), size, size)


def draw(sampler: Sampler, samples: Sequence[Sample], seed: int = 0, batch: int = 32) -> Tensor:
    """(N, H, W, 3) pictures of the samples, on white."""
    out = []
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        cameras = cameras_of(part) if part[0].camera is not None else None
        rng = Streams(seed, 0, start).generator("judge/sample")
        out.append(sampler([s.text for s in part], cameras, torch.ones(len(part), 3), rng).clamp(0, 1).cpu())
    return torch.cat(out)


def score(samples: Sequence[Sample], images: Tensor, judge: Judge) -> dict[str, list[float | None]]:
    """One number per sample and figure, None where the figure does not apply."""
    reading = judge(images)
    parsed = {prompt: parse(prompt) for prompt in {s.prompt for s in samples}}
    rough = grain(images)
    shape = _silhouette_scores(samples, images, parsed)
    shown = _parts_scores(samples, reading, parsed, judge.vocabulary.parts)
    rows: dict[str, list[float | None]] = {name: [] for name in FIGURES}
    for index, sample in enumerate(samples):
        rows["grain"].append(None if rough[index].isnan() else float(rough[index]))
        rows["iou"].append(shape[index])
        rows["parts"].append(shown[index])
        for name, value in _score_one(reading, index, sample, parsed[sample.prompt], judge).items():
            rows[name].append(value)
    return rows


def _score_one(
    reading: JudgeReading, index: int, sample: Sample, parsed: ParsedPrompt, judge: Judge
) -> dict[str, float | None]:
    scene = parsed.scene
    labels = scene_labels(scene, judge.vocabulary)
    asked = attributes(reading[index : index + 1], scene, judge.vocabulary)
    extra_heads = ("pattern", "accessory", "second_kind", "second_color")
    extras = [n for n in extra_heads if labels.get(n, 0) > 0 and n in asked]
    fronted = scene.objects[0].kind in FRONTED and len(scene.objects) == 1
    judged = VIEWS[int(reading.view_logp[index].argmax())]
    error = None
    if fronted and sample.camera:
        away = float(reading.azimuth[index]) - sample.camera[0]
        error = abs((math.degrees(away) + 180) % 360 - 180)
    return {
        "kind": float(asked["kind"][1]),
        "color": float(asked["color"][1]) if "color" in asked else None,
        "extras": float(all(asked[n][1] for n in extras)) if extras else None,
        "view": float(judged == sample.view) if fronted and sample.view else None,
        "azimuth_error": error,
        "within_30": None if error is None else float(error <= 30),
        "front": float(judged == "front") if fronted and sample.view is None else None,
        "clean": float(reading.clean[index]),
    }


def _parts_scores(
    samples: Sequence[Sample], reading: JudgeReading, parsed: dict[str, ParsedPrompt], names: tuple[str, ...]
) -> list[float | None]:
    """The share of the parts which the canonical object shows the told camera that the judge sees in the sample."""
    from threedistill.toybox.visible import visible
    from threedistill.toybox.world import build_parts

    if not names or not samples or samples[0].camera is None:
        return [None] * len(samples)
    out: list[float | None] = [None] * len(samples)
    for prompt, known in parsed.items():
        rows = [i for i, sample in enumerate(samples) if sample.prompt == prompt]
        truth = visible(build_parts(known.scene), cameras_of([samples[i] for i in rows]))
        for k, i in enumerate(rows):
            found = parts_shown(reading.parts[i : i + 1], truth[k : k + 1], names)
            out[i] = found.share if found else None
    return out


def _silhouette_scores(
    samples: Sequence[Sample], images: Tensor, parsed: dict[str, ParsedPrompt]
) -> list[float | None]:
    """IoU with the canonical object's silhouette at the camera that was told."""
    from threedistill.toybox.world import build

    if not samples or samples[0].camera is None:
        return [None] * len(samples)
    size = images.shape[1]
    masks = object_mask(images, torch.ones(len(images), 3))
    truth = {prompt: build(p.scene, None) for prompt, p in parsed.items()}
    out: list[float | None] = []
    for index, sample in enumerate(samples):
        mesh = truth[sample.prompt]
        target = silhouettes(mesh.vertices, mesh.faces, cameras_of([sample], size))
        out.append(float(mask_iou(masks[index : index + 1], target)[0]))
    return out


def summarise(samples: Sequence[Sample], rows: dict[str, list[float | None]]) -> dict[str, Estimate | None]:
    """Mean of every figure with a 95 % interval over prompts; ``azimuth_error`` is its median, in degrees."""
    found: dict[str, Estimate | None] = {}
    for name, values in rows.items():
        pairs = [(s.prompt, v) for s, v in zip(samples, values) if v is not None]
        if not pairs:
            found[name] = None
            continue
        numbers = [v for _, v in pairs]
        if name == "azimuth_error":
            found[name] = bootstrap(numbers, statistic=_median)
        else:
            found[name] = bootstrap(numbers, groups=[p for p, _ in pairs])
    return found


def _median(values: Any) -> Any:
    import numpy as np

    return np.median(values, axis=-1)


def judge_samples(
    sampler: Sampler,
    *,
    seeds: int = 8,
    seed: int = 0,
    judge: Judge | None = None,
    modes: Sequence[str] = ("camera", "words", "bare"),
    sheet: str | Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judge a prior's samples of the 24 public held-out captions, ready for JSON.

    Arguments:
        sampler: draws pictures (see :func:`toybox_sampler`).
        seeds: pictures per caption and mode, at as many azimuths.
        seed: of the sampler's noise.
        judge: default the shipped one.
        modes: ways of asking: ``camera``, ``words``, ``bare``.
        sheet: file stem for contact sheets, one PNG per mode and tier; None writes none.
        progress: called with one line per mode.

    Returns:
        ``{mode: {tier1 | tier2: {figure: {value, low, high, count}}, by_kind: {kind: {figure: value}}}}`` and, where
        the camera is told, ``variety``.
    """
    judge = judge or Judge.load()
    prompts = held_out()[:24]
    out: dict[str, Any] = {"judge_version": judge.version, "seeds": seeds}
    for mode in modes:
        out[mode] = {"by_kind": {}}
        for tier in (1, 2):
            chosen = [p for p in prompts if parse(p).scene.tier == tier]
            samples = plan_samples(chosen, seeds, mode)
            images = draw(sampler, samples, seed)
            rows = score(samples, images, judge)
            figures = summarise(samples, rows)
            out[mode][f"tier{tier}"] = {k: v.as_dict() if v else None for k, v in figures.items()}
            if tier == 1:
                out[mode]["by_kind"] = _by_kind(samples, rows)
            if sheet is not None:
                write_contact_sheet(images, seeds, Path(f"{sheet}-{mode}-tier{tier}.png"))
            shown = ", ".join(f"{k} {v}" for k, v in figures.items() if v)
            progress(f"{mode}, tier {tier}: {shown}")
    if "camera" in modes:
        varied = variety(sampler, prompts, seed=seed)
        out["variety"] = varied.as_dict()
        progress(f"variety: {varied}")
    return out


def variety(sampler: Sampler, prompts: Sequence[str], pictures: int = 4, seed: int = 0) -> Estimate:
    """How much samples of one caption at one camera differ, over how much the world's own objects do.

        variety = mean_pairs |x_i - x_j| / mean_pairs |y_i - y_j|

    Mean absolute differences; x are samples, y renders of objects that the world draws for the caption. 0 = always the
    same picture, 1 = as varied as the world; grain counts as variety too.

    Arguments:
        sampler: draws pictures.
        prompts: captions.
        pictures: samples of each.
        seed: of the sampler's noise.

    Returns:
        the mean over prompts with its 95 % interval.
    """
    samples = [
        Sample(p, p, (math.radians(30), math.radians(15)), None) for p in prompts for _ in range(pictures)
    ]

    def differences(drawn: Tensor) -> Tensor:
        x = drawn.view(len(prompts), pictures, -1)
        return (x[:, :, None] - x[:, None]).abs().mean((1, 2, 3))

    own = differences(draw(sampler, samples, seed))
    worlds = differences(draw(ground_truth_sampler(), samples, seed + 1))
    return bootstrap((own / worlds).tolist(), groups=list(prompts))


def _by_kind(samples: Sequence[Sample], rows: dict[str, list[float | None]]) -> dict[str, dict[str, float]]:
    kinds: dict[str, dict[str, list[float]]] = {}
    for index, sample in enumerate(samples):
        kind = parse(sample.prompt).scene.objects[0].kind
        for name, values in rows.items():
            value = values[index]
            if value is not None:
                kinds.setdefault(kind, {}).setdefault(name, []).append(value)
    return {k: {n: round(sum(v) / len(v), 3) for n, v in figures.items()} for k, figures in kinds.items()}


def write_contact_sheet(images: Tensor, columns: int, path: Path) -> None:
    """Pictures in rows of ``columns``, as a PNG."""
    from PIL import Image

    count, height, width, _ = images.shape
    rows = count // columns
    grid = images[: rows * columns].reshape(rows, columns, height, width, 3).transpose(1, 2)
    pixels = (grid.reshape(rows * height, columns * width, 3) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def ground_truth_sampler(spread: bool = True) -> Sampler:
    """A "prior" that knows the truth: renders of the world; what a perfect prior would score.

    Arguments:
        spread: vary proportions as the world does, instead of the canonical object.
    """
    import random

    from threedistill.render.mesh import render_mesh
    from threedistill.toybox.world import build

    def sample(
        texts: Sequence[str], cameras: Cameras | None, background: Tensor, rng: torch.Generator
    ) -> Tensor:
        out = []
        for row, text in enumerate(texts):
            parsed = parse(text)
            draw_ = random.Random(int(torch.randint(2**31, (), generator=rng))) if spread else None
            if cameras is None:
                azimuth = {"front": 0.0, "side": math.pi / 2, "back": math.pi, "overhead": 0.3}[
                    parsed.view or "front"
                ]
                angles = (azimuth, math.radians(52 if parsed.view == "overhead" else 15))
                camera = cameras_of([Sample(text, text, angles, parsed.view)])
            else:
                camera = cameras[row : row + 1]
            mesh = build(parsed.scene, draw_)
            out.append(
                render_mesh(mesh, camera, shading="lambertian", background=background[row : row + 1]).rgb
            )
        return torch.cat(out)

    return sample


def sampling(guidance: float | None, steps: int | None) -> dict[str, Any]:
    """A pipeline's arguments for these; what is None is left to the pipeline."""
    asked = {"guidance_scale": guidance, "num_inference_steps": steps}
    return {name: value for name, value in asked.items() if value is not None}


def toybox_sampler(prior: Any = None, guidance: float | None = None, steps: int | None = None) -> Sampler:
    """Samples of the embedded prior.

    Arguments:
        prior: a loaded pipeline, or the folder of a saved one; None = the shipped one.
        guidance: scale of classifier-free guidance; None = the pipeline's own.
        steps: how many answers; None = the pipeline's own.
    """
    from threedistill.toybox.model import ToyboxPipeline

    pipeline = ToyboxPipeline.load(prior) if prior is None or isinstance(prior, (str, Path)) else prior

    def sample(
        texts: Sequence[str], cameras: Cameras | None, background: Tensor, rng: torch.Generator
    ) -> Tensor:
        return pipeline(
            list(texts), cameras=cameras, background=background, generator=rng, **sampling(guidance, steps)
        )

    return sample


def main(arguments: list[str] | None = None) -> None:
    """``python -m threedistill.toybox.evaluation.prior_figures``: judge the shipped prior's samples, print JSON."""
    import argparse
    import json
    import sys

    parser = argparse.ArgumentParser(
        prog="python -m threedistill.toybox.evaluation.prior_figures", description=__doc__
    )
    parser.add_argument("--prior", type=Path, help="a saved pipeline (default: the shipped one)")
    parser.add_argument("--truth", action="store_true", help="judge ground truth in place of samples")
    parser.add_argument("--seeds", type=int, default=8, help="pictures per caption and mode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, help="default: the pipeline's own")
    parser.add_argument("--steps", type=int, help="default: the pipeline's own")
    parser.add_argument("--modes", nargs="+", default=["camera", "words", "bare"])
    parser.add_argument("--sheet", help="file stem of contact sheets")
    given = parser.parse_args(arguments)
    if given.truth:
        sampler = ground_truth_sampler()
    else:
        sampler = toybox_sampler(given.prior, given.guidance, given.steps)
    found = judge_samples(
        sampler, seeds=given.seeds, seed=given.seed, modes=given.modes, sheet=given.sheet,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    print(json.dumps({**found, "guidance": given.guidance, "steps": given.steps}, indent=1))


if __name__ == "__main__":
    main()
