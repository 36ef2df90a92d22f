"""Checkpoints of one file, trained words, and what is said of what was loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.priors import tiny
from tests.priors.original import single_file
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import SDXL, StableDiffusion

TEXTS = ["a red duck", ""]


def load(model: Any, **options: Any) -> DiffusersPrior:
    family = options.pop("family", StableDiffusion())
    return DiffusersPrior(name="tiny", family=family, model=str(model), cache=False, **options)


@pytest.fixture(scope="module")
def one(pipelines: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a tiny Stable Diffusion as one file."""
    path = tmp_path_factory.mktemp("one") / "tuned.safetensors"
    save_file(single_file(pipelines["eps"][1]), path, {"modelspec.license": "CC0"})
    return path


def without_weights(folder: Path, to: Path) -> Path:
    """A copy of a pipeline's descriptions."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    return to


def test_a_single_file_is_the_pipeline_that_it_was_made_of(
    pipelines: dict, one: Path, tmp_path: Path
) -> None:
    folder = pipelines["eps"][0]
    layout = without_weights(folder, tmp_path / "layout")
    mine, whole = load(one, layout=str(layout), licence="own", home="some/where"), load(folder)
    same(mine, whole)
    assert mine.version is not None and mine.licence == "CC0"
    assert mine.version.startswith(f"{one}@") and f" laid out as {layout}@" in mine.version


def test_a_single_file_of_stable_diffusion_xl_is_its_pipeline(tmp_path: Path) -> None:
    """Its encoders are told apart by their widths, the second's weights joined and transposed."""
    pipeline = tiny.sdxl(second=24)
    pipeline.save_pretrained(tmp_path / "whole")
    file = tmp_path / "tuned.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in single_file(pipeline).items()}, file)
    layout = without_weights(tmp_path / "whole", tmp_path / "layout")
    same(load(file, layout=str(layout), family=SDXL()), load(tmp_path / "whole", family=SDXL()))


def same(mine: DiffusersPrior, whole: DiffusersPrior) -> None:
    """Both hear, encode, draw and answer the same."""
    told, expected = (prior.conditioning(Conditions(TEXTS)) for prior in (mine, whole))
    torch.testing.assert_close(told, expected, rtol=0, atol=0)
    rgb = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    x0 = whole.space.encode(rgb)
    torch.testing.assert_close(mine.space.encode(rgb), x0, rtol=0, atol=1e-6)
    torch.testing.assert_close(mine.space.decode(x0), whole.space.decode(x0), rtol=0, atol=1e-6)
    level = whole.path.at(torch.tensor([300.0, 700.0]))
    answers = (prior.predict(x0, level, expected).value for prior in (mine, whole))
    torch.testing.assert_close(*answers, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [
        ("tuned.ckpt", "folder", r"tuned.ckpt: only .safetensors is read \(other formats can run code\)"),
        ("gone.safetensors", "folder", r"gone.safetensors: no such file"),
        (
            "tuned.safetensors",
            "no-such/pipeline",
            r"described by no-such/pipeline: .*; give the folder .*layout=",
        ),
        ("tuned.safetensors", None, r"described by nothing; give the folder .*layout="),
    ],
)
def test_files_that_cannot_be_laid_out_are_refused(
    pipelines: dict, one: Path, name: str, layout: str | None, words: str
) -> None:
    place = str(pipelines["eps"][0]) if layout == "folder" else layout
    with pytest.raises(UsageError, match=f"^prior tiny: .*{words}") as caught:
        load(one.with_name(name), layout=place)
    assert "\n" not in str(caught.value)


def test_a_file_that_lacks_weights_is_refused_and_one_without_an_encoder_takes_the_layouts(
    pipelines: dict, one: Path, tmp_path: Path
) -> None:
    folder, whole = pipelines["eps"][0], single_file(pipelines["eps"][1])
    for part, lost in (
        ("unet", "middle_block.1.norm.weight"),
        ("text_encoder", "encoder.layers.0.mlp.fc1.bias"),
    ):
        holed = {name: tensor for name, tensor in whole.items() if not name.endswith(lost)}
        assert len(holed) == len(whole) - 1
        save_file(holed, tmp_path / "holed.safetensors")
        with pytest.raises(
            UsageError, match=rf"holed.safetensors: it has no {part} as .* describes it: .*missing"
        ):
            load(tmp_path / "holed.safetensors", layout=str(folder)).conditioning(Conditions(TEXTS))
    bare = {name: tensor for name, tensor in whole.items() if not name.startswith("cond_stage_model.")}
    save_file(bare, tmp_path / "bare.safetensors")
    prior = load(tmp_path / "bare.safetensors", layout=str(folder))
    told, expected = (p.conditioning(Conditions(TEXTS)) for p in (prior, load(folder)))
    torch.testing.assert_close(told, expected, rtol=0, atol=0)


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_trained_word_is_heard_as_in_the_pipeline(pipelines: dict, tmp_path: Path, vectors: int) -> None:
    from diffusers import StableDiffusionPipeline

    folder = pipelines["eps"][0]
    save_file({"<odd>": torch.randn(vectors, 16) * 3}, tmp_path / "learned.safetensors")
    prior = load(folder, textual_inversion=str(tmp_path))
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.load_textual_inversion(str(tmp_path / "learned.safetensors"))
    text = "a red <odd> duck"
    expected = pipeline.encode_prompt(text, "cpu", 1, False)[0]
    told = prior.conditioning(Conditions([text]))["encoder_hidden_states"]
    torch.testing.assert_close(told, expected, rtol=0, atol=1e-6)
    plain = load(folder).conditioning(Conditions([text]))["encoder_hidden_states"]
    assert float((told - plain).abs().max()) > 0.1
    assert any("learned.safetensors teaches it the word <odd>" in note for note in prior.notes)
    assert prior.version is not None and f" + {tmp_path}/learned.safetensors@" in prior.version


def test_a_word_of_several_vectors_counts_as_that_many_tokens(pipelines: dict, tmp_path: Path) -> None:
    save_file({"emb_params": torch.randn(11, 16)}, tmp_path / "odd.safetensors")
    prior = load(pipelines["eps"][0], textual_inversion=str(tmp_path / "odd.safetensors"))
    prior.conditioning(
        Conditions(["a red odd duck mushroom front view"])
    )  # 16 tokens: 2 marks, 11 of it, 3 words
    assert any("does not hear the end of the prompt: mushroom front view" in note for note in prior.notes)


def test_a_word_for_two_encoders_is_heard_by_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline = tiny.sdxl()
    pipeline.save_pretrained(tmp_path / "xl")
    vectors = {"clip_l": torch.randn(1, 16) * 3, "clip_g": torch.randn(1, 16) * 3}
    save_file(vectors, tmp_path / "odd.safetensors")
    prior = load(tmp_path / "xl", family=SDXL(), textual_inversion=str(tmp_path / "odd.safetensors"))
    told = prior.conditioning(Conditions(["a odd duck"]))["encoder_hidden_states"][0]
    plain = load(tmp_path / "xl", family=SDXL()).conditioning(Conditions(["a odd duck"]))[
        "encoder_hidden_states"
    ][0]
    for half in (slice(0, 16), slice(16, 32)):
        assert float((told - plain)[:, half].abs().max()) > 0.1


@pytest.mark.parametrize(
    ("tensors", "name", "words"),
    [
        (
            {"odd": torch.zeros(1, 17)},
            "odd.safetensors",
            r"is of another model: its vectors .* 17 numbers, .* 16",
        ),
        ({"a": torch.zeros(16), "b": torch.zeros(16)}, "odd.safetensors", r"is none: it holds 2 tensors"),
        ({"red</w>": torch.zeros(16)}, "odd.safetensors", r"Token red</w> already in tokenizer vocabulary"),
        ({"odd": torch.zeros(16)}, "odd.pt", r"only .safetensors is read"),
        (None, "odd.safetensors", r"there is no such file"),
    ],
)
def test_what_is_no_trained_word_of_this_model_is_refused(
    pipelines: dict, tmp_path: Path, tensors: dict | None, name: str, words: str
) -> None:
    if tensors is not None:
        save_file(tensors, tmp_path / name)
    with pytest.raises(UsageError, match=f"textual_inversion=.*{name}.*{words}"):
        load(pipelines["eps"][0], textual_inversion=str(tmp_path / name)).conditioning(Conditions(TEXTS))
