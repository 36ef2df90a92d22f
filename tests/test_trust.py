"""What a configuration may call: classes of the right kind, from packages that the user trusts, and nothing else."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from threedistill.config import STAGE_PARTS, build, build_as, compose, read_config, write_config
from threedistill.config.places import PLACES, contract_of
from threedistill.config.targets import argument_types, fits
from threedistill.errors import UsageError
from threedistill.plugins import naming

BASE = compose(prompt="a red ball", prior="oracle")


def targets(node, path=""):
    """Every (path, node) with a ``_target_``."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from targets(child, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from targets(child, f"{path}.{index}")


#: Callables and classes, of other packages and of this one, that are no part of a run.
FOREIGN = [
    "os.system", "subprocess.Popen", "builtins.eval", "pathlib.Path", "shutil.rmtree", "torch.load", "threedistill",
    "threedistill.cli.main", "threedistill.commands.generate.run", "threedistill.atomic.write_text",
    "threedistill.atomic.os.system", "threedistill.resources.Path", "threedistill.training.run_folder.RunFolder",
    "threedistill.protocols.Prior", "threedistill.errors.UsageError", "threedistill.schedule.Constant.__call__",
    "threedistill.nothing.Here", "threedistill..x", "", 5, None, ["os.system"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize(
    "path", [path for path, node in targets(BASE) if "recommended" not in path.split(".")]
)
def test_no_place_takes_a_foreign_target(path, monkeypatch):
    """At the doors and below them; nothing of what is refused is called, nor its module imported."""
    place = max((p for p in (*PLACES, "stages.0") if path == p or path.startswith(f"{p}.")), key=len)
    called: list[str] = []
    monkeypatch.setattr("os.system", lambda *a: called.append("os.system"))
    monkeypatch.setattr("threedistill.cli.main", lambda *a: called.append("main"))
    for target in FOREIGN:
        config = copy.deepcopy(BASE)
        node = config
        for step in path.split("."):
            node = node[int(step)] if isinstance(node, list) else node[step]
        node["_target_"] = target
        top = config
        for step in place.split("."):
            top = top[int(step)] if isinstance(top, list) else top[step]
        with pytest.raises(UsageError) as caught:
            build({k: v for k, v in top.items() if k not in STAGE_PARTS}, place)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not called


def test_every_node_that_ships_is_of_its_places_kind():
    """The table of places and the constructors' annotations accept all options that ship (test_config builds them)."""
    for place in PLACES:
        contract = contract_of(place)
        assert isinstance(contract, type)
    for _, node in targets(BASE):
        module, _, name = node["_target_"].rpartition(".")
        hints = argument_types(getattr(importlib.import_module(module), name))
        for key, child in node.items():
            if isinstance(child, dict) and "_target_" in child:
                assert hints[key] is not None, f"{node['_target_']}.{key} has no annotation"


@pytest.mark.parametrize(
    "word", ["_partial_", "_args_", "_convert_", "_recursive_", "_target_wrapper_", "__class__"]
)
def test_the_words_of_instantiation_libraries_mean_nothing(word):
    node = {**BASE["background"], word: True}
    with pytest.raises(UsageError, match=f"BackgroundSampler has no argument '{word}'"):
        build(node, "background")


def test_an_argument_without_an_annotation_takes_no_target():
    from threedistill.schedule import Ramp

    class Loose:
        def __init__(self, anything) -> None: ...

    assert argument_types(Loose) == {"anything": None}
    assert not fits(Ramp, None) and not fits(Ramp, object)
    with pytest.raises(UsageError, match="is no value of a known type"):
        build_as(None, {"_target_": "threedistill.schedule.Ramp", "start": 0.0, "end": 1.0}, "x")


@pytest.fixture
def stranger(tmp_path, monkeypatch) -> Path:
    """A run folder whose file names a package of its sender, which is importable and leaves a mark when imported."""
    (tmp_path / "senders_code.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('RUN').touch()\n"
        "from threedistill.representations.background import BackgroundSampler\n"
        "class Mine(BackgroundSampler):\n    '''Source: arXiv 2305.16213'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "senders_code", raising=False)
    config = copy.deepcopy(BASE)
    config["plugins"] = ["senders_code"]
    for key in ("export", "background", "prior"):
        node = config[key]["model"] if key == "prior" else config[key]
        node["_target_"] = "senders_code.Mine"
    folder = tmp_path / "run"
    (folder / "asset").mkdir(parents=True)
    write_config(config, folder / "config.yaml")
    return folder


@pytest.mark.parametrize("verb", ["resume", "export", "cite"])
def test_a_strangers_folder_runs_nothing(stranger, command, verb):
    """The list of plug-ins in a file never guards itself: the user has to repeat it."""
    done = command(verb, str(stranger))
    assert done.status == 2 and done.err.count("\n") == 1, done.err
    assert "plugins=[senders_code]" in done.err
    assert not stranger.with_name("RUN").exists() and "senders_code" not in sys.modules


def test_a_ceiling_of_a_strangers_folder_runs_nothing(stranger):
    from threedistill.commands.evaluate import ceiling_fit

    with pytest.raises(UsageError, match="plugins="):
        ceiling_fit()(stranger, "a red ball")
    assert not stranger.with_name("RUN").exists()


def test_a_strangers_sweep_runs_nothing(stranger, tmp_path):
    """A sweep's folder keeps whole configurations; its runs are begun from them."""
    from threedistill.sweeps.job import work
    from threedistill.sweeps.plan import Plan, Setting, cells

    plan = Plan(tmp_path / "sweep")
    config = yaml.safe_load((stranger / "config.yaml").read_text())
    digest = plan.keep_config(config)
    numbers = plan.add(cells(["a red ball"], [0], [Setting("default", ())]), {"default": digest})
    plan.write()
    assert work(plan, numbers[0], evaluate=False) == "failed"
    assert not stranger.with_name("RUN").exists()


def test_what_the_user_repeats_counts(stranger):
    path = stranger / "config.yaml"
    assert read_config(path, ["senders_code"])["plugins"] == ["senders_code"]
    with naming(["senders_code"]):
        assert read_config(path)["plugins"] == ["senders_code"]
    with pytest.raises(UsageError, match="senders_code"):
        read_config(path)
    node = yaml.safe_load(path.read_text())["background"]
    assert type(build(node, "background", ["senders_code"])).__name__ == "Mine"
    with pytest.raises(UsageError, match="is no ExportSettings"):
        build({"_target_": "senders_code.Mine"}, "export", ["senders_code"])


def test_every_truncation_of_a_configuration_is_one_line(tmp_path):
    write_config(BASE, tmp_path / "config.yaml")
    lines = (tmp_path / "config.yaml").read_text().splitlines(keepends=True)
    cut = tmp_path / "cut" / "config.yaml"
    cut.parent.mkdir()
    for count in range(0, len(lines), 3):
        cut.write_text("".join(lines[:count]))
        if lines[count].startswith(("budget:", "  ")) and "budget:\n" in lines[: count + 1]:
            break  # what follows was interpolated into the parts above
        with pytest.raises(UsageError) as caught:
            read_config(cut)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"stages": 5}, "stages=5 must be a list"), ({"stages": []}, "stages"), ({"stages": [5]}, "stages.0=5"),
        ({"plugins": None}, "plugins=None must be a list"), ({"plugins": 5}, "plugins=5 must be a list"),
        ({"particles": 10**9}, "particles=1000000000"), ({"seed": -1}, "seed=-1"), ({"seed": True}, "seed=True"),
        ({"guidance": {"name": "sds", "rule": None}}, "guidance.rule"), ({"prompts": None}, "prompts=None"),
        ({"prompt": 5}, "prompt=5 must be text"), ({"prompt": " "}, "the prompt is empty"), ({"device": "x"}, "device"),
        ({"trainer": {"a": 1}}, "trainer: must be a mapping with a _target_"), ({"cfg": "x"}, "cfg='x'"),
    ],
)  # fmt: skip
def test_a_file_is_held_to_the_schema(tmp_path, change, needle):
    write_config({**BASE, **change}, tmp_path / "config.yaml")
    with pytest.raises(UsageError) as caught:
        read_config(tmp_path / "config.yaml")
    assert needle in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "schema: 1\nprompt: &a x\nnegative: *a\n", "a: " + "[" * 80 + "]" * 80, "a: " + "9" * 5000,
        "a: 2001-99-99", "!!python/object/apply:os.system ['true']", "\x00", "a: b: c", "? [1]\n: 2",
    ],
)  # fmt: skip
def test_yaml_that_is_more_than_data(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_installed_plugins_and_their_folders_are_found(tmp_path):
    """A real distribution in a folder of its own: no call of ours is replaced."""
    package = tmp_path / "site" / "quiet_plugin"
    (package / "configs" / "background").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "configs" / "background" / "grey.yaml").write_text("# Grey\n_target_: x\n")
    info = tmp_path / "site" / "quiet-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quiet\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[threedistill.plugins]\nquiet = quiet_plugin\n")
    code = (
        "from threedistill.plugins import installed\nfrom threedistill.config import groups\n"
        "print([p.package for p in installed()], 'grey' in groups()['background'])\n"
    )
    path = f"{tmp_path / 'site'}:{Path(__file__).resolve().parent.parent}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == "['quiet_plugin'] True"
