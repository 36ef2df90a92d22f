"""Latent diffusion's UNet as its papers state it, over weights by their published names: families are held against it.

Source: Rombach et al. 2022, arXiv 2112.10752; the joint attention and the cameras: Shi et al. 2023, arXiv 2308.16512;
the picture: Wang and Shi 2023, arXiv 2312.02201, and the resampler of Ye et al. 2023, arXiv 2308.06721.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def published(
    base: int = 32, mult: tuple[int, ...] = (1, 2), context: int = 16, camera: int | None = 16, told: int = 4,
    linear: bool = True, picture: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Names and shapes of a checkpoint of latent diffusion, as its configuration lays the network out.

    Two residual blocks a level going down and three coming up, attention at all levels but the innermost, four times
    the base's width for the time.

    Arguments:
        base, mult: channels, and their factors by level.
        context: width of the text.
        camera: numbers of a camera; None = it is told none.
        told: channels of what is denoised and what stands beside it.
        linear: whether the projections of transformers are, as in Stable Diffusion 2.
        picture: width of CLIP's patches; None = it is shown no picture.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    wide = 4 * base

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def resnet(name: str, into: int, out: int) -> None:
        layer(f"{name}.in_layers.0", into)
        layer(f"{name}.in_layers.2", out, into, 3, 3)
        layer(f"{name}.emb_layers.1", out, wide)
        layer(f"{name}.out_layers.0", out)
        layer(f"{name}.out_layers.3", out, out, 3, 3)
        if into != out:
            layer(f"{name}.skip_connection", out, into, 1, 1)

    def transformer(name: str, width: int) -> None:
        layer(f"{name}.norm", width)
        for end in ("proj_in", "proj_out"):
            layer(f"{name}.{end}", width, width, *(() if linear else (1, 1)))
        block = f"{name}.transformer_blocks.0"
        for attention, seen in (("attn1", width), ("attn2", context)):
            layer(f"{block}.{attention}.to_q", width, width, bias=False)
            layer(f"{block}.{attention}.to_k", width, seen, bias=False)
            layer(f"{block}.{attention}.to_v", width, seen, bias=False)
            layer(f"{block}.{attention}.to_out.0", width, width)
            if attention == "attn2" and picture is not None:
                layer(f"{block}.{attention}.to_k_ip", width, context, bias=False)
                layer(f"{block}.{attention}.to_v_ip", width, context, bias=False)
        layer(f"{block}.ff.net.0.proj", 8 * width, width)
        layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            layer(f"{block}.{norm}", width)

    for name, into in (("time_embed", base), ("camera_embed", camera)):
        if into is not None:
            layer(f"{name}.0", wide, into)
            layer(f"{name}.2", wide, wide)
    layer("input_blocks.0.0", base, told, 3, 3)
    width, passed, at = base, [base], 0
    for level, times in enumerate(mult):
        for _ in range(2):
            at += 1
            resnet(f"input_blocks.{at}.0", width, times * base)
            width = times * base
            if level < len(mult) - 1:
                transformer(f"input_blocks.{at}.1", width)
            passed.append(width)
        if level < len(mult) - 1:
            at += 1
            layer(f"input_blocks.{at}.0.op", width, width, 3, 3)
            passed.append(width)
    for place in (0, 2):
        resnet(f"middle_block.{place}", width, width)
    transformer("middle_block.1", width)
    at = -1
    for level, times in reversed(list(enumerate(mult))):
        for block in range(3):
            at += 1
            resnet(f"output_blocks.{at}.0", width + passed.pop(), times * base)
            width, attends = times * base, level < len(mult) - 1
            if attends:
                transformer(f"output_blocks.{at}.1", width)
            if level and block == 2:
                layer(f"output_blocks.{at}.{2 if attends else 1}.conv", width, width, 3, 3)
    layer("out.0", width)
    layer("out.2", 4, width, 3, 3)
    if picture is not None:
        shapes["image_embed.latents"] = (1, 16, context)
        layer("image_embed.proj_in", context, picture)
        layer("image_embed.proj_out", context, context)
        layer("image_embed.norm_out", context)
        for place in (f"image_embed.layers.{k}" for k in range(4)):
            layer(f"{place}.0.norm1", context)
            layer(f"{place}.0.norm2", context)
            layer(f"{place}.0.to_q", 12 * 64, context, bias=False)
            layer(f"{place}.0.to_kv", 2 * 12 * 64, context, bias=False)
            layer(f"{place}.0.to_out", context, 12 * 64, bias=False)
            layer(f"{place}.1.0", context)
            layer(f"{place}.1.1", 4 * context, context, bias=False)
            layer(f"{place}.1.3", context, 4 * context, bias=False)
    return shapes


def weights(seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Random ones that make themselves heard."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for name, shape in published(**options).items():
        scale = 0.1 if len(shape) == 1 else 1.2 / math.sqrt(math.prod(shape[1:]))
        norm = len(shape) == 1 and name.endswith("weight")
        made[name] = torch.ones(shape) if norm else scale * torch.randn(shape, generator=generator)
    return made


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """``softmax(q k / sqrt(d)) v`` per head; (B, N, heads d) each."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weight = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weight @ v).transpose(1, 2).flatten(2)


@dataclass
class LatentDiffusion:
    """The network.

    Attributes:
        w: its weights.
        heads: of attention at a width.
        group: rows whose tokens attend to each other.
    """

    w: Mapping[str, Tensor]
    head_width: int | None = 16
    group: int = 1

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.linear(x, weight.flatten(1), self.w.get(f"{name}.bias"))

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor, groups: bool = True, eps: float = 1e-5) -> Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return (
            F.group_norm(x, 32, weight, bias, eps) if groups else F.layer_norm(x, weight.shape, weight, bias)
        )

    def two(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.2", F.silu(self.linear(f"{name}.0", x)))

    def resnet(self, name: str, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(emb))[..., None, None]
        h = self.conv(f"{name}.out_layers.3", F.silu(self.norm(f"{name}.out_layers.0", h)))
        return h + (
            self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.w else x
        )

    def transformer(self, name: str, x: Tensor, text: Tensor, tokens: Tensor | None) -> Tensor:
        rows, width, height, _ = x.shape
        heads = 8 if self.head_width is None else width // self.head_width
        h = self.norm(f"{name}.norm", x, eps=1e-6).flatten(2).transpose(1, 2)
        h = self.linear(f"{name}.proj_in", h)
        block = f"{name}.transformer_blocks.0"
        seen = self.norm(f"{block}.norm1", h, groups=False)
        seen = seen.reshape(rows // self.group, -1, width)
        q, k, v = (self.linear(f"{block}.attn1.to_{part}", seen) for part in "qkv")
        h = h + self.linear(f"{block}.attn1.to_out.0", attention(q, k, v, heads)).reshape(h.shape)
        q = self.linear(f"{block}.attn2.to_q", self.norm(f"{block}.norm2", h, groups=False))
        k, v = (self.linear(f"{block}.attn2.to_{part}", text) for part in "kv")
        found = attention(q, k, v, heads)
        if tokens is not None:
            k, v = (self.linear(f"{block}.attn2.to_{part}_ip", tokens) for part in "kv")
            found = found + attention(q, k, v, heads)
        h = h + self.linear(f"{block}.attn2.to_out.0", found)
        inner, gate = self.linear(
            f"{block}.ff.net.0.proj", self.norm(f"{block}.norm3", h, groups=False)
        ).chunk(2, -1)
        h = h + self.linear(f"{block}.ff.net.2", inner * F.gelu(gate))
        return x + self.linear(f"{name}.proj_out", h).transpose(1, 2).unflatten(2, (height, -1))

    def resampled(self, patches: Tensor) -> Tensor:
        """The tokens that a picture's patches become."""
        x = self.linear("image_embed.proj_in", patches)
        tokens = self.w["image_embed.latents"].expand(len(x), -1, -1)
        for place in (f"image_embed.layers.{k}" for k in range(4)):
            seen, own = (self.norm(f"{place}.0.norm{n}", y, groups=False) for n, y in ((1, x), (2, tokens)))
            q = self.linear(f"{place}.0.to_q", own)
            k, v = self.linear(f"{place}.0.to_kv", torch.cat([seen, own], 1)).chunk(2, -1)
            tokens = tokens + self.linear(f"{place}.0.to_out", attention(q, k, v, 12))
            inner = F.gelu(self.linear(f"{place}.1.1", self.norm(f"{place}.1.0", tokens, groups=False)))
            tokens = tokens + self.linear(f"{place}.1.3", inner)
        return self.norm("image_embed.norm_out", self.linear("image_embed.proj_out", tokens), groups=False)

    def block(self, name: str, x: Tensor, emb: Tensor, text: Tensor, tokens: Tensor | None) -> Tensor:
        """All parts of a block, in their order."""
        for place in (f"{name}.{k}" for k in range(3)):
            if f"{place}.in_layers.2.weight" in self.w:
                x = self.resnet(place, x, emb)
            elif f"{place}.proj_in.weight" in self.w:
                x = self.transformer(place, x, text, tokens)
            elif f"{place}.op.weight" in self.w:
                x = self.conv(f"{place}.op", x, stride=2)
            elif f"{place}.conv.weight" in self.w:
                x = self.conv(f"{place}.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
            elif f"{place}.weight" in self.w:
                x = self.conv(place, x)
        return x

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor,
        cameras: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> Tensor:
        base = len(self.w["input_blocks.0.0.weight"])
        angle = time[:, None] * torch.exp(-math.log(10000) * torch.arange(base // 2) / (base // 2))
        emb = self.two("time_embed", torch.cat([angle.cos(), angle.sin()], 1))
        if cameras is not None:
            emb = emb + self.two("camera_embed", cameras)
        tokens = None if patches is None else self.resampled(patches)
        count = {side: 1 + max(int(n.split(".")[1]) for n in self.w if n.startswith(side))
                 for side in ("input_blocks", "output_blocks")}  # fmt: skip
        passed: list[Tensor] = []
        for k in range(count["input_blocks"]):
            x = self.block(f"input_blocks.{k}", x, emb, text, tokens)
            passed.append(x)
        x = self.block("middle_block", x, emb, text, tokens)
        for k in range(count["output_blocks"]):
            x = self.block(f"output_blocks.{k}", torch.cat([x, passed.pop()], 1), emb, text, tokens)
        return self.conv("out.2", F.silu(self.norm("out.0", x)))
