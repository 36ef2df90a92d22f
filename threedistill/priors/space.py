"""The spaces priors work in: pixels of some size, pixels folded into channels, or the latents of a VAE."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def resize(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C size size"]:
    """Square images at another size: antialiased bilinear, differentiable; the identity at equal size.

    Raises:
        ValueError: the images are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"priors see square pictures, got {images.shape[-1]} x {images.shape[-2]} pixels")
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def to_signed(rgb: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "B 3 size size"]:
    """sRGB in [0, 1], channels last, any size -> [-1, 1], channels first, ``size``: ``2 rgb - 1``."""
    return 2 * resize(rgb.permute(0, 3, 1, 2), size) - 1


def to_rgb(signed: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W 3"]:
    """The inverse of :func:`to_signed`, clamped to [0, 1]."""
    return ((signed + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


class PixelSpace:
    """Pixels in [-1, 1].

    Arguments:
        size: height and width.
    """

    def __init__(self, size: int = 64) -> None:
        if size < 1:
            raise ValueError(f"PixelSpace: size={size} must be positive")
        self.size = size
        self.shape: tuple[int, int, int] = (3, size, size)

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 h w"]:
        """``2 rgb - 1`` at the prior's size."""
        return to_signed(rgb, self.size)

    def decode(self, x0: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B H W 3"]:
        """``(x0 + 1) / 2``, clamped."""
        return to_rgb(x0)


class FoldedPixelSpace:
    """Pixels in [-1, 1] with ``fold x fold`` blocks moved into the channels (space to depth), exactly
    invertible.

    Channel ``(c fold + i) fold + j`` at ``(y, x)`` is colour ``c`` of pixel ``(y fold + i, x fold + j)``.
    The map is orthogonal, so noise, distances and gradients are those of pixel space.

    Arguments:
        size: height and width of the picture.
        fold: block size; must divide ``size``.
    """

    def __init__(self, size: int = 64, fold: int = 4) -> None:
        if fold < 1 or size % fold:
            raise ValueError(f"FoldedPixelSpace: fold={fold} must divide size={size}")
        self.size, self.fold = size, fold
        self.shape: tuple[int, int, int] = (3 * fold * fold, size // fold, size // fold)

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Resize, ``2 rgb - 1``, fold."""
        return F.pixel_unshuffle(to_signed(rgb, self.size), self.fold)

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """Unfold, ``(x + 1) / 2``, clamp."""
        return to_rgb(F.pixel_shuffle(x0, self.fold))


class LatentSpace:
    """Latents of a frozen VAE: ``x0 = (E(2 rgb - 1) - shift) scale`` with the mean of the posterior.

    The mean, not a sample: a sample would put the encoder's noise into every direction. Gradients reach the
    image; the weights are frozen.

    Arguments:
        vae: a diffusers autoencoder (``AutoencoderKL`` or alike).
        size: height and width of the picture it encodes.
        checkpointing: trade compute for memory in the encoder's backward pass.
    """

    def __init__(self, vae: nn.Module, size: int = 512, checkpointing: bool = False) -> None:
        self.vae: Any = vae.requires_grad_(False).eval()
        config = self.vae.config
        self.size = size
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        if size % self.factor:
            raise ValueError(f"LatentSpace: size={size} must be a multiple of {self.factor}")
        self.scale = float(getattr(config, "scaling_factor", None) or 1.0)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)
        self.shape: tuple[int, int, int] = (
            int(config.latent_channels),
            size // self.factor,
            size // self.factor,
        )
        if checkpointing:
            self.vae.enable_gradient_checkpointing()

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Resize, encode, take the mean, shift and scale; float32 at least."""
        image = to_signed(rgb, self.size).to(self.vae.dtype)
        mean = self.vae.encode(image).latent_dist.mean
        return (mean.to(torch.promote_types(mean.dtype, torch.float32)) - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """The decoder's picture, without gradients."""
        latent = (x0 / self.scale + self.shift).to(self.vae.dtype)
        return to_rgb(self.vae.decode(latent).sample.float())
