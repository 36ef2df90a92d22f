"""In which precision (dtype) a prior's network computes."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["DtypeName", "multiplies_bfloat16", "pick_dtype"]

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 (AVX512-BF16 or AMX); elsewhere they are slower."""
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in known)


def pick_dtype(
    name: DtypeName,
    device: torch.device,
    gpu: torch.dtype = torch.float16,
    cpu: torch.dtype = torch.float32,
) -> torch.dtype:
    """The named dtype; ``auto`` is ``gpu`` on a GPU and ``cpu`` elsewhere."""
    if name == "auto":
        return gpu if device.type == "cuda" else cpu
    return getattr(torch, name)
