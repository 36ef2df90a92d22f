"""A finished run as a notebook shows it: turning, in figures, and in 3D, all inside the page and without a network."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.viewing import alone, data_url

if TYPE_CHECKING:
    from threedistill.training.result import Result

__all__ = ["result_html"]

#: Larger assets are not put into the page.
_LARGEST = 24_000_000
_STYLE = "display:inline-block;vertical-align:top;margin:0 16px 8px 0"


def result_html(result: Result) -> str:
    """The cell's HTML. The 3D view has a frame of its own; where no scripts run, the picture is there."""
    asset = result.run_dir / "asset"
    parts = [
        _picture(next((f for f in (asset / "turntable.webp", asset / "sheet.png") if f.is_file()), None))
    ]
    glb = asset / "model.glb"
    if glb.is_file() and glb.stat().st_size <= _LARGEST:
        page = html.escape(alone(glb.read_bytes()), quote=True)
        parts.append(
            f'<iframe title="the asset in 3D" sandbox="allow-scripts" '
            f'style="{_STYLE};width:320px;height:320px;border:0" '
            f'srcdoc="{page}"></iframe>'
        )
    parts.append(_table(result))
    return f"<div>{''.join(parts)}</div>"


def _picture(file: Path | None) -> str:
    if file is None:
        return ""
    address = data_url(file.read_bytes(), f"image/{file.suffix[1:]}")
    return f'<img alt="the asset" style="{_STYLE};max-width:320px" src="{address}">'


def _table(result: Result) -> str:
    """What it is, what the critic says, and how long it took."""
    total = sum(result.seconds.values())
    rows: dict[str, str] = {"asset": str(result.asset), "run": str(result.run_dir)}
    if result.verdict:
        rows["verdict"] = result.verdict
    rows |= {name: f"{value:.3g}" for name, value in _figures(result.evaluation or {}).items()}
    rows["seconds"] = f"{total:.0f} ({', '.join(f'{k} {v:.0f}' for k, v in result.seconds.items())})"
    lines = [
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in rows.items()
    ]
    return f'<table style="{_STYLE}">{"".join(lines)}</table>'


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers of an evaluation."""
    return {
        k: float(v) for k, v in evaluation.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
