"""The terminal may go away, know ASCII only, or not be there; errors are one line, and a JSON object if asked for."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

import pytest

import threedistill
from threedistill import cli
from threedistill.console import steady
from threedistill.errors import ThreedistillError, ThreedistillWarning


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Let ``generate`` end with an exception, after a word on stderr."""

    def install(error: BaseException | None, out: str = "runs/x/asset/model.glb") -> None:
        def generate(prompt: str, **_: object) -> object:
            print("a step", file=sys.stderr, flush=True)
            if error is not None:
                raise error
            return types.SimpleNamespace(
                run_dir=Path("runs/x"), asset=Path(out), verdict=None, seconds={}, evaluation=None
            )

        fake = types.ModuleType("threedistill.pipeline")
        fake.generate = generate  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "threedistill.pipeline", fake)
        monkeypatch.setattr(threedistill, "pipeline", fake, raising=False)

    return install


@pytest.mark.parametrize("stream", [Gone(), None], ids=["broken", "missing"])
def test_a_closed_stderr_ends_no_run_and_sends_nothing_to_stdout(
    stream, failing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workspace: Path
):
    failing(None)
    monkeypatch.setattr(sys, "stderr", stream)
    assert cli.main(["generate", "a duck"]) == 0
    assert capsys.readouterr().out == "runs/x/asset/model.glb\n"
    failing(ThreedistillError("no"))
    assert cli.main(["generate", "a duck"]) == 1
    assert capsys.readouterr().out == ""


def test_closed_descriptors_in_a_real_process():
    environment = {**os.environ, "PYTHONPATH": str(Path(threedistill.__file__).parent.parent)}
    program = f'"{sys.executable}" -m threedistill'
    listed = subprocess.run(
        ["bash", "-c", f"{program} list formats --json 2>&-"], env=environment, capture_output=True
    )
    assert listed.returncode == 0 and "glb" in json.loads(listed.stdout)["formats"]
    silent = subprocess.run(
        ["bash", "-c", f"{program} genrate 2>&- ; echo $?"], env=environment, capture_output=True
    )
    assert silent.stdout == b"2\n", "the error is not sent to stdout, and the status is right"
    broken = f"({program} genrate; echo $? >status) 2> >(exec 0<&-; sleep 0); cat status"
    reader_gone = subprocess.run(
        ["bash", "-c", broken], env=environment, capture_output=True, cwd=tempfile.mkdtemp()
    )
    assert reader_gone.stdout == b"2\n"


def test_errors_as_json(command, failing):
    refused = command("generate", "a duck", "--json", "--sed", "3")
    assert refused.status == 2
    found = json.loads(refused.out)
    assert found["status"] == 2 and "did you mean --seed" in found["error"]
    assert refused.err == f"threedistill: error: {found['error']}\n"
    lost = ValueError("oops")
    lost.run_dir = Path("runs/x")  # type: ignore[attr-defined]
    failing(lost)
    found = json.loads(command("generate", "a duck", "--json").out)
    assert (
        found["status"] == 1
        and found["run_dir"] == "runs/x"
        and "unexpected ValueError: oops" in found["error"]
    )
    assert command("generate", "--", "--json").out == "", "behind -- it is a prompt"


def test_an_error_repeats_no_more_than_a_line_of_a_value(command, failing):
    failing(ThreedistillError("x" * 100_000 + " choose another --out"))
    done = command("generate", "a duck")
    assert len(done.err) < 1500 and done.err.endswith("choose another --out\n")


def test_without_any_writable_folder_the_error_is_one_line(command, failing, monkeypatch: pytest.MonkeyPatch):
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    failing(ValueError("oops"))
    done = command("generate", "a duck")
    assert done.status == 1 and done.err.count("\n") == 2  # a step, and the line
    assert "unexpected ValueError: oops; no folder could be written to keep the traceback" in done.err
    try:
        nowhere()
    except FileNotFoundError as error:
        failing(error)
    assert "set TMPDIR to one that can" in command("generate", "a duck").err


def test_what_the_machine_ran_out_of(command, failing):
    failing(OSError(errno.EMFILE, "Too many open files", "x"))
    assert "no more files can be opened" in command("generate", "a duck").err
    tired = MemoryError()
    tired.advice = "fewer views than cameras.views=4, or close other programs"  # type: ignore[attr-defined]
    failing(tired)
    said = command("generate", "a duck").err
    assert "memory ran out; what helps: fewer views" in said and "--preset draft" not in said


def test_a_folder_that_is_gone(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    status = cli.main(["generate", "a duck"])
    monkeypatch.chdir(tmp_path)
    assert status == 2


def test_stdout_takes_any_text(failing, monkeypatch: pytest.MonkeyPatch, workspace: Path):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    failing(None, "runs/日本/model.glb")
    assert cli.main(["generate", "a duck"]) == 0
    assert raw.getvalue() == b"runs/\\u65e5\\u672c/model.glb\n"


def test_warnings_of_libraries_are_not_shown_and_ours_are_one_line(capsys: pytest.CaptureFixture[str]):
    with steady(quiet=False), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a library\nthinks", stacklevel=1)
        warnings.warn("threedistill: the slower\npath", ThreedistillWarning, stacklevel=1)
    assert capsys.readouterr().err == "threedistill: warning: the slower path\n"
    with steady(quiet=True), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("the slower path", ThreedistillWarning, stacklevel=1)
    assert capsys.readouterr().err == ""
