"""The worked examples of docs/extend run as they are printed."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import yaml

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


def test_the_rule_page_makes_a_rule_that_can_be_chosen(tmp_path, monkeypatch):
    from threedistill import config
    from threedistill.training.assemble import check

    page = ROOT / "docs" / "extend" / "rule.md"
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "blended_rule.py").write_text(blocks(page, "python")[0])
    (tmp_path / "configs" / "guidance" / "blended.yaml").write_text(blocks(page, "yaml")[0])
    prior = tmp_path / "configs" / "prior" / "gaussian.yaml"
    settings = yaml.safe_load(prior.read_text())
    settings["recommended"]["blended"] = settings["recommended"]["sds"]
    prior.write_text(yaml.safe_dump(settings))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, "configs_dir", lambda: tmp_path / "configs")

    chosen = config.compose(
        prompt="a red ball", guidance="blended", prior="gaussian",
        overrides=["guidance.rule.mix=0.2", "plugins=[blended_rule]"],
    )  # fmt: skip
    check(chosen)
    rule = config.build(chosen["guidance"]["rule"], "guidance.rule", chosen["plugins"])
    assert type(rule) is sys.modules["blended_rule"].Blended
    assert rule.mix == 0.2
