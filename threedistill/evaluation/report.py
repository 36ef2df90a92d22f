"""Evaluating finished runs: what a critic says about each asset, and a table over runs with intervals over prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.atomic import read_json, write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.health import mesh_health
from threedistill.evaluation.metrics.metric import RIG, Metric, Sight
from threedistill.evaluation.statistics import Estimate, bootstrap, wilson
from threedistill.evaluation.topology import Topology, topology
from threedistill.protocols import Critic

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "COLUMNS", "SCHEMA", "Report", "cell", "column", "earlier_metrics", "evaluate_runs", "failed_error", "judged",
    "lookup", "measured", "plain_facts", "read_run", "write_json",
]  # fmt: skip

#: Of ``eval.json``: which figures it has. Older ones are made anew.
SCHEMA = 2

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


@dataclass(frozen=True)
class Report:
    """Evaluated runs and their summary.

    Attributes:
        runs: one evaluation per run, plus ``run``, ``seed``, ``prior`` and ``guidance`` from its record.
        ceilings: the same for the same field fitted to ground-truth pictures, one per prompt; may be empty.
        failed: (run, reason) of runs that could not be evaluated.
        together: by metric, the figures that only all runs together have.
    """

    runs: tuple[dict[str, Any], ...]
    ceilings: tuple[dict[str, Any], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    together: dict[str, dict[str, float]] = field(default_factory=dict)

    def columns(self) -> dict[str, str]:
        """The columns in which some run has a value: :data:`COLUMNS`, then one per metric."""
        names = dict.fromkeys(name for item in self.runs for name in item.get("metrics") or {})
        every = COLUMNS | {name: f"metrics.{name}.value" for name in names}
        return {
            c: path for c, path in every.items() if any(lookup(item, path) is not None for item in self.runs)
        }

    def summary(self) -> dict[str, dict[str, dict[str, float | int] | None]]:
        """Means with 95 % intervals over prompts, by row (``runs``, ``ceiling``) and column."""
        rows = {"runs": self.runs, "ceiling": self.ceilings}
        return {
            name: {
                c: (e.as_dict() if (e := column(items, path)) else None)
                for c, path in (COLUMNS | self.columns()).items()
            }
            for name, items in rows.items()
            if items
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for the combined JSON file."""
        return {
            "schema": SCHEMA, "summary": self.summary(), "runs": list(self.runs), "ceilings": list(self.ceilings),
            "failed": [{"run": run, "reason": reason} for run, reason in self.failed], "together": self.together,
        }  # fmt: skip

    def table(self) -> Table:
        """The table for people: one row per run, then means with intervals over prompts, then the ceiling."""
        from rich.table import Table

        table, columns = (
            Table(title="assets, judged from their files", caption=self._caption()),
            self.columns(),
        )
        table.add_column("run")
        for name in columns:
            table.add_column(name, justify="right")
        for item in self.runs:
            table.add_row(Path(item["run"]).name, *[cell(lookup(item, path)) for path in columns.values()])
        table.add_section()
        for name, items in (("mean", self.runs), ("ceiling", self.ceilings)):
            if items:
                table.add_row(name, *[str(column(items, path) or "-") for path in columns.values()])
        for run, reason in self.failed:
            table.add_row(Path(run).name, reason)
        return table

    def _caption(self) -> str:
        versions = sorted({str(v) for item in self.runs if (v := item.get("judge_version")) is not None})
        prompts = len({item["prompt"] for item in self.runs})
        by = f"judge {', '.join(versions)}" if versions else "no judge knows their words"
        text = f"{len(self.runs)} runs of {prompts} prompts, {by}; 95 % intervals over prompts"
        if self.ceilings:
            text += "; ceiling: the same field fitted to ground-truth pictures"
        for name, found in self.together.items():
            text += f"\n{name} of all runs: {', '.join(f'{k} {v:.4g}' for k, v in found.items())}"
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
    known = {
        k: record.get(k)
        for k in ("seed", "prior", "guidance", "representation", "preset", "seconds", "peak_bytes")
    }
    return {"run": str(folder), "prompt": prompt, "asset": asset, **known}


def plain_facts(asset: Path, prompt: str) -> dict[str, Any]:
    """What can be said of any asset, whatever was asked for: the health of its mesh and its topology."""
    from threedistill.exports.read import read_mesh

    mesh = read_mesh(asset)
    health, found = mesh_health(mesh), topology(mesh)
    closed = "watertight" if health.watertight else "not watertight"
    return {
        "schema": SCHEMA, "prompt": prompt, "asset": str(asset),
        "verdict": f"no judge knows its words; {health.faces} faces, {closed}, {_made_of(found)}",
        "health": health.as_dict(), "topology": found.as_dict(),
    }  # fmt: skip


def _made_of(found: Topology) -> str:
    counts = {"piece": found.pieces, "tunnel": found.tunnels, "hole": found.holes}
    return ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items())


def judged(run: dict[str, Any], critic: Callable[[str], Critic]) -> dict[str, Any]:
    """A run's evaluation: by the critic who knows its prompt's words, else :func:`plain_facts`.

    Arguments:
        run: of :func:`read_run`.
        critic: may refuse a prompt, itself or when it looks (UsageError).
    """
    try:
        return {**run, **critic(run["prompt"]).judge(run["asset"], run["prompt"])}
    except UsageError:
        return {**run, **plain_facts(run["asset"], run["prompt"])}


def measured(sight: Sight, metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """By metric, its figures of one asset and by which model; metrics of many assets are left out."""
    found = {name: metric.measure(sight) for name, metric in metrics.items()}
    return {name: {**figures, "by": metrics[name].version} for name, figures in found.items() if figures}


def evaluate_runs(
    folders: Sequence[str | Path],
    critic: Callable[[str], Critic],
    *,
    metrics: Mapping[str, Metric] | None = None,
    combined: str | Path | None = None,
    ceiling: Callable[[Path, str], Path] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Evaluate finished runs: writes ``eval.json`` into each folder and, if asked, one combined file.

    Arguments:
        folders: run folders.
        critic: who judges what a prompt asks for; may refuse a prompt (UsageError).
        metrics: by name, what else is measured; what an earlier call measured of the same asset is kept.
        combined: where the combined JSON goes, or None.
        ceiling: given a run folder and its prompt, makes the ceiling asset and returns its file; called once per
            prompt (see :func:`threedistill.evaluation.ceiling.fit_ceiling`).
        progress: called with one line per run.

    Raises:
        UsageError: no folders, or none of them could be evaluated.
    """
    if not folders:
        raise UsageError("nothing to evaluate; give run folders: threedistill eval runs/*")
    metrics = metrics or {}
    runs: list[dict[str, Any]] = []
    sights: list[Sight] = []
    ceilings: dict[str, dict[str, Any]] = {}
    failed: list[tuple[str, str]] = []
    for folder in folders:
        try:
            run = read_run(folder)
            sight = Sight(run["prompt"], run["asset"])
            found = judged(run, critic)
            more = {**earlier_metrics(Path(folder)), **measured(sight, metrics)}
        except ThreedistillError as error:
            failed.append((str(folder), str(error)))
            progress(str(error))
            continue
        if more:
            found |= {"rig": RIG, "metrics": more}
        runs.append(found)
        sights.append(sight)
        write_json(Path(folder) / "eval.json", found)
        told = [f"{name} {more[name]['value']:.4g}" for name in metrics if name in more]
        progress(f"{folder}: {', '.join([found['verdict'], *told])}")
        if ceiling is not None and run["prompt"] not in ceilings:
            path = ceiling(Path(folder), run["prompt"])
            ceilings[run["prompt"]] = {
                "run": str(path.parent), **critic(run["prompt"]).judge(path, run["prompt"])
            }  # fmt: skip
    if not runs:
        raise failed_error(failed)
    together = {name: figures for name, metric in metrics.items() if (figures := metric.together(sights))}
    report = Report(tuple(runs), tuple(ceilings.values()), tuple(failed), together)
    if combined is not None:
        write_json(Path(combined), report.as_dict())
    return report


def earlier_metrics(folder: Path) -> dict[str, Any]:
    """What was measured of this asset before; a new asset's folder has no eval.json."""
    found = read_json(folder / "eval.json").get("metrics")
    return found if isinstance(found, dict) else {}


def failed_error(failed: list[tuple[str, str]]) -> UsageError:
    """One line for "none of them could be evaluated"."""
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return UsageError(f"nothing could be evaluated: {failed[0][1]}{more}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")
