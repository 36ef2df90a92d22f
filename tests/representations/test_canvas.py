"""The canvas: what the cameras see, how it starts, that it is no object, and that a run ends in a PNG."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from threedistill.cameras import orbit
from threedistill.config import compose
from threedistill.errors import ThreedistillError, UsageError
from threedistill.pipeline import generate, resume
from threedistill.protocols import RenderContext, Representation
from threedistill.representations.canvas import Canvas
from threedistill.training.stages import ScoreDistillation


def look(canvas: Canvas, views: int, size: int) -> torch.Tensor:
    return canvas.render(orbit(views, size=size), RenderContext(0.0, torch.zeros(views, 3))).rgb


def test_views_see_the_pictures_in_turn() -> None:
    torch.manual_seed(0)
    canvas = Canvas(size=16, pictures=2)
    assert isinstance(canvas, Representation) and canvas.pictures() is not None
    rgb = look(canvas, 5, 16)
    assert torch.equal(rgb[0], rgb[2]) and torch.equal(rgb[1], rgb[3]) and not torch.equal(rgb[0], rgb[1])
    assert torch.equal(rgb[:2], canvas.pictures())
    out = canvas.render(orbit(3, size=16), RenderContext(0.0, torch.zeros(3, 3)))
    assert bool((out.opacity == 1).all()) and out.rgb.shape == (3, 16, 16, 3)


def test_other_sizes_keep_the_mean_colour() -> None:
    torch.manual_seed(0)
    canvas = Canvas(size=32)
    small = look(canvas, 1, 16)
    assert small.shape == (1, 16, 16, 3)
    torch.testing.assert_close(small.mean((0, 1, 2)), canvas.pictures().mean((0, 1, 2)), rtol=0, atol=2e-3)


def test_a_picture_to_start_from_is_kept_for_comparison(tmp_path) -> None:
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(tmp_path / "half.png")
    canvas = Canvas(size=16, picture=str(tmp_path / "half.png"))
    expected = torch.tensor([1.0, 127 / 255, 127 / 255])  # half red over white
    torch.testing.assert_close(canvas.pictures()[0, 3, 5], expected, rtol=0, atol=5e-3)
    before = canvas.unedited(orbit(2, size=16))
    with torch.no_grad():
        canvas.theta.zero_()
    assert torch.equal(canvas.unedited(orbit(2, size=16)), before)
    (tmp_path / "no.png").write_bytes(b"nothing")
    with pytest.raises(
        UsageError, match=r"representation\.model\.picture=.*no\.png: cannot be read as a picture"
    ):
        Canvas(picture=str(tmp_path / "no.png"))


def test_it_has_no_surface() -> None:
    with pytest.raises(ThreedistillError, match=r"representation=canvas is a picture .* asset/model\.png"):
        Canvas(size=8).extract(16)


def test_choosing_it_brings_a_camera_in_front_and_no_watchdog() -> None:
    config = compose(prompt="a red ball", representation="canvas", prior="gaussian")
    assert config["cameras"]["azimuth"] == [0.0, 0.0] and config["watchdog"]["enabled"] is False
    assert config["background"]["white"] == 1.0
    kept = compose(
        prompt="a red ball", representation="canvas", prior="gaussian", overrides=["cameras=default"]
    )
    assert kept["cameras"]["azimuth"] == [-180.0, 180.0]


def test_a_run_ends_in_a_png_and_resumes_bit_identically(tmp_path, monkeypatch) -> None:
    overrides = ["budget.iterations=12", "budget.resolution=16", "prior.model.size=16", "budget.views=2",
                 "representation.model.pictures=2", "trainer.checkpoint_every=4"]  # fmt: skip

    def make(name):
        return generate(
            "a red ball",
            out=tmp_path / name,
            prior="gaussian",
            representation="canvas",
            quiet=True,
            overrides=overrides,
        )

    whole = make("whole")
    assert whole.asset == tmp_path / "whole/asset/model.png" and whole.verdict is None
    with Image.open(whole.asset) as picture:
        assert picture.size == (16 + 1 + 16, 16)
    step = ScoreDistillation.training_step

    def stopping(self, index, batch_index=0):
        if index == 6:
            raise RuntimeError("the power went out")
        return step(self, index, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreDistillation, "training_step", stopping)
        with pytest.raises(RuntimeError, match="power"):
            make("broken")
    assert resume(tmp_path / "broken", quiet=True).asset.read_bytes() == whole.asset.read_bytes()
