"""The pictures of the pages in docs/pictures, each of real runs, at most 250 kB.

    python benchmarks/screenshots.py report --sweep sweeps/rules     # report.png, run.png: the tutorial's sweep
    python benchmarks/screenshots.py report --sweep out --name ray   # ray.png, ray-run.png
    python benchmarks/screenshots.py viewer view app                 # runs of presets draft and bench

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
PATIENCE = 900
LARGEST = 250_000
_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
              "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
              "--disable-sync"]  # fmt: skip


@contextlib.contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command of ours; it is stopped with the block."""
    line = [sys.executable, "-m", "threedistill", *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=120)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def opened(page: Any, port: int) -> None:
    """Opens a viewer's page once somebody listens there."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    page.goto(f"http://127.0.0.1:{port}")


def keep(page: Any, file: Path) -> None:
    """What the browser shows, as a small PNG."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(file, optimize=True)
    if file.stat().st_size > LARGEST:
        picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file} {picture.width} x {picture.height}, {file.stat().st_size // 1024} kB", flush=True)


def settled(page: Any, seconds: float) -> None:
    """Waits until a scene has sharpened; what viser says of this browser's software GL is put away."""
    notice = page.locator(".mantine-Notification-closeButton")
    for _ in range(round(seconds)):
        page.wait_for_timeout(1000)
        if notice.count() and notice.first.is_visible():
            notice.first.click()


def report(page: Any, out: Path, sweep: Path, name: str) -> None:
    """The page of a sweep, and one of its runs opened."""
    page.goto(f"file://{(sweep / 'index.html').resolve()}")
    page.wait_for_selector(".card img")
    page.wait_for_timeout(2000)
    keep(page, out / f"{name}.png")
    page.click(".card >> nth=0")
    page.wait_for_selector("model-viewer[data-drawn]")
    page.wait_for_timeout(3000)
    keep(page, out / ("run.png" if name == "report" else f"{name}-run.png"))


def viewer(page: Any, out: Path, scratch: Path) -> None:
    """A run that is watched, paused past the middle; then it goes on to its end."""
    port = free_port()
    words = ["generate", PROMPT, "--preset", "draft", "--out", str(scratch / "watched")]
    with command(*words, "--viewer", str(port)) as run:
        opened(page, port)
        page.wait_for_function("/\\b[23]\\d\\d \\/ 450/.test(document.body.innerText)")
        page.click("button:has-text('Pause')")
        page.wait_for_function("document.body.innerText.includes('paused')")
        settled(page, 30)
        keep(page, out / "viewer.png")
        page.click("button:has-text('Continue')")
        run.wait(timeout=PATIENCE)


def view(page: Any, out: Path, scratch: Path) -> None:
    """A finished run, looked at."""
    port, run = free_port(), scratch / "duck"
    if not (run / "asset" / "model.glb").is_file():
        words = ["generate", PROMPT, "--preset", "bench", "--out", str(run), "trainer.preview_every=40"]
        with command(*words) as making:
            making.wait(timeout=PATIENCE)
    with command("view", str(run), "--port", str(port)):
        opened(page, port)
        page.wait_for_selector("text=direction rms")
        settled(page, 20)
        keep(page, out / "view.png")


def app(page: Any, out: Path, scratch: Path) -> None:
    """A prompt that was typed, and its asset."""
    words = ["app", "--port", "0", "--preset", "bench,draft,standard", "--share-dir", str(scratch / "app")]
    with command(*words) as process:
        assert process.stdout is not None
        page.goto(process.stdout.readline().strip())
        page.fill("#td-prompt textarea", PROMPT)
        page.click("#td-make")
        page.wait_for_function("document.querySelector('#td-status')?.innerText.includes('about')")
        page.wait_for_selector("#td-status img")
        page.wait_for_function("document.querySelector('#td-status')?.innerText.includes('finished in')")
        page.wait_for_function(
            "document.querySelector('#td-view iframe')?.contentDocument?.querySelector('model-viewer')?.loaded"
        )
        page.wait_for_timeout(8000)  # its bar of progress fades
        keep(page, out / "app.png")


PAGES = {"viewer": viewer, "view": view, "app": app}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", choices=("report", *PAGES))
    parser.add_argument("--sweep", type=Path, help="the folder of a finished sweep, for the report")
    parser.add_argument("--name", default="report", help="what the report's pictures are called")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--scratch", type=Path, help="where the runs go (default: a temporary folder)")
    words = parser.parse_args()
    if "report" in words.pages and words.sweep is None:
        parser.error("report needs --sweep DIR")
    path = shutil.which("chromium")
    if path is None:
        parser.error("chromium is not installed (apt install chromium)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        scratch = words.scratch or Path(folder)
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS, timeout=120_000)
        for name in words.pages:
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.set_default_timeout(1000 * PATIENCE)
            if name == "report":
                report(page, words.out, words.sweep, words.name)
            else:
                PAGES[name](page, words.out, scratch)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
