"""A tiny run of splats, from Python: its asset as every kind of file, and what it is cited by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import threedistill
from threedistill.exports.formats import FORMATS, format_of, of_kind
from threedistill.exports.read import read_mesh
from threedistill.exports.splat_files import read_splats

TINY = [
    "budget.iterations=4", "budget.views=2", "budget.resolution=24", "budget.faces=300", "budget.texture=64",
    "export.resolution=32", "export.turntable_frames=3", "export.preview_size=32", "trainer.preview_every=0",
    "representation.model.count=400", "prior.model.size=24",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> threedistill.Result:
    return threedistill.generate(
        "a red ball", out=tmp_path_factory.mktemp("made") / "run", preset="draft", prior="oracle",
        representation="gaussians", quiet=True, overrides=TINY,
    )  # fmt: skip


def test_a_suffix_names_the_runs_own_splats(made: threedistill.Result, command: Callable) -> None:
    """``.ply`` is a 3DGS file and ``.glb`` a mesh, unless the format is given; films too, all as the command line's."""
    names = [name for name in of_kind("mesh", "splats", "film") if name not in ("mp4", "usdz", "usd-splat")]
    done = command("export", str(made.run_dir), "--format", ",".join(names), "--out", "cli")
    assert done.status == 0, done.err
    for name in names:
        file = FORMATS[name].file
        assert made.export(Path("py", file), name).read_bytes() == Path("cli", file).read_bytes(), name
    for suffix, name in {".ply": "3dgs", ".glb": "glb", ".spz": "spz", ".gif": "gif", ".stl": "stl"}.items():
        written = made.export(Path("suffix", Path(FORMATS[name].file).stem + suffix))
        assert written.read_bytes() == Path("cli", FORMATS[name].file).read_bytes(), suffix
    assert format_of(made.export("a.ply")).name == "3dgs" and len(read_splats("a.ply")) >= 400
    assert format_of(made.export("s.glb", "gltf-splat")).name == "gltf-splat"
    assert len(read_splats("s.glb")) == len(read_splats("a.ply"))
    with pytest.raises(threedistill.UsageError, match=r"cannot write b\.blend"):
        made.export("b.blend")


def test_facts_travel_with_splats_that_are_made_anew(made: threedistill.Result, workspace: Path) -> None:
    own = read_splats(made.run_dir / "asset" / "splats.ply").extras
    assert (
        own["prior_licence"]
        and str(own["generator"]).startswith("threedistill ")
        and own["prompt"] == "a red ball"
    )
    made.export("new.ply", overrides=["export.resolution=24", "export.unit_size=2e0"])
    made.export("new.glb", overrides=["export.faces=2e2"])
    for found in (read_splats("new.ply").extras, read_mesh("new.glb").extras):
        assert {key: found.get(key) for key in own if key != "frame"} == {
            k: v for k, v in own.items() if k != "frame"
        }
    assert len(read_mesh("new.glb").faces) <= 200


def test_a_result_is_cited_as_its_folder_is(made: threedistill.Result, command: Callable) -> None:
    found = threedistill.cite(made)
    assert found.used == threedistill.cite(made.run_dir).used and "kerbl2023gaussians" in found.used
    assert command("cite", str(made.run_dir)).out == f"{found}\n"
    assert len(found) == found.bibtex.count("\n@") + found.bibtex.startswith("@")
    with pytest.raises(threedistill.UsageError, match="is not a run folder"):
        threedistill.cite("nowhere")
