"""What is told after every step of a run, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Audience", "Step"]


@dataclass(frozen=True)
class Step:
    """One step of a run that has just been made; ``generate(..., on_step=...)`` calls with it.

    It holds numbers and names, no part of the run: nothing that is done with it changes what is made.

    Attributes:
        stage: the stage's name.
        iteration, iterations: how far the stage is, and how long it is.
        done, total: the same for all stages together.
        metrics: the step's figures, as in ``metrics.csv`` (``direction_rms``, ``opacity``, ``seconds_render``, ...).
        run_dir: the run's folder; pictures come in ``preview``.
    """

    stage: str
    iteration: int
    iterations: int
    done: int
    total: int
    metrics: Mapping[str, float]
    run_dir: Path


@dataclass(frozen=True)
class Audience:
    """Who is told how a run goes.

    Attributes:
        quiet: nobody on stderr.
        on_step: the caller's function, after every step.
        viewer: a browser, at this port; None = none.
        changes: a run (or its ``changes.jsonl``) whose changes are made again; None = none.
    """

    quiet: bool = False
    on_step: Callable[[Step], object] | None = None
    viewer: int | None = None
    changes: str | Path | None = None
