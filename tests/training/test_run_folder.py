"""The run folder: claims, locks, atomic writes, and errors in words."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threedistill.atomic import os_errors_in_words, write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.training.run_folder import RunFolder, slug


@given(st.text())
def test_slug_is_always_a_short_plain_file_name(text: str) -> None:
    name = slug(text)
    assert 1 <= len(name) <= 48
    assert all(c.isascii() and (c.isalnum() or c == "-") for c in name)


def test_slug_reads_well() -> None:
    assert slug("A Red, Mushroom!") == "a-red-mushroom"
    assert slug("赤い") == "prompt"
    assert slug("café") == "cafe"


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(ThreedistillError, match="disk is full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("number", "kind", "needle"),
    [
        (errno.EROFS, ThreedistillError, "--out"),
        (errno.ENOTDIR, UsageError, "--out"),
        (errno.ENOSPC, ThreedistillError, "disk is full"),
    ],
)
def test_os_errors_become_one_line(number: int, kind: type[Exception], needle: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=needle), os_errors_in_words(tmp_path):
        raise OSError(number, os.strerror(number))


def test_an_existing_run_needs_resume_or_overwrite(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    run.prepare(overwrite=False)
    write_text(run.config, "x")
    with pytest.raises(UsageError, match=r"--resume or .* --overwrite"):
        run.prepare(overwrite=False)
    run.prepare(overwrite=True)


def test_a_folder_with_other_things_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        RunFolder(tmp_path).prepare(overwrite=True)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="choose another --out"):
        RunFolder(file / "sub").prepare(overwrite=False)


def test_clear_removes_only_what_a_run_writes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in ("config.yaml", "asset/model.glb", "notes.txt"):
        write_text(tmp_path / name, "x")
    run.clear()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


def _try_lock(path: str, queue) -> None:
    try:
        with RunFolder(path).locked():
            queue.put("locked")
    except UsageError as error:
        queue.put(str(error))


def test_two_processes_never_share_a_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with RunFolder(tmp_path).locked():
        child = context.Process(target=_try_lock, args=(str(tmp_path), queue))
        child.start()
        assert "in use by another process" in queue.get(timeout=60)
        child.join()


def test_record_merges_and_refuses_damage(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.update_record(status="running", seed=3)
    run.update_record(status="done")
    assert run.read_record()["seed"] == 3 and run.read_record()["status"] == "done"
    run.record_path.write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        run.read_record()
