"""A LoRA of the prior: adapters that somebody trained, folded into the frozen network when it is loaded."""

from __future__ import annotations

from typing import Any

from threedistill.errors import UsageError
from threedistill.priors.fetching import file_digest, weight_files

__all__ = ["fold_lora"]


def fold_lora(pipe: Any, component: str, file: str, scale: float) -> tuple[str, bool]:
    """``W + scale B A`` for every layer that the file adapts; the network has no adapters afterwards.

    Arguments:
        pipe: a pipeline of diffusers with the network, whose class reads the file's format.
        component: the network's name in it.
        file: a safetensors file, or a folder with one.
        scale: of what is added.

    Returns:
        A digest of the file, and whether it also adapts text encoders (which stay as they are).

    Raises:
        UsageError: no such file, no weights that run no code, or nothing in it for this network.
    """
    (found,) = weight_files("lora", file, single=True)
    from diffusers.loaders.lora_base import LoraBaseMixin

    if not issubclass(type(pipe), LoraBaseMixin):
        raise UsageError(f"lora={file}: diffusers reads no LoRA for a {type(pipe).__name__}")
    network = getattr(pipe, component)
    options = {"unet_config": network.config} if component == "unet" else {}
    try:
        # Some families give (weights, metadata), others (weights, alphas, metadata).
        weights, *alphas, metadata = pipe.lora_state_dict(
            str(found.parent), weight_name=found.name, return_lora_metadata=True, **options
        )
        own = {name: value for name, value in weights.items() if name.startswith(f"{component}.")}
        if not own:
            raise UsageError(f"lora={file}: nothing in it is for this prior's {component}")
        network.load_lora_adapter(
            own, prefix=component, network_alphas=alphas[0] if alphas else None, metadata=metadata
        )
        network.fuse_lora(lora_scale=scale)
        network.unload_lora()
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise UsageError(
            f"lora={file} does not fit this prior: {' '.join(str(error).split())[:200]}"
        ) from None
    return file_digest(found), any(name.startswith("text_encoder") for name in weights)
