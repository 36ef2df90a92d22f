"""What a viewer costs a run: seconds per step with one browser looking, over seconds per step with none, in one run.

Blocks of steps alternate between the two, so whatever else the machine does meets both; the ratio is that of the
medians. The browser is Debian's chromium with software GL in a small window, on the same machine: it competes for the
same cores, which a colleague's browser does not. So the processor time of the run's own process, the viewer's server in
it, is compared as well: on a machine that is not quiet it is the fairer measure.

    python benchmarks/viewer.py [--representation hashgrid] [--steps 20] [--pairs 6] [--no-browser]

Goal: at most 1.03.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from threedistill.threads import settle_threads

settle_threads()

import torch  # noqa: E402

from threedistill.config import compose  # noqa: E402
from threedistill.training.assemble import assemble  # noqa: E402
from threedistill.training.planning import build_plan  # noqa: E402
from threedistill.training.run_folder import RunFolder  # noqa: E402
from threedistill.training.steering import Steering  # noqa: E402
from threedistill.viewer.live import LiveViewer  # noqa: E402
from threedistill.viewer.serving import served  # noqa: E402

_BROWSER = """
import sys, time
from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    b = p.chromium.launch(executable_path="/usr/bin/chromium", timeout=120000, args=["--headless", "--no-sandbox",
        "--disable-gpu", "--disable-background-networking", "--disable-sync", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader"])
    page = b.new_page(viewport={"width": 480, "height": 320})
    page.goto(sys.argv[1], timeout=120000)
    page.wait_for_selector("canvas", timeout=120000)
    print("ready", flush=True)
    sys.stdin.read()
    b.close()
"""


@contextlib.contextmanager
def browser(address: str) -> Iterator[None]:
    """A browser that looks at the address, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BROWSER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("the browser did not start")
        yield
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--representation", default="hashgrid")
    parser.add_argument("--prior", default="toybox")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--no-browser", action="store_true")
    words = parser.parse_args()
    config = compose(
        prompt="a red mushroom", representation=words.representation, prior=words.prior, preset="draft"
    )
    plan = build_plan(config)
    system = assemble(plan).stages[0]
    made = system.configure_optimizers()
    system.optimizers = lambda use_pl_optimizer=True: made  # type: ignore[method-assign]
    system.manual_backward = lambda loss, *a, **k: loss.backward()  # type: ignore[method-assign]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder, served(port) as server:
        viewer = LiveViewer(server, Steering(RunFolder(Path(folder)), config, plan))
        looking = contextlib.nullcontext() if words.no_browser else browser(f"http://127.0.0.1:{port}")
        with looking:
            viewer.on_train_start(None, system)  # type: ignore[arg-type]
            step = 0
            for block in range(-1, 2 * words.pairs):
                watched = block % 2 == 0
                viewer.budget.wait()
                system.keep_wishes = watched
                start, worked = time.perf_counter(), time.process_time()
                for _ in range(words.steps):
                    system.training_step(step)
                    step += 1
                    if watched:
                        viewer.on_train_batch_end(None, system)  # type: ignore[arg-type]
                if block >= 0:  # the first block warms up
                    spans = time.perf_counter() - start, time.process_time() - worked
                    taken[watched].append((spans[0] / words.steps, spans[1] / words.steps))
    print(
        f"{words.representation}, {torch.get_num_threads()} threads, browser {'no' if words.no_browser else 'yes'}"
    )
    for index, what in enumerate(("wall clock", "processor time")):
        with_one, without = (
            statistics.median(block[index] for block in taken[watched]) for watched in (True, False)
        )
        print(
            f"{what}: without {1000 * without:.0f} ms/step, with {1000 * with_one:.0f} ms/step, "
            f"ratio {with_one / without:.3f}"
        )
    watched = sum(wall for wall, _ in taken[True]) * words.steps
    print(f"the viewer's own time {viewer.budget.spent:.2f} s of {watched:.1f} s")


if __name__ == "__main__":
    main()
