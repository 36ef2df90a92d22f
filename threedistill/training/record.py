"""``run.json``: what happened, when, with which versions, also for a run that failed; and an asset's facts."""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import torch

from threedistill import __version__
from threedistill.protocols import Prior
from threedistill.training.plan import Names, RunPlan
from threedistill.training.run_folder import RunFolder

__all__ = ["Record", "facts_of", "introduce", "prior_facts", "recorded"]


_PACKAGES = (
    "threedistill",
    "torch",
    "numpy",
    "diffusers",
    "transformers",
    "pytorch-lightning",
    "trimesh",
    "xatlas",
)


class Record:
    """Collects wall time by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


@contextlib.contextmanager
def recorded(
    run: RunFolder, names: Names, record: Record, facts: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Keep ``run.json`` true from start to end: running, then done, interrupted or failed.

    The number of threads of the first start is restored on resume, because sums depend on it; a resumed run adds to the
    seconds that are there. A run that fails before it has a place in its folder leaves nothing in it.

    Arguments:
        run, names: where, and what is carried out.
        record: seconds so far.
        facts: more to write down.
    """
    before = run.read_record()
    threads = int(before.get("threads", torch.get_num_threads()))
    torch.set_num_threads(threads)
    for name, seconds in dict(before.get("seconds", {})).items():
        record.seconds[name] = round(record.seconds.get(name, 0.0) + seconds, 3)
    run.update_record(
        **(facts or {}),
        status="running", prompt=names.prompt, seed=names.seed, preset=names.preset, prior=names.prior,
        representation=names.representation, guidance=names.guidance,
        deterministic=True, threads=threads, versions=_versions(), machine=f"{platform.system()} {platform.machine()}",
    )  # fmt: skip
    try:
        yield
    except KeyboardInterrupt as error:
        error.run_dir = run.path  # type: ignore[attr-defined]
        run.update_record(status="interrupted", seconds=record.seconds)
        raise
    except Exception as error:
        error.run_dir = run.path  # type: ignore[attr-defined]
        # A full disk must not hide the failure it caused.
        with contextlib.suppress(Exception):
            if run.is_new:
                run.abandon()
            else:
                run.update_record(status="failed", error=" ".join(str(error).split()), seconds=record.seconds)
        raise
    run.update_record(status="done", error=None, seconds=record.seconds, peak_bytes=_peak_bytes())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _peak_bytes() -> int:
    """Largest resident size of this process (plus the GPU's peak where one was used)."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return host + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def prior_facts(priors: Sequence[Prior]) -> dict[str, Any]:
    """What only loaded priors know of themselves, kept in ``run.json`` for exports that do not load them."""
    versions = [prior.version for prior in priors if prior.version]
    notes = tuple(note for prior in priors for note in prior.notes)
    facts: dict[str, Any] = {
        "prior_version": " + ".join(dict.fromkeys(versions)) or None,
        "prior_licence": " + ".join(dict.fromkeys(prior.licence for prior in priors)),
    }
    return {**facts, "prior_notes": notes} if notes else facts


def introduce(plan: RunPlan, priors: Sequence[Prior]) -> None:
    """Say on stderr which words change nothing, and whose weights these are."""
    if plan.ignored:
        print(f"ignored: {', '.join(plan.ignored)}", file=sys.stderr)
    for prior in priors:
        if prior.version:
            said = f"prior: {prior.version}, licence {prior.licence}"
            print(said, *prior.notes, sep="\n", file=sys.stderr)


def facts_of(names: Names, run: RunFolder) -> dict[str, object]:
    """The facts about a run's asset, from its plan and its record."""
    record: dict[str, Any] = run.read_record()
    return {
        "prompt": names.prompt, "seed": names.seed, "prior": names.prior,
        "prior_version": record.get("prior_version"), "prior_licence": record.get("prior_licence"),
        "guidance": names.guidance, "generator": f"threedistill {__version__}",
    }  # fmt: skip
