"""Assets that several tests look at, and checkers from npm where they can be had."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exports.objects import cube, letter_f
from tests.node_tools import node_modules, run_node
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


@pytest.fixture(scope="session")
def validate() -> Callable[[Path], dict]:
    """Runs the validator on a GLB and returns its report."""
    modules = node_modules("gltf-validator", "2.0.0-dev.3.10")

    def run(path: Path) -> dict:
        done = run_node("-e", _SCRIPT, str(path), modules=modules)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def splat_transform() -> Callable[..., None]:
    """Runs PlayCanvas' converter, an independent reader of every splat format."""
    modules = node_modules("@playcanvas/splat-transform", "3.7.0")

    def run(*words: str | Path) -> None:
        program = modules / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
        done = run_node(str(program), "--no-tty", "-w", *map(str, words), modules=modules)
        assert done.returncode == 0, done.stdout + done.stderr

    return run
