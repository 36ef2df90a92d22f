"""``threedistill cite``: every option that ships is cited, by complete entries, and by nothing that it did not use."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from threedistill.citation import CLASSES, SETTINGS, citations, entries, used_classes
from threedistill.config import compose, groups, write_config
from threedistill.resources import assets_dir
from threedistill.training.run_folder import RunFolder

MATHS = Path(__file__).resolve().parents[2] / "docs" / "maths"

RULES = {
    "sds": "2209.14988", "vsd": "2305.16213", "esd": "2401.00909", "csm": "2410.21299", "csds": "2308.14078",
    "csd": "2310.19415", "ism": "2311.11284", "nfsd": "2310.17590", "dds": "2304.07090", "sdi": "2405.15891",
    "cds": "2401.09050", "sjc": "2212.00774", "mvsds": "2308.16512", "bridge": "2406.09417", "cfd": "2501.05445",
    "sctd": "2507.05256", "sim": "2410.16794", "trace": "2511.05609", "usd": "2502.12640",
}  # fmt: skip


def option(group: str, name: str, **changes: object) -> dict:
    """A group's option as a run has it, with other arguments for its rule or itself."""
    node = compose(prompt="a red ball", overrides=[f"{group}={name}"])[group]
    node.get("rule", node).update(changes)
    return node


def cited(group: str, name: str, **changes: object) -> dict[str, list[str]]:
    return citations(option(group, name, **changes))


def numbers(keys: dict[str, list[str]]) -> set[str]:
    texts = entries()
    return {re.search(r"eprint = \{(.+?)\}", texts[key]).group(1) for key in keys}  # type: ignore[union-attr]


def test_every_entry_is_complete_and_every_key_exists():
    texts = entries()
    file = (assets_dir() / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"@\w+\{([^,\s]*)", file)
    assert keys == list(texts), "an entry does not parse, or its key is there twice"
    assert len(texts) >= 30
    for key, text in texts.items():
        for field in ("title", "author", "year", "eprint", "archivePrefix"):
            assert re.search(rf"\b{field} = \{{.+\}}", text), f"{key} has no {field}"
        assert text.count("{") == text.count("}"), key
        assert re.search(r"year = \{(\d{4})\}", text).group(1) >= "2015"  # type: ignore[union-attr]
    used = {key for pairs in CLASSES.values() for key, _ in pairs} | {s[3] for s in SETTINGS}
    assert used <= set(texts)
    arxiv = [re.search(r"eprint = \{(.+?)\}", t).group(1) for t in texts.values()]  # type: ignore[union-attr]
    assert len(set(arxiv)) == len(arxiv)


def test_every_rule_that_ships_cites_its_paper():
    assert set(groups()["guidance"]) <= set(RULES), "give the new rule its line here and in citation.py"
    for rule, number in RULES.items():
        if rule in groups()["guidance"]:
            found = numbers(cited("guidance", rule))
            others = set(RULES.values()) - {number}
            allowed = {
                "vsd": set(),
                "esd": {RULES["vsd"]},
                "mvsds": {RULES["sds"]},
                "bridge": {RULES["sds"]},
                "usd": {RULES["vsd"]},
            }.get(rule, set())
            assert number in found and not (found & others) - allowed, rule


def test_the_page_and_the_class_of_a_rule_cite_the_same():
    for rule, number in RULES.items():
        page = (MATHS / f"{rule}.md").read_text(encoding="utf-8").partition("**Source.**")[2]
        node = option("guidance", rule)
        module, _, name = node["rule"]["_target_"].rpartition(".")
        text = (getattr(importlib.import_module(module), name).__doc__ or "").partition("Source:")[2]
        for where, source in (("page", page), ("docstring", text)):
            assert re.findall(r"\d{4}\.\d{5}", source)[:1] == [number], (
                f"{rule}: the {where} starts with another paper"
            )
        # A page may leave the equation out, but it may not name another one.
        equation = re.compile(rf"{number}[^.]*?,\s+eq\. ([\d-]+)")
        assert set(equation.findall(page)) <= set(equation.findall(text)), rule


@pytest.mark.parametrize("group", ["representation", "prior", "student", "cfg"])
def test_what_ships_is_cited_or_is_our_own(group: str):
    # AuraFlow and Chroma have no paper; of a pipeline that is given as a folder nothing is known.
    own = {"canvas", "sketch", "gaussian", "oracle", "world", "none", "auraflow", "chroma", "recorded"}
    for name in groups()[group]:
        assert bool(cited(group, name)) != (name in own), f"{group}={name}"


def test_the_named_classes_exist():
    for name in [*CLASSES, *(setting[0] for setting in SETTINGS)]:
        module, _, cls = f"threedistill.{name}".rpartition(".")
        try:
            assert hasattr(importlib.import_module(module), cls), name
        except ModuleNotFoundError:
            pytest.fail(f"{name} is cited and does not exist")


def test_settings_decide_what_is_cited_beyond_the_classes():
    plain = citations(compose(prompt="a duck"))
    assert "mueller2022instantngp" in plain and "ho2022cfg" in plain and "kingma2015adam" in plain
    for key in ("lin2024flawed", "hu2022lora", "saharia2022imagen", "rombach2022ldm", "kerbl2023gaussians"):
        assert key not in plain
    assert cited("cfg", "rescaled")["lin2024flawed"] == ["rescaled guidance"]
    assert "saharia2022imagen" in cited("cfg", "standard", x0_clip="dynamic")
    assert list(cited("cfg", "perp_neg")) == ["armandpour2023perpneg", "ho2022cfg"]
    assert list(cited("cfg", "two_conditions")) == ["brooks2023instructpix2pix", "ho2022cfg"]
    assert "hu2022lora" in cited("student", "lora")
    assert "yin2024dmd2" in cited("guidance", "vsd", normalize="dmd")
    assert "xu2025fdistill" in cited("guidance", "vsd", divergence="jensen_shannon")
    terms = {"_target_": "threedistill.guidance.regularizers.Regularizers"}
    assert list(citations({**terms, "weights": {"orientation": 0.1}})) == ["verbin2022refnerf"]
    ramp = {"_target_": "threedistill.schedule.Ramp", "start": 0.0, "end": 0.0}
    assert citations({**terms, "weights": {"orientation": ramp}}) == {}
    assert "gropp2020igr" in citations(compose(prompt="a duck", representation="dmtet"))
    splats = citations(compose(prompt="a duck", representation="gaussians_mcmc"))
    assert "relocation" in splats["kheradmand2024mcmc"] and "xie2024physgaussian" in splats
    assert "lupascu2026mvsdi" in cited("cameras", "antithetic") and not cited("cameras", "default")
    assert "rombach2022ldm" in cited("prior", "sd15")


def test_a_plugin_is_cited_by_its_docstring(tmp_path, monkeypatch):
    (tmp_path / "plugged.py").write_text(
        'class Rule:\n    """Unlike NFSD, arXiv 2310.17590, it works.\n\n    Source: Yu et al., arXiv 2310.19415."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {
        "guidance": {"rule": {"_target_": "plugged.Rule"}, "recommended": {"x": {"_target_": "plugged.No"}}},
        "plugins": ["plugged"],
    }
    assert citations(config) == {"yu2024csd": ["plugged.Rule"]}
    assert [target for target, _ in used_classes(config)] == ["plugged.Rule"]
    assert citations({**config, "plugins": []}) == {}, "nothing is imported because a file says so"


def test_the_command_prints_bibtex(command: Callable, workspace):
    run = RunFolder("runs/x")
    run.path.mkdir(parents=True)
    write_config(compose(prompt="a duck", guidance="esd"), run.config)
    done = command("cite", "runs/x")
    assert done.status == 0, done.err
    assert done.out.startswith("@software{threedistill,")
    assert "@inproceedings{wang2024esd," in done.out and "% ESD" in done.out
    assert done.out.count("{") == done.out.count("}")
    assert command("cite", "nowhere").status == 2
    assert '"wang2024esd": [' in command("cite", "runs/x", "--json").out
