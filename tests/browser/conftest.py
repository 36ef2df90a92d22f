"""Visits of pages in a browser; every page's complaints are collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

#: Milliseconds; the machine may be busy.
PATIENCE = 90_000


@dataclass
class Opened:
    """A page, and what it complained of or fetched from elsewhere."""

    page: Any
    errors: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a page: ``visit(address, width=1280, dark=False)``."""
    contexts = []

    def open_page(address: str, width: int = 1280, height: int = 860, dark: bool = False) -> Opened:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
            reduced_motion="reduce", accept_downloads=True,
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        opened = Opened(page)
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and opened.errors.append(message.text))
        own = address.split("/", 3)[2]

        def asked(request: Any) -> None:
            scheme, _, rest = request.url.partition("://")
            if not request.url.startswith(("file:", "data:", "blob:")) and rest.split("/")[0] != own:
                opened.fetched.append(f"{scheme}://{rest}")

        page.on("request", asked)
        page.goto(address)
        return opened

    yield open_page
    for context in contexts:
        context.close()
