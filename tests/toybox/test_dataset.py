"""The rendered cache and the batches drawn from it."""

import numpy as np
import pytest
import torch

from threedistill.cameras import ELEVATION_RANGE, view_name
from threedistill.toybox.dataset import (
    VIEWS,
    DrawSettings,
    RenderedWorld,
    WorldSettings,
    backgrounds,
    degrade,
)
from threedistill.toybox.grammar import parse
from threedistill.toybox.scenes import is_held_out

SETTINGS = WorldSettings(images=240, seed=7)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return RenderedWorld(tmp_path_factory.mktemp("world"), SETTINGS)


def test_the_cache_is_a_function_of_its_settings(world, tmp_path):
    small = WorldSettings(images=24, seed=7)
    again = RenderedWorld(tmp_path / "again", small)
    assert again.scenes == world.scenes[:24]
    assert all(np.array_equal(again.rgba(i), world.rgba(i)) for i in range(24))
    with pytest.raises(ValueError, match="other settings"):
        RenderedWorld(tmp_path / "again", WorldSettings(images=24, seed=8))


def test_pictures_are_premultiplied_whole_and_labelled(world):
    for i in range(0, 240, 7):
        rgba = world.rgba(i).astype(int)
        assert (rgba[..., :3].max(-1) <= rgba[..., 3] + 1).all()
        assert not rgba[[0, -1], :, 3].any() and not rgba[:, [0, -1], 3].any()  # nothing is cut off
        assert 0.02 < (rgba[..., 3] > 127).mean() < 0.8
        azimuth, elevation = world.cameras[i, :2]
        assert VIEWS[world.views[i]] == view_name(float(azimuth), float(elevation))
        assert ELEVATION_RANGE[0] <= np.rad2deg(elevation) <= ELEVATION_RANGE[1]
    assert not any(is_held_out(s) for s in world.scenes)


def test_batches_repeat_and_differ(world):
    one, two, other = (world.batch(16, DrawSettings(), 3, step) for step in (5, 5, 6))
    assert torch.equal(one.images, two.images) and one.captions == two.captions
    assert not torch.equal(one.images, other.images)
    assert one.images.shape == (16, 3, 64, 64) and one.images.abs().max() <= 1.0001


def test_what_is_told_follows_the_shares(world):
    draw = DrawSettings()
    told, grounds, empty, said, plain_views, whites, count = 0, 0, 0, 0, [], 0, 0
    for step in range(60):
        batch = world.batch(64, draw, 0, step)
        count += 64
        told += int(batch.camera_told.sum())
        grounds += int(batch.background_told.sum())
        whites += int((batch.background == 1).all(1).sum())
        for k, text in enumerate(batch.captions):
            if not text:
                empty += 1
                continue
            read = parse(text)
            said += read.view is not None
            view = view_name(float(batch.cameras[k, 0]), float(batch.cameras[k, 1]))
            if read.view is not None:
                assert read.view == view
            elif not batch.camera_told[k]:
                plain_views.append(view)
    assert abs(told / count - draw.camera_told) < 0.03
    assert abs(grounds / count - draw.background_told) < 0.03
    assert abs(whites / count - draw.white) < 0.03
    assert abs(empty / count - draw.text_null) < 0.02
    assert abs(said / (count - empty) - draw.view_words) < 0.03
    assert abs(plain_views.count("front") / len(plain_views) - 0.75) < 0.06


def test_backgrounds_keep_away_from_the_object():
    rng = np.random.default_rng(0)
    rgba = np.zeros((500, 8, 8, 4), np.float32)
    rgba[:, 2:6, 2:6] = [0.5, 0.5, 0.5, 1.0]
    chosen = backgrounds(rgba, rng, white=0.0)
    assert (np.abs(chosen - 0.5).max(1) > 0.25).mean() > 0.99


@pytest.mark.parametrize("flaw", ["blurry", "noisy", "broken"])
def test_flaws_spoil(flaw):
    rng = np.random.default_rng(0)
    image = np.ones((64, 64, 3), np.float32)
    image[20:40, 20:40] = [1, 0, 0]
    spoilt = degrade(image, flaw, rng)
    assert spoilt.shape == image.shape and np.abs(spoilt - image).mean() > 0.005
    sharp = lambda x: np.abs(np.diff(x, axis=0)).max()  # noqa: E731
    if flaw == "blurry":
        assert sharp(spoilt) < 0.5 * sharp(image)
    if flaw == "broken":
        np.testing.assert_allclose(np.sort(spoilt.ravel()), np.sort(image.ravel()))
