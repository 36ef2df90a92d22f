"""What an asset looks like to the judge: which caption it earns, and whether to propose another seed.

The asset is looked at as its file shows it: unlit, on white, from 12 azimuths at the shared evaluation cameras, after
it was centred and given the size of Toybox objects (files are in metres, whatever their size in the world was).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import orbit
from threedistill.evaluation.alignment import centred
from threedistill.evaluation.janus import AZIMUTHS, ELEVATION, JanusEstimate, janus_estimate
from threedistill.toybox.evaluation.parts import PartsShown, parts_shown, ring_parts, turned_to
from threedistill.toybox.grammar import Scene, parse
from threedistill.toybox.judge import Judge, JudgeReading, Vocabulary, scene_labels
from threedistill.toybox.lexicon import FRONTED
from threedistill.toybox.scenes import held_out
from threedistill.types import Mesh

__all__ = [
    "FLOOR", "PUBLIC_PROMPTS", "VIEWS", "AssetVerdict", "attributes", "caption_logp", "judge_asset", "look",
    "many_faced", "orders", "rank_captions", "rank_of", "verdict_line",
]  # fmt: skip

VIEWS = 12
PUBLIC_PROMPTS = 24
#: One view that is certainly wrong should not outweigh eleven that are right.
FLOOR = math.log(1e-3)


@dataclass(frozen=True)
class AssetVerdict:
    """What the judge says about one asset.

    Attributes:
        rank: place of the prompt's own caption among the public held-out prompts (1 = first; ties count against it).
        candidates: how many captions were compared.
        best_caption: the caption that fits best.
        caption_logp: of the prompt's own caption, averaged over views, and the best rival's lead over it (margin > 0:
            the own caption wins by that much).
        margin: own caption's log probability minus the best other caption's.
        kind, kind_p: the kind the judge names, and its mean probability of the kind that was asked for.
        color, color_p: likewise for the main colour; color_p is 1 when no colour was asked for.
        kind_right, color_right: whether those names are the right ones.
        extras_right: pattern, accessory and second object, by name, where they were asked for.
        clean: mean probability that this is one whole, well-made object.
        janus: faces where there should be none; None for kinds without a front.
        line: one line for people.
        retry: whether another seed is worth proposing.
        many_faced: whether the views from all around say that it has more than one face (:func:`many_faced`); None
            for kinds without a front.
        parts: how many of the parts that the true object shows the judge sees, from all around; None for a judge that
            was not taught parts.
    """

    rank: int
    candidates: int
    best_caption: str
    caption_logp: float
    margin: float
    kind: str
    kind_p: float
    kind_right: bool
    color: str
    color_p: float
    color_right: bool
    clean: float
    line: str
    retry: bool
    extras_right: dict[str, bool] = field(default_factory=dict)
    janus: JanusEstimate | None = None
    many_faced: bool | None = None
    parts: PartsShown | None = None

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def look(
    mesh: Mesh, views: int = VIEWS, elevation: float = ELEVATION, size: int = 64
) -> Float[Tensor, "V H W 3"]:
    """The asset on white, unlit, from ``views`` azimuths starting at the front; centred and sized first."""
    from threedistill.render.mesh import render_mesh

    return render_mesh(centred(mesh), orbit(views, elevation=elevation, size=size), shading="none").rgb


def _heads(reading: JudgeReading) -> dict[str, Tensor]:
    return {
        "kind": reading.kind_logp, "color": reading.color_logp, "pattern": reading.pattern_logp,
        "accessory": reading.accessory_logp, "second_kind": reading.second_kind_logp,
        "second_color": reading.second_color_logp,
    }  # fmt: skip


def caption_logp(
    reading: JudgeReading, scene: Scene, words: Vocabulary, floor: float = FLOOR
) -> Float[Tensor, "B"]:
    """How well each picture fits a caption: ``sum over attributes of max(log p, floor)``, the floor log 0.001.

    Attributes the caption does not mention count as absent (no pattern, no hat, no second object), except colour.
    Things "next to" each other change sides when seen from behind, so there the better order counts, per picture.
    """
    return torch.stack([_one_order(reading, s, words, floor) for s in orders(scene)]).amax(0)


def orders(scene: Scene) -> list[Scene]:
    """The scene, and for things side by side also with its two objects exchanged."""
    if scene.relation != "next to":
        return [scene]
    return [scene, replace(scene, objects=scene.objects[::-1])]


def _one_order(
    reading: JudgeReading, scene: Scene, words: Vocabulary, floor: float = FLOOR
) -> Float[Tensor, "B"]:
    heads = _heads(reading)
    parts = [heads[name][:, i].clamp_min(floor) for name, i in scene_labels(scene, words).items()]
    return torch.stack(parts).sum(0)


def attributes(reading: JudgeReading, scene: Scene, words: Vocabulary) -> dict[str, tuple[float, bool]]:
    """Mean probability of each attribute asked for, by head, and whether the judge names it.

    One order: the class of the largest mean probability is the right one. Two: at least half of the views are right.
    """
    found = orders(scene)
    best = torch.stack([_one_order(reading, s, words) for s in found]).argmax(0)
    labels = [scene_labels(s, words) for s in found]
    heads = _heads(reading)
    out = {}
    for name in labels[0]:
        if not all(name in each for each in labels):
            continue
        wanted = torch.tensor([each[name] for each in labels])[best]
        p = heads[name].exp()
        if len(found) == 1:
            right = int(p.mean(0).argmax()) == labels[0][name]
        else:
            right = float((p.argmax(1) == wanted).float().mean()) >= 0.5
        out[name] = (float(p.gather(1, wanted[:, None]).mean()), right)
    return out


def rank_of(own: int, scores: list[float]) -> int:
    """1-based place of ``scores[own]``, largest first; equals count against it."""
    return 1 + sum(s >= scores[own] for i, s in enumerate(scores) if i != own)


def rank_captions(
    reading: JudgeReading, scene: Scene, words: Vocabulary
) -> tuple[int, list[tuple[str, float]]]:
    """Rank of the scene among the public held-out prompts (it joins them if it is not there), and all scores."""
    prompts = held_out()[:PUBLIC_PROMPTS]
    scenes = [parse(p).scene for p in prompts]
    own = next((i for i, s in enumerate(scenes) if s == scene), None)
    if own is None:
        own = len(scenes)
        scenes, prompts = [*scenes, scene], [*prompts, "(own prompt)"]
    scores = [float(caption_logp(reading, s, words).mean()) for s in scenes]
    named = sorted(zip(prompts, scores), key=lambda item: -item[1])
    return rank_of(own, scores), [(prompts[own], scores[own]), *[n for n in named if n[0] != prompts[own]]]


def judge_asset(mesh: Mesh, prompt: str, judge: Judge | None = None) -> AssetVerdict:
    """Judge a reopened asset against its prompt.

    Arguments:
        mesh: the asset as read back from its file.
        prompt: what was asked for, in the Toybox vocabulary.
        judge: default the shipped one.

    Raises:
        UsageError: the prompt is outside the vocabulary, so there is nothing to compare with.
    """
    scene = parse(prompt).scene
    judge = judge or Judge.load()
    words = judge.vocabulary
    ring = judge(look(mesh, AZIMUTHS))
    reading = ring[:: AZIMUTHS // VIEWS]
    rank, scores = rank_captions(reading, scene, words)
    labels = scene_labels(scene, words)
    asked = attributes(reading, scene, words)
    first = scene.objects[0]
    kind_p, kind_right = asked["kind"]
    color_p, color_right = asked.get("color", (1.0, True))
    extra_heads = ("pattern", "accessory", "second_kind", "second_color")
    extras = {name: asked[name][1] for name in extra_heads if labels.get(name, 0) > 0 and name in asked}
    clean = float(reading.clean.mean())
    janus = janus_estimate(ring.view_logp) if first.kind in FRONTED and len(scene.objects) == 1 else None
    faces = None if janus is None else many_faced(ring, janus)
    seen = turned_to(ring.parts, janus.yaw if janus else 0.0)
    parts = parts_shown(seen, ring_parts(scene, AZIMUTHS), words.parts) if words.parts else None
    return AssetVerdict(
        rank=rank,
        candidates=len(scores),
        best_caption=max(scores, key=lambda item: item[1])[0],
        caption_logp=scores[0][1],
        margin=scores[0][1] - max(s for _, s in scores[1:]),
        kind=words.kinds[int(reading.kind_logp.exp().mean(0).argmax())],
        kind_p=kind_p,
        kind_right=kind_right,
        color=words.colors[int(reading.color_logp.exp().mean(0).argmax())],
        color_p=color_p,
        color_right=color_right,
        extras_right=extras,
        clean=clean,
        janus=janus,
        many_faced=faces,
        parts=parts,
        line=verdict_line(scene, kind_p, color_p, clean, extras, janus, parts),
        retry=rank > 1 or kind_p < 0.5 or color_p < 0.5 or not all(extras.values()) or bool(faces),
    )


def many_faced(ring: JudgeReading, janus: JanusEstimate | None = None) -> bool:
    """Whether views from all around an object with a front show that it has more than one face.

    One picture may hide the second face (from straight ahead nothing betrays it); the ring does not: a front on the far
    side, two separate fronts, one that is wider than a third of the way around (one face is seen from a quarter), no
    front at all on something that is hardly well made, or pictures of nothing well made.

    Arguments:
        ring: the judge's reading of an even ring of views, 24 or so.
        janus: its estimate, if there is one.
    """
    found = janus or janus_estimate(ring.view_logp)
    wide = 3 * int((ring.view_logp[:, 0].exp() > 0.5).sum()) > len(ring.view_logp)
    clean = float(ring.clean.mean())
    return found.share > 0.05 or found.fronts > 1 or wide or clean < (0.6 if found.fronts == 0 else 0.25)


def _many_faces(janus: JanusEstimate | None) -> bool:
    return janus is not None and janus.share > 0.1


def verdict_line(
    scene: Scene,
    kind_p: float,
    color_p: float,
    clean: float,
    extras: dict[str, bool],
    janus: JanusEstimate | None,
    shown: PartsShown | None = None,
) -> str:
    """The judge's line: "mushroom 0.98, red 0.99, clean 0.90, one front"."""
    first = scene.objects[0]
    parts = [f"{first.kind} {kind_p:.2f}"]
    if first.color:
        parts.append(f"{first.color} {color_p:.2f}")
    parts += [f"{name.replace('_', ' ')} {'right' if ok else 'wrong'}" for name, ok in extras.items()]
    parts.append(f"clean {clean:.2f}")
    if shown and shown.share is not None:
        parts.append(f"parts {shown.share:.0%}".replace("%", " %"))
    if janus is not None:
        if _many_faces(janus):
            parts.append(f"a front seen from {round(100 * janus.share)} % of the far side")
        else:
            parts.append({0: "no clear front", 1: "one front"}.get(janus.fronts, "front unsteady"))
    return ", ".join(parts)
