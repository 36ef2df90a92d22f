"""Where the parts of a distillation step lie under this machine's roofline: operations, bytes and time of each.

    python benchmarks/roofline.py                                             # the table: five minutes
    python benchmarks/roofline.py --picture docs/pictures/roofline.png --out roofline.json

One thread. A step of the default run with the embedded prior, for each representation: it is trained for ``--steps``
steps first; then one step's calls of the teacher, of the native kernels and of the optimizer are kept with their
arguments and asked again alone, best of ``--repeats``. Times are processor time, which stands still when other programs
take the core. Operations and least bytes of the kernels are those of ``work.py``; of the teacher, what torch's counter
finds, and its weights, inputs and answers once; of Adam, 13 operations and 28 bytes a number. The rest of a step is
torch operation by operation: cameras, projection, activations, losses.

Roofs: products of 512 x 512 matrices, and ``a = b + s c`` over arrays of 32 MiB (or of 1 MiB, which lie in the caches),
three arrays counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ops import machine
from step_teacher import PROMPT, bare_system
from torch.utils.flop_counter import FlopCounterMode
from work import DOUBLE, Work, work

from threedistill.config import compose
from threedistill.evaluation.plots import COLORS, why_none
from threedistill.ops._native import Kernel
from threedistill.threads import usable_cores
from threedistill.training.assemble import build_prior
from threedistill.training.planning import build_plan

REPRESENTATIONS = ("hashgrid", "gaussians", "dmtet")

Clock = Callable[[], float]


class Peaks(NamedTuple):
    """GFLOP/s in single and double precision; GB/s from memory and from the caches."""

    single: float
    double: float
    memory: float
    cache: float


class Part(NamedTuple):
    """A part of a step: what it is, what it has to do, seconds, and its share of the step."""

    name: str
    work: Work
    seconds: float
    share: float

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.work.flops / self.work.bytes

    def bound(self, peaks: Peaks) -> tuple[str, float]:
        """The nearer roof, and which fraction of it is reached."""
        rate = peaks.double if self.name in DOUBLE else peaks.single
        at_least = {"memory": self.work.bytes / peaks.memory / 1e9, "compute": self.work.flops / rate / 1e9}
        name = max(at_least, key=at_least.__getitem__)
        return name, at_least[name] / self.seconds


def best(run: Callable[[], object], repeats: int, clock: Clock = time.process_time) -> float:
    """Least seconds of some calls, after one that warms up."""
    return least(lambda: run, repeats, clock)


def least(
    prepare: Callable[[], Callable[[], object]], repeats: int, clock: Clock = time.process_time
) -> float:
    """Least seconds of what some calls return, after one that warms up."""
    spans = []
    prepare()()
    for _ in range(repeats):
        run = prepare()
        start = clock()
        run()
        spans.append(clock() - start)
    return min(spans)


def peaks(threads: int) -> Peaks:
    """What this machine reaches; several threads in wall time, rested, so that a busy machine runs them at once."""
    torch.set_num_threads(threads)

    def fastest(run: Callable[[], object]) -> float:
        if threads == 1:
            return best(run, 30)
        spans = []
        for _ in range(150):
            time.sleep(0.02)
            spans.append(best(run, 2, time.perf_counter))
        return min(spans)

    def product(dtype: torch.dtype) -> float:
        a, b = torch.rand(2, 512, 512, dtype=dtype)
        out = torch.empty_like(a)
        return 2 * 512**3 / fastest(lambda: torch.mm(a, b, out=out)) / 1e9

    def triad(size: int) -> float:
        b, c = torch.rand(2, size)
        out = torch.empty_like(b)
        return 12 * size / fastest(lambda: torch.add(b, c, alpha=0.5, out=out)) / 1e9

    return Peaks(product(torch.float32), product(torch.float64), triad(1 << 23), triad(1 << 18))


class Call(NamedTuple):
    """Something that was asked for in a step: ``prepare`` returns what asks for it again."""

    name: str
    prepare: Callable[[], Callable[[], Any]]
    given: tuple[Any, ...]


def copies(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a kernel with arrays of their own."""
    return tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in given)


@contextmanager
def recorded(prior: Any, optimizer: torch.optim.Optimizer) -> Iterator[list[Call]]:
    """The calls of the teacher, the kernels and the optimizer while the block runs; a teacher's kernels are its own."""
    calls: list[Call] = []
    quiet = [False]

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            calls.append(Call(name, lambda: lambda: function(*given, **named), given))
            quiet[0] = True
            try:
                return function(*given, **named)
            finally:
                quiet[0] = False

        return run

    launch = Kernel.__call__

    def kernel(self: Kernel, *given: Any) -> None:
        if not quiet[0]:
            before = copies(given)  # some kernels add to what they are given, some steps change it afterwards
            calls.append(Call(self.name, lambda: partial(launch, self, *copies(before)), before[1:]))
        launch(self, *given)

    prior.predict, prior.conditioning = (
        watched("teacher", prior.predict), watched("teacher's sketch", prior.conditioning),
    )  # fmt: skip
    optimizer.step = watched("optimizer", optimizer.step)
    Kernel.__call__ = kernel
    try:
        yield calls
    finally:
        Kernel.__call__ = launch
        del prior.predict, prior.conditioning, optimizer.step


def asked(prior: Any, call: Call, optimizer: torch.optim.Optimizer) -> Work:
    """What a recorded call has to do."""
    if call.name == "optimizer":
        numbers = sum(p.numel() for row in optimizer.param_groups for p in row["params"])
        return Work(13 * numbers, 28 * numbers)
    if call.name == "teacher":
        with FlopCounterMode(display=False) as counter:
            answer = call.prepare()()
        tensors = [*prior.network.parameters(), call.given[0], *call.given[2].values(), answer.value]
        moved = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
        return Work(counter.get_total_flops(), moved)
    if call.name == "teacher's sketch":
        return Work(0, 0)
    return work(call.name, call.given)


def step_of(representation: str, steps: int, repeats: int) -> tuple[str, float, list[Part]]:
    """What kind of step it is, its seconds, and its parts, the dearest first."""
    config = compose(
        prompt=PROMPT, prior="toybox", guidance="sds", representation=representation,
        overrides=[f"budget.iterations={steps}", "trainer.preview_every=0"],
    )  # fmt: skip
    plan = build_plan(config)
    prior = build_prior(plan, torch.device("cpu"))
    system: Any = bare_system(plan, prior)
    for index in range(steps):
        system.training_step(index)
    # Of the last steps one in which no grid is looked through as a whole (hashgrid every 16, dmtet every 8 steps).
    index = next(i for i in range(steps - 1, 0, -1) if (i + 1) % 8)
    whole = best(lambda: system.training_step(index), max(3, repeats // 4))
    optimizer = system._optimizers()[0]
    with recorded(prior, optimizer) as calls:
        system.training_step(index)
    found: dict[str, tuple[Work, float]] = {}
    with torch.no_grad():
        for call in calls:
            total, seconds = found.get(call.name, (Work(0, 0), 0.0))
            tries = repeats if call.name not in ("teacher", "teacher's sketch") else max(3, repeats // 4)
            again = least(call.prepare, tries)
            found[call.name] = (total + asked(prior, call, optimizer), seconds + again)
    parts = [Part(name, total, spent, spent / whole) for name, (total, spent) in found.items()]
    rest = whole - sum(part.seconds for part in parts)
    parts = [*sorted(parts, key=lambda p: -p.seconds), Part("rest", Work(0, 0), rest, rest / whole)]
    size = system.stage.size(index / steps)
    return f"{representation}, {system.sampler.views} views of {size} x {size}", whole, parts


def table(title: str, whole: float, parts: list[Part], most: Peaks) -> None:
    """Print a step's parts."""
    print(f"\n{title}: {1e3 * whole:.1f} ms a step")
    print(
        f"{'':22s}{'ms':>8s}{'share':>7s}{'MFLOP':>9s}{'MB':>8s}{'F/B':>8s}{'GFLOP/s':>9s}{'GB/s':>7s}  bound"
    )
    for part in parts:
        line = f"{part.name:22s}{1e3 * part.seconds:8.2f}{part.share:7.1%}"
        if part.work.bytes:
            line += f"{part.work.flops / 1e6:9.1f}{part.work.bytes / 1e6:8.2f}{part.intensity:8.2f}"
            line += f"{part.work.flops / part.seconds / 1e9:9.2f}{part.work.bytes / part.seconds / 1e9:7.2f}"
            name, reached = part.bound(most)
            line += f"  {name} {reached:.0%}"
        print(line, flush=True)


def draw(path: Path, steps: dict[str, list[Part]], one: Peaks, every: Peaks, threads: int) -> None:
    """The roofs, and the parts that count operations, as large as their share of the step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.add_subplot()
    reach = [2**-5, 2**10]

    def roof(rate: float, speed: float, label: str | None, **style: Any) -> None:
        knee = rate / speed
        axes.plot([reach[0], knee, reach[1]], [reach[0] * speed, rate, rate], label=label, **style)

    roof(every.single, every.memory, f"{threads} threads", color="#888888", linewidth=1)
    roof(one.single, one.memory, "one thread, from memory", color="#000000", linewidth=1.6)
    roof(one.single, one.cache, "one thread, from the caches", color="#000000", linewidth=1, linestyle=":")
    roof(
        one.double, one.memory, "one thread, double precision", color="#000000", linewidth=0.8, linestyle="--"
    )
    known: set[str] = set()
    for color, (title, parts) in zip(COLORS, steps.items()):
        shown = [p for p in parts if p.work.flops and p.name not in known]
        known |= {p.name for p in shown}
        x, y = [p.intensity for p in shown], [p.work.flops / p.seconds / 1e9 for p in shown]
        sizes = [18 + 1000 * p.share for p in shown]
        axes.scatter(x, y, s=sizes, color=color, alpha=0.6, linewidth=0, label=title.split(",")[0], zorder=3)
        for part, at, rate in zip(shown, x, y):
            # Of a pair of points that lie close together, the left or lower one is named below.
            below = part.name.endswith("backward") != part.name.startswith(("fused", "splat"))
            offset, side = ((-4, -10), "right") if below else ((4, 4), "left")
            if part.share > 0.2:
                offset, side = (0, -24), "center"
            axes.annotate(
                part.name.replace("_", " "),
                (at, rate),
                offset,
                textcoords="offset points",
                ha=side,
                fontsize=8,
            )
    axes.set(
        xscale="log", yscale="log", xlim=reach, ylim=(0.1, 2.5 * every.single),
        xlabel="FLOP per byte that has to be moved", ylabel="GFLOP/s",
    )  # fmt: skip
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(loc="lower right", frameon=False, fontsize=8)
    for handle in legend.legend_handles[-len(steps) :]:
        handle.set_sizes([40])
    figure.savefig(path, dpi=110, facecolor="white")


def main() -> None:
    """Print the tables; draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--representations", nargs="+", choices=REPRESENTATIONS, default=REPRESENTATIONS)
    parser.add_argument("--steps", type=int, default=250, help="of training before anything is measured")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--picture", type=Path, help="draw to this PNG")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    given = parser.parse_args()
    if given.picture and why_none():
        parser.error(str(why_none()))
    torch.manual_seed(0)
    threads = usable_cores()
    every, one = peaks(threads), peaks(1)
    print(f"{'':12s}{'single':>10s}{'double':>10s} GFLOP/s{'memory':>10s}{'caches':>10s} GB/s")
    for name, most in ((f"{threads} threads", every), ("one thread", one)):
        print(f"{name:12s}{most.single:10.1f}{most.double:10.1f}{'':8s}{most.memory:10.1f}{most.cache:10.1f}")
    found: dict[str, list[Part]] = {}
    for representation in given.representations:
        title, whole, parts = step_of(representation, given.steps, given.repeats)
        table(title, whole, parts, one)
        found[title] = parts
    if given.out:
        rows = {
            title: {
                p.name: {"ms": 1e3 * p.seconds, "share": p.share, "flop": p.work.flops, "bytes": p.work.bytes}
                for p in parts
            }
            for title, parts in found.items()
        }
        roofs = {"one thread": one._asdict(), f"{threads} threads": every._asdict()}
        given.out.write_text(
            json.dumps({"machine": machine(), "peaks": roofs, "steps": rows}, indent=2) + "\n"
        )
    if given.picture:
        draw(given.picture, found, one, every, threads)


if __name__ == "__main__":
    main()
