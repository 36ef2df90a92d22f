"""``threedistill bench guidance``: the rules compared on a world with ground truth."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from threedistill.commands.arguments import Parser, many_of, number, one_of, unknown, whole_number
from threedistill.errors import UsageError

if TYPE_CHECKING:
    from threedistill.sweeps.launch import Checked, Launch
    from threedistill.sweeps.plan import Plan
    from threedistill.toybox.bench.noise import NoiseShare
    from threedistill.toybox.bench.parts import Part

__all__ = ["BENCHMARKS", "NoiseRequest", "noise_shares", "parser", "rows_by_part", "run"]

BENCHMARKS = ("guidance",)

_EPILOG = """\
examples:
  threedistill bench guidance --tier 1
  threedistill bench guidance --prompts 2 --seeds 1 --budget 30
  threedistill bench guidance --only scale,noise --out bench/scale
  threedistill bench guidance --prior world --only janus --prompts 4 --seeds 2 prior.model.variations=16

Finished runs are never repeated: the same command goes on where it stopped, a larger one adds to it. Tables that are
not complete say so. guidance.md, plots/ and results.csv land in the folder; the last line on stdout is guidance.md.
"""


def parser() -> Parser:
    """The options of ``bench``."""
    from threedistill.toybox.bench.parts import PART_NAMES, PRIORS

    p = Parser("bench", "guidance [options] [key=value ...]", "Compare rules on ground truth.", _EPILOG)
    p.add_argument(
        "--tier", type=whole_number("--tier", 1, 2), metavar="N", help="1: the headline; 2: the rest"
    )
    p.add_argument(
        "--only", type=many_of("--only", PART_NAMES), metavar="P,P", help=f"parts: {', '.join(PART_NAMES)}"
    )
    p.add_argument(
        "--prior", type=one_of("--prior", PRIORS), default="toybox", metavar="P",
        help="who teaches: toybox, or world, its exact answer (slow)",
    )  # fmt: skip
    p.add_argument("--out", metavar="DIR", help="the benchmark's folder (default bench/guidance[-world])")
    p.add_argument("--prompts", type=whole_number("--prompts", 1, 8), metavar="N", help="at most N prompts")
    p.add_argument("--seeds", type=whole_number("--seeds", 1, 100), metavar="N", help="at most N seeds")
    p.add_argument(
        "--budget",
        type=number("--budget", 0, 1e6),
        metavar="MIN",
        help="start no run after this many minutes",
    )
    p.add_argument(
        "--launcher", type=one_of("--launcher", _launchers()), metavar="L", help="basic | joblib | ..."
    )
    p.add_argument(
        "--table", action="store_true", help="make nothing, only write the tables of what is there"
    )
    p.add_argument("--dry-run", action="store_true", help="check everything, print the runs, make none")
    p.add_argument("--quiet", action="store_true", help="print nothing but the page's path")
    return p


def _launchers() -> tuple[str, ...]:
    from threedistill.sweeps.launch import LAUNCHERS

    return tuple(LAUNCHERS)


def run(argv: Sequence[str]) -> int:
    """Make the runs that are missing, then tables, plots and verdicts; exit status 1 if some runs failed."""
    options, data = parser().parse(argv)
    if not data or data[0] not in BENCHMARKS:
        raise UsageError(
            unknown("bench", data[0], BENCHMARKS) if data else "bench what? threedistill bench guidance"
        )
    from threedistill.sweeps.launch import Launch, check_launcher, check_runs
    from threedistill.toybox.bench.parts import chosen

    extra = [word for word in data[1:] if "=" in word]
    if len(extra) != len(data) - 1:
        raise UsageError(f"bench guidance: not a setting: {next(w for w in data[1:] if '=' not in w)!r}")
    parts = chosen(options.tier, options.only or (), options.prompts, options.seeds, extra, options.prior)
    launcher = options.launcher or "basic"
    check_launcher(launcher)
    suffix = "" if options.prior == "toybox" else f"-{options.prior}"
    root = Path(options.out or f"bench/guidance{suffix}")
    noisy = "noise" in options.only if options.only else options.tier in (None, 2)
    noise = NoiseRequest(min(options.prompts or 4, 4), tuple(extra), options.prior) if noisy else None
    with contextlib.redirect_stdout(sys.stderr):
        runs = [cell for part in parts for cell in part.runs()]
        checked = check_runs(runs, skip_impossible=True) if runs else None
        for name, reason in checked.impossible if checked else ():
            print(f"left out: {name}: {reason}", file=sys.stderr)
        if options.dry_run:
            for part in parts:
                print(
                    f"{part.name}: {len(part.settings)} settings, {part.prompts} prompts, {part.seeds} seeds"
                )
            print(f"{len({c.folder for c in checked.runs}) if checked else 0} runs in {root}")
            return 0
        launch = Launch(
            launcher, (), 60 * options.budget if options.budget is not None else None, True, options.quiet
        )
        command = "threedistill bench " + shlex.join(w for w in argv if w not in ("--table", "--quiet"))
        page, failed = _work(root, parts, checked, launch, command, noise, options.table)
    print(page)
    return 1 if failed else 0


def _work(
    root: Path,
    parts: Sequence[Part],
    checked: Checked | None,
    launch: Launch,
    command: str,
    noise: NoiseRequest | None,
    only_tables: bool,
) -> tuple[Path, int]:
    """Make, measure and write; the page and how many runs failed."""
    from threedistill.evaluation.plots import why_none
    from threedistill.sweeps.launch import SweepInterrupted, carry_out, prepare
    from threedistill.sweeps.table import write_tables
    from threedistill.toybox.bench.report import verdict_lines, write_report

    by_part: dict[str, list[dict]] = {part.name: [] for part in parts}
    stopped, plan = False, None
    if checked is not None:
        plan, numbers = prepare(root, checked)
        if not only_tables:
            try:
                carry_out(plan, numbers, launch)
            except KeyboardInterrupt:
                stopped = True
        by_part = rows_by_part(plan, parts, checked)
    shares = []
    if noise is not None and not stopped:
        shares = noise_shares(root, noise, only_tables)
    possible = checked.configs if checked else {}
    shown = [replace(p, settings=tuple(s for s in p.settings if s.name in possible)) for p in parts]
    page = write_report(root, shown, by_part, shares, command, checked.impossible if checked else ())
    if plan is not None:
        write_tables(plan, "bench guidance")  # the page shows the plots too
    if stopped:
        raise SweepInterrupted
    if not launch.quiet:
        print("\n".join([*verdict_lines(shown, by_part), *filter(None, [why_none()])]), file=sys.stderr)
    failed = {r["run"] for rows in by_part.values() for r in rows if r["status"] == "failed"}
    return page, len(failed)


def rows_by_part(plan: Plan, parts: Sequence[Part], checked: Checked) -> dict[str, list[dict]]:
    """The rows of each part's runs; a run that two parts share is in both."""
    from threedistill.sweeps.table import rows

    numbers = {entry["folder"]: number for number, entry in enumerate(plan.entries)}
    found = {}
    for part in parts:
        cells = [cell for cell in part.runs() if cell.setting.name in checked.configs]
        found[part.name] = rows(plan, [numbers[cell.folder] for cell in cells])
        for cell, row in zip(cells, found[part.name]):
            row["setting"] = cell.setting.name
    return found


@dataclass(frozen=True)
class NoiseRequest:
    """Which gradients are measured.

    Attributes:
        prompts: how many of the benchmark's prompts.
        extra: ``key=value`` lines added to every setting.
        prior: who teaches.
    """

    prompts: int
    extra: tuple[str, ...] = ()
    prior: str = "toybox"


def noise_shares(root: Path, request: NoiseRequest, only_read: bool) -> list[NoiseShare]:
    """The noise shares of the rules without a student, measured once and kept in ``noise.json``."""
    from threedistill.atomic import read_json
    from threedistill.config import compose
    from threedistill.evaluation.report import write_json
    from threedistill.evaluation.statistics import Estimate
    from threedistill.resources import assets_dir, weights_hash
    from threedistill.toybox.bench.noise import NoiseShare, measure
    from threedistill.toybox.bench.parts import PROMPTS, RULES, taught

    wanted = [s for s in RULES if s.name in ("SDS", "CSM", "CSD", "ISM", "SDI", "C-SDS")]
    wanted = [taught(replace(s, overrides=(*s.overrides, *request.extra)), request.prior) for s in wanted]
    # What the rules are set to counts: new defaults make old shares stale.
    configs = {s.name: compose(prompt=PROMPTS[0], overrides=s.overrides) for s in wanted}
    rules = {name: config["guidance"] for name, config in configs.items()}
    version = f"sha256 {weights_hash(assets_dir() / 'toybox' / 'prior')}"
    if request.prior != "toybox":
        version = next(iter(configs.values()))["prior"]["model"]
    key = {"prompts": list(PROMPTS[: request.prompts]), "rules": rules, "prior": version}
    kept = read_json(root / "noise.json")
    if kept.get("key") != key:
        if only_read:
            return []
        print("measuring the noise in the directions", file=sys.stderr)
        shares = measure(wanted, PROMPTS[: request.prompts])
        kept = {"key": key, "shares": [share.as_dict() for share in shares]}
        write_json(root / "noise.json", kept)
    return [
        NoiseShare(
            s["setting"],
            Estimate(**s["fixed"]),
            Estimate(**s["drawn"]),
            tuple(tuple(x) for x in s["samples"]),
        )
        for s in kept["shares"]
    ]
