"""Pipelines of diffusers that no family here can teach with, and what would do in their place."""

from __future__ import annotations

__all__ = ["REFUSED"]

_UNCLIP = "its network is told a picture's embedding, which another diffusion draws from the words at random"
_VIDEO = "it draws videos, whose frames share their latents; use a prior of pictures, such as --prior mvdream"

#: Class of ``model_index.json`` -> why not, and what would.
REFUSED: dict[str, str] = {
    "KandinskyPipeline": f"{_UNCLIP}; use --prior kandinsky3, which is told the words themselves",
    "KandinskyCombinedPipeline": f"{_UNCLIP}; use --prior kandinsky3, which is told the words themselves",
    "KandinskyV22Pipeline": f"{_UNCLIP}; use --prior kandinsky3, which is told the words themselves",
    "KandinskyV22CombinedPipeline": f"{_UNCLIP}; use --prior kandinsky3, which is told the words themselves",
    "StableUnCLIPPipeline": f"{_UNCLIP}; use --prior sd21, which is told the words themselves",
    "StableUnCLIPImg2ImgPipeline": (
        "its network is told a picture's embedding with noise in it; use --prior sd15_image with --image"
    ),
    "UnCLIPPipeline": f"{_UNCLIP}; use --prior deepfloyd, which draws pixels and is told the words themselves",
    "Kandinsky5T2IPipeline": "it draws at sizes of its own, as frames with their channels last; use --prior kandinsky5",
    "Kandinsky5T2VPipeline": _VIDEO,
    "WanPipeline": _VIDEO,
}
