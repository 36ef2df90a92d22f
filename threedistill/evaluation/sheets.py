"""Pictures side by side with what they are written above and beside them, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

__all__ = ["contact_sheet"]

_INK = "#222222"


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
    from PIL import Image, ImageDraw, ImageFont

    left = 24 + int(6.6 * max((len(name) for name, _ in rows), default=0))
    width, height = left + len(columns) * (size[0] + 8) + 16, 66 + len(rows) * (size[1] + 8) + 8
    width = max(width, 24 + 8 * len(title))
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((12, 8), title, fill=_INK, font=ImageFont.load_default(14))
    for index, name in enumerate(columns):
        middle = left + index * (size[0] + 8) + size[0] / 2
        draw.text((middle, 52), name, fill=_INK, font=ImageFont.load_default(11), anchor="mm")
    for row, (name, pictures) in enumerate(rows):
        top = 66 + row * (size[1] + 8)
        draw.text(
            (left - 10, top + size[1] / 2), name, fill=_INK, font=ImageFont.load_default(12), anchor="rm"
        )
        for index, picture in enumerate(pictures):
            if picture is not None:
                fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
                image.paste(fitted, (left + index * (size[0] + 8), top))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
