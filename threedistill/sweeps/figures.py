"""The figure by which runs are ranked: a metric, measured once per asset, or a column of results.csv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threedistill.atomic import read_json
from threedistill.errors import UsageError
from threedistill.evaluation.metrics.metric import RIG, Metric, Sight
from threedistill.evaluation.report import lookup, measured, read_run, write_json
from threedistill.sweeps.table import FIGURES

if TYPE_CHECKING:
    from threedistill.config.metrics import Asked

__all__ = ["Figure", "figure_for"]


class Figure:
    """One number per finished run.

    Arguments:
        name: what the user calls it.
        metric: who measures it; None = the column of that name.
    """

    def __init__(self, name: str, metric: Metric | None) -> None:
        self.name, self.metric = name, metric

    def check_text(self, text: str) -> None:
        """Refuse a prompt that nobody could measure; raises UsageError."""
        if self.metric is not None:
            self.metric.check_text(text)

    def of(self, folder: Path) -> float | None:
        """Of a finished run; None where its evaluation lacks the column. A metric's figures are kept in eval.json."""
        found = read_json(folder / "eval.json")
        if self.metric is None:
            value = lookup(found, FIGURES[self.name])
            return None if value is None else float(value)
        kept = (found.get("metrics") or {}).get(self.name) or {}
        if kept.get("by") != self.metric.version:
            run = read_run(folder)
            more = measured(Sight(run["prompt"], run["asset"]), {self.name: self.metric})
            found = {**(found or run), "rig": RIG, "metrics": {**(found.get("metrics") or {}), **more}}
            write_json(folder / "eval.json", found)
            kept = more[self.name]
        return float(kept["value"])


def figure_for(asked: Asked) -> Figure:
    """The figure of a name: a metric of ``threedistill list metrics``, else a column of results.csv.

    Raises:
        UsageError: neither, or one that only many runs together have.
    """
    from threedistill.config.choices import options
    from threedistill.config.metrics import metrics_for

    (name,) = asked.names
    if name in FIGURES and name not in {**options("metric"), **options("scorer")}:
        return Figure(name, None)
    metric = metrics_for(asked)[name]
    if type(metric).measure is Metric.measure:
        raise UsageError(f"{name} is a figure of many assets together; runs cannot be ranked by it")
    return Figure(name, metric)
