"""A diffusers model read through our contract draws the pictures that diffusers itself draws."""

from __future__ import annotations

import gc
import json
import shutil
import weakref

import pytest
import torch

from threedistill.conditions import Conditions, Wording
from threedistill.errors import ThreedistillError, UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import Prediction
from threedistill.priors import diffusers as module
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import StableDiffusion
from threedistill.priors.sampling import ddim, levels_at, spaced
from threedistill.protocols import Prior


def load(folder, **options) -> DiffusersPrior:
    return DiffusersPrior(name="tiny", family=StableDiffusion(), model=str(folder), cache=False, **options)


def ours(prior, texts, noise, scale, indices):
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

    return ddim(
        denoise_v if prior.kind == "v" else denoise, noise, levels_at(prior.path, indices, len(texts), 0)
    )


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
    mine = ours(prior, texts, noise, scale, indices)
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


def test_mirrors_are_tried_in_order_and_for_the_model_that_they_mirror(pipelines, tmp_path):
    folder = pipelines["eps"][0]
    gone = tmp_path / "gone"
    for home in (None, str(gone)):
        prior = load(gone, home=home, mirrors=(str(folder),), licence="MIT")
        assert (prior.source.location, prior.licence) == (str(folder), "MIT")
    with pytest.raises(ThreedistillError, match=r"gone: no such folder\. Give a folder"):
        load(gone, home="somebody/else", mirrors=(str(folder),))


def test_the_licence_is_that_of_the_model_at_hand(pipelines, tmp_path):
    folder = tmp_path / "finetune"
    shutil.copytree(pipelines["eps"][0], folder)

    def licence() -> str:
        return load(folder, home="somebody/else", licence="MIT").licence

    assert licence() == "unknown"
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: openrail\n---\n# A model\nlicense: none\n")
    assert licence() == "openrail"
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-own\n---\n")
    assert licence() == "my-own"


def test_a_folder_of_16_bit_files_alone_is_read(pipelines, tmp_path):
    folder = tmp_path / "half"
    pipelines["eps"][1].save_pretrained(folder, variant="fp16")
    assert not list(folder.glob("*/*model.safetensors"))
    mine, theirs = (
        load(place).conditioning(Conditions(["a duck"]))["encoder_hidden_states"]
        for place in (folder, pipelines["eps"][0])
    )
    assert torch.equal(mine, theirs)
    assert load(pipelines["eps"][0], variant="fp16").source.commit  # and the other way round


def test_a_copy_of_the_same_weights_is_the_same_version(pipelines, tmp_path):
    shutil.copytree(pipelines["eps"][0], tmp_path / "copy", copy_function=shutil.copyfile)
    first, second = (load(place).version.split("@")[1] for place in (pipelines["eps"][0], tmp_path / "copy"))
    assert first == second
    weights = tmp_path / "copy/unet/diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert load(tmp_path / "copy").version.split("@")[1] != first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"_class_name": "StableDiffusionXLPipeline"},
            "is a StableDiffusionXLPipeline, .*; use --prior sdxl",
        ),
        (
            {"_class_name": "WanPipeline"},
            "is a WanPipeline, .*; it draws videos, whose frames share their latents",
        ),
        ({"in_channels": 9}, "its unet takes 9 channels and its VAE gives 4"),
        (
            {"scheduler": "EDMEulerScheduler"},
            "the noise path of its scheduler EDMEulerScheduler is not understood",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(pipelines, tmp_path, change, words):
    folder = tmp_path / "misfit"
    shutil.copytree(pipelines["eps"][0], folder)
    for weights in folder.glob("*/*.safetensors"):
        weights.write_bytes(b"unreadable")
    file, key = {"_class_name": ("model_index.json", "_class_name"), "in_channels": ("unet/config.json", "in_channels"),
                 "scheduler": ("scheduler/scheduler_config.json", "_class_name")}[next(iter(change))]  # fmt: skip
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, key: next(iter(change.values()))}))
    with pytest.raises(UsageError, match=f"^prior tiny: .*{words}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_of_a_long_prompt_the_view_words_are_heard_and_the_rest_is_named(pipelines):
    prior = load(pipelines["eps"][0])
    long = "a red duck and a red mushroom and a blurry red duck and a red mushroom"
    views = [f"{long}, {view} view" for view in ("front", "side")]
    front, side = prior.conditioning(Conditions(views))["encoder_hidden_states"]
    assert float((front - side).abs().max()) > 1e-3
    (note,) = prior.notes
    assert note.startswith("prior tiny: a text encoder that holds 16 tokens does not hear") and note.endswith(
        "mushroom"
    )
    short = load(pipelines["eps"][0])
    short.conditioning(Conditions(["a red duck, front view"]))
    assert short.notes == ()


def test_text_encoders_are_gone_when_all_is_said(pipelines, monkeypatch):
    prior = load(pipelines["eps"][0])
    loaded, load_one = {}, type(prior.source).load

    def watched(self, part, **options):
        found = load_one(self, part, **options)
        loaded[part] = weakref.ref(found)
        return found

    monkeypatch.setattr(type(prior.source), "load", watched)
    prior.prepare([Wording("a duck"), Wording("", "negative")])
    gc.collect()
    assert set(loaded) == {"tokenizer", "text_encoder"} and loaded["text_encoder"]() is None
    loaded.clear()
    prior.conditioning(Conditions(["a duck", ""]))
    assert not loaded


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


def test_a_lora_is_folded_into_the_network_and_named(pipelines, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder, pipeline = pipelines["eps"]
    adapted = type(pipeline).from_pretrained(folder)
    config = LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v"])
    adapted.unet.add_adapter(config)
    adapted.save_lora_weights(
        tmp_path / "lora",
        unet_lora_layers=get_peft_model_state_dict(adapted.unet),
        unet_lora_adapter_metadata=adapted.unet.peft_config["default"].to_dict(),
    )
    (file,) = (tmp_path / "lora").iterdir()
    plain, folded, half = (
        load(folder),
        load(folder, lora=str(file)),
        load(folder, lora=str(file), lora_scale=0.5),
    )
    x_t = torch.randn(1, *plain.space.shape, generator=torch.Generator().manual_seed(0))
    level = plain.path.at(torch.tensor([500.0]))
    told = plain.conditioning(Conditions(["a duck"]))
    with torch.no_grad():
        expected = adapted.unet(x_t, level.index, told["encoder_hidden_states"], return_dict=False)[0]
    answers = [prior.predict(x_t, level, told).value for prior in (plain, half, folded)]
    torch.testing.assert_close(answers[2], expected, rtol=0, atol=1e-5)
    assert float((answers[0] - expected).abs().max()) > 1e-2 and not torch.allclose(
        answers[1], expected, atol=1e-3
    )
    assert not [name for name, _ in folded.network.named_modules() if "lora" in name]
    assert folded.version.startswith(plain.version) and str(file) in folded.version
    assert half.version != folded.version
    for wrong, words in (
        (tmp_path / "gone", "no such file"),
        (folder / "vae", "nothing in it is for|does not fit"),
    ):
        with pytest.raises(UsageError, match=f"^prior tiny: lora=.*({words})"):
            load(folder, lora=str(wrong))
