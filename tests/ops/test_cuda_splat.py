"""What gsplat is handed on a GPU: its own tile lists (its torch functions run here), composited as its kernel does."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.ops import splat as splat_op
from threedistill.ops.splat import splat
from threedistill.render.projection import project, rotations


def rasterize_to_pixels(
    means2d, conics, colors, opacities, image_width, image_height, tile_size, isect_offsets, flatten_ids
):
    """Each tile's list, front to back, as gsplat's documentation describes its kernel."""
    views, down, across = isect_offsets.shape
    starts = isect_offsets.reshape(-1).tolist() + [len(flatten_ids)]
    image = torch.zeros(views, image_height, image_width, colors.shape[-1])
    alpha_out = torch.zeros(views, image_height, image_width, 1)
    flat = [t.reshape(-1, *t.shape[2:]) for t in (means2d, conics, colors, opacities)]
    for tile in range(views * down * across):
        ids = flatten_ids[starts[tile] : starts[tile + 1]].long()
        mean, conic, color, opacity = (t[ids] for t in flat)
        view, row, column = tile // (down * across), tile // across % down, tile % across
        y = torch.arange(row * tile_size, min((row + 1) * tile_size, image_height))
        x = torch.arange(column * tile_size, min((column + 1) * tile_size, image_width))
        dx = x[None, None] + 0.5 - mean[:, 0, None, None]
        dy = y[None, :, None] + 0.5 - mean[:, 1, None, None]
        a, b, c = (conic[:, k, None, None] for k in range(3))
        alpha = (opacity[:, None, None] * torch.exp(-(a * dx**2 + c * dy**2) / 2 - b * dx * dy)).clamp_max(
            0.999
        )
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        after = torch.cumprod(1 - alpha, 0)
        weight = alpha * after / (1 - alpha) * (after >= 1e-4)
        image[view, y[0] : y[-1] + 1, x[0] : x[-1] + 1] = torch.einsum("nyx,nc->yxc", weight, color)
        alpha_out[view, y[0] : y[-1] + 1, x[0] : x[-1] + 1, 0] = weight.sum(0)
    return image, alpha_out


def test_gsplat_is_given_what_it_needs(monkeypatch):
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    library = types.SimpleNamespace(
        isect_tiles=lambda means, radii, depths, size, across, down: torch_impl._isect_tiles(
            means, radii, depths, size, across, down
        ),
        isect_offset_encode=torch_impl._isect_offset_encode,
        rasterize_to_pixels=rasterize_to_pixels,
    )
    monkeypatch.setattr(splat_op, "cuda_library", lambda name, tensor: library)
    generator = torch.Generator().manual_seed(0)
    count = 250
    cameras = orbit(2, elevation=20).resized(40, 56)
    axes = rotations(torch.randn(count, 4, generator=generator))
    scales = torch.exp(0.5 * torch.randn(count, 3, generator=generator) - 3)
    ellipses = project(0.5 * torch.randn(count, 3, generator=generator), scales, axes, cameras)
    ellipses.depths[:, :20] = -1  # hidden
    given = (
        ellipses.means, ellipses.conics, torch.rand(2, count, generator=generator),
        torch.rand(2, count, 4, generator=generator), ellipses.depths, 40, 56, None,
    )  # fmt: skip
    theirs, ours = splat_op.Layers(*splat_op._on_cuda(*given)), splat(*given)
    assert theirs.image.shape == ours.image.shape and theirs.opacity.shape == ours.opacity.shape
    # Opacities at the edge of 1/255 may fall on either side in single precision.
    assert float((theirs.opacity - ours.opacity).abs().max()) < 1 / 200
    assert float((theirs.image - ours.image).abs().mean()) < 1e-5


def test_the_numbers_are_those_of_the_gsplat_that_cuda_asks_for():
    """Its kernels' sources, which the wheel carries; another version may cap otherwise (1.6.0: at 0.99)."""
    gsplat = pytest.importorskip("gsplat")
    sources = Path(gsplat.__file__).parent / "cuda"
    kernel = (sources / "csrc" / "RasterizeToPixels3DGSFwd.cu").read_text(encoding="utf-8")
    common = (sources / "include" / "Common.h").read_text(encoding="utf-8")
    cap = re.search(r"min\(([\d.]+)f, opac", kernel)
    dark = re.search(r"next_T <= (1e-\d)f", kernel)
    least = re.search(r"#define ALPHA_THRESHOLD \(1\.f / (\d+)\.f\)", common)
    assert cap and dark and least
    found = (1 / int(least[1]), float(cap[1]), float(dark[1]))
    assert found == (splat_op.LEAST, splat_op.MOST, splat_op.DARK)
