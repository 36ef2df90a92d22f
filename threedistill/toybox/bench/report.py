"""The benchmark's page: tables with intervals, verdicts, plots and sheets; ready for the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threedistill.atomic import write_bytes, write_text
from threedistill.evaluation.claims import PROMPTS_NEEDED, Finding, judge_claim, signed, student_line
from threedistill.evaluation.plots import interval_plot, line_plot, why_none
from threedistill.evaluation.report import column
from threedistill.evaluation.sheets import contact_sheet
from threedistill.evaluation.statistics import Estimate
from threedistill.sweeps.table import interval
from threedistill.toybox.bench.noise import NoiseShare, paired_noise
from threedistill.toybox.bench.parts import CLAIMS, PROMPTS, Part

__all__ = ["HEADINGS", "Row", "findings", "students", "verdict_lines", "write_report"]

Row = dict[str, Any]

HEADINGS = {
    "janus": "Janus", "kind_right": "kind right", "color_right": "colour right", "clean": "clean", "iou": "IoU",
    "parts": "parts", "ssim": "SSIM", "psnr": "PSNR", "volume_iou": "volume IoU", "genus_right": "genus right",
    "tunnels": "tunnels", "saturation_error": "saturation error", "detail": "detail", "high_frequency": "high freq.",
    "diversity": "diversity", "kind_p": "P(kind)", "seconds": "s",
}  # fmt: skip


def findings(part: Part, rows: Sequence[Row]) -> list[Finding]:
    """The verdicts on a part's claims."""
    expected = part.prompts * part.seeds
    return [judge_claim(claim, rows, expected) for claim in CLAIMS[part.name]]


def students(part: Part, rows: Sequence[Row]) -> list[str]:
    """A line about every student of a part."""
    wanted = [s.name for s in part.settings if {"guidance=vsd", "guidance=esd"} & set(s.overrides)]
    return [student_line(rows, name) for name in wanted]


def write_report(
    root: Path, parts: Sequence[Part], by_part: dict[str, list[Row]], noise: Sequence[NoiseShare], command: str,
    left_out: Sequence[tuple[str, str]] = (),
) -> Path:  # fmt: skip
    """Write ``guidance.md``, ``guidance.json``, plots and sheets into the benchmark's folder; the page's path.

    Arguments:
        root: the folder.
        parts: what was asked for.
        by_part: each part's rows.
        noise: noise shares of gradients, may be empty.
        command: the command line, for the page.
        left_out: (setting, reason) of settings that cannot run.
    """
    every = list({row["run"]: row for rows in by_part.values() for row in rows}.values())  # parts share runs
    done = sum(row["status"] == "done" for row in every)
    weights = sorted({str(r["prior_version"]) for r in every if r["prior_version"]})
    lines = ["# Rules of guidance, compared on ground truth", ""]
    if done < len(every):
        lines += [f"**Partial: {done} of {len(every)} runs are finished.**", ""]
    if len(weights) > 1:
        lines += [f"**Mixed: runs of several versions of the prior, {', '.join(weights)}.**", ""]
    lines += [
        f"`{command}`, prior {', '.join(weights) or _shipped()}. Means with 95 % intervals over prompts; what the "
        "figures mean: [benchmark.md](benchmark.md).",
        "",
    ]
    if no_plots := why_none():
        lines += [f"Without plots: {no_plots}", ""]
    facts: dict[str, Any] = {"command": command, "prior_versions": weights, "parts": {}}
    for part in parts:
        rows = by_part[part.name]
        verdicts = findings(part, rows)
        lines += _section(root, part, rows, verdicts)
        facts["parts"][part.name] = {
            "done": sum(r["status"] == "done" for r in rows), "runs": len(rows),
            "students": students(part, rows),
            "findings": [
                {"text": f.claim.text, "source": f.claim.source, "verdict": f.verdict, "reason": f.reason,
                 "difference": f.difference.as_dict() if f.difference else None, "partial": f.partial}
                for f in verdicts
            ],
        }  # fmt: skip
    if noise:
        lines += _noise_section(root, noise)
        facts["noise"] = [share.as_dict() for share in noise]
    if left_out:
        lines += ["## Left out", ""] + [f"- {name}: {reason}" for name, reason in left_out] + [""]
    write_text(root / "guidance.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    target = root / "guidance.md"
    write_text(target, "\n".join(lines))
    return target


def _shipped() -> str:
    """The version of the embedded prior, where no run names one."""
    from threedistill.resources import assets_dir, weights_hash

    return f"sha256 {weights_hash(assets_dir() / 'toybox' / 'prior')}"


def verdict_lines(parts: Sequence[Part], by_part: dict[str, list[Row]]) -> list[str]:
    """What the command prints: students first, then one line per claim."""
    lines = []
    for part in parts:
        lines += [f"{part.title}:"]
        lines += [f"  {line}" for line in students(part, by_part[part.name])]
        lines += [f"  {finding.line()}" for finding in findings(part, by_part[part.name])]
    return lines


def _section(root: Path, part: Part, rows: Sequence[Row], verdicts: Sequence[Finding]) -> list[str]:
    done = [r for r in rows if r["status"] == "done"]
    partial = f"Partial: {len(done)} of {len(rows)} runs. " if len(done) < len(rows) else ""
    lines = [
        f"## {part.title}", "",
        f"{partial}{part.prompts} {'prompts' if part.prompts > 1 else 'prompt'} "
        f"({', '.join(PROMPTS[: part.prompts])}), {part.seeds} {'seeds' if part.seeds > 1 else 'seed'}.", "",
        "| setting | runs | " + " | ".join(HEADINGS[f] for f in part.figures) + " |",
        "|---|---:|" + "---:|" * len(part.figures),
    ]  # fmt: skip
    for setting in part.settings:
        own = [r for r in rows if r["setting"] == setting.name]
        finished = [r for r in own if r["status"] == "done"]
        cells = [interval(e.as_dict()) if (e := column(finished, f)) else "-" for f in part.figures]
        lines.append(f"| {setting.name} | {len(finished)}/{len(own)} | {' | '.join(cells)} |")
    lines.append("")
    about = students(part, rows)
    lines += [f"- {line}" for line in about] + ([""] if about else [])
    lines += [f"- **{f.claim.text}** ({f.claim.source}): {_verdict(f)}" for f in verdicts] + [""]
    for name, data in _pictures(root, part, done):
        write_bytes(root / "plots" / name, data)
        lines += [f"![{part.title}](plots/{name})", ""]
    return lines


def _verdict(finding: Finding) -> str:
    return finding.line().removeprefix(f"{finding.claim.text}: ")


def _pictures(root: Path, part: Part, done: Sequence[Row]) -> list[tuple[str, bytes]]:
    """A plot per figure that the part's claims are about, and a sheet of the first seed's assets."""
    if not done:
        return []
    made = [] if why_none() else _plots(part, done)
    made.append((f"{part.name}-sheet.png", _sheet(root, part, done)))
    return made


def _plots(part: Part, done: Sequence[Row]) -> list[tuple[str, bytes]]:
    """File name and SVG of each."""
    made = []
    if part.name == "scale":
        for figure, label in (
            ("saturation_error", "saturation minus ground truth's"), ("detail", "detail, ground truth = 1"),
            ("kind_p", "judge's P(kind)"),
        ):  # fmt: skip
            series = _against_scale(part, done, figure)
            if series:
                title = f"{HEADINGS[figure]} against the CFG scale (95 % over prompts)"
                zero = {"saturation_error": 0.0, "detail": 1.0}.get(figure)
                made.append((f"scale-{figure}.svg", line_plot(title, series, "CFG scale", label, True, zero)))
    else:
        wanted = list(dict.fromkeys(claim.figure for claim in CLAIMS[part.name]))
        for figure in wanted:
            rows = [
                (s.name, e) for s in part.settings
                if (e := column([r for r in done if r["setting"] == s.name], figure))
            ]  # fmt: skip
            if rows:
                title = f"{part.title}; {HEADINGS[figure]}, 95 % over prompts"
                line = {"janus": 0.3, "high_frequency": 1.0, "detail": 1.0, "diversity": 1.0}.get(figure)
                made.append((f"{part.name}-{figure}.svg", interval_plot(title, rows, HEADINGS[figure], line)))
    return made


def _against_scale(part: Part, done: Sequence[Row], figure: str) -> dict[str, list[tuple[float, Estimate]]]:
    series: dict[str, list[tuple[float, Estimate]]] = {}
    for setting in part.settings:
        estimate = column([r for r in done if r["setting"] == setting.name], figure)
        if estimate:
            rule = setting.name.split()[0]
            series.setdefault(rule, []).append((float(setting.choices["cfg.scale"]), estimate))
    return series


def _sheet(root: Path, part: Part, done: Sequence[Row]) -> bytes:
    """Settings by prompts, four views of the first seed's asset each."""
    from PIL import Image

    places = {
        (r["setting"], r["prompt"]): root / r["run"] / "asset" / "views.png" for r in done if r["seed"] == 0
    }

    def four(path: Path | None) -> Any:
        if path is None or not path.exists():
            return None
        strip = Image.open(path)
        size = strip.height
        views = strip.width // size
        picture = Image.new("RGB", (4 * size, size), "white")
        for k in range(4):
            left = k * views // 4 * size
            picture.paste(strip.crop((left, 0, left + size, size)), (k * size, 0))
        return picture

    prompts = PROMPTS[: part.prompts]
    rows = [(s.name, [four(places.get((s.name, p))) for p in prompts]) for s in part.settings]
    return contact_sheet(f"{part.title}; seed 0, four views", prompts, rows, size=(192, 48))


def _noise_section(root: Path, noise: Sequence[NoiseShare]) -> list[str]:
    lines = [
        "## Noise in the direction", "",
        "Share of the direction that differs between draws at the same picture (0 = none, 1 = all); mean over true and "
        "half-finished pictures.", "",
        "| setting | at a fixed level | levels as drawn |", "|---|---:|---:|",
        *[f"| {n.setting} | {n.fixed} | {n.drawn} |" for n in noise], "",
    ]  # fmt: skip
    by_name = {n.setting: n for n in noise}
    if "SDS" in by_name and "CSM" in by_name:
        for which, words in (("fixed", "at a fixed level"), ("drawn", "with levels as drawn")):
            difference = paired_noise(by_name["SDS"], by_name["CSM"], which)
            word = "HOLDS" if difference.high < 0 else "REVERSED" if difference.low > 0 else "NOT SHOWN"
            if len({prompt for prompt, *_ in by_name["CSM"].samples}) < PROMPTS_NEEDED:
                word = f"NO VERDICT from fewer than {PROMPTS_NEEDED} prompts"
            lines.append(
                f"- **CSM's direction is less noisy than SDS's** {words} (Yang et al. 2024, arXiv 2410.21299): "
                f"{word}; difference {signed(difference)}"
            )
        lines.append("")
    for which, words in () if why_none() else (("fixed", "fixed level"), ("drawn", "levels as drawn")):
        rows = [(n.setting, getattr(n, which)) for n in noise]
        data = interval_plot(f"Noise share of the direction, {words}", rows, "noise share")
        write_bytes(root / "plots" / f"noise-{which}.svg", data)
        lines += [f"![noise share, {words}](plots/noise-{which}.svg)", ""]
    return lines
