"""Whatever file operation fails, and wherever a process is killed: no run is lost, and some verb goes on.

Every change on disk goes through ``threedistill.atomic._act``. Here the n-th one fails, or ends the process (then
nothing after it happens, clean-up included; what is being written is left half-written), for every n. The steps between
the operations are stubbed except in the slow test; the order of the operations is the product's own.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import threedistill.training.assemble as assembling
from tests.representations.balls import ball_mesh
from threedistill import atomic, pipeline
from threedistill.atomic import append_text, write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.asset import write_mesh
from threedistill.pipeline import Result, generate, resume
from threedistill.training import claims, planning
from threedistill.training.checkpoint import load_stage, save_stage
from threedistill.training.plan import Names
from threedistill.training.run_folder import OWN, RunFolder

real_act = atomic._act


class Killed(BaseException):
    """The process is gone."""


class Layer:
    """Stands below the product's file operations: counts them, and lets one of them go wrong.

    Arguments:
        at: which one, from 0; None = none.
        kill: end the process there, instead of letting the operation fail.
    """

    def __init__(self, at: int | None = None, kill: bool = False) -> None:
        self.at, self.kill, self.count, self.dead = at, kill, 0, False
        self.names: list[str] = []

    def __call__(self, operation: str, path: Path, action: Callable[[], object]) -> object:
        if self.dead:
            raise Killed
        number, self.count = self.count, self.count + 1
        self.names.append(f"{operation} {path.name}")
        if number != self.at:
            return real_act(operation, path, action)
        if not self.kill:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.dead = True
        if operation in ("fill", "append"):
            real_act(operation, path, action)
            path = path if path.exists() else next(path.parent.glob(".*.part*"), path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        raise Killed


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Layer]:
    """Put a layer below whatever follows."""

    def put(at: int | None = None, kill: bool = False) -> Layer:
        found = Layer(at, kill)
        monkeypatch.setattr(atomic, "_act", found)
        return found

    return put


@dataclass(frozen=True)
class Plan:
    """So much of a plan as the order of file operations depends on."""

    names: Names
    device: str
    given: bool
    images: tuple[()] = ()
    stages: tuple[SimpleNamespace, ...] = (
        SimpleNamespace(cameras=SimpleNamespace(views=4, most=4), scene=SimpleNamespace(particles=1)),
    )


def stubbed_plan(config) -> Plan:
    names = Names(config["prompt"], config["seed"], "draft", "any", "any", "any")
    return Plan(names, config["device"], bool(config["init"]))


def stubbed_work(parts, plan: Plan, run: RunFolder, start, to, stop, record, steers) -> Result:
    """The writes of a run of three steps, in the order of the real one, without its computations."""
    state = load_stage(run.checkpoint(0, "coarse"))
    done = int(state.facts["iteration"]) if state else 0
    for iteration in range(done + 1, 4):
        if iteration % 2:
            append_text(run.metrics, f"0,{iteration}\n")
        else:
            write_text(run.preview(iteration), "picture")
        save_stage(run.checkpoint(0, "coarse"), torch.nn.Linear(1, 1), [], {"iteration": iteration})
        run.take_place()
        run.update_record(note=iteration)
    write_text(run.asset_dir / "sheet.png", "sheet")
    began_from = "" if start is None else f" from {len(start.vertices)}"
    write_text(run.asset_dir / "model.glb", f"{plan.names.seed}{began_from}")
    return Result(run.path, run.asset_dir / "model.glb")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of operations is what is tested; a real disk would take minutes for some thousand of them."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {
        "schema": 1, "prompt": "a red disc", "negative": "", "device": "cpu", "budget": {"preset": "draft"},
        "stages": [{"name": "coarse", "iterations": 3}], "plugins": [],
        **{group: {"name": "any"} for group in ("prior", "representation", "guidance")},
    }  # fmt: skip
    monkeypatch.setattr(
        pipeline, "compose", lambda **asked: {**whole, "seed": asked["seed"], "init": asked["init"]}
    )
    monkeypatch.setattr(pipeline, "read_config", lambda path: yaml.load(path.read_text(), yaml.CSafeLoader))
    monkeypatch.setattr(claims, "read_config", lambda path: yaml.load(path.read_text(), yaml.CSafeLoader))
    monkeypatch.setattr(planning, "build_plan", stubbed_plan)
    monkeypatch.setattr(assembling, "assemble", lambda plan, images: None)
    monkeypatch.setattr(pipeline, "_work", stubbed_work)


def make(out: Path, seed: int, **more) -> Result:
    return generate("a red disc", out=out, seed=seed, prior="gaussian", quiet=True, **more)


def contents(folder: Path) -> dict[str, bytes]:
    """What a user would call the run: every file of it, wherever below the folder."""
    own = [p for name in OWN for p in [folder / name, *(folder / name).rglob("*")] if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in own}


def broken(layer: Callable[..., Layer], kill: bool, work: Callable[[], object]) -> Iterator[int]:
    """Do the work with each operation broken in turn; ends when there are no more of them."""
    for at in itertools.count():
        found = layer(at, kill)
        try:
            work()
        except Killed:
            assert kill
        except ThreedistillError as error:
            assert not kill and "disk is full" in str(error)
        else:
            if found.count <= at:
                return
        layer()
        yield at


def goes_on(folder: Path, again: Callable[[], Result]) -> tuple[str, str]:
    """Which verb goes on with what is there, and the asset that it ends with."""
    try:
        return "resume", resume(folder, quiet=True).asset.read_text()
    except UsageError as error:
        assert "nothing in it to continue" in str(error)
    return "again", again().asset.read_text()


def tidy(folder: Path) -> None:
    """Nothing hidden is left of what happened."""
    hidden = {p.name for p in folder.rglob(".*")}
    assert hidden <= {".lock"}, hidden


@pytest.mark.parametrize("kill", [False, True], ids=["fail", "kill"])
def test_a_new_run(kill: bool, stubbed: None, layer: Callable[..., Layer], tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())
    current = [next(folders)]
    verbs = set()
    for _ in broken(layer, kill, lambda: make(current[0], 1)):
        verb, asset = goes_on(current[0], lambda: make(current[0], 1))
        assert asset == "1"
        verbs.add(verb)
        tidy(current[0])
        with pytest.raises(UsageError, match="already holds a run"):
            make(current[0], 1)
        current[0] = next(folders)
    assert verbs == {"resume", "again"}


@pytest.mark.parametrize("kill", [False, True], ids=["fail", "kill"])
def test_overwriting(kill: bool, stubbed: None, layer: Callable[..., Layer], tmp_path: Path) -> None:
    layer()
    ended = set()
    current = [tmp_path / "0"]
    make(current[0], 1)
    before = contents(current[0])
    (current[0] / "notes.txt").write_text("mine")
    for at in broken(layer, kill, lambda: make(current[0], 2, overwrite=True)):
        untouched = contents(current[0]) == before
        begun = [name for name in (".taking", ".arriving", ".replaced") if (current[0] / name).exists()]
        settled = not begun and b'"seed": 2' in (current[0] / "run.json").read_bytes()
        assert untouched or begun or settled, (
            "either run is whole, or the change from one to the other is under way"
        )
        verb, asset = goes_on(current[0], lambda: make(current[0], 2))
        assert verb == "resume", "something can always be continued: the earlier run or the new one"
        ended.add(asset)
        if begun or settled:
            assert asset == "2", "what has begun to take the place is the run"
        tidy(current[0])
        assert (current[0] / "notes.txt").read_text() == "mine"
        current[0] = tmp_path / str(at + 1)
        make(current[0], 1)
        before = contents(current[0])
        (current[0] / "notes.txt").write_text("mine")
    assert ended == {"1", "2"}


@pytest.mark.parametrize("kill", [False, True], ids=["fail", "kill"])
def test_starting_from_a_file(kill: bool, stubbed: None, layer: Callable[..., Layer], tmp_path: Path) -> None:
    layer()
    file = tmp_path / "ball.ply"
    write_mesh(ball_mesh(0.5, 8), file)
    current = [tmp_path / "0"]
    expected = make(tmp_path / "whole", 3, init=file).asset.read_text()
    assert "from" in expected
    for at in broken(layer, kill, lambda: make(current[0], 3, init=file)):
        _, asset = goes_on(current[0], lambda: make(current[0], 3, init=file))
        assert asset == expected
        tidy(current[0])
        current[0] = tmp_path / str(at + 1)


@pytest.mark.parametrize("kill", [False, True], ids=["fail", "kill"])
def test_resuming(kill: bool, stubbed: None, layer: Callable[..., Layer], tmp_path: Path) -> None:
    """Broken once more while it is continued, from a state in which a change of runs is half done."""

    def half_done(folder: Path) -> None:
        layer()
        make(folder, 1)
        names = layer(None)
        make(tmp_path / "counted", 1, overwrite=(tmp_path / "counted").exists())
        change = names.names.index("move .taking") + 2
        layer(change, kill=True)
        with pytest.raises(Killed):
            make(folder, 2, overwrite=True)

    current = [tmp_path / "0"]
    half_done(current[0])
    for at in broken(layer, kill, lambda: resume(current[0], quiet=True)):
        _, asset = goes_on(current[0], lambda: make(current[0], 2))
        assert asset == "2"
        tidy(current[0])
        current[0] = tmp_path / str(at + 1)
        half_done(current[0])


def test_a_refused_request_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that only building shows to be wrong, and weights that cannot be found: the finished run stays."""
    with monkeypatch.context() as patch:
        patch.setattr(assembling, "assemble", lambda plan, images: None)
        patch.setattr(pipeline, "_work", stubbed_work)
        make(tmp_path / "run", 1)
    before = contents(tmp_path / "run")
    for refused in (
        {"overrides": ["representation.model.levels=abc"]},
        {"overrides": ["prior.model.size=-3"]},
        {"prior": "toybox", "overrides": ["prior.model.folder=/nowhere/at/all"]},
        {"device": "cuda"} if not torch.cuda.is_available() else {"overrides": ["optim.lr={}"]},
    ):
        request = {"prior": "gaussian", "quiet": True, **refused}
        prompt = "a red ball" if request["prior"] == "toybox" else "a red disc"
        with pytest.raises(ThreedistillError):
            generate(prompt, out=tmp_path / "run", overwrite=True, **request)
        assert contents(tmp_path / "run") == before
        with pytest.raises(ThreedistillError):
            generate(prompt, out=tmp_path / "fresh", **request)
        assert not (tmp_path / "fresh").exists()


TINY = [
    "representation.model.log2_entries=8", "representation.model.levels=2", "representation.model.start_levels=1",
    "representation.model.finest_resolution=16", "representation.model.steps=16", "budget.iterations=3",
    "representation.model.occupancy_resolution=16", "budget.views=1", "budget.resolution=16", "budget.grid=24",
    "budget.faces=100", "budget.texture=16", "trainer.preview_every=2", "trainer.log_every=1", "prior.model.size=16",
    "trainer.checkpoint_every=1", "export.turntable_frames=0",
]  # fmt: skip


@pytest.mark.parametrize("kill", [
    pytest.param(False, marks=pytest.mark.long, id="fail"), pytest.param(True, marks=pytest.mark.slow, id="kill"),
])  # fmt: skip
def test_a_real_run(kill: bool, layer: Callable[..., Layer], tmp_path: Path) -> None:
    """The same with nothing stubbed: every operation of a whole run, files of the asset included."""
    layer()
    whole = make(tmp_path / "whole", 4, overrides=TINY).asset.read_bytes()
    current = [tmp_path / "0"]
    for at in broken(layer, kill, lambda: make(current[0], 4, overrides=TINY)):
        try:
            asset = resume(current[0], quiet=True).asset
        except UsageError:
            asset = make(current[0], 4, overrides=TINY).asset
        assert asset.read_bytes() == whole, at
        tidy(current[0])
        current[0] = tmp_path / str(at + 1)
