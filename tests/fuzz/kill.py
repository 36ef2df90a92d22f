"""kill -9 at random moments: every run ends with the bytes of an uninterrupted one, and nothing is ever lost.

    python tests/fuzz/kill.py                         60 kills over all cases (about ten minutes of one core)
    python tests/fuzz/kill.py --part 2/3              the second third of them
    python tests/fuzz/kill.py --only export --tries 5

Each try is a process of its own, forked from this one so that nothing is imported twice, that carries out a command
line and is ended by SIGKILL after a random share of the processor time that the whole takes. Then a user goes on: with
``resume`` where the folder holds a run or a request, with the same command where nothing had begun. The last line
counts outcomes; the exit status is 1 if any try ended otherwise than it must.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from threedistill.cli import main as command
from threedistill.training.run_folder import OWN, RunFolder

_FIELD = "representation.model"
_SMALL = [
    "--quiet", "--prior", "oracle", "--preset", "draft", "budget.views=2", "budget.resolution=16", "budget.grid=32",
    "budget.faces=200", "budget.texture=32", "export.turntable_frames=2", "export.preview_size=32",
    "trainer.preview_every=4", "trainer.log_every=2", "trainer.checkpoint_every=3", "prior.model.size=16",
    "convert.steps=4", "convert.polish=3", "convert.views=2", "convert.bank=4", "convert.size=16",
    "convert.resolution=24",
]  # fmt: skip
_HASH = [f"{_FIELD}.log2_entries=10", f"{_FIELD}.levels=3", f"{_FIELD}.start_levels=2", f"{_FIELD}.steps=32",
         f"{_FIELD}.finest_resolution=32", f"{_FIELD}.occupancy_resolution=24"]  # fmt: skip
_DMTET = ["--representation", "dmtet", f"{_FIELD}.resolution=12", f"{_FIELD}.color.levels=2",
          f"{_FIELD}.shape.levels=2", f"{_FIELD}.color.start_levels=1", f"{_FIELD}.shape.start_levels=1"]  # fmt: skip
_STAGES = (
    "stages=[{name: coarse, iterations: 4, resolution: 16}, {name: splats, iterations: 4, resolution: 16, "
    "representation: {option: gaussians, model: {count: 200}}}, {name: mesh, iterations: 4, resolution: 16, "
    "representation: {option: dmtet, model: {resolution: 12}}}]"
)
#: What is optimised -> its words.
_WAYS = {
    "hashgrid": [*_HASH, "budget.iterations=12"],
    "gaussians": ["--representation", "gaussians", f"{_FIELD}.count=200", "budget.iterations=12"],
    "dmtet": [*_DMTET, "budget.iterations=12"],
    "three": [*_HASH, _STAGES],
}
_RULES = {"sds": ["--guidance", "sds"], "vsd": ["--guidance", "vsd", "student=gaussian"]}


def _generate(*words: str, seed: int = 0) -> list[str]:
    return ["generate", "a red ball", "--out", "run", "--seed", str(seed), *_SMALL, *words]


@dataclass
class Case:
    """One thing that is killed.

    Attributes:
        name: of the case.
        words: the command line.
        before: a command line that makes what must be there first.
        share: how many of the tries fall on it.
        result: the files that count, below the current folder.
    """

    name: str
    words: list[str]
    before: list[str] = field(default_factory=list)
    share: int = 5
    result: tuple[str, ...] = ("run/asset",)


def cases() -> list[Case]:
    """All of them; their shares are 60 tries together."""
    found = [
        Case(f"{way}-{rule}", _generate(*words, *lines))
        for way, words in _WAYS.items()
        for rule, lines in _RULES.items()
    ]
    short = [*_HASH, "budget.iterations=6"]
    start = ["generate", "a red ball", "--out", "start", *_SMALL, *short]
    sweep = ["sweep", "--prompts", "prompts.txt", "--out", "sweep", *[w for w in _SMALL if not w.startswith("-")][2:],
             "prior=oracle", "preset=draft", *short, "seed=0,1", "--quiet", "--no-eval"]  # fmt: skip
    return [
        *found,
        Case("overwrite", [*_generate(*short, seed=2), "--overwrite"], _generate(*short, seed=1), 6),
        Case("init", _generate("--init", "start/asset/model.glb", *_DMTET, "budget.iterations=6"), start, 4),
        Case("export", ["export", "run", "--format", "obj,stl,usdz,webp", "--overwrite", "export.faces=100"],
             _generate(*short), 4),
        Case("sweep", sweep, [], 6, ("sweep/runs", "sweep/results.csv")),
    ]  # fmt: skip


def digest(places: tuple[str, ...]) -> dict[str, str]:
    """Every asset's file and its digest; of a table what is the same in every run of it."""
    found = {}
    for file in sorted(
        f for place in places for f in ([Path(place)] if Path(place).is_file() else Path(place).rglob("*"))
    ):
        if not file.is_file():
            continue
        if file.name == "results.csv":
            statuses = [line.split(",")[:1] + ["done" in line] for line in file.read_text().splitlines()]
            found[str(file)] = str(statuses)
        elif "asset" in file.parts:
            found[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def run(words: list[str], stop_after: float | None = None) -> tuple[int | None, float]:
    """Carry out a command line in a forked process; (exit status, processor seconds), None where it was killed.

    Arguments:
        words: of the command.
        stop_after: processor seconds after which it is killed.
    """
    child = os.fork()
    if child == 0:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 1
        try:
            status = command(words)
        finally:
            os._exit(status)
    while True:
        done, state, used = os.wait4(child, os.WNOHANG)
        if done:
            spent = used.ru_utime + used.ru_stime
            return (None, spent) if os.WIFSIGNALED(state) else (os.waitstatus_to_exitcode(state), spent)
        if stop_after is not None and _spent(child) >= stop_after:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.003)


def _spent(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_files(folder: Path) -> dict[str, bytes]:
    """What a run consists of."""
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for name in OWN
        for f in [folder / name, *(folder / name).rglob("*")]
        if f.is_file()
    }


def go_on(case: Case, earlier: dict[str, bytes]) -> str:
    """What a user does after a kill; returns how it went on."""
    folder = RunFolder("run")
    if case.name in ("export", "sweep"):
        expect(run(case.words)[0] == 0, "the same command does not go on")
        return "went on"
    if case.name == "overwrite" and not folder.holds_request:
        files = own_files(folder.path)
        if files == earlier:
            expect(run(case.words)[0] == 0, "the same command does not begin again")
            return "had not begun"
    if folder.holds_run or folder.holds_request:
        expect(run(["resume", "run", "--quiet"])[0] == 0, "resume does not go on")
        return "went on"
    expect(run(case.words)[0] == 0, "the same command does not begin again")
    return "had not begun"


class Wrong(Exception):
    """A try ended otherwise than it must."""


def expect(holds: bool, otherwise: str) -> None:
    """Raise :class:`Wrong` unless something holds."""
    if not holds:
        log = Path("log.txt")
        last = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
        raise Wrong(f"{otherwise}: {' '.join(last)}")


def prepared(case: Case) -> None:
    """Make what must be there before the command."""
    Path("prompts.txt").write_text("a red ball\n# two of them\na blue cube\n")
    if case.before:
        expect(run(case.before)[0] == 0, "what must be there first is not made")


def one_try(case: Case, place: Path, template: Path, expected: dict[str, str], moment: float) -> str:
    """Kill the case once at a moment, go on, and compare; the outcome in a word."""
    shutil.copytree(template, place)
    os.chdir(place)
    earlier = own_files(Path("run"))
    status, _ = run(case.words, stop_after=moment)
    if status is None:
        outcome = go_on(case, earlier)
    else:
        expect(status == 0, "the command fails")
        outcome = "had finished"
    found = digest(case.result)
    expect(
        found == expected,
        f"other bytes: {sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))}",
    )
    hidden = [str(f) for f in Path(".").rglob(".*") if f.name not in (".lock", ".")]
    expect(case.name == "export" or not hidden, f"left behind: {hidden}")
    return outcome


def main() -> int:
    """Make the tries and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="CASE", help="one case, e.g. hashgrid-vsd, overwrite, sweep")
    parser.add_argument("--tries", type=int, metavar="N", help="of each case; default its share of 60")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th case from the I-th")
    options = parser.parse_args()
    index, count = (int(n) for n in options.part.split("/"))
    chosen = [c for c in cases() if options.only in (None, c.name)][index - 1 :: count]
    import threedistill.pipeline
    import threedistill.training.assemble
    import threedistill.training.reexport  # noqa: F401

    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for case in chosen:
            outcomes += _tries(case, Path(name), options.seed, options.tries or case.share, wrong.append)
        os.chdir("/")
    told = ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items()))
    print(f"{sum(outcomes.values()) + len(wrong)} kills, seed {options.seed}: {told}; identical "
          f"{sum(outcomes.values())}, otherwise {len(wrong)}")  # fmt: skip
    return 1 if wrong else 0


def _tries(case: Case, root: Path, seed: int, tries: int, complain: Callable[[str], None]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    draw = random.Random(f"{seed}/{case.name}")
    template, whole = root / f"{case.name}-before", root / f"{case.name}-whole"
    template.mkdir()
    os.chdir(template)
    prepared(case)
    shutil.copytree(template, whole)
    os.chdir(whole)
    status, seconds = run(case.words)
    expect(status == 0, f"{case.name} fails without a kill")
    expected = digest(case.result)
    for number in range(tries):
        moment = draw.uniform(0, seconds)
        try:
            outcome = one_try(case, root / f"{case.name}-{number}", template, expected, moment)
            outcomes[outcome] += 1
        except Wrong as error:
            outcome = f"WRONG: {error}"
            complain(outcome)
        print(f"{case.name}: killed after {moment:.2f} of {seconds:.2f} s: {outcome}", flush=True)
        shutil.rmtree(root / f"{case.name}-{number}", ignore_errors=True)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
