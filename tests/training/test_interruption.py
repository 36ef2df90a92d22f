"""Signals: in whatever phase one comes, a line, a status, and a run that goes on to the same asset."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import threedistill.training.assemble as assembling
import threedistill.training.finish as finish
import threedistill.training.handover as handover
import threedistill.training.stages as stages
from tests.representations.balls import ball_mesh
from tests.training.test_file_operations import TINY
from threedistill.exports.asset import write_mesh
from threedistill.pipeline import Result, generate, resume
from threedistill.training.interruption import stoppable
from threedistill.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)
FIT = ["convert.steps=4", "convert.bank=4", "convert.views=2", "convert.size=16", "convert.resolution=16"]


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ball") / "ball.ply"
    write_mesh(ball_mesh(0.5, 8), file)
    return file


def make(out: Path, ball: Path) -> Result:
    return generate("a red disc", out=out, prior="gaussian", init=ball, quiet=True, overrides=[*TINY, *FIT])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ball: Path) -> Path:
    return make(tmp_path_factory.mktemp("whole") / "run", ball).run_dir


#: Phase -> (module, function) in whose midst the signal comes, and whether the run is found begun afterwards.
PHASES = {
    "setup": (assembling, "build_stages", False),
    "conversion": (handover, "convert", True),
    "start of the trainer": (stages.ScoreDistillation, "configure_optimizers", True),
    "step": (stages.ScoreDistillation, "training_step", True),
    "export": (finish, "write_asset", True),
    "verdict": (finish, "verdict", True),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_can_be_interrupted(
    phase: str, number: int, whole: Path, ball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name, begun = PHASES[phase]
    real = getattr(place, name)

    def signalled(*args: Any, **more: Any) -> Any:
        os.kill(os.getpid(), number)
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, signalled)
        with pytest.raises(KeyboardInterrupt) as stopped:
            make(tmp_path / "run", ball)
    run = RunFolder(tmp_path / "run")
    assert run.path.exists() == begun
    if not begun:
        assert "nothing had begun" in stopped.value.hint
        again = make(run.path, ball)
    else:
        assert Path(stopped.value.run_dir) == run.path
        run.reopen()
        assert run.read_record()["status"] == "interrupted"
        again = resume(run.path, quiet=True)
    assert again.asset.read_bytes() == (whole / "asset" / "model.glb").read_bytes()


def test_a_request_that_a_library_swallows_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), stoppable() as stop:
        with contextlib.suppress(KeyboardInterrupt):  # as some callback in a library does
            os.kill(os.getpid(), signal.SIGTERM)
        stop.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_within_a_step_the_first_waits_and_the_second_does_not() -> None:
    with stoppable() as stop:
        with stop.waiting():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.check()


def test_the_command_says_how_to_go_on(
    command, monkeypatch: pytest.MonkeyPatch, whole: Path, ball: Path
) -> None:
    """The line, exit status 130, and the same as JSON."""

    def interrupted(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(finish, "write_asset", interrupted)
    words = ["a red disc", "--prior", "gaussian", "--init", str(ball), "--out", "run", *TINY, *FIT]
    done = command("generate", *words, "--quiet", "--json")
    assert done.status == 130
    assert done.err == "threedistill: interrupted; continue with: threedistill resume run\n"
    assert json.loads(done.out) == {
        "error": "interrupted; continue with: threedistill resume run", "status": 130, "run_dir": "run",
    }  # fmt: skip
