"""The 128-pixel embedded prior as a pipeline in diffusers' own layout.

Components (``model_index.json``): ``transformer`` (:class:`threedistill.toybox.trunk.ToyboxTransformer`), ``sketch``
(:class:`threedistill.toybox.sketch.SplatSketch`), ``view_encoder`` (reference views as tokens), ``text_encoder`` and
``tokenizer`` as in :mod:`threedistill.toybox.model`, ``scheduler`` (DDIM over the shifted cosine path, x0-prediction).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiffusionPipeline
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from threedistill.cameras import CAMERA_SIZE, camera_vectors
from threedistill.prediction import NoiseLevel, Prediction
from threedistill.priors.sampling import ancestral
from threedistill.priors.schedulers import scheduler_path
from threedistill.toybox.conditioning import BACKGROUND_SIZE, FOLD, background_vectors, fold, unfold
from threedistill.toybox.networks import harmonics
from threedistill.toybox.shown import fit_cloud, likely_camera
from threedistill.toybox.sketch import Cloud, SplatSketch
from threedistill.toybox.tokenizer import build_tokenizer
from threedistill.toybox.trunk import STEPS, ToyboxTransformer, ViewEncoder, shifted_cosine
from threedistill.types import Cameras

__all__ = [
    "MAX_WORDS", "MODULES", "TeacherSettings", "TransformerToyboxPipeline", "build_scheduler", "conditioning",
]  # fmt: skip

#: Tokens of a caption with its start and end; the world's longest have 19.
MAX_WORDS = 24
#: The modules of a pipeline, in the order of its components.
MODULES = ("transformer", "sketch", "view_encoder", "text_encoder")


@dataclass(frozen=True)
class TeacherSettings:
    """The size of the network.

    Attributes:
        size: pixels of the pictures.
        fine, width, outer, middle_width, depth: of the transformer.
        sketch_width, splats, sketch_slots: of the sketch.
        text_width, text_layers: of the text encoder.
        view_layers: of the encoder of reference views.
        slots: flat colours of a picture.
    """

    size: int = 128
    fine: int = 64
    width: int = 192
    outer: int = 1
    middle_width: int = 384
    depth: int = 3
    sketch_width: int = 1024
    splats: int = 384
    sketch_slots: int = 14
    text_width: int = 128
    text_layers: int = 3
    view_layers: int = 2
    slots: int = 16


def build_scheduler(size: int) -> DDIMScheduler:
    """DDIM over 1000 steps of the squared-cosine path, shifted so that times mean what they mean at 64 pixels."""
    kept = torch.sigmoid(shifted_cosine(64 / size))
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    return DDIMScheduler(
        num_train_timesteps=STEPS, trained_betas=betas.tolist(), prediction_type="sample", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip


class TransformerToyboxPipeline(DiffusionPipeline):
    """Words, camera, background, reference views and normals to a picture of the Toybox world.

    Arguments (all components, see the module): transformer, sketch, view_encoder, text_encoder, tokenizer, scheduler.
    """

    def __init__(
        self,
        transformer: ToyboxTransformer,
        sketch: SplatSketch,
        view_encoder: ViewEncoder,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: DDIMScheduler,
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer,
            sketch=sketch,
            view_encoder=view_encoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )

    @property
    def size(self) -> int:
        """Pixels of the pictures."""
        return int(self.transformer.config["size"])

    @property
    def fold(self) -> int:
        """Pixels per side that become channels."""
        return FOLD

    @property
    def rounds(self) -> bool:
        """Whether the network may compute in less than float32."""
        return True

    @property
    def shows(self) -> tuple[str, ...]:
        """Which pictures it can be shown beside the words."""
        return ("image", "normal")

    @property
    def network(self) -> ToyboxTransformer:
        """What denoises."""
        return self.transformer

    @property
    def networks(self) -> tuple[torch.nn.Module, ...]:
        """Everything with weights."""
        return tuple(getattr(self, name) for name in MODULES)

    @classmethod
    def create(cls, settings: TeacherSettings | None = None) -> TransformerToyboxPipeline:
        """A pipeline with fresh weights (from torch's global generator)."""
        s = settings or TeacherSettings()
        tokenizer = build_tokenizer(MAX_WORDS)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=s.text_width, intermediate_size=2 * s.text_width,
                num_hidden_layers=s.text_layers, num_attention_heads=4, max_position_embeddings=MAX_WORDS,
                hidden_act="gelu", pad_token_id=0, bos_token_id=1, eos_token_id=2, projection_dim=s.text_width,
            )
        )  # fmt: skip
        # Frozen random features: words far apart. Trained along, they collapse before the network has learnt to use
        # them (see the model card); the sketch's own transformer reads them.
        with torch.no_grad():
            for name, parameter in text_encoder.named_parameters():
                if name.endswith("token_embedding.weight"):
                    parameter.normal_(0, 0.6)
                elif name.endswith("position_embedding.weight"):
                    parameter.normal_(0, 0.2)
        transformer = ToyboxTransformer(
            size=s.size, fine=s.fine, width=s.width, outer=s.outer, middle_width=s.middle_width, depth=s.depth,
            class_size=s.sketch_width + CAMERA_SIZE + BACKGROUND_SIZE, context=s.text_width, shift=64 / s.size,
            slots=s.slots,
        )  # fmt: skip
        sketch = SplatSketch(s.text_width, s.sketch_width, s.splats, slots=s.sketch_slots, size=s.size // 2)
        views = ViewEncoder(s.size, s.text_width, s.view_layers)
        return cls(transformer, sketch, views, text_encoder, tokenizer, build_scheduler(s.size))

    @classmethod
    def load_components(cls, root: Path, dtype: torch.dtype) -> TransformerToyboxPipeline:
        """Load by component from a complete folder, offline, without remote code."""

        def part(kind: Any, name: str) -> Any:
            found = kind.from_pretrained(root / name, dtype=dtype, local_files_only=True)
            return found.to(memory_format=torch.channels_last)

        scheduler: Any = DDIMScheduler.from_pretrained(root / "scheduler", local_files_only=True)
        pipeline = cls(
            part(ToyboxTransformer, "transformer"),
            part(SplatSketch, "sketch"),
            part(ViewEncoder, "view_encoder"),
            CLIPTextModel.from_pretrained(root / "text_encoder", dtype=dtype, local_files_only=True),
            PreTrainedTokenizerFast.from_pretrained(root / "tokenizer", local_files_only=True),
            scheduler,
        )
        for name in MODULES:
            getattr(pipeline, name).eval().requires_grad_(False)
        return pipeline

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write the pipeline as safetensors of ``dtype``, none above 15 MB; this object is left as it was."""
        modules = [getattr(self, name) for name in MODULES]
        before = [next(m.parameters()).dtype for m in modules]
        states = [{k: v.detach().clone() for k, v in m.state_dict().items()} for m in modules]
        try:
            for module in modules:
                torch.nn.Module.to(module, dtype)  # diffusers' own warns of what it does not keep in float32
            self.save_pretrained(folder, safe_serialization=True, max_shard_size="15MB")
        finally:
            for module, kind, state in zip(modules, before, states):
                torch.nn.Module.to(module, kind)
                module.load_state_dict(state)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "B L D"]:
        """Hidden states of the frozen text encoder, one row per text; "" is the null text."""
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=MAX_WORDS, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(input_ids=ids.to(self.text_encoder.device)).last_hidden_state

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What is kept of each text: its ``tokens`` (B, L, D) as the sketch reads them, and what they say, ``told``."""
        tokens = self.sketch.tokens(self.encode_text(texts))
        return {"tokens": tokens, "told": self.sketch.told(tokens)}

    def keep(self, text: str) -> dict[str, Tensor]:
        """What can be kept of a text, whatever it is asked with: rows without a batch axis."""
        found = self.read([text])
        # Without a camera the sketch is always the same picture, and drawing it is not free.
        picture = self.sketch(found["told"], camera_vectors(None, 1).to(found["told"]))
        return {k: v[0] for k, v in (found | {"picture": picture}).items()}

    @staticmethod
    def needs(every_camera: bool) -> tuple[str, ...]:
        """What of :meth:`keep` is used where every row, or not every row, has a camera."""
        return ("tokens", "told") if every_camera else ("tokens", "told", "picture")

    def condition_kept(
        self,
        kept: Mapping[str, Tensor],
        camera: Float[Tensor, "B 14"],
        background: Float[Tensor, "B 4"],
        clouds: Mapping[int, Cloud] | None = None,
    ) -> dict[str, Tensor]:
        """:meth:`condition` from what was kept, with a batch axis.

        Arguments:
            clouds: of rows that are shown pictures, what :meth:`fitted` gives; used where there is a camera.
        """
        camera, background = camera.to(kept["told"]), background.to(kept["told"])
        seen = camera.any(1)
        rows = [row for row in clouds or {} if bool(seen[row])]

        def shown(cloud: Cloud) -> Cloud:
            if not clouds or not rows:
                return cloud
            fitted = (torch.cat(parts) for parts in zip(*(clouds[row] for row in rows)))
            where = torch.tensor(rows, device=camera.device)
            return Cloud(*(mine.index_copy(0, where, its) for mine, its in zip(cloud, fitted)))

        if "picture" not in kept:
            picture = self.sketch(kept["told"], camera, shown)
        else:
            picture = kept["picture"]
            if seen.any():
                own = self.sketch(kept["told"], camera, shown)
                picture = torch.where(seen[:, None, None, None], own, picture)
        return conditioning(kept["tokens"], kept["told"], picture, camera, background)

    def condition(
        self,
        tokens: Float[Tensor, "B L D"],
        told: Float[Tensor, "B W"],
        camera: Float[Tensor, "B 14"],
        background: Float[Tensor, "B 4"],
    ) -> dict[str, Tensor]:
        """The transformer's keyword arguments from what :meth:`read` gives and camera / background vectors."""
        camera, background = camera.to(told), background.to(told)
        return conditioning(tokens, told, self.sketch(told, camera), camera, background)

    def fitted(
        self,
        told: Float[Tensor, "T"],
        pictures: Float[Tensor, "R 3 H W"],
        cameras: Float[Tensor, "R 14"],
    ) -> Cloud:
        """The sketch's cloud of what is told, as reference views in [-1, 1] show it; unknown cameras are looked for."""
        size = self.sketch.size
        small = F.interpolate((pictures.to(told) + 1) / 2, (size, size), mode="area")
        seen = torch.stack([
            camera if bool(camera.any()) else likely_camera(self.sketch.cloud, told, picture)
            for camera, picture in zip(cameras.to(told), small)
        ])  # fmt: skip
        return fit_cloud(self.sketch.cloud, told, small, seen)[0]

    def show(
        self, pictures: Float[Tensor, "B R 3 H W"], cameras: Float[Tensor, "B R 14"]
    ) -> Float[Tensor, "B M D"]:
        """The tokens of reference views in [-1, 1] with their camera vectors (zeros = untold): ``views=``."""
        seen = harmonics(cameras.flatten(0, 1)).unflatten(0, cameras.shape[:2])
        return self.view_encoder(pictures, seen)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        cameras: Cameras | None = None,
        background: Float[Tensor, "B 3"] | None = None,
        negative_prompt: str = "",
        guidance_scale: float = 1.5,
        num_inference_steps: int = 8,
        generator: torch.Generator | None = None,
        latents: Float[Tensor, "B 48 h w"] | None = None,
        views: Float[Tensor, "B R 3 H W"] | None = None,
        view_cameras: Float[Tensor, "B R 14"] | None = None,
        control: Float[Tensor, "B 4 H W"] | None = None,
        stop: float = 0.5,
    ) -> Float[Tensor, "B H W 3"]:
        """Sample pictures, ancestrally and with classifier-free guidance (the null keeps everything but the words).

        The picture is what is answered at time ``stop``. Below it the network's road for the noisy picture is open and
        answers keep its grain (figures in the model card).

        Arguments:
            prompt: one text per picture.
            cameras: ``B`` cameras, or None to leave the view open.
            background: (B, 3) sRGB, or None to leave it open.
            negative_prompt: what the unconditional branch is told.
            guidance_scale: ``s`` in ``uncond + s (cond - uncond)``.
            num_inference_steps: how many answers.
            generator: of all noise (CPU).
            latents: the initial noise itself.
            views, view_cameras: reference views in [-1, 1], and their camera vectors (None = untold).
            control: normals and coverage, premultiplied, in [0, 1].
            stop: the last answer's time, a fraction of the path.

        Returns:
            sRGB in [0, 1].
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(prompts)
        device, dtype = self.transformer.device, torch.float32
        words = self.read([negative_prompt] * count + prompts)
        camera = camera_vectors(cameras, count).to(device, dtype).repeat(2, 1)
        ground = background_vectors(background, count).to(device, dtype).repeat(2, 1)
        clouds = {}
        if views is not None:
            views = views.to(device, dtype)
            told = torch.zeros(*views.shape[:2], CAMERA_SIZE) if view_cameras is None else view_cameras
            told = told.to(device, dtype)
            for row in range(count):
                same = row and prompts[row] == prompts[row - 1] and torch.equal(views[row], views[row - 1])
                clouds[count + row] = (
                    clouds[count + row - 1]
                    if same and torch.equal(told[row], told[row - 1])
                    else self.fitted(words["told"][count + row], views[row], told[row])
                )
        inputs = self.condition_kept(words, camera, ground, clouds)
        if views is not None:
            inputs["views"] = self.show(views, told).repeat(2, 1, 1)
        if control is not None:
            inputs["control"] = fold(control.to(device, dtype)).repeat(2, 1, 1, 1)

        def denoise(x_t: Tensor, level: NoiseLevel) -> Prediction:
            both = self.transformer(torch.cat([x_t, x_t]), level.index.repeat(2), **inputs).sample
            uncond, cond = both.chunk(2)
            return Prediction((uncond + guidance_scale * (cond - uncond)).clamp(-1, 1), "x0", x_t, level)

        shape = (count, 3 * FOLD**2, self.size // FOLD, self.size // FOLD)
        noise = latents if latents is not None else torch.randn(shape, generator=generator)
        times = torch.linspace(STEPS - 1, stop * (STEPS - 1), num_inference_steps)
        path, _ = scheduler_path(self.scheduler.config)
        levels = [path.at(t.round().expand(count)).to(device) for t in times]
        x0 = ancestral(denoise, noise.to(device, dtype), levels, generator)
        return (unfold(x0).permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)


def conditioning(
    tokens: Tensor,
    told: Float[Tensor, "B W"],
    picture: Float[Tensor, "B 4 h w"],
    camera: Float[Tensor, "B 14"],
    background: Float[Tensor, "B 4"],
) -> dict[str, Tensor]:
    """The transformer's keyword arguments: the sketch over the told background (untold: black), in [-1, 1], and what
    the words say with camera and background."""
    alpha = picture[:, 3:]
    rgb = picture[:, :3] + (1 - alpha) * background[:, :3, None, None].to(picture)
    shown = F.pixel_unshuffle(2 * torch.cat([rgb, alpha], 1) - 1, 2)
    vector = torch.cat([told, camera.to(told), background.to(told)], 1)
    return {"encoder_hidden_states": tokens, "class_labels": vector, "sketch": shown}
