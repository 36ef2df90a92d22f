"""Every setting takes what its documented range allows, refuses the rest in one line, and never ends in another error.

The short part tries every key that any shipped option has with values drawn from the list; ``pytest -m slow
tests/fuzz/test_settings.py`` tries all of them with all values and prints the counts.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections import Counter

import pytest

from threedistill.config import STAGE_PARTS, build, check_shape, compose, groups
from threedistill.config.places import PLACES
from threedistill.errors import UsageError

#: What nobody means.
HOSTILE = [math.nan, math.inf, -math.inf, -1, 0, 1e308, 10**5000, "abc", None, True, [1, [2]]]

#: Settings for which a negative number means something.
SIGNED = {
    "cameras.elevation", "cameras.azimuth",  # degrees
    "guidance.rule.trajectory.scale",  # guidance during inversion; the paper's is -7.5
    "guidance.rule.cond", "guidance.rule.empty", "guidance.rule.negative", "guidance.rule.noise",  # coefficients
    "guidance.rule.eta", "student.model.scale", "representation.model.blob_strength",
    "guidance.rule.cfg.weights", "cfg.weights",  # of Perp-Neg's curves
    "prior.model.lora_scale", "baseline.model.lora_scale",  # adapters can be taken away
}  # fmt: skip

#: Options that need a file or folder of the user's, and where it is named.
THEIRS = {
    **{f"reward={name}": "reward.scorer.folder" for name in groups()["reward"] if name not in ("none", "toybox")},
    **{f"{group}=panorama": f"{group}.picture" for group in ("background", "light")},
}  # fmt: skip


def _configurations():
    """Configurations that together have every option of every group, several in each."""
    known = groups()
    apart = ("prior", "preset", "student", "experiment", "metric", "scorer")
    rows = max(len(names) for group, names in known.items() if group not in apart)
    for row in range(rows):
        lines = [f"{group}={names[row % len(names)]}" for group, names in known.items() if group not in apart]
        theirs = [f"{place}=/nowhere" for line, place in THEIRS.items() if line in lines]
        overrides = ["prompts.source='a blue ball'", *lines, *theirs]
        yield compose(prompt="a red ball", preset="draft", overrides=overrides)
    for prior in known["prior"]:
        yield compose(prompt="a red ball", prior=prior, overrides=["student=gaussian"])


def _leaves(node, path=()):
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(node, list) and any(isinstance(child, dict) for child in node):
        for index, child in enumerate(node):
            yield from _leaves(child, (*path, index))
    elif path[-1] not in ("_target_", "name", "recommended"):
        yield path, node


@functools.cache
def cases():
    """(place, path below it, the node of the place): every key once per class that it is an argument of."""
    seen, found = set(), []
    for config in _configurations():
        for place in (*PLACES, "stages.0"):
            node = config
            for step in place.split("."):
                node = node[int(step)] if isinstance(node, list) else (node or {}).get(step)
            if not isinstance(node, dict):
                continue
            node = {k: v for k, v in node.items() if k not in STAGE_PARTS}
            for path, _ in _leaves(node):
                key = (place, path, node["_target_"])
                if key not in seen:
                    seen.add(key)
                    found.append((place, path, node))
    return found


def _with(node, path, value):
    changed = copy.deepcopy(node)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


def _try(place, path, node, value) -> str:
    """``refused``, or ``taken``; any other exception is the caller's failure."""
    # The weights of a diffusion model, and the embedded ones, are not what is tried here.
    if place in ("prior.model", "baseline.model") and node["_target_"].rsplit(".")[-1] in (
        "DiffusersPrior",
        "ToyboxPrior",
    ):
        from threedistill.config import recipe as made
    else:
        made = build
    try:
        made(_with(node, path, value), place)
    except UsageError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 400, text
        return "refused"
    return "taken"


def _judge(place, path, node, value) -> str:
    outcome = _try(place, path, node, value)
    name = ".".join((place, *map(str, path)))
    if isinstance(value, float) and not math.isfinite(value):
        assert outcome == "refused", f"{name}={value} was accepted"
    if value == -1 and not isinstance(value, bool) and not any(name.startswith(one) for one in SIGNED):
        assert outcome == "refused", f"{name}=-1 was accepted"
    if isinstance(value, int) and value == 10**5000:
        assert outcome == "refused", f"{name} took a number of 5000 digits"
    return outcome


def test_there_are_as_many_settings_as_the_command_line_has():
    assert len(cases()) > 350, len(cases())


@pytest.mark.parametrize("part", range(4))
def test_hostile_values_of_every_setting(part):
    rng = random.Random(f"settings/{part}")
    for place, path, node in cases()[part::4]:
        for value in (math.nan, -1, rng.choice(HOSTILE)):
            _judge(place, path, node, value)


@pytest.mark.slow
def test_every_setting_with_every_hostile_value():
    counts = Counter(_judge(*case, value) for case in cases() for value in HOSTILE)
    print(f"{len(cases())} settings x {len(HOSTILE)} values: {dict(counts)}, 0 other exceptions")


def test_hostile_values_of_what_is_no_argument_of_a_class():
    """Particles, prompts, names, rates, budgets: the schema's own."""
    base = compose(prompt="a red ball", prior="oracle")
    keys = [
        ("particles",),
        ("seed",),
        ("stages",),
        ("plugins",),
        ("prior",),
        ("guidance",),
        ("representation",),
    ]
    keys += [("prompts", key) for key in base["prompts"]] + [("budget", key) for key in base["budget"]]
    keys += [("guidance", key) for key in base["guidance"]] + [("student", key) for key in base["student"]]
    keys += [
        ("representation", "lr", "table"),
        ("prior", "name"),
        ("prior", "recommended", "default", "scale"),
    ]
    for path in keys:
        for value in (*HOSTILE, {}, "", "\0"):
            config = _with(base, path, value)
            try:
                check_shape(config)
            except UsageError as error:
                assert "\n" not in str(error) and len(str(error)) < 400
                continue
            assert not (isinstance(value, float) and not math.isfinite(value)), f"{path}={value}"


@pytest.mark.parametrize(
    "override",
    [
        "cfg.scale=nan", "cfg.scale=inf", "cfg.scale=-100", "cameras.fov_y=[40,inf]", "cameras.elevation=[nan,10]",
        "cameras.elevation=[100,120]", "cameras.elevation=[20,10]", "regularizers.weights.sparsity=nan",
        "regularizers.weights.sparsity=inf", "guidance.weighting.factor=nan", "optim.lr.table=nan",
        "representation.lr.table=nan", "watchdog.empty=nan", "watchdog.fog=nan", "budget.views=0",
        "trainer.checkpoint_seconds=-1", "stages=5", "stages=null", "plugins=5", "plugins=null", "guidance.rule=null",
        "representation.model=null", "prompts.view_words=5", "prompts.front_bias=nan", "prompts.category=[1]",
        "prompts.inverse=null", "prompts.view_wordings=null", "particles=1000000000", f"cfg.scale={'9' * 5000}",
        f"budget.iterations={'9' * 5000}", f"cfg.scale={'[' * 2000}{']' * 2000}", "cfg.scale=${cfg.scale}",
        "stages=[{name: a, span: [nan, 1]}]", "cfg.scale={_target_: threedistill.schedule.Ramp, start: 0, end: nan}",
        "guidance.timesteps.window.min={_target_: os.system}", "seed=-1", "prior.recommended.default.scale=nan",
        "export.faces=nan", "export.unit_size=inf", "budget.texture=-1", "optim.betas=[nan,0.9]",
    ],
)  # fmt: skip
def test_refused_on_the_command_line_in_one_line(command, workspace, override):
    done = command("generate", "a red ball", "--prior", "oracle", override)
    assert done.status == 2, (done.status, done.err)
    assert done.err.count("\n") == 1 and len(done.err) < 500 and not done.out
    assert not list(workspace.iterdir())


@pytest.mark.parametrize(
    "overrides",
    [
        ["representation.model.log2_entries=28", "representation.model.finest_resolution=4096"],
        ["representation.model.occupancy_resolution=1024"],
        ["representation=dmtet", "representation.model.resolution=256"],
        ["representation=gaussians", "representation.model.densification.cap=100000000"],
        ["representation=canvas", "representation.model.pictures=1000000"],
        [
            "particles=1024",
            "representation.model.log2_entries=20",
            "representation.model.finest_resolution=512",
        ],
    ],
)
def test_memory_is_counted_before_it_is_taken(monkeypatch, overrides):
    """On a machine that has a gigabyte, of which next to nothing is taken."""
    from threedistill import memory
    from threedistill.training.planning import asset_plan
    from threedistill.training.scene_building import build_scenes

    monkeypatch.setattr(memory, "available", lambda: 1 << 30)
    config = compose(prompt="a red ball", overrides=overrides)
    with pytest.raises(UsageError, match=r"GiB of memory, and 1\.0 GiB are free"):
        build_scenes(asset_plan(config).scene)
