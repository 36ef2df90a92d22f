"""The run folder: claims, locks, atomic writes, and errors in words."""

from __future__ import annotations

import errno
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threedistill.atomic import os_errors_in_words, write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.pipeline import resume, start_run
from threedistill.training.naming import default_folder, free_folder, prompt_name, slug
from threedistill.training.run_folder import RunFolder, RunHere


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


def begun(path: Path, name: str = "one") -> RunFolder:
    """A folder with a run that has its first checkpoint."""
    run = RunFolder(path)
    with run.locked():
        run.settle()
        run.begin()
        write_text(run.config, f"schema: 1\nprompt: {name}\n")
        run.update_record(status="running", name=name)
        write_text(run.checkpoint(0, "coarse"), name)
        run.take_place()
    return run


def test_an_existing_run_needs_resume_or_overwrite(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    run.check_free(overwrite=False)
    begun(run.path)
    with pytest.raises(RunHere, match=r"--resume or .* --overwrite"):
        run.check_free(overwrite=False)
    run.check_free(overwrite=True)


def test_a_folder_without_a_checkpoint_belongs_to_nobody(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    with run.locked():
        run.begin()
        write_text(run.config, "schema: 1\nprompt: x\n")
    assert run.holds_request and not run.holds_run
    RunFolder(run.path).check_free(overwrite=False)
    older = RunFolder(tmp_path / "older")  # as earlier versions left it
    write_text(older.config, "schema: 1\nprompt: x\n")
    older.update_record(status="failed")
    older.check_free(overwrite=False)
    failed = RunFolder(tmp_path / "failed")  # as a sweep leaves it
    failed.update_record(status="failed")
    failed.check_free(overwrite=False)


def test_a_folder_with_other_things_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        RunFolder(tmp_path).check_free(overwrite=True)
    for name in ("config.yaml", "run.json", "asset/mine.glb", "checkpoints/mine.ckpt"):
        folder = tmp_path / name.replace("/", "-")
        write_text(folder / name, "{}")
        with pytest.raises(UsageError, match="not empty"):
            RunFolder(folder).check_free(overwrite=True)
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "sub"):
        with pytest.raises(UsageError, match="choose another --out"):
            RunFolder(path).check_free(overwrite=False)


def test_an_earlier_run_stays_until_the_new_one_has_a_checkpoint(tmp_path: Path) -> None:
    run = begun(tmp_path)
    write_text(tmp_path / "asset" / "model.glb", "one")
    write_text(tmp_path / "notes.txt", "mine")
    before = {p: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    with run.locked():
        run.begin()
        write_text(run.config, "schema: 1\nprompt: two\n")
        assert before.items() <= {p: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}.items()
        write_text(run.checkpoint(0, "coarse"), "two")
        run.take_place()
    assert (tmp_path / "notes.txt").read_text() == "mine", "only what a run writes is removed"
    assert not (tmp_path / "asset").exists() and run.checkpoint(0, "coarse").read_text() == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "checkpoints", "config.yaml", "notes.txt"]


def test_nothing_is_cleaned_in_a_folder_of_others(tmp_path: Path) -> None:
    for name, text in (
        ("config.yaml", "a: 1\n"),
        ("run.json", "not ours"),
        ("asset/.model-01234567.glb", "x"),
    ):
        write_text(tmp_path / name, text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="was not written by threedistill"):
        resume(tmp_path)
    with pytest.raises(UsageError, match="not empty and holds no run"):
        start_run({"budget": {}}, tmp_path, quiet=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_fails_leaves_no_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "r")
    with pytest.raises(ZeroDivisionError), run.locked():
        run.begin()
        try:
            _ = 1 / 0
        finally:
            run.abandon()
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_process_are_cleaned(tmp_path: Path) -> None:
    run = begun(tmp_path)
    names = [
        "checkpoints/00-coarse/.last-abcd1234.part.safetensors", "checkpoints/00-coarse/.last-abcd1234.safetensors",
        "asset/.model-0123_567.part.glb", "asset/.model-01234567.glb", ".run-01234567.json", ".run-01234567.part.json",
    ]  # fmt: skip
    for name in [*names, "asset/.keep-me.txt", "asset/model.glb", ".my-download.part.zip.txt"]:
        write_text(tmp_path / name, "x")
    with run.locked():
        run.settle()
    assert not [name for name in names if (tmp_path / name).exists()]
    assert (tmp_path / "asset/.keep-me.txt").exists() and (tmp_path / ".my-download.part.zip.txt").exists()


def test_default_names_carry_what_differs() -> None:
    assert default_folder("a duck", 0, {"prior": None, "guidance": "sds"}) == Path("runs/a-duck-s0")
    chosen = {"prior": "sd15", "representation": "dmtet", "guidance": "vsd"}
    assert default_folder("a duck", 3, chosen) == Path("runs/a-duck-sd15-dmtet-vsd-s3")


def test_prompts_that_lose_letters_get_a_digest(tmp_path: Path) -> None:
    assert prompt_name("A Red, Mushroom!") == "a-red-mushroom" and prompt_name("café") == "cafe"
    strange = ["赤い", "青い", "a 赤い duck", "a 青い duck", "🦆", "!!!", "x" * 60, "x" * 61]
    names = [prompt_name(text) for text in strange]
    assert len(set(names)) == len(names) and all(n.isascii() and len(n) <= 48 for n in names)
    assert free_folder(tmp_path / "r") == tmp_path / "r-2"
    (tmp_path / "r-2").mkdir()
    assert free_folder(tmp_path / "r") == tmp_path / "r-3"


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
    run.settle()
    assert run.read_record() == {} and (tmp_path / "run.damaged").read_text() == "{"


def test_folders_beside_each_other_come_and_go_at_once(tmp_path: Path) -> None:
    """What one leaves empty and removes, another may just be making."""

    def coming_and_going(name: str) -> int:
        for _ in range(400):
            with RunFolder(tmp_path / "sweep" / "runs" / name).locked():
                pass
        return 1

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(coming_and_going, "abcd")) == 4
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("sweep", "runs")]
