"""How the cost of a step grows with views, resolution, splats, faces and samples: milliseconds, memory, exponents.

    python benchmarks/scaling.py                                            # the tables: two minutes
    python benchmarks/scaling.py --only splats faces
    python benchmarks/scaling.py --picture docs/pictures/scaling.png --out scaling.json

One render and its gradients on one thread, by representation, and the embedded prior's answers for the same views (two
rows each). Everything but what grows stays at two views (one where the resolution grows) of 128 pixels; the field is a
ball in its settled state, without a limit on its samples; the cloud is the 5,000 splats that a run begins with, drawn
smaller the more they are; the mesh is DMTet's, and where faces grow a sphere with colours from a hash field.

Each point has a process of its own, forked, which measures processor time (best of some repeats: other programs do not
count) and peak resident memory beyond what the imports hold. The exponent is that between a point and the one before:
1 is cost in proportion; with the pixels per side, 2 is. ``system`` is the system's share of the time: it clears the
pages of large arrays, which the C library takes from it and gives back every time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ops import machine, sphere
from step_teacher import PROMPT, forget_peak, peak
from torch import Tensor
from work import exponents

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.config import compose
from threedistill.evaluation.plots import COLORS, why_none
from threedistill.protocols import RenderContext, Representation
from threedistill.render.surface import render_surface
from threedistill.representations.dmtet import DMTet
from threedistill.representations.gaussians import Gaussians
from threedistill.representations.hashfield import HashField, HashSettings
from threedistill.representations.hashgrid import HashGrid
from threedistill.rng import Streams
from threedistill.training.assemble import build_prior
from threedistill.training.planning import build_plan
from threedistill.types import Cameras

#: What grows: through which values, and of what.
SWEEPS: dict[str, tuple[list[int], list[str]]] = {
    "views": ([1, 2, 4, 8, 16], ["hashgrid", "gaussians", "dmtet", "teacher"]),
    "pixels per side": ([32, 64, 128, 256, 512, 1024], ["hashgrid", "gaussians", "dmtet"]),
    "splats": ([1_000, 5_000, 20_000, 100_000, 500_000], ["gaussians"]),
    "faces": ([1_000, 10_000, 100_000, 1_000_000], ["mesh"]),
    "samples per diagonal": ([36, 72, 144, 288, 576], ["hashgrid"]),
}


class Point(NamedTuple):
    """What one size costs: seconds forward and backward, the system's share of them, bytes at the peak."""

    forward: float
    backward: float
    system: float
    memory: float

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


#: Draws the cameras' views; and what gets gradients.
Scene = tuple[Callable[[Cameras], Tensor], list[Tensor]]


def represented(model: Representation) -> Scene:
    """A representation, as a late step renders it."""

    def draw(cameras: Cameras) -> Tensor:
        behind = torch.ones(len(cameras), 3)
        return model.render(cameras, RenderContext(1.0, behind, Streams(0).at(0))).rgb

    return draw, [p for group in model.parameter_groups().values() for p in group]


def field(samples: int = 144) -> Scene:
    """A ball in a hash grid with a rim as of a trained one, and so many samples along the box's diagonal."""
    # The box's cells bound the length of a sample from below, too: finer samples ask for finer cells.
    model = HashGrid(
        steps=samples, max_samples=1 << 30, finest_resolution=max(128, samples), blob_strength=15
    )
    model.settle()
    for _ in range(10):  # the lower bound of the density, which tells what is hidden, rises step by step
        model.occupancy.refresh(model.density)
    return represented(model)


def mesh(faces: int) -> Scene:
    """A sphere of about so many faces, drawn as DMTet draws its surface."""
    rows = round((faces / 2) ** 0.5)
    vertices, corners = sphere(rows, rows)
    vertices.requires_grad_()
    color = HashField(3, HashSettings(), 1.0)

    def draw(cameras: Cameras) -> Tensor:
        def seen(at: Tensor, pixels: Tensor) -> Tensor:
            return color(at, 1.0).sigmoid()

        return render_surface(vertices, corners, seen, cameras, torch.ones(len(cameras), 3)).rgb

    return draw, [vertices, *color.parameters()]


def scene(sweep: str, kind: str, size: int) -> Scene:
    """What is drawn at one point of a sweep."""
    if kind == "hashgrid":
        return field(size) if sweep == "samples per diagonal" else field()
    if kind == "gaussians":
        return represented(Gaussians(count=size if sweep == "splats" else 5_000))
    return mesh(size) if kind == "mesh" else represented(DMTet())


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time, and what came out."""
    start = time.process_time()
    out = work()
    return time.process_time() - start, out


def measured(given: tuple[str, str, int, float]) -> Point:
    """One point, repeated for some seconds, three times at least."""
    sweep, kind, size, seconds = given
    torch.manual_seed(0)
    forget_peak()
    before = peak()
    views = size if sweep == "views" else 1 if sweep == "pixels per side" else 2
    cameras = orbit(views, size=size if sweep == "pixels per side" else 128)
    if kind == "teacher":
        once = answers(cameras)
    else:
        draw, leaves = scene(sweep, kind, size)

        def once(cameras: Cameras = cameras) -> tuple[float, float]:
            forward, rgb = seconds_of(lambda: draw(cameras))
            seed = torch.ones_like(rgb)
            return forward, seconds_of(lambda: torch.autograd.grad(rgb, leaves, seed, allow_unused=True))[0]

        once(orbit(1, size=16))  # whatever is loaded or built with the first call
    spans, begin = [], os.times()
    while len(spans) < 3 or sum(map(sum, spans)) < seconds:
        spans.append(once())
    end = os.times()
    system = (end.system - begin.system) / max(end.system - begin.system + end.user - begin.user, 1e-9)
    forward, backward = (min(part) for part in zip(*spans))
    return Point(forward, backward, system, (peak() - before) * 2**30)


def answers(cameras: Cameras) -> Callable[[], tuple[float, float]]:
    """The embedded prior's answers for these views, with and without the prompt."""
    prior: Any = build_prior(build_plan(compose(prompt=PROMPT, prior="toybox")), torch.device("cpu"))
    views = len(cameras)
    told = prior.conditioning(Conditions([PROMPT] * views, cameras, torch.ones(views, 3)))
    both = {name: torch.cat([value, value]) for name, value in told.items()}
    level = prior.path.at_fraction(torch.full((2 * views,), 0.5))
    noise = torch.randn(2 * views, *prior.space.shape)

    def once() -> tuple[float, float]:
        with torch.no_grad():
            return seconds_of(lambda: prior.predict(noise, level, both))[0], 0.0

    return once


def table(sweep: str, kind: str, sizes: list[int], points: list[Point]) -> None:
    """Print a curve."""
    time_grows = [None, *exponents(sizes, [p.seconds for p in points])]
    memory_grows = [None, *exponents(sizes, [max(p.memory, 1.0) for p in points])]
    print(f"\n{kind} against {sweep}")
    print(
        f"{sweep:>20s}{'forward ms':>12s}{'backward':>10s}{'exponent':>10s}{'system':>8s}{'MiB':>10s}{'exponent':>10s}"
    )
    for size, point, slower, larger in zip(sizes, points, time_grows, memory_grows):
        grows = ["" if value is None else f"{value:.2f}" for value in (slower, larger)]
        print(
            f"{size:20,d}{1e3 * point.forward:12.1f}{1e3 * point.backward:10.1f}{grows[0]:>10s}"
            f"{point.system:8.0%}{point.memory / 2**20:10.1f}{grows[1]:>10s}",
            flush=True,
        )


def short(size: int) -> str:
    """1k, 1M; pixels stay whole."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def draw(path: Path, found: dict[str, dict[str, list[Point]]]) -> None:
    """Time above, memory below, a column per sweep; dashed is growth in proportion."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(kind for curves in found.values() for kind in curves))
    figure = Figure(figsize=(2.7 * len(found), 5.2), layout="constrained")
    cells = figure.subplots(2, len(found), sharex="col", sharey="row", squeeze=False)
    for column, (sweep, curves) in enumerate(found.items()):
        sizes = SWEEPS[sweep][0]
        power = 2 if sweep == "pixels per side" else 1
        for row, (axes, unit) in enumerate(zip(cells[:, column], ("ms", "MiB"))):
            for kind, points in curves.items():
                costs = [1e3 * p.seconds if row == 0 else p.memory / 2**20 for p in points]
                color = COLORS[kinds.index(kind)]
                axes.plot(sizes, costs, "o-", color=color, linewidth=1.6, markersize=3.5)
                guide = [costs[-1] * (n / sizes[-1]) ** power for n in sizes]
                axes.plot(sizes, guide, "--", color=color, linewidth=0.7, alpha=0.6)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(sizes, [short(n) for n in sizes])
            axes.minorticks_off()
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
            if column == 0:
                axes.set_ylabel(unit)
        cells[1, column].set_xlabel(sweep)
    every = [p for curves in found.values() for points in curves.values() for p in points]
    for axes, costs in zip(
        cells[:, 0], ([1e3 * p.seconds for p in every], [p.memory / 2**20 for p in every])
    ):
        axes.set_ylim(0.6 * min(costs), 1.6 * max(costs))
    lines = [cells[0, 0].plot([], [], "o-", color=COLORS[i], label=kind)[0] for i, kind in enumerate(kinds)]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False)
    figure.savefig(path, dpi=110, facecolor="white")


def main() -> None:
    """Print the tables; draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--seconds", type=float, default=1.0, help="of repeats, each point")
    parser.add_argument("--picture", type=Path, help="draw to this PNG")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    given = parser.parse_args()
    if given.picture and why_none():
        parser.error(str(why_none()))
    torch.set_num_threads(1)  # here, and in the processes that are forked
    found: dict[str, dict[str, list[Point]]] = {}
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for sweep in given.only:
            sizes, kinds = SWEEPS[sweep]
            for kind in kinds:
                asked = [(sweep, kind, size, given.seconds) for size in sizes]
                points = found.setdefault(sweep, {})[kind] = pool.map(measured, asked, chunksize=1)
                table(sweep, kind, sizes, points)
    if given.out:
        curves = {
            sweep: {
                kind: {n: p._asdict() for n, p in zip(SWEEPS[sweep][0], points)}
                for kind, points in kinds.items()
            }
            for sweep, kinds in found.items()
        }
        given.out.write_text(json.dumps({"machine": machine(), "curves": curves}, indent=2) + "\n")
    if given.picture:
        draw(given.picture, found)


if __name__ == "__main__":
    main()
