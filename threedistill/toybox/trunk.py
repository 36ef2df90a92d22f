"""The embedded prior's transformer: 128-pixel pictures as 16 x 16 and 8 x 8 tokens between fine convolutions.

    x0 = k x_t / alpha + (1 - k) P,      k = s^2 / (s^2 + (sigma / alpha)^2)

The first term is a road for the noisy picture itself, open where its noise is smaller than the network's own error s;
k is the weight of the better of two estimates with error variances s^2 and (sigma / alpha)^2. P is a picture of few
flat colours and, where nothing but noise is left, the sketch, which is the conditional mean
(:class:`threedistill.toybox.slots.SlotDecoder`).

The picture (4 x 4 pixels a cell) is read by convolutions at 32 x 32, blocks at 16 x 16 let every place see every
other, wide blocks at 8 x 8 hold what is known of the world and read the words, and convolutions at 32 x 32, which are
shown the noisy picture's features again, say where the colours are, so that no patch has a border.

Words, camera and background act on every block by scale, shift and gate; words (and reference views, where there are
any) also by cross-attention. Reference views and the control picture enter by roads that are closed (zero) in a fresh
network and cost nothing where they are not used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.toybox.slots import SlotDecoder
from threedistill.toybox.told import ToldEmbedding

__all__ = [
    "CONTROL", "PICTURE", "SKETCH", "STEPS", "Attention", "Block", "ToyboxTransformer", "ViewEncoder",
    "shifted_cosine",
]  # fmt: skip

STEPS = 1000
#: Channels of the noisy picture and of the control picture (4 x 4 pixels a cell), and of the sketch (2 x 2).
PICTURE, CONTROL, SKETCH = 48, 64, 16


def shifted_cosine(shift: float) -> Float[Tensor, "T"]:
    """log SNR of the squared-cosine path (Nichol & Dhariwal 2021, eq. 17) moved by ``2 log(shift)``.

    Four pixels in place of one show the same thing with half of the noise, so a picture of twice the size needs
    ``shift = 1/2`` for its times to mean what they meant. Source: Hoogeboom et al. 2023 (simple diffusion),
    arXiv 2301.11093, section 3.1.
    """
    edges = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    signal = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
    kept = torch.cumprod((signal[1:] / signal[:-1]).clamp(min=1e-3), 0)
    return torch.logit(kept) + 2 * math.log(shift)


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys; self-attention where no context is given.

    Arguments:
        width: of the tokens.
        heads: divides ``width``.
        context: width of what is attended to.
    """

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=1e-5) for _ in range(2))

    def forward(self, x: Float[Tensor, "B N D"], context: Tensor | None = None) -> Float[Tensor, "B N D"]:
        context = x if context is None else context
        q, k, v = (
            f(y).unflatten(-1, (self.heads, -1))
            for f, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        # Normalised before the heads change places: that is where a token's numbers lie side by side.
        seen = _attend(*(y.transpose(1, 2) for y in (self.norm_q(q), self.norm_k(k), v)))
        return self.to_out[0](seen.transpose(1, 2).flatten(2))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v``; written out where a CPU takes gradients.

    There the fused kernel's backward pass takes two to six times as long as that of three products of so few tokens
    (bfloat16, 256 and 64 tokens, one core of an AMD EPYC): a seventh of a training step.
    """
    if torch.is_grad_enabled() and q.device.type == "cpu":
        return torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2), -1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    """``x + gate attention(norm x)``, the same with words and reference views, and with a perceptron.

    Arguments:
        width, heads: of the tokens.
        told: width of the vector that scales, shifts and gates.
        context: width of the words' tokens; 0 = this block does not read them.
    """

    def __init__(self, width: int, heads: int, told: int, context: int = 0):
        super().__init__()
        self.modulation = nn.Linear(told, 6 * width)
        self.attention = Attention(width, heads, width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.words = Attention(width, heads, context) if context else None
        self.views = Attention(width, heads, context) if context else None
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        for cross in (self.words, self.views):
            if cross is not None:
                for parameter in cross.to_out.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor, told: Tensor, words: Tensor, views: Tensor | None) -> Tensor:
        size = x.shape[-1:]
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(told)[:, None].chunk(6, -1)
        x = x + gate * self.attention(torch.addcmul(shift, F.layer_norm(x, size), 1 + scale))
        if self.words is not None:
            normal = F.layer_norm(x, size)
            x = x + self.words(normal, words)
            if views is not None and self.views is not None:
                x = x + self.views(normal, views)
        y = self.inner(torch.addcmul(shift2, F.layer_norm(x, size), 1 + scale2))
        return x + gate2 * self.outer(F.gelu(y))


def _closed(channels: int, out: int) -> nn.Conv2d:
    road = nn.Conv2d(channels, out, 3, padding=1)
    nn.init.zeros_(road.weight)
    nn.init.zeros_(road.bias)  # type: ignore[arg-type]
    return road


class ToyboxTransformer(ModelMixin, ConfigMixin):
    """The network of the embedded prior; predicts x0.

    Arguments:
        size: pixels of the pictures.
        fine: channels at a quarter of the pixels.
        width, outer: of the tokens at an eighth of the pixels, and blocks there before and after the middle.
        middle_width, depth: of the tokens at a sixteenth, and blocks there.
        head: width of an attention head.
        told: width of what modulates the blocks.
        class_size: of ``class_labels``.
        context: width of the words' tokens.
        shift: of the noise path (see :func:`shifted_cosine`).
        noise_floor: s, where the road of the noisy picture is half open.
        signal_floor: r, the ratio alpha / sigma at which a fresh network draws as much of the sketch as of a slot.
        slots: flat colours of a picture.
    """

    @register_to_config
    def __init__(
        self, size: int = 128, fine: int = 64, width: int = 192, outer: int = 1, middle_width: int = 384,
        depth: int = 3, head: int = 64, told: int = 384, class_size: int = 1042, context: int = 128,
        shift: float = 0.5, noise_floor: float = 0.07, signal_floor: float = 0.1, slots: int = 16,
    ):  # fmt: skip
        super().__init__()
        cells = size // 8
        self.time_proj = Timesteps(128, True, 0)
        self.time_embedding = TimestepEmbedding(128, told)
        self.class_embedding = ToldEmbedding(class_size, told)
        self.conv_in = nn.Conv2d(PICTURE + SKETCH, fine, 3, padding=1)
        self.control_in = _closed(CONTROL, fine)
        self.fine_modulation = nn.Linear(told, 4 * fine)
        self.conv_down = nn.Conv2d(fine, width, 3, stride=2, padding=1)
        self.position = nn.Parameter(0.1 * torch.randn(cells * cells, width))
        heads = max(1, width // head)
        self.first = nn.ModuleList(Block(width, heads, told) for _ in range(outer))
        self.down = nn.Linear(4 * width, middle_width)
        self.middle_position = nn.Parameter(0.1 * torch.randn(cells * cells // 4, middle_width))
        self.middle = nn.ModuleList(
            Block(middle_width, max(1, middle_width // head), told, context) for _ in range(depth)
        )
        self.up = nn.Linear(middle_width, 4 * width)
        self.last = nn.ModuleList(Block(width, heads, told) for _ in range(outer))
        self.spread = nn.Linear(width, 4 * fine)
        self.merge = nn.Conv2d(2 * fine, fine, 1)
        self.refine = nn.Conv2d(fine, fine, 3, padding=1)
        self.flat = SlotDecoder(fine, told, slots, signal_floor)
        nn.init.zeros_(self.fine_modulation.bias)
        nn.init.normal_(self.fine_modulation.weight, std=1e-3)
        self.register_buffer("log_snr", shifted_cosine(shift).float(), persistent=False)

    def roads(self, timestep: Float[Tensor, "B"]) -> tuple[Tensor, Tensor, Tensor]:
        """``k / alpha`` and ``1 - k``, (B, 1, 1, 1), and the SNR, (B,), at (float) steps of the path."""
        table: Tensor = self.log_snr  # type: ignore[assignment]
        place = timestep.to(table).clamp(0, STEPS - 1)
        low = place.floor().long().clamp(max=STEPS - 2)
        snr = torch.lerp(table[low], table[low + 1], place - low).exp().double()
        s2 = self.config.noise_floor**2  # type: ignore[attr-defined]
        alpha = (snr / (1 + snr)).sqrt()
        k = s2 * snr / (s2 * snr + 1)
        noisy, clean = (x.float().view(-1, 1, 1, 1) for x in (k / alpha.clamp(min=1e-9), 1 - k))
        return noisy, clean, snr.float()

    def forward(
        self,
        sample: Float[Tensor, "B 48 h w"],
        timestep: Tensor | float | int,
        encoder_hidden_states: Float[Tensor, "B L D"],
        class_labels: Float[Tensor, "B K"],
        sketch: Float[Tensor, "B 16 h w"],
        views: Float[Tensor, "B M D"] | None = None,
        control: Float[Tensor, "B 64 h w"] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The clean picture.

        Arguments:
            sample: noisy picture, 4 x 4 pixels a cell.
            timestep: of the path, 0 to 999; one, or one for each.
            encoder_hidden_states: the words' tokens.
            class_labels: what the words say, camera and background vectors.
            sketch: the mean picture of what is told, over the told background, at half the size, 2 x 2 pixels a cell.
            views: the tokens of reference views.
            control: normals and coverage, 4 x 4 pixels a cell.
        """
        dtype = self.conv_in.weight.dtype
        time = torch.as_tensor(timestep, device=sample.device).float().expand(len(sample))
        noisy, clean, snr = self.roads(time)
        said = self.class_embedding(class_labels)
        told = F.silu(self.time_embedding(self.time_proj(time).to(dtype)) + said)
        words = encoder_hidden_states.to(dtype)
        views = None if views is None else views.to(dtype)

        fine = self.conv_in(_last(torch.cat([sample.to(dtype), sketch.to(dtype)], 1)))
        if control is not None:
            fine = fine + self.control_in(_last(control.to(dtype)))
        scale, shift, scale2, shift2 = self.fine_modulation(told)[:, :, None, None].chunk(4, 1)
        fine = F.silu(fine * (1 + scale) + shift)
        coarse = self.conv_down(fine)
        side = coarse.shape[-1]
        x = coarse.permute(0, 2, 3, 1).flatten(1, 2) + self.position
        for block in self.first:
            x = block(x, told, words, views)
        y = self.down(_gather(x, side)) + self.middle_position
        for block in self.middle:
            y = block(y, told, words, views)
        x = x + _scatter(self.up(y), side)
        for block in self.last:
            x = block(x, told, words, views)
        spread = _scatter(self.spread(F.layer_norm(x, x.shape[-1:])), 2 * side)
        spread = spread.unflatten(1, (2 * side, 2 * side)).permute(0, 3, 1, 2)
        out = self.merge(torch.cat([fine, spread], 1))
        out = out + self.refine(F.silu(out * (1 + scale2) + shift2))
        drawn = F.interpolate(
            F.pixel_shuffle(sketch, 2)[:, :3], scale_factor=2, mode="bilinear", align_corners=False
        )
        found = self.flat(F.silu(out), F.silu(said), sample, F.pixel_unshuffle(drawn, 4), snr)
        found = noisy * sample.float() + clean * found
        found = found.to(sample.dtype)
        return Transformer2DModelOutput(sample=found) if return_dict else (found,)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _gather(x: Float[Tensor, "B N D"], side: int) -> Float[Tensor, "B N//4 4*D"]:
    """2 x 2 tokens into one."""
    x = x.unflatten(1, (side // 2, 2, side // 2, 2))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def _scatter(y: Float[Tensor, "B N D"], side: int) -> Float[Tensor, "B 4*N D//4"]:
    """The inverse: one token into 2 x 2, on a grid of ``side``."""
    y = y.unflatten(1, (side // 2, side // 2)).unflatten(-1, (2, 2, -1))
    return y.permute(0, 1, 3, 2, 4, 5).flatten(1, 4)


class ViewEncoder(ModelMixin, ConfigMixin):
    """Reference views as tokens: 16 x 16 pixels each, with where they are and, where it is told, the view's camera.

    Arguments:
        size: pixels of the pictures.
        width: of the tokens.
        layers: of the transformer that reads them.
        camera_size: of the camera features.
    """

    @register_to_config
    def __init__(self, size: int = 128, width: int = 128, layers: int = 2, camera_size: int = 86):
        super().__init__()
        self.conv_in = nn.Conv2d(PICTURE, 96, 3, stride=2, padding=1)
        self.conv_down = nn.Conv2d(96, width, 3, stride=2, padding=1)
        self.position = nn.Parameter(0.1 * torch.randn((size // 16) ** 2, width))
        self.camera = nn.Linear(camera_size, width)
        self.read = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )

    def forward(
        self, pictures: Float[Tensor, "B R 3 H W"], cameras: Float[Tensor, "B R K"]
    ) -> Float[Tensor, "B M D"]:
        """(B, R N, D) tokens of R pictures in [-1, 1] with their camera features (zeros = untold)."""
        dtype, count = self.conv_in.weight.dtype, pictures.shape[1]
        x = F.silu(self.conv_in(_last(F.pixel_unshuffle(pictures.flatten(0, 1), 4).to(dtype))))
        x = self.conv_down(x).permute(0, 2, 3, 1).flatten(1, 2) + self.position
        x = x + self.camera(cameras.flatten(0, 1).to(dtype))[:, None]
        for layer in self.read:
            x = layer(x)
        return F.layer_norm(x, x.shape[-1:]).unflatten(0, (-1, count)).flatten(1, 2)
