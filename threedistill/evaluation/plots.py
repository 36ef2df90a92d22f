"""Two plots, drawn with Pillow: figures with their intervals, and lines against a setting. No plotting library."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from threedistill.evaluation.statistics import Estimate

__all__ = ["COLORS", "GRID", "INK", "SCALE", "Frame", "contact_sheet", "interval_plot", "line_plot", "ticks"]

#: Colour-blind safe (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Drawn this much larger, then averaged down.
SCALE = 2
INK, GRID = "#222222", "#dddddd"


@dataclass(frozen=True)
class Frame:
    """The rectangle of a plot and its value ranges, in picture units."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a value on the (enlarged) picture."""
        u = self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)
        v = self.bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top)
        return u * SCALE, v * SCALE


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten apart) inside ``[low, high]``."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def interval_plot(
    title: str, rows: Sequence[tuple[str, Estimate]], label: str, reference: float | None = None
) -> bytes:
    """PNG: one line per row with a dot at the value and a bar over its interval.

    Arguments:
        title: above the plot.
        rows: (name, figure), drawn top to bottom.
        label: of the axis.
        reference: a value marked by a dashed line.
    """
    values = [v for _, e in rows for v in (e.low, e.high, e.value)]
    span = _span([*values, *([] if reference is None else [reference])])
    names = max((len(name) for name, _ in rows), default=0)
    left = 24 + 6.6 * names
    width, height = max(int(left + 460), 24 + 8 * len(title)), 76 + 26 * max(len(rows), 1) + 34
    frame = Frame(left, 44, width - 24, height - 56, span, (len(rows) - 0.4, -0.6))
    draw, image = _canvas(width, height, title)
    _x_axis(draw, frame, ticks(*span), label)
    if reference is not None:
        _dashes(draw, frame.at(reference, frame.y[1]), frame.at(reference, frame.y[0]))
    for index, (name, estimate) in enumerate(rows):
        color = COLORS[index % len(COLORS)]
        x, y = frame.at(estimate.value, index)
        draw.text((left * SCALE - 10 * SCALE, y), name, fill=INK, font=_font(12), anchor="rm")
        draw.line(
            [frame.at(estimate.low, index), frame.at(estimate.high, index)], fill=color, width=2 * SCALE
        )
        draw.ellipse([x - 4 * SCALE, y - 4 * SCALE, x + 4 * SCALE, y + 4 * SCALE], fill=color)
    return _png(image)


def line_plot(
    title: str, series: Mapping[str, Sequence[tuple[float, Estimate]]], x_label: str, y_label: str,
    log_x: bool = False, reference: float | None = None,
) -> bytes:  # fmt: skip
    """PNG: one line with intervals per series.

    Arguments:
        title: above the plot.
        series: by name, (x, figure).
        x_label, y_label: of the axes.
        log_x: whether x is drawn on a logarithmic scale; its ticks are then the x values themselves.
        reference: a y value marked by a dashed line.
    """

    def place(x: float) -> float:
        return math.log(x) if log_x else x

    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [v for points in series.values() for _, e in points for v in (e.low, e.high, e.value)]
    x_span = _span([place(x) for x in xs], pad=0.06)
    y_span = _span([*ys, *([] if reference is None else [reference])])
    frame = Frame(70, 44, 500, 300, x_span, y_span)
    draw, image = _canvas(660, 356, title)
    marks = [(place(x), f"{x:g}") for x in xs] if log_x else [(t, f"{t:g}") for t in ticks(*x_span)]
    _x_axis(draw, frame, [m for m, _ in marks], x_label, [t for _, t in marks])
    for y in ticks(*y_span):
        u, v = frame.at(x_span[0], y)
        draw.line([(u, v), frame.at(x_span[1], y)], fill=GRID, width=SCALE)
        draw.text((u - 6 * SCALE, v), f"{y:g}", fill=INK, font=_font(11), anchor="rm")
    draw.text((10 * SCALE, 28 * SCALE), y_label, fill=INK, font=_font(11))
    if reference is not None:
        _dashes(draw, frame.at(x_span[0], reference), frame.at(x_span[1], reference))
    for index, (name, points) in enumerate(series.items()):
        color = COLORS[index % len(COLORS)]
        found = sorted(points, key=lambda p: p[0])
        line = [frame.at(place(x), e.value) for x, e in found]
        if len(line) > 1:
            draw.line(line, fill=color, width=2 * SCALE)
        for x, estimate in found:
            u, v = frame.at(place(x), estimate.value)
            low, high = frame.at(place(x), estimate.low), frame.at(place(x), estimate.high)
            draw.line([low, high], fill=color, width=SCALE)
            draw.ellipse([u - 4 * SCALE, v - 4 * SCALE, u + 4 * SCALE, v + 4 * SCALE], fill=color)
        top = (60 + 20 * index) * SCALE
        draw.line([(520 * SCALE, top), (540 * SCALE, top)], fill=color, width=2 * SCALE)
        draw.text((546 * SCALE, top), name, fill=INK, font=_font(12), anchor="lm")
    return _png(image)


def contact_sheet(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Any]]],
    size: tuple[int, int] = (128, 64),
) -> bytes:
    """PNG: a labelled table of pictures.

    Arguments:
        title: above the table.
        columns: headings.
        rows: (heading, one PIL image or None per column).
        size: width and height given to each picture.
    """
    from PIL import Image

    left = 24 + int(6.6 * max((len(name) for name, _ in rows), default=0))
    width, height = left + len(columns) * (size[0] + 8) + 16, 66 + len(rows) * (size[1] + 8) + 8
    width = max(width, 24 + 8 * len(title))
    draw, image = _canvas(width, height, title, scale=1)
    for index, name in enumerate(columns):
        middle = left + index * (size[0] + 8) + size[0] / 2
        draw.text((middle, 52), name, fill=INK, font=_font(11, 1), anchor="mm")
    for row, (name, pictures) in enumerate(rows):
        top = 66 + row * (size[1] + 8)
        draw.text((left - 10, top + size[1] / 2), name, fill=INK, font=_font(12, 1), anchor="rm")
        for index, picture in enumerate(pictures):
            if picture is not None:
                fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
                image.paste(fitted, (left + index * (size[0] + 8), top))
    return _png(image, 1)


def _span(values: Sequence[float], pad: float = 0.08) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    margin = pad * (high - low)
    return low - margin, high + margin


def _font(size: int, scale: int = SCALE) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size * scale)


def _canvas(width: int, height: int, title: str, scale: int = SCALE) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width * scale, height * scale), "white")
    draw = ImageDraw.Draw(image)
    draw.text((12 * scale, 8 * scale), title, fill=INK, font=_font(14, scale))
    return draw, image


def _x_axis(
    draw: Any, frame: Frame, at: Sequence[float], label: str, texts: Sequence[str] | None = None
) -> None:
    for index, x in enumerate(at):
        u, v = frame.at(x, frame.y[0])
        draw.line([(u, v), (u, frame.at(x, frame.y[1])[1])], fill=GRID, width=SCALE)
        text = texts[index] if texts else f"{x:g}"
        draw.text((u, v + 6 * SCALE), text, fill=INK, font=_font(11), anchor="mt")
    draw.line([frame.at(frame.x[0], frame.y[0]), frame.at(frame.x[1], frame.y[0])], fill=INK, width=SCALE)
    middle = frame.at((frame.x[0] + frame.x[1]) / 2, frame.y[0])
    draw.text((middle[0], middle[1] + 28 * SCALE), label, fill=INK, font=_font(12), anchor="mt")


def _dashes(draw: Any, start: tuple[float, float], end: tuple[float, float], count: int = 40) -> None:
    for k in range(0, count, 2):
        a, b = k / count, (k + 1) / count
        draw.line(
            [tuple(s + f * (e - s) for s, e in zip(start, end)) for f in (a, b)], fill="#888888", width=SCALE
        )


def _png(image: Any, scale: int = SCALE) -> bytes:
    from PIL import Image

    if scale > 1:
        image = image.resize((image.width // scale, image.height // scale), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
