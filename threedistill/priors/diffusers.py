"""Any diffusers model as a prior: loaded by component, frozen, asked through its family's adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import MAPS, Conditions, Wording
from threedistill.errors import ThreedistillError, UsageError
from threedistill.priors.embedding_cache import Embedding, EmbeddingCache, default_folder, stack
from threedistill.priors.families import FAMILIES, Facts, Family, Picture, Said
from threedistill.priors.families.recorded import RecordedSpace
from threedistill.priors.families.refused import REFUSED
from threedistill.priors.families.shell import shell
from threedistill.priors.fetching import is_hub_id
from threedistill.priors.loading import Source, find
from threedistill.priors.long_prompts import fitted
from threedistill.priors.precision import DtypeName, pick_dtype
from threedistill.priors.prior_lora import fold_lora
from threedistill.priors.single_file import find_file, is_single_file
from threedistill.priors.space import LatentSpace
from threedistill.priors.textual_inversion import heard, read_words, teach
from threedistill.protocols import NetworkPrior
from threedistill.types import Condition, Conditioning, NoiseLevel, Prediction, PredictionKind
from threedistill.values import Within

__all__ = ["DiffusersPrior", "cast"]


def cast(network: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a network; the modules that its class keeps in float32 are cast to nothing else."""
    kept = {name for m in network.modules() for name in getattr(m, "_keep_in_fp32_modules", None) or ()}
    for module in network.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor.data = tensor.data.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    if not kept or dtype == torch.float32:
        return
    for name, module in network.named_modules():
        if kept & set(name.split(".")):
            module.float()


class DiffusersPrior(NetworkPrior):
    """A frozen text-to-image model. Cameras and backgrounds reach it only as words in the prompt.

    Arguments:
        name: what it is called in tables and messages.
        family: the adapter of its family.
        model: a pipeline folder or a hub id.
        home: the hub id that ``mirrors`` and ``licence`` belong to: another model is looked for in no mirror, and its
            licence is what its own model card says; None = ``model``, whatever it is.
        mirrors: further places of the same weights, tried in order.
        revision: branch, tag or commit on the hub; None = the default branch.
        size: pixels per side that it sees; None = as trained.
        dtype: of weights and compute; ``auto`` = the family's 16 bit on a GPU, float32 on a CPU.
        variant: such as ``fp16``, to download the smaller files where they exist.
        licence: of the weights; travels into the asset.
        one_by_one: whether views are encoded one by one, and again in the backward pass, which takes the memory of one.
        offload: whether on a GPU the network's layers wait in the main memory, as for :meth:`offload`.
        lora: a .safetensors file of adapters that are folded into the network; None = none.
        lora_scale: factor on what they add.
        layout: where ``model`` is one .safetensors file, a pipeline of its kind (folder or hub id); None = ``home``.
        textual_inversion: a .safetensors file of a trained word, or a folder of such; None = none.
        cache: whether text embeddings are kept on disk.

    Raises:
        ThreedistillError: the weights could not be found or read.
        UsageError: a model that is not of this family; no weights are read for that.
    """

    wants: frozenset[Condition] = frozenset({"text", "camera", "image", *MAPS})
    offloaded, _offloads = False, False

    def __init__(
        self,
        *,
        name: str,
        family: Family,
        model: str,
        home: str | None = None,
        mirrors: tuple[str, ...] = (),
        revision: str | None = None,
        size: Annotated[int, Within(8, 8192)] | None = None,
        dtype: DtypeName = "auto",
        variant: str | None = None,
        licence: str = "unknown",
        one_by_one: bool = False,
        offload: bool = False,
        lora: str | None = None,
        lora_scale: Annotated[float, Within(-100, 100)] = 1.0,
        layout: str | None = None,
        textual_inversion: str | None = None,
        cache: bool = True,
    ) -> None:
        self.name, self.wants = name, family.wants
        self._unheard: dict[int, str] = {}
        self._remarks: list[str] = []
        self._variant = variant
        self._dtype_name: DtypeName = dtype
        self._offloads = offload
        self.kind: PredictionKind
        own = home in (None, model)
        try:
            self._words = read_words(textual_inversion) if textual_inversion else ()
            if is_single_file(model):
                described = home if layout is None else layout
                further = tuple(mirrors) if layout in (None, home) else ()
                self.source: Source = find_file(model, described, further, revision)
            else:
                self.source = find(model, tuple(mirrors) if own else (), revision)
        except UsageError as error:
            raise UsageError(f"prior {name}: {error}") from None
        except ThreedistillError as error:
            download = (
                f"Download it where there is a network (`hf download {model}`), give"
                if is_hub_id(model)
                else "Give"
            )
            raise type(error)(
                f"prior {name}: {error}. {download} a folder with prior.model.model=/path/to/pipeline, or use "
                "prior=toybox, which is always there"
            ) from None
        try:
            self.family = family = self._fitting(family)
            self.facts = self._facts(size)
            self.path, self.kind = family.path(self.facts)
            self._parts = {part: self._load(part) for part in family.components()}
            adapted = self._fold(lora, lora_scale) if lora else ""
            self.network = family.assemble(self._parts)
            vae = self._load(family.vae) if "vae" in self.facts.configs else None
            family.observe(self._load, {**self._parts, family.vae: vae}, self.facts)
            self.path, self.kind = family.path(self.facts)
            self.space = family.space(vae, self.facts)
            self._remarks += [f"prior {name}: {said}" for said in family.remarks]
            if one_by_one and isinstance(self.space, LatentSpace | RecordedSpace):
                self.space.one_by_one = True
        except ThreedistillError as error:
            raise type(error)(f"prior {name}: {error}") from None
        self.licence = licence if own else self.source.licence() or "unknown"
        self.revision = f"{self.source.location}@{self.source.commit}"
        beside = "".join(f" + {part.version}" for part in family.elsewhere().values())
        taught = "".join(f" + {word.file}@{word.digest}" for word in self._words)
        self.version = self.revision + beside + adapted + taught
        self.view_group = family.view_group
        self._remarks += [
            f"prior {name}: {word.file} teaches it the word {word.word}" for word in self._words
        ]
        folder: Path | None = default_folder() if cache else None
        self.texts = EmbeddingCache(self._encode, f"{self.revision}{taught}/{family.reads}", folder)
        self.pictures = EmbeddingCache(
            self._look, f"{self.revision}{beside}/pictures of {self.facts.size}", folder
        )
        self.to("cpu")

    @classmethod
    def wants_of(cls, arguments: Mapping[str, Any]) -> frozenset[Condition]:
        """What its family can be told."""
        return arguments["family"].wants

    def _fitting(self, family: Family) -> Family:
        """The family as it is for this model; a model of another family ends here."""
        index = self.source.index
        found = str(index.get("_class_name"))
        if not family.takes(found):
            other = REFUSED.get(found)
            other = other or next((f"use --prior {f.option}" for f in FAMILIES if f.takes(found)), None)
            raise UsageError(
                f"{self.source.location} is a {found}, which this prior does not read; "
                f"{other or 'none that ships does (docs/extend/prior.md)'}"
            )
        return family.adapted(index)

    def _facts(self, size: int | None) -> Facts:
        """What is known before weights are read."""
        index, family = self.source.index, self.family
        elsewhere = family.elsewhere()
        parts = {part: part for part in ("scheduler", *family.components()) if part not in elsewhere}
        configs = {
            name: self.source.config(part)
            for name, part in {**parts, "vae": family.vae}.items()
            if index.get(part, [None])[0] is not None
        }
        configs |= {name: place.config() for name, place in elsewhere.items()}
        facts = Facts(index, configs)
        try:
            family.check(facts)
        except UsageError as error:
            raise UsageError(f"{self.source.location} does not fit: {error}") from None
        return Facts(index, configs, size or family.native_size(facts))

    def _fold(self, lora: str, scale: float) -> str:
        """Folds adapters into the network; gives what the version says of it."""
        pipe = shell(self.source.index, self._parts)
        digest, words = fold_lora(pipe, self.family.network, lora, scale)
        if words:
            self._remarks.append(f"prior {self.name}: what {lora} has for the text encoders is not used")
        return f" + {scale:g} {lora}@{digest}"

    def _load(self, component: str) -> Any:
        # Loaded in float32 or as stored; `to` sets the final dtype once the device is known.
        elsewhere = self.family.elsewhere().get(component)
        if elsewhere is not None:
            loaded = elsewhere.load(self._variant)
        else:
            loaded = self.source.load(
                component, variant=self._variant, kind=self.family.classes().get(component)
            )
        return loaded.requires_grad_(False).eval() if isinstance(loaded, torch.nn.Module) else loaded

    def _encode(self, wordings: Sequence[Wording]) -> list[Embedding]:
        """One embedding each. Text encoders are large: loaded here, and gone when this is done."""
        parts: dict[str, Any] = dict(self._parts)
        pairs = [
            pair
            for pair in self.family.encoders
            if self.source.has(pair[1]) or pair[1] not in self.family.optional
        ]
        for tokenizer, encoder in pairs:
            parts[tokenizer] = self._load(tokenizer)
            parts[encoder] = self._load(encoder).to(self.device)
        pipe = shell(self.source.index, parts)
        teach(pipe, self._words)
        told: list[Embedding] = []
        for wording in wordings:
            texts = {name: self._heard(wording.text, name, pipe) for name, _ in pairs}
            told.append(self.family.encode(pipe, Said(texts, wording.role), self.facts))
        return told

    def _look(self, pictures: Sequence[Picture]) -> list[Embedding]:
        """One embedding each. The image encoder is loaded here, and gone when this is done."""
        encoder = self._load("image_encoder").to(self.device)
        return [self.family.look(encoder, picture, self.space, self.facts) for picture in pictures]

    def _heard(self, text: str, tokenizer: str, pipe: Any) -> str:
        """The text as far as an encoder hears it, its view words included; what is cut is noted."""
        limit = self.family.length(tokenizer, pipe)
        read = getattr(pipe, tokenizer)
        said, lost = fitted(text, lambda words: len(read(heard(pipe, words, tokenizer)).input_ids), limit)
        if len(lost) > len(self._unheard.get(limit, "")):
            self._unheard[limit] = lost
        return said

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not used, and what the text encoders could not hear so far."""
        return *self._remarks, *(
            f"prior {self.name}: a text encoder that holds {limit} tokens does not hear the end of the prompt: {lost}"
            for limit, lost in self._unheard.items()
        )

    def prepare(self, wordings: Sequence[Wording]) -> None:
        """Encodes all that will be said, so that the text encoders are loaded once."""
        if "text" in self.wants:
            self.texts(wordings)

    def to(self, device: torch.device | str) -> Self:
        """Moves the networks to ``device`` in the dtype chosen for it."""
        self.device = torch.device(device)
        self.dtype = pick_dtype(self._dtype_name, self.device, self.family.half)
        if self._offloads and self.device.type != "cpu":
            self.offload()
        else:
            cast(self.network, self.device, self.dtype)
        if self.device.type == "cpu" and all(p.ndim < 5 for p in self.network.parameters()):
            network: Any = self.network
            network.to(memory_format=torch.channels_last)
        self.space.to(self.device, self.dtype)
        return self

    def offload(self) -> None:
        """Let the network's layers wait in the main memory, each on the prior's device while it computes.

        diffusers' group offloading, layer by layer: the same answers from the memory of the largest layer, in the time
        that it takes to copy the network once per question. For a network that nobody trains.
        """
        from diffusers.hooks import apply_group_offloading

        waits = torch.device("cpu")
        cast(self.network, waits, self.dtype)
        if not self.offloaded:
            apply_group_offloading(self.network, self.device, waits, offload_type="leaf_level")
            self.offloaded = True

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """The texts' embeddings, and what the family makes of the views."""
        shown = self.family.show(conditions, self.space, self.facts)
        return {
            **(stack(self.texts(conditions.wordings), self.device) if "text" in self.wants else {}),
            **(self._seen(conditions) if "image" in self.wants else {}),
            **{name: value.to(self.device) for name, value in shown.items()},
        }

    def _seen(self, conditions: Conditions) -> Conditioning:
        """The pictures' embeddings, (B, M, ...); that of none is made along with them, for questions without."""
        pictures, withheld = [Picture(image) for image in conditions.images], Picture()
        embeddings = self.pictures([*pictures, withheld])
        seen = stack(embeddings[: len(pictures)] or embeddings, self.device)
        return {name: value.expand(len(conditions), *value.shape) for name, value in seen.items()}

    def ask(
        self, network: Any, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The answer of ``network``, which takes and gives what the prior's own does; gradients flow."""
        index = level.index.to(device=self.device, dtype=torch.float32)
        told = NoiseLevel(level.alpha, level.sigma, index)
        value = self.family.denoise(network, x_t.to(self.dtype), told, conditioning, self.facts)
        return Prediction(value.to(x_t.dtype), self.kind, x_t, level)
