"""The general adapter draws what pipelines without a family of their own draw, and equals the families there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.priors import tiny_others
from tests.priors.test_families import CASES, SCALE, TEXTS
from tests.priors.test_shown_families import BUILD, shown
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import NoiseLevel, Prediction
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import Family, Recorded, StableDiffusion
from threedistill.priors.families.flux import pack, unpack
from threedistill.priors.families.recorded import RecordedSpace
from threedistill.priors.recording.replay import Leaf, Places, Seen, compare
from threedistill.priors.recording.watch import watch
from threedistill.priors.sampling import ddim
from threedistill.priors.schedulers import scheduler_levels


@dataclass(frozen=True)
class Other:
    """A tiny pipeline and what its makers say of it.

    Attributes:
        build: makes it.
        size: pixels.
        scale: the argument of guidance.
        more: what it lacks of ours.
        packed: whether the pipeline takes and gives tokens.
        keeps: whether guided answers keep the length of the conditional one, along the last axis.
        negatives: texts to withhold; Kandinsky 3 cuts or fills a negative to its prompt's length, which rows that know
            nothing of each other cannot, so there they are as long as their prompts.
    """

    build: Callable[[], Any]
    size: int = 32
    scale: str = "guidance_scale"
    more: float = 0.0
    packed: bool = False
    keeps: bool = False
    negatives: tuple[str, str] = ("blurry duck", "red")


OTHERS: dict[str, Other] = {
    "lumina2": Other(tiny_others.lumina2, keeps=True),
    "qwen_image": Other(tiny_others.qwen_image, scale="true_cfg_scale", packed=True, keeps=True),
    "z_image": Other(tiny_others.z_image, more=1.0),
    "hunyuandit": Other(tiny_others.hunyuandit),
    "auraflow": Other(tiny_others.auraflow),
    "chroma": Other(tiny_others.chroma, packed=True),
    "cogview4": Other(tiny_others.cogview4),
    "kandinsky3": Other(
        tiny_others.kandinsky3, size=64, more=1.0, negatives=("duck Red a", "side mushroom, a view")
    ),
}
WRITTEN = {name: case.build for name, case in CASES.items()} | {
    name: build for name, (build, _) in BUILD.items()
}
Made = Callable[[str], tuple[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folder and pipeline by name, built when first asked for."""
    root, known = tmp_path_factory.mktemp("recorded"), {}

    def make(name: str) -> tuple[str, Any]:
        if name not in known:
            torch.manual_seed(0)
            pipeline = (OTHERS[name].build if name in OTHERS else WRITTEN[name])()
            pipeline.set_progress_bar_config(disable=True)
            for part in pipeline.components.values():
                if isinstance(part, torch.nn.Module):
                    part.eval()
            pipeline.save_pretrained(root / name)
            known[name] = (str(root / name), pipeline)
        return known[name]

    return make


def load(made: Made, name: str, size: int, family: Family | None = None, **options: Any) -> DiffusersPrior:
    return DiffusersPrior(
        name=name, family=family or Recorded(), model=made(name)[0], size=size, cache=False, **options
    )


def guided(other: Other, cond: Tensor, uncond: Tensor) -> Tensor:
    """As the pipeline guides, by its makers' description."""
    both = combine(uncond, cond, SCALE + other.more)
    if not other.keeps:
        return both
    tokens, heard = (pack(x) if other.packed else x for x in (both, cond))
    tokens = tokens * heard.norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
    return unpack(tokens, *both.shape[-2:]) if other.packed else tokens


def drawn(
    other: Other, pipeline: Any, noise: Tensor, negatives: list[str], mode: str, factor: int = 1
) -> Tensor:
    """What the pipeline makes of the noise, ``factor`` times as large as its size."""
    size = factor * other.size
    call: dict[str, Any] = {"num_inference_steps": 4, "height": size, "width": size, "output_type": "latent"}
    call[other.scale] = (1.0 - other.more) if mode == "off" else SCALE
    if other.build is tiny_others.hunyuandit:
        call["use_resolution_binning"] = False
    found: list[Tensor] = []
    for text, negative, start in zip(TEXTS, negatives, noise.split(1), strict=True):
        # one by one: texts of a batch are padded to the longest, and not every network masks that
        if negative or (mode == "on" and other.packed):
            call["negative_prompt"] = [negative]
        images = pipeline([text], latents=pack(start) if other.packed else start.clone(), **call).images
        found.append(unpack(images, *noise.shape[-2:]) if other.packed else images)
    return torch.cat(found)


@pytest.mark.parametrize(
    ("name", "factor"), [*((name, 1) for name in OTHERS), ("lumina2", 2), ("qwen_image", 2)]
)
def test_sampler_parity(made: Made, name: str, factor: int) -> None:
    other, pipeline = OTHERS[name], made(name)[1]
    size = factor * other.size
    prior = load(made, name, size)
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    cond = prior.conditioning(Conditions(TEXTS))
    negatives = {"on": ["", ""], "negative": list(other.negatives)}
    for mode in ("off", "on", "negative") if factor == 1 else ("negative",):
        theirs = drawn(other, pipeline, noise, negatives.get(mode, ["", ""]), mode, factor)
        told = prior.conditioning(Conditions(negatives.get(mode, ["", ""]), roles=("negative", "negative")))

        def mine(cond: dict[str, Tensor], told: dict[str, Tensor] = told, mode: str = mode) -> Tensor:
            def denoise(x_t: Tensor, level: NoiseLevel) -> Prediction:
                seen = prior.predict(x_t, level, cond)
                if mode == "off":
                    return seen
                value = guided(other, seen.value, prior.predict(x_t, level, told).value)
                return Prediction(value, prior.kind, x_t, level)

            return ddim(denoise, noise, scheduler_levels(pipeline.scheduler, prior.path, 2))

        worst = float((mine(cond) - theirs).abs().max() / theirs.abs().max())
        assert worst < 1e-4, f"{name}, {mode}: latents differ by {worst:.2e} of their range"
        swapped = mine({key: value.flip(0) for key, value in cond.items()})
        assert float((swapped - theirs).abs().max() / theirs.abs().max()) > 1e-3
    said = " ".join(prior.notes)
    assert ("s+1" in said) == (other.more == 1.0) and ("length of the conditional" in said) == other.keeps


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.framed])
def test_recorded_equals_hand_written(made: Made, name: str) -> None:
    case = CASES[name]
    settings = {key: value for key, value in case.call.items() if key != "use_resolution_binning"}
    if case.folded:  # it takes no negative text, by which the recorder sees that a pipeline guides
        settings["guidance_scale"] = 1.0
    hand = load(made, name, case.sizes[0], case.family())
    recorded = load(made, name, case.sizes[0], Recorded(settings))
    assert recorded.path == hand.path and recorded.kind == hand.kind

    def folded(x: Tensor) -> Tensor:  # as the family by hand counts what the decoder is given unfolded
        return torch.nn.functional.pixel_unshuffle(x, 2) if case.folded else x

    assert folded(torch.zeros(1, *recorded.space.shape)).shape[1:] == hand.space.shape
    facts = Conditions(
        ["a Red duck", "", "blurry", "a mushroom, side view"],
        roles=("prompt", "negative", "negative", "prompt"),
    )
    drawn = torch.randn(4, *recorded.space.shape, generator=torch.Generator().manual_seed(0))
    noise, level = folded(drawn), hand.path.at(torch.tensor([100.0, 300, 600, 900]))
    first = hand.predict(noise, level, hand.conditioning(facts)).value
    second = folded(recorded.predict(drawn, level, recorded.conditioning(facts)).value)
    assert float((first - second).abs().max() / first.abs().max()) < 1e-4
    other = hand.predict(noise, level, hand.conditioning(facts[[3, 0, 1, 2]])).value
    assert float((first - other).abs().max() / first.abs().max()) > 1e-3
    picture = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(1))
    mine, theirs = recorded.space.encode(picture), hand.space.encode(picture)
    torch.testing.assert_close(folded(mine), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(recorded.space.decode(mine), hand.space.decode(theirs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", list(BUILD))
def test_what_is_told_of_the_views_equals_what_the_pipeline_tells(made: Made, name: str) -> None:
    """Networks that are told pictures are compared step by step with a run that is only watched."""
    pipeline, hand = made(name)[1], load(made, name, 32, BUILD[name][1]())
    told = hand.conditioning(shown())
    call: dict[str, Any] = {
        "prompt": TEXTS,
        "guidance_scale": 1.0,
        "num_inference_steps": 3,
        "output_type": "pt",
    }
    call |= {"height": 32, "width": 32, "generator": torch.Generator().manual_seed(0)}
    if name == "inpainting":
        mask = torch.nn.functional.interpolate(told["mask"], (32, 32))
        call |= {
            "image": torch.zeros(2, 3, 32, 32),
            "mask_image": mask,
            "masked_image_latents": told["masked"],
        }
    else:
        call["image"] = told["control"]
    seen = watch(pipeline, "unet", "vae", call)
    assert len(seen.steps) == 3 and seen.decoded is not None
    for step in seen.steps:
        x_t = step.calls[0].arguments["sample"][
            :, :4
        ]  # as the scheduler scales it, without what is told beside it
        answer = hand.predict(x_t, hand.path.at(torch.full((2,), step.time)), told).value
        assert float((answer - step.told).abs().max() / step.told.abs().max()) < 1e-4


def test_one_run_of_any_size_of_words(made: Made) -> None:
    """Samples whose words differ in length are answered as if each were alone."""
    prior = load(made, "z_image", 32)
    texts = ["a", "a red duck", "a", "a red duck beside a mushroom"]
    noise = torch.randn(4, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    level = prior.path.at(torch.tensor([100.0, 300, 600, 900]))
    together = prior.predict(noise, level, prior.conditioning(Conditions(texts))).value
    for k, text in enumerate(texts):
        alone = prior.predict(
            noise[k : k + 1], level[k : k + 1], prior.conditioning(Conditions([text]))
        ).value
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(OTHERS))
def test_sampler_parity_in_bfloat16(made: Made, name: str) -> None:
    other, (folder, pipeline) = OTHERS[name], made(name)
    half = type(pipeline).from_pretrained(folder, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    prior = load(made, name, other.size, dtype="bfloat16")
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    cond = prior.conditioning(Conditions(TEXTS))
    theirs = drawn(other, half, noise.to(torch.bfloat16), ["", ""], "off").float()
    mine = ddim(
        lambda x_t, level: prior.predict(x_t, level, cond),
        noise,
        scheduler_levels(half.scheduler, prior.path, 2),
    )
    assert any(weight.dtype == torch.bfloat16 for weight in prior.network.parameters())
    assert float((mine - theirs).abs().max() / theirs.abs().max()) < 2e-2


def test_what_is_not_understood_is_refused_by_name(made: Made) -> None:
    with pytest.raises(
        UsageError, match=r"is a StableDiffusionControlNetPipeline, .* use --prior sd15_control"
    ):
        load(made, "control", 32)
    with pytest.raises(UsageError, match=r"is a ZImagePipeline, .* use --prior recorded"):
        load(made, "z_image", 32, StableDiffusion())
    with pytest.raises(
        UsageError, match=r"at 32 pixels its pipeline draws latents of 8 x 8, and its VAE makes 4 x 4"
    ):
        load(made, "kandinsky3", 32)
    for name in (
        "WanPipeline",
        "KandinskyV22Pipeline",
        "Kandinsky5T2IPipeline",
        "StableDiffusionInpaintPipeline",
        "Nobodys",
        "UNet2DModel",
    ):
        assert not Recorded.takes(name)


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("KandinskyV22CombinedPipeline", "at random; use --prior kandinsky3"),
        ("Kandinsky5T2IPipeline", "channels last; use --prior kandinsky5"),
        ("StableUnCLIPPipeline", "at random; use --prior sd21"),
        ("StableUnCLIPImg2ImgPipeline", "use --prior sd15_image with --image"),
        ("StableDiffusionImageVariationPipeline", "use --prior zero123"),
        ("WanPipeline", "draws videos"),
    ],
)
def test_pipelines_that_cannot_teach_are_refused_by_name(tmp_path: Path, pipeline: str, words: str) -> None:
    """Before any weights are looked for: there are none."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    for family in (Recorded(), StableDiffusion()):
        with pytest.raises(UsageError, match=f"is a {pipeline}, which this prior does not read; .*{words}"):
            DiffusersPrior(name="odd", family=family, model=str(tmp_path), cache=False)


def test_views_are_encoded_one_by_one(made: Made) -> None:
    """The same latents and the same way back, whether at once or not."""
    whole, apart = (load(made, "chroma", 32, one_by_one=one) for one in (False, True))
    found: list[tuple[Tensor, Tensor]] = []
    for prior in (whole, apart):
        rgb = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        x0 = prior.space.encode(rgb)
        (gradient,) = torch.autograd.grad(x0.square().sum(), rgb)
        found.append((x0.detach(), gradient))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert isinstance(apart.space, RecordedSpace) and apart.space.one_by_one


ONE, THREE = torch.ones(1, 4), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen([ONE, ONE], torch.arange(12.0).view(3, 4), ONE), "depends on the picture"),
        (Seen([ONE, ONE, 2 * ONE], THREE, ONE), "follows the time in a way"),
        (Seen([ONE[:, :1], 2 * ONE[:, :1], ONE[:, :1]], THREE[:, :1], ONE[:, :1]), "follows the time in a way"),
        (Seen([ONE, ONE], torch.ones(6, 4), ONE), r"has a shape that is not understood"),
        (Seen(["a", "a"], "b", "a"), "changes in a way that is not understood"),
        (Seen([[1], [1]], [1, 1], [1]), "has a length that is not understood"),
    ],
)  # fmt: skip
def test_arguments_that_follow_something_else_are_named(seen: Seen, words: str) -> None:
    with pytest.raises(
        UsageError, match=f"its network's argument odd .*{words}|its network's argument odd {words}"
    ):
        compare(
            Seen([{"odd": s} for s in seen.steps], {"odd": seen.three}, {"odd": seen.other}),
            [900, 500, 100],
            "x",
        )


def test_times_are_read_in_proportion() -> None:
    times = [1000.0, 700.0, 250.0]
    steps = [{"t": torch.tensor([1 - t / 1000]), "n": 3} for t in times]
    found = compare(Seen(steps, {"t": torch.zeros(3), "n": 3}, steps[0]), times, "x")
    assert found["t"] == Leaf("t", "time", scale=-0.001, offset=1.0) and found["n"] == Leaf("n", "fixed", 3)


def test_values_are_traced_to_where_they_came_from() -> None:
    x = torch.stack([torch.zeros(8), torch.ones(8), torch.arange(1.0, 9)])
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    rows = torch.cat([2 - 0.5 * x[:, order], torch.full((3, 2), 7.0)], 1)
    places = Places.traced(*rows, what="it")
    assert places.index.tolist() == [*order.tolist(), -1, -1]
    y = torch.randn(5, 8)
    expected = torch.cat([2 - 0.5 * y[:, order], torch.full((5, 2), 7.0)], 1)
    torch.testing.assert_close(places(y), expected)
    with pytest.raises(UsageError, match="more than another order and scale"):
        Places.traced(*(x**2 + x.roll(1, 1)), what="it")
    with pytest.raises(UsageError, match="leaves out a part"):
        places.among(9)


def test_the_command_line_runs(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.priors.test_whole_run import TINY
    from threedistill.cli import main

    words = [
        "generate",
        "a red duck",
        "--prior",
        "qwen_image",
        "--preset",
        "draft",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    folder = made("qwen_image")[0]
    code = main([*words, f"prior.model.model={folder}", "prior.model.size=32", *TINY])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert Path(captured.out.splitlines()[-1]).read_bytes()[:4] == b"glTF"
