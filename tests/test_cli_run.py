"""The command line end to end, with the oracle prior and a budget of seconds: files, exports, interruption, resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SMALL = [
    "--prior", "oracle", "--preset", "draft", "budget.iterations=12", "budget.grid=40", "export.faces=400",
    "export.texture_size=64", "export.turntable_frames=3", "export.preview_size=48", "trainer.preview_every=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run, made by the command line in a fresh folder."""
    from threedistill.cli import main

    home = tmp_path_factory.mktemp("cli")
    before = Path.cwd()
    os.chdir(home)
    try:
        assert main(["generate", "A red, shiny mushroom!", *SMALL, "--quiet"]) == 0
    finally:
        os.chdir(before)
    yield home / "runs" / "a-red-shiny-mushroom-oracle-s0"


def test_a_run_leaves_what_the_quickstart_says(finished):
    assert (finished / "asset" / "model.glb").read_bytes()[:4] == b"glTF"
    for name in (
        "config.yaml",
        "run.json",
        "metrics.csv",
        "checkpoints",
        "asset/turntable.webp",
        "asset/sheet.png",
    ):
        assert (finished / name).exists(), name
    record = json.loads((finished / "run.json").read_text())
    assert (record["status"], record["prompt"], record["seed"]) == ("done", "A red, shiny mushroom!", 0)
    assert record["preset"] == "draft"


def test_a_result_is_exported_as_the_command_line_does(command, finished, workspace):
    """Every format of the table, byte by byte what ``threedistill export`` writes."""
    from threedistill import Result
    from threedistill.exports.formats import FORMATS, of_kind

    names = [name for name in of_kind("mesh", "splats", "film") if name != "mp4"]  # mp4 needs an extra
    done = command("export", str(finished), "--format", ",".join(names), "--out", "cli")
    assert done.status == 0, done.err
    result = Result(finished, finished / "asset" / "model.glb")
    for name in names:
        file = FORMATS[name].file
        assert result.export(Path("own", file), name).read_bytes() == Path("cli", file).read_bytes(), name
    for suffix, name in {".spz": "spz", ".glb": "glb", ".ply": "ply", ".png": "sheet", ".gif": "gif"}.items():
        written = result.export(Path("suffix", Path(FORMATS[name].file).stem + suffix))
        assert written.read_bytes() == Path("cli", FORMATS[name].file).read_bytes(), suffix


def test_the_facts_travel_whichever_way_a_file_is_made(command, finished, workspace):
    """The licence of the prior among them: converted, meshed anew, and as splats."""
    from threedistill.exports.read import read_mesh
    from threedistill.exports.splat_files import read_splats

    own = read_mesh(finished / "asset" / "model.glb").extras
    assert own["prior_licence"] == "Apache-2.0" and own["generator"].startswith("threedistill ")
    assert command("export", str(finished), "--out", "a").status == 0
    done = command(
        "export",
        str(finished),
        "--out",
        "b",
        "--format",
        "glb,3dgs",
        "export.resolution=32",
        "export.faces=1e3",
    )
    assert done.status == 0, done.err
    for found in (
        read_mesh("a/model.glb").extras, read_mesh("b/model.glb").extras, read_splats("b/splats.ply").extras,
    ):  # fmt: skip
        assert {k: found.get(k) for k in own if k not in ("frame", "texture layout")} == {
            k: v for k, v in own.items() if k not in ("frame", "texture layout")
        }
    assert 400 < len(read_mesh("b/model.glb").faces) <= 1000


def test_other_formats_hold_the_same_surface(command, finished, workspace):
    from threedistill.exports.read import read_mesh

    done = command("export", str(finished), "--format", "obj,ply,stl", "--out", "more")
    assert (done.status, done.out.split()) == (0, ["more/model.obj", "more/model.ply", "more/model.stl"]), (
        done.err
    )
    glb = read_mesh(finished / "asset" / "model.glb")
    for path in done.out.split():
        mesh = read_mesh(path)
        assert len(mesh.faces) == len(glb.faces)
        scale = 0.1 if path.endswith(".stl") else 1.0  # for printing: the longest side is 100 mm
        for mine, theirs in (
            (mesh.vertices.amin(0), glb.vertices.amin(0)),
            (mesh.vertices.amax(0), glb.vertices.amax(0)),
        ):
            torch.testing.assert_close(mine, theirs * scale, rtol=0, atol=1e-4)
    assert command("export", str(finished), "--format", "obj", "--out", "more").status == 2
    assert command("export", str(finished), "--format", "obj", "--out", "more", "--overwrite").status == 0


def test_a_folder_may_have_an_equals_sign_in_its_name(command, finished, workspace):
    shutil.copytree(finished, "scale=3")
    assert command("export", "scale=3", "--format", "stl").out == "scale=3/asset/model.stl\n"
    done = command("export", "scale=3", "--out", "b=c", "export.unit_size=2", "--format", "stl")
    assert (done.status, done.out) == (0, "b=c/model.stl\n"), done.err
    assert json.loads(command("resume", "./scale=3", "--json", "--quiet").out)["run_dir"] == "scale=3"


def test_the_verdict_is_there_in_figures(command, finished):
    answer = json.loads(command("resume", str(finished), "--json", "--quiet").out)
    assert answer["evaluation"]["verdict"] == answer["verdict"]
    assert 0 <= answer["evaluation"]["judge"]["kind_p"] <= 1
    assert answer["evaluation"]["health"]["largest_share"] > 0


def test_export_settings_mesh_the_field_anew(command, finished, workspace):
    from threedistill.exports.read import read_mesh

    done = command("export", str(finished), "--out", "small", "export.faces=120", "export.unit_size=2")
    assert done.status == 0, done.err
    mesh = read_mesh("small/model.glb")
    assert len(mesh.faces) <= 120
    size = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    torch.testing.assert_close(size.max(), torch.tensor(2.0), rtol=1e-3, atol=0)
    assert (
        "did you mean export.unit_size"
        in command("export", str(finished), "--out", "x", "export.unitsize=2").err
    )


def test_resuming_a_finished_run_repeats_nothing(command, finished):
    rows = (finished / "metrics.csv").read_text()
    answer = json.loads(command("resume", str(finished), "--json", "--quiet").out)
    assert answer["asset"] == str(finished / "asset" / "model.glb")
    assert (finished / "metrics.csv").read_text() == rows


def test_an_interrupted_run_says_how_to_go_on_and_ends_as_if_nothing_had_been(finished, workspace):
    import threedistill

    environment = {**os.environ, "PYTHONPATH": str(Path(threedistill.__file__).parent.parent)}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    program = [sys.executable, "-m", "threedistill"]
    words = ["generate", "A red, shiny mushroom!", *SMALL, "--out", "run"]
    process = subprocess.Popen(
        [*program, *words], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr and process.stdout
    said = []
    for line in process.stderr:
        said.append(line)
        if "/12" in line or "estimated" in line:  # the first steps are done
            process.send_signal(signal.SIGINT)
            break
    out, rest = process.communicate(timeout=300)
    said.append(rest)
    assert process.returncode == 130, "".join(said)
    assert rest.splitlines()[-1] == "threedistill: interrupted; continue with: threedistill resume run"
    assert out == ""
    assert json.loads(Path("run/run.json").read_text())["status"] == "interrupted"

    done = subprocess.run(
        [*program, "resume", "run", "--quiet"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "run/asset/model.glb\n"), done.stderr
    assert "Warning" not in "".join([*said, done.stderr]), "what libraries warn of is not the user's business"
    assert Path("run/asset/model.glb").read_bytes() == (finished / "asset" / "model.glb").read_bytes()
