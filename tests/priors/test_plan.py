"""What ``threedistill plan`` says before a run, held against counts of one's own and against runs that are measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.priors import tiny
from tests.priors.folders import OPTIONS, settings
from threedistill.cli import main
from threedistill.conditions import Conditions
from threedistill.config import compose, recipe
from threedistill.errors import ThreedistillError
from threedistill.priors.footprint import footprint, size_of
from threedistill.priors.known_models import KNOWN
from threedistill.priors.outline import OutlinedPrior
from threedistill.training.costs import costs, outlined
from threedistill.training.estimate import asked
from threedistill.training.planning import build_plan

GIB = 2**30
#: Options of which it is read off the model at work what its network is told.
RECORDED = (
    "recorded", "lumina2", "qwen_image", "z_image", "hunyuandit", "auraflow", "chroma", "cogview4", "kandinsky3",
)  # fmt: skip


def test_a_chain_of_layers_is_counted_by_hand():
    """Of three layers of n x n for b rows: forward 2 b n^2 each; backward the same to what needs a gradient."""
    rows, width = 6, 32
    with torch.device("meta"):
        chain = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(3))).requires_grad_(False)
        x = torch.zeros(rows, width)
    one, picture = 2 * rows * width**2, 4 * rows * width
    with torch.no_grad():
        alone = footprint(lambda: chain(x), [chain, x])
    assert (alone.flops, alone.kept, alone.peak) == (3 * one, picture, 2 * picture)
    x.requires_grad_()
    graph = footprint(lambda: chain(x), [chain, x])
    assert (graph.flops, graph.kept) == (
        3 * one,
        picture,
    )  # frozen linear layers keep nothing of their inputs
    back = footprint(lambda: chain(x).sum().backward(), [chain, x])
    assert back.flops == 6 * one
    assert size_of(chain) == 3 * 4 * width**2 and size_of(chain, torch.float16) == 3 * 2 * width**2


@pytest.mark.parametrize("named", [False, True])
def test_attention_keeps_no_scores(named):
    rows, heads, tokens, width = 2, 4, 1024, 16
    q, k, v = (torch.zeros(rows, heads, tokens, width, device="meta", requires_grad=True) for _ in range(3))
    attend = nn.functional.scaled_dot_product_attention
    work = (lambda: attend(query=q, key=k, value=v)) if named else (lambda: attend(q, k, v))
    with torch.no_grad():
        found = footprint(work, [q, k, v])
    assert found.flops == 4 * rows * heads * tokens**2 * width
    assert found.peak == 4 * rows * heads * tokens * width


def model_of(prior):
    return recipe(compose(prompt="a duck", prior=prior)["prior"]["model"], "prior.model")


def test_every_option_that_is_not_read_off_can_be_planned_unloaded():
    for name in set(OPTIONS) - set(RECORDED):
        assert model_of(name).arguments["model"] in KNOWN, name


@pytest.mark.parametrize(
    ("guidance", "more", "total", "most"),
    [("sds", [], 8, 8), ("vsd", [], 12, 8), ("sds", ["trainer.max_rows=3"], 8, 3), ("csd", [], 8, 8)],
)
def test_rows_are_those_that_the_rule_asks(guidance, more, total, most, tmp_path):
    overrides = [*settings("sd15", tmp_path), "cameras.views=4", *more]
    plan = build_plan(compose(prompt="a red duck", prior="sd15", guidance=guidance, overrides=overrides))
    prior, found = outlined(plan.prior.model, False)
    rows = asked(plan, plan.stages[0], prior)
    assert found and (rows.total, rows.most) == (total, most)


def test_what_needs_less_is_said_and_what_nobody_knows_refused(capsys):
    words = ["plan", "a red duck", "--prior", "sdxl", "--representation", "gaussians", "cameras.views=2"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    stage = found["stages"][0]
    less = {one["setting"]: one for one in stage["less"]}
    assert not stage["found"] and stage["rows"] == 4
    assert less["prior.model.one_by_one=true"]["peak"] < stage["gpu"]["peak"] - 10 * GIB
    assert less["prior.model.size=512"]["fits"][0] < stage["gpu"]["fits"][0]
    with pytest.raises(ThreedistillError, match=r"hub cannot be reached|no such folder"):
        plan = build_plan(
            compose(prompt="a duck", prior="sdxl", overrides=["prior.model.model=/no/such/folder"])
        )
        costs(plan, "cpu")


def middling(folder: Path) -> Path:
    """A Stable Diffusion whose VAE is of the real size, for 192 pixels: large beside the process, and it still runs."""
    import diffusers

    library: Any = diffusers
    torch.manual_seed(0)
    words = tiny.clip_tokenizer()
    vae = library.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, scaling_factor=0.18215,
    )  # fmt: skip
    network = tiny.unet(
        sample_size=24,
        block_out_channels=(320, 640),
        layers_per_block=2,
        norm_num_groups=32,
        attention_head_dim=8,
    )
    library.StableDiffusionPipeline(
        vae, tiny.clip(words), words, network, library.DDIMScheduler(**tiny.DDIM), None, None, None, False
    ).save_pretrained(folder)
    return folder


CASES = {
    "splats": ("gaussians", "sds", ["cameras.views=2"]),
    "one by one": ("gaussians", "sds", ["cameras.views=3", "prior.model.one_by_one=true"]),
    "student": ("hashgrid", "vsd", ["cameras.views=1", "student.training.measure_every=1000"]),
}


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read where the system tells it")
def test_within_a_quarter_of_measured_peaks(tmp_path, capsys):
    """Runs in processes of their own, whose peaks ``run.json`` holds, against what was said before."""
    folder = middling(tmp_path / "model")
    for name, (representation, guidance, more) in CASES.items():
        words = ["a red duck", "--prior", "sd15", "--representation", representation, "--guidance", guidance]
        words += [
            "--preset",
            "draft",
            f"prior.model.model={folder}",
            "prior.model.cache=false",
            "budget.iterations=2",
        ]
        words += [
            "budget.resolution=64",
            "trainer.preview_every=0",
            "export.turntable_frames=0",
            "budget.texture=64",
        ]
        words += ["budget.grid=24", "budget.faces=200", *more]
        subprocess.run(
            [sys.executable, "-m", "threedistill", "generate", *words, "--out", tmp_path / name, "--quiet"],
            check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        measured = json.loads((tmp_path / name / "run.json").read_text())["peak_bytes"]
        said = subprocess.run(
            [sys.executable, "-m", "threedistill", "plan", *words, "--json", "--device", "cpu"], check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        planned = json.loads(said.stdout.splitlines()[-1])["peak"]
        print(f"{name}: said {planned / GIB:.2f} GiB, measured {measured / GIB:.2f}")
        assert 0.75 * measured <= planned <= 1.25 * measured, (name, planned / GIB, measured / GIB)


def shapes(told: Any) -> dict[str, tuple[int, ...]]:
    """What a network is told, but for how many rows of text, and how many count: a tiny CLIP has other than 77."""
    return {
        name: (*value.shape[:1], *value.shape[2 if name.startswith("encoder_") else 1 :])
        for name, value in told.items()
        if name != "length"
    }


@pytest.mark.parametrize("option", [
    name if name in ("flux2", "sdxl_image", "imagedream", "zero123", "sd15_control")
    else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS if name not in RECORDED
])  # fmt: skip
def test_what_is_counted_is_what_is_loaded(option, tmp_path):
    """The network's parameters, what it is told, and its answer: outlined on ``meta`` and loaded."""
    config = compose(prompt="a red duck", prior=option, overrides=settings(option, tmp_path))
    model = recipe(config["prior"]["model"], "prior.model")
    outline, found = outlined(model, False)
    loaded: Any = model.make()
    assert found and isinstance(outline, OutlinedPrior)
    rows = 4
    facts = Conditions(["a duck"] * rows)
    told, counted = loaded.conditioning(facts), outline.conditioning(facts)
    assert shapes(told).items() <= shapes(counted).items()
    sizes = [sum(p.numel() for p in one.network.parameters()) for one in (loaded, outline)]
    assert sizes[0] == sizes[1] and loaded.space.shape == outline.space.shape
    level = outline.path.at_fraction(torch.full((rows,), 0.5)).to("meta")
    answer = outline.predict(torch.zeros(rows, *outline.space.shape, device="meta"), level, counted)
    assert answer.value.shape == (rows, *loaded.space.shape) and answer.value.device.type == "meta"


#: Millions of parameters: of the network as it is asked (those of deepfloyd say 4300), of the image encoder.
PUBLISHED = {
    "sd15": (860, 0), "sdxl": (2567, 0), "sdxl_turbo": (2567, 0), "flux_schnell": (11891, 0), "pixart_alpha": (611, 0),
    "flux2": (3876, 0), "flux2_dev": (32223, 0), "kandinsky5": (6022, 0), "lcm": (860, 0), "deepfloyd": (4214, 0),
    "sd15_image": (882, 632), "sdxl_image": (2919, 1845), "sd15_control": (1221, 0),
    "sdxl_control": (3818, 0), "zero123": (860, 304), "mvdream": (868, 0), "imagedream": (942, 631),
}  # fmt: skip


@pytest.mark.parametrize("option", PUBLISHED)
def test_what_is_not_here_is_counted_as_published(option):
    prior, found = outlined(model_of(option), True)
    assert isinstance(prior, OutlinedPrior) and not found
    network = sum(p.numel() for p in prior.network.parameters()) / 1e6
    assert (round(network), round(prior.sight_bytes / 4e6)) == PUBLISHED[option]
    rows = prior.view_group
    level = prior.path.at_fraction(torch.full((rows,), 0.5)).to("meta")
    x_t = torch.zeros(rows, *prior.space.shape, device="meta")
    assert prior.predict(x_t, level, prior.conditioning(Conditions(["a"] * rows))).value.shape == x_t.shape


@pytest.mark.parametrize(("option", "setting"), [
    ("mvdream", "checkpoint=/no/such.safetensors"), ("sd15_image", "weights=models/typo.safetensors"),
    ("sd15_image", "encoder=typo"), ("sd15_control", "controlnet=some/typo"),
])  # fmt: skip
def test_a_part_that_is_neither_here_nor_known_is_refused(option, setting):
    config = compose(prompt="a duck", prior=option, overrides=[f"prior.model.family.{setting}"])
    with pytest.raises(ThreedistillError, match=r"its shape is not known; give a folder|no such folder"):
        outlined(recipe(config["prior"]["model"], "prior.model"), True)
