"""Every group composes and builds, the schema is the signatures, and mistakes get one line with the nearest key."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.test_settings import THEIRS
from threedistill import config as configuration
from threedistill.config import build, compose, groups, read_config, write_config
from threedistill.errors import UsageError
from threedistill.resources import configs_dir
from threedistill.training.planning import build_plan


def nodes(tree, path=""):
    """Every mapping with a ``_target_`` and where it is."""
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield path, tree
        for key, child in tree.items():
            yield from nodes(child, f"{path}.{key}" if path else key)
    elif isinstance(tree, list):
        for index, child in enumerate(tree):
            yield from nodes(child, f"{path}.{index}")


#: Options that are pointless without a picture.
SHOWN = ("two_conditions", "sd15_image", "sdxl_image", "imagedream", "zero123", "stable_zero123")


@pytest.mark.filterwarnings("ignore:.*csd's coefficients")  # DreamMat's
@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in groups().items() for o in options])
def test_every_option_composes_builds_and_lists_every_constructor_argument(group: str, option: str) -> None:
    """All arguments, so that any of them can be overridden by a key that is known to exist."""
    from hydra.utils import get_class

    flags = {"preset": "draft"}
    overrides = []
    if group in configuration.FLAG_GROUPS:
        flags[group] = option
    else:
        overrides.append(f"{group}={option}")
    needs: dict[str, str] = {}
    if group == "student" and option != "none":  # somebody asks it
        flags["guidance"] = "vsd"
    if option == "dreammat":  # paints what is there
        needs["init"] = "model.glb"
    if option == "dds":  # an edit has something to start from, and words for it
        needs["init"] = "model.glb"
        overrides.append("prompts.source='a red ball'")
    named = f"{group}={option}" in THEIRS
    if named:
        overrides.append(f"{THEIRS[f'{group}={option}']}=/nowhere")
    config = compose(prompt="a red mushroom", overrides=overrides, **flags, **needs)  # type: ignore[arg-type]
    if option in SHOWN:
        with pytest.raises(UsageError, match="give one with --image FILE"):
            build_plan(config)
    elif named:
        with pytest.raises(UsageError, match="/nowhere"):
            build_plan(config)
    else:
        build_plan(config)
    for path, node in nodes(config):
        arguments = set(inspect.signature(get_class(node["_target_"])).parameters)
        given_keys = {k for k in node if not k.startswith("_")}
        if node["_target_"].endswith(".Stage"):
            given_keys -= set(configuration.STAGE_PARTS)  # config groups, not arguments
        assert given_keys == arguments, f"{path} ({node['_target_']})"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
        str.strip
    )
)
def test_the_prompt_is_data(prompt: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config({**_BASE, "prompt": prompt}, path)
    assert read_config(path)["prompt"] == prompt


def test_a_whole_configuration_comes_back(tmp_path: Path) -> None:
    write_config(_BASE, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == _BASE


def test_a_composed_configuration_belongs_to_its_caller() -> None:
    first = compose(prompt="a red ball", overrides=["budget.views=3"])
    kept = copy.deepcopy(first)
    first["cfg"].clear()
    first["stages"][0]["iterations"] = -1
    assert compose(prompt="a red ball", overrides=["budget.views=3"]) == kept


def test_an_edited_file_is_composed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "configs"
    shutil.copytree(configs_dir(), root)
    for module in ("composition", "choices"):
        monkeypatch.setattr(f"threedistill.config.{module}.configs_dir", lambda: root)
    assert compose(prompt="a red ball")["trainer"]["log_every"] == 10
    file = root / "trainer" / "default.yaml"
    file.write_text(file.read_text().replace("log_every: 10", "log_every: 11"))
    os.utime(file, ns=(0, 12345))
    assert compose(prompt="a red ball")["trainer"]["log_every"] == 11


_BASE = compose(prompt="placeholder")


@pytest.mark.parametrize(
    "prompt",
    ['a, "b" = c # d % e @ f | g', "${oc.env:HOME} ${seed}", "línea\nuna 赤いキノコ {x: 1}", "a=b", "~x"],
)
def test_prompts_that_hydra_would_read_pass_through_compose(prompt: str) -> None:
    assert compose(prompt=prompt)["prompt"] == prompt


@pytest.mark.parametrize(
    ("overrides", "needle"),
    [
        (["budget.iteration=5"], "did you mean 'budget.iterations'"),
        (["preset=drft"], "did you mean 'draft'"),
        (["cfg.scle=3"], "did you mean 'cfg.scale'"),
        (["iterations=7"], "iterations"),
        (["budget.views"], "key=value"),
        (["+new=1"], "without +"),
        (["prompt=x"], "argument of its own"),
    ],
)
def test_wrong_overrides_name_the_right_key(overrides: list[str], needle: str) -> None:
    with pytest.raises(UsageError, match=needle.replace("+", r"\+")):
        compose(prompt="a red mushroom", overrides=overrides)


@pytest.mark.parametrize(
    ("override", "needle"),
    [
        ("budget.iterations=0", "must lie in"),
        ("budget.views=many", "budget|views|integer"),
        ("cameras.distance=[0.01,2]", "must lie in"),
        ("background.white=2", "must lie in"),
        ("optim.betas=[0.9]", "betas"),
        ("trainer.log_every=0", "at least 1"),
        ("stages.0.shading=shiny", "shading"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(override: str, needle: str) -> None:
    with pytest.raises(UsageError, match=needle):
        build_plan(compose(prompt="a red mushroom", overrides=[override]))


def test_flag_and_override_that_disagree_are_an_error() -> None:
    with pytest.raises(UsageError, match="disagree"):
        compose(prompt="a red mushroom", prior="oracle", overrides=["prior=toybox"])
    assert (
        compose(prompt="a red mushroom", prior="oracle", overrides=["prior=oracle"])["prior"]["name"]
        == "oracle"
    )


def test_build_refuses_foreign_targets() -> None:
    with pytest.raises(UsageError, match="outside"):
        build({"_target_": "os.system", "command": "true"}, "optim")
    with pytest.raises(UsageError, match="outside"):
        build(
            {"_target_": "threedistill.training.optim.Adam", "decay": {"_target_": "subprocess.run"}}, "optim"
        )


@pytest.mark.parametrize("text", ["", "  \n ", "\ud800"])
def test_prompts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        compose(prompt=text)


def test_foreign_config_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [1, 2")
    with pytest.raises(UsageError, match="YAML"):
        read_config(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(UsageError, match="not written by"):
        read_config(tmp_path / "config.yaml")
    with pytest.raises(UsageError, match="not a run folder"):
        read_config(tmp_path / "missing" / "config.yaml")
    config = {**_BASE, "schema": 999}
    write_config(config, tmp_path / "config.yaml")
    with pytest.raises(UsageError, match="schema 999"):
        read_config(tmp_path / "config.yaml")


def test_a_plugin_that_python_does_not_find_is_named():
    node = {"_target_": "nobodys_package.Rule"}
    with pytest.raises(
        UsageError, match="plugins names nobodys_package, which Python does not find; install it"
    ):
        build(node, "guidance.rule", ["nobodys_package"])


def test_configurations_of_older_versions_find_their_priors(tmp_path):
    config = compose(prompt="a red ball", prior="oracle", overrides=["baseline=toybox"])
    places = {"prior": config["prior"]["model"], "baseline": config["baseline"]["model"]}
    now = {name: node["_target_"] for name, node in places.items()}
    places["prior"]["_target_"] = "threedistill.priors.oracle.OraclePrior"
    places["baseline"]["_target_"] = "threedistill.priors.toybox.ToyboxPrior"
    write_config(config, tmp_path / "config.yaml")
    read = read_config(tmp_path / "config.yaml")
    assert {name: read[name]["model"]["_target_"] for name in places} == now


@pytest.mark.parametrize(("prior", "size"), [("toybox", 128), ("sd15", 256)])
def test_a_canvas_is_as_large_as_its_run_ends(prior, size):
    config = compose(prompt="a red mushroom", prior=prior, representation="canvas")
    assert config["representation"]["model"]["size"] == size
    build_plan(config)


@pytest.mark.parametrize(
    ("prior", "overrides", "student"),
    [
        ("toybox", [], "sketch"),
        ("toybox", ["student=lora"], "lora"),
        ("toybox", ["student=gaussian"], "gaussian"),
        ("sd15", [], "lora"),
    ],
)
def test_a_prior_brings_its_own_student_where_nobody_chooses(prior, overrides, student):
    config = compose(prompt="a red mushroom", prior=prior, guidance="vsd", overrides=overrides)
    assert config["student"]["name"] == student
    plain = compose(prompt="a red mushroom", prior=prior, guidance="sds")
    assert plain["student"]["name"] == "none"
    later = compose(
        prompt="a red mushroom", prior=prior, preset="high", overrides=["stages.2.guidance=vsd", *overrides]
    )
    assert later["stages"][2].get("student", later["student"])["name"] == student
