"""The sketch of the 128-pixel prior: ``E[rgba | words, camera]`` at half the size, drawn late in the words' colours.

As in :class:`threedistill.toybox.networks.Sketch` a small transformer reads the words, and words and camera meet in a
product. New is the end: the picture is ``C(words) m(words, camera)``, masks of every pixel times a palette of the
words, so that what is learnt of a shape in one colour serves in all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.toybox.networks import HARMONICS, bag_of_words, harmonics

__all__ = ["PaletteSketch"]


class PaletteSketch(ModelMixin, ConfigMixin):
    """The mean premultiplied RGBA picture of what is told.

    Arguments:
        text_width: of the text's hidden states.
        width: of the hidden layers; also of the code.
        channels: of the map, an eighth of the size.
        masks: masks of every pixel.
        readers: layers of the transformer.
        size: pixels of the picture.
    """

    @register_to_config
    def __init__(
        self,
        text_width: int = 128,
        width: int = 1024,
        channels: int = 96,
        masks: int = 16,
        readers: int = 2,
        size: int = 64,
    ):
        super().__init__()
        self.channels, self.masks, self.side = channels, masks, size // 8
        self.read = nn.ModuleList(
            nn.TransformerEncoderLayer(
                text_width, 4, 2 * text_width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(readers)
        )
        self.words = nn.Linear(text_width, width)
        self.camera = nn.Sequential(nn.Linear(HARMONICS, width // 2), nn.SiLU(), nn.Linear(width // 2, width))
        self.product = nn.Linear(width, width)
        self.hidden = nn.Linear(width, width)
        self.palette = nn.Linear(width, 4 * masks)
        self.draw = nn.Linear(width, channels * self.side**2)
        self.refine = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 16 * masks, 1)

    def tokens(self, text: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The words' tokens after reading; also what the transformer attends to."""
        for layer in self.read:
            text = layer(text)
        return text

    def told(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B W"]:
        """What the words say; the same at every camera, so it can be kept."""
        return bag_of_words(F.silu(self.words(tokens)))

    def forward(
        self, told: Float[Tensor, "B W"], camera: Float[Tensor, "B I"]
    ) -> tuple[Float[Tensor, "B 4 h w"], Float[Tensor, "B W"]]:
        """The picture, and the code of words and camera that it is drawn from."""
        seen = self.camera(harmonics(camera))
        x = F.silu(told + seen + told * seen)
        x = x + F.silu(self.product(x))
        code = x + F.silu(self.hidden(x))
        y = F.silu(self.draw(code)).unflatten(-1, (self.channels, self.side, self.side))
        y = F.silu(F.pixel_shuffle(self.refine(_last(y)), 2))
        y = y + F.silu(self.middle(y))
        masks = F.pixel_shuffle(self.last(y), 4)
        palette = self.palette(F.silu(told)).unflatten(-1, (4, self.masks))
        return torch.einsum("bck,bkhw->bchw", palette, masks), code


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
