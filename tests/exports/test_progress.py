"""Progress of conversions: silence for what is quick, a line for what is not, and never a failure."""

from __future__ import annotations

import io

import pytest

from threedistill.exports import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, text: str) -> None:
    """Until the line's thread has written; its clock is real, the test's bound generous."""
    import time

    for _ in range(500):
        if text in stream.getvalue():
            return
        time.sleep(0.01)
    raise AssertionError(stream.getvalue())


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_long_steps_are_named_and_the_line_is_cleared(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SILENT", 0.01)
    monkeypatch.setattr(progress, "_TERMINAL", 0.01)
    stream = kind()
    with progress.shown(stream):
        with progress.step("reading a.obj"):
            wait_for(stream, "reading a.obj ...")
        with progress.step("writing b.glb"), progress.step("painting"):
            wait_for(stream, "painting ...")
    text = stream.getvalue()
    assert text.endswith("\r") if kind is Terminal else text == "reading a.obj ...\npainting ...\n"


def test_quick_steps_say_nothing_and_a_closed_stream_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    with progress.shown(stream), progress.step("reading a.obj"):
        pass
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress, "_SILENT", 0.0)
    closed = Terminal()
    with progress.shown(closed), progress.step("reading a.obj"):
        closed.close()
    with progress.step("nobody looks"):
        pass


def test_an_error_in_a_step_comes_through() -> None:
    with pytest.raises(KeyError), progress.shown(io.StringIO()), progress.step("reading"):
        raise KeyError("a")
