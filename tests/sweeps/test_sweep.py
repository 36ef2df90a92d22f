"""Sweeps: what runs, what is skipped, what a failure or Ctrl-C leaves. Runs are stubbed where only books are kept."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from threedistill import pipeline
from threedistill.atomic import write_text
from threedistill.commands.sweep import read_words
from threedistill.config import read_config, write_config
from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.report import SCHEMA
from threedistill.sweeps import launch as launch_module
from threedistill.sweeps.job import finished, work
from threedistill.sweeps.launch import check_launcher, clock
from threedistill.sweeps.plan import Cell, Plan, Setting, cells, grid, read_prompts
from threedistill.training.run_folder import RunFolder


@pytest.fixture
def prompts(workspace: Path) -> Path:
    file = workspace / "prompts.txt"
    file.write_text("a red mushroom\n\na blue car\n", encoding="utf-8")
    return file


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pipeline that makes nothing but notes the runs it was asked for; ``seed: 13`` is unlucky."""
    log: list[str] = []

    def start_run(config: dict, path: Path, *, quiet: bool, facts: dict | None = None) -> None:
        run = RunFolder(path)
        with run.locked():
            run.settle()
            run.begin()
            write_config(config, run.config)
            run.update_record(**(facts or {}), status="running", prompt=config["prompt"])
            if config["seed"] == 13:
                log.append(name(config))
                run.abandon()
                raise ThreedistillError("it got lost")
            write_text(run.checkpoint(0, "coarse"), "")
            run.take_place()
        resume(path)

    def resume(path: Path, *, quiet: bool = False) -> None:
        run = RunFolder(path)
        config = read_config(run.config)
        log.append(name(config))
        with run.locked():
            if config["seed"] == 99:
                raise KeyboardInterrupt
            write_text(run.asset_dir / "model.glb", "glTF")
            run.update_record(status="done", seconds={"stage": 2.0, "export": 0.5})

    def name(config: dict) -> str:
        return f"{config['prompt']}/{config['guidance']['name']}/{config['seed']}"

    monkeypatch.setattr(pipeline, "resume", resume)
    monkeypatch.setattr(pipeline, "start_run", start_run)
    return log


def table(root: str = "sweeps/prompts") -> list[dict[str, str]]:
    with Path(root, "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_made_once_and_listed(command: Callable, prompts: Path, made: list[str]):
    words = [
        "sweep",
        "--prompts",
        str(prompts),
        "--no-eval",
        "guidance=sds,csd",
        "seed=range(0,2)",
        "prior=gaussian",
    ]
    first = command(*words)
    assert first.status == 0, first.err
    assert first.out.strip() == "sweeps/prompts/results.csv"
    expected = {
        f"{p}/{g}/{s}" for p in ("a red mushroom", "a blue car") for g in ("sds", "csd") for s in (0, 1)
    }
    assert len(made) == 8 and set(made) == expected
    assert made[:4] == [m for m in made if m.endswith("/0")], "the first seed of everything comes first"
    assert {(r["prompt"], r["guidance"], r["seed"], r["status"], r["seconds"]) for r in table()} == {
        (p, g, s, "done", "2.5")
        for p in ("a red mushroom", "a blue car")
        for g in ("sds", "csd")
        for s in ("0", "1")
    }
    assert json.loads(Path("sweeps/prompts/sweep/prompts.json").read_text()) == [
        "a red mushroom",
        "a blue car",
    ]
    content = json.loads(Path("sweeps/prompts/results.json").read_text())
    assert content["summary"]["statuses"] == {"done": 8} and not content["summary"]["partial"]
    assert "guidance=csd" in Path("sweeps/prompts/index.html").read_text()

    again = command(*words)
    assert again.status == 0 and len(made) == 8, "nothing that is finished is repeated"
    assert "8 of them finished before" in again.err
    assert command(*words[:-2], "seed=0,1,2", "prior=gaussian").status == 0
    assert len(made) == 12 and all(m.endswith("/2") for m in made[8:]), "a larger call adds what is new"
    assert len(table()) == 12


def test_a_failure_stops_nothing_and_is_tried_again(command: Callable, prompts: Path, made: list[str]):
    words = ["sweep", "--prompts", str(prompts), "--no-eval", "seed=13,1", "prior=gaussian"]
    outcome = command(*words)
    assert outcome.status == 1
    assert [m.rsplit("/")[-1] for m in made] == ["13", "13", "1", "1"]
    assert [(r["status"], r["error"]) for r in table()] == [("failed", "it got lost")] * 2 + [
        ("done", "")
    ] * 2
    command(*words)
    assert [m.rsplit("/")[-1] for m in made[4:]] == ["13", "13"]


def test_ctrl_c_ends_with_130_and_the_second_call_goes_on(command: Callable, prompts: Path, made: list[str]):
    words = ["sweep", "--prompts", str(prompts), "--no-eval", "--quiet", "prior=gaussian"]
    stopped = command(*words, "seed=0,99,1")
    assert stopped.status == 130
    assert stopped.err.strip().endswith("interrupted; nothing finished is lost, the same command continues")
    assert [r["status"] for r in table()] == ["done", "done", "running", "waiting", "waiting", "waiting"]
    assert len(made) == 3
    assert command(*words, "seed=0,1").status == 0
    assert [m.rsplit("/")[-1] for m in made[3:]] == ["1", "1"]


def test_prompts_are_data(command: Callable, workspace: Path, made: list[str]):
    strange = ['a red, ${oc.env:HOME}=1 "mushroom"', "~x=1,2", "--help", "日本の家", "a 'blue' car\\"]
    Path("p.json").write_text(json.dumps([*strange, strange[0]]))
    outcome = command("sweep", "--prompts", "p.json", "--no-eval", "prior=gaussian")
    assert outcome.status == 0, outcome.err
    assert [m.removesuffix("/sds/0") for m in made] == strange
    assert [r["prompt"] for r in table("sweeps/p")] == strange
    page = Path("sweeps/p/index.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert [run["prompt"] for run in data["runs"]] == strange


def test_time_runs_out_before_the_next_run_starts(command: Callable, prompts: Path, made: list[str]):
    words = ["sweep", "--prompts", str(prompts), "--no-eval", "prior=gaussian"]
    assert command(*words, "--budget", "0").status == 0
    assert made == [] and [r["status"] for r in table()] == ["waiting", "waiting"]
    assert json.loads(Path("sweeps/prompts/results.json").read_text())["summary"]["partial"]
    assert command(*words).status == 0 and len(made) == 2


def test_another_process_is_left_to_work(tmp_path: Path, made: list[str]):
    plan = Plan(tmp_path)
    setting = Setting("default", ("prior=gaussian",))
    from threedistill.config import compose

    digest = plan.keep_config(compose(prompt="a", prior="gaussian"))
    numbers = plan.add([Cell("a", 0, setting)], {"default": digest})
    plan.write()
    assert work(plan, numbers[0], evaluate=False) == "done"
    folder = plan.folder(numbers[0])
    RunFolder(folder).update_record(status="interrupted")
    with RunFolder(folder).locked():
        assert work(plan, numbers[0], evaluate=False) == "busy"
    assert RunFolder(folder).read_record()["status"] == "interrupted"
    assert work(plan, numbers[0], evaluate=False) == "done"
    assert work(plan, numbers[0], evaluate=False) == "skipped"


def test_changed_defaults_restart_what_was_begun_and_warn_about_what_is_done(
    command: Callable, prompts: Path, made: list[str]
):
    words = ["sweep", "--prompts", str(prompts), "--no-eval", "prior=gaussian"]
    command(*words)
    plan = Plan("sweeps/prompts")
    begun, done = plan.folder(0), plan.folder(1)
    for folder, status in ((begun, "interrupted"), (done, "done")):
        RunFolder(folder).update_record(status=status, request="older")
    (begun / "checkpoints" / "older").touch()
    outcome = command(*words)
    assert made[2:] == ["a red mushroom/sds/0"]
    assert not (begun / "checkpoints" / "older").exists(), "it starts anew with today's settings"
    assert "warning: 1 finished runs were made with other defaults" in outcome.err


def test_a_plan_keeps_its_numbers(tmp_path: Path):
    plan = Plan(tmp_path)
    one, two = Setting("x=1", ("x=1",), {"x": "1"}), Setting("x=2", ("x=2",), {"x": "2"})
    digests = {"x=1": "d1", "x=2": "d2"}
    assert plan.add(cells(["a", "b"], [0], [one]), digests) == [0, 1]
    plan.write()
    again = Plan(tmp_path)
    assert again.add(cells(["b", "c"], [0], [two, one]), digests) == [2, 1, 3, 4]
    assert [again.prompt(n) for n in range(5)] == ["a", "b", "b", "c", "c"]
    folders = {again.folder(n) for n in range(5)}
    assert len(folders) == 5
    # Names that look alike do not collide.
    assert Cell("a b", 0, one).folder != Cell("a-b", 0, one).folder != Cell("a b", 0, two).folder
    (tmp_path / "sweep" / "prompts.json").write_text("[]")
    with pytest.raises(UsageError, match="damaged"):
        Plan(tmp_path)


def test_axes_in_hydras_grammar_become_settings():
    words = read_words(["guidance=sds,csd", "cfg.scale=choice(2,7.5)", "cameras.views=4", "seed=3,1,3"])
    assert (words.seeds, words.launcher, words.hydra) == ((3, 1), "basic", ())
    settings = grid(words.axes, preset="bench")
    assert [s.name for s in settings] == [
        "guidance=sds cfg.scale=2", "guidance=sds cfg.scale=7.5",
        "guidance=csd cfg.scale=2", "guidance=csd cfg.scale=7.5",
    ]  # fmt: skip
    assert settings[1].overrides == ("preset=bench", "guidance=sds", "cameras.views=4", "cfg.scale=7.5")
    assert settings[1].choices == {"guidance": "sds", "cfg.scale": "7.5"}
    assert grid([])[0] == Setting("default")
    assert read_words(["cameras.elevation=[-5,5]"]).axes == (("cameras.elevation", ("[-5,5]",)),)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a duck"], "not a setting: 'a duck'"),
        (["seed=0", "seed=1"], "seed is given twice; write seed=0,1"),
        (["seed=x"], "seed needs a whole number"),
        (["cfg.scale=interval(0,1)"], "a sweep is a grid"),
        (["hydra/sweeper=optuna"], "only hydra/launcher can be chosen"),
        (["cfg.scale=choice(1"], "could not be read"),
    ],
)
def test_words_that_make_no_sweep(words: list[str], said: str):
    with pytest.raises(UsageError) as caught:
        read_words(words)
    assert said in str(caught.value)


def test_bad_requests_write_nothing(command: Callable, prompts: Path, made: list[str]):
    base = ["sweep", "--prompts", str(prompts)]
    for words, said in (
        (["sweep"], "sweep needs prompts"),
        (["sweep", "--prompts", "nowhere.txt"], "--prompts nowhere.txt: no such file"),
        ([*base, "guidance=sds,vds"], "guidance=vds: unknown guidance 'vds'; did you mean"),
        ([*base, "cfg.scal=1,2"], "did you mean 'cfg.scale'?"),
        ([*base, "--preset", "bench", "preset=draft"], "disagree; keep one of them"),
        ([*base, "hydra/launcher=jobib"], "did you mean joblib?"),
    ):
        outcome = command(*words)
        assert outcome.status == 2 and said in outcome.err, outcome.err
    Path("odd.txt").write_text("a red musroom\n")
    assert "does not know 'musroom'" in command("sweep", "--prompts", "odd.txt").err
    assert not Path("sweeps").exists() and made == []
    dry = command(*base, "prior=gaussian", "seed=0,1", "--dry-run")
    assert dry.status == 0 and len(dry.out.splitlines()) == 4 and not Path("sweeps").exists()


def test_impossible_combinations_are_refused_or_left_out(command: Callable, prompts: Path, made: list[str]):
    words = ["sweep", "--prompts", str(prompts), "--no-eval", "guidance=sds,dds", "prior=gaussian"]
    refused = command(*words)
    assert refused.status == 2 and "guidance=dds" in refused.err and made == []
    kept = command(*words, "--skip-impossible")
    assert kept.status == 0 and "left out: guidance=dds" in kept.err
    assert made == ["a red mushroom/sds/0", "a blue car/sds/0"]


def test_words_of_all_prompts_are_named_at_once_or_those_prompts_left_out(command: Callable, made: list[str]):
    Path("odd.txt").write_text("a red mushroom\na dragon\na corgi\na quark\na quark on a corgi\nred\n")
    words = ["sweep", "--prompts", "odd.txt", "--no-eval", "--preset", "bench"]
    refused = command(*words)
    assert refused.status == 2 and made == [] and len(refused.err.splitlines()) == 1
    assert (
        "4 prompts: the toybox prior does not know 'dragon', 'corgi', 'quark' (nearest known: frog"
        in refused.err
    )
    assert "prompt 'red' names no thing" in refused.err and "--skip-impossible" in refused.err
    kept = command(*words, "--skip-impossible")
    assert kept.status == 0 and made == ["a red mushroom/sds/0"]
    left_out = [line for line in kept.err.splitlines() if "left out" in line]
    assert len(left_out) == 5 and all(
        f"prompt '{p}" in line for p, line in zip(["a dragon", "a corgi"], left_out)
    )
    Path("odd.txt").write_text("a corgi\na quark\n")
    nothing = command(*words, "--skip-impossible")
    assert nothing.status == 2 and "nothing to run: prompt 'a corgi'" in nothing.err


def test_a_missing_launcher_says_what_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        check_launcher("joblib")
    assert str(caught.value) == (
        "hydra/launcher=joblib needs hydra-joblib-launcher, which is not installed: "
        'pip install "threedistill[sweep]"'
    )
    with pytest.raises(UsageError, match=r"threedistill\[sweep-ray\]"):
        check_launcher("ray")
    check_launcher("basic")


def test_runs_that_share_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("threedistill.threads.usable_cores", lambda: 8)
    many = launch_module.Launch("joblib", ("hydra.launcher.n_jobs=4",))
    assert launch_module._threads(many) == 2
    assert launch_module._threads(launch_module.Launch("joblib")) == 1
    assert launch_module._threads(launch_module.Launch("basic")) == 0
    assert launch_module._batches(launch_module.Launch("submitit_local")) == [
        "hydra.sweeper.max_batch_size=8"
    ]


def test_prompt_files(tmp_path: Path):
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffa red ball\r\n\r\n# a comment\n  #another\na #2 pencil\na red ball".encode())
    assert read_prompts(file) == ["a red ball", "a #2 pencil"]
    (tmp_path / "data.json").write_text('["# is data here"]')
    assert read_prompts(tmp_path / "data.json") == ["# is data here"]
    file.write_text("\n \n# nothing\n")
    with pytest.raises(UsageError, match="no prompt in it"):
        read_prompts(file)
    (tmp_path / "p.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="not a JSON list"):
        read_prompts(tmp_path / "p.json")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_prompts(file)


def test_a_new_judge_looks_again(tmp_path: Path):
    from threedistill.config.critics import critic_for
    from threedistill.sweeps import job

    (tmp_path / "asset").mkdir()
    assert not job.looked_at(tmp_path)
    (tmp_path / "asset" / "views.png").touch()
    assert job.looked_at(tmp_path), "no judge for these words"
    version = critic_for("a red ball").version
    by = {"judge_version": version, "schema": SCHEMA, "prompt": "a red ball"}
    (tmp_path / "eval.json").write_text(json.dumps(by))
    assert job.looked_at(tmp_path)
    (tmp_path / "eval.json").write_text(json.dumps(by | {"schema": SCHEMA - 1}))
    assert not job.looked_at(tmp_path), "an evaluation without the figures of today"
    (tmp_path / "eval.json").write_text(json.dumps(by | {"judge_version": "another"}))
    assert not job.looked_at(tmp_path)


def test_what_a_critic_said_today_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever figures it has."""
    from threedistill.sweeps import job

    asked = []

    def judge(asset: Path, prompt: str) -> dict[str, object]:
        asked.append(prompt)
        return {"verdict": "tall", "asset": str(asset), "judge_version": critic.version, "schema": SCHEMA}

    critic = SimpleNamespace(version="gothic", judge=judge)
    monkeypatch.setattr(job, "_critic", lambda prompt: critic)
    (tmp_path / "asset").mkdir()
    for name in ("model.glb", "views.png"):
        (tmp_path / "asset" / name).touch()
    (tmp_path / "run.json").write_text(json.dumps({"prompt": "a cathedral"}))
    first, again = job.evaluate_run(tmp_path), job.evaluate_run(tmp_path)
    assert first == again and asked == ["a cathedral"] and job.looked_at(tmp_path)
    critic.version = "baroque"
    assert not job.looked_at(tmp_path)
    job.evaluate_run(tmp_path)
    assert len(asked) == 2


def test_durations_for_people():
    assert [clock(s) for s in (0, 40, 89, 700, 7500)] == ["0 s", "40 s", "89 s", "12 min", "2 h 05 min"]


def test_damage_is_one_runs_error_and_the_table_is_still_written(
    command: Callable, prompts: Path, made: list[str]
):
    words = ["sweep", "--prompts", str(prompts), "--no-eval", "prior=gaussian", "seed=0,1,2"]
    assert command(*words).status == 0
    plan = Plan("sweeps/prompts")
    for number, text in enumerate(
        ['{"status": "done"', "[]", '{"status": 7, "seconds": [1]}', '{"seconds": {"a": "b"}}']
    ):
        (plan.folder(number) / "run.json").write_text(text)
    file = plan.folder(4)
    shutil.rmtree(file)
    file.write_text("not a folder")
    (plan.folder(5) / "eval.json").write_text('{"judge": {"rank": "first", "janus": []}}')
    command(*words, "--budget", "0")
    rows = table()
    assert [r["status"] for r in rows] == ["failed"] * 5 + ["done"]
    assert "run.json is damaged" in rows[0]["error"] and "is a file, not a folder" in rows[4]["error"]
    outcome = command(*words)
    assert outcome.status == 1 and "Traceback" not in outcome.err
    assert [r["status"] for r in table()] == ["done"] * 4 + ["failed", "done"], "what can be mended is"
    assert file.read_text() == "not a folder"
    config = next(Path("sweeps/prompts/sweep/configs").iterdir())
    config.write_text("{")
    file.unlink()
    assert (
        work(plan, 4, evaluate=False) == "failed"
        and "missing or damaged" in file.joinpath("run.json").read_text()
    )
    assert command(*words).status == 0, "the command writes it again"


def _enter(root: str, names: list[str], started, queue) -> None:
    started.wait()
    plan = Plan(root)  # read before anything is there, as a slow start would
    found = []
    for name in names:
        with plan.locked():
            found += plan.add([Cell(name, 0, Setting("default"))], {"default": "d"})
            plan.write()
    queue.put(dict(zip(names, found)))


def test_two_sweeps_at_once_lose_nothing_and_share_no_number(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    queue, started = context.Queue(), context.Event()
    groups = [[f"{who} {n}" for n in range(12)] + ["shared"] for who in "ab"]
    processes = [context.Process(target=_enter, args=(str(tmp_path), g, started, queue)) for g in groups]
    for process in processes:
        process.start()
    started.set()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    plan = Plan(tmp_path)
    assert len(plan.entries) == 25
    for numbers in found:
        assert {name: plan.prompt(number) for name, number in numbers.items()} == {
            name: name for name in numbers
        }
    assert found[0]["shared"] == found[1]["shared"]


@pytest.mark.slow
def test_a_killed_sweep_continues(workspace: Path):
    """Real runs with the oracle: SIGKILL in the middle of the second; the first is not touched again."""
    import threedistill

    Path("prompts.txt").write_text("a red mushroom\na blue car\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(threedistill.__file__).parent.parent)}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    small = ["prior=oracle", "budget.iterations=6", "budget.grid=32", "budget.resolution=32", "export.faces=300",
             "export.texture_size=0", "trainer.checkpoint_every=1"]  # fmt: skip
    base = [
        sys.executable,
        "-m",
        "threedistill",
        "sweep",
        "--prompts",
        "prompts.txt",
        "--preset",
        "bench",
        *small,
    ]

    def call(*more: str) -> SimpleNamespace:
        done = subprocess.run([*base, *more], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return SimpleNamespace(out=done.stdout, err=done.stderr)

    process = subprocess.Popen([*base, "--out", "a"], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    second = None
    for line in process.stderr:
        if line.startswith("[1/2]"):
            second = Plan("a").folder(1)
            break
    assert second is not None
    while process.poll() is None:
        time.sleep(0.02)
        if list(second.glob("checkpoints/*/last.safetensors")):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    first = Plan("a").folder(0)
    assert finished(first) and not finished(second)
    stamp = (first / "asset" / "model.glb").stat().st_mtime_ns

    assert "1 of them finished before" in call("--out", "a").err
    assert finished(second) and (first / "asset" / "model.glb").stat().st_mtime_ns == stamp
    with (second / "metrics.csv").open(newline="") as file:
        assert [int(r["iteration"]) for r in csv.DictReader(file)] == [6], "the log tells one run, not two"
    rows = table("a")
    assert [r["status"] for r in rows] == ["done", "done"]
    assert all(r["iou"] and r["saturation"] and r["kind_right"] for r in rows)


def test_joblib_makes_the_same_runs(command: Callable, prompts: Path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    small = ["prior=oracle", "budget.iterations=2", "budget.grid=32", "budget.resolution=32", "export.faces=300",
             "export.texture_size=0"]  # fmt: skip
    outcome = command("sweep", "--prompts", str(prompts), "--preset", "bench", "--no-eval", *small,
                      "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert [r["status"] for r in table()] == ["done", "done"]
