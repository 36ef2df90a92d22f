"""The embedded prior's pipeline through our contract, on fresh random weights (the shipped ones have their own)."""

from __future__ import annotations

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import Prediction
from threedistill.priors.sampling import ddim, levels_at, spaced
from threedistill.protocols import Prior
from threedistill.toybox.conditioning import background_vectors
from threedistill.toybox.priors.embedded import ToyboxPrior, wording


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from threedistill.toybox.model import ModelSettings, ToyboxPipeline

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("toybox")
    small = ModelSettings(channels=(32, 32, 32), text_width=32, text_layers=1)
    pipeline = ToyboxPipeline.create(small)
    for weight in pipeline.unet.class_embedding.parameters():
        weight.data *= 5  # fresh weights hardly look at their class embedding
    pipeline.save(path)
    return path


def test_sampler_parity_with_its_own_pipeline(folder):
    prior = ToyboxPrior(folder=str(folder))
    assert isinstance(prior, Prior) and prior.kind == "x0"
    from threedistill.toybox.model import ToyboxPipeline

    pipeline = ToyboxPipeline.load(folder)
    cameras, background = orbit(2), torch.tensor([[1.0, 1.0, 1.0], [0.2, 0.5, 0.1]])
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(1))
    texts = ["a red mushroom, front view", "a blue car"]
    theirs = pipeline(
        texts,
        cameras=cameras,
        background=background,
        guidance_scale=5.0,
        num_inference_steps=4,
        latents=noise,
    )
    cond = prior.conditioning(Conditions(texts, cameras, background))
    null = prior.conditioning(Conditions(["", ""], cameras, background))

    def denoise(x_t, level):
        both = [prior.predict(x_t, level, c).value for c in (null, cond)]
        return Prediction(combine(*both, 5.0), prior.kind, x_t, level)

    x0 = ddim(denoise, noise, levels_at(prior.path, spaced(4, 1000), 2))
    # Measured 3.3e-4: the two divide by the tiny alpha of the first step in different order.
    torch.testing.assert_close(prior.space.decode(x0), theirs, rtol=0, atol=1e-3)


def answer(prior, texts, cameras, background=None):
    x_t = torch.randn(len(texts), *prior.space.shape, generator=torch.Generator().manual_seed(2))
    level = prior.path.at(torch.full((len(texts),), 600.0))
    return prior.predict(x_t, level, prior.conditioning(Conditions(texts, cameras, background))).value


def test_camera_and_background_are_told_only_where_allowed(folder):
    told, blind = ToyboxPrior(folder=str(folder)), ToyboxPrior(folder=str(folder), camera="none")
    cameras, texts = orbit(2), ["a red mushroom"] * 2
    null = answer(told, texts, None)
    assert float((answer(told, texts, cameras) - null).abs().max()) > 1e-4
    assert torch.equal(answer(blind, texts, cameras), null)
    assert float((answer(told, texts, None, torch.zeros(2, 3)) - null).abs().max()) > 1e-6
    untold = ToyboxPrior(folder=str(folder), background=False)
    assert torch.equal(answer(untold, texts, None, torch.zeros(2, 3)), null)


def test_a_sketch_without_camera_is_drawn_once_per_wording(folder):
    prior, texts = ToyboxPrior(folder=str(folder)), ["a red mushroom", "a blue apple"]
    background = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.3, 0.4]])
    told = prior.conditioning(Conditions(texts, None, background))
    words = torch.stack([kept["text"] for kept in prior.texts(Conditions(texts).wordings)])
    fresh = prior.pipeline.condition(words, torch.zeros(2, 14), background_vectors(background, 2))
    torch.testing.assert_close(told["sketch"], fresh["sketch"], rtol=1e-4, atol=1e-5)
    assert float((told["sketch"][0] - told["sketch"][1]).abs().max()) > 1e-3
    prior.pipeline.sketch.forward = None  # whoever calls it now fails
    again = prior.conditioning(Conditions(texts[::-1], None, background.flip(0)))
    assert torch.equal(again["sketch"], told["sketch"].flip(0))
    with pytest.raises(TypeError):
        prior.conditioning(Conditions(texts, orbit(2), None))


def test_prompts_are_normalised_and_checked():
    assert wording("") == ""
    assert wording("A DSLR photo of two red mushrooms!".replace("two ", "")) == "a red mushroom"
    assert wording("a red duck, back view") == "a red duck, back view"
    assert wording("blurry, broken") == "blurry broken"
    with pytest.raises(UsageError, match="does not know 'dragon'"):
        wording("a red dragon, front view")


def test_view_words_name_cameras(folder):
    """``words``: a front or back view is told as that azimuth at the view's own elevation, all else as no camera."""
    told, named, blind = (ToyboxPrior(folder=str(folder), camera=c) for c in ("own", "words", "none"))
    cameras = orbit(4, elevation=20.0, start=30.0)
    texts = [f"a red mushroom{view}" for view in (", front view", ", back view", ", side view", "")]
    expected = answer(blind, texts, cameras)
    for row, azimuth in ((0, 0.0), (1, 180.0)):
        there = orbit(1, elevation=20.0, start=azimuth)
        expected[row] = answer(told, texts, there[[0, 0, 0, 0]])[row]
    torch.testing.assert_close(answer(named, texts, cameras), expected, rtol=1e-5, atol=1e-6)
    assert float((expected - answer(blind, texts, cameras))[:2].abs().amax((1, 2, 3)).min()) > 1e-4
    assert torch.equal(answer(named, texts, None), answer(blind, texts, None))


def test_wrong_camera_mode_is_named(folder):
    with pytest.raises(UsageError, match=r"prior\.camera='both' must be own, none or words"):
        ToyboxPrior(folder=str(folder), camera="both")  # type: ignore[arg-type]
