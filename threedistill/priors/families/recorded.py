"""Any other pipeline of diffusers that draws from a text: read off its own run, and repeated."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.errors import ThreedistillError, UsageError
from threedistill.prediction import NoiseLevel, PredictionKind
from threedistill.priors.arrangement import by_length
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.priors.families.refused import REFUSED
from threedistill.priors.families.shell import shell
from threedistill.priors.noise_path import RectifiedFlowPath
from threedistill.priors.recording.reading import SCALE, Pipeline, Reading, read
from threedistill.priors.recording.replay import Leaf, fill, leaves, rows_of, words_at
from threedistill.priors.schedulers import scheduler_path
from threedistill.priors.space import PixelSpace, encoded_mean, encoded_views, to_rgb, to_signed
from threedistill.protocols import ImageSpace, NoisePath
from threedistill.types import Conditioning

__all__ = ["Recorded", "RecordedSpace"]

#: Components that are asked step by step, and those that make latents of pictures.
NETWORKS, DECODERS = ("transformer", "unet"), ("vae", "movq", "vqvae")


class RecordedSpace(ImageSpace):
    """Latents as a pipeline hands them to its decoder, ``z = offset + factor x0``, value by value.

    Arguments:
        vae: the autoencoder.
        size: pixels per side.
        reading: of the pipeline.

    Attributes:
        one_by_one: as of :class:`LatentSpace`.
    """

    one_by_one = False

    def __init__(self, vae: Any, size: int, reading: Reading) -> None:
        self.vae, self.size, self.shape = vae.requires_grad_(False).eval(), size, reading.shape
        self.frames = reading.frames
        self.dtype = torch.float32 if getattr(vae.config, "force_upcast", False) else None
        self.offset, self.factor = (
            v.view(1, *self.shape) for v in (reading.latent.offset, reading.latent.factor)
        )
        with torch.device("meta"):
            twin = type(vae).from_config(vae.config)
            found = encoded_mean(twin.encode(self._pictures(torch.empty(1, 3, size, size))))
        if tuple(self._flat(found).shape[1:]) != self.shape:
            raise UsageError(
                f"at {size} pixels its pipeline draws latents of {self.shape[1]} x {self.shape[2]}, and its VAE makes "
                f"{' x '.join(map(str, found.shape[-2:]))} of a picture: say another prior.model.size"
            )

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the VAE, in its own precision."""
        self.vae.to(device=device, dtype=self.dtype or dtype)
        self.offset, self.factor = self.offset.to(device), self.factor.to(device)

    def _pictures(self, image: Tensor) -> Tensor:
        return image[:, :, None] if self.frames else image

    def _flat(self, latent: Tensor) -> Tensor:
        return latent[:, :, 0] if self.frames else latent

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Resize, encode, take the mean, normalise; float32 at least."""
        return encoded_views(self._encoded, rgb, self.one_by_one)

    def _encoded(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        image = self._pictures(to_signed(rgb, self.size).to(self.vae.dtype))
        mean = self._flat(encoded_mean(self.vae.encode(image)))
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        return (mean - self.offset.to(mean)) / self.factor.to(mean)

    @torch.no_grad()
    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """The decoder's picture, without gradients."""
        latent = self._pictures(self.offset.to(x0) + self.factor.to(x0) * x0)
        return to_rgb(self._flat(self.vae.decode(latent.to(self.vae.dtype)).sample).float())


class Recorded(Family):
    """A pipeline that is run once, with recorders around its network, its scheduler and its VAE, and then repeated.

    Read off are: which arguments follow the time, the words and nothing; where each value of the noise goes, on the way
    to the network, from its answer to the scheduler and to the decoder, with which sign and scale; what is made of the
    answers with and without the words; and the shift of the noise levels. What the network answers is asked of it
    once, all else is known values that are traced. What follows the picture in another way (ControlNets, video) or is
    drawn at random (the image of Kandinsky 2.2's words) is refused by name. The text encoders are loaded twice.

    Arguments:
        settings: further arguments of the pipeline's call: numbers, words, true or false.
    """

    option = "recorded"
    pipelines = ()

    def __init__(self, settings: Mapping[str, float | int | bool | str] | None = None) -> None:
        self.settings = dict(settings or {})
        self.encoders = ()
        self._reading: Reading | None = None

    @classmethod
    def takes(cls, pipeline: str) -> bool:
        """Every pipeline of diffusers that draws a picture from a text alone."""
        import diffusers

        kind = None if pipeline in REFUSED else getattr(diffusers, pipeline, None)
        if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
            return False
        told = inspect.signature(kind.__call__).parameters
        needed = {n for n, p in told.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
        shown = {"num_frames", "mask_image", "strength"} & set(told) or "image" in needed
        beside = any(name.endswith("_conditioning_scale") for name in told)
        return "prompt" in told and needed <= {"self", "prompt"} and not shown and not beside

    def adapted(self, index: Mapping[str, Any]) -> Family:
        """With the names of this pipeline's components."""
        own = copy.copy(self)
        there = [
            name for name, entry in index.items() if isinstance(entry, (list, tuple)) and entry[0] is not None
        ]
        own.network = next((name for name in NETWORKS if name in there), NETWORKS[0])
        own.vae = next((name for name in DECODERS if name in there), DECODERS[0])
        tokenizers = [name for name in there if re.fullmatch(r"tokenizer(_\d)?", name)]
        pairs = [(name, name.replace("tokenizer", "text_encoder")) for name in sorted(tokenizers)]
        own.encoders = tuple(pair for pair in pairs if pair[1] in there)
        if own.network not in there or not own.encoders:
            raise UsageError(
                f"a {index.get('_class_name')} has no network of its own and text encoder that are found"
            )
        return own

    @property
    def reads(self) -> str:
        """With the size, which the network may be told, and the settings."""
        import diffusers

        said = " ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return f"{type(self).__name__} {self.reading.shape} {said} {diffusers.__version__}"

    @property
    def reading(self) -> Reading:
        """What was read off the pipeline."""
        assert self._reading is not None
        return self._reading

    def native_size(self, facts: Facts) -> int:
        """As its network's configuration says.

        Raises:
            UsageError: it does not.
        """
        if not facts.configs[self.network].get("sample_size") or "vae" not in facts.configs:
            raise UsageError("the size it was trained on is not known: say prior.model.size")
        return super().native_size(facts)

    def check(self, facts: Facts) -> None:
        """The reading refuses what is not understood."""

    def path(self, facts: Facts) -> tuple[NoisePath, PredictionKind]:
        """From the scheduler, with the shift that the pipeline tells it."""
        scheduler = facts.configs["scheduler"]
        path, kind = scheduler_path(scheduler)
        dynamic = isinstance(path, RectifiedFlowPath) and scheduler.get("use_dynamic_shifting")
        if dynamic and self._reading is not None and self._reading.mu is not None:
            assert isinstance(path, RectifiedFlowPath)
            exponential = scheduler.get("time_shift_type", "exponential") == "exponential"
            shift = math.exp(self._reading.mu) if exponential else float(self._reading.mu)
            path = RectifiedFlowPath(path.scale, shift)
        return path, kind

    def observe(self, load: Callable[[str], Any], parts: Mapping[str, Any], facts: Facts) -> None:
        """Runs the pipeline once and reads off what it does."""
        encoders = {name: load(name) for pair in self.encoders for name in pair}
        network = parts[self.network]
        for part in encoders.values():
            if isinstance(part, nn.Module):
                part.to(next(network.parameters()).dtype)
        self._vae, self._facts = parts.get(self.vae), facts
        try:
            self._reading = read(self._pipeline({**parts, **encoders}))
        except (UsageError, MemoryError):
            raise
        except Exception as error:
            raise ThreedistillError(
                f"its pipeline {facts.index.get('_class_name')} could not be run to be read off: "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error

    def _pipeline(self, parts: Mapping[str, Any]) -> Pipeline:
        import diffusers

        facts = self._facts
        scheduler = getattr(diffusers, str(facts.configs["scheduler"]["_class_name"]))
        pipe = shell(
            facts.index, {**parts, "scheduler": scheduler.from_config(dict(facts.configs["scheduler"]))}
        )
        pipe.set_progress_bar_config(disable=True)
        return Pipeline(
            pipe, self.network, self.vae if self._vae is not None else None, facts.size, self.settings
        )

    def space(self, vae: Any, facts: Facts) -> ImageSpace:
        """Its VAE's latents, or pixels."""
        return PixelSpace(facts.size) if vae is None else RecordedSpace(vae, facts.size, self.reading)

    @property
    def remarks(self) -> tuple[str, ...]:
        """How its own pipeline guides, where that is not how rules here do."""
        guided, said = self.reading.guided, []
        if guided is not None and guided.more:
            said.append(f"its pipeline's {guided.argument}=s is cfg.scale=s+1 here")
        if guided is not None and guided.keeps_norm:
            said.append(
                "its pipeline brings guided answers to the length of the conditional one, rules here do not"
            )
        return tuple(said)

    def length(self, tokenizer: str, pipe: Any) -> int:
        """What its pipeline says that it hears, or the tokenizer."""
        told = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
        limit = self.settings.get("max_sequence_length") or (told and told.default)
        own = int(getattr(pipe, tokenizer).model_max_length)
        return min(own, int(limit)) if isinstance(limit, int) and own > 77 else own

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """What of its network's arguments follows the words, by their paths."""
        reading = self.reading
        there = {name: part for name, part in pipe.components.items() if part is not None}
        if self._vae is not None:
            there[self.vae] = self._vae
        pipeline = self._pipeline(there)
        most = max(said.texts.values(), key=len)
        negative = said.role == "negative" and reading.guided is not None
        stem = "negative_prompt" if negative else "prompt"
        words: dict[str, Any] = {"prompt": most, stem: most}
        for tokenizer, text in said.texts.items():
            name = tokenizer.replace("tokenizer", stem)
            if name in pipeline.takes and name != stem:
                words[name] = text
        if len(said.texts) > 1 and f"{stem}_2" in pipeline.takes:
            words[stem] = said.texts.get("tokenizer", most)
        call, row = (0, 0)
        if negative:
            assert reading.guided is not None
            call, row = reading.guided.uncond
            words[reading.guided.argument] = SCALE
            if not most:
                words = {n: reading.guided.blank if n.startswith(stem) else v for n, v in words.items()}
        elif pipeline.scale:
            words[pipeline.scale] = reading.off
        seen = pipeline.watch(words, answer=lambda arguments, ask: reading.silent(arguments), calls=call + 1)
        return words_at(reading.template, seen.calls[call].arguments, row)

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The network's answer as its pipeline hands it to the scheduler; samples whose words differ in length are
        asked about one after the other, as the pipeline does.
        """
        follow = [leaf for leaf in leaves(self.reading.template) if leaf.kind in ("row", "shared")]
        keys = [f"{leaf.path}/shape" for leaf in follow if leaf.ragged]
        keys += [leaf.path for leaf in follow if leaf.kind == "shared"]

        def ask(rows: Tensor | slice) -> Tensor:
            own = {name: value[rows] for name, value in told.items()}
            return self._answer(network, x_t[rows], level.index[rows], own)

        return by_length(ask, len(x_t), told, keys)

    def _answer(self, network: Any, x_t: Tensor, index: Tensor, told: Conditioning) -> Tensor:
        """Of samples whose words have one shape."""
        reading, rows = self.reading, len(x_t)
        pictures = reading.picture(x_t.flatten(1))

        def value(leaf: Leaf, row: int | None) -> Any:
            if leaf.kind == "fixed":
                return leaf.value.to(x_t.device) if isinstance(leaf.value, Tensor) else leaf.value
            if leaf.kind == "picture":
                return pictures if row is None else pictures[row]
            if leaf.kind == "time":
                time, half = leaf.scale * index + leaf.offset, told.get(f"{leaf.path}/half")
                return (
                    time.to(x_t.dtype)
                    if x_t.element_size() < 4 and half is not None and bool(half[0])
                    else time
                )
            words = told[leaf.path]
            if leaf.ragged:
                shape = told[f"{leaf.path}/shape"][0].tolist()
                words = words[(slice(None), *(slice(n) for n in shape))]
            if leaf.kind == "row" and words.is_floating_point():
                words = words.to(x_t.dtype)
            words = words[0] if leaf.kind == "shared" else words if row is None else words[row]
            return words if isinstance(leaf.value, Tensor) else type(leaf.value)(words.item())

        answer = network(**fill(reading.template, value, rows))
        return reading.answer(torch.stack(rows_of(answer)).flatten(1))
