"""Every family, read through our contract, draws the pictures that its own pipeline draws with its own scheduler."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from tests.priors import tiny, tiny_others
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.guidance.cfg import ClassifierFree, combine
from threedistill.prediction import Prediction
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import (
    FLUX,
    FLUX2,
    SD3,
    SDXL,
    DeepFloyd,
    Facts,
    Family,
    Kandinsky5,
    PixArt,
    Sana,
    StableDiffusion,
)
from threedistill.priors.families.flux import pack, unpack
from threedistill.priors.noise_path import RectifiedFlowPath
from threedistill.priors.sampling import ddim
from threedistill.priors.schedulers import scheduler_levels
from threedistill.types import Evidence

TEXTS = ["a Red duck", "a mushroom, side view"]
SCALE = 4.0


@dataclass(frozen=True)
class Case:
    """A tiny pipeline and how it is asked.

    Attributes:
        build: makes it.
        family: reads it.
        sizes: pixels; the first as trained.
        scale: the argument of guidance.
        call: further arguments.
        packed: whether the pipeline takes and gives tokens.
        folded: whether the pipeline folds latents and gives them unfolded.
        framed: whether the pipeline draws one frame, channels last, of one prompt at a time (of more it tells the
            shorter ones padding).
        modes: what is compared: without guidance, with it, with a negative prompt, or one step of a distilled network.
        tolerance: of the latents, relative to the largest.
    """

    build: Callable[[], Any]
    family: Callable[[], Family]
    sizes: tuple[int, int] = (32, 48)
    scale: str = "guidance_scale"
    call: dict[str, Any] = field(default_factory=dict)
    packed: bool = False
    folded: bool = False
    framed: bool = False
    modes: tuple[str, ...] = ("off", "on", "negative")
    tolerance: float = 1e-4


FREE = {"use_resolution_binning": False}
CASES: dict[str, Case] = {
    "lcm": Case(tiny.lcm, lambda: StableDiffusion(guidance=3.0), call={"guidance_scale": 3.0}, modes=("distilled",)),
    "sdxl": Case(tiny.sdxl, SDXL),
    "sd3": Case(tiny.sd3, SD3),
    "sd3-no-t5": Case(lambda: tiny.sd3(False), SD3),
    "flux-dev": Case(tiny.flux, lambda: FLUX(text_length=20), scale="true_cfg_scale", packed=True,
                     call={"guidance_scale": 3.5, "max_sequence_length": 20}),
    "flux-schnell": Case(lambda: tiny.flux(False), lambda: FLUX(text_length=20), scale="true_cfg_scale", packed=True,
                         call={"max_sequence_length": 20}),
    "flux2": Case(tiny.flux2, lambda: FLUX2(text_length=40), folded=True,
                  call={"max_sequence_length": 40}),
    "flux2-dev": Case(lambda: tiny.flux2(True), lambda: FLUX2(text_length=256, guidance=1.0), folded=True,
                      call={"max_sequence_length": 256}, modes=("off",), tolerance=2e-5),
    "pixart-sigma": Case(tiny.pixart, PixArt, call=FREE),
    "pixart-alpha": Case(lambda: tiny.pixart(False), PixArt, call=FREE),
    "sana": Case(tiny.sana, Sana, sizes=(32, 64), call=FREE),
    "sana-euler": Case(lambda: tiny.sana(False), Sana, sizes=(32, 64), call=FREE),
    "deepfloyd": Case(tiny.deepfloyd, DeepFloyd, sizes=(16, 24)),
    "kandinsky5": Case(tiny_others.kandinsky5, Kandinsky5, sizes=(32, 64), framed=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, Any]]:
    """Folder and loaded pipeline by name, built when first asked for."""
    root, known = tmp_path_factory.mktemp("families"), {}

    def make(name: str) -> tuple[str, Any]:
        if name not in known:
            torch.manual_seed(0)
            pipeline = CASES[name].build()
            pipeline.set_progress_bar_config(disable=True)
            for part in pipeline.components.values():
                if isinstance(part, torch.nn.Module):
                    part.eval()  # as loaded; T5 drops some of its rows otherwise
            pipeline.save_pretrained(root / name)
            known[name] = (str(root / name), pipeline)
        return known[name]

    return make


def theirs(
    case: Case, pipeline: Any, prior: DiffusersPrior, texts: list[str], mode: str, size: int
) -> tuple[Tensor, Tensor]:
    """The noise it starts from and the latents it ends with, both as our prior sees them."""
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    call = {**case.call, "num_inference_steps": 4, "height": size, "width": size, "output_type": "latent"}
    if mode != "distilled":
        call[case.scale] = 1.0 if mode == "off" else SCALE
    if mode == "negative" and case.folded:
        call["negative_prompt_embeds"] = pipeline.encode_prompt(
            ["blurry duck", "red"], max_sequence_length=40
        )[0]
    elif mode == "negative":
        call["negative_prompt"] = ["blurry duck", "red"]
    elif mode == "on" and case.packed:
        call["negative_prompt"] = ["", ""]  # FLUX guides only where there is one
    if "vae" in pipeline.components:
        start = noise.to(pipeline.dtype)
        call["latents"] = pack(start) if case.packed else start
    else:
        call |= {"generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    if (
        mode == "distilled"
    ):  # its sampler draws noise after every step; of one step the clean sample is the answer
        call["num_inference_steps"] = 1
    if case.framed:
        return noise, _frames(pipeline, texts, noise, call)
    images = pipeline(prompt=texts, **call).images
    if case.folded and images.ndim == 3:  # dev gives its tokens as they are
        return noise, unpack(images, *prior.space.shape[1:], 1)
    if case.folded:  # what its pipeline makes of pictures that it is shown
        norm = pipeline.vae.bn
        std = (norm.running_var + pipeline.vae.config.batch_norm_eps).sqrt()
        images = (pipeline._patchify_latents(images) - norm.running_mean.view(1, -1, 1, 1)) / std.view(
            1, -1, 1, 1
        )
    return noise, unpack(images, *prior.space.shape[1:]) if case.packed else images


def _frames(pipeline: Any, texts: list[str], noise: Tensor, call: dict[str, Any]) -> Tensor:
    """Of one prompt after the other."""
    pipeline.resolutions = [(call["width"], call["height"])]  # others than its own are rounded to those
    found = []
    for k, text in enumerate(texts):
        own = {**call, "latents": noise[k].permute(1, 2, 0)[None, None].to(pipeline.dtype)}
        if "negative_prompt" in call:
            own["negative_prompt"] = call["negative_prompt"][k]
        found.append(pipeline(prompt=text, **own).image[:, 0].permute(0, 3, 1, 2))
    return torch.cat(found)


def ours(prior: DiffusersPrior, scheduler: Any, noise: Tensor, texts: list[str], mode: str) -> Tensor:
    """The same with our contract."""
    cond = prior.conditioning(Conditions(texts))
    negatives = ["blurry duck", "red"] if mode == "negative" else ["", ""]
    blank = prior.conditioning(Conditions(negatives, roles=("negative", "negative")))

    def denoise(x_t, level):
        seen = prior.predict(x_t, level, cond)
        if mode in ("off", "distilled"):
            return seen
        other = prior.predict(x_t, level, blank)
        return Prediction(combine(other.value, seen.value, SCALE), prior.kind, x_t, level)

    levels = scheduler_levels(scheduler, prior.path, len(texts))
    return denoise(noise, levels[0]).x0 if mode == "distilled" else ddim(denoise, noise, levels)


#: At the second size with negative prompts alone, or as little as there is.
RUNS = [
    (name, mode, k)
    for name, case in CASES.items()
    for k in (0, 1)
    for mode in (case.modes if k == 0 else case.modes[-1:])
]


@pytest.mark.parametrize(("name", "mode", "which"), RUNS)
def test_sampler_parity(made: Callable[[str], tuple[str, Any]], name: str, mode: str, which: int) -> None:
    case, (folder, pipeline) = CASES[name], made(name)
    size = case.sizes[which]
    prior = DiffusersPrior(name=name, family=case.family(), model=folder, size=size, cache=False)
    noise, latents = theirs(case, pipeline, prior, TEXTS, mode, size)
    mine = ours(prior, pipeline.scheduler, noise, TEXTS, mode)
    reach = latents.abs().max()
    worst = float((mine - latents).abs().max() / reach)
    assert worst < case.tolerance, f"{name}: latents differ by {worst:.2e} of their range"
    if which == 0:  # the words are heard: other prompts would not have passed
        swapped = ours(prior, pipeline.scheduler, noise, TEXTS[::-1], mode)
        assert float((swapped - latents).abs().max() / reach) > 10 * case.tolerance


def test_guidance_is_combined_in_what_the_network_predicts(made: Callable[[str], tuple[str, Any]]) -> None:
    prior = DiffusersPrior(name="sd3", family=SD3(), model=made("sd3-no-t5")[0], cache=False)
    level = prior.path.at(torch.full((2,), 1000.0))  # pure noise: of eps alone nothing follows about x0
    x_t = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    cond, uncond = (prior.predict(x_t, level, prior.conditioning(Conditions(t))) for t in (TEXTS, ["", ""]))
    guided = ClassifierFree(scale=SCALE).guided(
        Evidence({"cond": cond, "uncond": uncond}, x_t, x_t, level), 0.0
    )
    torch.testing.assert_close(guided.x0, combine(uncond.x0, cond.x0, SCALE))
    assert bool(torch.isfinite(guided.x0).all())


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev", "sana"])
def test_a_lora_answers_as_in_its_own_pipeline(
    made: Callable[[str], tuple[str, Any]], name: str, tmp_path: Path
) -> None:
    folder, pipeline = made(name)
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    adapted = type(pipeline).from_pretrained(folder)
    network = getattr(adapted, part)
    network.add_adapter(
        LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v"])
    )
    adapters = {
        f"{part}_lora_layers": get_peft_model_state_dict(network),
        f"{part}_lora_adapter_metadata": network.peft_config["default"].to_dict(),
    }
    adapted.save_lora_weights(tmp_path, **adapters)
    options: dict[str, Any] = {"name": name, "model": folder, "size": CASES[name].sizes[0], "cache": False}
    plain, folded = (
        DiffusersPrior(family=CASES[name].family(), lora=lora, **options) for lora in (None, str(tmp_path))
    )
    x_t = torch.randn(1, *plain.space.shape, generator=torch.Generator().manual_seed(0))
    level, told = plain.path.at(torch.tensor([500.0])), plain.conditioning(Conditions(["a duck"]))
    with torch.no_grad():
        expected = plain.family.denoise(network, x_t, level, told, plain.facts)
    torch.testing.assert_close(folded.predict(x_t, level, told).value, expected, rtol=0, atol=1e-5)
    assert float((plain.predict(x_t, level, told).value - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("channels", [63, 65, 67, 68, 128, 384])
def test_a_network_of_packed_latents_takes_four_of_each_and_no_more(channels: int) -> None:
    vae = {"latent_channels": 16, "block_out_channels": [8, 8]}

    def facts(wanted: int) -> Facts:
        return Facts({}, {"transformer": {"in_channels": wanted}, "vae": vae})

    FLUX().check(facts(64))
    with pytest.raises(
        UsageError, match=f"its transformer takes {channels} channels and its VAE gives 64: it is told"
    ):
        FLUX().check(facts(channels))


def test_latents_of_flux2_are_those_that_its_pipeline_encodes(made: Callable[[str], tuple[str, Any]]) -> None:
    folder, pipeline = made("flux2")
    prior = DiffusersPrior(name="flux2", family=FLUX2(text_length=40), model=folder, size=32, cache=False)
    rgb = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = pipeline._encode_vae_image(2 * rgb.permute(0, 3, 1, 2) - 1, torch.Generator())
    torch.testing.assert_close(prior.space.encode(rgb), theirs)
    assert theirs.shape[1:] == prior.space.shape == (16, 8, 8)
    assert bool(torch.isfinite(prior.space.decode(theirs)).all())


def test_of_what_reads_pictures_too_the_tokenizer_is_read(
    made: Callable[[str], tuple[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(made("flux2-dev")[0], tmp_path / "dev")
    index = tmp_path / "dev" / "model_index.json"
    index.write_text(
        json.dumps({**json.loads(index.read_text()), "tokenizer": ["transformers", "PixtralProcessor"]})
    )
    priors = [
        DiffusersPrior(name="dev", family=FLUX2(guidance=scale), model=str(folder), size=32, cache=False)
        for folder, scale in ((made("flux2-dev")[0], 1.0), (tmp_path / "dev", 1.0), (tmp_path / "dev", 4.0))
    ]
    told = [prior.conditioning(Conditions(["a duck"])) for prior in priors]
    torch.testing.assert_close(told[0], told[1], rtol=0, atol=0)
    x_t, level = torch.randn(1, *priors[0].space.shape), priors[0].path.at(torch.tensor([500.0]))
    answers = [prior.predict(x_t, level, told[0]).value for prior in priors]
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize(("size", "steps"), [(32, 4), (1024, 50), (1280, 50)])
def test_levels_of_flux2_are_shifted_as_its_pipeline_shifts_them(size: int, steps: int) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    tokens = (size // 16) ** 2
    vae = {"latent_channels": 32, "block_out_channels": [8] * 4}
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    path, kind = FLUX2(steps=steps).path(Facts({}, {"vae": vae, "scheduler": scheduler}, size))
    assert kind == "flow" and isinstance(path, RectifiedFlowPath)
    assert path.shift == pytest.approx(math.exp(compute_empirical_mu(tokens, steps)))


def test_of_a_framed_chat_the_prompt_is_cut_and_not_the_frame(made: Callable[[str], tuple[str, Any]]) -> None:
    prior = DiffusersPrior(
        name="flux2", family=FLUX2(text_length=24), model=made("flux2")[0], size=32, cache=False
    )
    words = "a red duck in a very long coat of arms"
    told, short = (
        prior.conditioning(Conditions([w]))["encoder_hidden_states"] for w in (words, "a red duck in a very")
    )
    assert torch.equal(told, short)  # 24 bytes less the frame's three
    assert prior.notes and "long coat of arms" in prior.notes[0]


@pytest.mark.parametrize("name", list(CASES))
def test_sampler_parity_in_bfloat16(made: Callable[[str], tuple[str, Any]], name: str) -> None:
    case, (folder, pipeline) = CASES[name], made(name)
    absent = {part: None for part, module in pipeline.components.items() if module is None}
    half = type(pipeline).from_pretrained(folder, dtype=torch.bfloat16, **absent)
    half.set_progress_bar_config(disable=True)
    size = case.sizes[0]
    prior = DiffusersPrior(
        name=name, family=case.family(), model=folder, size=size, dtype="bfloat16", cache=False
    )
    noise, latents = theirs(case, half, prior, TEXTS, case.modes[0], size)
    mine = ours(prior, half.scheduler, noise, TEXTS, case.modes[0])
    assert any(weight.dtype == torch.bfloat16 for weight in prior.network.parameters())
    assert float((mine - latents.float()).abs().max() / latents.float().abs().max()) < 2e-2


def test_a_tokenizer_that_ships_a_sentencepiece_model_alone_is_read(
    made: Callable[[str], tuple[str, Any]], tmp_path: Path
) -> None:
    import sentencepiece

    shutil.copytree(made("pixart-sigma")[0], tmp_path / "pixart")
    folder = tmp_path / "pixart" / "tokenizer"
    shutil.rmtree(folder)
    folder.mkdir()
    lines = [" ".join(tiny.WORDS)] * 50 + list(tiny.LETTERS)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    prior = DiffusersPrior(
        name="pixart", family=PixArt(text_length=12), model=str(tmp_path / "pixart"), size=32, cache=False
    )
    reader = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ids = reader.encode("a red duck")
    assert prior.source.load("tokenizer")("a red duck").input_ids == [*ids, reader.eos_id()]
    told = prior.conditioning(Conditions(["a red duck"]))
    assert int(told["encoder_attention_mask"].sum()) == len(ids) + 1
