"""Every prior's YAML composes, its recommendations build, and impossible requests end in one line."""

from __future__ import annotations

import pytest

from threedistill.config import build, build_as, compose, groups
from threedistill.errors import ThreedistillError, UsageError
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.timesteps import Uniform
from threedistill.schedule import Schedule

PRIORS = groups()["prior"]


#: By default every rule with these, and every prior with those; all pairs by name.
MAIN_PRIORS, MAIN_RULES = (
    ("toybox", "world", "sd15", "flux", "mvdream", "zero123", "recorded"),
    ("sds", "vsd", "csm"),
)


@pytest.mark.parametrize(("prior", "guidance"), [
    (prior, rule) if prior in MAIN_PRIORS or rule in MAIN_RULES else pytest.param(prior, rule, marks=pytest.mark.long)
    for prior in PRIORS for rule in groups()["guidance"]
])  # fmt: skip
def test_every_prior_with_every_rule(prior, guidance):
    student = guidance in ("vsd", "esd", "sim", "trace", "usd") and prior in ("oracle", "gaussian", "world")
    overrides = ["student=gaussian"] if student else []
    config = compose(prompt="a red mushroom", prior=prior, guidance=guidance, overrides=overrides)
    own, of_all = (config["prior"]["recommended"].get(row, {}) for row in (guidance, "default"))
    recommended = {**config["guidance"]["recommended"], **of_all, **own}
    assert config["prior"]["name"] == prior
    rule = build(config["guidance"]["rule"], "guidance.rule")
    weighting = build(config["guidance"]["weighting"], "guidance.weighting")
    policy = build(config["guidance"]["timesteps"], "guidance.timesteps")
    assert rule.queries(0.0) and weighting.kind == recommended["weighting"]
    if isinstance(policy, Uniform) and guidance != "cfd":  # which brings its own levels
        lowest = recommended["window"]["min"]
        assert policy.window.min == (
            build_as(Schedule, lowest, "window.min") if isinstance(lowest, dict) else lowest
        )
    if guidance == "csd":  # its coefficients are the guidance
        assert rule.cfg == ClassifierFree(scale=1.0)
        return
    scale = recommended["scale"]
    scale = build_as(Schedule, scale, "scale") if isinstance(scale, dict) else scale
    clip = (
        "none" if guidance in ("csm", "nfsd", "sim", "usd") else recommended["x0_clip"]
    )  # they combine the answers themselves
    assert rule.cfg == ClassifierFree(scale=scale, x0_clip=clip)


def test_what_a_prior_recommends_beside_scales_reaches_its_place():
    """A misspelt key would fall back to the general one without a word."""
    toybox, other = (
        compose(prompt="a red mushroom", prior=prior, guidance="csd") for prior in ("toybox", "sd15")
    )
    assert toybox["background"]["white"] == toybox["prior"]["recommended"]["white"] == 0.2
    assert other["background"]["white"] == 0.5 and "white" not in other["prior"]["recommended"]
    names = ("cond", "empty", "negative", "noise")
    assert [toybox["guidance"]["rule"][name] for name in names] == [1.5, -0.5, 0.0, -1.0]
    assert other["guidance"]["rule"]["cond"] == 1.0 and other["guidance"]["rule"]["noise"] == 0.0
    for rule, row in toybox["prior"]["recommended"].items():
        if isinstance(row, dict) and "anchor" in row:
            anchored = compose(prompt="a red mushroom", prior="toybox", guidance=rule)
            assert anchored["guidance"]["rule"]["anchor"] == row["anchor"] > 0


@pytest.mark.parametrize("prior", ["oracle", "gaussian", "world"])
def test_priors_without_weights_build(prior):
    built = build(compose(prompt="a red mushroom", prior=prior)["prior"]["model"], "prior.model")
    assert built.space.shape == (3, 64, 64) and built.name == prior


@pytest.mark.parametrize("prior", ["sd15", "sd21"])
def test_large_priors_offline_say_so_in_one_line(prior):
    with pytest.raises(
        ThreedistillError, match=f"prior {prior}: .*: not in the local cache, and the hub"
    ) as caught:
        build(compose(prompt="a red mushroom", prior=prior)["prior"]["model"], "prior.model")
    assert "\n" not in str(caught.value) and "use prior=toybox" in str(caught.value)


@pytest.mark.parametrize(
    ("prior", "preset", "learns", "measured"),
    [
        ("toybox", "standard", None, (0.65, 0.998)),
        ("toybox", "bench", (0.65, 0.998), (0.65, 0.998)),
        ("sd15", "standard", (0.02, 0.98), None),
        ("sd15", "bench", (0.02, 0.98), None),
    ],
)
def test_where_the_student_learns_and_is_measured(prior, preset, learns, measured):
    """Where the rule asks (None) or at levels of its own; None: measured where it learns."""
    whole = compose(
        prompt="a red duck", preset=preset, prior=prior, guidance="vsd", overrides=["student=lora"]
    )
    training = whole["student"]["training"]

    def window(policy):
        return policy and (policy["window"]["min"], policy["window"]["max"])

    assert (window(training["timesteps"]), window(training["measured_at"])) == (learns, measured)


@pytest.mark.parametrize(
    ("prior", "preset", "iterations", "ends", "levels", "faces"),
    [
        ("toybox", "standard", 500, (64, 128), 8, 10000), ("sd21", "bench", 500, None, 8, 4000),
        ("sd21", "standard", 10000, (64, 256), 16, 40000), ("flux", "high", 25000, (64, 512), 16, 100000),
        ("deepfloyd", "standard", 10000, None, 16, 40000),
    ],
)  # fmt: skip
def test_presets_mean_more_for_large_priors(prior, preset, iterations, ends, levels, faces):
    """What is enough for 64-pixel pictures of a toy world shows nothing of what a large prior can do."""
    config = compose(prompt="a red duck", preset=preset, prior=prior)
    budget, size = config["budget"], config["stages"][0]["resolution"]
    assert (budget["iterations"], budget["faces"]) == (iterations, faces)
    assert (64 if ends is None else ends) == (size if ends is None else (size["start"], size["end"]))
    assert config["representation"]["model"]["levels"] == levels
    asked = compose(prompt="a red duck", preset=preset, prior=prior, overrides=["budget.iterations=7"])
    assert asked["stages"][0]["iterations"] == 7


def test_values_from_the_command_line():
    overrides = ["cfg.uncond_camera=null", "guidance.timesteps.window.max=0.5", "cfg.scale=20"]
    config = compose(prompt="a red mushroom", prior="oracle", overrides=overrides)
    rule = build(config["guidance"]["rule"], "guidance.rule")
    assert (rule.cfg.uncond_camera, rule.cfg.scale) == ("null", 20.0)
    assert build(config["guidance"]["timesteps"], "guidance.timesteps").window.max == 0.5


@pytest.mark.parametrize(
    "override, part, words",
    [
        (
            "guidance.weighting.kind=foo",
            "weighting",
            r"guidance\.weighting\.kind='foo' must be 'uniform', 'sigma2'",
        ),
        ("guidance.timesteps.window.max=0.001", "timesteps", r"runs backwards"),
        ("guidance.timesteps.draw=often", "timesteps", r"draw='often' must be 'independent'"),
    ],
)
def test_wrong_values_are_named(override, part, words):
    config = compose(prompt="a red mushroom", prior="oracle", overrides=[override])
    with pytest.raises(UsageError, match=words):
        build(config["guidance"][part], f"guidance.{part}")
