"""The pictures of the pages in docs/pictures: report.png, run.png, viewer.png and app.png, each of real runs.

    python benchmarks/screenshots.py report --sweep sweeps/rules     # the sweep of docs/tutorial.md
    python benchmarks/screenshots.py viewer app                      # each makes a run of its own, preset bench

Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

PROMPT = "a yellow duck"
#: Seconds to wait for anything; the machine may be busy.
PATIENCE = 300
_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
              "--disable-background-networking", "--disable-sync"]  # fmt: skip


@contextlib.contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command of ours; it is stopped with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "threedistill", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


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


def viewer(page: Any, out: Path, scratch: Path) -> None:
    """A run that is watched, paused after two thirds of its steps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with command(
        "generate", PROMPT, "--preset", "bench", "--out", str(scratch / "watched"), "--viewer", str(port)
    ):
        end = time.monotonic() + PATIENCE
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) and time.monotonic() < end:
                time.sleep(0.5)
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_function("/\\b1[0-5]\\d \\/ 160/.test(document.body.innerText)")
        page.click("button:has-text('Pause')")
        page.wait_for_timeout(15_000)  # it sharpens, and the panel gets the last step's pictures
        keep(page, out / "viewer.png")


def app(page: Any, out: Path, scratch: Path) -> None:
    """A prompt that was typed, and its asset."""
    with command(
        "app",
        "--port",
        "0",
        "--preset",
        "bench",
        "--share-dir",
        str(scratch / "app"),
        "trainer.preview_every=40",
    ) as process:
        assert process.stdout is not None
        page.goto(process.stdout.readline().strip())
        page.fill("#td-prompt textarea", PROMPT)
        page.click("#td-make")
        page.wait_for_function("document.querySelector('#td-status')?.innerText.includes('finished in')")
        page.wait_for_function(
            "document.querySelector('#td-view iframe')?.contentDocument?.querySelector('model-viewer')?.loaded"
        )
        page.wait_for_timeout(4000)
        keep(page, out / "app.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", choices=("report", "viewer", "app"))
    parser.add_argument("--sweep", type=Path, help="the folder of a finished sweep, for the report")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    words = parser.parse_args()
    if "report" in words.pages and words.sweep is None:
        parser.error("report needs --sweep DIR")
    path = shutil.which("chromium")
    if path is None:
        parser.error("chromium is not installed (apt install chromium)")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS, timeout=120_000)
        for name in words.pages:
            page = browser.new_page(viewport={"width": 1180, "height": 860})
            page.set_default_timeout(1000 * PATIENCE)
            if name == "report":
                report(page, words.out, words.sweep)
            else:
                {"viewer": viewer, "app": app}[name](page, words.out, Path(scratch))
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
