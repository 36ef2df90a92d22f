"""Evaluating finished runs: what a critic says about each asset, and a table over runs with intervals over prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.atomic import write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.statistics import Estimate, bootstrap, wilson
from threedistill.protocols import Critic

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "COLUMNS", "SCHEMA", "Report", "cell", "column", "evaluate_runs", "failed_error", "lookup", "read_run",
    "write_json",
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
    critic: Callable[[str], Critic],
    *,
    combined: str | Path | None = None,
    ceiling: Callable[[Path, str], Path] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Evaluate finished runs: writes ``eval.json`` into each folder and, if asked, one combined file.

    Arguments:
        folders: run folders.
        critic: who judges what a prompt asks for; may refuse a prompt (UsageError).
        combined: where the combined JSON goes, or None.
        ceiling: given a run folder and its prompt, makes the ceiling asset and returns its file; called once per
            prompt (see :func:`threedistill.evaluation.ceiling.fit_ceiling`).
        progress: called with one line per run.

    Raises:
        UsageError: no folders, or none of them could be evaluated.
    """
    if not folders:
        raise UsageError("nothing to evaluate; give run folders: threedistill eval runs/*")
    runs: list[dict[str, Any]] = []
    ceilings: dict[str, dict[str, Any]] = {}
    failed: list[tuple[str, str]] = []
    for folder in folders:
        try:
            run = read_run(folder)
            found = {**run, **critic(run["prompt"]).judge(run["asset"], run["prompt"])}
        except ThreedistillError as error:
            failed.append((str(folder), str(error)))
            progress(str(error))
            continue
        runs.append(found)
        write_json(Path(folder) / "eval.json", found)
        progress(f"{folder}: {found['verdict']}")
        if ceiling is not None and run["prompt"] not in ceilings:
            path = ceiling(Path(folder), run["prompt"])
            judged = critic(run["prompt"]).judge(path, run["prompt"])
            ceilings[run["prompt"]] = {"run": str(path.parent), **judged}
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
