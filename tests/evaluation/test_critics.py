"""Who judges an asset: the first critic that knows a prompt's words, those of plug-ins before the one that ships."""

import importlib
import textwrap
from pathlib import Path

import pytest

from threedistill.config.critics import critic_for, critics
from threedistill.errors import UsageError
from threedistill.plugins import naming
from threedistill.training.finish import verdict
from threedistill.training.run_folder import RunFolder


@pytest.fixture
def cathedrals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A plug-in whose critic knows cathedrals and nothing else."""
    package = tmp_path / "cathedral_critic"
    (package / "configs" / "critic").mkdir(parents=True)
    (package / "__init__.py").write_text(
        textwrap.dedent("""
        from threedistill.errors import UsageError
        from threedistill.protocols import Critic


        class Cathedrals(Critic):
            version = "gothic"

            def __init__(self, mark: float = 0.5) -> None:
                self.mark = mark

            def check_text(self, text):
                if "cathedral" not in text:
                    raise UsageError("no cathedral is asked for")

            def judge(self, asset, prompt, *, quick=False):
                return {"verdict": f"{prompt}: {self.mark}", "judge_version": self.version, "quick": quick}

            def preference(self, asset, prompt):
                return self.mark
        """)
    )
    (package / "configs" / "critic" / "cathedrals.yaml").write_text(
        "_target_: cathedral_critic.Cathedrals\nmark: 0.75\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with naming(["cathedral_critic"]):
        yield


def test_a_plug_ins_critic_comes_first_and_judges_what_it_knows(cathedrals, tmp_path: Path):
    assert [type(one).__name__ for one in critics()] == ["Cathedrals", "ToyboxCritic"]
    assert critic_for("a cathedral").preference("x.glb", "a cathedral") == 0.75
    assert critic_for("a cathedral").truth("a cathedral") is None
    assert type(critic_for("a red duck")).__name__ == "ToyboxCritic"
    run = RunFolder(tmp_path / "run")
    run.asset_dir.mkdir(parents=True)
    assert verdict("a cathedral", run) is None, "no file, no verdict"
    (run.asset_dir / "model.glb").write_bytes(b"glTF")
    found = verdict("a cathedral", run)
    assert found == {"verdict": "a cathedral: 0.75", "judge_version": "gothic", "quick": True}


def test_where_nobody_knows_the_words_the_last_reason_is_said(cathedrals, tmp_path: Path):
    with pytest.raises(UsageError, match="does not know 'xylophone'"):
        critic_for("a red xylophone")
    run = RunFolder(tmp_path / "run")
    run.asset_dir.mkdir(parents=True)
    (run.asset_dir / "model.glb").write_bytes(b"glTF")
    assert verdict("a red xylophone", run) is None


def test_the_toy_worlds_truth_is_its_own_object():
    critic = critic_for("a red duck")
    truth = critic.truth("a red duck")
    assert truth is not None and len(truth.faces) > 100
    again = critic.truth("a red duck")
    assert again is not None and again.vertices.equal(truth.vertices)
