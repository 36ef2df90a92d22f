"""The sketch of the 128-pixel prior: ``E[rgba | words, camera]`` at half the size, drawn from a cloud of splats.

A small transformer reads the words and says where a few hundred Gaussians are, how they are shaped and which of the
words' colours they have; :func:`threedistill.ops.splat.splat` draws them from the camera. What is learnt of an object
from one side serves from all, and what is learnt of a shape in one colour serves in all. Without a camera the picture
is a mean of views from all around and above, in shares that follow from the words ("front view").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.cameras import camera_vector, place
from threedistill.ops.splat import splat
from threedistill.render.projection import project, rotations
from threedistill.toybox.networks import bag_of_words
from threedistill.types import Cameras

__all__ = ["Cloud", "SplatSketch", "draw_cloud", "placed"]

#: A camera vector says how wide the view is, not how far away the camera; the world's cameras are about this far, so
#: that the perspective is nearly theirs. Degrees.
_FOV = 44.0
#: Views whose mean is the picture without a camera: how many all around, and one from above; elevations in degrees, and
#: their apparent width (the middle of the world's).
_ROUND, _ELEVATION, _ABOVE, _WIDTH = 6, 15.0, 60.0, 1.17
#: Standard deviations of the splats, metres.
_SMALLEST, _LARGEST = 0.003, 0.5


class Cloud(NamedTuple):
    """Splats of one object per row.

    Attributes:
        means: (B, N, 3) metres.
        scales: (B, N, 3) standard deviations along the local axes, metres.
        rotation: (B, N, 3, 3) local axes as columns.
        opacities: (B, N) in [0, 1].
        features: (B, N, K) shares of the slots' colours, which sum to 1.
        normals: (B, N, 3) unit vectors (or shorter).
        light: (B, N, 2) brightness, and what faces the camera has more.
        palette: (B, K, 3) sRGB.
    """

    means: Float[Tensor, "B N 3"]
    scales: Float[Tensor, "B N 3"]
    rotation: Float[Tensor, "B N 3 3"]
    opacities: Float[Tensor, "B N"]
    features: Float[Tensor, "B N K"]
    normals: Float[Tensor, "B N 3"]
    light: Float[Tensor, "B N 2"]
    palette: Float[Tensor, "B K 3"]


def placed(camera: Float[Tensor, "B 14"], size: int) -> Cameras:
    """The cameras of camera vectors, all about as far away as the world's."""
    fov = torch.full_like(camera[:, 0], math.radians(_FOV))
    azimuth, elevation = torch.atan2(camera[:, 0], camera[:, 1]), torch.atan2(camera[:, 8], camera[:, 9])
    return place(
        azimuth, elevation, (camera[:, 12] * 0.2 + _WIDTH) / math.tan(math.radians(_FOV) / 2), fov, size, size
    )


def draw_cloud(cloud: Cloud, camera: Float[Tensor, "B 14"], size: int) -> Float[Tensor, "B 4 S S"]:
    """The premultiplied picture of each cloud from its own camera (a camera vector), lit by a headlight."""
    cameras = placed(camera, size)
    seen = project(cloud.means, cloud.scales, cloud.rotation, cameras)
    facing = (cloud.normals @ cameras.c2w[:, :3, 2:3]).clamp(min=0)
    lit = cloud.features * (cloud.light[..., :1] + cloud.light[..., 1:] * facing)
    layers = splat(seen.means, seen.conics, cloud.opacities, lit, seen.depths.detach(), size, size)
    rgb = (layers.image.flatten(1, 2) @ cloud.palette).unflatten(1, (size, size))
    return torch.cat([rgb, layers.opacity[..., None]], -1).permute(0, 3, 1, 2)


def _around() -> Float[Tensor, "V 14"]:
    azimuth = torch.cat([torch.arange(_ROUND) * (2 * math.pi / _ROUND), torch.zeros(1)])
    climb = torch.full_like(azimuth, math.radians(_ELEVATION))
    climb[-1] = math.radians(_ABOVE)
    return camera_vector(
        azimuth, climb, torch.full_like(azimuth, _WIDTH), torch.full_like(azimuth, math.pi / 2)
    )


class SplatSketch(ModelMixin, ConfigMixin):
    """The mean premultiplied RGBA picture of what is told.

    Arguments:
        text_width: of the text's hidden states.
        width: of the hidden layers; also of what the words say.
        splats: of an object.
        features: numbers that the words say of each splat.
        slots: colours of an object.
        readers: layers of the transformer.
        size: pixels of the picture.
    """

    @register_to_config
    def __init__(
        self,
        text_width: int = 128,
        width: int = 1024,
        splats: int = 384,
        features: int = 16,
        slots: int = 14,
        readers: int = 2,
        size: int = 64,
    ):
        super().__init__()
        self.splats, self.slots, self.size = splats, slots, size
        self.read = nn.ModuleList(
            nn.TransformerEncoderLayer(
                text_width, 4, 2 * text_width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(readers)
        )
        self.words = nn.Linear(text_width, width)
        self.palette = nn.Linear(width, 3 * slots)
        self.views = nn.Linear(width, _ROUND + 1)
        self.shape = nn.Linear(width, width)
        self.draw = nn.Linear(width, splats * features)
        direction = F.normalize(torch.randn(splats, 3), dim=-1)
        self.place = nn.Parameter(0.45 * direction * torch.rand(splats, 1) ** (1 / 3))
        self.splat = nn.Parameter(0.5 * torch.randn(splats, features))
        # Of each splat: place, log-scales, quaternion, opacity, slots, normal, brightness, headlight.
        self.describe = nn.Sequential(
            nn.Linear(2 * features, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 16 + slots)
        )
        last: nn.Linear = self.describe[-1]  # type: ignore[assignment]
        with torch.no_grad():
            last.weight.mul_(0.3)
            last.bias.zero_()
            last.bias[3:6] = math.log(0.07)
            last.bias[6], last.bias[10], last.bias[-2] = 1.0, -1.0, 0.8
        self.register_buffer("around", _around(), persistent=False)

    def tokens(self, text: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The words' tokens after reading; also what the transformer attends to."""
        for layer in self.read:
            text = layer(text)
        return text

    def told(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B W"]:
        """What the words say; the same at every camera, so it can be kept."""
        return bag_of_words(F.silu(self.words(tokens)))

    def cloud(self, told: Float[Tensor, "B W"]) -> Cloud:
        """The object that the words mean, in float32."""
        x = told + F.silu(self.shape(F.silu(told)))
        x = F.silu(self.draw(F.silu(x))).unflatten(-1, (self.splats, -1))
        facts = self.describe(torch.cat([x, self.splat.expand_as(x)], -1)).float()
        offset, scales, turn, opacity, slots, normal, light = facts.split((3, 3, 4, 1, self.slots, 3, 2), -1)
        scales = scales.clamp(math.log(_SMALLEST), math.log(_LARGEST)).exp()
        return Cloud(
            self.place.float() + 0.5 * torch.tanh(offset), scales, rotations(turn), opacity[..., 0].sigmoid(),
            slots.softmax(-1), F.normalize(normal, dim=-1, eps=1e-3), light,
            self.palette(F.silu(told)).float().unflatten(-1, (self.slots, 3)),
        )  # fmt: skip

    def forward(
        self,
        told: Float[Tensor, "B W"],
        camera: Float[Tensor, "B I"],
        change: Callable[[Cloud], Cloud] | None = None,
    ) -> Float[Tensor, "B 4 h w"]:
        """The picture, in float32; of what ``change`` makes of the cloud, where it is given."""
        cloud, camera = self.cloud(told), camera.float()
        if change is not None:
            cloud = change(cloud)
        known = camera.any(1)
        found = camera.new_empty(len(camera), 4, self.size, self.size)
        if known.any():
            found[known] = draw_cloud(Cloud(*(x[known] for x in cloud)), camera[known], self.size)
        around: Tensor = self.around  # type: ignore[assignment]
        # Also of no rows: processes that share a batch need gradients of the same weights.
        shares = self.views(F.silu(told[~known])).float().softmax(-1)
        rows, views = shares.shape
        blind = Cloud(*(x[~known].repeat_interleave(views, 0) for x in cloud))
        drawn = draw_cloud(blind, around.float().repeat(rows, 1), self.size).unflatten(0, (rows, views))
        found[~known] = torch.einsum("bv,bvchw->bchw", shares, drawn)
        return found
