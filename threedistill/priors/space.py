"""The spaces priors work in: pixels of some size, pixels folded into channels, or the latents of a VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from threedistill.protocols import ImageSpace

__all__ = [
    "FoldedPixelSpace",
    "LatentSpace",
    "PixelSpace",
    "encoded_mean",
    "encoded_views",
    "resize",
    "to_rgb",
    "to_signed",
]


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


class PixelSpace(ImageSpace):
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


class FoldedPixelSpace(ImageSpace):
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


class LatentSpace(ImageSpace):
    """Latents of a frozen VAE: ``x0 = (z - shift) scale`` of its mean ``z``, per channel where it says so.

    The mean, not a sample: a sample would put the encoder's noise into every direction. Gradients reach the
    image; the weights are frozen.

    Arguments:
        vae: a diffusers autoencoder: ``AutoencoderKL`` or alike, ``AutoencoderDC``, ``VQModel``.
        size: height and width of the picture it encodes.
        one_by_one: encode view by view, and again in the backward pass: the memory of one view for a third more time.
            May be set later.
        multiple: latents per side that the network cannot divide.
        dtype: the VAE's own precision; None = the prior's.
        fold: latents per side that become one, their ``fold x fold`` values channels, before they are normalised.
        shifted: whether the VAE's shift counts; False = 0.
    """

    def __init__(
        self, vae: nn.Module, size: int = 512, one_by_one: bool = False, *, multiple: int = 1,
        dtype: torch.dtype | None = None, fold: int = 1, shifted: bool = True,
    ) -> None:  # fmt: skip
        self.vae: Any = vae.requires_grad_(False).eval()
        config = self.vae.config
        self.size, self.dtype, self.fold = size, dtype, fold
        blocks = getattr(config, "block_out_channels", None) or config.encoder_block_out_channels
        self.factor = 2 ** (len(blocks) - 1) * fold
        if size % (self.factor * multiple):
            raise ValueError(f"LatentSpace: size={size} must be a multiple of {self.factor * multiple}")
        shift, self.scale = _normalisation(self.vae)
        self.shift = shift if shifted else 0.0
        self.shape: tuple[int, int, int] = (
            int(config.latent_channels) * fold * fold,
            size // self.factor,
            size // self.factor,
        )
        self.one_by_one = one_by_one

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the VAE, in its own precision."""
        self.vae.to(device=device, dtype=self.dtype or dtype)

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Resize, encode, take the mean, shift and scale; float32 at least."""
        return encoded_views(self._encoded, rgb, self.one_by_one)

    def _encoded(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        image = to_signed(rgb, self.size).to(self.vae.dtype)
        mean = encoded_mean(self.vae.encode(image))
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        if self.fold > 1:
            mean = F.pixel_unshuffle(mean, self.fold)
        return (mean - _like(self.shift, mean)) * _like(self.scale, mean)

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """The decoder's picture, differentiable."""
        latent = x0 / _like(self.scale, x0) + _like(self.shift, x0)
        if self.fold > 1:
            latent = F.pixel_shuffle(latent, self.fold)
        return to_rgb(self.vae.decode(latent.to(self.vae.dtype)).sample.float())


def encoded_views(
    encode: Callable[[Tensor], Tensor], rgb: Float[Tensor, "B H W 3"], one_by_one: bool
) -> Float[Tensor, "B C h w"]:
    """Pictures encoded at once, or one by one and again in the backward pass: the memory of one."""
    if not one_by_one:
        return encode(rgb)
    return torch.cat([checkpoint(encode, view[None], use_reentrant=False) for view in rgb])


def encoded_mean(encoded: Any) -> Tensor:
    """What an encoder of diffusers says, whichever way its class says it."""
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean
    return encoded.latents if hasattr(encoded, "latents") else encoded.latent


def _like(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A number, or one per channel as it broadcasts over ``x``."""
    return value.to(x).view(1, -1, 1, 1) if isinstance(value, Tensor) else value


def _normalisation(vae: Any) -> tuple[float | Tensor, float | Tensor]:
    """``(shift, scale)``: of a batch norm, per channel, or two numbers."""
    config = vae.config
    norm = getattr(vae, "bn", None)
    if isinstance(norm, nn.BatchNorm2d):  # FLUX.2: without weights of its own
        assert norm.running_mean is not None and norm.running_var is not None
        epsilon = float(getattr(config, "batch_norm_eps", norm.eps))
        return norm.running_mean.float(), (norm.running_var.float() + epsilon).rsqrt()
    scale = float(getattr(config, "scaling_factor", None) or 1.0)
    means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if means is not None and stds is not None:
        return torch.tensor(means), scale / torch.tensor(stds)
    return float(getattr(config, "shift_factor", None) or 0.0), scale
