"""Evaluating finished assets: one dictionary per asset, and a table over runs with intervals over prompts.

Everything is measured on the file that was written, opened again. :data:`REQUIREMENTS` are what an asset must show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.atomic import write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.appearance import appearance
from threedistill.evaluation.health import mesh_health
from threedistill.evaluation.judging import judge_asset
from threedistill.evaluation.silhouette import silhouette_agreement, volume_agreement
from threedistill.evaluation.similarity import similarity, true_turntables
from threedistill.evaluation.statistics import Estimate, bootstrap, wilson
from threedistill.evaluation.topology import Wanted, in_words, right_tunnels, topology
from threedistill.toybox.grammar import Scene, parse
from threedistill.toybox.judge import Judge
from threedistill.toybox.lexicon import HOLLOW
from threedistill.types import Mesh

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

SCHEMA = 2
IOU_NEEDED = 0.6
JANUS_ALLOWED = 0.10
#: More pieces than there are things are crumbs if the largest have this share of the surface.
MAIN_SHARE = 0.9

#: Column -> what it says; the value is looked up by the dotted path in an evaluation.
COLUMNS: dict[str, str] = {
    "rank 1": "requirements.rank_first",
    "kind+colour": "requirements.kind_and_color",
    "both": "requirements.recognised",
    "IoU": "shape.silhouette_iou",
    "IoU >= 0.6": "requirements.silhouette",
    "SSIM": "similarity.ssim",
    "PSNR": "similarity.psnr",
    "volume IoU": "volume_iou",
    "Janus": "judge.janus.share",
    "one piece": "requirements.one_component",
    "genus": "requirements.genus",
    "clean": "judge.clean",
    "parts": "judge.parts.share",
    "watertight": "health.watertight",
    "all": "requirements.all",
}


def evaluate_asset(
    path: str | Path,
    prompt: str,
    *,
    quick: bool = False,
    judge: Judge | None = None,
    truth: Mesh | None = None,
) -> dict[str, Any]:
    """Everything that is measured on one asset, ready for JSON.

    Arguments:
        path: the asset's file (.glb .obj .ply .stl), opened again.
        prompt: what was asked for, in the Toybox vocabulary.
        quick: no search for the best place of the asset on its ground truth, and no pictures beside it.
        judge: default the shipped one.
        truth: what the shape is compared with; default the world's canonical object for the prompt.

    Returns:
        ``prompt, asset, verdict, retry, judge_version, judge, shape, similarity, volume_iou, appearance, health,
        topology, requirements``;
        ``requirements`` holds booleans (None = does not apply or was not measured) and ``all``, whether none of them
        is False.

    Raises:
        UsageError: the prompt is outside the vocabulary.
        ThreedistillError: the file cannot be read, or there is no judge.
    """
    from threedistill.exports.read import read_mesh
    from threedistill.toybox.world import build

    scene = parse(prompt).scene
    judge = judge or Judge.load()
    mesh = read_mesh(Path(path))
    verdict = judge_asset(mesh, prompt, judge)
    health = mesh_health(mesh)
    found, wanted = topology(mesh), Wanted.of(scene)
    given, truth = truth, truth or build(scene, None)
    shape = None if quick else silhouette_agreement(mesh, truth)
    solid = not HOLLOW.intersection(spec.kind for spec in scene.objects)
    volume = (shape.volume_iou if shape else volume_agreement(mesh, truth)) if solid else None
    # Pictures are compared with objects of the world, which another truth need not be one of.
    alike = None if quick or given else similarity(mesh, scene, _truths(scene))
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


@dataclass(frozen=True)
class Report:
    """Evaluated runs and their summary.

    Attributes:
        runs: one evaluation per run, plus ``run``, ``seed``, ``prior`` and ``guidance`` from its record.
        ceilings: the same for the same field fitted to ground-truth pictures, one per prompt; may be empty.
        failed: (run, reason) of runs that could not be evaluated.
    """

    runs: tuple[dict[str, Any], ...]
    ceilings: tuple[dict[str, Any], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    def summary(self) -> dict[str, dict[str, dict[str, float | int] | None]]:
        """Means with 95 % intervals over prompts, by row (``runs``, ``ceiling``) and column."""
        rows = {"runs": self.runs, "ceiling": self.ceilings}
        return {
            name: {c: (e.as_dict() if (e := column(items, path)) else None) for c, path in COLUMNS.items()}
            for name, items in rows.items()
            if items
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for the combined JSON file."""
        return {
            "schema": SCHEMA, "summary": self.summary(), "runs": list(self.runs), "ceilings": list(self.ceilings),
            "failed": [{"run": run, "reason": reason} for run, reason in self.failed],
        }  # fmt: skip

    def table(self) -> Table:
        """The table for people: one row per run, then means with intervals over prompts, then the ceiling."""
        from rich.table import Table

        table = Table(title="assets, judged from their files", caption=self._caption())
        table.add_column("run")
        for name in COLUMNS:
            table.add_column(name, justify="right")
        for item in self.runs:
            table.add_row(Path(item["run"]).name, *[cell(lookup(item, path)) for path in COLUMNS.values()])
        table.add_section()
        for name, items in (("mean", self.runs), ("ceiling", self.ceilings)):
            if items:
                table.add_row(name, *[str(column(items, path) or "-") for path in COLUMNS.values()])
        for run, reason in self.failed:
            table.add_row(Path(run).name, reason, *[""] * (len(COLUMNS) - 1))
        return table

    def _caption(self) -> str:
        versions = sorted({str(item["judge_version"]) for item in self.runs})
        prompts = len({item["prompt"] for item in self.runs})
        text = f"{len(self.runs)} runs of {prompts} prompts, judge {', '.join(versions)}; 95 % intervals over prompts"
        if self.ceilings:
            text += "; ceiling: the same field fitted to ground-truth pictures"
        return text


def lookup(item: dict[str, Any], path: str) -> Any:
    """The value at a dotted path, None where anything on the way is missing."""
    for key in path.split("."):
        if not isinstance(item, dict) or item.get(key) is None:
            return None
        item = item[key]
    return item


def column(items: Sequence[dict[str, Any]], path: str) -> Estimate | None:
    """Mean of a column with its interval over prompts; None where nothing was measured.

    Where all values agree the bootstrap says nothing, so rates of 0 or 1 get a Wilson interval over prompts.
    """
    pairs = [(item["prompt"], float(v)) for item in items if (v := lookup(item, path)) is not None]
    if not pairs:
        return None
    prompts, values = [p for p, _ in pairs], [v for _, v in pairs]
    if len(set(values)) == 1 and values[0] in (0.0, 1.0):
        rate = wilson(values[0], len(set(prompts)))
        return Estimate(rate.value, rate.low, rate.high, len(values))
    return bootstrap(values, groups=prompts)


def cell(value: Any) -> str:
    """A measured value in a table: yes or no, two decimals, or a dash where nothing was measured."""
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.2f}"


def read_run(folder: str | Path) -> dict[str, Any]:
    """What a run's record says (``prompt, seed, prior, guidance``) and where its asset is.

    Raises:
        UsageError: no run there, or one without an asset.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        prompt = record["prompt"]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{folder} is not a run folder (no run.json); give folders that `generate` made"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{folder}/run.json is damaged or names no prompt; run `generate` again") from None
    asset = next((p for s in ("glb", "obj", "ply") if (p := folder / "asset" / f"model.{s}").is_file()), None)
    if asset is None:
        status = record.get("status", "unknown")
        raise UsageError(
            f"{folder} has no asset to evaluate (status: {status}); finish it with `threedistill resume {folder}`"
        )
    known = {k: record.get(k) for k in ("seed", "prior", "guidance", "representation", "preset", "seconds")}
    return {"run": str(folder), "prompt": prompt, "asset": asset, **known}


def evaluate_runs(
    folders: Sequence[str | Path],
    *,
    combined: str | Path | None = None,
    judge: Judge | None = None,
    ceiling: Callable[[Path, str], Path] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Evaluate finished runs: writes ``eval.json`` into each folder and, if asked, one combined file.

    Arguments:
        folders: run folders.
        combined: where the combined JSON goes, or None.
        judge: default the shipped one.
        ceiling: given a run folder and its prompt, makes the ceiling asset and returns its file; called once per
            prompt (see :func:`threedistill.evaluation.ceiling.fit_ceiling`).
        progress: called with one line per run.

    Raises:
        UsageError: no folders, or none of them could be evaluated.
    """
    if not folders:
        raise UsageError("nothing to evaluate; give run folders: threedistill eval runs/*")
    judge = judge or Judge.load()
    runs: list[dict[str, Any]] = []
    ceilings: dict[str, dict[str, Any]] = {}
    failed: list[tuple[str, str]] = []
    for folder in folders:
        try:
            run = read_run(folder)
            found = {**run, **evaluate_asset(run["asset"], run["prompt"], judge=judge)}
        except ThreedistillError as error:
            failed.append((str(folder), str(error)))
            progress(str(error))
            continue
        runs.append(found)
        write_json(Path(folder) / "eval.json", found)
        progress(f"{folder}: {found['verdict']}")
        if ceiling is not None and run["prompt"] not in ceilings:
            path = ceiling(Path(folder), run["prompt"])
            ceilings[run["prompt"]] = {
                "run": str(path.parent),
                **evaluate_asset(path, run["prompt"], judge=judge),
            }
    if not runs:
        raise failed_error(failed)
    report = Report(tuple(runs), tuple(ceilings.values()), tuple(failed))
    if combined is not None:
        write_json(Path(combined), report.as_dict())
    return report


def failed_error(failed: list[tuple[str, str]]) -> UsageError:
    """One line for "none of them could be evaluated"."""
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return UsageError(f"nothing could be evaluated: {failed[0][1]}{more}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")
