"""The worked examples of docs/extend run as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.installed import installed

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "extend").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run(page, monkeypatch):
    monkeypatch.setenv("THREEDISTILL_OPS", "reference")  # the example operation has no kernel
    module = types.ModuleType(f"docs_extend_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    code = blocks(page, "python")
    assert code, "a page on extending the package shows code"
    for number, block in enumerate(code):
        exec(compile(block, f"{page.name} block {number + 1}", "exec"), vars(module))


#: Page -> (package, options' group and names), as many as the page has YAML files.
PACKAGES = {
    "prior": ("grey_prior", "prior", ["grey"]),
    "representation": ("soft_ball", "representation", ["ball"]),
    "rule": ("blended_rule", "guidance", ["blended"]),
    "condition": ("shown_priors", "prior", ["prompted", "drawn"]),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """All these packages, installed by pip into a folder of their own."""
    place = tmp_path_factory.mktemp("plugins")
    for stem, (package, group, options) in PACKAGES.items():
        page = ROOT / "docs" / "extend" / f"{stem}.md"
        files = {
            f"{package}/__init__.py": blocks(page, "python")[0],
            "pyproject.toml": blocks(page, "toml")[0],
        }
        for option, text in zip(options, blocks(page, "yaml"), strict=True):
            files[f"{package}/configs/{group}/{option}.yaml"] = text
        installed(files, place / "site", place)
    return place / "site"


@pytest.fixture
def threedistill(site, tmp_path):
    """Run the command line in a fresh process, in a folder of its own, with these packages beside ours."""

    def run(*words: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        paths = [*([str(site)] if installed else []), str(ROOT), *inherited]
        return subprocess.run(
            [sys.executable, "-m", "threedistill", *words],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    return run


#: As little of a run as can be.
TINY = (
    "--preset", "bench", "budget.iterations=2", "budget.views=2", "budget.resolution=32", "budget.grid=24",
    "export.faces=200", "export.texture_size=0", "trainer.preview_every=0",
)  # fmt: skip


def done(process: subprocess.CompletedProcess[str]) -> Path:
    assert process.returncode == 0, process.stderr
    return Path(process.args and process.stdout.splitlines()[-1])


def test_what_is_installed_is_listed_and_named(threedistill):
    for topic, name in (("priors", "grey"), ("representations", "ball"), ("guidance", "blended")):
        assert f"  {name} " in threedistill("list", topic).stdout
        assert f"  {name} " not in threedistill("list", topic, installed=False).stdout
    report = threedistill("doctor").stdout
    assert "plug-in grey_prior" in report and "grey-prior, brings prior=grey" in report


def test_the_prior_page_makes_a_prior_that_teaches(threedistill, tmp_path):
    asset = done(threedistill("generate", "a red ball", "--prior", "grey", "--out", "run", *TINY))
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert (tmp_path / asset).is_file() and "_target_: grey_prior.Grey" in config
    assert "plugins:\n- grey_prior" in config
    again = threedistill("generate", "a red ball", "--prior", "grey", "--guidance", "csm", "--print-config")
    assert "scale: 2.0" in again.stdout.split("guidance:")[0].split("cfg:")[1]
    # Where the package is gone, the run's own file is no reason to look for it.
    refused = threedistill("resume", "run", installed=False)
    assert refused.returncode == 2 and "plugins=[grey_prior]" in refused.stderr


def test_the_rule_page_makes_a_rule_that_guides(threedistill, tmp_path):
    words = ("--guidance", "blended", "guidance.rule.mix=0.2", "--prior", "oracle", "--out", "run")
    asset = done(threedistill("generate", "a red ball", *words, *TINY))
    assert (tmp_path / asset).is_file()
    assert "mix: 0.2" in (tmp_path / "run" / "config.yaml").read_text()
    assert "arXiv" not in threedistill("cite", "run").stderr
    refused = threedistill("generate", "a red ball", *words, "guidance.rule.mix=nan", *TINY)
    assert refused.returncode == 2 and "guidance.rule.mix=nan must be a finite number" in refused.stderr


def test_the_representation_page_makes_one_for_any_stage(threedistill, tmp_path):
    """First, later, and from a file: fits take the rates of its YAML."""
    stages = "stages=[{name: a, iterations: 2}, {name: b, iterations: 2, representation: ball}]"
    fits = ("convert.steps=3", "convert.bank=4", "convert.size=16", "--prior", "oracle")
    asset = done(threedistill("generate", "a red ball", stages, *fits, "--out", "late", *TINY))
    init = ("--init", str(asset), "--representation", "ball", "--out", "again")
    asset = done(threedistill("generate", "a red ball", *init, *fits, *TINY))
    assert (tmp_path / asset).is_file()


def test_the_condition_page_makes_priors_that_are_shown_things(threedistill, tmp_path):
    """Pictures and normals reach them; a prior that cannot be shown pictures refuses them in one line."""
    pixels = torch.zeros(48, 48, 4)
    pixels[8:32, 8:40] = torch.tensor([0.8, 0.1, 0.1, 1.0])
    picture = tmp_path / "ball.png"
    Image.fromarray((pixels * 255).byte().numpy(), "RGBA").save(picture)
    shown = ("generate", "a red ball", "--image", "ball.png", "--image-camera", "-30,15")

    done(threedistill(*shown, "--prior", "prompted", "--out", "run", *TINY))
    kept = load_file(tmp_path / "run" / "checkpoints" / "images.safetensors")
    assert torch.equal(kept["0"], (pixels * 255).byte())
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "images:\n- file: ball.png\n  camera:\n  - -30.0\n  - 15.0\n" in config
    both = ("cfg=two_conditions", "cfg.image_scale=3")
    done(threedistill(*shown, "--prior", "prompted", "--out", "both", *both, *TINY))
    tables = [
        load_file(tmp_path / run / "checkpoints" / "00-coarse" / "last.safetensors")["module/scenes.0.table"]
        for run in ("run", "both")
    ]
    assert not torch.equal(*tables)
    done(threedistill("generate", "a red ball", "--prior", "drawn", "--out", "drawn", *TINY))

    picture.unlink()
    done(threedistill("resume", "run", "budget.iterations=3"))
    refused = threedistill(*shown, "--prior", "drawn", "--out", "refused")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "prior=drawn cannot be shown pictures (it is told: normal, text)" in refused.stderr
    assert not (tmp_path / "refused").exists()


def test_a_package_that_is_only_importable_is_named_by_the_user(site, threedistill, tmp_path):
    """``plugins=[...]`` and ``--config-dir`` do for one command what installing does for all."""
    shutil.copytree(site / "grey_prior", tmp_path / "loose" / "grey_prior")
    (tmp_path / "mine" / "background").mkdir(parents=True)
    (tmp_path / "mine" / "background" / "mostly_white.yaml").write_text(
        "# White nine times of ten\n_target_: threedistill.representations.background.BackgroundSampler\n"
        "white: 0.9\nclearance: 0.1\n"
    )
    loose = os.pathsep.join([str(tmp_path / "loose"), str(ROOT), os.environ.get("PYTHONPATH", "")])

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "threedistill", *words],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": loose},
        )  # fmt: skip

    ask = ("generate", "a red ball", "--prior", "grey", "--print-config")
    assert "unknown prior 'grey'" in run(*ask).stderr
    for named in (["plugins=[grey_prior]"], ["--plugins", "grey_prior"]):
        assert "_target_: grey_prior.Grey" in run(*ask, *named).stdout
    assert "  grey " in run("list", "priors", "plugins=[grey_prior]").stdout
    own = run("generate", "a red ball", "background=mostly_white", "--config-dir", "mine", "--print-config")
    assert "white: 0.9" in own.stdout, own.stderr
    assert "no such folder" in run("list", "priors", "--config-dir", "nowhere").stderr


def test_every_test_that_a_page_names_exists():
    """``tests/file.py`` and ``tests/file.py::test_name`` in README and docs."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text(encoding="utf-8")):
            assert (ROOT / file).is_file(), f"{page.name} names {file}"
            assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (
                f"{page.name} names {file}::{name}"
            )
