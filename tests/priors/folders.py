"""A folder with a tiny pipeline for every prior that diffusers loads, and the settings that make its option read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from tests.priors import tiny, tiny_others
from tests.priors.conftest import build_pipeline
from tests.priors.latent_diffusion import weights
from tests.priors.tiny_adapters import SEEN, add_adapters

#: Of multi-view networks of the tests' size.
MANY = ("family.head_width=16",)
#: Option -> (builder, settings besides the folder: the tiny models' own sizes, and parts that are in the folder).
OPTIONS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "sd15": (lambda: build_pipeline("epsilon", 0), ()),
    "sd21": (lambda: build_pipeline("v_prediction", 1), ()),
    "lcm": (tiny.lcm, ()),
    "sdxl": (tiny.sdxl, ()),
    "sdxl_turbo": (tiny.sdxl, ()),
    "sd3": (tiny.sd3, ("family.text_length=20",)),
    "flux": (tiny.flux, ("family.text_length=20", "size=32")),
    "flux_schnell": (lambda: tiny.flux(False), ("family.text_length=20", "size=32")),
    "flux2": (tiny.flux2, ("family.text_length=40", "size=32")),
    "flux2_dev": (lambda: tiny.flux2(True), ("family.text_length=256", "size=32")),
    "pixart": (tiny.pixart, ()),
    "pixart_alpha": (lambda: tiny.pixart(False), ("size=32",)),
    "sana": (tiny.sana, ("family.text_length=20",)),
    "deepfloyd": (tiny.deepfloyd, ()),
    "sd15_control": (tiny.sd_controlnet, ("family.controlnet=null",)),
    "sdxl_control": (tiny.sdxl_controlnet, ("family.controlnet=null",)),
    "sd15_inpainting": (tiny.inpainting, ()),
    "sd15_image": (lambda: build_pipeline("epsilon", 0), ("family.weights=models/plain.safetensors",)),
    "sdxl_image": (
        tiny.sdxl,
        ("family.weights=models/plus.safetensors", "family.encoder=models/image_encoder"),
    ),
    "mvdream": (
        lambda: build_pipeline("epsilon", 0),
        (*MANY, "family.checkpoint={place}/4view.safetensors", "size=32"),
    ),
    "imagedream": (
        lambda: build_pipeline("epsilon", 0),
        (*MANY, "family.checkpoint={place}/ipmv.safetensors", "family.encoder={place}/models", "size=32"),
    ),
    "zero123": (tiny.Zero123, ("size=32",)),
    "stable_zero123": (tiny.Zero123, ("size=32",)),
    "recorded": (tiny_others.lumina2, ("size=32",)),
    "lumina2": (tiny_others.lumina2, ("size=32",)),
    "qwen_image": (tiny_others.qwen_image, ("size=32",)),
    "z_image": (tiny_others.z_image, ("size=32",)),
    "hunyuandit": (tiny_others.hunyuandit, ("size=32",)),
    "auraflow": (tiny_others.auraflow, ("size=32",)),
    "chroma": (tiny_others.chroma, ("size=32",)),
    "cogview4": (tiny_others.cogview4, ("size=32",)),
    "kandinsky3": (tiny_others.kandinsky3, ("size=64",)),
    "kandinsky5": (tiny_others.kandinsky5, ("size=32",)),
}


def settings(option: str, folder: Path) -> list[str]:
    """Overrides that make ``--prior option`` read its pipeline under ``folder``, built where it is not there."""
    build, own = OPTIONS[option]
    place = folder / option
    if not place.is_dir():
        torch.manual_seed(0)
        pipeline = build()
        pipeline.save_pretrained(place)
        if option in ("sd15_image", "sdxl_image", "imagedream"):
            add_adapters(pipeline.unet, place)
        for name, file in (("mvdream", "4view"), ("imagedream", "ipmv")):
            if option == name:
                save_file(
                    weights(picture=SEEN if name == "imagedream" else None), place / f"{file}.safetensors"
                )
    adapter = [f"prior.model.family.adapter={place}"] if option in ("sd15_image", "sdxl_image") else []
    words = ["prior.model.cache=false", *(f"prior.model.{word.format(place=place)}" for word in own)]
    return [f"prior.model.model={place}", *adapter, *words]


def shown(option: str, file: Path) -> list[str]:
    """The words that show it a picture, which is drawn here, where a run with it wants one."""
    if option not in ("sd15_image", "sdxl_image", "imagedream", "zero123", "stable_zero123"):
        return []
    Image.new("RGB", (20, 20), (200, 30, 30)).save(file)
    return ["--image", str(file), *(["--image-camera", "0,5"] if "zero123" in option else [])]


def views(option: str) -> int:
    """As few as a step with it can have."""
    return 4 if option in ("mvdream", "imagedream") else 2
