"""Notebooks: one bar that changes in place, and a result that shows itself without a network."""

from __future__ import annotations

import base64
import gzip
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from threedistill.training.progress import Bar
from threedistill.training.result import Result
from threedistill.viewing import viewer_file


@pytest.fixture
def outputs(monkeypatch) -> list[object]:
    """What a notebook is told to show, in a process that looks like a kernel."""
    said: list[object] = []
    notebook, shows = ModuleType("IPython"), ModuleType("IPython.display")
    notebook.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    shows.display = lambda *_, display_id: SimpleNamespace(update=said.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", shows)
    return said


def test_a_bar_is_one_output_that_changes_now_and_then(outputs, capsys):
    bar = Bar("<coarse>", 5000)
    for done in range(1, 5001):
        bar.step(done, "opacity 0.2")
    bar.close()
    assert capsys.readouterr().err == "" and bar.on_terminal
    assert 1 <= len(outputs) < 200, "not an output for every step"
    last = outputs[-1]
    assert repr(last).startswith("<coarse> 5000/5000 ") and repr(last).endswith("opacity 0.2")
    shown = last._repr_html_()  # type: ignore[attr-defined]
    assert 'value="5000" max="5000"' in shown and "&lt;coarse&gt;" in shown


def test_quiet_is_quiet_in_a_notebook_too(outputs, capsys):
    bar = Bar("coarse", 10, quiet=True)
    for done in range(1, 11):
        bar.step(done)
    assert not outputs and capsys.readouterr().err == ""


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, dict[str, str | None]] = {}
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_result_shows_itself_with_everything_inside(tmp_path):
    asset = tmp_path / "asset"
    asset.mkdir()
    (asset / "model.glb").write_bytes(b"glTF<>&'\"" * 50)
    (asset / "turntable.webp").write_bytes(b"RIFF turning")
    hostile = "<script>x</script> & \"quotes\" 'too'"
    result = Result(
        tmp_path, asset / "model.glb", hostile, {"stage a": 12.0, "export": 3.0}, {"fidelity": 0.51234}
    )
    page = Tags(result._repr_html_())
    assert set(page.tags) == {"div", "img", "iframe", "table", "tr", "th", "td"}, (
        "nothing of a verdict is a tag"
    )
    assert hostile in page.text and "fidelity0.512" in page.text and "15 (stage a 12, export 3)" in page.text
    picture = str(page.tags["img"]["src"]).removeprefix("data:image/webp;base64,")
    assert base64.b64decode(picture) == b"RIFF turning"

    frame = page.tags["iframe"]
    assert frame["sandbox"] == "allow-scripts"
    inner = Tags(str(frame["srcdoc"]))
    model = str(inner.tags["model-viewer"]["src"]).removeprefix("data:model/gltf-binary;base64,")
    assert base64.b64decode(model) == (asset / "model.glb").read_bytes()
    packed = re.search(r'atob\("([A-Za-z0-9+/=]+)"\)', str(frame["srcdoc"]))
    assert packed and gzip.decompress(base64.b64decode(packed[1])) == viewer_file().read_bytes()
    assert not [a for a in inner.tags.values() if str(a.get("src") or a.get("href") or "").startswith("http")]


def test_a_result_without_a_mesh_shows_what_there_is(tmp_path):
    page = Tags(Result(tmp_path, tmp_path / "splats.ply", None, {"export": 1.0})._repr_html_())
    assert "iframe" not in page.tags and "img" not in page.tags and "splats.ply" in page.text


@pytest.mark.slow
def test_a_real_notebook(tmp_path):
    """Executed by Jupyter's own client: the bar is one output per stage, the result has its HTML."""
    import nbformat
    from nbclient import NotebookClient

    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
import threedistill
tiny = ["budget.iterations=40", "budget.views=2", "budget.resolution=32", "budget.grid=24", "export.faces=200",
        "export.texture_size=0", "export.turntable_frames=2"]
threedistill.generate("a red ball", prior="oracle", preset="bench", out={str(tmp_path / "run")!r}, overrides=tiny)
"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(book, timeout=600, kernel_name="python3").execute()
    outputs = book.cells[0].outputs
    shown = [o for o in outputs if o.output_type == "display_data"]
    assert any("coarse 40/40" in o.data["text/plain"] for o in shown)
    assert sum("coarse" in o.data["text/plain"] for o in shown) == 1
    lines = "".join(o.text for o in outputs if o.output_type == "stream").count("\n")
    assert lines < 20, "no line for every step"
    result = next(o for o in outputs if o.output_type == "execute_result")
    assert "<iframe" in result.data["text/html"] and "model-viewer" in result.data["text/html"]
