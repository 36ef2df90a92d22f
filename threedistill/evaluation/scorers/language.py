"""A vision-language model that is asked, and how sure it is of "yes": any image-text-to-text folder of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.scorers.folders import ModelFolder
from threedistill.messages import shown
from threedistill.scoring import Scorer

__all__ = ["VisionLanguage"]

#: How an answer may begin; vocabularies know a word with and without the space before it.
_YES, _NO = ("Yes", " Yes", "yes", " yes"), ("No", " No", "no", " no")


class VisionLanguage(Scorer):
    """The log odds of "yes" when a model that sees and speaks is asked whether a picture shows a text:

        log sum_{y in yes} p(y) - log sum_{n in no} p(n)

    of the first token of its answer, over the ways in which the words can begin.

    Source: Lin et al. 2024, arXiv:2404.01291 (VQAScore, which is the probability of yes).

    Arguments:
        folder: an image-text-to-text model of transformers with its processor.
        question: what is asked, ``{}`` where the text goes.
        size: pixels a side of the pictures that its own processor is given.
        batch: questions at once.

    Raises:
        UsageError: no such folder, not such a model, or a question without a place for the text.
    """

    def __init__(
        self, folder: str, question: str = 'Does this picture show "{}"? Answer yes or no.', size: int = 336,
        batch: int = 8,
    ) -> None:  # fmt: skip
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

        self.folder, self.question, self.size, self.batch = ModelFolder(folder), question, size, batch
        if "{}" not in question:
            raise UsageError(f"question={question!r} must hold {{}}, where the text goes")
        if type(self._config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or self._config.is_encoder_decoder:
            raise UsageError(
                f"model folder {folder}: a {self.folder.kind} model; this scorer takes those that go on after a "
                "picture and a question (image-text-to-text of transformers, decoders only)"
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def version(self) -> str:
        return self.folder.version

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self.folder.load(AutoConfig.from_pretrained)

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForImageTextToText

        read = AutoModelForImageTextToText.from_pretrained
        found: Any = self.folder.load(read, use_safetensors=True, dtype="auto")  # many do not fit in float32
        return found.eval().requires_grad_(False).to(self._device)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        found = self.folder.load(AutoProcessor.from_pretrained)
        found.tokenizer.padding_side = "left"  # the answer comes after the last token
        if found.tokenizer.pad_token is None:
            found.tokenizer.pad_token = found.tokenizer.eos_token
        return found

    @cached_property
    def _answers(self) -> tuple[list[int], list[int]]:
        """The tokens with which "yes" begins, and those of "no"."""
        words = self._processor.tokenizer

        def firsts(forms: Sequence[str]) -> set[int]:
            pieces = (words.encode(form, add_special_tokens=False) for form in forms)
            return {piece[0] for piece in pieces if piece} - {words.unk_token_id}

        yes, no = firsts(_YES), firsts(_NO)
        yes, no = yes - no, no - yes  # a space of its own begins both
        if not yes or not no:
            raise ThreedistillError(f"{self.folder.path}: its vocabulary does not tell yes from no")
        return sorted(yes), sorted(no)

    @torch.no_grad()
    def __call__(self, pictures: Float[Tensor, "B H W 3"], texts: Sequence[str]) -> Float[Tensor, "B T"]:
        from PIL import Image

        seen = [
            Image.fromarray((one.clamp(0, 1) * 255).round().byte().cpu().numpy()) for one in pictures.detach()
        ]
        asked = [self._asked(text) for text in texts]
        pairs = [(picture, line) for picture in seen for line in asked]
        odds = [self._odds(pairs[start : start + self.batch]) for start in range(0, len(pairs), self.batch)]
        return torch.cat(odds).reshape(len(seen), len(asked))

    def _asked(self, text: str) -> str:
        """The question as the model was taught to be asked, up to where its answer begins."""
        question = self.question.replace("{}", text)
        if not self._processor.chat_template:
            return f"{getattr(self._processor, 'image_token', None) or ''}{question}"
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _odds(self, pairs: Sequence[tuple[Any, str]]) -> Float[Tensor, "N"]:
        """The log odds of each picture and question."""
        lines, start = [line for _, line in pairs], self._processor.tokenizer.bos_token
        once = {"add_special_tokens": False} if start and lines[0].startswith(start) else {}
        try:
            given = self._processor(
                images=[[picture] for picture, _ in pairs],
                text=lines,
                padding=True,
                return_tensors="pt",
                **once,
            )
        except (
            ValueError,
            RuntimeError,
            IndexError,
        ) as error:  # such as a text that holds the mark of a picture
            line = " ".join(str(error).split())[:200]
            raise ThreedistillError(f"{self.folder.path} cannot be asked {shown(lines[0])}: {line}") from None
        network = self._network
        logits = network(**given.to(self._device, dtype=network.dtype)).logits[:, -1].float()
        yes, no = self._answers
        return (logits[:, yes].logsumexp(-1) - logits[:, no].logsumexp(-1)).cpu()

    def to(self, device: torch.device | str) -> Self:
        """Moves what is loaded; what is not will be loaded there."""
        self._device = torch.device(device)
        if "_network" in vars(self):
            self._network.to(self._device)
        return self
