"""Captioned training pictures, coloured anew at every draw from a growing cache of G-buffers.

Captions, colours and backgrounds are drawn for every picture; a picture may come with reference views of the same
object (other views of its scene in the same colours, each on a background of its own) and with a control picture (the
normals of the scene). What the embedded prior learns about cameras and words is decided as in
:mod:`threedistill.toybox.dataset`.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedistill.atomic import write_text
from threedistill.cameras import camera_vector, view_name
from threedistill.errors import UsageError
from threedistill.toybox.dataset import FRONT_BIAS, VIEWS, DrawSettings, backgrounds, degrade, scene_from
from threedistill.toybox.gbuffers import BufferSettings, clay_palette, colour, draw_shard
from threedistill.toybox.grammar import caption
from threedistill.toybox.lexicon import DEGRADED_WORDS

__all__ = ["CLAY", "NORMAL", "ColouredWorld", "Examples"]

#: Shares of the pictures that are grey clay and normal maps.
CLAY, NORMAL = 0.03, 0.03


@dataclass
class Examples:
    """Training examples.

    Attributes:
        images: (B, 3, H, W) sRGB in [-1, 1].
        rgba: (B, 4, H, W) the same, premultiplied and without background or flaws, in [0, 1].
        captions: what they are called ("" = untold).
        cameras: (B, 14) camera vectors, zeros where the camera is untold.
        background: (B, 4) background vectors, zeros where untold.
        references: (B, R, 3, H, W) other views of the same objects in [-1, 1], or None.
        reference_cameras: (B, R, 14) their camera vectors, zeros where untold, or None.
        control: (B, 4, H, W) normals, premultiplied, and coverage in [0, 1], or None.
    """

    images: Tensor
    rgba: Tensor
    captions: list[str]
    cameras: Tensor
    background: Tensor
    references: Tensor | None = None
    reference_cameras: Tensor | None = None
    control: Tensor | None = None


@dataclass
class _Shard:
    group: np.ndarray
    light: np.ndarray
    gloss: np.ndarray
    normal: np.ndarray
    gloss_row: np.ndarray
    cameras: np.ndarray
    palettes: np.ndarray
    records: list[list[dict]]
    views: np.ndarray


class ColouredWorld:
    """The cache and what is drawn from it.

    Arguments:
        folder: where the cache lives.
        settings: what it holds.
        patience: seconds for which a missing shard is waited for before it is drawn here: another process draws.

    Raises:
        UsageError: the folder holds a cache made with other settings.
    """

    def __init__(self, folder: str | Path, settings: BufferSettings, patience: float = 0.0):
        self.folder, self.settings, self.patience = Path(folder), settings, patience
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = self.folder / "settings.json"
        facts = asdict(settings)
        facts.pop("shards")  # a cache may grow
        wanted = json.dumps(facts, sort_keys=True)
        if not stamp.exists():
            write_text(stamp, wanted)
        if stamp.read_text() != wanted:
            raise UsageError(
                f"{self.folder} holds a cache made with other settings: {stamp.read_text()}; use another folder"
            )
        self._shards: list[_Shard] = []

    @property
    def whole(self) -> bool:
        """Whether every shard is drawn."""
        return all((self.folder / f"shard-{k:03d}.json").exists() for k in range(self.settings.shards))

    def draw(self) -> None:
        """Draw all that is missing."""
        for shard in range(self.settings.shards):
            draw_shard(self.folder, self.settings, shard)

    def need(self, shards: int) -> None:
        """Have the first ``shards``; those that are missing are drawn, or waited for while another process draws."""
        while len(self._shards) < shards:
            number = len(self._shards)
            waited = 0.0
            while waited < self.patience and not (self.folder / f"shard-{number:03d}.json").exists():
                time.sleep(0.5)
                waited += 0.5
            draw_shard(self.folder, self.settings, number)
            self._shards.append(self._open(number))

    def _open(self, number: int) -> _Shard:
        group, light, gloss, normal = (
            np.load(self.folder / f"{name}-{number:03d}.npy", mmap_mode="r" if name != "gloss" else None)
            for name in ("group", "light", "gloss", "normal")
        )
        facts = np.load(self.folder / f"facts-{number:03d}.npz")
        cameras = facts["cameras"]
        views = np.array([VIEWS.index(view_name(float(a), float(e))) for a, e in cameras[:, :2]])
        records = json.loads((self.folder / f"shard-{number:03d}.json").read_text())
        return _Shard(
            group, light, gloss, normal, facts["gloss_row"], cameras, facts["palettes"], records, views
        )

    def rgba(self, row: int, palette: int | None, pixels: int) -> np.ndarray:
        """(P, P, 4) premultiplied picture ``row`` in one of its scene's colourings; None is grey clay.

        At half of the cache's size only every other sample of a row and a column counts.
        """
        per_shard = self.settings.scenes * self.settings.views
        shard, k = self._shards[row // per_shard], row % per_shard
        step = max(1, self.settings.size // pixels)
        colours = shard.palettes[k // self.settings.views, palette or 0]
        colours = clay_palette(len(colours)) if palette is None else colours.astype(np.float32)
        place = shard.gloss_row[k]
        gloss = shard.gloss[place][::step, ::step] if place >= 0 and palette is not None else None
        return colour(shard.group[k][::step, ::step], shard.light[k][::step, ::step], gloss, colours, pixels)

    def normals(self, row: int) -> np.ndarray:
        """(P, P, 4) premultiplied normals and coverage in [0, 1]."""
        per_shard = self.settings.scenes * self.settings.views
        return self._shards[row // per_shard].normal[row % per_shard].astype(np.float32) / 255

    def record(self, row: int, palette: int) -> dict:
        """What is told of picture ``row`` in one of its colourings."""
        per_shard = self.settings.scenes * self.settings.views
        return self._shards[row // per_shard].records[row % per_shard // self.settings.views][palette]

    def batch(
        self, size: int, draw: DrawSettings, seed: int, step: int, shards: int, *, pixels: int | None = None,
        references: int = 0, control: bool = False, rows: slice = slice(None),
    ) -> Examples:  # fmt: skip
        """The examples of one training step; a pure function of its arguments.

        Arguments:
            size: examples of the step.
            draw: shares of what is told.
            seed, step: of everything random.
            shards: how many of the first shards are drawn from.
            pixels: of the pictures; None is the cache's size.
            references: how many reference views come with each (at most one less than the cache has views).
            control: whether control pictures come with them.
            rows: which of the examples are wanted (they are the same as in the whole batch).
        """
        self.need(shards)
        s = self.settings
        pixels = pixels or s.size
        rng = np.random.default_rng([seed, step])
        camera_told = rng.random(size) < draw.camera_told
        background_told = rng.random(size) < draw.background_told
        says_view = rng.random(size) < draw.view_words
        nameless, spoilt = rng.random(size) < draw.text_null, rng.random(size) < draw.degraded
        style = rng.random(size)
        views = np.concatenate([x.views for x in self._shards[:shards]])
        cameras = np.concatenate([x.cameras for x in self._shards[:shards]])
        index = rng.integers(len(views), size=size)
        bucket = rng.choice(len(VIEWS), size=size, p=[FRONT_BIAS[v] for v in VIEWS])
        of_view = [np.flatnonzero(views == k) for k in range(len(VIEWS))]
        biased = ~camera_told & ~says_view
        for row in np.flatnonzero(biased):
            choices = of_view[bucket[row]]
            if len(choices):
                index[row] = choices[rng.integers(len(choices))]
        palette = rng.integers(s.palettes, size=size)
        wanted = np.arange(size)[rows]
        rgba, captions, flaws = [], [], []
        for row in wanted:
            words = random.Random(f"{seed}/{step}/{row}")
            i, k = int(index[row]), int(palette[row])
            kind = "clay" if style[row] < CLAY else "normal" if style[row] < CLAY + NORMAL else "plain"
            if kind == "normal":
                image = self.normals(i)
                if pixels != s.size:
                    image = image.reshape(pixels, s.size // pixels, pixels, -1, 4).mean((1, 3))
            else:
                image = self.rgba(i, None if kind == "clay" else k, pixels)
            rgba.append(image)
            flaw = words.choice(DEGRADED_WORDS) if spoilt[row] and kind == "plain" else None
            flaws.append(flaw)
            scene = scene_from(self.record(i, k))
            view = VIEWS[views[i]] if says_view[row] else None
            text = caption(scene, view, words, "degraded" if flaw else kind, flaw)  # type: ignore[arg-type]
            captions.append("" if nameless[row] else text)
        pictures = np.stack(rgba)
        # A generator for every example, so that a share of the rows is drawn as the whole batch is.
        generators = [np.random.default_rng([seed, step, 1, int(row)]) for row in wanted]
        ground = np.concatenate([backgrounds(p[None], g, draw.white) for p, g in zip(pictures, generators)])
        rgb = pictures[..., :3] + (1 - pictures[..., 3:]) * ground[:, None, None]
        for k, (flaw, g) in enumerate(zip(flaws, generators)):
            if flaw:
                rgb[k] = degrade(rgb[k], flaw, g)
        told = camera_vector(*torch.from_numpy(cameras[index[wanted]]).unbind(1))
        behind = torch.from_numpy(np.pad(ground, ((0, 0), (0, 1)), constant_values=1))
        out = Examples(
            _signed(rgb), torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), captions,
            told * torch.from_numpy(camera_told[wanted])[:, None],
            (behind * torch.from_numpy(background_told[wanted])[:, None]).float(),
        )  # fmt: skip
        if references:
            self._add_references(out, draw, index[wanted], palette[wanted], cameras, references, generators)
        if control:
            seen = np.stack([self.normals(int(i)) for i in index[wanted]])
            out.control = torch.from_numpy(seen).permute(0, 3, 1, 2).contiguous()
        return out

    def _add_references(
        self, out: Examples, draw: DrawSettings, index: np.ndarray, palette: np.ndarray, cameras: np.ndarray,
        count: int, generators: list[np.random.Generator],
    ) -> None:  # fmt: skip
        """Other views of the same scenes in the same colours; half of their cameras are told."""
        views = self.settings.views
        pictures, told = [], []
        for i, k, g in zip(index, palette, generators):
            first = int(i) // views * views
            others = [j for j in range(first, first + views) if j != i]
            chosen = g.permutation(others)[:count]
            rgba = np.stack([self.rgba(int(j), int(k), self.settings.size) for j in chosen])
            ground = backgrounds(rgba, g, draw.white)
            pictures.append(_signed(rgba[..., :3] + (1 - rgba[..., 3:]) * ground[:, None, None]))
            vectors = camera_vector(*torch.from_numpy(cameras[chosen]).unbind(1))
            told.append(vectors * torch.from_numpy(g.random(count) < 0.5)[:, None])
        out.references, out.reference_cameras = torch.stack(pictures), torch.stack(told).float()


def _signed(rgb: np.ndarray) -> Tensor:
    """(B, H, W, 3) in [0, 1] to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(rgb.astype(np.float32)).permute(0, 3, 1, 2).contiguous() * 2 - 1
