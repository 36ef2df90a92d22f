"""Published methods: numbers are those of docs/recipes.md, each says its sources, composes, is refused well."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.priors import folders
from threedistill.cli import main
from threedistill.commands.generate import parse
from threedistill.config import compose, options
from threedistill.errors import UsageError
from threedistill.training.planning import build_plan

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
NAMES = sorted(options("experiment"))


def rows(name: str) -> list[tuple[str, str]]:
    """(setting, value) of a recipe's table."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section, re.MULTILINE)


def at(config: Any, place: str) -> Any:
    for step in place.split("."):
        config = config[int(step)] if isinstance(config, list) else config[step]
    return config


def said(value: Any) -> str:
    """A setting as the page writes it: schedules as ``start -> end at a over b``."""
    if isinstance(value, dict) and "start" in value and "over" in value:
        bent = "" if value["shape"] == "linear" else f" {value['shape']}"
        return f"{value['start']:g} -> {value['end']:g} at {value['at']:g} over {value['over']:g}{bent}"
    if isinstance(value, dict) and "points" in value:
        return "; ".join(f"{at:g}: {number:g}" for at, number in value["points"])
    if isinstance(value, list):
        return f"[{', '.join(said(one) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {said(one)}" for key, one in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


@functools.cache
def published(name: str, prior: str | None = None) -> dict[str, Any]:
    init = "model.glb" if name == "dreammat" else None
    return compose(prompt="a red mushroom", recipe=name, prior=prior, init=init)


@pytest.mark.filterwarnings("ignore:.*csd's coefficients")
@pytest.mark.parametrize("name", NAMES)
def test_composed_numbers_are_those_of_the_page(name: str) -> None:
    config, table = published(name), rows(name)
    assert len(table) > 8
    wrong = {
        place: (value, said(at(config, place))) for place, value in table if said(at(config, place)) != value
    }
    assert not wrong
    build_plan(config)
    assert config["recipe"] == name and "published" not in config


@pytest.mark.filterwarnings("ignore:.*csd's coefficients")
@pytest.mark.parametrize("name", NAMES)
def test_a_prior_with_a_budget_of_its_own_gets_the_recipes_shape_in_that_budget(name: str) -> None:
    full, small = published(name), published(name, "toybox")
    assert [stage["name"] for stage in small["stages"]] == [stage["name"] for stage in full["stages"]]
    total = sum(stage["iterations"] for stage in full["stages"])
    budget = small["budget"]["iterations"]
    assert budget == 500 and abs(sum(stage["iterations"] for stage in small["stages"]) - budget) <= 2
    for one, other in zip(full["stages"], small["stages"]):
        assert other["iterations"] == pytest.approx(one["iterations"] * budget / total, abs=1)
    plain = compose(prompt="a red mushroom")
    assert small["cameras"] == plain["cameras"] and small["prior"] == plain["prior"]
    plan = build_plan(small)
    assert {stage.prior.name for stage in plan.stages} == {"toybox"}


def test_what_is_asked_for_besides_a_recipe_counts() -> None:
    config = compose(
        prompt="a red mushroom", recipe="magic3d",
        overrides=["budget.iterations=300", "cameras.distance=[2,3]", "stages.1.representation.model.resolution=64"],
    )  # fmt: skip
    assert [stage["iterations"] for stage in config["stages"]] == [200, 100]
    assert config["cameras"]["distance"] == [2, 3] and config["cameras"]["fov_y"] == [40.0, 70.0]
    assert config["stages"][1]["representation"]["model"]["resolution"] == 64
    # Of a representation that is not the recipe's, the recipe's numbers are left out.
    other = compose(prompt="a red mushroom", recipe="dreamfusion", representation="gaussians")
    assert other["representation"]["name"] == "gaussians" and other["budget"]["iterations"] == 10000
    # experiment=NAME says the same as --recipe NAME.
    assert compose(prompt="a duck", overrides=["experiment=sdi"]) == compose(prompt="a duck", recipe="sdi")
    assert parse(["a duck", "recipe=sdi"]).recipe == "sdi"
    with pytest.raises(UsageError, match=r"unknown recipe 'dreamfusin'; did you mean 'dreamfusion'\?"):
        compose(prompt="a duck", recipe="dreamfusin")


def test_the_list_says_where_a_recipe_comes_from_and_what_it_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "recipes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["recipes"]
    assert sorted(found) == NAMES
    for name, about in found.items():
        for word in ("source: ", "GPU memory: ", "time: ", "differs: "):
            assert word in about, f"{name} does not say its {word}"
    assert "arXiv 2209.14988" in found["dreamfusion"] and "guidance_scale_lora 0.5" in found["esd"]
    assert "15 min and 25 min on 8 A100" in found["magic3d"]


@pytest.mark.parametrize(
    ("name", "lacking"), [("dreamfusion", "stable-diffusion-2-1-base"), ("csd", "IF-I-XL")]
)
def test_a_recipe_whose_weights_are_not_here_is_refused_in_one_line(
    name: str,
    lacking: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    assert (
        main(["generate", "a red mushroom", "--recipe", name, "--out", str(tmp_path / "run"), "--quiet"]) == 1
    )
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lacking in lines[0]
    assert not (tmp_path / "run").exists()


#: What makes a run tiny: three steps of every stage, of a scene that is nothing much.
TINY = [
    "budget.grid=24", "budget.faces=200", "budget.texture=32", "trainer.preview_every=0", "export.turntable_frames=0",
    "watchdog=disabled", "trainer.log_every=1",
]  # fmt: skip
FIELD = {
    "levels": 4, "log2_entries": 8, "finest_resolution": 32, "start_levels": 2, "steps": 24, "occupancy_resolution": 16,
    "max_samples": 400_000, "hidden": 16,
}  # fmt: skip


def tiny(name: str, folder: Path) -> list[str]:
    """Overrides for a run of three steps a stage with tiny weights of the recipe's own families."""
    config = published(name)
    lines = [*TINY]
    lines += four_views(folder) if name == "mvdream" else folders.settings(config["prior"]["name"], folder)
    for index, stage in enumerate(config["stages"]):
        lines += [f"stages.{index}.iterations=3", f"stages.{index}.resolution=16"]
        if "prior" in stage:
            own = folders.settings(stage["prior"]["name"], folder)
            lines += [f"stages.{index}.{line}" for line in own]
        lines += [f"stages.{index}.convert.steps=2", f"stages.{index}.convert.polish=1",
                  f"stages.{index}.convert.resolution=16", f"stages.{index}.convert.bank=4"]  # fmt: skip
        kind = stage.get("representation", config["representation"])["name"]
        place = f"stages.{index}.representation.model"
        if kind == "hashgrid":
            lines += [f"{place}.{key}={value}" for key, value in FIELD.items()]
        elif kind == "dmtet":
            lines += [f"{place}.resolution=8", f"{place}.color.log2_entries=8", f"{place}.color.levels=4",
                      f"{place}.color.finest_resolution=64", f"{place}.color.start_levels=2"]  # fmt: skip
        else:
            lines += [f"{place}.count=60", f"{place}.densification.cap=80"]
        if stage.get("student", config["student"])["name"] == "lora_v":
            base = folders.settings("sd21", folder)[0].split("=", 1)[1]
            lines += [f"stages.{index}.student.base.model={base}", f"stages.{index}.student.base.cache=false"]
    return lines


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::threedistill.errors.ThreedistillWarning")
@pytest.mark.parametrize("name", NAMES)
def test_three_steps_of_every_stage_with_tiny_weights_of_its_own_family(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    words = ["generate", "a red mushroom", "--recipe", name, "--out", str(tmp_path / "run"), "--quiet"]
    if name == "dreammat":
        words += ["--init", str(ball(tmp_path / "ball.obj"))]
    code = main([*words, *tiny(name, tmp_path_factory.getbasetemp() / "recipes")])
    captured = capsys.readouterr()
    assert code in (0, 1), captured.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    stages = published(name)["stages"]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        done = [line.split(",")[:2] for line in file.read().splitlines()[1:]]
    assert [str(index) for index in range(len(stages))] == list(dict.fromkeys(stage for stage, _ in done))
    assert record["status"] == "done" or "surface" in captured.err or "inside" in captured.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::threedistill.errors.ThreedistillWarning")
def test_a_given_mesh_gets_a_material_and_keeps_its_shape(tmp_path: Path) -> None:
    """DreamMat's stage from the command line with the embedded prior: colour and material move, the shape does not."""
    from threedistill.exports.read import read_mesh

    given = ball(tmp_path / "ball.obj")
    words = [
        "generate",
        "a red mushroom",
        "--recipe",
        "dreammat",
        "--prior",
        "toybox",
        "--init",
        str(given),
        "--quiet",
    ]
    fast = [*TINY, "representation.model.resolution=12", "budget.views=1"]
    states = []
    for iterations in (1, 4):
        out = tmp_path / str(iterations)
        assert main([*words, "--out", str(out), *fast, f"budget.iterations={iterations}"]) in (0, 1)
        (state,) = (out / "checkpoints").rglob("last.safetensors")
        with safe_open(state, "pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith("module/scenes.0.")]  # noqa: SIM118
            states.append({name.removeprefix("module/scenes.0."): tensors.get_tensor(name) for name in names})
    first, later = states
    moved = {name for name in first if not first[name].equal(later[name])}
    assert {"color.table", "reflectance.table"} <= moved, moved
    assert "shape.table" in first and not [name for name in moved if name.startswith("shape.")]
    made = read_mesh(out / "asset" / "model.glb")
    assert made.metallic_roughness is not None
    radii = made.vertices.norm(dim=1)
    assert float(radii.max() / radii.min()) < 1.1


def four_views(folder: Path) -> list[str]:
    """Tiny weights of the four-view network, beside a tiny pipeline."""
    from safetensors.torch import save_file

    from tests.priors.test_mvdream import weights

    lines, file = folders.settings("sd15", folder), folder / "4view.safetensors"
    save_file(weights(), file)
    return [
        *lines,
        "prior.model.size=32",
        f"prior.model.family.checkpoint={file}",
        "prior.model.family.head_width=16",
    ]


def ball(path: Path) -> Path:
    """A sphere as a file."""
    import trimesh

    trimesh.creation.icosphere(2, 0.6).export(path)
    return path
