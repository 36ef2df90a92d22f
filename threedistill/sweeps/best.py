"""Several seeds of one request, and which of their assets is the best.

Every seed is an ordinary run in a folder of its own; what is finished is not made again, what was begun goes on. The
choice stands in the ``run.json`` of each of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.metrics.metric import Metric, Sight
from threedistill.evaluation.report import read_run
from threedistill.sweeps.job import finished, read_record
from threedistill.training.claims import check_place
from threedistill.training.result import Result
from threedistill.training.run_folder import RunFolder

if TYPE_CHECKING:
    from threedistill.config import Config

__all__ = ["best_of", "check_folders", "seed_folders"]


def check_folders(folders: Mapping[int, Path], config: Callable[[int], Config]) -> None:
    """Refuse folders that hold other runs than these, before any is started.

    Arguments:
        folders: by seed.
        config: what each seed's run is made of.

    Raises:
        UsageError: with what differs.
    """
    from threedistill.config import different_settings, read_config

    for seed, folder in folders.items():
        run, asked = RunFolder(folder), config(seed)
        if not run.holds_run or different_settings(asked, read_config(run.config)):
            check_place(run, asked, overwrite=False)


def best_of(
    folders: Mapping[int, Path],
    make: Callable[[int, Path], Result],
    name: str,
    metric: Metric,
    quiet: bool = False,
) -> Result:
    """Make what is not finished, measure all, write down the choice; the best one's result.

    A seed that fails stops nothing. Equal values are decided by the order of the seeds.

    Arguments:
        folders: by seed; checked (:func:`check_folders`).
        make: makes a seed's run in its folder, or goes on with it.
        name, metric: by what is chosen.
        quiet: nothing on stderr.

    Raises:
        ThreedistillError: no seed gave an asset.
        KeyboardInterrupt: stopped on request; the same call goes on.
    """

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    results: dict[int, Result] = {}
    values: dict[int, float] = {}
    failed: ThreedistillError | None = None
    for number, (seed, folder) in enumerate(folders.items()):
        try:
            results[seed] = _finished(folder) if finished(folder) else make(seed, folder)
            run = read_run(folder)
            values[seed] = metric.measure(Sight(run["prompt"], run["asset"]))["value"]
        except KeyboardInterrupt as stop:
            stop.hint = "; the same command goes on with the seeds"  # type: ignore[attr-defined]
            raise
        except ThreedistillError as error:
            failed = error
            say(f"seed {seed} ({number + 1} of {len(folders)}) failed: {error}")
            continue
        say(f"seed {seed} ({number + 1} of {len(folders)}): {name} {values[seed]:.4g}, {folder}")
    if not values:
        assert failed is not None
        raise failed
    sign = 1 if metric.higher else -1
    best = max(values, key=lambda seed: sign * values[seed])
    facts: dict[str, Any] = {
        "by": name, "version": metric.version, "better": "higher" if metric.higher else "lower", "best": best,
        "values": {str(seed): value for seed, value in values.items()},
        "runs": {str(seed): str(folder) for seed, folder in folders.items()},
    }  # fmt: skip
    for seed in results:
        run = RunFolder(folders[seed])
        with run.locked():
            run.update_record(chosen={**facts, "value": values.get(seed), "is_best": seed == best})
    say(f"best of {len(values)} by {name}: seed {best}")
    return results[best]


def _finished(folder: Path) -> Result:
    """The result of a run that is there, as far as its folder tells."""
    record, asset = read_record(folder), read_run(folder)["asset"]
    return Result(folder, asset, seconds=record["seconds"])


def seed_folders(
    first: int, count: int, out: Path | None, place: Callable[[int], Path], largest: int
) -> dict[int, Path]:
    """By seed, its run's folder: ``out/s0``, ``out/s1`` ..., or each its own default place.

    Raises:
        UsageError: seeds beyond the largest there is.
    """
    if first + count - 1 > largest:
        raise UsageError(f"--seeds {count} from --seed {first} goes beyond {largest}")
    seeds = range(first, first + count)
    return {seed: place(seed) if out is None else out / f"s{seed}" for seed in seeds}
