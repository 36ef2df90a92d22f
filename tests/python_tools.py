"""Checkers that come from PyPI and must not share our environment: installed once into a cache folder, or why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def python_tool(package: str, version: str) -> dict[str, str]:
    """The environment in which ``sys.executable`` can import the package; skips the test where none can be had.

    Looked for in this Python, in ``THREEDISTILL_PYTHON_TOOLS`` (a site-packages folder), and in the cache
    (``~/.cache/threedistill-tests``), into which pip installs it with what it needs otherwise.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threedistill-tests"
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    home = cache / f"{package}-{version}-{tag}"
    named = os.environ.get("THREEDISTILL_PYTHON_TOOLS")
    for place in [Path(named)] if named else []:
        if (place / package).is_dir():
            return _with(place)
    if not (home / package).is_dir():
        _install(package, version, home)
    return _with(home)


def _with(place: Path) -> dict[str, str]:
    """Numba compiles for longer than a test of a few hundred rows takes without."""
    return {**os.environ, "PYTHONPATH": str(place), "NUMBA_DISABLE_JIT": "1"}


def _install(package: str, version: str, home: Path) -> None:
    partial = home.with_name(f"{home.name}.{os.getpid()}")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
    ]
    try:
        partial.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [*command, "--target", str(partial), f"{package}=={version}"],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"pip cannot install {package} (offline?): {done.stderr.strip()[-200:]}")
        try:
            partial.rename(home)  # whole or not at all: another process may install at the same time
        except OSError:
            if not (home / package).is_dir():
                raise
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"pip cannot install {package} (offline?): {error}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def run_python(code: str, *words: object, environment: dict[str, str]) -> str:
    """What a script prints; the assertion shows what it says where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=300, env=environment,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
