"""The tutorial's commands run as they are printed, in their order, in a new folder."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"


def lines(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.long
def test_the_tutorial_works_as_it_is_printed(tmp_path):
    program = tmp_path / "bin" / "threedistill"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}:$PYTHONPATH" exec "{sys.executable}" -m threedistill "$@"\n'
    )
    program.chmod(0o755)
    paths = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    said = {}
    for line in lines(PAGE):
        done = subprocess.run(["bash", "-euc", line], cwd=tmp_path, capture_output=True, text=True, env=paths)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        said[line.split()[1]] = done.stdout
    for place in re.findall(r"`((?:runs|sweeps)/[\w./-]+\.\w+)`", PAGE.read_text(encoding="utf-8")):
        assert (tmp_path / place).is_file(), f"the page names {place}"
    rows = list(csv.DictReader((tmp_path / "sweeps/rules/results.csv").read_text().splitlines()))
    assert len(rows) == 4 and {row["status"] for row in rows} == {"done"}
    assert {(row["guidance"], row["seed"]) for row in rows} == {(g, s) for g in ("sds", "csd") for s in "01"}
    assert "@" in said["cite"] and "csd" in said["list"]
    assert {f.suffix for f in (tmp_path / "runs/a-red-mushroom-s0/asset").iterdir()} >= {
        ".obj",
        ".stl",
        ".ply",
    }
