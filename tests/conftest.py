"""What all tests share. The environment is set here because it must be there before torch is imported."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are as many workers as cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

import tests.shapes  # noqa: F401 - the hook below looks it up

# Every call of every test checks the shapes that the package's annotations promise.
jaxtyping.install_import_hook("threedistill", "tests.shapes.shapes_only")

# The same examples on every machine, and no deadlines: the machine may be busy.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent


def _package_under_test() -> Path:
    """Import the package that is to be tested, and say where it is.

    pytest puts the checkout first on the path. Where the checkout has no native library but an installed package
    has (``pip install . && pytest``), the installed one is meant: it is imported here, before any test imports it.
    """
    import importlib
    import importlib.metadata

    if not list((ROOT / "threedistill" / "_lib").glob("*")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            site = Path(str(importlib.metadata.distribution("threedistill").locate_file("")))
            if (site / "threedistill" / "_lib").is_dir():
                sys.path.insert(0, str(site))
                importlib.import_module("threedistill")
                sys.path.remove(str(site))
    return Path(str(importlib.import_module("threedistill").__file__)).parent


PACKAGE = _package_under_test()


def pytest_collection_finish() -> None:
    """torch says some things once per process: in tests every time, so that their order means nothing."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_warn_always(True)


def pytest_report_header() -> str:
    return f"threedistill from {PACKAGE}"


@dataclass
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _misuse(request: pytest.FixtureRequest):
    """Tests marked ``misuse`` hand over wrong shapes on purpose: there the product's own error is under test."""
    if request.node.get_closest_marker("misuse") is None:
        yield
        return
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that default run folders land in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], workspace: Path) -> Callable[..., Outcome]:
    """Run ``threedistill WORD ...`` in this process, in an empty working directory."""

    def run(*words: str) -> Outcome:
        from threedistill.cli import main

        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Side by side for folders; in this process for single files, because a worker needs seconds to start."""
    from threedistill.threads import usable_cores

    named = [word.partition("::")[0] for word in config.args]
    cores = usable_cores()
    if cores == 1 or not any(Path(config.invocation_params.dir, name).is_dir() for name in named):
        return 0
    return min(cores, 8)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-snapshots", action="store_true", help="rewrite tests/snapshots instead of comparing"
    )


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text byte by byte with ``tests/snapshots/NAME.txt``; ``--update-snapshots`` rewrites it."""

    def compare(name: str, text: str) -> None:
        file = ROOT / "tests" / "snapshots" / f"{name}.txt"
        if request.config.getoption("--update-snapshots"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return
        assert file.exists(), f"no snapshot {file}; write it with --update-snapshots and read it"
        assert text == file.read_text(encoding="utf-8"), (
            f"{file.name} differs (--update-snapshots accepts the new text)"
        )

    return compare


@pytest.fixture
def clean_python() -> Callable[..., str]:
    """Run Python code in a fresh interpreter and return its stdout."""
    import subprocess

    def run(code: str, **environment: str) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        env["PYTHONPATH"] = str(PACKAGE.parent)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**env, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


#: Neither a network nor a sandbox, which containers do not allow.
CHROMIUM_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser: Debian's chromium with software GL, driven by Playwright, one for all tests of a process (which must
    not start a second Playwright); skips where there is none.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("chromium is not installed (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(CHROMIUM_ARGUMENTS), timeout=90_000, handle_sigint=False
        )
        yield browser
        browser.close()
