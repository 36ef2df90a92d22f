"""The command line: the prompt is data, options are checked, every failure is one line with its status."""

from __future__ import annotations

import errno
import io
import json
import sys
import types
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import threedistill
from threedistill import cli
from threedistill.commands.generate import parse
from threedistill.errors import ThreedistillError, UsageError

NASTY = [
    "a red, shiny mushroom", 'a "quoted" duck', "it's = 3", "50% off #1 @home | x", "línea\nnueva", "红色的蘑菇",
    "🦆", "${oc.env:HOME}", "seed=3", "prior=sd15", "{a: b}", "[1,2]", "\\", "a\tb", "null", "'", "~x", "+x=1",
    "--  spaced option", "-happy duck", "-1", "@file", "$(reboot)", "a;b",
]  # fmt: skip

# Everything a shell can pass: any text without NUL, surrogates aside.
prompts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    str.strip
)


def _all_nasty(test):
    for prompt in NASTY:
        test = example(prompt=prompt)(test)
    return test


@_all_nasty
@given(prompt=prompts)
def test_prompt_arrives_unchanged(prompt):
    assert parse(["--seed", "4", "--", prompt]).prompt == prompt
    assert parse(["--preset=draft", "--", prompt, "export.faces=10"]).overrides == ["export.faces=10"]
    if not prompt.startswith("-"):
        request = parse([prompt, "--seed", "4", "export.faces=10", "--quiet"])
        assert (request.prompt, request.seed, request.overrides, request.quiet) == (
            prompt,
            4,
            ["export.faces=10"],
            True,
        )


@_all_nasty
@given(prompt=prompts)
def test_negative_and_prompt_file_arrive_unchanged(prompt, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "prompt.txt"
    file.write_bytes(prompt.encode("utf-8") + b"\n")
    request = parse(["--prompt-file", str(file), f"--negative={prompt}", "a.b=1"])
    assert (request.prompt, request.negative, request.overrides) == (prompt, prompt, ["a.b=1"])


def test_dashed_prompts_with_spaces_need_no_separator():
    assert parse(["-happy duck"]).prompt == "-happy duck"
    assert parse(["-1"]).prompt == "-1"
    with pytest.raises(UsageError, match="behind --"):
        parse(["-🦆"])


def test_prompt_from_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"a green tree\r\n")))
    assert parse(["--prompt-file", "-"]).prompt == "a green tree"


def test_options_and_overrides_mix_in_any_order():
    request = parse(["--format", "glb,STL,glb", "a duck", "x.y=1", "--seed", "7", "guidance=csd", "z=a b"])
    assert (request.formats, request.seed, request.guidance, request.overrides) == (
        ("glb", "stl"),
        7,
        "csd",
        ["x.y=1", "z=a b"],
    )


def test_override_that_names_a_flag_is_that_flag_unless_they_disagree():
    assert parse(["a duck", "seed=3", "preset=draft"]).seed == 3
    assert parse(["a duck", "seed=3", "--seed", "3"]).seed == 3
    for key, one, other in [("seed", "3", "4"), ("prior", "sd15", "toybox"), ("preset", "draft", "high")]:
        with pytest.raises(UsageError, match="disagree"):
            parse(["a duck", f"{key}={one}", f"--{key}", other])


def test_size_and_origin_are_export_settings():
    request = parse(["a duck", "--unit-size", "2", "--origin", "base", "export.unit_size=2.0"])
    assert request.overrides == ["export.unit_size=2.0", "export.origin=base"]
    with pytest.raises(UsageError, match=r"--origin base and .* disagree"):
        parse(["a duck", "--origin", "base", "export.origin=center"])


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        ([], "needs a prompt"),
        ([""], "empty"),
        (["  \n"], "empty"),
        (["a", "red", "mushroom"], '"a red mushroom"'),
        (["a duck", "--seed", "x"], "whole number"),
        (["a duck", "--seed", "-1"], "between 0 and"),
        (["a duck", "--preset", "standrad"], "did you mean standard"),
        (["a duck", "--format", "glb,fbx"], "'fbx'"),
        (["a duck", "--resume", "--overwrite"], "exclude"),
        (["a duck", "--sed=3"], "did you mean --seed"),
        (["a duck", "--out"], "expected one argument"),
        (["a duck", "3x=1"], "not an override"),
        (["--prompt-file", "/nonexistent/p.txt"], "no such file"),
        (["a \udcff duck"], "UTF-8"),
    ],
)
def test_mistakes_are_named(argv, fragment):
    with pytest.raises(UsageError) as caught:
        parse(argv)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompt_file_that_is_not_text(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"not UTF-8 text \(byte 3\)"):
        parse(["--prompt-file", str(file)])


class _Pipeline(types.ModuleType):
    """Stands in for the main path: notes what it is asked for, prints noise, then answers or fails."""

    def __init__(self, failure: BaseException | None = None) -> None:
        super().__init__("threedistill.pipeline")
        self.failure, self.asked = failure, {}

    def generate(self, prompt, **asked):
        self.asked = {"prompt": prompt, **asked}
        print("a library talks on stdout")
        if self.failure is not None:
            raise self.failure
        return types.SimpleNamespace(
            run_dir=Path("runs/x"),
            asset=Path("runs/x/asset/model.glb"),
            verdict="duck 0.9",
            evaluation={"verdict": "duck 0.9", "judge": {"kind_p": 0.9}},
            seconds={"total": 1.0},
        )

    def resume(self, run_dir, **asked):
        return self.generate("", run_dir=run_dir, **asked)


@pytest.fixture
def pipeline(monkeypatch):
    def install(failure=None):
        fake = _Pipeline(failure)
        monkeypatch.setitem(sys.modules, "threedistill.pipeline", fake)
        monkeypatch.setattr(threedistill, "pipeline", fake, raising=False)
        return fake

    return install


def test_stdout_is_the_asset_and_nothing_else(command, pipeline):
    fake = pipeline()
    done = command("generate", "a, b=c", "--format", "glb,obj", "--out", "here", "export.faces=9")
    assert (done.status, done.out) == (0, "runs/x/asset/model.glb\n")
    assert "a library talks" in done.err
    assert fake.asked["prompt"] == "a, b=c"
    assert fake.asked["out"] == Path("here")
    assert fake.asked["formats"] == ("glb", "obj")
    assert fake.asked["overrides"] == ["export.faces=9"]


def test_json_is_one_object(command, pipeline):
    pipeline()
    facts = json.loads(command("generate", "a duck", "--json").out)
    assert facts == {
        "asset": "runs/x/asset/model.glb",
        "run_dir": "runs/x",
        "verdict": "duck 0.9",
        "evaluation": {"verdict": "duck 0.9", "judge": {"kind_p": 0.9}},
        "seconds": {"total": 1.0},
    }


def test_resume_takes_a_run_folder(command, pipeline, workspace):
    fake = pipeline()
    assert command("resume", "nowhere").status == 2
    (workspace / "run").mkdir()
    assert "not a run folder" in command("resume", "run").err
    (workspace / "run" / "config.yaml").write_text("x: 1")
    assert command("resume", "run", "--device", "cpu").status == 0
    assert (fake.asked["run_dir"], fake.asked["device"]) == (Path("run"), "cpu")


def _noting(error, folder):
    error.run_dir = folder
    return error


@pytest.mark.parametrize(
    ("failure", "status", "fragment"),
    [
        (UsageError("no such thing"), 2, "threedistill: error: no such thing"),
        (
            ThreedistillError("the field is empty\nand dark"),
            1,
            "threedistill: error: the field is empty and dark",
        ),
        (
            _noting(KeyboardInterrupt(), "runs/x"),
            130,
            "interrupted; continue with: threedistill resume runs/x",
        ),
        (KeyboardInterrupt(), 130, "threedistill: interrupted"),
        (MemoryError(), 1, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), 1, "memory ran out"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/a"),
            1,
            "no space left on the disk while writing runs/x/a",
        ),
        (ValueError("oops"), 1, "unexpected ValueError: oops; the traceback is in "),
    ],
)
def test_failures_end_as_one_line(command, pipeline, failure, status, fragment):
    pipeline(failure)
    done = command("generate", "a duck")
    line = done.err.splitlines()[-1]
    assert (done.status, done.out) == (status, "")
    assert fragment in line
    assert "Traceback" not in done.err


def test_traceback_goes_to_the_run_folder_or_on_request_to_stderr(command, pipeline, workspace):
    pipeline(_noting(ValueError("oops"), workspace))
    assert f"{workspace}/traceback.txt" in command("generate", "a duck").err
    assert "ValueError: oops" in (workspace / "traceback.txt").read_text()
    assert "Traceback (most recent call last)" in command("generate", "a duck", "--traceback").err


def test_help_version_and_unknown_verbs(command):
    assert command().out == command("--help").out == command("-h").out == cli.usage() + "\n"
    assert command("--version").out == f"threedistill {threedistill.__version__}\n"
    assert "did you mean threedistill generate?" in command("genrate", "a duck").err
    assert 'threedistill generate "PROMPT"' in command("a red mushroom").err
    for verb in cli.VERBS:
        done = command(verb, "--help")
        assert done.status == 0, done.err
        assert done.out.startswith(f"usage: threedistill {verb}")


def test_list_shows_what_ships(command):
    tables = json.loads(command("list", "--json").out)
    assert set(tables) == {
        "representations", "priors", "guidance", "presets", "recipes", "metrics", "scorers", "words", "formats",
    }  # fmt: skip
    assert {"glb", "obj", "ply", "stl", "usdz", "3dgs", "spz", "sog", "mp4"} <= set(tables["formats"])
    assert "mushroom" in tables["words"]["kinds"]
    for table in tables.values():
        assert all(about for about in table.values()), (
            "every choice says what it is in its first comment line"
        )
    assert "glb" in command("list", "formats").out
    assert "did you mean priors" in command("list", "prior").err


def test_doctor_names_a_command_for_everything_absent(command):
    findings = json.loads(command("doctor", "--json").out)
    states = {f["part"]: f["state"] for f in findings}
    assert states["python"] == states["torch"] == states["disk"] == "ok"
    assert {"native ops", "toybox prior", "toybox judge", "gsplat", "nerfacc", "tinycudann", "cuda"} <= set(
        states
    )
    for finding in findings:
        assert finding["state"] in ("ok", "missing", "optional")
        assert (finding["state"] == "ok") == (not finding["fix"]), finding


def test_thread_variables_are_set_before_torch_unless_the_user_did(clean_python):
    code = (
        "import os, sys; from threedistill import cli; cli.main(['list', 'formats']);"
        "assert 'torch' not in sys.modules;"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'), os.environ['OMP_NUM_THREADS'])"
    )
    policy, patience, threads = clean_python(code).split()[-3:]
    assert (policy, patience) == ("PASSIVE", "10000")
    assert 1 <= int(threads) <= len(__import__("os").sched_getaffinity(0))
    assert clean_python(code, OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="7").split()[-3:] == [
        "ACTIVE",
        "None",
        "7",
    ]
