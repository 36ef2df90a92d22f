"""Assets that several tests look at, and the official glTF validator where it can be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exports.objects import cube, letter_f
from threedistill.exports.asset import ExportSettings, build_asset
from threedistill.types import Mesh

SMALL = ExportSettings(resolution=48, faces=1200, texture_size=256, smooth_iterations=2)
EXTRAS = {"prompt": "an F, “schön”", "seed": 3, "prior": "none", "licences": ["Apache-2.0"]}

_SCRIPT = """
const validator = require('gltf-validator'), fs = require('fs');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report))).catch(e => { console.error(e); process.exit(1); });
"""


@pytest.fixture(scope="session")
def f_asset() -> Mesh:
    return build_asset(letter_f(), SMALL, EXTRAS)


@pytest.fixture(scope="session")
def cube_asset() -> Mesh:
    return build_asset(cube(), SMALL, EXTRAS)


def _validator_folder(cache: Path) -> Path | None:
    """A node_modules folder with gltf-validator: named by GLTF_VALIDATOR, near the checkout, or fetched."""
    candidates = [Path(os.environ["GLTF_VALIDATOR"])] if "GLTF_VALIDATOR" in os.environ else []
    candidates += [folder / "node_modules" for folder in Path(__file__).resolve().parents]
    for folder in candidates:
        folder = folder / "node_modules" if (folder / "node_modules").is_dir() else folder
        if (folder / "gltf-validator").is_dir():
            return folder
    npm = shutil.which("npm")
    if npm is None:
        return None
    command = [
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(cache),
        "gltf-validator@2.0.0-dev.3.10",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError):
        return None
    return cache / "node_modules"


@pytest.fixture(scope="session")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict]:
    """Runs the validator on a GLB and returns its report."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, so the glTF validator cannot run")
    modules = _validator_folder(tmp_path_factory.mktemp("npm"))
    if modules is None:
        pytest.skip(
            "gltf-validator is neither in GLTF_VALIDATOR, a node_modules folder, nor installable by npm"
        )

    def run(path: Path) -> dict:
        environment = {**os.environ, "NODE_PATH": str(modules)}
        done = subprocess.run(
            [node, "-e", _SCRIPT, str(path)], capture_output=True, text=True, env=environment, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
