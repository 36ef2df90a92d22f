"""The viewer in a browser: the scene appears, settings are changed while it runs, and the run records it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reports.folders import cloud
from tests.viewer.ports import free_port
from threedistill import pipeline
from threedistill.exports.splat_files import write_splats
from threedistill.training.steering import Steering, read_changes

pytestmark = pytest.mark.browser

#: Whether the page's canvas shows more than its background.
_DRAWN = """() => {
  const canvas = document.querySelector('canvas'), copy = document.createElement('canvas');
  if (!canvas || !canvas.width) return false;
  copy.width = copy.height = 32;
  const context = copy.getContext('2d');
  context.drawImage(canvas, 0, 0, 32, 32);
  const data = context.getImageData(12, 12, 8, 8).data, values = [];
  for (let k = 0; k < data.length; k += 4) values.push(data[k] > 1.6 * data[k + 1] && data[k] > 60);
  return values.some(Boolean);
}"""


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
        page.wait_for_function(_DRAWN)


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
