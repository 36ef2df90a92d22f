"""Pairs that cannot work are refused before anything is loaded or written, with what to change."""

from __future__ import annotations

import pytest
import torch

from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.training.planning import build_plan

REFUSED = [
    (
        {"guidance": "vsd"}, ["student=none"],
        "guidance=vsd asks a student, and there is none; use student=lora (or student=gaussian with a prior that has "
        "no network)",
    ),
    (
        {"guidance": "esd"}, ["student.training.camera_dropout=0"],
        "guidance=esd asks the student without a camera, which student.training.camera_dropout=0 never teaches it; set "
        "it to 0.2",
    ),
    (
        {"guidance": "vsd", "prior": "gaussian"}, [],
        "this prior has no network on which student=lora could grow; use student=gaussian",
    ),
    (
        {"guidance": "csm"}, ["cfg.scale=0"],
        "guidance.rule: csm multiplies its direction by cfg.scale, and 0 leaves nothing; 7.5 is usual",
    ),
    (
        {"guidance": "csds"}, ["baseline=none"],
        "guidance=csds compares with a second frozen model, and baseline=none; use baseline=self (the teacher itself, "
        "told the category) or baseline=<prior>",
    ),
    (
        {"guidance": "csds", "prior": "oracle"}, [],
        "guidance=csds asks without a camera, which prior=oracle cannot answer; use another prior, or "
        "baseline=gaussian",
    ),
    (
        {"guidance": "dds"}, ["prompts.source='a blue ball'"],
        "guidance=dds edits an existing object, and there is none; give it with --init FILE",
    ),
    (
        {"guidance": "dds", "init": "ball.glb"}, [],
        "guidance=dds compares the prompt with a description of the unedited object; say what it is with "
        "prompts.source='a ...'",
    ),
    (
        {"guidance": "csds"}, ["prompts.category=zeppelin"],
        "prompts.category: prompt 'a zeppelin': the toybox prior does not know 'zeppelin' (nearest known: airplane; "
        "all words: `threedistill list words`); use its vocabulary, or an open-vocabulary prior such as prior=sd15 or "
        "prior=sd21",
    ),
    (
        {"guidance": "mvsds"}, ["guidance.rule.group=3"],
        "guidance=mvsds rescales groups of 3 views, and cameras.views=2 is no multiple",
    ),
    (
        {"guidance": "esd"}, ["guidance.rule.lam=1.5"],
        "guidance.rule.lam=1.5 must lie in [0, 1]",
    ),
    (
        {"guidance": "csd"}, ["cfg=perp_neg"],
        "guidance.rule: csd combines the teacher's answers itself, so cfg=PerpNeg would have no effect; leave it out, "
        "or choose guidance=sds",
    ),
    (
        {"guidance": "nfsd"}, ["cfg.rescale=0.5", "cfg.x0_clip=static"],
        "guidance.rule: nfsd combines the teacher's answers itself, so cfg.x0_clip=static, cfg.rescale=0.5 would have "
        "no effect; leave it out, or choose guidance=sds",
    ),
    (
        {}, ["cameras=antithetic", "budget.views=3"],
        "cameras: cameras.views=3 must be even: antithetic views come in pairs",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("choices", "overrides", "text"), REFUSED, ids=[row[2][:40] for row in REFUSED])
def test_refused_with_this_text(choices, overrides, text):
    with pytest.raises(UsageError) as refused:
        build_plan(compose(prompt="a red ball", overrides=overrides, **choices))
    assert str(refused.value) == text


def test_the_same_pairs_mended_pass():
    build_plan(compose(prompt="a red ball", guidance="vsd", prior="gaussian", overrides=["student=gaussian"]))
    build_plan(compose(prompt="a red ball", guidance="csds", prior="oracle", overrides=["baseline=gaussian"]))
    build_plan(
        compose(prompt="a red ball", guidance="dds", init="x.glb", overrides=["prompts.source='a blue ball'"])
    )


def test_a_baseline_in_another_space_is_refused_when_it_is_built():
    from threedistill.training.assemble import build_networks, build_prior

    config = compose(
        prompt="a red ball",
        guidance="csds",
        prior="gaussian",
        overrides=["baseline=gaussian", "baseline.model.size=32"],
    )
    plan = build_plan(config)
    prior = build_prior(plan, torch.device("cpu"))
    with pytest.raises(
        UsageError, match="baseline=gaussian works on PixelSpace 3x32x32, the teacher gaussian on PixelSpace"
    ):
        build_networks(plan, plan.stages[0], prior)
