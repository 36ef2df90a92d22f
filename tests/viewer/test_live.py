"""A live viewer between real steps, with a browser that only takes notes: everything is shown, and paid for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("viser")

from tests.viewer.ports import free_port
from threedistill.cameras import orbit
from threedistill.config import compose
from threedistill.training.assemble import assemble
from threedistill.training.planning import build_plan
from threedistill.training.run_folder import RunFolder
from threedistill.training.steering import Steering
from threedistill.viewer.live import HEIGHTS, LiveViewer, _View
from threedistill.viewer.scene import frustum
from threedistill.viewer.serving import served


@pytest.mark.parametrize("representation", ["hashgrid", "gaussians"])
def test_a_step_is_shown_and_the_controls_reach_the_run(tmp_path: Path, representation: str):
    config = compose(
        prompt="a red mushroom", prior="oracle", representation=representation,
        overrides=["budget.iterations=8", "budget.views=2", "budget.grid=24"],
    )  # fmt: skip
    plan = build_plan(config)
    system = assemble(plan).stages[0]
    made = system.configure_optimizers()
    system.optimizers = lambda use_pl_optimizer=True: made  # type: ignore[method-assign]
    system.manual_backward = lambda loss, *a, **k: loss.backward()  # type: ignore[method-assign]
    pictures: list[tuple[int, ...]] = []
    client = SimpleNamespace(
        client_id=7, camera=SimpleNamespace(**frustum(orbit(1), 0)),
        scene=SimpleNamespace(set_background_image=lambda picture, **_: pictures.append(picture.shape)),
    )  # fmt: skip
    with served(free_port()) as server:
        steering = Steering(RunFolder(tmp_path), config, plan)
        viewer = LiveViewer(server, steering)
        viewer.on_train_start(None, system)  # type: ignore[arg-type]
        assert viewer.panel._scale.value == system.guidance.rule.cfg.scale  # type: ignore[attr-defined]
        steering.enter(system, 0)
        steering.before(system, 0, lambda: True)
        system.training_step(0)
        viewer.on_train_batch_end(None, system)  # type: ignore[arg-type]
        assert viewer.budget.spent == 0 and system.wishes is None, "nobody looks, so nothing is done"

        viewer._views[7] = _View(client)  # type: ignore[arg-type]
        viewer.on_train_batch_end(None, system)  # type: ignore[arg-type]
        viewer.panel._scale.value = 33.0
        viewer.panel._apply()
        assert "guidance.rule.cfg.scale = 33.0" in viewer.panel._message.value
        viewer.panel._other.value = "background.white=7"
        viewer.panel._apply()
        assert viewer.panel._message.value.startswith("refused: ")
        steering.before(system, 1, lambda: True)
        system.training_step(1)
        assert system.guidance.rule.cfg.scale == 33.0  # type: ignore[attr-defined]
        assert '"iteration": 1' in (tmp_path / "changes.jsonl").read_text()
        viewer.panel._last = 0.0
        for _ in range(2 * len(HEIGHTS)):
            viewer.work(system)
        assert viewer.budget.spent > 0
        assert {name for name, handle in viewer.panel._pictures.items() if handle.visible} == {
            "render", "wished", "predicted", "gradient",
        }  # fmt: skip
        assert server.scene.get_handle_by_name("/teacher/1") is not None
        if representation == "gaussians":
            assert server.scene.get_handle_by_name("/scene") is not None
        else:
            assert [shape[0] for shape in pictures[:4]] == list(HEIGHTS), "sharper while the camera rests"
            count = len(pictures)
            viewer.work(system)
            assert len(pictures) == count, "what is as sharp and as new as it gets is not drawn again"
        client.camera.wxyz = (0.0, 0.0, 0.0, 0.0)
        viewer._views[7].moved()
        viewer.work(system)
        if representation == "hashgrid":
            assert "the render cannot be shown" in viewer.panel._message.value, "and the run goes on"
