"""Named tensors in one safetensors file with a checksum over every byte: what was damaged on the disk is noticed.

    checksum = SHA-256 of the header's other entries, then of each tensor's name, type, shape and bytes, by name

safetensors checks lengths only; a flipped bit in a weight would be optimised further without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from threedistill.errors import ThreedistillError

__all__ = ["Damaged", "read_tensors", "tensor_bytes"]


class Damaged(ThreedistillError):
    """A file that is not what was written: cut short, or with other bytes."""


def tensor_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Tensors and words as the bytes of a safetensors file.

    Arguments:
        tensors: any types and shapes, contiguous, on the CPU.
        header: words that travel along; ``checksum`` is added.
    """
    from safetensors.torch import save

    kept = {name: tensors[name] for name in sorted(tensors)}
    return save(kept, metadata={**header, "checksum": _checksum(kept, header)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header that :func:`tensor_bytes` made.

    A file without a checksum is read as it is: whether it may be used is for the caller to say, from the header.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it is cut short, no safetensors file, or not what was written.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            header: dict[str, str] = dict(file.metadata() or {})
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError):
        raise Damaged(f"{path} is damaged: it is cut short, or no safetensors file") from None
    if "checksum" in header and header["checksum"] != _checksum(tensors, header):
        raise Damaged(f"{path} is damaged: its bytes are not those that were written")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    words = {key: header[key] for key in sorted(header) if key != "checksum"}
    digest = hashlib.sha256(json.dumps(words).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
