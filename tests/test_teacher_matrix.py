"""Every family under three kinds of rule on every representation, prompt to file: tiny models, smoke budgets.

``pytest -m long``: about an hour.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.priors.folders import OPTIONS, settings, shown, views
from threedistill.cli import main
from threedistill.config import compose, groups

BUDGET = [
    "budget.iterations=2", "budget.resolution=16", "budget.grid=24", "budget.faces=100",
    "budget.texture=32", "trainer.preview_every=0", "export.turntable_frames=0", "trainer.log_every=1",
]  # fmt: skip
SMALL = {
    "hashgrid": [
        "representation.model.log2_entries=9", "representation.model.levels=4", "representation.model.start_levels=2",
        "representation.model.finest_resolution=32", "representation.model.steps=32",
    ],
    "gaussians": ["representation.model.count=60"],
    "dmtet": ["representation.model.resolution=12", "representation.model.color.log2_entries=9"],
}  # fmt: skip
RULES = {"sds": [], "vsd": ["student.training.measure_every=1"], "csm": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def test_no_family_is_left_out():
    kinds = {
        name: compose(prompt="a duck", prior=name)["prior"]["model"]["_target_"] for name in groups()["prior"]
    }
    teachers = {name for name, kind in kinds.items() if ".priors.diffusers." in kind}
    assert teachers == set(OPTIONS)


@pytest.mark.long
@pytest.mark.parametrize("representation", SMALL)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("prior", OPTIONS)
def test_a_run(
    prior: str,
    rule: str,
    representation: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        "generate",
        "a red duck",
        "--prior",
        prior,
        "--guidance",
        rule,
        "--representation",
        representation,
    ]
    words += [
        "--preset",
        "draft",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
        *settings(prior, folder),
        *BUDGET,
    ]
    words += [*shown(prior, tmp_path / "red.png"), f"budget.views={views(prior)}"]
    code = main([*words, *SMALL[representation], *RULES[rule]])
    assert code == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["prior"]) == ("done", prior)
    assert (tmp_path / "run" / "asset" / "model.glb").read_bytes()[:4] == b"glTF"
    if rule == "vsd":
        assert record["student"]["stage"] == "coarse"
