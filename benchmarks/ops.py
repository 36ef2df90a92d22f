"""Native kernels against their torch twins, in one run on one machine.

    python benchmarks/ops.py                  # everything, as many threads as torch has
    python benchmarks/ops.py --quick          # a tenth of the work, to see that it runs
    python benchmarks/ops.py --threads 1 --json ops.json

Native and twin take turns, and each row gives the best time of either: what else the machine does then falls on both.
The ratio is what carries over to other machines, the milliseconds are not. ``cpu`` is CPU time over all threads,
which stands still when other programs take the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from threedistill.ops import _native
from threedistill.ops.antialias import antialias
from threedistill.ops.composite import composite, composite_reference
from threedistill.ops.hash_encode import HashLayout, hash_encode
from threedistill.ops.interpolate import covered, interpolate
from threedistill.ops.march import Samples, march, march_reference
from threedistill.ops.marching_tets import tet_topology, tet_topology_reference
from threedistill.ops.mlp import fused_mlp, fused_mlp_reference
from threedistill.ops.rasterize import rasterize, rasterize_reference
from threedistill.ops.splat import splat, splat_reference
from threedistill.representations.tetgrid import tetrahedral_grid

#: The factors that DECISIONS and the README rely on, by row; a full run exits 1 below them.
GOALS = {"hash_encode 16 x 2 x 2^16": 8.0, "composite 64 per ray": 5.0, "splat 10k, 256^2": 20.0}

Pair = tuple[Callable[[], object], Callable[[], object]]


def _reference(work: Callable[[], object]) -> Callable[[], object]:
    """The same work with the native kernels switched off."""

    def run() -> object:
        os.environ["THREEDISTILL_OPS"] = "reference"
        try:
            return work()
        finally:
            del os.environ["THREEDISTILL_OPS"]

    return run


def _both_ways(function: Callable[..., Tensor | tuple[Tensor, ...]], *leaves: Tensor) -> Callable[[], object]:
    """Forward and backward with unit gradients to all outputs."""
    grads: list[Tensor] = []

    def run() -> object:
        out = function()
        outputs = [out] if isinstance(out, Tensor) else list(out)
        if not grads:
            grads.extend(torch.ones_like(part) for part in outputs)
        return torch.autograd.grad(outputs, leaves, grads)

    return run


def _hash(points: int, layout: HashLayout, to_points: bool = False) -> Pair:
    x = torch.rand(points, 3).requires_grad_(to_points)
    table = torch.randn(layout.entries, layout.features, requires_grad=True)
    leaves = (x, table) if to_points else (table,)
    work = _both_ways(lambda: hash_encode(x, table, layout), *leaves)
    return work, _reference(work)  # the twin with its own backward, as the fallback uses it


def _mlp(points: int, widths: tuple[int, ...]) -> Pair:
    x = torch.randn(points, widths[0], requires_grad=True)
    weights = [torch.randn(o, i, requires_grad=True) for i, o in pairwise(widths)]
    leaves = (x, *weights)
    return (
        _both_ways(lambda: fused_mlp(x, weights), *leaves),
        _both_ways(lambda: fused_mlp_reference(x, weights), *leaves),
    )


def _rays(count: int) -> tuple[Tensor, Tensor, Tensor]:
    origins = torch.nn.functional.normalize(torch.randn(count, 3), dim=1) * 2.5
    directions = torch.nn.functional.normalize(0.4 * torch.randn(count, 3) - origins, dim=1)
    return origins, directions, torch.rand(count)


def _ball(cells: int, radius: float) -> Tensor:
    axis = (torch.arange(cells) + 0.5) * (2 / cells) - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x * x + y * y + z * z < radius * radius


def _march(count: int) -> Pair:
    origins, directions, jitter = _rays(count)
    grid = _ball(32, 0.75)
    given = (origins, directions, grid, 1.0, 0.03, jitter)
    return lambda: march(*given), lambda: march_reference(*given)


def _composite(rays: int, per_ray: int) -> Pair:
    total = rays * per_ray
    density = (5 * torch.rand(total)).requires_grad_()
    rgb = torch.rand(total, 3, requires_grad=True)
    start = 0.02 * torch.arange(per_ray).repeat(rays)
    ray = torch.arange(rays).repeat_interleave(per_ray)
    samples = Samples(ray, start, start + 0.02, torch.arange(rays + 1) * per_ray)
    return (
        _both_ways(lambda: composite(density, rgb, samples), density, rgb),
        _both_ways(lambda: composite_reference(density, rgb, samples), density, rgb),
    )


def sphere(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Points (V, 3) and faces (F, 3) of a sphere."""
    theta = torch.linspace(0, torch.pi, rows + 1)[:, None]
    phi = torch.arange(columns)[None] * (2 * torch.pi / columns)
    places = torch.stack([theta.sin() * phi.cos(), theta.cos() + 0 * phi, theta.sin() * phi.sin()], -1)
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    upper, lower = torch.stack([a, b, a + columns], -1), torch.stack([b, b + columns, a + columns], -1)
    return 0.8 * places.reshape(-1, 3), torch.cat([upper.view(-1, 3), lower.view(-1, 3)]).int()


def _clip(points: Tensor) -> Tensor:
    x, y, z = points.unbind(1)
    return torch.stack([2 * x, 2 * y, 1.005 * (2.4 - z) - 0.1, 2.4 - z], 1)[None]


def _rasterize(rows: int, columns: int, size: int) -> Pair:
    points, faces = sphere(rows, columns)
    clip = _clip(points)
    return (
        lambda: rasterize(clip, faces, size, size),
        lambda: rasterize_reference(clip, faces, size, size),
    )


def _mesh(rows: int, columns: int, size: int, views: int) -> Pair:
    """A differentiable picture: rasterise, interpolate three attributes, antialias the silhouettes, and back."""
    points, faces = sphere(rows, columns)
    points.requires_grad_()

    def work() -> object:
        clip = torch.cat([_clip(points.roll(view, 1)) for view in range(views)])
        fragments = rasterize(clip, faces, size, size)
        pixels = covered(fragments)
        values = interpolate(points, clip, faces, fragments, pixels)
        picture = values.new_zeros(views * size * size, 3).index_copy(0, pixels, values)
        blended = antialias(picture.view(views, size, size, 3), clip, faces, fragments)
        return torch.autograd.grad(blended.square().sum(), points)

    return work, _reference(work)


def _tets(resolution: int) -> Pair:
    """The topology of a sphere on a tetrahedral grid."""
    grid = tetrahedral_grid(resolution)
    sdf = grid.points.norm(dim=1) - 0.6
    return lambda: tet_topology(sdf, grid.tets), lambda: tet_topology_reference(sdf, grid.tets)


def _splat(count: int, views: int, size: int, spread: float) -> Pair:
    """Ellipses of ``spread`` pixels all over the picture, colour and depth as in a distillation step."""
    means = (torch.rand(views, count, 2) * 1.2 - 0.1) * size
    root = torch.randn(views, count, 2, 2) * spread
    conic = torch.linalg.inv(root @ root.mT + 0.3 * torch.eye(2))
    conics = torch.stack([conic[..., 0, 0], conic[..., 0, 1], conic[..., 1, 1]], -1)
    leaves = [means, conics, 0.9 * torch.rand(views, count), torch.rand(views, count, 4)]
    leaves = [leaf.contiguous().requires_grad_() for leaf in leaves]
    depths = 1 + torch.rand(views, count)
    return (
        _both_ways(lambda: splat(*leaves, depths, size, size), *leaves),
        _both_ways(lambda: splat_reference(*leaves, depths, size, size), *leaves),
    )


def _field(points: int) -> Pair:
    """What one distillation step asks of the kernels: march, encode, MLP, composite, and back."""
    layout = HashLayout(8, 2, 15, 8, 128)
    grid = _ball(32, 0.75)
    origins, directions, jitter = _rays(points)
    kept = march(origins, directions, grid, 1.0, 0.03, jitter)
    rays = int(torch.searchsorted(kept.offsets, points))
    origins, directions, jitter = origins[:rays], directions[:rays], jitter[:rays]
    table = (0.1 * torch.randn(layout.entries, layout.features)).requires_grad_()
    weights = [torch.randn(o, i).div(i**0.5).requires_grad_() for i, o in [(16, 32), (32, 32), (32, 4)]]

    def work() -> object:
        samples = march(origins, directions, grid, 1.0, 0.03, jitter)
        middle = ((samples.start + samples.end) / 2)[:, None]
        at = (origins[samples.ray] + middle * directions[samples.ray] + 1) / 2
        out = fused_mlp(hash_encode(at, table, layout), weights)
        shown = composite(out[:, 0].relu(), out[:, 1:].sigmoid(), samples)
        return torch.autograd.grad(shown.rgb.sum() + shown.opacity.sum(), [table, *weights])

    return work, _reference(work)


def rows(scale: float) -> dict[str, Pair]:
    """The work, by name; ``scale`` = 1 is the size the goals are set for."""

    def n(count: int) -> int:
        return max(64, int(count * scale))

    toybox = HashLayout(8, 2, 15, 8, 128)
    return {
        "hash_encode 16 x 2 x 2^16": _hash(n(200_000), HashLayout(16, 2, 16, 16, 2048)),
        "hash_encode 8 x 2 x 2^15": _hash(n(160_000), toybox),
        "hash_encode 8 x 2 x 2^15, to x": _hash(n(160_000), toybox, to_points=True),
        "fused_mlp 16-32-32-4": _mlp(n(160_000), (16, 32, 32, 4)),
        "march 32^3, step 0.03": _march(n(16_384)),
        "composite 64 per ray": _composite(n(4096), 64),
        "rasterize 2k triangles, 128^2": _rasterize(31, 32, 128),
        "rasterize 20k triangles, 512^2": _rasterize(100, 100, 512),
        "mesh, 2k triangles, 4 x 64^2": _mesh(31, 32, 64, 4),
        "mesh, 20k triangles, 4 x 64^2": _mesh(100, 100, 64, 4),
        "marching_tets 40^3 cells": _tets(40 if scale == 1 else 20),
        "splat 10k, 256^2": _splat(n(10_000), 1, 256, 1.5),
        "splat 5k, 4 views of 64^2": _splat(n(5_000), 4, 64, 0.8),
        "field, 160k samples": _field(n(160_000)),
    }


def measure(pair: Pair, repeats: int) -> dict[str, float]:
    """Best wall and CPU milliseconds of native and twin, taking turns."""
    best = [[float("inf"), float("inf")], [float("inf"), float("inf")]]
    for turn in range(repeats + 1):  # the first turn warms up
        for which, work in enumerate(pair):
            if which == 1 and turn > max(2, repeats // 3):
                continue  # the twins are slow and steady
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            if turn:
                best[which] = [min(a, b) for a, b in zip(best[which], spent)]
    (native, native_cpu), (twin, twin_cpu) = ([1e3 * value for value in pair] for pair in best)
    return {
        "native_ms": native,
        "native_cpu_ms": native_cpu,
        "twin_ms": twin,
        "twin_cpu_ms": twin_cpu,
        "ratio": twin / native,
    }


def main() -> int:
    """Print the table; status 1 where a full run misses a goal."""
    parser = argparse.ArgumentParser(description="Native kernels against their torch twins.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, no goals")
    parser.add_argument("--threads", type=int, help="as many as torch has by default")
    parser.add_argument("--repeats", type=int, default=None, help="turns per row (12, or 2 with --quick)")
    parser.add_argument("--json", type=Path, help="write the numbers and the machine to this file")
    chosen = parser.parse_args()
    if _native.library() is None:
        parser.error("the native kernels are not built, so there is nothing to compare")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    repeats = chosen.repeats or (2 if chosen.quick else 12)
    results = {}
    heads = ("native ms", "cpu", "twin ms", "cpu", "ratio", "goal")
    print(f"{torch.get_num_threads()} threads".ljust(32) + "".join(head.rjust(11) for head in heads))
    for name, pair in rows(0.1 if chosen.quick else 1.0).items():
        row = results[name] = measure(pair, repeats)
        goal = GOALS.get(name)
        numbers = "".join(f"{row[key]:11.2f}" for key in row)
        print(name.ljust(32) + numbers + (f"{goal:11.1f}" if goal else ""), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(), "rows": results}, indent=2) + "\n")
    missed = [name for name, goal in GOALS.items() if not chosen.quick and results[name]["ratio"] < goal]
    for name in missed:
        print(f"missed: {name} is {results[name]['ratio']:.1f} times its twin, the goal is {GOALS[name]:.0f}")
    return 1 if missed else 0


def machine() -> dict[str, str | int | None]:
    """What the figures were measured on."""
    return {
        "node": platform.node(), "processor": _processor(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip


def _processor() -> str:
    """The processor's name where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    raise SystemExit(main())
