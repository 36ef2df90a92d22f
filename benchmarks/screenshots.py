"""The pictures of a report in docs/pictures: report.png and run.png, of a real sweep.

    python benchmarks/screenshots.py sweeps/rules     # the sweep of docs/tutorial.md

Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

#: Seconds to wait for anything; the machine may be busy.
PATIENCE = 300
_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
              "--disable-background-networking", "--disable-sync"]  # fmt: skip


def keep(page: Any, file: Path) -> None:
    """What the browser shows, as a small PNG."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(file, optimize=True)
    print(f"{file} {picture.width} x {picture.height}, {file.stat().st_size // 1024} kB")


def report(page: Any, out: Path, sweep: Path) -> None:
    """The page of a sweep, and one of its runs opened."""
    page.goto(f"file://{(sweep / 'index.html').resolve()}")
    page.wait_for_selector(".card img")
    page.wait_for_timeout(2000)
    keep(page, out / "report.png")
    page.click(".card >> nth=0")
    page.wait_for_selector("model-viewer[data-drawn]")
    page.wait_for_timeout(3000)
    keep(page, out / "run.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path, help="the folder of a finished sweep")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    words = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        parser.error("chromium is not installed (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS, timeout=120_000)
        page = browser.new_page(viewport={"width": 1180, "height": 860})
        page.set_default_timeout(1000 * PATIENCE)
        report(page, words.out, words.sweep)
        browser.close()


if __name__ == "__main__":
    main()
