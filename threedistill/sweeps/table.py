"""The results of a sweep: one flat row per run, for a CSV, a JSON and a page of pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from threedistill.atomic import read_json, write_text
from threedistill.sweeps.job import read_record
from threedistill.sweeps.plan import Plan

__all__ = [
    "FIGURES", "RECORD", "TABLE_SCHEMA", "as_csv", "axes", "interval", "labels", "measured", "rows", "settings_table",
    "summary", "with_diversity", "write_tables",
]  # fmt: skip

TABLE_SCHEMA = 1

#: Column -> dotted path in a run's eval.json.
FIGURES = {
    "kind_right": "judge.kind_right",
    "color_right": "judge.color_right",
    "kind_p": "judge.kind_p",
    "rank": "judge.rank",
    "margin": "judge.margin",
    "clean": "judge.clean",
    "parts": "judge.parts.share",
    "many_faced": "judge.many_faced",
    "janus": "judge.janus.share",
    "yaw_margin": "judge.janus.yaw_margin",
    "fronts": "judge.janus.fronts",
    "iou": "shape.silhouette_iou",
    "chamfer": "shape.chamfer",
    "ssim": "similarity.ssim",
    "psnr": "similarity.psnr",
    "volume_iou": "volume_iou",
    "saturation": "appearance.saturation",
    "saturation_error": "appearance.saturation_error",
    "detail": "appearance.detail",
    "high_frequency": "appearance.high_frequency",
    "one_piece": "health.largest_share",
    "watertight": "health.watertight",
    "degenerate_faces": "health.degenerate_faces",
    "uv_coverage": "health.uv_coverage",
    "uv_overlap": "health.uv_overlap",
    "texel_density": "health.texel_density",
    "pieces": "topology.pieces",
    "tunnels": "topology.tunnels",
    "cavities": "topology.cavities",
    "genus_right": "requirements.genus",
    "all_requirements": "requirements.all",
}
#: Column -> key of a run's run.json.
RECORD = ("student_gain", "camera_gain", "prior_version", "deterministic", "error")


def rows(plan: Plan, numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """One dictionary per run: what was asked for, how it went, what was measured; None where nothing was.

    Arguments:
        plan: the sweep.
        numbers: which runs; default all of the plan.
    """
    found = [_row(plan, n) for n in (range(len(plan.entries)) if numbers is None else numbers)]
    names = labels(plan)
    for row in found:
        row["setting"] = names[row["number"]]
    return with_diversity(found, plan.root)


def with_diversity(found: list[dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """The rows with how much the finished runs of each prompt and setting differ among themselves."""
    for row in found:
        row["diversity"] = None
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found:
        if row["status"] == "done":
            groups.setdefault((row["prompt"], row["setting"]), []).append(row)
    for (prompt, _), members in groups.items():
        value = _diversity(prompt, tuple(str(root / m["run"]) for m in members))
        for row in members:
            row["diversity"] = value
    return found


def labels(plan: Plan) -> list[str]:
    """Each run's setting in words; where two calls gave one name to different settings, with what differs."""
    variants: dict[str, list[tuple[str, ...]]] = {}
    for entry in plan.entries:
        own = variants.setdefault(entry["setting"], [])
        if tuple(entry["overrides"]) not in own:
            own.append(tuple(entry["overrides"]))
    found = []
    for entry in plan.entries:
        rivals = variants[entry["setting"]]
        shared = set.intersection(*map(set, rivals))
        extra = [
            line for line in entry["overrides"] if line not in shared and line not in entry["setting"].split()
        ]
        found.append(
            entry["setting"]
            if len(rivals) == 1
            else f"{entry['setting']} ({' '.join(extra)})".replace(" ()", "")
        )
    return found


def _row(plan: Plan, number: int) -> dict[str, Any]:
    entry, folder = plan.entries[number], plan.folder(number)
    return {
        "run": str(folder.relative_to(plan.root)), "number": number, "prompt": plan.prompt(number),
        "seed": entry["seed"], "setting": entry["setting"], **entry["choices"], **measured(folder),
    }  # fmt: skip


def measured(folder: Path) -> dict[str, Any]:
    """How a run went and what was measured of it, from its ``run.json`` and ``eval.json``."""
    from threedistill.evaluation.report import lookup

    record, judged = read_record(folder), read_json(folder / "eval.json")
    done, seconds = record["status"] == "done", record["seconds"]
    return {
        "status": record["status"], "seconds": round(sum(seconds.values()), 2) if seconds else None,
        **{name: _gain(record, name) if name.endswith("_gain") else record.get(name) for name in RECORD},
        **{name: _figure(lookup(judged, path)) if done else None for name, path in FIGURES.items()},
    }  # fmt: skip


def _figure(value: Any) -> float | bool | None:
    """A number of an eval.json, or None for what is none."""
    return value if isinstance(value, int | float) else None


def _gain(record: dict[str, Any], name: str) -> float | None:
    """A student's figure, whether the run wrote it at the top or beside the student's other facts."""
    student = record.get("student")
    value = record.get(name, student.get(name) if isinstance(student, dict) else None)
    return float(value) if isinstance(value, int | float) else None


@lru_cache(maxsize=1024)
def _diversity(prompt: str, folders: tuple[str, ...]) -> float | None:
    from threedistill.evaluation.appearance import diversity

    rings = [ring for folder in folders if (ring := _ring(Path(folder))) is not None]
    if len(rings) < 2:
        return None
    return diversity(rings, _reference(prompt))


@lru_cache(maxsize=256)
def _reference(prompt: str) -> float | None:
    """How much true objects of a prompt differ; None where nobody knows its words."""
    from threedistill.config.critics import critic_for
    from threedistill.errors import UsageError
    from threedistill.evaluation.appearance import world_spread

    try:
        return world_spread(prompt, critic_for(prompt).truth)
    except UsageError:
        return None


def _ring(folder: Path) -> Any:
    """The views of a run (V, H, W, 3), or None where they were not drawn."""
    import numpy as np
    import torch
    from PIL import Image

    try:
        pixels = np.asarray(Image.open(folder / "asset" / "views.png").convert("RGB"), dtype=np.float32)
    except OSError:  # not there, or cut short
        return None
    strip = torch.from_numpy(pixels / 255)
    return torch.stack(strip.split(strip.shape[0], 1))


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts by status, and per setting the means with 95 % intervals over prompts."""
    from threedistill.evaluation.report import column

    settings: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        settings.setdefault(row["setting"], []).append(row)
    figures = ("kind_right", "color_right", "janus", "iou", "ssim", "psnr", "volume_iou", "genus_right",
               "saturation_error", "detail", "high_frequency", "clean", "parts", "diversity",
               "student_gain", "camera_gain", "seconds")  # fmt: skip
    statuses = [row["status"] for row in found]
    return {
        "runs": len(found),
        "statuses": {s: statuses.count(s) for s in dict.fromkeys(statuses)},
        "partial": any(s != "done" for s in statuses),
        "prior_versions": sorted({str(r["prior_version"]) for r in found if r["prior_version"]}),
        "settings": {
            name: {
                "done": sum(r["status"] == "done" for r in members),
                "runs": len(members),
                **{
                    f: (e.as_dict() if (e := column([r for r in members if r["status"] == "done"], f)) else None)
                    for f in figures
                },
            }
            for name, members in settings.items()
        },
    }  # fmt: skip


def write_tables(plan: Plan, title: str = "sweep") -> list[dict[str, Any]]:
    """Write ``results.csv``, ``results.json`` and the page ``index.html``; the rows."""
    from threedistill.reports import write_report

    with plan.locked():  # also the runs that another sweep has added meanwhile
        found = rows(plan)
        facts = summary(found)
        content = {"schema": TABLE_SCHEMA, "title": title, "summary": facts, "runs": found}
        write_text(plan.root / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        write_text(plan.root / "results.csv", as_csv(found))
        write_report(plan.root, found, facts, title, axes(plan))
    return found


def axes(plan: Plan) -> list[str]:
    """The keys that vary over a plan's runs, in order."""
    return list(dict.fromkeys(key for entry in plan.entries for key in entry["choices"]))


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """The rows with one header; keys that only some rows have are empty in the others."""
    columns = list(dict.fromkeys(key for row in found for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def settings_table(facts: dict[str, Any], title: str) -> Any:
    """The summary as a table for people."""
    from rich.table import Table

    shown = {
        "kind": "kind_right", "colour": "color_right", "Janus": "janus", "IoU": "iou", "SSIM": "ssim", "PSNR": "psnr",
        "genus": "genus_right", "parts": "parts", "satur. err": "saturation_error",
        "detail": "detail", "diversity": "diversity", "student gain": "student_gain", "s": "seconds",
    }  # fmt: skip
    shown = {k: f for k, f in shown.items() if any(m[f] for m in facts["settings"].values())}
    partial = "PARTIAL: " if facts["partial"] else ""
    counts = ", ".join(f"{n} {s}" for s, n in facts["statuses"].items())
    table = Table(title=title, caption=f"{partial}{counts}; means and 95 % intervals over prompts")
    table.add_column("setting")
    table.add_column("runs", justify="right")
    for name in shown:
        table.add_column(name, justify="right")
    for name, means in facts["settings"].items():
        table.add_row(name, f"{means['done']}/{means['runs']}", *[interval(means[f]) for f in shown.values()])
    return table


def interval(estimate: dict[str, float] | None) -> str:
    """A mean and its interval in one cell; the mean alone where one prompt, or equal ones, make no interval."""
    if estimate is None:
        return "-"
    digits = 0 if abs(estimate["value"]) >= 100 else 1 if abs(estimate["value"]) >= 10 else 2
    value, low, high = (f"{estimate[k]:.{digits}f}" for k in ("value", "low", "high"))
    return value if estimate["low"] == estimate["high"] else f"{value} [{low}, {high}]"
