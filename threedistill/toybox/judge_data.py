"""What the judge learns from: ground-truth renders with labels, objects with too many faces, and spoilt pictures.

Renders are kept without a background (premultiplied colour and coverage), so every training batch puts them on new
ones. Everything is drawn from named streams: the same seed gives the same pool and the same batches.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from threedistill.cameras import DISTANCE_RANGE, ELEVATION_RANGE, FOV_RANGE, place, view_name
from threedistill.rng import Streams
from threedistill.toybox.grammar import ObjectSpec, Scene
from threedistill.toybox.judge import SIZE, VIEWS, Vocabulary, scene_labels
from threedistill.toybox.lexicon import FRONTED
from threedistill.toybox.scenes import held_out_scenes, random_scene
from threedistill.toybox.visible import SHOWN, visible
from threedistill.types import Mesh

if TYPE_CHECKING:
    from threedistill.toybox.dataset import RenderedWorld

__all__ = [
    "CLASSES", "FACES", "IGNORE", "LABELS", "SPOILS", "Pool", "augment", "backgrounds", "composite", "distorted",
    "front_half", "load_or_render", "many_faced", "pool_of_world", "render_pool", "spoil",
]  # fmt: skip

IGNORE = -100
FACES = ("turned", "mirrored", "crossed", "square")
CLASSES = ("kind", "color", "pattern", "accessory", "second_kind", "second_color", "view", "clean")
LABELS = (*CLASSES, "parts")


@dataclass
class Pool:
    """Renders and their labels.

    Attributes:
        rgba: (N, 64, 64, 4) uint8, premultiplied sRGB and coverage.
        labels: (N,) int64 class per head, -100 where it has none; of ``parts`` (N, S): 1, 0, -100.
        pose: (N, 3) sine and cosine of the azimuth, and elevation in radians; NaN where they mean nothing.
    """

    rgba: Tensor
    labels: dict[str, Tensor]
    pose: Tensor

    def __len__(self) -> int:
        return len(self.rgba)

    def __getitem__(self, rows: Tensor) -> Pool:
        return Pool(self.rgba[rows], {k: v[rows] for k, v in self.labels.items()}, self.pose[rows])

    @staticmethod
    def concatenated(pools: list[Pool]) -> Pool:
        """Pools one after the other."""
        labels = {k: torch.cat([p.labels[k] for p in pools]) for k in LABELS}
        return Pool(torch.cat([p.rgba for p in pools]), labels, torch.cat([p.pose for p in pools]))


def front_half(mesh: Mesh) -> Mesh:
    """The part of the mesh before z = 0; faces that cross the plane are pressed onto it."""
    depth = mesh.vertices[mesh.faces.long()][..., 2]
    keep = depth.amax(1) > 0
    vertices = mesh.vertices.clone()
    vertices[:, 2].clamp_(min=0.0)
    return replace(mesh, vertices=vertices, faces=mesh.faces[keep])


def _turn(mesh: Mesh, quarter_turns: int) -> Mesh:
    def turn(points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        for _ in range(quarter_turns % 4):
            x, z = z, -x
        return torch.stack([x, y, z], -1)

    normals = None if mesh.normals is None else turn(mesh.normals)
    return replace(mesh, vertices=turn(mesh.vertices), normals=normals)


def _union(parts: list[Mesh]) -> Mesh:
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part.vertices))

    def joined(name: str) -> Tensor | None:
        found = [getattr(p, name) for p in parts]
        return None if any(x is None for x in found) else torch.cat(found)

    vertices = torch.cat([p.vertices for p in parts])
    faces = torch.cat([p.faces + o for p, o in zip(parts, offsets)])
    return Mesh(vertices, faces, normals=joined("normals"), colors=joined("colors"))


def many_faced(mesh: Mesh, sort: str) -> Mesh:
    """The object with a face on more than one side.

    ``turned``: the object and itself turned by 180 degrees; ``mirrored``: its front half, twice; ``crossed``: itself
    and turned by 90 degrees; ``square``: a front on each of the four sides.
    """
    if sort == "turned":
        return _union([mesh, _turn(mesh, 2)])
    if sort == "mirrored":
        half = front_half(mesh)
        return _union([half, _turn(half, 2)])
    if sort == "crossed":
        return _union([mesh, _turn(mesh, 1)])
    if sort == "square":
        half = front_half(mesh)
        return _union([_turn(half, k) for k in range(4)])
    raise ValueError(f"unknown sort of many-faced object {sort!r} (known: {', '.join(FACES)})")


def _named(scene: Scene, rng: random.Random) -> Scene:
    """The scene with every colour stated, so that its label is known."""
    from threedistill.toybox.lexicon import COLORS

    def named(spec: ObjectSpec) -> ObjectSpec:
        return spec if spec.color else replace(spec, color=rng.choice(list(COLORS)))

    return replace(scene, objects=tuple(named(o) for o in scene.objects))


def _cameras(count: int, streams: Streams):
    u = streams.uniform("judge/camera", 4, count)

    def between(bounds: tuple[float, float], x: Tensor) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * x

    return place(
        u[0] * 2 * math.pi - math.pi, torch.deg2rad(between(ELEVATION_RANGE, u[1])), between(DISTANCE_RANGE, u[2]),
        torch.deg2rad(between(FOV_RANGE, u[3])), SIZE, SIZE,
    )  # fmt: skip


def render_pool(
    objects: int, words: Vocabulary, seed: int, *, views: int = 4, faces: bool = False, held_out: bool = False,
    first: int = 0, tier_two: float = 0.3,
) -> Pool:  # fmt: skip
    """Render ``objects`` random things from ``views`` cameras each.

    Arguments:
        objects: number of objects.
        words: the judge's classes.
        seed: of the pool; objects ``first .. first + objects`` of it are made.
        faces: make kinds with a front and give them too many faces.
        held_out: draw from the combinations that :func:`random_scene` never gives.
        tier_two: share of patterns, accessories and pairs.
    """
    from threedistill.render.mesh import render_mesh
    from threedistill.toybox.world import build_parts

    reserved = sorted(held_out_scenes(), key=repr)
    rgba, poses = [], []
    labels: dict[str, list[int]] = {k: [] for k in CLASSES}
    parts = []
    for index in range(first, first + objects):
        rng = random.Random(f"judge/{seed}/{index}")
        while True:
            scene = _named(rng.choice(reserved) if held_out else random_scene(rng, tier_two, 0.0), rng)
            alone = len(scene.objects) == 1 and scene.objects[0].kind in FRONTED
            known = all(o.kind in words.kinds for o in scene.objects)
            if known and (alone or not faces):
                break
        built = build_parts(scene, rng)
        mesh = built.mesh
        sort = rng.choice(FACES) if faces else None
        if sort:
            mesh = many_faced(mesh, sort)
        cameras = _cameras(views, Streams(seed, 0, index))
        shading = "none" if rng.random() < 0.4 else "lambertian"
        seen = render_mesh(mesh, cameras, shading=shading, background=torch.zeros(views, 3))
        rgba.append((torch.cat([seen.rgb, seen.opacity], -1).clamp(0, 1) * 255).round().to(torch.uint8))
        # What an object with too many faces shows is not what it should show.
        shown = torch.full((views, len(SHOWN)), IGNORE) if sort else visible(built, cameras)
        parts.append(torch.where(shown < 0, IGNORE, shown))
        right = scene_labels(scene, words)
        for view in range(views):
            azimuth, elevation = float(cameras.azimuth[view]), float(cameras.elevation[view])
            name, clean = _view_and_clean(azimuth, elevation, alone, sort)
            for key in CLASSES:
                labels[key].append(right.get(key, IGNORE))
            labels["view"][-1] = VIEWS.index(name) if name else IGNORE
            labels["clean"][-1] = clean
            known = alone and sort is None
            poses.append([math.sin(azimuth), math.cos(azimuth), elevation] if known else [math.nan] * 3)
    known = {k: torch.tensor(v) for k, v in labels.items()} | {"parts": torch.cat(parts)}
    return Pool(torch.cat(rgba), known, torch.tensor(poses))


def pool_of_world(world: RenderedWorld, words: Vocabulary) -> Pool:
    """The plainly rendered pictures of the prior's world, labelled: many more objects than a pool of its own."""
    rows = np.flatnonzero(world.styles == 0)
    labels: dict[str, list[int]] = {k: [] for k in CLASSES}
    for row in rows:
        scene, azimuth, elevation = world.scenes[row], *(float(x) for x in world.cameras[row, :2])
        colors = world.records[row]["colors"]
        scene = replace(scene, objects=tuple(replace(o, color=c) for o, c in zip(scene.objects, colors)))
        right = scene_labels(scene, words)
        fronted = len(scene.objects) == 1 and scene.objects[0].kind in FRONTED
        name, right["clean"] = _view_and_clean(azimuth, elevation, fronted, None)
        right["view"] = VIEWS.index(name) if name else IGNORE
        for key in CLASSES:
            labels[key].append(right.get(key, IGNORE))
    azimuth, elevation = world.cameras[rows, 0], world.cameras[rows, 1]
    pose = np.stack([np.sin(azimuth), np.cos(azimuth), elevation], 1)
    known = {k: torch.tensor(v) for k, v in labels.items()}
    known["parts"] = torch.full((len(rows), len(SHOWN)), IGNORE)
    pose[(known["view"] == IGNORE).numpy()] = math.nan
    rgba = np.stack([world.rgba(int(row)) for row in rows])
    return Pool(torch.from_numpy(rgba), known, torch.from_numpy(pose))


def _view_and_clean(
    azimuth: float, elevation: float, alone: bool, sort: str | None
) -> tuple[str | None, int]:
    """The view's word (None where it has none) and the clean label (1, 0, or -100 for "cannot be told")."""
    if sort is None:
        return (view_name(azimuth, elevation) if alone else None), 1
    period = math.pi / 2 if sort in ("crossed", "square") else math.pi
    around = abs((azimuth + period / 2) % period - period / 2)  # from the nearest front
    if sort == "crossed":
        # Fronts at 0 and 90 degrees only; the rest shows two backs at once.
        around = min(abs((azimuth - a + math.pi) % (2 * math.pi) - math.pi) for a in (0.0, math.pi / 2))
    front = "front" if around <= math.radians(30) and elevation <= math.radians(45) else None
    if sort in ("turned", "mirrored") and around < math.radians(40):
        return front, IGNORE  # from straight ahead nothing betrays the second face
    return front, 0


def load_or_render(path: Path, make: Callable[[], Pool]) -> Pool:
    """A pool from its file, or made and written there."""
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return Pool(saved["rgba"], saved["labels"], saved["pose"])
    pool = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save({"rgba": pool.rgba, "labels": pool.labels, "pose": pool.pose}, temporary)
    temporary.replace(path)
    return pool


def backgrounds(count: int, rng: torch.Generator) -> Tensor:
    """(count, 3): white three times in four (assets and samples are judged on white), else any plain colour."""
    color = torch.rand(count, 3, generator=rng)
    return torch.where(torch.rand(count, 1, generator=rng) < 0.75, torch.ones(count, 3), color)


def composite(rgba: Tensor, background: Tensor) -> Tensor:
    """(B, 3, H, W) floats from premultiplied (B, H, W, 4) bytes over (B, 3) colours."""
    x = rgba.permute(0, 3, 1, 2).float() / 255
    return x[:, :3] + (1 - x[:, 3:]) * background[:, :, None, None]


def _blurred(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, math.ceil(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).float() / sigma) ** 2)
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (radius,) * 4, mode="replicate")
    x = F.conv2d(x, taps, groups=x.shape[1])
    return F.conv2d(x, taps.transpose(2, 3), groups=x.shape[1])


def _smooth_noise(count: int, channels: int, cells: int, rng: torch.Generator) -> Tensor:
    field = torch.randn(count, channels, cells, cells, generator=rng)
    return F.interpolate(field, (SIZE, SIZE), mode="bicubic", align_corners=False)


def augment(rgba: Tensor, rng: torch.Generator, plain: float = 0.5) -> Tensor:
    """(B, 3, 64, 64) pictures in [0, 1]: the first share ``plain`` as they are, the others :func:`distorted`."""
    kept = int(plain * len(rgba))
    clear = composite(rgba[:kept], backgrounds(kept, rng))
    return torch.cat([clear, distorted(rgba[kept:], rng)]) if kept < len(rgba) else clear


def distorted(rgba: Tensor, rng: torch.Generator) -> Tensor:
    """(B, 3, 64, 64) pictures in [0, 1] as samples and assets would show the same thing.

    Small moves and sizes, wobbly outlines (reconstructed surfaces are never quite smooth), saturation and contrast
    as guidance exaggerates them, light blur, light grain; then a plain background.
    """
    count = len(rgba)
    u = torch.rand(count, 8, generator=rng)
    scale = 1.18 ** (2 * u[:, 0] - 1)
    shift = (u[:, 1:3] - 0.5) * 0.16
    base = torch.zeros(count, 2, 3)
    base[:, 0, 0] = base[:, 1, 1] = scale
    base[:, :, 2] = shift
    grid = F.affine_grid(base, [count, 4, SIZE, SIZE], align_corners=False)
    wobble = _smooth_noise(count, 2, 9, rng) * (u[:, 3] ** 2 * 0.03)[:, None, None, None]
    grid = grid + wobble.permute(0, 2, 3, 1)
    x = F.grid_sample(rgba.permute(0, 3, 1, 2).float() / 255, grid, align_corners=False)
    color, alpha = x[:, :3], x[:, 3:]
    gain = 0.8 + 0.45 * u[:, 4, None, None, None]
    grey = color.mean(1, keepdim=True)
    color = grey + (color - grey) * (0.7 + 0.8 * u[:, 5, None, None, None])
    color = (color * gain + _smooth_noise(count, 1, 5, rng) * 0.03).clamp(0, 1) * (alpha > 0)
    color = torch.minimum(color, alpha)
    x = color + (1 - alpha) * backgrounds(count, rng)[:, :, None, None]
    # One kernel per quarter of the batch: four widths of blur at once cost four convolutions, not one per picture.
    for part, sigma in zip(x.chunk(4), torch.rand(4, generator=rng) * 1.1 + 0.2):
        mixed = _blurred(part, float(sigma))
        part.copy_(
            torch.where((torch.rand(len(part), generator=rng) < 0.5)[:, None, None, None], mixed, part)
        )
    x = x + torch.randn(x.shape, generator=rng) * (u[:, 6] ** 3 * 0.05)[:, None, None, None]
    return x.clamp(0, 1)


def spoil(clean: Tensor, sort: int, rng: torch.Generator) -> Tensor:
    """(B, 3, 64, 64) pictures that are not an object (any more); ``sort`` 0..9 says how."""
    count = len(clean)
    strength = torch.rand(count, 1, 1, 1, generator=rng)
    plain = backgrounds(count, rng)[:, :, None, None]
    other = clean.roll(1, 0)
    if sort == 0:  # noise
        grain = torch.randn(clean.shape, generator=rng) * (0.25 + 0.5 * strength)
        return (clean * (1 - 0.7 * strength) + grain).clamp(0, 1)
    if sort == 1:  # blur beyond recognition
        return _blurred(clean, 3.5 + 4 * float(strength[0]))
    if sort == 2:  # fog
        return plain + (clean - plain) * (0.05 + 0.25 * strength)
    if sort == 3:  # half made: soft holes
        r = torch.linspace(-1, 1, SIZE)
        middle = 1.2 - 2.4 * (r[:, None] ** 2 + r[None] ** 2)  # holes beside the object would spoil nothing
        hole = (_smooth_noise(count, 1, 6, rng) * 3 + middle).sigmoid()
        return torch.where(hole > 0.45, _blurred(plain + 0 * clean, 1.0) * hole + clean * (1 - hole), clean)
    if sort == 4:  # scrambled patches
        size = 16 if float(strength[0]) < 0.5 else 8
        cells = SIZE // size
        tiles = clean.unfold(2, size, size).unfold(3, size, size).reshape(count, 3, cells * cells, size, size)
        tiles = tiles[:, :, torch.randperm(cells * cells, generator=rng)]
        tiles = tiles.reshape(count, 3, cells, cells, size, size).permute(0, 1, 2, 4, 3, 5)
        return tiles.reshape(count, 3, SIZE, SIZE)
    if sort == 5:  # two different objects through each other
        return clean * (0.35 + 0.3 * strength) + other * (0.65 - 0.3 * strength)
    if sort == 6:  # coloured cloud, what a failed distillation leaves
        cloud = (_smooth_noise(count, 3, 5, rng) * 0.5 + 0.5).clamp(0, 1)
        r = torch.linspace(-1, 1, SIZE)
        reach = (r[:, None] ** 2 + r[None] ** 2).sqrt() + 0.25 * _smooth_noise(count, 1, 6, rng)
        mask = ((0.4 + 0.4 * strength - reach) * (3 + 12 * strength)).sigmoid()
        return (cloud * mask + plain * (1 - mask)).clamp(0, 1)
    if sort == 7:  # nothing, or half of something else
        empty = plain.expand_as(clean)
        cut = torch.linspace(0, 1, SIZE)[None, None, None] > 0.5
        joined = torch.where(cut, clean, other.flip(2))
        return torch.where(strength < 0.3, empty, joined)
    if sort == 8:  # colours run together in blocks, outline kept
        block = F.interpolate(F.avg_pool2d(clean.roll(1, 1), 8), scale_factor=8)
        return (0.3 * clean + 0.7 * block + 0.1 * torch.randn(clean.shape, generator=rng)).clamp(0, 1)
    if sort == 9:  # torn by a strong warp
        base = torch.eye(2, 3).expand(count, 2, 3)
        grid = F.affine_grid(base.contiguous(), [count, 3, SIZE, SIZE], align_corners=False)
        warp = _smooth_noise(count, 2, 7, rng) * (0.14 + 0.12 * strength)
        return F.grid_sample(
            clean, grid + warp.permute(0, 2, 3, 1), align_corners=False, padding_mode="border"
        )
    raise ValueError(f"there are 10 ways to spoil a picture, not {sort}")


SPOILS = 10
