"""How a request wants its run steered and watched: the changes of another run, and a viewer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pytorch_lightning import Callback

from threedistill.config import Config
from threedistill.errors import UsageError
from threedistill.training.interruption import Stop
from threedistill.training.plan import RunPlan
from threedistill.training.run_folder import RunFolder
from threedistill.training.steering import Steered, Steering, check_changes, read_changes
from threedistill.training.step import Audience
from threedistill.viewer.serving import check_served

__all__ = ["Steers", "check_helm", "steered"]

#: (stage, stop) -> who is at the helm at every step of that stage.
Steers = Callable[[int, Stop], list[Callback]]


def check_helm(to: Audience, config: Config | None = None, plan: RunPlan | None = None) -> None:
    """Refuse a viewer or changes that cannot be (UsageError), before anything is done.

    Arguments:
        to: who asks for them.
        config, plan: of a new run; a run that is continued has changes of its own.
    """
    if to.viewer is not None:
        check_served(to.viewer)
    if to.changes is not None:
        if config is None or plan is None:
            raise UsageError("changes are for a new run; one that is continued has its own")
        check_changes(config, plan, read_changes(Path(to.changes)))


@contextlib.contextmanager
def steered(run: RunFolder, config: Config, plan: RunPlan, to: Audience) -> Iterator[Steers]:
    """The door for changes, and the viewer where one was asked for, for as long as the block lasts.

    Arguments:
        run: its folder; what is recorded there counts.
        config, plan: the run's.
        to: what was asked for.
    """
    steering = Steering(run, config, plan)
    if to.changes is not None:
        steering.adopt(read_changes(Path(to.changes)))
    if to.viewer is None:
        yield lambda index, stop: [Steered(steering, index, stop)]
        return
    from threedistill.viewer.live import live_viewer

    with live_viewer(to.viewer, steering, to.quiet) as window:
        yield lambda index, stop: [Steered(steering, index, stop, window.work), window]
