"""Benchmarks' folders, found again as their own scripts look for them."""

import glob
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threedistill.errors import UsageError
from threedistill.evaluation.layouts import read_t3bench, write_gpteval3d, write_t3bench
from threedistill.evaluation.report import read_run
from threedistill.exports.asset import ExportSettings, write_mesh
from threedistill.exports.read import read_mesh
from threedistill.types import Mesh


@pytest.fixture
def run(tmp_path: Path) -> dict:
    """A red slab, 2 m high (+Y), that is seen from the front (+Z)."""
    box = trimesh.creation.box((0.5, 2.0, 0.3))
    mesh = Mesh(torch.tensor(np.asarray(box.vertices)).float(), torch.tensor(np.asarray(box.faces)).long(),
                colors=torch.tensor([[1.0, 0, 0]]).expand(8, 3))  # fmt: skip
    write_mesh(mesh, tmp_path / "model.glb", ExportSettings())
    return {"prompt": "a red slab", "asset": tmp_path / "model.glb", "seed": 3}


def test_gpteval3d_finds_colours_and_normals(tmp_path: Path, run: dict):
    root = tmp_path / "tournament"
    write_gpteval3d(root, "ours", {**run, "prompt": "something else"}, views=4, size=32)
    place = write_gpteval3d(root, "ours", run, views=4, size=32)
    prompts = json.loads((root / "prompts.json").read_text())
    # As T23DMethod does: folders are places in the list; pictures by kind, as many of each.
    ids = {int(f.name) for f in (root / "methods" / "ours").iterdir()}
    assert ids == {0, 1} and prompts[1] == "a red slab"
    assert place == root / "methods" / "ours" / "1" / "3"
    colours = sorted(glob.glob(str(place / "rgb_*.png")))
    assert len(colours) == len(glob.glob(str(place / "normal_*.png"))) == 4
    front = np.asarray(Image.open(place / "rgb_0.png"))
    assert (
        front.shape == (32, 32, 3)
        and tuple(front[16, 16]) == (255, 0, 0)
        and tuple(front[0, 0]) == (255,) * 3
    )
    # Seen from the front, the slab's normal points along threestudio's +X, and a little is up (+Z) nowhere.
    normal = np.asarray(Image.open(place / "normal_0.png")).astype(int)
    assert np.abs(normal[18, 16] - [255, 128, 128]).max() <= 2 and tuple(normal[0, 0]) == (255, 255, 255)
    Path(root, ".threedistill").unlink()
    with pytest.raises(UsageError, match="does not list 'a blue slab'"):
        write_gpteval3d(root, "ours", {**run, "prompt": "a blue slab"}, views=4, size=32)


def test_t3bench_finds_the_mesh_with_its_up_axis(tmp_path: Path, run: dict):
    root = tmp_path / "T3Bench"
    (root / "data").mkdir(parents=True)
    (root / "data" / "prompt_surr.txt").write_text("a red slab\nanother\n")
    write_t3bench(root, "ours", run)
    pattern = f"{root}/outputs_mesh_t3/ours_surr/{'a red slab'.replace(' ', '_')}*/save/it*-export/model.obj"
    found = trimesh.load(glob.glob(pattern)[-1], process=False)
    size = np.ptp(np.asarray(found.vertices), axis=0)
    assert size.argmax() == 2, "its renderer takes +Z for up"
    write_t3bench(root, "ours", {**run, "prompt": "a thing of its own"})
    assert glob.glob(f"{root}/outputs_mesh_t3/ours_single/a_thing_of_its_own*/save/it*-export/model.obj")


def test_t3benchs_assets_are_read_as_runs(tmp_path: Path, run: dict):
    """Ours come back as they were; threestudio's own names (a time behind @, several iterations) are understood."""
    root = tmp_path / "T3Bench"
    (root / "data").mkdir(parents=True)
    (root / "data" / "prompt_single.txt").write_text("a red\na red slab\na well-made_up thing\n")
    place = write_t3bench(root, "ours", run)
    other = place.parent / "a_well-made_up_thing@20230901-120000" / "save"
    for name in ("it900-export", "it10000-export"):
        shutil.copytree(place / "save" / "it0-export", other / name)
    (other / "it900-export" / "model.obj").write_text("damaged")
    (place.parent / "empty").mkdir()
    theirs, mine = sorted(read_t3bench(place.parent), key=lambda p: p.parent.name != other.parent.name)
    assert read_run(mine)["prompt"] == "a red slab" and read_run(mine)["seed"] == 3
    assert read_run(theirs)["prompt"] == "a well-made_up thing" and read_run(theirs)["seed"] is None
    before, after = (read_mesh(f).vertices for f in (run["asset"], read_run(mine)["asset"]))
    assert torch.allclose(before.amax(0) - before.amin(0), after.amax(0) - after.amin(0), atol=1e-5)
    slab = trimesh.load(place / "save/it0-export/model.obj", process=False, force="mesh")
    assert isinstance(slab, trimesh.Trimesh)
    # Front +X, up +Z: the slab is 0.3 m deep along its front axis.
    size = np.ptp(np.asarray(slab.vertices), axis=0)
    assert np.allclose(size, [0.3, 0.5, 2.0], atol=1e-5)


def test_eval_takes_a_benchmarks_folder(command, tmp_path: Path, run: dict):
    place = write_t3bench(tmp_path / "T3Bench", "ours", run)
    done = command("eval", str(place.parent), "--json")
    assert done.status == 0, done.err
    (found,) = json.loads(done.out)["runs"]
    assert found["prompt"] == "a red slab" and found["health"]["watertight"]
    (place / "save" / "it0-export" / "model.obj").unlink()
    done = command("eval", str(place.parent))
    assert done.status == 2 and "as T3Bench's methods leave them" in done.err and done.err.count("\n") == 1
    pictures = write_gpteval3d(tmp_path / "tournament", "ours", run, views=4, size=16)
    done = command("eval", str(pictures.parents[1]))
    assert done.status == 2 and "pictures only" in done.err and done.err.count("\n") == 1
