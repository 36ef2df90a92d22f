"""The report's files: every run is there, nothing of what users wrote is markup, what has not changed stays."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
from pathlib import Path

import pytest

from tests.reports.folders import HOSTILE, cloud, make_run
from threedistill.errors import UsageError
from threedistill.reports.details import motion, scene
from threedistill.reports.write import VIEWERS, key_of
from threedistill.resources import assets_dir
from threedistill.sweeps.folders import report_on
from threedistill.training.curves import curves


def blocks(page: str) -> dict[str, dict]:
    """The JSON of a page by the names of its elements, as a browser would cut it out."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def payload(file: Path) -> dict:
    name, content = re.fullmatch(
        r'threedistill\.put\("([^"]+)",(.*)\);\n', file.read_text(), re.DOTALL
    ).groups()
    assert name == file.stem
    return json.loads(content)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path / "one", splats=True)
    make_run(tmp_path / "deep" / "two", HOSTILE[1], seed=3, guidance="csd", status="failed", turntable=False)
    return tmp_path


def test_every_run_is_on_the_page_with_its_settings_and_figures(runs: Path):
    page, count = report_on(runs)
    assert (page, count) == (runs / "index.html", 2)
    data = blocks(page.read_text())["data"]
    assert data["axes"] == ["guidance"]
    rows = {run["run"]: run for run in data["runs"]}
    assert {name: (r["prompt"], r["seed"], r["guidance"], r["status"]) for name, r in rows.items()} == {
        "one": ("a red ball", 0, "sds", "done"), "deep/two": (HOSTILE[1], 3, "csd", "failed"),
    }  # fmt: skip
    assert rows["one"]["iou"] == 0.8 and rows["deep/two"]["iou"] is None
    assert rows["one"]["moving"] == {"file": "asset/turntable.webp", "frames": 0}
    assert rows["deep/two"]["moving"] == {"file": "asset/views.png", "frames": 4}
    assert data["summary"]["settings"]["guidance=sds"]["iou"]["value"] == 0.8
    about = payload(runs / "report" / f"{key_of('one')}.js")
    assert {"asset/model.glb", "asset/splats.ply", "config.yaml", "metrics.csv"} <= {
        f["name"] for f in about["files"]
    }
    assert about["previews"] == ["preview/000050.png", "preview/000100.png"]
    assert "@" in about["citation"] and about["licence"] == "Apache-2.0" and "guidance" in about["config"]
    shape = payload(runs / "report" / f"{key_of('one')}-3d.js")
    assert base64.b64decode(shape["glb"]) == (runs / "one" / "asset" / "model.glb").read_bytes()


@pytest.mark.parametrize("one_file", [False, True], ids=["beside", "in one file"])
def test_what_users_wrote_is_never_markup(tmp_path: Path, one_file: bool):
    root = tmp_path / "<b onclick=pwned>&"
    for k, prompt in enumerate(HOSTILE):
        make_run(root / f"r{k}", prompt, status="failed" if k % 2 else "done")
    page = report_on(root, one_file)[0].read_text()
    assert {run["prompt"] for run in blocks(page)["data"]["runs"]} == set(HOSTILE)
    block = re.compile(r'<script type="application/json" id="[^"]+">(.*?)</script>', re.DOTALL)
    assert all("<" not in text for text in block.findall(page)), "no data end their element, or begin another"
    outside = block.sub("", page)
    assert "<title>&lt;b onclick=pwned>&amp;</title>" in outside
    assert outside.count("pwned") == 1
    for script in root.glob("report/*.js"):
        assert "<" not in script.read_text()


def test_the_policy_allows_the_pages_own_scripts_only(runs: Path):
    page = report_on(runs, one_file=True)[0].read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    allowed = re.search(r"script-src ([^;]+)", policy).group(1)
    assert "unsafe-inline" not in allowed and "http" not in policy
    script = re.search(r"<script>(.*)</script>\n</html>", page, re.DOTALL).group(1)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in allowed
    for name, file in VIEWERS.items():
        text = (assets_dir() / "report" / "vendor" / file).read_text()
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in allowed, name


def test_one_file_needs_nothing_beside_it(runs: Path):
    page, _ = report_on(runs, one_file=True)
    assert not (runs / "report").exists()
    found = blocks(page.read_text())
    key = key_of("one")
    assert {"data", f"payload-{key}", f"payload-{key}-3d"} <= set(found)
    assert found["data"]["pictures"][key].startswith("data:image/webp;base64,")
    media = found[f"payload-{key}"]["media"]
    assert set(media) == {"asset/turntable.webp", "preview/000050.png", "preview/000100.png"}


def test_what_has_not_changed_is_left_and_what_is_gone_goes(runs: Path):
    report_on(runs)
    kept, gone = (runs / "report" / f"{key_of(name)}-3d.js" for name in ("one", "deep/two"))
    stamp = kept.stat().st_mtime_ns
    later = kept.stat().st_mtime + 10
    (runs / "deep" / "two" / "run.json").unlink()
    report_on(runs)
    assert kept.stat().st_mtime_ns == stamp and not gone.exists()
    os.utime(runs / "one" / "asset" / "model.glb", (later, later))
    report_on(runs)
    assert kept.stat().st_mtime_ns != stamp


def test_somebody_elses_page_is_not_replaced(runs: Path):
    (runs / "index.html").write_text("<html>mine</html>")
    with pytest.raises(UsageError, match="is not a report of ours"):
        report_on(runs)
    assert (runs / "index.html").read_text() == "<html>mine</html>"


def test_folders_without_runs_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no run in it"):
        report_on(tmp_path)
    with pytest.raises(UsageError, match="there is no such folder"):
        report_on(tmp_path / "nowhere")


def test_a_damaged_run_is_a_row_like_any_other(runs: Path):
    (runs / "one" / "config.yaml").write_text("[")
    (runs / "one" / "run.json").write_text("{")
    (runs / "one" / "asset" / "turntable.webp").write_bytes(b"RIFF")
    rows = blocks(report_on(runs)[0].read_text())["data"]["runs"]
    assert {row["run"]: row["status"] for row in rows} == {"one": "failed", "deep/two": "failed"}


def test_curves_are_thinned_and_counted_through_the_stages(tmp_path: Path):
    rows = [f"{stage},{k},{stage + k},7" for stage in (0, 1) for k in range(1, 501)]
    (tmp_path / "metrics.csv").write_text("stage,iteration,loss,same\n" + "\n".join(rows) + "\n")
    found = curves(tmp_path)
    assert list(found["series"]) == ["loss"], "what never changes is no curve"
    assert len(found["x"]) <= 400 and found["x"] == sorted(found["x"])
    assert found["x"][0] == 1 and found["x"][-1] > 990
    (tmp_path / "metrics.csv").write_text("stage,iteration,loss\n0,1,nan\n0,2,inf\n0,3,1\n0,4,2\n")
    assert curves(tmp_path)["series"]["loss"] == [None, None, 1.0, 2.0]


def test_splats_stand_upright_in_the_viewers_world(tmp_path: Path):
    make_run(tmp_path / "r", splats=True)
    data = base64.b64decode(scene(tmp_path / "r")["splat"])
    assert len(data) == 32 * 400
    places = {struct.unpack_from("<3f", data, 32 * k) for k in range(400)}
    true = {(round(x, 3), round(-y, 3), round(-z, 3)) for x, y, z in cloud().means.tolist()}
    assert {tuple(round(v, 3) for v in place) for place in places} == true
    assert motion(tmp_path) is None


def test_every_viewer_travels_with_its_licence_and_version():
    home = assets_dir() / "report" / "vendor"
    notes = (home / "README.md").read_text()
    for name in ("model-viewer", "gsplat", "uplot", "three", "lit", "gainmap-js"):
        assert (home / "licences" / f"{name}.txt").stat().st_size > 500
        assert re.search(rf"\|[^|\n]*{name}[^|\n]*\| \d+\.\d+", notes), name
    script = (home / "build.sh").read_text()
    for package, version in re.findall(r"\| `([^`]+)` \| (\d[\d.]*) \|[^|]*\| yes", notes):
        assert f"{package}@{version}" in script
    for file in VIEWERS.values():
        assert "sourceMappingURL" not in (home / file).read_text()
