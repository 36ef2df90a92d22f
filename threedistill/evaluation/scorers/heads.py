"""How well a picture is liked: a network's features and a small head that was taught people's choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.scorers.dual import DualEncoder
from threedistill.evaluation.scorers.folders import FolderScorer, prepared
from threedistill.scoring import Scorer

__all__ = ["Aesthetic", "MatchReward", "linear_head"]


def linear_head(file: str | Path, features: int) -> nn.Sequential:
    """A head of linear layers, one after the other with nothing between, as the aesthetic predictor and ImageReward
    have them: ``layers.0.weight, layers.0.bias, layers.2.weight ...``, or one layer ``weight, bias``.

    Arguments:
        file: a ``.safetensors``; names before ``layers.`` (``mlp.``) and tensors of other names are passed over.
        features: what goes into the first layer.

    Raises:
        ThreedistillError: no such file, or layers that do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(str(Path(file).expanduser()))
    except (OSError, SafetensorError) as error:
        raise ThreedistillError(f"{file} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        place, _, kind = name.rpartition(".")
        _, _, number = place.rpartition("layers.")
        if kind in ("weight", "bias") and (number.isdigit() or not place):
            found.setdefault(int(number or 0), {})[kind] = value.float()
    layers, width = [], features
    for number in sorted(found):
        weight, bias = found[number].get("weight"), found[number].get("bias")
        if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != width:
            raise ThreedistillError(f"{file}: layer {number} does not take {width} features")
        layer = nn.Linear(width, len(weight))
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
        width = len(weight)
    if not layers or width != 1:
        raise ThreedistillError(f"{file}: no head that ends in one number")
    return nn.Sequential(*layers).eval().requires_grad_(False)


class Aesthetic(Scorer):
    """How much people like a picture, whatever it shows: a head on CLIP's unit features, about 1 to 10.

    Source: LAION's aesthetic predictor (Schuhmann et al. 2022, arXiv:2210.08402).

    Arguments:
        folder: the CLIP model that the head was trained on.
        head: its ``.safetensors`` (:func:`linear_head`); by default ``aesthetic.safetensors`` in the folder.
    """

    differentiable = True
    reads = False

    def __init__(self, folder: str, head: str | None = None) -> None:
        self._eyes = DualEncoder(folder)
        self.size = self._eyes.size
        self.head = Path(head) if head else Path(folder) / "aesthetic.safetensors"
        if not self.head.expanduser().is_file():
            raise UsageError(
                f"{self.head}: there is no such file; the aesthetic head goes there, as safetensors"
            )

    @property
    def version(self) -> str:
        return self._eyes.version

    @cached_property
    def _head(self) -> nn.Sequential:
        return linear_head(self.head, self._eyes._config.projection_dim)

    def __call__(self, pictures: Float[Tensor, "B H W 3"], texts: Sequence[str]) -> Float[Tensor, "B T"]:
        seen = F.normalize(self.features(pictures), dim=-1)
        return self._head(seen).expand(-1, len(texts))

    def features(self, pictures: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        return self._eyes.features(pictures)

    def to(self, device: torch.device | str) -> Self:
        self._eyes.to(device)
        self._head.to(device)
        return self


class MatchReward(FolderScorer):
    """A network that reads the text while it looks at the picture (BLIP), and a head on what it makes of both.

    With a head it is a reward as ImageReward: ``(head(h) - mean) / std`` of the first token's state ``h``. Without one
    it is BLIP's own answer to "does this text belong to this picture?": the log odds of yes.

    Source: Xu et al. 2023, arXiv:2304.05977; Li et al. 2022, arXiv:2201.12086.

    Arguments:
        folder: a BLIP image-text matching model of transformers.
        head: its ``.safetensors`` (:func:`linear_head`); None = ``reward.safetensors`` in the folder, where it is.
        mean, std: what the head's numbers are normalised by; ImageReward's own.
        batch: pairs at once.
    """

    def __init__(
        self, folder: str, head: str | None = None, mean: float = 0.16717362830052426,
        std: float = 1.0333394966054072, batch: int = 24,
    ) -> None:  # fmt: skip
        super().__init__(folder, ("blip",), batch)
        self.mean, self.std = mean, std
        beside = self.folder.path / "reward.safetensors"
        self.head = Path(head) if head else beside if beside.is_file() else None

    @cached_property
    def _config(self) -> Any:
        from transformers import BlipConfig

        return self.folder.load(BlipConfig.from_pretrained)

    @cached_property
    def _network(self) -> Any:
        from transformers import BlipForImageTextRetrieval

        return self.folder.network(BlipForImageTextRetrieval).to(self._device)

    @cached_property
    def _head(self) -> nn.Sequential | None:
        if self.head is None:
            return None
        return linear_head(self.head, self._config.text_config.hidden_size).to(self._device)

    def __call__(self, pictures: Float[Tensor, "B H W 3"], texts: Sequence[str]) -> Float[Tensor, "B T"]:
        seen = self._seen(pictures)
        return torch.stack(
            [torch.cat([self._pair(part, t) for part in seen.split(self.batch)]) for t in texts], 1
        )

    def features(self, pictures: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """The picture encoder's first token."""
        return self._seen(pictures)[:, 0]

    def _seen(self, pictures: Tensor) -> Float[Tensor, "B P D"]:
        x = prepared(pictures.to(self._device), self.how)
        eyes = self._network.vision_model
        return torch.cat([eyes(pixel_values=part).last_hidden_state for part in x.split(self.batch)])

    def _pair(self, seen: Float[Tensor, "B P D"], text: str) -> Float[Tensor, "B"]:
        longest = int(self._config.text_config.max_position_embeddings)
        # ImageReward was taught with 35 tokens.
        tokens = self._words(text, truncation=True, max_length=min(longest, 35), return_tensors="pt")
        count = len(seen)
        state = self._network.text_encoder(
            input_ids=tokens["input_ids"].to(self._device).expand(count, -1),
            attention_mask=tokens["attention_mask"].to(self._device).expand(count, -1),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self._device),
        ).last_hidden_state[:, 0]
        if self._head is not None:
            return (self._head(state)[:, 0] - self.mean) / self.std
        odds = self._network.itm_head(state)
        return odds[:, 1] - odds[:, 0]
