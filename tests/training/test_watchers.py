"""Who looks on: loggers and the caller's function are told everything, and change nothing of what is made."""

from __future__ import annotations

import contextlib
import csv
import inspect
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

import threedistill
from threedistill import Step
from threedistill.errors import ThreedistillWarning
from threedistill.training.loggers import KINDS, Book, check_loggers
from threedistill.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
#: Two stages of as little as can be.
TINY = [
    "stages=[{name: one, iterations: 3}, {name: two, iterations: 3}]", "budget.views=2", "budget.resolution=32",
    "budget.grid=24", "export.faces=200", "export.texture_size=0", "export.turntable_frames=0",
    "trainer.preview_every=2", "trainer.log_every=2", "convert.steps=2", "convert.bank=4", "convert.size=16",
]  # fmt: skip
STATES = ("00-one", "01-two")


def make(out: Path, *overrides: str, **more) -> threedistill.Result:
    return threedistill.generate(
        "a red ball",
        out=out,
        prior="oracle",
        preset="bench",
        quiet=True,
        overrides=[*TINY, *overrides],
        **more,
    )


def content(run: Path) -> dict[str, bytes]:
    """Everything that a run makes: its asset, its states, its pictures."""
    found = {
        p.name: p.read_bytes() for place in ("asset", "preview") for p in sorted((run / place).iterdir())
    }
    for name in STATES:
        state = load_file(run / "checkpoints" / name / "last.safetensors")
        found |= {f"{name}/{key}": value.numpy().tobytes() for key, value in state.items()}
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("plain") / "run").run_dir


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> tuple[Path, list[Step]]:
    """The same run with loggers and somebody looking on, interrupted by them in its second stage, and continued."""
    run, steps = tmp_path_factory.mktemp("watched") / "run", []

    def look(step: Step) -> None:
        steps.append(step)
        step.metrics.clear()  # type: ignore[attr-defined]
        if step.done == 4 and len(steps) == 4:
            raise RuntimeError("seen enough")

    with pytest.raises(RuntimeError, match="seen enough") as caught:
        make(run, "trainer.loggers=[csv,tensorboard]", on_step=look)
    assert caught.value.run_dir == run  # type: ignore[attr-defined]
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["error"], record["stages"]) == ("failed", "seen enough", [3, 3])
    threedistill.resume(run, quiet=True, on_step=steps.append)
    return run, steps


def test_watching_changes_nothing(plain, watched):
    assert content(plain) == content(watched[0])


def test_every_step_is_told(watched):
    run, steps = watched
    assert [(s.stage, s.iteration, s.done) for s in steps] == [
        ("one", 1, 1), ("one", 2, 2), ("one", 3, 3), ("two", 1, 4), ("two", 2, 5), ("two", 3, 6),
    ]  # fmt: skip
    assert {(s.iterations, s.total, s.run_dir) for s in steps} == {(3, 6, run)}
    assert steps[-1].metrics["direction_rms"] > 0


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def scalars(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """What tensorboard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "logs" / "tensorboard"))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    pictures = {
        tag: [(e.step, e.encoded_image_string) for e in events.Images(tag)] for tag in events.Tags()["images"]
    }
    return {**found, **{f"picture {tag}": seen for tag, seen in pictures.items()}}


def test_tensorboard_reads_the_whole_run_as_one(watched):
    found = scalars(watched[0])
    rows = read(watched[0] / "metrics.csv")
    wanted = [(3 * int(r["stage"]) + int(r["iteration"]), float(r["direction_rms"])) for r in rows]
    assert [step for step, _ in found["direction_rms"]] == [2, 3, 5, 6] == [step for step, _ in wanted]
    for (_, logged), (_, written) in zip(found["direction_rms"], wanted, strict=True):
        assert logged == pytest.approx(written, rel=1e-5)
    assert found["seconds/export"][0][0] == 6
    assert [step for step, _ in found["picture preview"]] == [2, 3, 5, 6]


def test_lightnings_csv_goes_on_in_the_same_file(watched):
    rows = read(watched[0] / "logs" / "csv" / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [2, 3, 5, 6, 6]
    assert float(rows[-1]["seconds/export"]) > 0 and rows[-1]["direction_rms"] == ""
    assert "oracle" in (watched[0] / "logs" / "csv" / "hparams.yaml").read_text()


# ---- loggers that need an account or a server: a recording stand-in behind Lightning's own signature ----------------

CLASSES = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}


class Recorder:
    """Stands in for one of Lightning's loggers; every call is held to that logger's own signature."""

    made: list[Recorder] = []

    def __init__(self, kind: type, **arguments) -> None:
        inspect.signature(kind).bind(**arguments)
        self.kind, self.arguments, self.calls = kind, arguments, []
        self.version = arguments.get("id")
        self.run_id = arguments.get("run_id") or "run-of-the-server"
        self.experiment = SimpleNamespace(
            finish=lambda: self.calls.append(("finish",)),
            log_artifact=lambda *a: self.calls.append(("log_artifact", *a)),
        )
        Recorder.made.append(self)

    def __getattr__(self, name: str):
        own = inspect.signature(getattr(self.kind, name))

        def call(*arguments) -> None:
            own.bind(self, *arguments)
            self.calls.append((name, *arguments))

        return call

    def named(self, name: str) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Lightning's heavy loggers replaced, and their packages importable."""
    import pytorch_lightning.loggers as own

    Recorder.made = []
    for package, name in CLASSES.items():
        (tmp_path / "site" / package).mkdir(parents=True)
        (tmp_path / "site" / package / "__init__.py").touch()
        kind = getattr(own, name)
        monkeypatch.setattr(own, name, lambda kind=kind, **arguments: Recorder(kind, **arguments))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    return Recorder.made


def test_wandb_and_mlflow_are_told_the_same(recorded, plain, tmp_path):
    run = tmp_path / "run"

    def once(step: Step) -> None:
        if step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(run, "trainer.loggers=[wandb,mlflow]", on_step=once)
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    threedistill.resume(run, quiet=True)
    assert content(run) == content(plain)

    first, again = recorded[::2], recorded[1::2]
    wandb, mlflow = (r for r in recorded[:2])
    assert wandb.arguments["offline"] is True and wandb.arguments["resume"] == "allow"
    place = run / "logs" / "mlflow"
    assert mlflow.arguments["tracking_uri"] == f"sqlite:///{place / 'mlflow.db'}"
    assert mlflow.arguments["artifact_location"] == (place / "files").as_uri()
    assert mlflow.arguments["run_id"] is None
    later = recorded[2:]
    assert (
        later[0].arguments["id"] == wandb.arguments["id"]
        and later[1].arguments["run_id"] == "run-of-the-server"
    )
    for one, two in zip(recorded[:2], later, strict=True):
        assert one.named("log_hyperparams")[0][0]["prompt"] == "a red ball"
        assert [step for _, step in one.named("log_metrics")] == [2]
        assert [step for _, step in two.named("log_metrics")] == [3, 5, 6, 6]
        assert one.named("finalize") == [("failed",)] and two.named("finalize") == [("success",)]
        assert "seconds/export" in two.named("log_metrics")[-1][0]
    assert later[0].named("finish") and [call[2] for call in later[0].named("log_image")] == [3, 5, 6]
    assert later[1].named("log_artifact")[0][1].endswith("000003.png")
    assert len(first) == len(again) == 2


def test_only_the_users_own_environment_goes_online(recorded, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    for name in CLASSES:
        KINDS[name].open(tmp_path, "run", None, 0)
    assert recorded[0].arguments["offline"] is False
    assert recorded[1].arguments["tracking_uri"] == "http://localhost:1"
    assert recorded[1].arguments["artifact_location"] is None


# ---- the same with the packages themselves, where they are installed -----------------------------------------------


def wandb_records(file: Path) -> Iterator[Any]:
    """What a ``.wandb`` file holds: messages in LevelDB's log format, 7 bytes of its own before the first block."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, message = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the end of a block is too short for a header
            place += 32768 - place % 32768
            continue
        _, length, part = struct.unpack_from("<IHB", content, place)
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


INTERRUPTED = """
import sys, threedistill

def once(step):
    if step.done == 2:
        raise KeyboardInterrupt

try:
    threedistill.generate("a red ball", out="run", prior="oracle", preset="bench", quiet=True,
                          overrides=[*sys.argv[1:], "trainer.loggers=[wandb,mlflow]"], on_step=once)
except KeyboardInterrupt:
    threedistill.resume("run", quiet=True)
"""


@pytest.mark.slow
def test_wandb_and_mlflow_themselves(tmp_path):
    """An interrupted and continued run, in wandb's offline file and in MLflow's database, read without our code."""
    for package in ("wandb", "mlflow"):
        pytest.importorskip(package)
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))
    } | {"PYTHONPATH": str(ROOT)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *TINY],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "the logger" not in done.stderr, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"run"}, "nothing beside the run's folder"
    logs = tmp_path / "run" / "logs"
    with contextlib.closing(sqlite3.connect(logs / "mlflow" / "mlflow.db")) as database:
        ((mark, status, place),) = database.execute(
            "select run_uuid, status, artifact_uri from runs"
        ).fetchall()
        rows = database.execute(
            "select step from metrics where key = 'direction_rms' order by step"
        ).fetchall()
        figures = {key for (key,) in database.execute("select key from latest_metrics")}
        prompt = database.execute("select value from params where key = 'prompt'").fetchone()
    assert (status, prompt) == ("FINISHED", ("a red ball",)) and "seconds/export" in figures
    assert [step for (step,) in rows] == [2, 3, 5, 6]
    assert {p.name for p in (Path(place.removeprefix("file://")) / "preview").iterdir()} >= {"000006.png"}
    files = sorted(logs.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1, "both processes wrote under one mark"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["loggers"]["mlflow"] == mark
    records = [record for file in files for record in wandb_records(file)]
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [row["trainer/global_step"] for row in history if "direction_rms" in row] == [2, 3, 5, 6]
    assert any("seconds/export" in row for row in history) and any("preview" in str(row) for row in history)
    assert any(item.key == "prompt" for r in records for item in (*r.run.config.update, *r.config.update))


def test_a_logger_that_fails_is_left_out_with_a_word(recorded, monkeypatch, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    monkeypatch.setattr("threedistill.training.loggers.read_config", lambda path: {"prompt": "x"})
    book = Book(["wandb", "mlflow"], run)
    book.begin(0)
    recorded[0].kind = SimpleNamespace(log_metrics=None)
    with pytest.warns(ThreedistillWarning, match="the logger wandb failed .*; the run goes on without it"):
        book.numbers({"a": 1.0}, 1)
    book.numbers({"a": 2.0}, 2)
    assert [step for _, step in recorded[1].named("log_metrics")] == [1, 2]
    book.end("success")
    assert not recorded[0].named("finalize") and recorded[1].named("finalize")


def test_a_missing_package_is_said_before_anything_starts(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = command("generate", "a red ball", "trainer.loggers=[csv,wandb]", "--out", "run")
    assert (done.status, done.err) == (
        2,
        "threedistill: error: trainer.loggers=wandb needs the package wandb: pip install 'threedistill[log]'\n",
    )
    assert not Path("run").exists()
    done = command("generate", "a red ball", "trainer.loggers=[visdom]", "--out", "run")
    assert done.status == 2 and "visdom" in done.err and done.err.count("\n") == 1
    check_loggers(["csv"])


def test_the_extra_brings_what_the_loggers_need():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["log"]) == {kind.package for kind in KINDS.values()} - {None}
