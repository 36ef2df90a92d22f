"""The script for owners of a GPU: a part that fails or hangs is written down, and costs the others nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_script"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_script"]


ROW = {"representation": "dmtet", "ms": 12.5, "least_ms": 12.0, "steps": 3, "peak_gib": 1.25, "waits": 2}


def test_every_part_is_bounded_and_they_fit_into_eight_minutes(script):
    given = script.argparse.Namespace(tiny=False, device="cuda")
    found = script.parts(given)
    assert [p.name for p in found] == ["tests", "sds 64", "vsd 64", "sds 512", "vsd 512"]
    assert sum(p.seconds for p in found) <= 480


def test_a_part_that_hangs_is_stopped_and_what_it_measured_stays(script, monkeypatch, tmp_path):
    hangs = f"import time; print({json.dumps(ROW)!r}, flush=True); time.sleep(600)"
    parts = [
        script.Part("hangs", ("-c", hangs), 3.0),
        script.Part("fails", ("-c", "raise SystemExit('no memory')"), 20.0),
        script.Part("works", ("-c", f"print({json.dumps(ROW)!r})"), 20.0),
    ]
    monkeypatch.setattr(script, "parts", lambda _given: parts)
    begin = time.monotonic()
    assert script.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    assert time.monotonic() - begin < 60
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found["hangs"]["ended"].startswith("stopped after") and found["hangs"]["rows"] == [ROW]
    assert found["fails"]["ended"] == "exit status 1" and found["fails"]["last_lines"] == ["no memory"]
    assert found["works"]["ended"] == "done"
    page = (tmp_path / "gpu.md").read_text()
    assert (
        "| works | dmtet | 12.5 | 1.25 | 2 |" in page and "no memory" in page and "stopped after 3 s" in page
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.count("\n") == 1 and "sees no CUDA device" in done.stderr
