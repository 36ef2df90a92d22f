"""ImageDream and Zero123 against the published network, restated: pictures, cameras, poses, names and refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests.priors import tiny
from tests.priors.folders import settings, shown, views
from tests.priors.latent_diffusion import LatentDiffusion, published, weights
from tests.priors.test_whole_run import TINY
from tests.priors.tiny_adapters import SEEN
from threedistill.cameras import orbit
from threedistill.cli import main
from threedistill.conditions import Conditions, ReferenceImage
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import Prediction
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import Family, ImageDream, Zero123
from threedistill.priors.families.mvdream import camera_rows
from threedistill.priors.families.zero123 import pose_rows
from threedistill.priors.multiview_unet import PICTURE, TOLD, MultiViewUNet, from_published, layout, own_name
from threedistill.priors.sampling import ddim
from threedistill.priors.schedulers import scheduler_levels
from threedistill.training.planning import build_plan

SCALE = 4.0


def picture(seed: int = 0, azimuth: float = 30.0, elevation: float = 10.0) -> ReferenceImage:
    """As large as the prior sees, opaque, of bytes."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (32, 32, 3), generator=generator).float() / 255
    camera = orbit(1, elevation=elevation, start=azimuth)
    return ReferenceImage(torch.cat([rgb, torch.ones(32, 32, 1)], -1), camera)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pipelines and checkpoints with the published names."""
    root = tmp_path_factory.mktemp("pictured")
    for option in ("imagedream", "zero123"):
        settings(option, root)
    save_file(tiny.zero123_weights(), root / "zero123.safetensors")
    return root


def load(folder: Path, family: Family, place: str, **options: Any) -> DiffusersPrior:
    return DiffusersPrior(
        name="tiny", family=family, model=str(folder / place), size=32, cache=False, **options
    )


def imagedream(folder: Path, **options: Any) -> DiffusersPrior:
    place = folder / "imagedream"
    family = ImageDream(str(place / "ipmv.safetensors"), "", 16, str(place / "models"), "image_encoder")
    return load(folder, family, "imagedream", **options)


def drawn(
    network: Callable[[Tensor, Tensor, bool], Tensor], noise: Tensor, scheduler: DDIMScheduler, scale: float
) -> Tensor:
    """Four steps of diffusers' own sampler with a network that is asked with and without what it is told."""
    scheduler.set_timesteps(4)
    x = noise
    for t in scheduler.timesteps:
        time = torch.full((len(x),), float(t))
        eps = network(x, time, True)
        if scale != 1:
            eps = combine(network(x, time, False), eps, scale)
        x = scheduler.step(eps, int(t), x).prev_sample
    return x


def ours(prior: DiffusersPrior, noise: Tensor, told: Conditions, blank: Conditions, scale: float) -> Tensor:
    """The same by our contract."""
    cond, null = prior.conditioning(told), prior.conditioning(blank)

    def denoise(x_t, level):
        seen = prior.predict(x_t, level, cond)
        if scale == 1:
            return seen
        value = combine(prior.predict(x_t, level, null).value, seen.value, scale)
        return Prediction(value, prior.kind, x_t, level)

    scheduler = DDIMScheduler(**tiny.DDIM)
    scheduler.set_timesteps(4)
    return ddim(denoise, noise, scheduler_levels(scheduler, prior.path, len(noise)))


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_imagedream_draws_what_the_published_network_draws(folder: Path, scale: float) -> None:
    from transformers import CLIPImageProcessor, CLIPVisionModel

    prior, given = imagedream(folder), picture()
    views = Conditions(["a duck"] * 4 + ["a red mushroom"] * 4, orbit(8, elevation=20), images=(given,))
    noise = torch.randn(8, *prior.space.shape, generator=torch.Generator().manual_seed(1))
    mine = ours(prior, noise, views, views.without("text", "image"), scale)

    words, blank = (prior.texts(one.wordings) for one in (views, views.without("text")))
    encoder = CLIPVisionModel.from_pretrained(folder / "imagedream" / "models" / "image_encoder").eval()
    processor: Any = CLIPImageProcessor(size=16, crop_size=16)
    rgb = (given.rgba[..., :3] * 255).round().byte().numpy()
    with torch.no_grad():
        pixels = processor(Image.fromarray(rgb), return_tensors="pt").pixel_values
        patches = encoder(pixels, output_hidden_states=True).hidden_states[-2]
        vae: Any = prior.source.load("vae").eval()
        image = 2 * given.rgba[..., :3].permute(2, 0, 1)[None] - 1
        latents = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
    published_network = LatentDiffusion(weights(picture=SEEN), group=5)
    cameras = camera_rows(views.cameras, 8)[:, :16].view(2, 4, 16)
    cameras = torch.cat([cameras, torch.zeros(2, 1, 16)], 1).flatten(0, 1)

    def network(x: Tensor, time: Tensor, told: bool) -> Tensor:
        fifth = latents if told else torch.zeros_like(latents)
        groups = torch.cat([x.view(2, 4, *x.shape[1:]), fifth.expand(2, 1, -1, -1, -1)], 1).flatten(0, 1)
        text = torch.stack([one["encoder_hidden_states"] for one in (words if told else blank)])[
            [0] * 5 + [4] * 5
        ]
        seen = (patches if told else torch.zeros_like(patches)).expand(10, -1, -1)
        answer = published_network(groups, time[:1].expand(10), text, cameras, seen)
        return answer.view(2, 5, *x.shape[1:])[:, :4].flatten(0, 1)

    expected = drawn(network, noise, DDIMScheduler(**tiny.DDIM), scale)
    assert float((mine - expected).abs().max() / expected.abs().max()) < 1e-4
    other = ours(prior, noise, Conditions(views.texts, views.cameras, images=(picture(1),)), views, 1.0)
    assert float((other - mine).abs().max() / expected.abs().max()) > 1e-2  # the picture is seen


def test_the_names_of_imagedream_at_full_width() -> None:
    shapes = published(320, (1, 2, 4, 4), 1024, picture=1280)
    plain = {n: s for n, s in shapes.items() if not any(f".{part}." in n for part in TOLD)}
    with torch.device("meta"):
        network = MultiViewUNet(**layout(plain, head_width=64))
    own = {own_name(name) for name in shapes if any(f".{part}." in name for part in TOLD)}
    layers = [n.removesuffix(".processor") for n in network.attn_processors if n.endswith("attn2.processor")]
    assert own == {f"{name}.{part}.weight" for name in layers for part in TOLD} and len(own) == 32
    known = {own_name(name) for name in plain if not name.startswith(PICTURE)}
    assert known == set(network.state_dict()) and shapes["image_embed.latents"] == (1, 16, 1024)


def test_checkpoints_with_and_without_pictures_are_told_apart() -> None:
    with pytest.raises(UsageError, match="is shown pictures, use --prior imagedream"):
        from_published(weights(picture=SEEN), 4, 16)
    with pytest.raises(UsageError, match="is shown no pictures, use --prior mvdream"):
        from_published(weights(), 5, 16, pictures=True)
    short = {
        n: v
        for n, v in weights(picture=SEEN).items()
        if n != "middle_block.1.transformer_blocks.0.attn2.to_k_ip.weight"
    }
    with pytest.raises(
        UsageError, match=r"what it reads pictures with is not ImageDream's: .*mid_block.*to_k_ip"
    ):
        from_published(short, 5, 16, pictures=True)


FORMS: dict[str, Callable[[Path], Zero123]] = {
    "folder": lambda folder: Zero123(),
    "checkpoint": lambda folder: Zero123(checkpoint=str(folder / "zero123.safetensors")),
    "stable": lambda folder: Zero123("elevation"),
}


@pytest.mark.parametrize(
    ("form", "scale"), [("folder", 1.0), ("folder", SCALE), ("checkpoint", SCALE), ("stable", SCALE)]
)
def test_zero123_draws_what_the_published_network_draws(folder: Path, form: str, scale: float) -> None:
    from transformers import CLIPVisionModelWithProjection

    prior, given = load(folder, FORMS[form](folder), "zero123"), picture()
    views = Conditions(["", "", ""], orbit(3, elevation=40, start=50, distance=3.5), images=(given,))
    noise = torch.randn(3, *prior.space.shape, generator=torch.Generator().manual_seed(1))
    mine = ours(prior, noise, views, views.without("image"), scale)

    image = 2 * given.rgba[..., :3].permute(2, 0, 1)[None] - 1
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "zero123" / "image_encoder").eval()
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    small = F.interpolate(image, (16, 16), mode="bicubic", align_corners=True) / 2 + 0.5
    turn = torch.tensor([20.0, 140.0, 260.0]).deg2rad()  # from 30 degrees of azimuth to 50, 170, 290
    last = torch.full((3,), 3.5 - 2.9 if form != "stable" else math.radians(80))
    pose = torch.stack([torch.full((3,), math.radians(-30)), turn.sin(), turn.cos(), last], 1)
    with torch.no_grad():
        clip = encoder((small - mean.view(3, 1, 1)) / std.view(3, 1, 1)).image_embeds
        vae: Any = prior.source.load("vae").eval()
        beside = vae.encode(image).latent_dist.mean.expand(3, -1, -1, -1)
    if form == "checkpoint":
        whole = tiny.zero123_weights()
        ldm, names = LatentDiffusion(whole, None), ("cc_projection.weight", "cc_projection.bias")
        linear = [whole[name] for name in names]
    else:
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "zero123" / "unet").eval()
        state = tiny.pose_projection().state_dict()
        linear = [state["proj.weight"], state["proj.bias"]]

    @torch.no_grad()
    def network(x: Tensor, time: Tensor, told: bool) -> Tensor:
        token = F.linear(torch.cat([clip.expand(3, -1), pose], 1), *linear)[:, None] * told
        x = torch.cat([x, beside * told], 1)
        return ldm(x, time, token) if form == "checkpoint" else unet(x, time, token).sample

    expected = drawn(network, noise, DDIMScheduler(**tiny.DDIM), scale)
    assert float((mine - expected).abs().max() / expected.abs().max()) < 1e-4
    for changed in (Conditions(views.texts, views.cameras, images=(picture(1),)),
                    Conditions(views.texts, orbit(3, elevation=-20), images=(given,))):  # fmt: skip
        other = ours(prior, noise, changed, views, 1.0)
        assert float((other - ours(prior, noise, views, views, 1.0)).abs().max()) > 1e-3
    assert "told no words" in " ".join(prior.notes) and prior.wants == {"camera", "image"}


def test_half_precision(folder: Path) -> None:
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    views = Conditions(["a duck"] * 4, orbit(4), images=(picture(),))
    for prior in (lambda **o: imagedream(folder, **o), lambda **o: load(folder, Zero123(), "zero123", **o)):
        full, half = (prior(dtype=dtype) for dtype in ("float32", "bfloat16"))
        level = full.path.at(torch.full((4,), 500.0))
        first, second = (p.predict(noise, level, p.conditioning(views)).value for p in (full, half))
        assert 0 < float((first - second).norm() / first.norm()) < 3e-2  # eight bits, layer after layer


def test_poses_are_those_of_the_paper() -> None:
    """A camera at the same place is told nothing but the cosine; one higher up has a smaller angle from the top."""
    taken = orbit(1, elevation=10, start=30)
    torch.testing.assert_close(
        pose_rows(taken, taken, "radius")[0], torch.tensor([0.0, 0, 1, 0]), atol=1e-6, rtol=0
    )
    above = pose_rows(orbit(1, elevation=40, start=120), taken, "elevation")[0]
    expected = [math.radians(-30), 1.0, 0.0, math.radians(80)]
    torch.testing.assert_close(above, torch.tensor(expected), atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "zero123" / "model_index.json").read_text())
    plain = tmp_path / "plain"
    plain.mkdir()
    for part in ("unet", "vae", "scheduler", "image_encoder"):
        (plain / part).symlink_to(folder / "zero123" / part)
    del index["clip_camera_projection"]
    (plain / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "StableDiffusionImageVariationPipeline"})
    )
    with pytest.raises(UsageError, match=r"has no projection of poses.* prior\.model\.family\.checkpoint"):
        load(tmp_path, Zero123(), "plain")
    short = {name: value for name, value in tiny.zero123_weights().items() if not name.startswith("cc_")}
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(UsageError, match=r"short\.safetensors: .*not Zero123's \(it has no projection"):
        load(folder, Zero123(checkpoint=str(tmp_path / "short.safetensors")), "zero123")
    one = {"prompt": "a duck", "prior": "zero123"}
    for images, words in (
        ([], "is shown a picture .* --image FILE"),
        ([{"file": "a.png", "camera": None}], "say it with --image-camera AZ,EL"),
        ([{"file": "a.png", "camera": [0, 5]}] * 2, "is shown 1 picture at most, not 2"),
    ):
        with pytest.raises(UsageError, match=words):
            build_plan({**compose(**one), "images": images})


@pytest.mark.parametrize("option", ["zero123", "imagedream"])
def test_the_command_line_shows_it_a_picture(
    folder: Path, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "a red duck", "--prior", option, *shown(option, tmp_path / "ref.png")]
    words += [*settings(option, folder), *TINY, "budget.iterations=2", f"budget.views={views(option)}"]
    code = main([*words, "--preset", "draft", "--out", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert Path(captured.out.splitlines()[-1]).read_bytes()[:4] == b"glTF"
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (option == "imagedream") != ("told no words" in json.dumps(told))
