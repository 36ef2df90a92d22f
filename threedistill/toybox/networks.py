"""The embedded prior's own networks beside diffusers' UNet and the text encoder: camera tokens and the sketch.

The sketch is the conditional mean: what words and camera alone say about the picture. At t near 1 the best prediction
of x0 *is* that mean, and a UNet has to draw it out of pure noise with convolutions that do not know where they are;
a dense decoder learns it from the same pictures about ten times as fast (see the model card), so it draws the mean and
the UNet is shown it in extra input channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.cameras import CAMERA_SIZE
from threedistill.toybox.conditioning import FOLD, fold, unfold

__all__ = [
    "FOLDED_RGBA", "FOLDED_SHAPE", "HARMONICS", "IMAGE_SIZE", "CameraTokens", "Sketch", "ToyboxUNet",
    "bag_of_words", "camera_network", "harmonics", "met", "over_background",
]  # fmt: skip

#: Pixels of this prior's pictures, and the shape of a folded one.
IMAGE_SIZE = 64
FOLDED_SHAPE = (3 * FOLD * FOLD, IMAGE_SIZE // FOLD, IMAGE_SIZE // FOLD)
#: Channels of a folded premultiplied RGBA picture.
FOLDED_RGBA = 4 * FOLD * FOLD
#: Numbers of :func:`harmonics`.
HARMONICS = CAMERA_SIZE + 8 + 16 * 4


class CameraTokens(ModelMixin, ConfigMixin):
    """The camera as cross-attention tokens: an MLP of the camera vector (null camera = zeros)."""

    @register_to_config
    def __init__(self, input_size: int = CAMERA_SIZE, width: int = 128, tokens: int = 2):
        super().__init__()
        self.tokens = tokens
        self.net = nn.Sequential(
            nn.Linear(input_size, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, tokens * width),
        )
        self.norm = nn.LayerNorm(width)  # at the scale of the text's tokens, or attention overlooks them

    def forward(self, camera: Float[Tensor, "B I"]) -> Float[Tensor, "B T D"]:
        return self.norm(self.net(camera).unflatten(-1, (self.tokens, -1)))


class Sketch(ModelMixin, ConfigMixin):
    """The mean premultiplied RGBA picture of what is told, ``E[rgba | words, camera]``.

    A small transformer reads the words first, so that in "a black car with yellow stripes" each colour knows its noun
    (a sum over the bare words does not). Words and camera then meet in a product (every kind looks its own way from
    every side), a dense layer draws an 8x8 map, and two convolutions a folded 64x64 picture.

    Arguments:
        text_width: of the text's hidden states.
        width: of the hidden layers.
        channels: of the 8x8 map.
        readers: layers of the transformer.
    """

    @register_to_config
    def __init__(self, text_width: int = 128, width: int = 1024, channels: int = 96, readers: int = 2):
        super().__init__()
        self.channels = channels
        self.read = nn.ModuleList(
            nn.TransformerEncoderLayer(
                text_width, 4, 2 * text_width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(readers)
        )
        self.words = nn.Linear(text_width, width)
        self.camera = camera_network(width)
        self.product = nn.Linear(width, width)
        self.hidden = nn.Linear(width, width)
        self.draw = nn.Linear(width, channels * 64)
        # As many channels per cell as it has numbers to draw: fewer, and dots and eyes are smeared.
        self.refine = nn.Conv2d(channels, 4 * FOLDED_RGBA, 3, padding=1)
        self.last = nn.Conv2d(FOLDED_RGBA, FOLDED_RGBA, 3, padding=1)

    def told(self, text: Float[Tensor, "B L D"]) -> Float[Tensor, "B W"]:
        """What the words say; the same at every camera, so it can be kept."""
        for layer in self.read:
            text = layer(text)
        return bag_of_words(F.silu(self.words(text)))

    def forward(
        self,
        text: Float[Tensor, "B L D"],
        camera: Float[Tensor, "B I"],
        told: Float[Tensor, "B W"] | None = None,
    ) -> Float[Tensor, "B 64 16 16"]:
        told = self.told(text) if told is None else told
        x = met(told, self.camera(harmonics(camera)), self.product, self.hidden)
        x = F.silu(self.draw(x)).unflatten(-1, (self.channels, 8, 8))
        return self.last(F.silu(F.pixel_shuffle(self.refine(x), 2)))


def harmonics(camera: Float[Tensor, "B 14"]) -> Float[Tensor, "B 86"]:
    """The camera vector, harmonics 5 to 8 of the azimuth, and all eight times those of the elevation.

    ``e^{i(4+k)a} = e^{i4a} e^{ika}``, so nothing but the vector is needed, and the null camera stays zeros.
    """
    sine, cosine = camera[:, 0:8:2], camera[:, 1:8:2]
    last_sine, last_cosine = sine[:, 3:], cosine[:, 3:]
    higher = [last_sine * cosine + last_cosine * sine, last_cosine * cosine - last_sine * sine]
    turns = torch.cat([sine, cosine, *higher], 1)
    both = turns[:, :, None] * camera[:, None, 8:12]
    return torch.cat([camera, *higher, both.flatten(1)], 1)


def camera_network(width: int) -> nn.Sequential:
    """What a camera's :func:`harmonics` say, as wide as what the words say."""
    return nn.Sequential(nn.Linear(HARMONICS, width // 2), nn.SiLU(), nn.Linear(width // 2, width))


def met(words: Tensor, seen: Tensor, product: nn.Module, hidden: nn.Module) -> Float[Tensor, "B W"]:
    """Words and camera, met in a product (every kind looks its own way from every side), and two layers on it.

    x = silu(w + s + w s),   x <- x + silu(product(x)),   x <- x + silu(hidden(x))
    """
    x = F.silu(words + seen + words * seen)
    x = x + F.silu(product(x))
    return x + F.silu(hidden(x))


def bag_of_words(text: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
    """The sum of the text's hidden states over the square root of their number."""
    return text.sum(1) / text.shape[1] ** 0.5


def over_background(
    rgba: Float[Tensor, "B 64 h w"], background: Float[Tensor, "B 4"]
) -> Float[Tensor, "B 64 h w"]:
    """A folded premultiplied RGBA picture over the told background (untold: black), in [-1, 1], alpha last."""
    picture = unfold(rgba)
    alpha = picture[:, 3:]
    rgb = picture[:, :3] + (1 - alpha) * background[:, :3, None, None]
    return torch.cat([fold(2 * rgb - 1), fold(2 * alpha - 1)], 1)


class ToyboxUNet(UNet2DConditionModel):
    """diffusers' UNet that is also shown the sketch, in the input channels after those of the noisy sample."""

    def forward(  # type: ignore[override]
        self,
        sample: Float[Tensor, "B C h w"],
        timestep: Tensor | float | int,
        encoder_hidden_states: Float[Tensor, "B L D"],
        class_labels: Float[Tensor, "B K"],
        sketch: Float[Tensor, "B S h w"],
        return_dict: bool = True,
    ):
        both = torch.cat([sample, sketch.to(sample)], 1).contiguous(memory_format=torch.channels_last)
        return super().forward(
            both, timestep, encoder_hidden_states, class_labels=class_labels, return_dict=return_dict
        )
