"""The toy world's critic: everything that its judge and its truth say about an asset.

All of it is measured on the file that was written, opened again.
"""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from threedistill.errors import UsageError
from threedistill.evaluation.appearance import appearance
from threedistill.evaluation.health import mesh_health
from threedistill.evaluation.report import SCHEMA
from threedistill.evaluation.silhouette import silhouette_agreement, volume_agreement
from threedistill.evaluation.similarity import similarity
from threedistill.evaluation.topology import in_words, right_tunnels, topology
from threedistill.exports.read import read_mesh
from threedistill.protocols import Critic
from threedistill.resources import assets_dir
from threedistill.toybox.evaluation.judging import judge_asset
from threedistill.toybox.evaluation.truth import true_turntables, wanted_of
from threedistill.toybox.grammar import Scene, parse
from threedistill.toybox.judge import Judge, available
from threedistill.toybox.lexicon import HOLLOW
from threedistill.toybox.world import build
from threedistill.types import Mesh

__all__ = ["ToyboxCritic", "evaluate_asset"]

IOU_NEEDED = 0.6
JANUS_ALLOWED = 0.10
#: More pieces than there are things are crumbs if the largest have this share of the surface.
MAIN_SHARE = 0.9


class ToyboxCritic(Critic):
    """The judge of the toy world, with the world's own objects as the truth.

    Arguments:
        folder: of a saved judge; None = the one that ships.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else assets_dir() / "toybox" / "judge"

    @property
    def version(self) -> str:
        """Of the judge, without loading it."""
        return str(_facts(self.folder).get("version"))

    def check_text(self, text: str) -> None:
        """Refuse words that the world does not have, and kinds that the judge was not taught.

        Raises:
            UsageError: naming them; or there is no judge.
        """
        scene = parse(text).scene
        if not available(self.folder):
            raise UsageError(f"there is no judge in {self.folder}")
        known = _facts(self.folder).get("vocabulary", {}).get("kinds", ())
        if unknown := [spec.kind for spec in scene.objects if spec.kind not in known]:
            raise UsageError(f"the judge does not know {', '.join(unknown)}")

    def judge(self, asset: str | Path, prompt: str, *, quick: bool = False) -> dict[str, Any]:
        """As :func:`evaluate_asset`."""
        return evaluate_asset(asset, prompt, quick=quick, judge=_loaded(self.folder))

    def preference(self, asset: str | Path, prompt: str) -> float:
        """The log probability of the prompt's caption, mean over views."""
        return judge_asset(read_mesh(Path(asset)), prompt, _loaded(self.folder)).caption_logp

    def truth(self, prompt: str, rng: random.Random | None = None) -> Mesh:
        """The world's canonical object, or one that it draws."""
        return build(parse(prompt).scene, rng)


@lru_cache(maxsize=2)
def _loaded(folder: Path) -> Judge:
    return Judge.load(folder)


@lru_cache(maxsize=2)
def _facts(folder: Path) -> dict[str, Any]:
    """What a saved judge says of itself; nothing where there is none."""
    file = folder / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def evaluate_asset(
    path: str | Path,
    prompt: str,
    *,
    quick: bool = False,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Everything that is measured on one asset, ready for JSON.

    Arguments:
        path: the asset's file (.glb .obj .ply .stl), opened again.
        prompt: what was asked for, in the Toybox vocabulary.
        quick: no search for the best place of the asset on its ground truth, and no pictures beside it.
        judge: default the shipped one.

    Returns:
        ``prompt, asset, verdict, retry, judge_version, judge, shape, similarity, volume_iou, appearance, health,
        topology, requirements``;
        ``requirements`` holds booleans (None = does not apply or was not measured) and ``all``, whether none of them
        is False.

    Raises:
        UsageError: the prompt is outside the vocabulary.
        ThreedistillError: the file cannot be read, or there is no judge.
    """
    scene = parse(prompt).scene
    judge = judge or Judge.load()
    mesh = read_mesh(Path(path))
    verdict = judge_asset(mesh, prompt, judge)
    health = mesh_health(mesh)
    found, wanted = topology(mesh), wanted_of(scene)
    truth = build(scene, None)
    shape = None if quick else silhouette_agreement(mesh, truth)
    solid = not HOLLOW.intersection(spec.kind for spec in scene.objects)
    volume = (shape.volume_iou if shape else volume_agreement(mesh, truth)) if solid else None
    alike = None if quick else similarity(mesh, _truths(scene))
    requirements: dict[str, bool | None] = {
        "rank_first": verdict.rank == 1,
        "kind_and_color": verdict.kind_right and verdict.color_right,
        "recognised": verdict.rank == 1 and verdict.kind_right and verdict.color_right,
        "extras": all(verdict.extras_right.values()) if verdict.extras_right else None,
        "janus": verdict.janus.share <= JANUS_ALLOWED if verdict.janus else None,
        "silhouette": shape.silhouette_iou >= IOU_NEEDED if shape else None,
        "one_component": sum(found.largest_shares[: wanted.pieces]) >= MAIN_SHARE,
        "genus": right_tunnels(found, wanted),
        "solid": found.cavities == 0 and found.holes == 0,
    }
    needed = {k: v for k, v in requirements.items() if k != "extras"}
    retry = verdict.retry or not (requirements["genus"] and requirements["solid"])
    said = [verdict.line, *in_words(found, wanted)]
    said += [f"volume IoU {volume:.2f}"] if volume is not None else []
    said += [f"SSIM {alike.ssim:.2f}"] if alike else []
    return {
        "schema": SCHEMA,
        "prompt": prompt,
        "asset": str(path),
        "verdict": ", ".join(said) + ("; another seed may do better" if retry else ""),
        "retry": retry,
        "judge_version": judge.version,
        "judge": verdict.as_dict(),
        "shape": shape.as_dict() if shape else None,
        "similarity": alike.as_dict() if alike else None,
        "volume_iou": volume,
        "appearance": None if quick else appearance(mesh, truth).as_dict(),
        "health": health.as_dict(),
        "topology": found.as_dict(),
        "requirements": requirements | {"all": all(v is not False for v in needed.values())},
    }


@lru_cache(maxsize=4)
def _truths(scene: Scene) -> Tensor:
    """The true turntables of a scene, once for its runs."""
    return true_turntables(scene)
