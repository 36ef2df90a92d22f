"""Any diffusers model as a prior: loaded by component, frozen, asked through its family's adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Conditions, Wording
from threedistill.errors import ThreedistillError
from threedistill.priors.embedding_cache import Embedding, EmbeddingCache, default_folder, stack
from threedistill.priors.families import Family
from threedistill.priors.loading import Source, find
from threedistill.types import Condition, Conditioning, NoiseLevel, Prediction, PredictionKind
from threedistill.values import Within

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def pick_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The named dtype; ``auto`` is float16 on a GPU and float32 elsewhere."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


class DiffusersPrior:
    """A frozen text-to-image model. Cameras and backgrounds reach it only as words in the prompt.

    Arguments:
        name: what it is called in tables and messages.
        family: the adapter of its family.
        model: a pipeline folder or a hub id.
        mirrors: further places of the same weights, tried in order.
        revision: branch, tag or commit on the hub; None = the default branch.
        size: pixels per side that it sees; None = as trained.
        dtype: of weights and compute; ``auto`` = float16 on a GPU, float32 on a CPU.
        variant: such as ``fp16``, to download the smaller files where they exist.
        licence: of the weights; travels into the asset.
        cache: whether text embeddings are kept on disk.

    Raises:
        ThreedistillError: the weights could not be found or read.
    """

    view_group = 1
    wants: frozenset[Condition] = frozenset({"text"})

    def __init__(
        self,
        *,
        name: str,
        family: Family,
        model: str,
        mirrors: tuple[str, ...] = (),
        revision: str | None = None,
        size: Annotated[int, Within(8, 8192)] | None = None,
        dtype: DtypeName = "auto",
        variant: str | None = None,
        licence: str = "unknown",
        cache: bool = True,
    ) -> None:
        self.name, self.licence, self.family = name, licence, family
        self._variant = variant
        self._dtype_name: DtypeName = dtype
        self.kind: PredictionKind
        try:
            self.source: Source = find(model, tuple(mirrors), revision)
            self.path, self.kind = family.path(self.source.config("scheduler"))
            self.network = self._load(family.network)
            self.space = family.space(
                self._load("vae") if "vae" in self.source.index else None, self.network, size
            )
        except ThreedistillError as error:
            raise type(error)(
                f"prior {name}: {error}. Download it where there is a network (`hf download {model}`), give a folder "
                "with prior.model.model=/path/to/pipeline, or use prior=toybox, which is always there"
            ) from None
        self.revision = f"{self.source.location}@{self.source.commit}"
        self._encoders: list[tuple[Any, Any]] | None = None
        folder: Path | None = default_folder() if cache else None
        self.texts = EmbeddingCache(self._encode, f"{self.revision}/{type(family).__name__}", folder)
        self.to("cpu")

    def _load(self, component: str) -> Any:
        # Loaded in float32 or as stored; `to` sets the final dtype once the device is known.
        module = self.source.load(component, variant=self._variant)
        return module.requires_grad_(False).eval()

    def _encode(self, wordings: Sequence[Wording]) -> list[Embedding]:
        """Text encoders are large and needed once: loaded at the first unknown text, on the CPU."""
        if self._encoders is None:
            self._encoders = [
                (self.source.load(t), self._load(e).to(self.device)) for t, e in self.family.encoders
            ]
        return self.family.encode(self._encoders, wordings)

    def to(self, device: torch.device | str) -> DiffusersPrior:
        """Moves the networks to ``device`` in the dtype chosen for it."""
        self.device = torch.device(device)
        self.dtype = pick_dtype(self._dtype_name, self.device)
        self.network.to(device=self.device, dtype=self.dtype)
        if self.network.device.type == "cpu":
            self.network.to(memory_format=torch.channels_last)
        vae = getattr(self.space, "vae", None)
        if vae is not None:
            vae.to(device=self.device, dtype=self.dtype)
        for _, encoder in self._encoders or ():
            encoder.to(self.device)
        return self

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """The texts' embeddings."""
        return stack(self.texts(conditions.wordings), self.device)

    @torch.no_grad()
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The network's answer, computed in its dtype and returned in that of ``x_t``."""
        return self.ask(self.network, x_t, level, conditioning)

    def ask(
        self, network: Any, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The answer of ``network``, which takes and gives what the prior's own does; gradients flow."""
        index = level.index.to(device=self.device, dtype=torch.float32)
        value = self.family.denoise(network, x_t.to(self.dtype), index, conditioning)
        return Prediction(value.to(x_t.dtype), self.kind, x_t, level)
