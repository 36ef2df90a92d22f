"""Captioned pictures of the Toybox world: a cache of renders on disk, and batches drawn from it.

The cache holds **premultiplied** RGBA (uint8, sRGB), so every draw can put the object on another background. Captions
are written anew each time. What the embedded prior learns about cameras and words is decided here:

* camera told (share ``camera_told``): any view, view words in half of the captions;
* camera untold with a view word: any view;
* camera untold without a view word: **biased to front views** (:data:`FRONT_BIAS`), like pictures on the web.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedistill.atomic import write_text
from threedistill.cameras import (
    DISTANCE_RANGE,
    ELEVATION_RANGE,
    FOV_RANGE,
    ViewName,
    camera_vector,
    place,
    view_name,
)
from threedistill.render.mesh import render_mesh
from threedistill.toybox.grammar import ObjectSpec, Scene, caption
from threedistill.toybox.lexicon import DEGRADED_WORDS
from threedistill.toybox.scenes import random_scene
from threedistill.toybox.world import build

__all__ = [
    "FRONT_BIAS", "SHARD", "STYLES", "VIEWS", "Batch", "DrawSettings", "RenderedWorld", "WorldSettings",
    "backgrounds", "degrade", "labels", "random_cameras", "render_shard", "scene_from",
]  # fmt: skip

SHARD = 8192
VIEWS: tuple[ViewName, ...] = ("front", "side", "back", "overhead")
#: Shares of the views among pictures whose caption names no view and whose camera is untold.
FRONT_BIAS: dict[ViewName, float] = {"front": 0.75, "side": 0.12, "back": 0.04, "overhead": 0.09}
STYLES = ("plain", "clay", "normal")


@dataclass(frozen=True)
class WorldSettings:
    """What the cache holds.

    Attributes:
        images: how many pictures.
        size: pixels.
        views_per_scene: pictures of each built scene.
        seed: of everything.
        tier_two: share of scenes with patterns, accessories or two objects.
        colourless: share of the plain scenes whose caption names no colour.
        clay, normal: shares of pictures rendered as grey clay and as normal maps.
    """

    images: int = 196608
    size: int = 64
    views_per_scene: int = 4
    seed: int = 1
    tier_two: float = 0.5
    colourless: float = 0.15
    clay: float = 0.03
    normal: float = 0.03

    @property
    def shards(self) -> int:
        return math.ceil(self.images / SHARD)


def random_cameras(rng: random.Random, count: int, size: int):
    """Cameras of the shared distribution: azimuth all round, the rest uniform over the shared ranges."""

    def draw(low: float, high: float) -> Tensor:
        return torch.tensor([rng.uniform(low, high) for _ in range(count)])

    azimuth = draw(-math.pi, math.pi)
    elevation, fov = torch.deg2rad(draw(*ELEVATION_RANGE)), torch.deg2rad(draw(*FOV_RANGE))
    return place(azimuth, elevation, draw(*DISTANCE_RANGE), fov, size, size)


def render_shard(folder: Path, settings: WorldSettings, shard: int) -> None:
    """Render one shard of the cache (skipped when it is there)."""
    done = folder / f"shard-{shard:03d}.json"
    if done.exists():
        return
    rng = random.Random(f"toybox-world/{settings.seed}/{shard}")
    count = min(SHARD, settings.images - shard * SHARD)
    images = np.zeros((count, settings.size, settings.size, 4), np.uint8)
    cameras = np.zeros((count, 4), np.float32)
    styles = np.zeros(count, np.uint8)
    scenes: list[dict] = []
    black = torch.zeros(3)
    row = 0
    while row < count:
        scene = random_scene(rng, settings.tier_two, settings.colourless)
        mesh = build(scene, rng)
        u = rng.random()
        style = 1 if u < settings.clay else 2 if u < settings.clay + settings.normal else 0
        views = random_cameras(rng, min(settings.views_per_scene, count - row), settings.size)
        shading = ("lambertian", "textureless", "normal")[style]
        seen = render_mesh(mesh, views, shading=shading, background=black)
        rows = slice(row, row + len(views))
        images[rows] = (torch.cat([seen.rgb, seen.opacity], -1).numpy() * 255 + 0.5).astype(np.uint8)
        cameras[rows] = torch.stack([views.azimuth, views.elevation, views.distance, views.fov_y], -1).numpy()
        styles[rows] = style
        scenes += [asdict(scene) | {"colors": mesh.extras["colors"]}] * len(views)
        row += len(views)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"images-{shard:03d}.npy", images)
    np.savez(folder / f"cameras-{shard:03d}.npz", cameras=cameras, styles=styles)
    done.write_text(json.dumps(scenes))


def scene_from(record: dict) -> Scene:
    """A scene from its JSON record."""
    objects = tuple(
        ObjectSpec(
            o["kind"],
            o["color"],
            o["pattern"],
            o["pattern_color"],
            tuple(o["accessory"]) if o["accessory"] else None,
            o.get("size"),
            o.get("finish"),
            tuple((part, color) for part, color in o.get("parts", ())),
        )
        for o in record["objects"]
    )
    return Scene(objects, record["relation"])


@dataclass(frozen=True)
class DrawSettings:
    """How batches are drawn and what the prior is told (shares).

    Attributes:
        camera_told, background_told: how often the camera and the background colour are told.
        text_null: how often the caption is empty.
        view_words: how often a caption names its view.
        degraded: pictures spoilt and captioned "blurry", "noisy" or "broken".
        white: pictures on white; the rest have a random plain background.
    """

    camera_told: float = 0.8
    background_told: float = 0.8
    text_null: float = 0.1
    view_words: float = 0.5
    degraded: float = 0.05
    white: float = 0.5


@dataclass
class Batch:
    """Training examples.

    Attributes:
        images: (B, 3, H, W) sRGB in [-1, 1].
        rgba: (B, 4, H, W) the same, premultiplied and without background or flaws, in [0, 1].
        captions: what they are called ("" = untold).
        cameras: (B, 4) azimuth, elevation, distance, field of view (radians, metres).
        background: (B, 3) sRGB.
        camera_told, background_told: (B,) whether the prior hears of them.
    """

    images: Tensor
    rgba: Tensor
    captions: list[str]
    cameras: Tensor
    background: Tensor
    camera_told: Tensor
    background_told: Tensor

    @property
    def told_cameras(self) -> Tensor:
        """(B, 14) camera vectors, zeros where the camera is untold."""
        return camera_vector(*self.cameras.unbind(1)) * self.camera_told[:, None].float()


class RenderedWorld:
    """The cache, rendered where missing and memory-mapped.

    Arguments:
        folder: where the cache lives.
        settings: what it holds.
    """

    def __init__(self, folder: str | Path, settings: WorldSettings):
        self.folder, self.settings = Path(folder), settings
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = self.folder / "settings.json"
        wanted = json.dumps(asdict(settings), sort_keys=True)
        if not stamp.exists():
            write_text(stamp, wanted)
        if stamp.read_text() != wanted:
            raise ValueError(
                f"{self.folder} holds a cache made with other settings: {stamp.read_text()}; use another folder"
            )
        for shard in range(settings.shards):
            render_shard(self.folder, settings, shard)
        names = [f"{i:03d}" for i in range(settings.shards)]
        self._images = [np.load(self.folder / f"images-{n}.npy", mmap_mode="r") for n in names]
        loaded = [np.load(self.folder / f"cameras-{n}.npz") for n in names]
        self.cameras = np.concatenate([x["cameras"] for x in loaded])
        self.styles = np.concatenate([x["styles"] for x in loaded])
        self.records = [r for n in names for r in json.loads((self.folder / f"shard-{n}.json").read_text())]
        self.scenes = [scene_from(r) for r in self.records]
        self.views = np.array([VIEWS.index(view_name(float(a), float(e))) for a, e in self.cameras[:, :2]])
        self._of_view = [np.flatnonzero(self.views == k) for k in range(len(VIEWS))]

    def __len__(self) -> int:
        return len(self.cameras)

    def rgba(self, index: int) -> np.ndarray:
        """(H, W, 4) premultiplied uint8 picture."""
        return self._images[index // SHARD][index % SHARD]

    def batch(self, size: int, draw: DrawSettings, seed: int, step: int) -> Batch:
        """The examples of one training step; a pure function of its arguments."""
        rng = np.random.default_rng([seed, step])
        words = random.Random(f"{seed}/{step}")
        camera_told = rng.random(size) < draw.camera_told
        says_view = rng.random(size) < draw.view_words
        index = rng.integers(len(self), size=size)
        biased = ~camera_told & ~says_view
        bucket = rng.choice(len(VIEWS), size=size, p=[FRONT_BIAS[v] for v in VIEWS])
        for row in np.flatnonzero(biased):
            choices = self._of_view[bucket[row]]
            if len(choices):
                index[row] = choices[rng.integers(len(choices))]
        rgba = np.stack([self.rgba(int(i)) for i in index]).astype(np.float32) / 255
        background = backgrounds(rgba, rng, draw.white)
        rgb = rgba[..., :3] + (1 - rgba[..., 3:]) * background[:, None, None]
        nameless = rng.random(size) < draw.text_null
        spoilt = rng.random(size) < draw.degraded
        captions = []
        for row, i in enumerate(index):
            view = VIEWS[self.views[i]] if says_view[row] else None
            style, flaw = STYLES[self.styles[i]], None
            if spoilt[row] and style == "plain":
                style, flaw = "degraded", words.choice(DEGRADED_WORDS)
                rgb[row] = degrade(rgb[row], flaw, rng)
            text = caption(self.scenes[i], view, words, style, flaw)  # type: ignore[arg-type]
            captions.append("" if nameless[row] else text)
        return Batch(
            torch.from_numpy(rgb).permute(0, 3, 1, 2).contiguous() * 2 - 1,
            torch.from_numpy(rgba).permute(0, 3, 1, 2).contiguous(),
            captions,
            torch.from_numpy(self.cameras[index]),
            torch.from_numpy(background),
            torch.from_numpy(camera_told),
            torch.from_numpy(rng.random(size) < draw.background_told),
        )


def backgrounds(rgba: np.ndarray, rng: np.random.Generator, white: float) -> np.ndarray:
    """(B, 3) plain backgrounds: white with probability ``white``, else random but not near the object's mean."""
    size = len(rgba)
    mean = rgba[..., :3].sum((1, 2)) / np.maximum(rgba[..., 3:].sum((1, 2)), 1e-3)
    out = rng.random((size, 3)).astype(np.float32)
    for _ in range(8):
        near = np.abs(out - mean).max(1) < 0.25
        if not near.any():
            break
        out[near] = rng.random((int(near.sum()), 3))
    out[rng.random(size) < white] = 1.0
    return out


def degrade(image: np.ndarray, flaw: str, rng: np.random.Generator) -> np.ndarray:
    """A spoilt (H, W, 3) picture: strongly blurred, covered in noise, or cut into misplaced tiles."""
    if flaw == "noisy":
        return np.clip(image + rng.normal(0, rng.uniform(0.15, 0.35), image.shape), 0, 1).astype(np.float32)
    if flaw == "blurry":
        out = image
        for _ in range(int(rng.integers(6, 14))):
            pad = np.pad(out, ((1, 1), (1, 1), (0, 0)), mode="edge")
            out = (pad[:-2, 1:-1] + pad[2:, 1:-1] + pad[1:-1, :-2] + pad[1:-1, 2:] + 2 * out) / 6
        return out.astype(np.float32)
    tile = image.shape[0] // 4
    tiles = [image[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] for r in range(4) for c in range(4)]
    order = rng.permutation(16)
    return np.concatenate(
        [np.concatenate([tiles[order[4 * r + c]] for c in range(4)], 1) for r in range(4)], 0
    )


def labels(records: Sequence[dict]) -> list[tuple[str, str]]:
    """The (kind, main colour) of the first object of each record."""
    return [(r["objects"][0]["kind"], r["colors"][0]) for r in records]
