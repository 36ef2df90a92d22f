"""The short part of ``tests/fuzz/kill.py``; the long part is slow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill.py")


def kills(*words: str) -> int:
    """Run the script; how many tries it counted, all of them identical."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^(\d+) kills, seed .*; identical (\d+), otherwise 0$", done.stdout, re.MULTILINE)
    assert found and found[1] == found[2], done.stdout
    return int(found[1])


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "fork") or not Path("/proc/self/stat").exists(), reason="needs Linux's /proc"
)
def test_a_run_killed_at_two_moments() -> None:
    assert kills("--only", "hashgrid-sds", "--tries", "2") == 2


@pytest.mark.long
@pytest.mark.parametrize("part", range(1, 7))
def test_sixty_kills(part: int) -> None:
    assert kills("--part", f"{part}/6") > 0
