"""The embedded prior: a small text- and camera-conditioned diffusion model in diffusers' own layout.

Components (``model_index.json``): ``unet`` (ToyboxUNet on 4x4-folded 64x64 images), ``text_encoder``
(CLIPTextModel), ``tokenizer`` (word-level PreTrainedTokenizerFast), ``scheduler`` (DDIM, squared-cosine,
x0-prediction), ``camera_tokens`` and ``sketch`` (:mod:`threedistill.toybox.networks`). Words and camera enter three
times: as a sketch of the mean picture in extra input channels, as cross-attention tokens (two carry the camera),
and, with the background, through the UNet's projected class embedding, which reaches the 16x16 level, where there is no
attention. Imports diffusers and transformers; light helpers live in
:mod:`threedistill.toybox.conditioning`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from threedistill.cameras import CAMERA_SIZE, camera_vectors, place
from threedistill.errors import ThreedistillError
from threedistill.resources import assets_dir
from threedistill.toybox.conditioning import BACKGROUND_SIZE, FOLD, background_vectors, unfold
from threedistill.toybox.networks import (
    FOLDED_RGBA,
    FOLDED_SHAPE,
    IMAGE_SIZE,
    CameraTokens,
    Sketch,
    ToyboxUNet,
    bag_of_words,
    over_background,
)
from threedistill.toybox.tokenizer import MAX_WORDS, build_tokenizer
from threedistill.types import Cameras

__all__ = ["ModelSettings", "ToyboxPipeline", "build_scheduler", "camera", "class_vector"]


@dataclass(frozen=True)
class ModelSettings:
    """The size of the network.

    Attributes:
        channels: of the UNet's levels (16x16, 8x8, 4x4).
        heads: attention heads per level.
        text_width, text_layers: of the text encoder.
        camera_tokens: extra cross-attention tokens that carry the camera.
    """

    channels: tuple[int, ...] = (64, 96, 128)
    heads: int = 4
    text_width: int = 128
    text_layers: int = 3
    camera_tokens: int = 2


def build_scheduler() -> DDIMScheduler:
    """DDIM over 1000 steps of the squared-cosine schedule, for a network that predicts x0, without thresholding.

    x0 and not v: folded pixels have 48 channels and the trunk 64, so a network that must also reproduce the noise
    spends itself on copying it. Measured after 48,000 pictures: with v, samples were coloured grain (see the
    model card).
    """
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip


def class_vector(text: Float[Tensor, "B L D"], told: Float[Tensor, "B 18"]) -> Float[Tensor, "B C"]:
    """The class embedding's input: camera and background vectors, then a bag of words (sum over sqrt of length)."""
    return torch.cat([told, bag_of_words(text)], -1)


@torch.no_grad()
def _raise_conditioning(unet: ToyboxUNet, text_encoder: CLIPTextModel, camera: CameraTokens) -> None:
    """Fresh weights that listen: words, camera and background start as loud as the time embedding.

    With the libraries' own initialisation captions differ by a tenth of their hidden states (words, at 0.02, drown in
    the attention's common mean) and the camera's tokens have a sixteenth of the text's size; after 50,000 pictures
    swapping captions or cameras still changed the loss by 1 %.
    """
    for name, parameter in text_encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            parameter.normal_(0, 0.6)
        elif name.endswith("position_embedding.weight"):
            parameter.normal_(0, 0.2)
    embedding: Any = unet.class_embedding
    embedding.linear_1.weight[:, : CAMERA_SIZE + BACKGROUND_SIZE] *= 5
    embedding.linear_2.weight *= 2
    layers: Any = camera.net
    layers[0].weight *= 2
    layers[2].weight *= 2
    # What is told starts as a deviation from the untold.
    nothing = torch.tensor([[1, 2] + [0] * (MAX_WORDS - 2)])  # start, end, padding
    untold = text_encoder(input_ids=nothing).last_hidden_state
    embedding.linear_2.bias -= embedding(class_vector(untold, torch.zeros(1, CAMERA_SIZE + BACKGROUND_SIZE)))[
        0
    ]


class ToyboxPipeline(DiffusionPipeline):
    """Text and camera to a 64x64 picture of the Toybox world.

    Arguments (all components, see the module): unet, text_encoder, tokenizer, scheduler, camera_tokens.
    """

    def __init__(
        self,
        unet: ToyboxUNet,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: DDIMScheduler,
        camera_tokens: CameraTokens,
        sketch: Sketch,
    ):
        super().__init__()
        self.register_modules(
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            camera_tokens=camera_tokens,
            sketch=sketch,
        )

    @classmethod
    def create(cls, settings: ModelSettings | None = None) -> ToyboxPipeline:
        """A pipeline with fresh weights (from torch's global generator)."""
        s = settings or ModelSettings()
        tokenizer = build_tokenizer()
        text = CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=s.text_width, intermediate_size=2 * s.text_width,
            num_hidden_layers=s.text_layers, num_attention_heads=4, max_position_embeddings=MAX_WORDS,
            hidden_act="gelu", pad_token_id=0, bos_token_id=1, eos_token_id=2, projection_dim=s.text_width,
        )  # fmt: skip
        levels = len(s.channels)
        unet = ToyboxUNet(
            sample_size=FOLDED_SHAPE[1], in_channels=FOLDED_SHAPE[0] + FOLDED_RGBA, out_channels=FOLDED_SHAPE[0],
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            block_out_channels=s.channels, layers_per_block=1, cross_attention_dim=s.text_width,
            attention_head_dim=s.heads, class_embed_type="projection", norm_num_groups=8,
            # After the norm: added before it, what is told is mostly normalised away again in groups of a few channels.
            resnet_time_scale_shift="scale_shift",
            projection_class_embeddings_input_dim=CAMERA_SIZE + BACKGROUND_SIZE + s.text_width,
        )  # fmt: skip
        camera = CameraTokens(CAMERA_SIZE, s.text_width, s.camera_tokens)
        text_encoder = CLIPTextModel(text)
        _raise_conditioning(unet, text_encoder, camera)
        return cls(unet, text_encoder, tokenizer, build_scheduler(), camera, Sketch(s.text_width))

    @classmethod
    def load(cls, folder: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Any:
        """Load by component, offline, without remote code; weights are stored as fp16 and computed in ``dtype``.

        The folder says which networks it holds: these, or those of
        :class:`threedistill.toybox.teacher.TransformerToyboxPipeline`, which is asked in the same ways.

        Arguments:
            folder: a saved pipeline; None is the one that travels with the package.
            dtype: of the loaded weights.

        Raises:
            ThreedistillError: when the folder does not hold a complete pipeline.
        """
        root = Path(folder) if folder is not None else assets_dir() / "toybox" / "prior"
        if not (root / "model_index.json").is_file():
            raise ThreedistillError(
                f"no Toybox prior in {root}: train one with `threedistill toybox train --out {root}`, or reinstall"
            )
        if json.loads((root / "model_index.json").read_text()).get("_class_name") != cls.__name__:
            from threedistill.toybox.teacher import TransformerToyboxPipeline

            return TransformerToyboxPipeline.load_components(root, dtype)
        unet = ToyboxUNet.from_pretrained(root / "unet", dtype=dtype, local_files_only=True)
        text_encoder = CLIPTextModel.from_pretrained(
            root / "text_encoder", dtype=dtype, local_files_only=True
        )
        tokenizer = PreTrainedTokenizerFast.from_pretrained(root / "tokenizer", local_files_only=True)
        scheduler = DDIMScheduler.from_pretrained(root / "scheduler", local_files_only=True)
        camera = CameraTokens.from_pretrained(root / "camera_tokens", dtype=dtype, local_files_only=True)
        sketch = Sketch.from_pretrained(root / "sketch", dtype=dtype, local_files_only=True)
        unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pipeline = cls(unet, text_encoder, tokenizer, scheduler, camera, sketch)  # type: ignore[arg-type]
        for module in (unet, text_encoder, camera, sketch):
            module.eval().requires_grad_(False)
        return pipeline

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write the pipeline in diffusers' layout as safetensors of ``dtype``; this object is left as it was."""
        modules = (self.unet, self.text_encoder, self.camera_tokens, self.sketch)
        before = [next(m.parameters()).dtype for m in modules]
        states = [{k: v.detach().clone() for k, v in m.state_dict().items()} for m in modules]
        for module in modules:
            module.to(dtype)
        try:
            self.save_pretrained(folder, safe_serialization=True)
        finally:
            for module, kind, state in zip(modules, before, states):
                module.to(kind)
                module.load_state_dict(state)

    @property
    def size(self) -> int:
        """Pixels of the pictures."""
        return IMAGE_SIZE

    @property
    def fold(self) -> int:
        """Pixels per side that become channels."""
        return FOLD

    @property
    def rounds(self) -> bool:
        """Whether the network may compute in less than float32."""
        return False

    @property
    def shows(self) -> tuple[str, ...]:
        """Which pictures it can be shown beside the words."""
        return ()

    @property
    def network(self) -> ToyboxUNet:
        """What denoises."""
        return self.unet

    @property
    def networks(self) -> tuple[torch.nn.Module, ...]:
        """Everything with weights."""
        return self.unet, self.text_encoder, self.camera_tokens, self.sketch

    def keep(self, text: str) -> dict[str, Tensor]:
        """What can be kept of a text, whatever it is asked with: rows without a batch axis."""
        row = self.encode_text([text])
        told = self.sketch.told(row)
        # Without a camera the sketch is always the same picture, and drawing it is not free.
        drawn = self.sketch(row, camera_vectors(None, 1).to(row), told)
        return {"text": row[0], "told": told[0], "drawn": drawn[0]}

    @staticmethod
    def needs(every_camera: bool) -> tuple[str, ...]:
        """What of :meth:`keep` is used where every row, or not every row, has a camera."""
        return ("text", "told") if every_camera else ("text", "told", "drawn")

    def condition_kept(
        self, kept: Mapping[str, Tensor], camera: Float[Tensor, "B 14"], background: Float[Tensor, "B 4"]
    ) -> dict[str, Tensor]:
        """:meth:`condition` from what was kept, with a batch axis."""
        return self.condition(kept["text"], camera, background, kept["told"], kept.get("drawn"))

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "B L D"]:
        """Hidden states of the text encoder, one row per text; "" is the null text."""
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=MAX_WORDS, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(input_ids=ids.to(self.text_encoder.device)).last_hidden_state

    def condition(
        self,
        text: Float[Tensor, "B L D"],
        camera: Float[Tensor, "B 14"],
        background: Float[Tensor, "B 4"],
        told: Float[Tensor, "B W"] | None = None,
        drawn: Float[Tensor, "B 64 h w"] | None = None,
    ) -> dict[str, Tensor]:
        """The UNet's keyword arguments from encoded text and camera / background vectors (zeros = untold).

        ``told`` is what the sketch makes of the text and ``drawn`` what it draws of the text without a camera, where
        they are known already; rows without a camera take the latter.
        """
        camera, background = camera.to(text), background.to(text)
        if drawn is None:
            sketched = self.sketch(text, camera, told)
        elif (seen := camera.any(1)).any():
            sketched = torch.where(seen[:, None, None, None], self.sketch(text, camera, told), drawn)
        else:
            sketched = drawn
        return {
            "encoder_hidden_states": torch.cat([text, self.camera_tokens(camera)], 1),
            "class_labels": class_vector(text, torch.cat([camera, background], -1)),
            "sketch": over_background(sketched, background),
        }

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        cameras: Cameras | None = None,
        background: Float[Tensor, "B 3"] | None = None,
        negative_prompt: str = "",
        guidance_scale: float = 3.0,
        num_inference_steps: int = 25,
        generator: torch.Generator | None = None,
        latents: Float[Tensor, "B 48 16 16"] | None = None,
    ) -> Float[Tensor, "B 64 64 3"]:
        """Sample pictures with DDIM and classifier-free guidance (the null keeps camera and background).

        Arguments:
            prompt: one text per picture.
            cameras: ``B`` cameras (see :func:`camera`), or None to leave the view open.
            background: (B, 3) sRGB, or None to leave it open.
            negative_prompt: what the unconditional branch is told.
            guidance_scale: ``s`` in ``uncond + s (cond - uncond)``.
            num_inference_steps: DDIM steps.
            generator: for the initial noise (CPU).
            latents: the initial noise itself.

        Returns:
            (B, 64, 64, 3) sRGB in [0, 1].
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(prompts)
        device, dtype = self.unet.device, self.unet.dtype
        text = self.encode_text([negative_prompt] * count + prompts)
        camera = camera_vectors(cameras, count).to(device, dtype).repeat(2, 1)
        ground = background_vectors(background, count).to(device, dtype).repeat(2, 1)
        inputs = self.condition(text, camera, ground)
        x = latents if latents is not None else torch.randn((count, *FOLDED_SHAPE), generator=generator)
        x = x.to(device, dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for t in self.scheduler.timesteps:
            both = self.unet(torch.cat([x, x]), t, **inputs).sample
            uncond, cond = both.chunk(2)
            x = self.scheduler.step(uncond + guidance_scale * (cond - uncond), t, x).prev_sample
        return (unfold(x).permute(0, 2, 3, 1).float() / 2 + 0.5).clamp(0, 1)


def camera(
    azimuth: Sequence[float],
    elevation: float = 15.0,
    distance: float = 2.9,
    fov_y: float = 44.0,
    size: int = IMAGE_SIZE,
) -> Cameras:
    """Cameras by degrees and metres, one per azimuth, for pictures of ``size`` pixels."""
    turn = torch.deg2rad(torch.tensor(list(azimuth), dtype=torch.float32))
    ones = torch.ones_like(turn)
    return place(
        turn,
        torch.deg2rad(ones * elevation),
        ones * distance,
        torch.deg2rad(ones * fov_y),
        size,
        size,
    )
