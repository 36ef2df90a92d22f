"""Networks and learners by name: a rule with two learners is a rule and its YAML."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.installed import installed
from tests.training.test_student import TINY
from threedistill.config import asked_otherwise, compose
from threedistill.errors import UsageError
from threedistill.plugins import naming
from threedistill.training import refusals
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.checkpoint import StageState
from threedistill.training.planning import build_plan
from threedistill.training.tensor_file import tensor_bytes

ROOT = Path(__file__).resolve().parent.parent.parent

RULE = '''
from threedistill.guidance import CFG, Evidence, GuidanceRule, Query
from threedistill.values import Fraction, settings


@settings
class Halves(GuidanceRule):
    """``g = eps^s - (1 - mix) eps_student - mix eps_slow``, and a frozen critic that is asked and weighs nothing."""

    cfg: CFG
    mix: Fraction = 0.5

    def queries(self, progress: float) -> tuple[Query, ...]:
        own = (
            Query("student", network="student", text="base"),
            Query("slow", network="slow", text="base"),
            Query("critic", network="critic", text="null"),
        )
        return (*self.cfg.queries(progress), *own)

    def __call__(self, evidence: Evidence, progress: float):
        learned = (1 - self.mix) * evidence["student"].eps + self.mix * evidence["slow"].eps
        return (self.cfg(evidence, progress) - learned + 0 * evidence["critic"].eps).detach()
'''

YAML = """
# Two learners and a critic: a test.
defaults:
  - /student@_global_.learners.slow: slow
  - /baseline@_global_.networks.critic: self
  - override /student@_global_.student: gaussian
name: halves
recommended:
  scale: 2.0
  x0_clip: none
  weighting: sigma2
  window: {min: 0.1, max: 0.9, unit: t}
rule:
  _target_: two_learners.Halves
  cfg: ${cfg}
  mix: 0.5
weighting:
  _target_: threedistill.guidance.weighting.Weighting
  kind: ${recommended:weighting}
  factor: 1.0
  cap: null
surrogate:
  _target_: threedistill.guidance.surrogate.Surrogate
  clip: null
"""

PROJECT = """
[project]
name = "two-learners"
version = "0.1"

[project.entry-points."threedistill.plugins"]
two_learners = "two_learners"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The rule's package: its class, its YAML, and an option of ``student`` of its own."""
    place = tmp_path_factory.mktemp("plugin")
    slow = (ROOT / "configs/student/gaussian.yaml").read_text().replace("lr: 0.02", "lr: 0.002")
    files = {
        "two_learners/__init__.py": RULE, "pyproject.toml": PROJECT,
        "two_learners/configs/guidance/halves.yaml": YAML.lstrip(),
        "two_learners/configs/student/slow.yaml": slow,
    }  # fmt: skip
    installed(files, place / "site", place)
    return place / "site"


def test_a_rule_with_two_learners_is_a_package_with_a_rule_and_a_yaml(site: Path, tmp_path: Path) -> None:
    """Installed, chosen on the command line, trained: both learn, each at its own rate, and are kept by a resume."""
    paths = os.pathsep.join(filter(None, [str(site), str(ROOT), os.environ.get("PYTHONPATH")]))

    def run(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "threedistill", *words], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def state(stage: str) -> dict[str, torch.Tensor]:
        return load_file(tmp_path / "run" / "checkpoints" / stage / "last.safetensors")

    shared = ("budget.grid=24", "budget.faces=200", "budget.texture=16", "trainer.preview_every=0")
    tiny = [word for word in TINY if not word.startswith("student=")]
    own = ("export.turntable_frames=0", "trainer.log_every=1", "learners.slow.training.steps=2")
    run(
        "generate",
        "a red ball",
        "--prior",
        "gaussian",
        "--guidance",
        "halves",
        "--out",
        "run",
        *tiny,
        *shared,
        *own,
    )
    first = state("00-coarse")
    moved = {
        name: float(first[f"module/learner/{name}.model.mean"].abs().mean()) for name in ("student", "slow")
    }
    assert moved["student"] > 3 * moved["slow"] > 0
    columns = (tmp_path / "run" / "metrics.csv").read_text().split("\n")[0].split(",")
    assert {"student_loss", "camera_gain", "slow_student_loss", "slow_camera_gain", "seconds_slow"} <= set(
        columns
    )
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["student"]["stage"] == record["learners"]["slow"]["stage"] == "coarse"
    assert record["student"]["student_gain"] > record["learners"]["slow"]["student_gain"]

    run("resume", "run", "budget.iterations=9")
    after = state("01-coarse-more")
    assert not torch.equal(first["module/learner/slow.model.mean"], after["module/learner/slow.model.mean"])
    step = float(
        (first["module/learner/slow.model.mean"] - after["module/learner/slow.model.mean"]).abs().max()
    )
    assert step < 0.01, "it goes on with what it knew"


def built(guidance: str = "vsd", *overrides: str):
    config = compose(prompt="a red ball", prior="gaussian", guidance=guidance, overrides=[*TINY, *overrides])
    plan = build_plan(config)
    return build_stages(plan, build_prior(plan, torch.device("cpu")))[0]


def test_names_that_cannot_be_are_refused() -> None:
    def refused(**parts) -> str:
        config = compose(prompt="a red ball", prior="gaussian", guidance="vsd", overrides=TINY)
        with pytest.raises(UsageError) as caught:
            build_plan({**config, **parts})
        return str(caught.value)

    learner = compose(prompt="a red ball", prior="gaussian", guidance="vsd", overrides=TINY)["student"]
    frozen = {"name": "self", "model": None}
    for name in ("teacher", "student", "a.b", "Slow", ""):
        assert "a network cannot be called" in refused(learners={name: learner})
    assert "a network cannot be called" in refused(networks={"baseline": frozen})
    assert "critic is among networks and among learners; rename one of them" in refused(
        learners={"critic": learner}, networks={"critic": frozen}
    )


def test_further_learners_and_networks_are_chosen_by_name(tmp_path: Path) -> None:
    """``student@learners.NAME=option``: another option than the rule's of that name, or one that the rule has not."""
    rule = (ROOT / "configs/guidance/vsd.yaml").read_text().replace("name: vsd", "name: pair")
    (tmp_path / "guidance").mkdir()
    (tmp_path / "guidance/pair.yaml").write_text(
        rule.replace("defaults:", "defaults:\n  - /student@_global_.learners.slow: gaussian", 1)
    )

    def names(*overrides: str) -> dict[str, str]:
        config = compose(prompt="a red ball", prior="toybox", guidance="pair", overrides=overrides)
        try:
            build_plan(config)
        except UsageError as error:
            if "guidance=pair asks no network of this name" not in str(error):
                raise
        else:
            pytest.fail("a learner that no rule asks is refused")
        both = {**config["learners"], **config["networks"], "student": config["student"]}
        return {name: node["name"] for name, node in both.items()}

    with naming(folders=[str(tmp_path)]):
        assert names() == {"slow": "gaussian", "student": "sketch"}
        chosen = names(
            "student@learners.slow=lora", "student@learners.more=gaussian", "baseline@networks.critic=self"
        )
        assert chosen == {"slow": "lora", "more": "gaussian", "critic": "self", "student": "sketch"}
        own = compose(
            prompt="a red ball", guidance="vsd",
            overrides=["learners.slow.training.lr=0.5", "student@learners.slow=lora"],
        )  # fmt: skip
        assert (own["learners"]["slow"]["training"]["lr"], own["student"]["training"]["lr"]) == (0.5, 0.002)
        line = ["student@learners.slow=gaussian"]
        other = compose(prompt="a red ball", guidance="vsd", overrides=line)
        assert asked_otherwise({}, line, other, own) == [("student@learners.slow", "gaussian", "lora")]
        for word, said in (
            ("student@learners.slow=lroa", "unknown student 'lroa'; did you mean 'lora'?"),
            (
                "student@learner.slow=lora",
                "names, student@learners.NAME=OPTION and baseline@networks.NAME=OPTION",
            ),
            ("prior@networks.critic=sd15", "only further learners and networks have names"),
            ("student@learners.teacher=lora", "a network cannot be called 'teacher'"),
            ("+student@learners.slow=lora", "write key=value without + or ~"),
        ):
            with pytest.raises(UsageError, match=re.escape(said)):
                names(word)


def test_learners_draw_their_own_numbers_and_leave_each_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_check_idle", lambda plan: None)  # nobody asks the second one
    config = compose(prompt="a red ball", prior="gaussian", guidance="vsd", overrides=TINY)
    systems = []
    for learners in ({}, {"slow": config["student"]}):
        plan = build_plan({**config, "learners": learners})
        system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
        optimizers = system.configure_optimizers()
        assert len(optimizers) == 2 + len(learners)
        system._optimizers = lambda optimizers=optimizers: optimizers
        system.manual_backward = lambda loss: loss.backward()
        for index in range(2):
            system.training_step(index)
        systems.append(system)
    alone, beside = (system.networks["student"] for system in systems)
    assert torch.equal(alone.mean, beside.mean), "a second learner changes nothing for the first"
    assert torch.equal(systems[0].scenes[0].table, systems[1].scenes[0].table)
    assert not torch.equal(beside.mean, systems[1].networks["slow"].mean), "their noise is not the same"


def test_checkpoints_of_earlier_versions_are_read_under_their_new_names(tmp_path: Path) -> None:
    """What 0.1 called representation, particles, student and student_step."""
    system = built()
    now = system.state_dict()
    torch.manual_seed(1)
    then = {}
    for name, value in now.items():
        if name == "scenes.steps":
            continue
        former = name.replace("learner/student.model.", "student.").replace(
            "learner/student.", "student_step."
        )
        then[f"module/{former.replace('scenes.0.', 'representation.')}"] = torch.rand_like(value.float()).to(
            value
        )
    then["module/iteration"] = torch.tensor(7)
    file = tmp_path / "last.safetensors"
    header = {"format": "threedistill-stage-2", "facts": "{}", "scalars": "{}"}
    file.write_bytes(tensor_bytes(then, header))
    StageState(file).load_module(system)
    assert int(system.iteration) == 7 and system.scenes.steps.tolist() == [7]
    assert torch.equal(system.networks["student"].mean, then["module/student.mean"])
    assert torch.equal(system.scenes[0].table, then["module/representation.table"])
    assert torch.equal(system.learners["student"].measured, then["module/student_step.measured"])
    # Only one scene of several is wanted when an asset is made again.
    pair = {f"module/representation.particles.{i}.weight": torch.full((1, 1), float(i)) for i in range(2)}
    pair |= {"module/representation.steps": torch.tensor([3, 4])}
    file.write_bytes(tensor_bytes(pair, header))
    second = nn.Linear(1, 1, bias=False)
    StageState(file).load_module(second, part="scenes.1")
    assert float(second.weight.detach()) == 1.0
