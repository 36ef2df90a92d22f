"""This working tree against another revision of the repository: both installed side by side, run in turns.

    python benchmarks/against.py f2f5cff --out runs/against                        # all of it: hours
    python benchmarks/against.py f2f5cff --only start,kernels --repeats 3
    python benchmarks/against.py f2f5cff --only hashgrid,draft --prompts 4 --seeds 1
    python benchmarks/against.py f2f5cff --table                                   # what has been measured so far

Each measure is run by the other revision and by ours in turn, so that what else the machine does falls on both, and
a ratio is taken of every pair: printed are their median and their range. Assets of both are judged by *our* judge, and
their figures compared in pairs (same prompt, same seed). What is finished is kept in ``--out`` and not run again.

Measures (``--only``): start, kernels, export, hashgrid, gaussians, dmtet, draft, vsd, esd, csm, bench.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: How many of the public held-out prompts.
_PROMPTS = 12
#: What our judge says of an asset (paths in eval.json), by column.
QUALITY = {
    "recognised": "requirements.recognised", "IoU": "shape.silhouette_iou", "SSIM": "similarity.ssim",
    "PSNR": "similarity.psnr", "genus": "requirements.genus",
}  # fmt: skip
#: Kernels of benchmarks/ops.py that have a goal of their own: ours over theirs.
KERNELS = {"splat 10k, 256^2": 0.5, "mesh, 20k": 0.6}


@dataclass(frozen=True)
class Asset:
    """Assets made by one command.

    Attributes:
        options: after the prompt.
        goal: wall time over the other revision's, at most.
    """

    options: tuple[str, ...]
    goal: float


ASSETS = {
    "hashgrid": Asset((), 0.5),
    "gaussians": Asset(("--representation", "gaussians"), 0.5),
    "dmtet": Asset(("--representation", "dmtet"), 0.5),
    "draft": Asset(("--preset", "draft"), 0.6),
    "vsd": Asset(("--guidance", "vsd"), 0.4),
    "esd": Asset(("--guidance", "esd"), 0.4),
    "csm": Asset(("--guidance", "csm"), 0.4),
}
PARTS = ("start", "kernels", "export", *ASSETS, "bench")


@dataclass(frozen=True)
class Build:
    """One of the two installed packages."""

    name: str
    site: Path

    def python(self, *arguments: str, cwd: Path | None = None) -> tuple[float, float, str]:
        """Run Python with this build alone; wall seconds, peak GiB of the process tree's largest, and its output.

        Raises:
            RuntimeError: it failed.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith("THREEDISTILL_")}
        environment["PYTHONPATH"] = str(self.site)
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *arguments], env=environment, cwd=cwd or self.site, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert child.stdout is not None
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(arguments)} failed:\n{output[-2000:]}")
        return seconds, usage.ru_maxrss / 2**20, output


def install(name: str, revision: str | None, out: Path) -> Build:
    """Build a revision (None: the working tree) into a folder of its own, without what it depends on."""
    build = Build(name, out / "builds" / name)
    if (build.site / "threedistill").exists() and revision is not None:
        return build
    print(f"installing {revision or 'the working tree'} ...", flush=True)
    source = ROOT
    if revision is not None:
        source = out / "sources" / name
        source.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["git", "-C", str(ROOT), "archive", revision], check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(source, filter="data")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(build.site),
            str(source),
        ],
        check=True,
    )  # fmt: skip
    return build


class Ledger:
    """What has been measured, in ``against.json``: lists of (theirs, ours) by measure."""

    def __init__(self, path: Path, facts: dict[str, str]):
        self.path = path
        stored = json.loads(path.read_text()) if path.exists() else {}
        self.facts = stored.get("facts", facts)
        self.pairs: dict[str, dict[str, list[float]]] = stored.get("pairs", {})
        if self.facts != facts:
            raise SystemExit(f"{path} compares {self.facts}, not {facts}: choose another --out")

    def has(self, measure: str, case: str) -> bool:
        return case in self.pairs.get(measure, {})

    def add(self, measure: str, case: str, theirs: float, ours: float) -> None:
        self.pairs.setdefault(measure, {})[case] = [theirs, ours]
        self.path.write_text(json.dumps({"facts": self.facts, "pairs": self.pairs}, indent=1) + "\n")
        print(f"{measure:28s} {case:44s} {theirs:9.3f} {ours:9.3f}  x{ours / theirs:.2f}", flush=True)


def start(builds: Sequence[Build], ledger: Ledger, repeats: int) -> None:
    """Imports and ``--print-config``."""
    commands = {
        "print-config": ("-m", "threedistill", "generate", "a red duck", "--print-config"),
        "import": ("-c", "import threedistill; threedistill.generate"),
    }
    for name, command in commands.items():
        for build in builds:
            build.python(*command)  # files into the page cache
        for k in range(repeats):
            if not ledger.has(f"{name}, wall", str(k)):
                theirs, ours = (build.python(*command) for build in builds)
                ledger.add(f"{name}, wall", str(k), theirs[0], ours[0])
                ledger.add(f"{name}, peak", str(k), theirs[1], ours[1])


def kernels(builds: Sequence[Build], ledger: Ledger, repeats: int, out: Path) -> None:
    """Native against native, by our ``benchmarks/ops.py``."""
    script = str(ROOT / "benchmarks" / "ops.py")
    for k in range(repeats):
        if ledger.has("kernel " + next(iter(KERNELS)), str(k)):
            continue
        found = []
        for build in builds:
            path = out / f"ops-{build.name}.json"
            build.python(script, "--repeats", "6", "--json", str(path))
            found.append(json.loads(path.read_text())["rows"])
        for row in found[0]:
            ledger.add(f"kernel {row}", str(k), *(rows[row]["native_ms"] for rows in found))


def export(builds: Sequence[Build], ledger: Ledger, repeats: int, out: Path) -> None:
    """A textured GLB of 30,000 faces with 1024 texels, from a finished run's checkpoint; the whole command."""
    for build in builds:
        run = out / "runs" / build.name / "export"
        if not (run / "run.json").exists():
            build.python(*_generate("a red duck", 0, run, ("--preset", "draft")))
    for k in range(repeats):
        if ledger.has("export 30k faces", str(k)):
            continue
        taken = [
            build.python(
                "-m", "threedistill", "export", str(out / "runs" / build.name / "export"), "--overwrite",
                "--out", str(out / "runs" / build.name / "exported"), "export.resolution=256", "export.faces=30000",
                "export.texture_size=1024",
            )
            for build in builds
        ]  # fmt: skip
        ledger.add("export 30k faces", str(k), taken[0][0], taken[1][0])


def _generate(prompt: str, seed: int, folder: Path, options: Sequence[str]) -> tuple[str, ...]:
    return (
        "-m", "threedistill", "generate", prompt, "--seed", str(seed), "--out", str(folder), "--overwrite",
        "--quiet", *options,
    )  # fmt: skip


def assets(
    builds: Sequence[Build], ledger: Ledger, name: str, prompts: Sequence[str], seeds: int, out: Path
) -> None:
    """Assets of the same prompts and seeds by both, in turns."""
    for seed in range(seeds):
        for prompt in prompts:
            case = f"{prompt}, seed {seed}"
            if ledger.has(f"{name}, wall", case):
                continue
            taken = []
            for build in builds:
                folder = out / "runs" / build.name / name / f"{prompt.replace(' ', '-')}-s{seed}"
                taken.append(build.python(*_generate(prompt, seed, folder, ASSETS[name].options)))
            ledger.add(f"{name}, wall", case, taken[0][0], taken[1][0])
            ledger.add(f"{name}, peak", case, taken[0][1], taken[1][1])


def bench(builds: Sequence[Build], ledger: Ledger, limits: dict[str, int | None], out: Path) -> None:
    """The guidance benchmark, once each: an hour and more, but for few of its own prompts and seeds."""
    given = {name: n for name, n in limits.items() if n is not None}
    case = ", ".join(f"{n} {name}" for name, n in given.items()) or "all"
    if not ledger.has("bench guidance", case):
        options = [word for name, n in given.items() for word in (f"--{name}", str(n))]
        taken = [
            build.python(
                "-m", "threedistill", "bench", "guidance", "--quiet", *options,
                "--out", str(out / "bench" / build.name / case.replace(", ", "-").replace(" ", "-")),
            )
            for build in builds
        ]  # fmt: skip
        ledger.add("bench guidance", case, taken[0][0], taken[1][0])


def quality(builds: Sequence[Build], out: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Our judge's figures of both builds' assets: by measure and column the two means and the paired difference."""
    from threedistill.config.critics import critic_for
    from threedistill.evaluation.report import evaluate_runs, lookup
    from threedistill.evaluation.statistics import bootstrap

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in ASSETS:
        folders = [
            {
                p.name: p
                for p in sorted((out / "runs" / b.name / name).glob("*"))
                if (p / "asset/model.glb").exists()
            }
            for b in builds
        ]
        common = sorted(folders[0].keys() & folders[1].keys())
        if not common:
            continue
        theirs, ours = (evaluate_runs([f[c] for c in common], critic_for).runs for f in folders)
        for column, path in QUALITY.items():
            pairs = [(lookup(a, path), lookup(b, path)) for a, b in zip(theirs, ours)]
            values = [(float(a), float(b)) for a, b in pairs if a is not None and b is not None]
            if values:
                mean = [sum(v[k] for v in values) / len(values) for k in (0, 1)]
                gain = bootstrap([b - a for a, b in values]) if len(values) > 1 else None
                found.setdefault(name, {})[column] = {
                    "theirs": mean[0], "ours": mean[1], "pairs": len(values), "difference": str(gain or "-"),
                }  # fmt: skip
    return found


def goal_of(measure: str) -> float | None:
    """The ratio that is asked for."""
    fixed = {"print-config, wall": 0.5, "export 30k faces": 0.5, "bench guidance": 0.5, "hashgrid, peak": 0.7,
             "import, peak": 0.7}  # fmt: skip
    if measure in fixed:
        return fixed[measure]
    name = measure.split(",")[0]
    if name in ASSETS and measure.endswith("wall"):
        return ASSETS[name].goal
    kernel = measure.removeprefix("kernel ")
    return next((g for row, g in KERNELS.items() if kernel.startswith(row)), None)


def table(ledger: Ledger, figures: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Everything measured as Markdown."""
    lines = ["| measure | theirs | ours | ratio | range | pairs | goal |", "|---|---|---|---|---|---|---|"]
    for measure, cases in ledger.pairs.items():
        ratios = sorted(ours / theirs for theirs, ours in cases.values())
        theirs, ours = (median(pair[k] for pair in cases.values()) for k in (0, 1))
        goal = goal_of(measure)
        reached = "" if goal is None else f"{goal:.2f}{'' if median(ratios) <= goal else ', not reached'}"
        lines.append(
            f"| {measure} | {theirs:.3g} | {ours:.3g} | {median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} "
            f"| {len(ratios)} | {reached} |"
        )
    if figures:
        lines += [
            "",
            "| assets | figure | theirs | ours | difference in pairs | pairs |",
            "|---|---|---|---|---|---|",
        ]
        for name, columns in figures.items():
            for column, x in columns.items():
                lines.append(
                    f"| {name} | {column} | {x['theirs']:.3f} | {x['ours']:.3f} | {x['difference']} | {x['pairs']} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="of this repository: the other build")
    parser.add_argument("--out", type=Path, default=Path("runs/against"))
    parser.add_argument("--only", default=",".join(PARTS), metavar="M,M", help="measures (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="of what takes seconds")
    parser.add_argument(
        "--prompts",
        type=int,
        help=f"the first N of the public prompts (default {_PROMPTS}), and of bench's own (all)",
    )
    parser.add_argument("--seeds", type=int, help="seeds 0 to N - 1 of every prompt (default 2; bench: all)")
    parser.add_argument("--table", action="store_true", help="measure nothing more")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")

    revision = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", f"{options.revision}^{{commit}}"], check=True,
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / "against.json", {"theirs": revision})
    builds = [Build("theirs", out / "builds/theirs"), Build("ours", out / "builds/ours")]
    if not options.table:
        builds = [install("theirs", revision, out), install("ours", None, out)]
        # No torch in this process before the last child has ended: a child's peak begins at its parent's.
        listed = (ROOT / "assets" / "toybox" / "heldout.txt").read_text().splitlines()
        prompts = [line for line in listed if line and not line.startswith("#")][
            : options.prompts or _PROMPTS
        ]
        for name in wanted:
            if name == "start":
                start(builds, ledger, options.repeats)
            elif name == "kernels":
                kernels(builds, ledger, options.repeats, out)
            elif name == "export":
                export(builds, ledger, options.repeats, out)
            elif name == "bench":
                bench(builds, ledger, {"prompts": options.prompts, "seeds": options.seeds}, out)
            else:
                assets(builds, ledger, name, prompts, options.seeds or 2, out)
    text = table(ledger, quality(builds, out))
    (out / "against.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
