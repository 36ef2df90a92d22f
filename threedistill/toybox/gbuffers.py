"""What the world looks like before it is coloured: G-buffers of random scenes, and pictures coloured from them.

A shard holds scenes from several cameras each. For every one of the 2 x 2 samples of a pixel it keeps which slot of
the world's paint is seen and how strongly it is lit; per scene it keeps many palettes, so one rendering gives many
pictures. With the irradiance ``e`` of a sample, the albedo ``a`` of its slot and the light ``g`` that a glossy finish
reflects,

    colour = srgb(e linear(a) + g),

averaged over the samples and weighted by coverage, which is what :func:`threedistill.render.mesh.render_mesh` draws.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from threedistill.atomic import replacing, write_text
from threedistill.ops.rasterize import rasterize
from threedistill.render.mesh import face_normals
from threedistill.render.shading import CLAY, shade, srgb_to_linear
from threedistill.toybox.dataset import random_cameras
from threedistill.toybox.grammar import Scene
from threedistill.toybox.lexicon import COLORS
from threedistill.toybox.scenes import is_held_out, random_scene
from threedistill.toybox.world import build_parts, palette
from threedistill.types import Cameras, Mesh

__all__ = [
    "NOTHING", "SUPERSAMPLE", "BufferSettings", "Buffers", "clay_palette", "colour", "draw_buffers", "draw_shard",
    "recoloured",
]  # fmt: skip

SUPERSAMPLE = 2
#: sRGB of an albedo at which light is linear: far below where colours are cut off.
_PROBE = 0.25
#: The paint slot of the background.
NOTHING = 255


@dataclass(frozen=True)
class BufferSettings:
    """What a cache of G-buffers holds.

    Attributes:
        shards: how many there are in all; they are drawn in order, while a training run already uses the first.
        scenes: per shard.
        views: cameras per scene.
        palettes: palettes per scene.
        size: pixels.
        seed: of everything.
        tier_two: share of scenes with patterns, accessories or two objects.
        colourless: share of the palettes of plain scenes whose caption names no colour.
    """

    shards: int = 32
    scenes: int = 384
    views: int = 5
    palettes: int = 24
    size: int = 128
    seed: int = 1
    tier_two: float = 0.5
    colourless: float = 0.15


def recoloured(scene: Scene, rng: random.Random, colourless: float) -> Scene:
    """The scene in other colours: those of one scene differ, and combinations that are held out are drawn again.

    Arguments:
        scene: what it is of; stripes, spots, accessories and coloured parts stay what they are.
        rng: drives the colours.
        colourless: share of the plain scenes that leave their colour open.
    """
    while True:
        names = rng.sample(list(COLORS), 8)
        objects = []
        for spec in scene.objects[: 1 if scene.twins else 2]:
            objects.append(
                replace(
                    spec,
                    color=names.pop(),
                    pattern_color=names.pop() if spec.pattern else None,
                    accessory=(spec.accessory[0], names.pop()) if spec.accessory else None,
                    parts=tuple((part, names.pop()) for part, _ in spec.parts),
                )
            )
        if scene.tier == 1 and rng.random() < colourless:
            objects = [replace(objects[0], color=None)]
        found = Scene(tuple(objects * 2 if scene.twins else objects), scene.relation)
        if not is_held_out(found):
            return found


@dataclass
class Buffers:
    """G-buffers of B pictures of S x S samples and P x P pixels.

    Attributes:
        group: (B, S, S) uint8 paint slot, :data:`NOTHING` where nothing is.
        light: (B, S, S) uint8, ``255 sqrt(irradiance)``.
        gloss: (B, S, S) uint8, ``255 sqrt(reflected light)``, or None where nothing is glossy.
        normal: (B, P, P, 4) uint8 premultiplied picture of the world normals, and coverage.
    """

    group: np.ndarray
    light: np.ndarray
    gloss: np.ndarray | None
    normal: np.ndarray


@torch.no_grad()
def draw_buffers(mesh: Mesh, group: Tensor, cameras: Cameras) -> Buffers:
    """Rasterise once; shading is linear in the albedo, so two albedos say everything about it.

    Arguments:
        mesh: with vertex normals or flat.
        group: (F,) paint slot of each face.
        cameras: ``B`` of P x P pixels.
    """
    views, size = len(cameras), cameras.height * SUPERSAMPLE
    big = cameras.resized(size, size)
    homogeneous = F.pad(mesh.vertices, (0, 1), value=1.0)
    clip = torch.einsum("bij,vj->bvi", big.world_to_clip().to(homogeneous), homogeneous)
    fragments = rasterize(clip.contiguous(), mesh.faces, size, size)
    flat = fragments.triangle.reshape(-1)
    index = (flat >= 0).nonzero(as_tuple=True)[0]
    triangle = flat[index].long()
    weights = fragments.barycentric.reshape(-1, 3)[index]
    corner = mesh.faces[triangle].long()

    def interpolate(values: Tensor) -> Tensor:
        return (values[corner] * weights[..., None]).sum(1)

    to_camera = F.normalize(cameras.c2w[index // (size * size), :3, 3] - interpolate(mesh.vertices), dim=-1)
    if mesh.normals is not None:
        normal = F.normalize(interpolate(mesh.normals), dim=-1)
    else:
        normal = face_normals(mesh)[triangle]
        normal = torch.where((normal * to_camera).sum(-1, keepdim=True) < 0, -normal, normal)
    material = None if mesh.vertex_material is None else interpolate(mesh.vertex_material)
    if mesh.metallic_roughness is not None:  # of the world's things: one for all of it
        material = mesh.metallic_roughness[0, 0].expand(len(index), 2)

    def lit(albedo: float) -> Tensor:
        color = shade(torch.full_like(normal, albedo), normal, to_camera, "lambertian", material=material)
        return srgb_to_linear(color)[:, 0]

    # Nearly black, not white: what is brighter than 1 is cut off, and a highlight on white would be.
    reflected = lit(0.0)
    irradiance = (lit(_PROBE) - reflected) / srgb_to_linear(torch.tensor(_PROBE))

    def picture(values: Tensor) -> np.ndarray:
        out = torch.zeros(len(flat))
        out[index] = 255 * values.clamp(0, 1).sqrt() + 0.5
        return out.to(torch.uint8).view(views, size, size).numpy()

    groups = torch.full((len(flat),), NOTHING, dtype=torch.uint8)
    groups[index] = group[triangle]
    packed = torch.zeros(len(flat), 4)
    packed[index] = F.pad((normal + 1) / 2, (0, 1), value=1.0)
    packed = F.avg_pool2d(packed.view(views, size, size, 4).permute(0, 3, 1, 2), SUPERSAMPLE)
    normals = (packed.permute(0, 2, 3, 1) * 255 + 0.5).to(torch.uint8).numpy()
    gloss = picture(reflected) if bool((reflected > 1e-6).any()) else None
    return Buffers(
        groups.view(views, size, size).numpy(), picture(irradiance), gloss, np.ascontiguousarray(normals)
    )


#: ``(code / 255)^2`` of every code of light and gloss.
_LEVELS = ((np.arange(256) / 255.0) ** 2).astype(np.float32)


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB, as :func:`threedistill.render.shading.linear_to_srgb`."""
    linear = np.clip(linear, 0, 1)
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    )


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4)


_SRGB = _srgb(np.arange(65536) / 65535.0).astype(np.float32)


def colour(
    group: np.ndarray, light: np.ndarray, gloss: np.ndarray | None, colors: np.ndarray, pixels: int
) -> np.ndarray:
    """A (pixels, pixels, 4) premultiplied float32 picture from one picture's (S, S) buffers.

    Arguments:
        group, light, gloss: see :class:`Buffers`.
        colors: (S, 3) sRGB of the slots.
        pixels: divides S.
    """
    albedo = _linear(colors.astype(np.float32))
    count = len(albedo)
    rows = np.zeros((count + 1, 256, 4), np.float32)  # the last row is the background
    rows[:count, :, 3] = 1
    place = np.minimum(group, count)
    if gloss is None:
        rows[:count, :, :3] = _srgb(albedo[:, None] * _LEVELS[:, None])
        samples = rows.reshape(-1, 4)[place.astype(np.int32) * 256 + light]
    else:
        rows[:count, :, :3] = albedo[:, None] * _LEVELS[:, None]
        samples = rows.reshape(-1, 4)[place.astype(np.int32) * 256 + light]
        linear = samples[..., :3] + (_LEVELS[gloss] * samples[..., 3])[..., None]
        samples[..., :3] = _SRGB[(np.clip(linear, 0, 1) * 65535 + 0.5).astype(np.int32)]
    ratio = len(group) // pixels
    total = samples[::ratio, ::ratio].copy()
    for k in range(1, ratio * ratio):
        total += samples[k // ratio :: ratio, k % ratio :: ratio]
    return total / ratio**2


def clay_palette(slots: int) -> np.ndarray:
    """(S, 3): everything in the grey of textureless renders."""
    return np.full((slots, 3), CLAY, np.float32)


def draw_shard(folder: Path, settings: BufferSettings, shard: int) -> None:
    """Draw one shard (skipped when it is there): the buffers of its pictures, and their facts.

    Everything is written under other names first, so a shard is whole or not there, whoever else draws it.
    """
    done = folder / f"shard-{shard:03d}.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    count, samples = settings.scenes * settings.views, settings.size * SUPERSAMPLE
    group, light = (np.full((count, samples, samples), fill, np.uint8) for fill in (NOTHING, 0))
    normal = np.zeros((count, settings.size, settings.size, 4), np.uint8)
    glossy: list[np.ndarray] = []
    gloss_row = np.full(count, -1, np.int32)
    cameras = np.zeros((count, 4), np.float32)
    records: list[list[dict]] = []
    palettes = np.zeros((settings.scenes, settings.palettes, NOTHING, 3), np.float16)
    most = 0
    for number in range(settings.scenes):
        rng = random.Random(f"toybox-buffers/{settings.seed}/{shard}/{number}")
        scene = random_scene(rng, settings.tier_two, 0.0)
        built = build_parts(scene, rng)
        told = [recoloured(scene, rng, settings.colourless) for _ in range(settings.palettes)]
        colours = [palette(built.slots, scene, rng) for scene in told]
        views = random_cameras(rng, settings.views, settings.size)
        found = draw_buffers(built.mesh, built.face_slot, views)
        rows = slice(number * settings.views, (number + 1) * settings.views)
        group[rows], light[rows], normal[rows] = found.group, found.light, found.normal
        if found.gloss is not None:
            gloss_row[rows] = np.arange(len(views)) + settings.views * len(glossy)
            glossy.append(found.gloss)
        cameras[rows] = torch.stack([views.azimuth, views.elevation, views.distance, views.fov_y], -1).numpy()
        palettes[number, :, : len(built.slots)] = np.stack([c for c, _ in colours])
        most = max(most, len(built.slots))
        records.append([asdict(scene) | {"colors": names} for scene, (_, names) in zip(told, colours)])
    gloss = np.concatenate(glossy) if glossy else np.zeros((0, samples, samples), np.uint8)
    arrays = {"group": group, "light": light, "gloss": gloss, "normal": normal}
    for name, array in arrays.items():
        with replacing(folder / f"{name}-{shard:03d}.npy") as path, path.open("wb") as file:
            np.save(file, array)
    with replacing(folder / f"facts-{shard:03d}.npz") as path, path.open("wb") as file:
        np.savez(file, cameras=cameras, palettes=palettes[:, :, :most], gloss_row=gloss_row)
    write_text(done, json.dumps(records))
