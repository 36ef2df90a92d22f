"""How a run is watched and saved."""

from __future__ import annotations

from typing import Annotated

from threedistill.training.loggers import LoggerName
from threedistill.values import Count, NonNegative, Within, settings

__all__ = ["TrainerSettings"]


@settings
class TrainerSettings:
    """How a run is watched and saved; none of it changes the result.

    Arguments:
        preview_every: iterations between preview strips; 0 = none.
        preview_x0: beside each strip, ``NNNNNN-x0.png``: above the step's own renders, below what the rule would rather
            see (``x0 - (sigma / alpha) g``; for SDS the prior's guided picture).
        checkpoint_every, checkpoint_seconds: whichever comes first.
        log_every: iterations between rows of metrics.csv, and of the loggers.
        loggers: other programs' logs, in the run's folder (docs/loggers.md).
        max_rows: largest batch a network is given at once; None = all rows.
    """

    preview_every: Annotated[int, Within(0)] = 100
    preview_x0: bool = False
    checkpoint_every: Count = 50
    checkpoint_seconds: NonNegative = 15.0
    log_every: Count = 10
    loggers: tuple[LoggerName, ...] = ()
    max_rows: Count | None = None
