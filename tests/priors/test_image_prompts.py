"""IP-Adapters against their own pipelines, with every kind of picture embedding, and what is refused of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.priors import tiny
from tests.priors.conftest import build_pipeline
from tests.priors.test_whole_run import TINY
from tests.priors.tiny_adapters import WIDTH, add_adapters
from threedistill.cli import main
from threedistill.conditions import Conditions, ReferenceImage
from threedistill.config import compose
from threedistill.errors import ThreedistillError, UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import Prediction
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.elsewhere import Elsewhere
from threedistill.priors.families import SDXLIPAdapter, StableDiffusionIPAdapter
from threedistill.priors.families.ip_adapter import clip_pixels
from threedistill.priors.precision import DtypeName
from threedistill.priors.sampling import ddim
from threedistill.priors.schedulers import scheduler_levels
from threedistill.training.planning import build_plan

TEXTS, NEGATIVES = ["a red duck", "a mushroom, side view"], ["blurry", "red"]
FAMILIES: dict[str, Any] = {"sd": StableDiffusionIPAdapter, "xl": SDXLIPAdapter}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pipelines' folders, each with the adapters for it and their encoder inside."""
    root, found = tmp_path_factory.mktemp("prompted"), {}
    for name, build in {"sd": lambda: build_pipeline("epsilon", 0), "xl": tiny.sdxl}.items():
        torch.manual_seed(0)
        pipeline = build()
        pipeline.save_pretrained(root / name)
        add_adapters(pipeline.unet, root / name)
        found[name] = root / name
    return found


def load(
    folder: Path, name: str, kind: str = "plain", size: int = 32, dtype: DtypeName = "auto", **options: Any
) -> DiffusersPrior:
    settings = {
        "adapter": str(folder),
        "weights": f"models/{kind}.safetensors",
        "encoder": "models/image_encoder",
    }
    family = FAMILIES[name](**{**settings, "strength": 0.7, **options})
    return DiffusersPrior(name="tiny", family=family, model=str(folder), size=size, dtype=dtype, cache=False)


def pictures(count: int = 1, seed: int = 0) -> tuple[ReferenceImage, ...]:
    """Opaque ones, of bytes."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (count, 20, 20, 3), generator=generator).float() / 255
    return tuple(ReferenceImage(torch.cat([image, torch.ones(20, 20, 1)], -1)) for image in rgb)


@pytest.fixture(scope="module")
def pipelines_with(made: dict[str, Path]) -> Callable[..., Any]:
    """A pipeline of diffusers with an adapter, by their names."""
    from diffusers import DiffusionPipeline

    @functools.cache
    def load(name: str, kind: str, dtype: torch.dtype = torch.float32) -> Any:
        pipeline: Any = DiffusionPipeline.from_pretrained(str(made[name]), dtype=dtype)
        pipeline.load_ip_adapter(str(made[name]), subfolder="models", weight_name=f"{kind}.safetensors")
        pipeline.set_ip_adapter_scale(0.7)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


RUNS = [
    *((name, "plain", 1, scale, size) for name in FAMILIES for scale in (1.0, 4.0) for size in (32, 48)),
    ("sd", "plain", 2, 4.0, 32), ("sd", "plus", 1, 4.0, 32), ("sd", "full", 1, 4.0, 32), ("xl", "plus", 2, 4.0, 32),
]  # fmt: skip


def differs(prior: DiffusersPrior, pipeline: Any, count: int, scale: float) -> float:
    """The largest difference between what our contract draws and the pipeline, relative to the largest latent."""
    images, size = pictures(count), prior.facts.size
    cond = prior.conditioning(Conditions(TEXTS, images=images))
    null = prior.conditioning(Conditions(NEGATIVES, roles=("negative", "negative")))
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    drawn = [Image.fromarray((image.over() * 255).round().byte().numpy()) for image in images]
    expected = pipeline(
        TEXTS, negative_prompt=NEGATIVES, guidance_scale=scale, num_inference_steps=4, height=size, width=size,
        latents=noise.to(pipeline.unet.dtype), output_type="latent",
        ip_adapter_image=[drawn] if count > 1 else drawn[0],
    ).images.float()  # fmt: skip

    def denoise(x_t, level):
        seen = prior.predict(x_t, level, cond)
        if scale == 1:
            return seen
        other = prior.predict(x_t, level, null)
        return Prediction(combine(other.value, seen.value, scale), prior.kind, x_t, level)

    mine = ddim(denoise, noise, scheduler_levels(pipeline.scheduler, prior.path, 2))
    return float((mine - expected).abs().max() / expected.abs().max())


def test_a_lora_and_an_adapter_act_together(made: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    donor, pipeline = (StableDiffusionPipeline.from_pretrained(str(made["sd"])) for _ in range(2))
    torch.manual_seed(0)
    donor.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v"])
    )
    donor.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(donor.unet))
    pipeline.load_lora_weights(str(tmp_path))
    pipeline.load_ip_adapter(str(made["sd"]), subfolder="models", weight_name="plain.safetensors")
    pipeline.set_ip_adapter_scale(0.7)
    pipeline.set_progress_bar_config(disable=True)
    plain = load(made["sd"], "sd")
    both = DiffusersPrior(
        name="tiny", family=plain.family, model=str(made["sd"]), size=32, lora=str(tmp_path), cache=False
    )
    assert differs(both, pipeline, 1, 4.0) < 1e-4
    assert differs(plain, pipeline, 1, 4.0) > 1e-3


@pytest.mark.parametrize(("name", "kind", "count", "scale", "size"), RUNS)
def test_sampler_parity(
    made: dict[str, Path], pipelines_with: Callable[..., Any], name: str, kind: str, count: int, scale: float,
    size: int,
) -> None:  # fmt: skip
    prior = load(made[name], name, kind, size)
    assert differs(prior, pipelines_with(name, kind), count, scale) < 1e-4
    noise = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    cond, other = (
        prior.conditioning(Conditions(TEXTS, images=pictures(count, seed=seed))) for seed in (0, 1)
    )
    level = prior.path.at(torch.full((2,), 500.0))
    moved = prior.predict(noise, level, other).value - prior.predict(noise, level, cond).value
    assert float(moved.abs().max()) > 1e-3  # the picture is seen


@pytest.mark.parametrize(("name", "kind"), [("sd", "plain"), ("sd", "full"), ("xl", "plus")])
def test_sampler_parity_in_bfloat16(
    made: dict[str, Path], pipelines_with: Callable[..., Any], name: str, kind: str
) -> None:
    prior = load(made[name], name, kind, dtype="bfloat16")
    assert next(prior.network.parameters()).dtype == torch.bfloat16
    assert differs(prior, pipelines_with(name, kind, torch.bfloat16), 1, 1.0) < 2e-2


def test_encoders_are_loaded_once_and_gone(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    prior, images = load(made["sd"], "sd"), pictures(2)
    loaded: list[str] = []
    load_part = prior._load
    monkeypatch.setattr(prior, "_load", lambda part: loaded.append(part) or load_part(part))
    for shown in (images, images[:1], ()):
        prior.conditioning(Conditions(TEXTS, images=shown))
    assert loaded == ["tokenizer", "text_encoder", "image_encoder"]
    two = prior.conditioning(Conditions(TEXTS, images=images))["image_embeds"]
    none = prior.conditioning(Conditions(TEXTS))["image_embeds"]
    assert two.shape == (2, 2, WIDTH) and none.shape == (2, 1, WIDTH) and not none.any()


def test_what_is_transparent_is_seen_over_white() -> None:
    clear = ReferenceImage(torch.rand(20, 20, 4) * torch.tensor([1.0, 1, 1, 0]))
    white = ReferenceImage(torch.ones(20, 20, 4))
    assert torch.equal(clip_pixels(clear, 16), clip_pixels(white, 16))


def test_the_version_names_the_adapter(made: dict[str, Path]) -> None:
    plain, full = (load(made["sd"], "sd", kind) for kind in ("plain", "full"))
    assert plain.version is not None and plain.version != full.version
    assert plain.version.startswith(plain.revision + f" + {made['sd']}/models/plain.safetensors@")


def test_adapters_that_do_not_fit_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    with pytest.raises(
        UsageError, match=r"prior tiny: models/plain.safetensors is an IP-Adapter of another network"
    ):
        load(made["sd"], "sd", adapter=str(made["xl"]))
    with pytest.raises(UsageError, match=r"prior tiny: .*/models/none.safetensors: no such file"):
        load(made["sd"], "sd", "none")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "image_encoder").symlink_to(made["sd"] / "models" / "image_encoder")
    tensors = load_file(made["sd"] / "models" / "plain.safetensors")
    wider = {**tensors, "image_proj.proj.weight": torch.zeros(64, WIDTH + 1)}
    face = {"image_proj.norm.weight" if "proj.weight" in k else k: v for k, v in tensors.items()}
    for changed, words in (
        (wider, "reads embeddings of 13 numbers, and .* gives 12"),
        (face, "told faces are not read"),
    ):
        save_file(changed, tmp_path / "models" / "plain.safetensors")
        with pytest.raises(UsageError, match=words):
            load(made["sd"], "sd", adapter=str(tmp_path))


def test_a_run_without_a_picture_is_refused() -> None:
    with pytest.raises(UsageError, match=r"prior=sd15_image is shown a picture .* --image FILE"):
        build_plan(compose(prompt="a red duck", prior="sd15_image"))


def test_the_command_line_shows_it_a_picture(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "red.png")
    parts = {"model": made["sd"], "family.adapter": made["sd"], "family.weights": "models/plain.safetensors"}
    settings = [f"prior.model.{name}={value}" for name, value in parts.items()]
    words = ["generate", "a red duck", "--prior", "sd15_image", "--image", str(tmp_path / "red.png")]
    code = main([*words, "--preset", "draft", "--out", str(tmp_path / "run"), *settings, *TINY])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    version = json.loads((tmp_path / "run" / "run.json").read_text())["prior_version"]
    assert "models/image_encoder@" in version and f"prior: {version}, licence unknown" in captured.err


def test_an_adapter_of_the_hub_is_read_at_its_revision(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    store = tmp_path / "models--some--adapter"
    (store / "snapshots" / commit).mkdir(parents=True)
    (store / "refs").mkdir()
    (store / "refs" / "v2").write_text(commit)
    (store / "snapshots" / commit / "models").symlink_to(made["sd"] / "models")
    part = Elsewhere("some/adapter@v2", None, "models/plain.safetensors")
    assert part.version == f"some/adapter/models/plain.safetensors@{commit}"
    encoder = Elsewhere("some/adapter@v2", "CLIPVisionModelWithProjection", "models/image_encoder")
    assert encoder.config()["projection_dim"] == WIDTH
    assert encoder.version == f"some/adapter/models/image_encoder@{commit}"
    assert set(part.load()) == set(Elsewhere(str(made["sd"]), None, "models/plain.safetensors").load())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ThreedistillError, match="some/adapter: not in the local cache, and the hub cannot be reached"
    ):
        Elsewhere("some/adapter@v3", None, "models/plain.safetensors").load()
