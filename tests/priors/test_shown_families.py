"""Families that are told what a view shows, against their own pipelines, and what they make of depth and normals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.priors import tiny
from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import Prediction
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import (
    SDXLControlNet,
    StableDiffusion,
    StableDiffusionControlNet,
    StableDiffusionInpainting,
)
from threedistill.priors.families.controlnet import depth_picture, normal_picture
from threedistill.priors.precision import DtypeName
from threedistill.priors.sampling import ddim
from threedistill.priors.schedulers import scheduler_levels

TEXTS = ["a red duck", "a mushroom, side view"]
BUILD = {
    "control": (tiny.sd_controlnet, StableDiffusionControlNet),
    "xl": (tiny.sdxl_controlnet, SDXLControlNet),
    "inpainting": (tiny.inpainting, StableDiffusionInpainting),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """Folder and loaded pipeline by name."""
    root = tmp_path_factory.mktemp("shown")
    found = {}
    for name, (build, _) in BUILD.items():
        torch.manual_seed(0)
        pipeline = build()
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(root / name)
        found[name] = (str(root / name), pipeline)
    return found


def load(
    made: dict[str, tuple[str, Any]], name: str, size: int = 32, dtype: DtypeName = "auto", **options: Any
) -> DiffusersPrior:
    family = BUILD[name][1](**options)
    return DiffusersPrior(name=name, family=family, model=made[name][0], size=size, dtype=dtype, cache=False)


def shown(texts: list[str] = TEXTS, seed: int = 0, **withheld: None) -> Conditions:
    """Two views of something with a hole in it."""
    generator = torch.Generator().manual_seed(seed)
    depth = 2 + torch.rand(2, 20, 20, 1, generator=generator)
    depth[:, :5] = 0
    normal = torch.nn.functional.normalize(torch.randn(2, 20, 20, 3, generator=generator), dim=-1)
    facts = {
        "depth": depth, "normal": normal * (depth > 0), "opacity": (depth > 0).float(),
        "rgb": torch.rand(2, 20, 20, 3, generator=generator),
    }  # fmt: skip
    return Conditions(texts, orbit(2), **{**facts, **withheld})


def differs(prior: DiffusersPrior, pipeline: Any, name: str, scale: float) -> float:
    """The largest difference between what our contract draws and the pipeline, relative to the largest latent."""
    cond, null = (prior.conditioning(shown(texts)) for texts in (TEXTS, ["blurry", "red"]))
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    size, dtype = prior.facts.size, pipeline.unet.dtype
    call: dict[str, Any] = {
        "negative_prompt": ["blurry", "red"], "guidance_scale": scale, "num_inference_steps": 4, "height": size,
        "width": size, "latents": noise.to(dtype), "output_type": "latent",
    }  # fmt: skip
    if name == "inpainting":
        call |= {
            "image": torch.zeros(2, 3, size, size, dtype=dtype), "masked_image_latents": cond["masked"].to(dtype),
            "mask_image": torch.nn.functional.interpolate(cond["mask"], (size, size)),
        }  # fmt: skip
    else:
        call["image"] = cond["control"]
    theirs = pipeline(TEXTS, **call).images.float()

    def denoise(x_t, level):
        seen = prior.predict(x_t, level, cond)
        if scale == 1:
            return seen
        return Prediction(
            combine(prior.predict(x_t, level, null).value, seen.value, scale), prior.kind, x_t, level
        )

    mine = ddim(denoise, noise, scheduler_levels(pipeline.scheduler, prior.path, 2))
    return float((mine - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("name", list(BUILD))
def test_sampler_parity(made: dict[str, tuple[str, Any]], name: str, scale: float, size: int) -> None:
    prior, pipeline = load(made, name, size), made[name][1]
    assert differs(prior, pipeline, name, scale) < 1e-4
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    cond, other = (prior.conditioning(shown(seed=seed)) for seed in (0, 1))
    level = prior.path.at(torch.full((2,), 500.0))
    moved = prior.predict(noise, level, other).value - prior.predict(noise, level, cond).value
    assert float(moved.abs().max()) > 1e-3  # what is shown is seen


@pytest.mark.parametrize("name", list(BUILD))
def test_sampler_parity_in_bfloat16(made: dict[str, tuple[str, Any]], name: str) -> None:
    folder, pipeline = made[name]
    half = type(pipeline).from_pretrained(folder, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    prior = load(made, name, dtype="bfloat16")
    assert next(prior.network.parameters()).dtype == torch.bfloat16
    assert differs(prior, half, name, 1.0) < 2e-2


def test_a_control_picture_that_is_withheld_leaves_the_plain_network(
    made: dict[str, tuple[str, Any]],
) -> None:
    prior = load(made, "control")
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    level = prior.path.at(torch.full((2,), 500.0))
    blind = prior.predict(noise, level, prior.conditioning(shown(depth=None))).value
    text = prior.conditioning(shown())["encoder_hidden_states"]
    with torch.no_grad():
        plain = made["control"][1].unet(noise, level.index, text, return_dict=False)[0]
    torch.testing.assert_close(blind, plain, rtol=0, atol=1e-5)
    assert prior.wants == {"text", "camera", "depth"}
    assert load(made, "control", control="normal").wants == {"text", "camera", "normal"}


def test_an_inpainting_network_without_a_picture_draws_all_of_it(made: dict[str, tuple[str, Any]]) -> None:
    prior = load(made, "inpainting")
    told = prior.conditioning(shown(rgb=None))
    assert bool((told["mask"] == 1).all())
    torch.testing.assert_close(told["masked"], prior.space.encode(torch.full((2, 32, 32, 3), 0.5)))
    inside, around = (
        load(made, "inpainting", redraw=what).conditioning(shown())["mask"] for what in ("object", "around")
    )
    assert torch.equal(inside + around, torch.ones_like(inside)) and 0 < float(inside.mean()) < 1


def test_a_control_network_may_live_elsewhere(made: dict[str, tuple[str, Any]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder, pipeline = made["control"]
    pipeline.controlnet.save_pretrained(tmp_path / "depth")
    index = json.loads((Path(folder) / "model_index.json").read_text())
    plain = tmp_path / "plain"
    plain.mkdir()
    for part in Path(folder).iterdir():
        if part.is_dir() and part.name != "controlnet":
            (plain / part.name).symlink_to(part)
    del index["controlnet"]
    (plain / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))

    def prior(place: Path) -> DiffusersPrior:
        family = StableDiffusionControlNet(controlnet=str(place))
        return DiffusersPrior(name="tiny", family=family, model=str(plain), cache=False)

    mine, whole = prior(tmp_path / "depth"), load(made, "control")
    noise = torch.randn(2, *mine.space.shape)
    level = mine.path.at(torch.full((2,), 500.0))
    first, second = (p.predict(noise, level, p.conditioning(shown())).value for p in (mine, whole))
    assert torch.equal(first, second)
    with pytest.raises(UsageError, match=r"prior tiny: .*gone: no such folder"):
        prior(tmp_path / "gone")
    with pytest.raises(
        UsageError, match=r"is a StableDiffusionControlNetPipeline, .* use --prior sd15_control"
    ):
        DiffusersPrior(name="tiny", family=StableDiffusion(), model=folder, cache=False)


def test_depth_and_normals_are_drawn_as_their_estimators_draw_them() -> None:
    depth = torch.tensor([[2.0, 4.0], [0.0, 8.0]]).view(1, 2, 2, 1)
    expected = torch.tensor([[1.0, 0.5], [0.0, 0.25]]).view(1, 2, 2, 1).expand(-1, -1, -1, 3)
    torch.testing.assert_close(depth_picture(depth), expected)
    cameras = orbit(4, elevation=0)  # front, right of it, back, left
    facing = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]]).view(4, 1, 1, 3)
    towards = torch.tensor([0.5, 0.5, 1.0]).expand(4, 1, 1, 3)
    torch.testing.assert_close(normal_picture(facing, cameras), towards, atol=1e-6, rtol=0)
    up = torch.tensor([0.0, 1, 0]).expand(4, 1, 1, 3)
    torch.testing.assert_close(normal_picture(up, cameras), torch.tensor([0.5, 1, 0.5]).expand(4, 1, 1, 3))
    right = torch.tensor([1.0, 0, 0]).view(1, 1, 1, 3)  # seen from the front it points to the right
    torch.testing.assert_close(
        normal_picture(right, cameras[:1]), torch.tensor([0.0, 0.5, 0.5]).view(1, 1, 1, 3)
    )
    assert not normal_picture(torch.zeros(4, 1, 1, 3), cameras).any()
