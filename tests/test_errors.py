"""What a user is told: every line byte-equal to a snapshot.

``pytest tests/test_errors.py --update-snapshots`` rewrites the snapshots; read the difference before committing it.
"""

from __future__ import annotations

import shlex

import pytest
import torch

from threedistill.config import compose, groups, write_config
from threedistill.training.checkpoint import save_stage
from threedistill.training.run_folder import RunFolder

#: Snapshot -> command lines. All are refused before anything is started.
REQUESTS = {
    "verbs": ["genrate 'a duck'", "'a red mushroom'", "frobnicate"],
    "prompts": [
        "generate", "generate ''", "generate ' '", "generate a red mushroom", "generate 'a red musroom'",
        "generate 'a xylophone'", "generate red", "generate 'a red and blue car'", "generate 'a car wearing a red hat'",
        "generate 'a red ball on a blue duck'", "generate --prompt-file missing.txt",
    ],
    "choices": [
        "generate 'a duck' --preset standrad", "generate 'a duck' --prior sd51", "generate 'a duck' --guidance sdss",
        "generate 'a duck' --representation hashgird", "generate 'a duck' --device gpu",
        "generate 'a duck' --format glb,fbx", "generate 'a duck' seed=1 --seed 2", "generate 'a duck' prior=toyboxx",
        "list prior", "toybox rendr",
    ],
    "numbers": [
        "generate 'a duck' --seed x", "generate 'a duck' --seed -1", "generate 'a duck' budget.iterations=0",
        "generate 'a duck' budget.iterations=many", "generate 'a duck' export.faces=-3",
        "generate 'a duck' cameras.views=0", "toybox sample 'a duck' --scale 101",
    ],
    "words": [
        "generate 'a duck' --sed 3", "generate 'a duck' -x", "generate 'a duck' --out", "generate 'a duck' 3x=1",
        "generate 'a duck' budget.iteration=5", "generate 'a duck' +new.key=5", "generate 'a duck' prompt=x",
        "generate 'a duck' nothing.like.it=1", "generate 'a duck' --resume --overwrite", "doctor now", "eval", "export",
    ],
    "folders": ["resume", "resume nowhere", "resume .", "export nowhere", "eval nowhere"],
}  # fmt: skip


def transcript(command, lines) -> str:
    """The command lines with their exit status and what stands on stderr; nothing may stand on stdout."""
    parts = []
    for line in lines:
        done = command(*shlex.split(line))
        assert done.out == "", line
        assert done.err.count("\n") == 1, f"not one line: {done.err!r}"
        parts.append(f"$ threedistill {line}\n[{done.status}] {done.err}")
    text = "\n".join(parts)
    for group, options in groups().items():  # new options are no new error texts
        text = text.replace(f"choose from {', '.join(options)}\n", f"choose from <every {group}>\n")
    return text


@pytest.mark.parametrize("name", REQUESTS)
def test_refused_requests(command, snapshot, workspace, name):
    snapshot(f"errors-{name}", transcript(command, REQUESTS[name]))
    assert not list(workspace.iterdir()), "a refused request leaves nothing behind"


@pytest.fixture
def started(workspace):
    """A run that was started and has nothing but its configuration and a checkpoint yet."""
    run = RunFolder(workspace / "run")
    run.path.mkdir()
    write_config(compose(prompt="a duck", prior="oracle", preset="draft", formats=("glb",)), run.config)
    save_stage(run.checkpoint(0, "coarse"), torch.nn.Linear(2, 2), [], {})
    return run


def test_existing_and_foreign_folders(command, snapshot, workspace, started):
    (workspace / "photos").mkdir()
    (workspace / "photos" / "cat.jpg").write_bytes(b"")
    (workspace / "file").write_bytes(b"")
    (workspace / "foreign").mkdir()
    (workspace / "foreign" / "config.yaml").write_text("a: 1\n")
    lines = [
        "generate 'a duck' --prior oracle --preset draft --out run",
        "generate 'a duck' --prior oracle --guidance csd --out run",
        "generate 'a duck' --prior oracle --preset draft --out run export.faces=70 cameras.views=2",
        "generate 'a car' --prior oracle --out run --resume",
        "generate 'a duck' --prior oracle --out run --resume --guidance csd --seed 3 export.faces=70",
        "generate 'a duck' --out run --resume budget.iterations=900",
        "generate 'a duck' --out run --resume --preset standard --format obj",
        "resume run budget.iterations=100",
        "resume run export.faces=70",
        "resume run budget.iterations=many",
        "generate 'a duck' --prior oracle --out photos",
        "generate 'a duck' --prior oracle --out file",
        "resume foreign",
        "export run",
        "export run --format stl",
        "export run export.face=9",
    ]
    snapshot("errors-existing", transcript(command, lines))


def test_a_configuration_that_is_no_yaml(command, workspace):
    (workspace / "broken").mkdir()
    (workspace / "broken" / "config.yaml").write_text("a: [1\n")
    done = command("resume", "broken")
    assert done.status == 2
    assert done.err.startswith("threedistill: error: broken/config.yaml cannot be read as YAML: ")
    assert done.err.count("\n") == 1


def test_damaged_checkpoints(command, snapshot, workspace, started):
    path = started.checkpoint(0, "coarse")
    parts = []
    path.write_bytes(b"not a checkpoint")
    parts.append(transcript(command, ["resume run", "export run export.faces=100"]))
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, path)
    parts.append(transcript(command, ["export run export.faces=100"]))
    snapshot("errors-checkpoints", "\n".join(parts))

    save_stage(path, torch.nn.Linear(2, 2), [], {})
    done = command("export", "run", "export.faces=100")
    assert done.status == 1
    assert "last.safetensors does not fit this configuration: " in done.err
    assert done.err.count("\n") == 1
