"""Two encoders, one for pictures and one for words, and the angle between what they say: CLIP and SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.evaluation.scorers.folders import FolderScorer, prepared
from threedistill.evaluation.scorers.openclip import clip_config, clip_network

__all__ = ["DualEncoder"]

_KINDS = ("clip", "siglip", "open_clip")


class DualEncoder(FolderScorer):
    """``100 cos(f(picture), g(text))``, or as the model was trained to compare: ``exp(s) cos + b``.

    The first is the CLIP score of the text-to-3D papers (not cut off at 0, so that it has gradients everywhere). The
    second is what preference models of this shape say (PickScore, HPS).

    Source: Radford et al. 2021, arXiv:2103.00020; Zhai et al. 2023, arXiv:2303.15343.

    Arguments:
        folder: a CLIP or SigLIP model of transformers, or a CLIP model of open_clip.
        unit: ``cosine`` or ``logit``.
        template: the sentence that a text is put into, ``{}`` where it goes.
        batch: pictures or texts at once.
    """

    def __init__(
        self, folder: str, unit: Literal["cosine", "logit"] = "cosine", template: str = "{}", batch: int = 24
    ) -> None:
        super().__init__(folder, _KINDS, batch)
        self.unit, self.template = unit, template
        if "{}" not in template:
            raise UsageError(f"template={template!r} must hold {{}}, where the text goes")

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        if self.folder.kind == "open_clip":
            return clip_config(self.folder)
        return self.folder.load(AutoConfig.from_pretrained)

    @cached_property
    def _network(self) -> Any:
        from transformers import CLIPModel, SiglipModel

        if self.folder.kind == "open_clip":
            network = clip_network(self.folder)
        else:
            network = self.folder.network(CLIPModel if self.folder.kind == "clip" else SiglipModel)
        return network.to(self._device)

    @cached_property
    def logit_scale(self) -> float:
        return float(self._network.logit_scale.exp()) / 100 if self.unit == "cosine" else 1.0

    def __call__(self, pictures: Float[Tensor, "B H W 3"], texts: Sequence[str]) -> Float[Tensor, "B T"]:
        network = self._network
        seen, said = F.normalize(self.features(pictures), dim=-1), self._said(tuple(texts))
        cosine = seen @ said.T
        if self.unit == "cosine":
            return 100 * cosine
        bias = getattr(network, "logit_bias", None)  # SigLIP's
        return network.logit_scale.exp() * cosine + (0 if bias is None else bias)

    def features(self, pictures: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """The picture encoder's projection, not normalised."""
        x = prepared(pictures.to(self._device), self.how)
        found = [
            self._network.get_image_features(pixel_values=part).pooler_output for part in x.split(self.batch)
        ]
        return torch.cat(found)

    @torch.no_grad()
    def _said(self, texts: tuple[str, ...]) -> Float[Tensor, "T D"]:
        """Unit vectors of texts."""
        longest = int(self._config.text_config.max_position_embeddings)
        # SigLIP has learned what padding looks like; CLIP is masked and need not be padded to its length.
        padding = "max_length" if self.folder.kind == "siglip" else True
        found = []
        for start in range(0, len(texts), self.batch):
            lines = [self.template.replace("{}", text) for text in texts[start : start + self.batch]]
            tokens = self._words(
                lines, padding=padding, truncation=True, max_length=longest, return_tensors="pt"
            )
            given = {k: v.to(self._device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
            if self.folder.kind == "siglip":
                given.pop("attention_mask", None)
            found.append(self._network.get_text_features(**given).pooler_output)
        return F.normalize(torch.cat(found), dim=-1)
