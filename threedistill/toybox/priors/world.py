"""``prior=world``: the exact answer of the Toybox world: its own pictures, as a mixture, and no network.

For a prompt, a camera and a background, K objects that the world draws for the prompt are rendered; the data are a
Gaussian of standard deviation s around each of the pictures mu_k, all equally likely. So the posterior is known:

    E[x0 | x_t] = sum_k r_k (sigma^2 mu_k + alpha s^2 x_t) / (alpha^2 s^2 + sigma^2)
    r_k  proportional to  exp(-||x_t - alpha mu_k||^2 / (2 (alpha^2 s^2 + sigma^2)))

Told no camera it mixes over cameras, as pictures on the web are taken; told no words, over the things of the world. It
tells what a rule does from what a trained teacher cannot do. Every step renders: it is a yardstick, not a teacher for
every day.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import DISTANCE_RANGE, ELEVATION_RANGE, FOV_RANGE, ViewName, place, view_name
from threedistill.conditions import Conditions, Role
from threedistill.prediction import Prediction, PredictionKind
from threedistill.priors.noise_path import DiscretePath
from threedistill.priors.space import PixelSpace
from threedistill.protocols import Prior
from threedistill.toybox.grammar import Scene, parse, words
from threedistill.toybox.priors.texts import check_text
from threedistill.types import Cameras, Condition, Conditioning, Mesh, NoiseLevel, Shading
from threedistill.values import NonNegative, Within, checked

__all__ = ["WEB_VIEWS", "WorldPrior", "posterior_mean", "things_of_the_world", "unseen_cameras"]

#: Shares of views among pictures whose caption names none: the habit of the web, as the embedded prior learnt it.
WEB_VIEWS: dict[ViewName, float] = {"front": 0.75, "side": 0.12, "back": 0.04, "overhead": 0.09}
#: Where the views that a word places exactly are, radians.
NAMED_AZIMUTHS: dict[ViewName, float] = {"front": 0.0, "back": math.pi}


class WorldPrior(Prior):
    """The Toybox world as a teacher: a Gaussian-smoothed mixture of its own pictures.

    Arguments:
        size: pixels per side.
        variations: K, true objects per prompt.
        blind: pictures of them, each from a camera of its own, where the camera is untold.
        things: objects of all kinds and colours where the words are untold (``blind`` pictures where both are).
        std: s, in units of [-1, 1]; 0 is the pictures themselves.
        camera: ``own`` is told every view's camera where the query allows; ``none`` never is; ``words`` takes "front
            view" and "back view" for azimuths at the view's own elevation, and other views for what the words say.
        shading: of the pictures.
        kind: in which parametrisation it answers.
        seed: of the objects and of the untold cameras.

    Raises:
        UsageError: (when asked) words outside the vocabulary of the world.
    """

    name = "world"
    view_group = 1
    licence = "Apache-2.0"
    space: PixelSpace
    wants: frozenset[Condition] = frozenset({"text", "camera", "background"})

    @checked
    def __init__(
        self,
        size: Annotated[int, Within(8, 1024)] = 64,
        variations: Annotated[int, Within(1, 100_000)] = 64,
        blind: Annotated[int, Within(1, 100_000)] = 512,
        things: Annotated[int, Within(1, 100_000)] = 120,
        std: NonNegative = 0.02,
        camera: Literal["own", "none", "words"] | None = "own",
        shading: Shading = "lambertian",
        kind: PredictionKind = "x0",
        seed: Annotated[int, Within(0)] = 0,
    ) -> None:
        self.space = PixelSpace(size)
        self.path = DiscretePath.from_betas("squaredcos_cap_v2")
        self.variations, self.blind, self.things, self.std = variations, blind, things, std
        self.camera, self.seed = camera or "none", seed
        self.shading: Shading = shading
        self.kind: PredictionKind = kind
        self.device = torch.device("cpu")
        #: Which teacher this was: run.json and the asset carry it.
        self.version = f"exact world, {variations} variations, std {std:g}, seed {seed}"
        self._objects = lru_cache(maxsize=6)(self._make_objects)
        self._unseen = lru_cache(maxsize=6)(self._make_unseen)

    @classmethod
    def check_text(cls, text: str, role: Role, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Refuses words that the world does not have."""
        return check_text(text, role, words())

    def to(self, device: torch.device | str) -> WorldPrior:
        """Answers from ``device`` from now on; pictures are drawn on the CPU."""
        self.device = torch.device(device)
        return self

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """``pictures`` (B, K, 3, h, w) and ``log_weights`` (B, K), -inf where a row has fewer pictures than another.

        Raises:
            UsageError: words outside the vocabulary of the world.
        """
        parsed = [parse(text) if text.strip() else None for text in conditions.texts]
        told = self._told([said.view if said else None for said in parsed], conditions.cameras)
        groups: dict[tuple[str, ViewName | None, bool], list[int]] = {}
        for row, (said, camera) in enumerate(zip(parsed, told)):
            key = (
                said.normalised if said else "",
                said.view if said and camera is None else None,
                camera is None,
            )
            groups.setdefault(key, []).append(row)
        rows: list[Tensor] = [torch.empty(0)] * len(parsed)
        for (text, view, unseen), members in groups.items():
            if unseen:
                premultiplied = [self._unseen(text, view)] * len(members)
            else:
                premultiplied = self._seen(text, _joined([told[row] for row in members]))
            for row, rgba in zip(members, premultiplied):
                behind = _backgrounds(len(rgba), self.seed)
                if conditions.background is not None:
                    behind = conditions.background[row].cpu().float().expand(len(rgba), 3)
                rows[row] = self.space.encode(rgba[..., :3] + (1 - rgba[..., 3:]) * behind[:, None, None])
        most = max(len(pictures) for pictures in rows)
        pictures = torch.zeros(len(rows), most, *self.space.shape)
        weights = torch.full((len(rows), most), -math.inf)
        for row, found in enumerate(rows):
            pictures[row, : len(found)] = found
            weights[row, : len(found)] = -math.log(len(found))
        return {"pictures": pictures.to(self.device), "log_weights": weights.to(self.device)}

    @torch.no_grad()
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The exact posterior mean."""
        pictures, weights = conditioning["pictures"].to(x_t), conditioning["log_weights"].to(x_t)
        alpha, sigma = level.scales(x_t)
        means = [
            posterior_mean(
                x_t[row], float(alpha[row]), float(sigma[row]), pictures[row], weights[row], self.std
            )
            for row in range(len(x_t))
        ]
        x0 = Prediction(torch.stack(means), "x0", x_t, level)
        return Prediction(x0.read(self.kind), self.kind, x_t, level)

    def _told(self, views: Sequence[ViewName | None], cameras: Cameras | None) -> list[Cameras | None]:
        """The camera that each row is told, None where it is not."""
        if cameras is None or self.camera == "none":
            return [None] * len(views)
        each = [
            cameras[[row]].to("cpu").resized(self.space.size, self.space.size) for row in range(len(views))
        ]
        if self.camera == "own":
            return list(each)
        exact = [NAMED_AZIMUTHS.get(view) if view else None for view in views]
        return [None if a is None else _turned_to(camera, a) for a, camera in zip(exact, each)]

    def _seen(self, text: str, cameras: Cameras) -> list[Float[Tensor, "K h w 4"]]:
        """Premultiplied pictures of all true objects, for each camera."""
        from threedistill.render.mesh import render_mesh

        black = torch.zeros(3)
        drawn = [
            render_mesh(mesh, cameras, shading=self.shading, background=black) for mesh in self._objects(text)
        ]
        return list(torch.stack([torch.cat([d.rgb, d.opacity], -1) for d in drawn], 1))

    def _make_objects(self, text: str) -> tuple[Mesh, ...]:
        """True objects of a prompt, or of the whole world; the first of a prompt is the canonical one."""
        from threedistill.toybox.world import build

        draws = [random.Random(f"world/{self.seed}/{text}/{k}") for k in range(self.variations)]
        if text:
            scene = parse(text).scene
            return tuple(build(scene, draw if k else None) for k, draw in enumerate(draws))
        return tuple(build(scene, draw) for scene, draw in things_of_the_world(self.things, self.seed))

    def _make_unseen(self, text: str, view: ViewName | None) -> Float[Tensor, "K h w 4"]:
        """Premultiplied pictures of true objects, each from another camera of the view that the words name."""
        from threedistill.render.mesh import render_mesh

        objects = self._objects(text)
        cameras = unseen_cameras(self.blind, view, self.seed, self.space.size)
        order = random.Random(f"world/{self.seed}/order")
        picked = [order.randrange(len(objects)) for _ in range(self.blind)]
        out = torch.zeros(self.blind, self.space.size, self.space.size, 4)
        for index, mesh in enumerate(objects):
            rows = [k for k, i in enumerate(picked) if i == index]
            if rows:
                seen = render_mesh(mesh, cameras[rows], shading=self.shading, background=torch.zeros(3))
                out[rows] = torch.cat([seen.rgb, seen.opacity], -1)
        return out


def posterior_mean(
    x_t: Float[Tensor, "C h w"],
    alpha: float,
    sigma: float,
    pictures: Float[Tensor, "K C h w"],
    log_weights: Float[Tensor, "K"],
    std: float,
) -> Float[Tensor, "C h w"]:
    """``E[x0 | x_t]`` of a mixture of Gaussians of one ``std`` around ``pictures`` (see the module)."""
    variance = max(alpha**2 * std**2 + sigma**2, 1e-12)
    distance = (x_t - alpha * pictures).square().flatten(1).sum(1)
    share = torch.softmax(log_weights - (distance - distance.min()) / (2 * variance), 0)
    mean = torch.einsum("k,kchw->chw", share, pictures)
    return (sigma**2 * mean + alpha * std**2 * x_t) / variance


def things_of_the_world(count: int, seed: int) -> list[tuple[Scene, random.Random]]:
    """Plain things with their draws, every kind as often as the others, in colours of the world."""
    from threedistill.toybox.grammar import ObjectSpec
    from threedistill.toybox.lexicon import COLORS, KINDS

    kinds, colors = list(KINDS), list(COLORS)
    found = []
    for k in range(count):
        draw = random.Random(f"world/{seed}/thing/{k}")
        found.append((Scene((ObjectSpec(kinds[k % len(kinds)], draw.choice(colors)),)), draw))
    return found


def unseen_cameras(count: int, view: ViewName | None, seed: int, size: int) -> Cameras:
    """Cameras that nobody told: of the named view, or as :data:`WEB_VIEWS` says; the rest as always."""
    draw = random.Random(f"world/{seed}/cameras/{view}")
    azimuths: list[float] = []
    elevations: list[float] = []
    for _ in range(count):
        wanted = view or draw.choices(list(WEB_VIEWS), list(WEB_VIEWS.values()))[0]
        while True:
            azimuth, elevation = draw.uniform(-math.pi, math.pi), math.radians(draw.uniform(*ELEVATION_RANGE))
            if view_name(azimuth, elevation) == wanted:
                break
        azimuths.append(azimuth)
        elevations.append(elevation)

    def between(low: float, high: float) -> Tensor:
        return torch.tensor([draw.uniform(low, high) for _ in range(count)])

    distance, fov = between(*DISTANCE_RANGE), torch.deg2rad(between(*FOV_RANGE))
    return place(torch.tensor(azimuths), torch.tensor(elevations), distance, fov, size, size)


def _turned_to(camera: Cameras, azimuth: float) -> Cameras:
    """The camera at another azimuth."""
    turned = torch.full_like(camera.azimuth, azimuth)
    return place(turned, camera.elevation, camera.distance, camera.fov_y, camera.height, camera.width)


def _joined(cameras: Sequence[Cameras | None]) -> Cameras:
    """Single cameras as one batch."""
    found = [camera for camera in cameras if camera is not None]
    names = ("c2w", "fov_y", "azimuth", "elevation", "distance")
    return replace(found[0], **{name: torch.cat([vars(c)[name] for c in found]) for name in names})


def _backgrounds(count: int, seed: int) -> Float[Tensor, "K 3"]:
    """Colours that nobody told: every other white, the rest any, as the embedded prior's pictures have them."""
    rng = torch.Generator().manual_seed(seed)
    colors = torch.rand(count, 3, generator=rng)
    colors[::2] = 1.0
    return colors
