"""Changes while a run runs: through one door, written down before they are applied, part of the run for ever."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from threedistill import pipeline
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.training.callbacks import read_metrics
from threedistill.training.planning import build_plan
from threedistill.training.run_folder import RunFolder
from threedistill.training.stages import Interrupted
from threedistill.training.steering import Change, Steered, Steering, check_changes, read_changes

SMALL = (
    "budget.iterations=12", "budget.views=2", "budget.grid=24", "budget.faces=200", "budget.texture=0",
    "export.turntable_frames=0", "trainer.preview_every=0", "trainer.log_every=1", "trainer.checkpoint_every=5",
)  # fmt: skip

#: What is changed, by the step before which it is asked for.
SCRIPT: dict[int, list[tuple[str, object]]] = {
    3: [("guidance.rule.cfg.scale", 20.0), ("background.white", 1.0)],
    7: [("guidance.timesteps.window.max", 0.6), ("shading", "lambertian"), ("prompt", "a blue car")],
}  # fmt: skip


def generate(out: Path, **more: object) -> pipeline.Result:
    return pipeline.generate("a red mushroom", out=out, prior="gaussian", quiet=True, overrides=SMALL, **more)


@pytest.fixture
def scripted(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[dict[int, list[tuple[str, object]]], int | None], None]:
    """Somebody at the controls who asks for the script's changes, and may pull the plug at a step."""

    own = Steered.on_train_batch_start

    def install(script: dict[int, list[tuple[str, object]]], stops_at: int | None = None) -> None:
        done = set()

        def start(self: Steered, trainer, module, batch: int, number: int) -> None:
            if batch in script and batch not in done:
                done.add(batch)
                for key, value in script[batch]:
                    self.steering.ask(key, value)
            if batch == stops_at:
                self.stop.requested = True
            own(self, trainer, module, batch, number)

        monkeypatch.setattr(Steered, "on_train_batch_start", start)

    return install


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The asset, the final state, and the numbers apart from durations."""
    found = {name: (folder / name).read_bytes() for name in ("asset/model.glb", "changes.jsonl")}
    state = load_file(next(folder.glob("checkpoints/00-*/last.safetensors")))
    found |= {name: tensor.numpy().tobytes() for name, tensor in state.items()}
    rows = (folder / "metrics.csv").read_text().splitlines()
    durations = [name.startswith("seconds_") for name in rows[0].split(",")]
    found["metrics"] = "\n".join(
        ",".join(value for value, aside in zip(row.split(","), durations) if not aside) for row in rows
    ).encode()
    return found


def test_changes_are_part_of_the_run_stopped_resumed_or_replayed(workspace: Path, scripted: Callable):
    scripted(SCRIPT)
    generate(workspace / "steered")
    steered = bytes_of(workspace / "steered")
    lines = [json.loads(line) for line in steered["changes.jsonl"].decode().splitlines()]
    assert [(line["iteration"], line["key"], line["value"]) for line in lines] == [
        (step, key, value) for step, asked in SCRIPT.items() for key, value in asked
    ]

    levels = [float(row["t"]) for row in read_metrics(workspace / "steered" / "metrics.csv")[1]]
    assert max(levels[:7]) > 600 >= max(levels[7:]), "the noise window came down at step 7"

    scripted({})
    generate(workspace / "replayed", changes=workspace / "steered")
    assert bytes_of(workspace / "replayed") == steered

    # Stopped between the two changes and resumed.
    scripted(SCRIPT, 5)
    with pytest.raises(Interrupted):
        generate(workspace / "stopped")
    scripted({7: SCRIPT[7]})
    pipeline.resume(workspace / "stopped", quiet=True)
    assert bytes_of(workspace / "stopped") == steered


@pytest.mark.slow
def test_what_was_recorded_behind_the_checkpoint_is_met_again(workspace: Path, scripted: Callable):
    scripted(SCRIPT, 8)
    with pytest.raises(Interrupted):
        generate(workspace / "run")
    run = RunFolder(workspace / "run")
    recorded = run.changes.read_bytes()
    state = next((workspace / "run").glob("checkpoints/00-*"))
    (state / "previous.safetensors").replace(
        state / "last.safetensors"
    )  # the state of step 5: a kill at step 9
    scripted({})
    pipeline.resume(run.path, quiet=True)
    assert run.changes.read_bytes() == recorded
    generate(workspace / "replayed", changes=run.changes)
    assert bytes_of(workspace / "run") == bytes_of(workspace / "replayed")


WRONG = [
    ("guidance.rule.cfg.scale", -1.0, "scale"),
    ("guidance.rule.cfg.scale", "much", "scale"),
    ("guidance.rule.cfg.scael", 3.0, "did you mean 'guidance.rule.cfg.scale'"),
    ("guidance.rule._target_", "os.system", "there is no"),
    ("guidance.timesteps.window.min", 0.99, "window"),
    ("background.plain", [2.0, 0.0, 0.0], "plain"),
    ("shading", "shiny", "shading"),
    ("prompt", "", "prompt"),
    ("prompt", 7, "must be a text"),
    ("background.learned", 0.5, "cannot be changed while a run runs"),
    ("budget.iterations", 5, "cannot be changed while a run runs"),
    ("representation.model.bound", 5, "cannot be changed while a run runs"),
    ("__class__", 5, "cannot be changed while a run runs"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=[f"{key}-{value}" for key, value, _ in WRONG])
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(tmp_path: Path, key, value, words):
    config = compose(prompt="a duck", prior="oracle")
    steering = Steering(RunFolder(tmp_path), config, build_plan(config))
    with pytest.raises(UsageError, match=words) as refused:
        steering.ask(key, value)
    assert "\n" not in str(refused.value)
    steering.before(_system(), 0, lambda: True)
    assert not (tmp_path / "changes.jsonl").exists()


def test_changes_of_another_run_are_checked_before_anything_begins(workspace: Path):
    config = compose(prompt="a duck", prior="oracle")
    plan = build_plan(config)
    with pytest.raises(UsageError, match="no such step"):
        check_changes(config, plan, [Change(0, 10**9, "shading", "none")])
    with pytest.raises(UsageError, match=r"change at stage 0, step 4: .*scale"):
        check_changes(config, plan, [Change(0, 4, "guidance.rule.cfg.scale", -1)])
    file = workspace / "c.jsonl"
    for text in (
        "[]\n",
        "{}\n",
        '{"stage": -1, "iteration": 0, "key": "shading", "value": 1}\n',
        "nonsense\n",
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match="line 1, is no change"):
            read_changes(file)
    with pytest.raises(UsageError, match="there is no such file"):
        read_changes(workspace / "nowhere.jsonl")
    change = Change(0, 4, "prompt", "a \n duck </script>")
    file.write_text(change.line + '{"stage": 0, "itera')
    assert read_changes(file) == [change], "a torn line was never applied"


def test_a_paused_run_waits_makes_single_steps_and_goes_on(tmp_path: Path):
    config = compose(prompt="a duck", prior="oracle")
    steering = Steering(RunFolder(tmp_path), config, build_plan(config))
    reached: list[int] = []
    moved = threading.Condition()

    def work() -> None:
        for step in range(6):
            steering.before(_system(), step, lambda: True)
            with moved:
                reached.append(step)
                moved.notify_all()

    def wait_for(count: int) -> None:
        with moved:
            assert moved.wait_for(lambda: len(reached) >= count, timeout=30)

    steering.pause()
    thread = threading.Thread(target=work)
    thread.start()
    steering.step()
    wait_for(1)
    steering.step()
    wait_for(2)
    with moved:
        assert not moved.wait_for(lambda: len(reached) > 2, timeout=0.5), "it waits again"
    steering.go_on()
    thread.join(timeout=30)
    assert reached == [0, 1, 2, 3, 4, 5]


def test_a_paused_run_that_is_asked_to_stop_waits_no_longer(tmp_path: Path):
    config = compose(prompt="a duck", prior="oracle")
    steering = Steering(RunFolder(tmp_path), config, build_plan(config))
    steering.pause()
    looked = []
    steering.before(_system(), 0, lambda: len(looked.append(1) or looked) < 3)
    assert len(looked) == 3


def _system():
    class Untouched:
        """Nothing is applied to it."""

    return Untouched()
