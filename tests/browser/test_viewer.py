"""The viewer in a browser: the scene appears, settings are changed while it runs, and the run records it."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reports.folders import cloud
from tests.viewer.ports import free_port
from threedistill import pipeline
from threedistill.exports.splat_files import write_splats
from threedistill.training.steering import Steering, read_changes

pytestmark = pytest.mark.browser


def test_a_run_is_watched_and_steered(visit: Callable, workspace: Path, monkeypatch: pytest.MonkeyPatch):
    doors: list[Steering] = []
    made = Steering.__init__

    def keep(self: Steering, *arguments) -> None:
        made(self, *arguments)
        self.pause()
        doors.append(self)

    monkeypatch.setattr(Steering, "__init__", keep)
    port, out = free_port(), workspace / "run"
    failed: list[BaseException] = []

    def work() -> None:
        try:
            pipeline.generate(
                "a red mushroom", out=out, prior="oracle", representation="gaussians", quiet=True, viewer=port,
                overrides=[
                    "budget.iterations=40", "budget.views=2", "budget.faces=200", "budget.texture=0", "budget.grid=24",
                    "export.turntable_frames=0", "trainer.preview_every=0",
                ],
            )  # fmt: skip
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        page = visit(_served(port, failed)).page
        page.wait_for_selector("text=CFG scale")
        page.click("button:has-text('Step')")
        page.click("button:has-text('Step')")
        page.wait_for_function("document.body.innerText.includes('2 / 40')")
        page.wait_for_selector("text=The teacher's clean prediction")
        scale = page.get_by_label("CFG scale")
        scale.fill("33")
        scale.press("Tab")
        page.click("button:has-text('Apply')")
        page.wait_for_function(
            "[...document.querySelectorAll('textarea')].some(t => t.value.includes('guidance.rule.cfg.scale = 33'))"
        )
        page.click("button:has-text('Continue')")
        thread.join(timeout=240)
        assert not thread.is_alive() and not failed, failed
    finally:
        for door in doors:
            door.go_on()
    changes = read_changes(out)
    assert [(c.key, c.value) for c in changes] == [("guidance.rule.cfg.scale", 33.0)]
    assert changes[0].iteration == 2
    assert (out / "asset" / "model.glb").is_file()


def test_files_are_shown(visit: Callable, tmp_path: Path):
    from threedistill.viewer.serving import served
    from threedistill.viewer.still import assets_of, show

    file = tmp_path / "ball.ply"
    write_splats(cloud(), file)
    port = free_port()
    with served(port) as server:
        show(server, assets_of(file), file)
        page = visit(f"http://127.0.0.1:{port}").page
        page.wait_for_selector("text=400, harmonics of degree 0")
        _until_red(page)


def _until_red(page: Any) -> None:
    """Waits until the middle of what is seen is red; WebGL's canvas cannot be read between its frames."""
    import time

    for _ in range(90):
        seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)
        red, green, _ = seen[seen.shape[0] // 2, seen.shape[1] // 2]
        if red > 100 and red > 2 * green:
            return
        time.sleep(1)
    raise AssertionError("nothing red was drawn")


def _served(port: int, failed: list[BaseException]) -> str:
    """The address, once somebody listens there."""
    import time

    for _ in range(600):
        assert not failed, failed
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}"
        time.sleep(0.2)
    raise AssertionError("nobody listens")
