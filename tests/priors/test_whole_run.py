"""A latent diffusion pipeline goes through the same command line as the embedded prior, prompt to file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from threedistill.cli import main

TINY = [
    "budget.iterations=6", "budget.views=2", "budget.resolution=16", "budget.grid=40", "budget.faces=300",
    "budget.texture=64", "trainer.preview_every=3", "representation.model.log2_entries=9",
    "representation.model.levels=4", "representation.model.start_levels=2", "export.turntable_frames=0",
    "representation.model.finest_resolution=32", "representation.model.steps=32",
]  # fmt: skip


@pytest.mark.parametrize(("option", "kind"), [("sd15", "eps"), ("sd21", "v")])
def test_the_command_line_runs_with_stable_diffusion(
    pipelines: dict, option: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", 'any words: "a DSLR photo", 100 % #free', "--prior", option, "--preset", "draft"]
    code = main(
        [*words, "--out", str(tmp_path / "run"), "--quiet", f"prior.model.model={pipelines[kind][0]}", *TINY]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    asset = Path(captured.out.splitlines()[-1])
    assert asset.read_bytes()[:4] == b"glTF"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "done" and record["prior"] == option
