"""Two plots as SVG, drawn by matplotlib (extra ``plots``): figures with intervals, and lines against a setting."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from threedistill.evaluation.statistics import Estimate

__all__ = ["COLORS", "interval_plot", "line_plot", "why_none"]

#: Colour-blind safe (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK, _GRID, _DASH = "#222222", "#dddddd", "#888888"
#: Text stays text; the same numbers make the same bytes.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "threedistill", "font.size": 9.0, "font.family": "sans-serif",
    "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titlepad": 10.0, "axes.edgecolor": _INK,
    "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": _GRID, "axes.axisbelow": True,
}  # fmt: skip


def why_none() -> str | None:
    """Why there are no plots; None where there are."""
    if importlib.util.find_spec("matplotlib") is None:
        return 'plots are drawn by matplotlib, which is not installed: pip install "threedistill[plots]"'
    return None


def interval_plot(
    title: str, rows: Sequence[tuple[str, Estimate]], label: str, reference: float | None = None
) -> bytes:
    """SVG: one line per row with a dot at the value and a bar over its interval.

    Arguments:
        title: above the plot.
        rows: (name, figure), drawn top to bottom.
        label: of the axis.
        reference: a value marked by a dashed line.
    """
    with _drawn(6.4, 0.9 + 0.27 * max(len(rows), 1), title) as (axes, made):
        for index, (name, estimate) in enumerate(rows):
            color = COLORS[index % len(COLORS)]
            axes.plot([estimate.low, estimate.high], [index, index], color=color, linewidth=2)
            axes.plot([estimate.value], [index], "o", color=color, gid=f"value {name}")
        if reference is not None:
            axes.axvline(reference, color=_DASH, linestyle="--", linewidth=1)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
    return made.getvalue()


def line_plot(
    title: str, series: Mapping[str, Sequence[tuple[float, Estimate]]], x_label: str, y_label: str,
    log_x: bool = False, reference: float | None = None,
) -> bytes:  # fmt: skip
    """SVG: one line with intervals per series.

    Arguments:
        title: above the plot.
        series: by name, (x, figure).
        x_label, y_label: of the axes.
        log_x: whether x is drawn on a logarithmic scale; its ticks are then the x values themselves.
        reference: a y value marked by a dashed line.
    """
    with _drawn(6.6, 3.6, title) as (axes, made):
        for index, (name, points) in enumerate(series.items()):
            color, found = COLORS[index % len(COLORS)], sorted(points, key=lambda p: p[0])
            x, y = [place for place, _ in found], [e.value for _, e in found]
            axes.vlines(x, [e.low for _, e in found], [e.high for _, e in found], color=color, linewidth=1)
            axes.plot(x, y, "o-", color=color, linewidth=2, markersize=5, label=name, gid=f"value {name}")
        if reference is not None:
            axes.axhline(reference, color=_DASH, linestyle="--", linewidth=1)
        if log_x:
            places = sorted({x for points in series.values() for x, _ in points})
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.minorticks_off()
        axes.grid()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if series:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return made.getvalue()


@contextmanager
def _drawn(width: float, height: float, title: str) -> Iterator[tuple[Any, io.BytesIO]]:
    """Axes of so many inches to draw on, and where the SVG is once the block is over."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    made = io.BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        yield axes, made
        figure.savefig(made, format="svg", metadata={"Date": None}, facecolor="white")
