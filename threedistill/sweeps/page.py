"""A static HTML page of a sweep: one row per prompt and seed, one column per setting, pictures with their figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

__all__ = ["page"]

_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; color: #222; }
table { border-collapse: collapse; } th, td { padding: 4px 8px; vertical-align: top; text-align: left; }
th { position: sticky; top: 0; background: #fff; } tr:nth-child(even) td { background: #f7f7f7; }
.strip { width: 256px; height: 64px; object-fit: cover; object-position: 0 0; display: block; }
.strip:hover { width: 768px; } small { color: #666; } .bad { color: #a00; }
"""


def page(title: str, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page's text; pictures are linked relative to the sweep's folder.

    Arguments:
        title: of the page.
        rows: from :func:`threedistill.sweeps.table.rows`.
        facts: from :func:`threedistill.sweeps.table.summary`.
    """
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    by_place = {(row["prompt"], row["seed"], row["setting"]): row for row in rows}
    places = list(dict.fromkeys((row["prompt"], row["seed"]) for row in rows))
    head = "".join(f"<th>{escape(name)}</th>" for name in settings)
    body = "\n".join(
        f"<tr><th>{escape(prompt)}<br><small>seed {seed}</small></th>"
        + "".join(f"<td>{_cell(by_place.get((prompt, seed, name)))}</td>" for name in settings)
        + "</tr>"
        for prompt, seed in places
    )
    counts = ", ".join(f"{n} {s}" for s, n in facts["statuses"].items())
    label = "<strong>partial</strong>: " if facts["partial"] else ""
    weights = ", ".join(facts["prior_versions"]) or "unknown"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n<p>{label}{escape(counts)}; prior {escape(weights)}. "
        'All figures: <a href="results.csv">results.csv</a>, <a href="results.json">results.json</a>. '
        "Point at a strip to see the object from all round.</p>\n"
        f"<table><thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></html>\n"
    )


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["status"] != "done":
        about = escape(f": {row['error']}" if row["error"] else "")
        return f'<span class="bad">{escape(row["status"])}{about}</span>'
    folder = quote(row["run"])
    picture = f'<a href="{folder}/asset/"><img class="strip" loading="lazy" src="{folder}/asset/views.png" alt=""></a>'
    figures = [
        f"{name} {_short(row[key])}"
        for name, key in (
            ("kind", "kind_right"),
            ("colour", "color_right"),
            ("Janus", "janus"),
            ("IoU", "iou"),
            ("SSIM", "ssim"),
        )
        if row[key] is not None
    ]
    if row["student_gain"] is not None:
        figures.append(f"student {row['student_gain']:.2f}")
    if row["seconds"] is not None:
        figures.append(f"{row['seconds']:.0f} s")
    return f"{picture}<small>{escape(', '.join(figures))}</small>"


def _short(value: Any) -> str:
    return ("right" if value else "wrong") if isinstance(value, bool) else f"{value:.2f}"
