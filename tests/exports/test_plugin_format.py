"""The worked example of docs/extend/format.md, installed as a package and used from the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installed import installed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extend" / "format.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder that packages are installed into, outside of the repository."""
    return tmp_path / "site"


@pytest.mark.slow
def test_the_format_page_makes_a_format_that_can_be_used(tmp_path, site):
    """Installed beside threedistill, chosen from the command line, in a fresh process."""
    files = {
        "off_format/__init__.py": "", "off_format/files.py": block("python"),
        "off_format/configs/format/off.yaml": block("yaml"), "pyproject.toml": block("toml"),
    }  # fmt: skip
    installed(files, site, tmp_path)
    paths = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "threedistill", *words], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    assert (
        "off         model.off      Object File Format: shape only, as text" in run("list", "formats").stdout
    )
    (tmp_path / "quad.obj").write_text(
        "v 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 1 2 0 1 0 0\nv 0 2 0 1 0 0\nf 1 2 3\nf 1 3 4\n"
    )
    done = run("convert", "quad.obj", "quad.off")
    assert done.returncode == 0 and "not in quad.off: vertex colours" in done.stderr, done.stderr
    words = (tmp_path / "quad.off").read_text().split()
    assert words[:4] == ["OFF", "4", "2", "0"]
    assert {tuple(map(float, words[i : i + 3])) for i in range(4, 16, 3)} == {
        (0, 0, 0), (1, 0, 0), (1, 0, 2), (0, 0, 2),
    }  # +Z up  # fmt: skip
    done = run("convert", "quad.off", "again.obj", "--json")
    assert done.returncode == 0 and '"faces": 2' in done.stdout, done.stderr
    tall = [line.split()[2] for line in (tmp_path / "again.obj").read_text().splitlines() if line[:2] == "v "]
    assert sorted(map(float, tall)) == [0, 0, 2, 2]
    (tmp_path / "lies.off").write_text("OFF\n1 1\n")
    done = run("convert", "lies.off", "no.obj")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "not a sound off file" in done.stderr
    done = run("generate", "a red ball", "--format", "glb,of", "--out", "r")
    assert done.returncode == 2 and "did you mean off?" in done.stderr
