"""A diffusers model read through our contract draws the pictures that diffusers itself draws."""

from __future__ import annotations

import shutil

import pytest
import torch

from threedistill.conditions import Conditions
from threedistill.errors import ThreedistillError, UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import Prediction
from threedistill.priors import diffusers as module
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import StableDiffusion
from threedistill.priors.sampling import ddim, spaced
from threedistill.protocols import Prior


def load(folder, **options) -> DiffusersPrior:
    return DiffusersPrior(name="tiny", family=StableDiffusion(), model=str(folder), cache=False, **options)


def ours(prior, texts, noise, scale, indices, last):
    cond = prior.conditioning(Conditions(texts))
    null = prior.conditioning(Conditions([""] * len(texts)))

    def denoise(x_t, level):
        seen = prior.predict(x_t, level, cond)
        if scale == 1:
            return seen
        both = combine(prior.predict(x_t, level, null).eps, seen.eps, scale)
        return Prediction(both, "eps", x_t, level)

    def denoise_v(x_t, level):  # zero terminal SNR: eps says nothing about x0 at alpha = 0, v does
        seen, blind = (prior.predict(x_t, level, c) for c in (cond, null))
        return Prediction(combine(blind.value, seen.value, scale), "v", x_t, level)

    return ddim(denoise_v if prior.kind == "v" else denoise, prior.path, noise, indices, last)


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("name", ["eps", "v", "zero"])
def test_sampler_parity(pipelines, name, scale, size):
    folder, pipeline = pipelines[name]
    prior = load(folder, size=size)
    texts = ["a red duck", "a mushroom, side view"]
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    theirs = pipeline(
        texts, height=size, width=size, num_inference_steps=5, guidance_scale=scale, latents=noise.clone(),
        output_type="latent",
    ).images  # fmt: skip
    indices = pipeline.scheduler.timesteps.tolist()
    assert indices == spaced(5, 1000, "trailing" if name == "zero" else "leading", 0 if name == "zero" else 1)
    last = prior.path.at(torch.zeros(2))
    mine = ours(prior, texts, noise, scale, indices, last)
    worst = float((mine - theirs).abs().max() / theirs.abs().max())
    assert worst < 1e-4, f"latents differ by {worst:.2e} of their range"
    picture = pipeline.vae.decode(theirs / pipeline.vae.config.scaling_factor).sample
    expected = (picture / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(prior.space.decode(mine), expected, rtol=0, atol=1e-3)


def test_prompts_matter_and_are_encoded_once(pipelines):
    prior = load(pipelines["eps"][0])
    assert isinstance(prior, Prior) and prior.path.steps == 1000
    calls = []
    encode = prior.texts._encode
    prior.texts._encode = lambda said: (calls.append([w.text for w in said]), encode(said))[1]
    first = prior.conditioning(Conditions(["a duck", "", "a duck"]))["encoder_hidden_states"]
    again = prior.conditioning(Conditions(["", "a duck"]))["encoder_hidden_states"]
    assert calls == [["a duck", ""]]
    assert torch.equal(first[0], first[2]) and torch.equal(first[:2].flip(0), again)
    assert float((first[0] - first[1]).abs().max()) > 0.1


def test_text_embeddings_survive_on_disk_for_the_same_weights_only(pipelines, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "default_folder", lambda: tmp_path / "cache")

    def prior(folder):
        return DiffusersPrior(name="tiny", family=StableDiffusion(), model=str(folder))

    first = prior(pipelines["eps"][0]).conditioning(Conditions(["a red duck"]))["encoder_hidden_states"]
    second = prior(pipelines["eps"][0])
    second.source = None  # the text encoder can no longer be loaded
    assert torch.equal(first, second.conditioning(Conditions(["a red duck"]))["encoder_hidden_states"])
    other = prior(pipelines["v"][0]).conditioning(Conditions(["a red duck"]))["encoder_hidden_states"]
    assert not torch.equal(first, other)
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"damaged")
    third = prior(pipelines["eps"][0]).conditioning(Conditions(["a red duck"]))["encoder_hidden_states"]
    assert torch.equal(first, third)


def test_encoding_is_the_vae_mean_and_has_the_right_gradient(pipelines):
    folder, pipeline = pipelines["eps"]
    space = load(folder).space
    space.vae.double()
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(1, 32, 32, 3, generator=generator, dtype=torch.float64).requires_grad_(True)
    with torch.no_grad():
        expected = pipeline.vae.double().encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode() * 0.18215
    pipeline.vae.float()
    x0 = space.encode(rgb)
    torch.testing.assert_close(x0, expected, rtol=0, atol=1e-12)
    direction = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((x0 * direction).sum(), rgb)
    assert all(p.grad is None and not p.requires_grad for p in space.vae.parameters())
    step = torch.randn(rgb.shape, generator=generator, dtype=torch.float64)
    h = 1e-5
    with torch.no_grad():
        difference = ((space.encode(rgb + h * step) - space.encode(rgb - h * step)) * direction).sum() / (
            2 * h
        )
    assert float((gradient * step).sum()) == pytest.approx(float(difference), rel=1e-6)


def test_renders_of_other_sizes_reach_the_same_latent_size(pipelines):
    space = load(pipelines["eps"][0]).space
    assert tuple(space.encode(torch.rand(2, 20, 20, 3)).shape) == (2, 4, 8, 8)
    with pytest.raises(ValueError, match="size=30 must be a multiple of 4"):
        load(pipelines["eps"][0], size=30)


def test_a_missing_folder_and_an_offline_hub_are_one_true_line(tmp_path):
    with pytest.raises(ThreedistillError) as caught:
        load("nobody/nothing", mirrors=(str(tmp_path / "gone"), "nobody/mirror"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        "prior tiny: nobody/nothing: not in the local cache, and the hub cannot be reached; "
    )
    assert f"{tmp_path / 'gone'}: no such folder; nobody/mirror: not in the local cache" in message
    assert "prior=toybox" in message


def test_the_local_cache_is_enough(pipelines, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--tiny--sd"
    shutil.copytree(pipelines["eps"][0], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    prior = load("nobody/nothing", mirrors=("tiny/sd",))
    assert (prior.source.location, prior.source.commit) == ("tiny/sd", commit)
    told = prior.conditioning(Conditions(["a duck"]))["encoder_hidden_states"]
    assert torch.equal(
        told, load(pipelines["eps"][0]).conditioning(Conditions(["a duck"]))["encoder_hidden_states"]
    )


def test_mirrors_are_tried_in_order(pipelines, tmp_path):
    folder = pipelines["eps"][0]
    prior = load(tmp_path / "gone", mirrors=(str(folder),))
    assert prior.source.location == str(folder)


def test_weights_that_can_run_code_are_refused(pipelines, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(pipelines["eps"][0], folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ThreedistillError, match="unet: has no safetensors weights"):
        load(folder)


def test_a_folder_that_is_no_pipeline_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"is not a diffusers pipeline: it has no model_index\.json"):
        load(tmp_path)
