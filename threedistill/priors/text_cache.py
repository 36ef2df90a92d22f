"""Text embeddings, and what else follows from a text alone: computed once per wording, kept in memory and on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

#: One text's embeddings by name, without a batch dimension.
Embedding = dict[str, Tensor]


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/threedistill/text``, or ``~/.cache/threedistill/text``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threedistill" / "text"


class TextCache:
    """Looks texts up in memory, then on disk, and encodes only the rest.

    Arguments:
        encode: texts -> one embedding each; called once with all missing texts.
        revision: names the model and its exact version.
        folder: where files are kept; None keeps nothing on disk.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], list[Embedding]], revision: str, folder: Path | None = None
    ) -> None:
        self._encode, self._revision, self._folder = encode, revision, folder
        self._memory: dict[str, Embedding] = {}

    def __call__(self, texts: Sequence[str]) -> list[Embedding]:
        """One embedding per text, in order."""
        for text in dict.fromkeys(texts):
            if text not in self._memory and (found := self._read(text)) is not None:
                self._memory[text] = found
        missing = [text for text in dict.fromkeys(texts) if text not in self._memory]
        if missing:
            for text, embedding in zip(missing, self._encode(missing)):
                self._memory[text] = {k: v.detach().cpu() for k, v in embedding.items()}
                self._write(text)
        return [self._memory[text] for text in texts]

    def _file(self, text: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.blake2b(f"{self._revision}\n{text}".encode(), digest_size=16).hexdigest()
        return self._folder / f"{name}.safetensors"

    def _read(self, text: str) -> Embedding | None:
        file = self._file(text)
        if file is None or not file.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (OSError, SafetensorError):
            return None  # a damaged file is encoded and written again

    def _write(self, text: str) -> None:
        file = self._file(text)
        if file is None:
            return
        from safetensors.torch import save_file

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            os.close(handle)
            save_file({k: v.contiguous() for k, v in self._memory[text].items()}, temporary)
            os.replace(temporary, file)
        except OSError:
            return  # a full or read-only disk costs time, not the run


def stack(embeddings: Sequence[Embedding], device: torch.device) -> dict[str, Tensor]:
    """Embeddings of ``B`` texts as batch-first tensors."""
    return {k: torch.stack([e[k] for e in embeddings]).to(device) for k in embeddings[0]}
