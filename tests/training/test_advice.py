"""Advice that is already taken is not given: whoever follows it is told something else, or nothing."""

from __future__ import annotations

import re

import pytest
import torch

import threedistill.training.assemble as assemble
from threedistill.config import compose
from threedistill.errors import ThreedistillError, UsageError
from threedistill.training.advice import faster, remedies, smaller
from threedistill.training.plan import RunPlan
from threedistill.training.planning import build_plan
from threedistill.training.watchdog import Vital

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def planned(*overrides: str, **flags: str) -> RunPlan:
    return build_plan(compose(prompt="a red ball", overrides=overrides, **flags))


def test_what_would_be_faster_or_smaller_is_not_done_already() -> None:
    large = planned("cameras.views=4", preset="standard", prior="sd15")
    assert faster(large, "cpu") == "--preset draft, --prior toybox, or a machine with a GPU"
    assert faster(large, "cuda") == "--preset draft, or --prior toybox"
    assert smaller(large, "cuda") == "--preset draft, fewer views than cameras.views=4, or --device cpu"
    small = planned("cameras.views=1", preset="draft", prior="toybox")
    assert faster(small, "cuda") == "" and faster(small, "cpu") == "a machine with a GPU"
    assert smaller(small, "cpu") == "close other programs"
    assert "particles=3" in smaller(planned("particles=3", preset="draft"), "cpu")


@pytest.mark.parametrize(
    ("symptom", "untaken", "setting", "taken"),
    [
        ("nonfinite", ["prior.model.dtype=float16"], "prior.model.dtype", ["prior.model.dtype=float32"]),
        ("empty", ["regularizers.weights.sparsity=1"], "sparsity", ["regularizers.weights.sparsity=0"]),
        ("empty", ["representation=hashgrid"], "blob_strength", ["representation=gaussians"]),
        ("saturated", ["cfg.x0_clip=none"], "x0_clip", ["cfg.x0_clip=dynamic"]),
        ("saturated", ["cfg=perp_neg", "cfg.base.x0_clip=none"], "cfg.base.x0_clip",
            ["cfg=perp_neg", "cfg.base.x0_clip=static"]),
    ],
)  # fmt: skip
def test_the_watchdog_knows_what_is_set(
    symptom: str, untaken: list[str], setting: str, taken: list[str]
) -> None:
    """The setting is named before it is taken, and not behind; something is advised still."""
    prior = "sd15" if symptom == "nonfinite" else "toybox"
    told = assemble.build_prior(planned(prior="gaussian"), CPU)  # works on pixels, and is quickly there
    before, behind = (
        remedies(plan, plan.stages[0], told, CPU)[symptom]
        for plan in (planned(*lines, prior=prior) for lines in (untaken, taken))
    )
    assert setting in before and setting not in behind and behind


def test_half_precision_is_what_auto_means_on_a_gpu() -> None:
    plan, told = planned(prior="sd15"), assemble.build_prior(planned(prior="gaussian"), CPU)
    on_gpu, on_cpu = (remedies(plan, plan.stages[0], told, device)["nonfinite"] for device in (GPU, CPU))
    assert "float32" in on_gpu and "float32" not in on_cpu


def test_the_remedies_reach_the_runs_watchdog_and_name_settings_that_exist() -> None:
    plan = planned("watchdog.window=1", prior="gaussian")
    system = assemble.build_stages(plan, assemble.build_prior(plan, CPU))[0]
    said = system.watchdog.check(Vital(1.0, 0, 0.3, 1.0, 1.0))
    for sick in (Vital(1.0, 1, 0.3, 0, 0), Vital(1.0, 0, 0.0, 0, 0), Vital(1.0, 0, 1.0, 0, 0)):
        with pytest.raises(ThreedistillError) as error:
            system.watchdog.check(sick)
        said.append(str(error.value))
    assert len(said) == 5 and all("; what helps: " in line for line in said)
    settings = set(re.findall(r"[a-z]\w*(?:\.\w+)+", " ".join(said)))
    assert len(settings) >= 8
    for setting in settings:
        node = compose(prompt="a red ball")
        for step in setting.split("."):
            node = node[step]


def test_what_a_set_up_runs_out_of_is_advised_by_the_plan(command, monkeypatch: pytest.MonkeyPatch) -> None:
    def tired(*rest: object) -> None:
        raise MemoryError

    monkeypatch.setattr(assemble, "build_prior", tired)
    words = ("generate", "a red ball", "--preset", "draft", "--device", "cpu", "cameras.views=1")
    failed = command(*words)
    assert failed.status == 1 and failed.err.endswith("memory ran out; what helps: close other programs\n"), (
        failed.err
    )
    assert "--preset draft" in command(*words[:2], *words[4:]).err


def test_refusals_do_not_ask_for_what_is_set() -> None:
    lit = ["representation=dmtet", "representation.model.material=pbr", "stages.0.shading=none"]
    for given, asked in (("true", True), ("false", False)):
        with pytest.raises(UsageError, match="shading=lambertian") as refused:
            planned(*lit, f"export.unlit={given}")
        assert ("export.unlit=false" in str(refused.value)) == asked
    with pytest.raises(UsageError, match="asks without a camera") as blind:
        planned("cfg.uncond_camera=null", "cfg.scale=2", prior="oracle")
    assert str(blind.value).endswith("use another prior, or cfg.uncond_camera=keep")
