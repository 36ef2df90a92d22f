"""What follows from one condition alone, such as a wording's embedding: computed once, kept in memory and on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["Embedding", "EmbeddingCache", "Fingerprinted", "Told", "default_folder", "stack"]

#: One condition's embeddings by name, without a batch dimension.
Embedding = dict[str, Tensor]


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/threedistill/text``, or ``~/.cache/threedistill/text``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threedistill" / "text"


class Fingerprinted(Protocol):
    """A condition that caches can tell from others: a wording with its role, a reference image with its camera."""

    @property
    def fingerprint(self) -> str: ...


Told = TypeVar("Told", bound=Fingerprinted)


class EmbeddingCache(Generic[Told]):
    """Looks conditions up in memory, then on disk, and encodes only the rest.

    Arguments:
        encode: conditions -> one embedding each; called once with all that are missing.
        revision: names the model and its exact version.
        folder: where files are kept; None keeps nothing on disk.
    """

    def __init__(
        self, encode: Callable[[Sequence[Told]], list[Embedding]], revision: str, folder: Path | None = None
    ) -> None:
        self._encode, self._revision, self._folder = encode, revision, folder
        self._memory: dict[str, Embedding] = {}

    def __call__(self, conditions: Sequence[Told]) -> list[Embedding]:
        """One embedding per condition, in order."""
        asked = {condition.fingerprint: condition for condition in conditions}
        for key in asked:
            if key not in self._memory and (found := self._read(key)) is not None:
                self._memory[key] = found
        missing = [key for key in asked if key not in self._memory]
        if missing:
            for key, embedding in zip(missing, self._encode([asked[key] for key in missing]), strict=True):
                self._memory[key] = {k: v.detach().cpu() for k, v in embedding.items()}
                self._write(key)
        return [self._memory[condition.fingerprint] for condition in conditions]

    def _file(self, key: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.blake2b(f"{self._revision}\n{key}".encode(), digest_size=16).hexdigest()
        return self._folder / f"{name}.safetensors"

    def _read(self, key: str) -> Embedding | None:
        file = self._file(key)
        if file is None or not file.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (OSError, SafetensorError):
            return None  # a damaged file is encoded and written again

    def _write(self, key: str) -> None:
        file = self._file(key)
        if file is None:
            return
        from safetensors.torch import save_file

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            os.close(handle)
            save_file({k: v.contiguous() for k, v in self._memory[key].items()}, temporary)
            os.replace(temporary, file)
        except OSError:
            return  # a full or read-only disk costs time, not the run


def stack(embeddings: Sequence[Embedding], device: torch.device) -> dict[str, Tensor]:
    """Embeddings of ``B`` conditions as batch-first tensors; shorter ones end in zeros."""
    return {k: _stacked([e[k] for e in embeddings]).to(device) for k in embeddings[0]}


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    if all(row.shape == rows[0].shape for row in rows):
        return torch.stack(list(rows))
    most = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    whole = rows[0].new_zeros(len(rows), *most)
    for place, row in zip(whole, rows, strict=True):
        place[tuple(slice(n) for n in row.shape)] = row
    return whole
