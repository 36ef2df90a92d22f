"""The numbers of a run's ``metrics.csv`` as curves over its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threedistill.training.callbacks import read_metrics

__all__ = ["curves"]

#: A curve has no more points than this; a screen has no more columns.
_POINTS = 400


def curves(folder: Path) -> dict[str, Any] | None:
    """The numbers of ``metrics.csv``: ``x`` (steps, counted through the stages) and one list per column.

    Columns that never change (a count of nothing, a loss that is switched off) are left out.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        return None
    columns, rows = read_metrics(path)
    if len(rows) < 2:
        return None
    rows = rows[:: max(1, -(-len(rows) // _POINTS))] if len(rows) > _POINTS else rows
    done, last, x = 0, 0, []
    for index, row in enumerate(rows):
        if index and row["stage"] != rows[index - 1]["stage"]:
            done += last
        last = int(row["iteration"])
        x.append(done + last)
    series = {name: [_number(row[name]) for row in rows] for name in columns[2:]}
    return {"x": x, "series": {name: y for name, y in series.items() if len({*y} - {None}) > 1}}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
