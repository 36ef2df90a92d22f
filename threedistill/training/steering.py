"""Steering a run while it runs: pause, single steps, and changed settings, through one door.

A step is a pure function of the state before it, the run's settings and its seed. So whoever wants to change a setting
asks :class:`Steering`; at the start of the next step it writes the change down with the number of that step, and only
then applies it:

    {"stage": 0, "iteration": 120, "key": "guidance.rule.cfg.scale", "value": 20.0}     a line of changes.jsonl

What is in the file is part of the run like its ``config.yaml``. A resumed run takes from it what came before its
checkpoint, and meets the rest again at the same steps; another run that is given the file is the same run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from threedistill.atomic import append_text, write_text
from threedistill.config import Config, with_change
from threedistill.errors import UsageError
from threedistill.training.assemble import prepare
from threedistill.training.interruption import Stop
from threedistill.training.plan import RunPlan
from threedistill.training.planning import build_plan
from threedistill.training.run_folder import RunFolder
from threedistill.training.system import ScoreDistillation

__all__ = ["Change", "Steered", "Steering", "check_changes", "read_changes"]

#: A run that is paused looks this often whether it was asked to stop, seconds.
_LOOK = 0.1
_TEXTS = ("prompt", "negative")


@dataclass(frozen=True)
class Change:
    """A setting that has another value from a step on.

    Attributes:
        stage, iteration: the step before which it is applied; iterations count through the stage.
        key, value: as for :func:`threedistill.config.with_change`. Texts hold for the rest of the run, everything else
            for the rest of its stage.
    """

    stage: int
    iteration: int
    key: str
    value: Any

    @property
    def line(self) -> str:
        """As it stands in the file."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_changes(path: Path) -> list[Change]:
    """The changes of a run in the order in which they are applied; a last line that a power cut tore never was.

    Arguments:
        path: a ``changes.jsonl``, or a run's folder; one without the file has none.

    Raises:
        UsageError: a line that is no change.
    """
    folder = path.is_dir()
    path = path / "changes.jsonl" if folder else path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if folder:
            return []
        raise UsageError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            change = Change(**json.loads(line))
            if not (_count(change.stage) and _count(change.iteration) and isinstance(change.key, str)):
                raise TypeError
        except (ValueError, TypeError, RecursionError):
            raise UsageError(
                f"{path}, line {number}, is no change; one is a JSON object with stage, iteration, key and value"
            ) from None
        found.append(change)
    return sorted(found, key=lambda change: (change.stage, change.iteration))


def check_changes(config: Config, plan: RunPlan, changes: Sequence[Change]) -> None:
    """Refuse changes that a run with this configuration and plan cannot take (UsageError), each in its place."""
    for change in changes:
        try:
            if (
                change.stage >= len(plan.stages)
                or change.iteration >= plan.stages[change.stage].stage.iterations
            ):
                raise UsageError("the run has no such step")
            config = with_change(config, change.stage, change.key, change.value)
            build_plan(config)
        except UsageError as error:
            raise UsageError(f"change at stage {change.stage}, step {change.iteration}: {error}") from None


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class Steering:
    """The door through which a run is steered; threads other than the run's may knock.

    Arguments:
        run: its folder, with what was changed before.
        config: its configuration.
        plan: what was made of it.

    Attributes:
        plan: with everything that was changed so far.
    """

    def __init__(self, run: RunFolder, config: Config, plan: RunPlan) -> None:
        self.run, self.plan = run, plan
        self._config = config
        self._known = read_changes(run.changes) if run.changes.is_file() else []
        self._asked: list[tuple[str, Any]] = []
        self._gate = threading.Condition()
        self._paused, self._steps = False, 0
        self._stage = 0
        check_changes(config, plan, self._known)

    def adopt(self, changes: Sequence[Change]) -> None:
        """Take over what was changed in another run, before this one's first step."""
        self._known = list(changes)
        write_text(self.run.changes, "".join(change.line for change in changes))

    # ---- from any thread -------------------------------------------------------------------------

    def ask(self, key: str, value: Any) -> None:
        """Ask for a change before the next step.

        Raises:
            UsageError: it cannot be; nothing happens.
        """
        with self._gate:
            config = self._config
            for other in self._asked:
                config = with_change(config, self._stage, *other)
            build_plan(with_change(config, self._stage, key, value))
            self._asked.append((key, value))

    @property
    def paused(self) -> bool:
        """Whether the run waits."""
        return self._paused

    def pause(self) -> None:
        """Wait before the next step, until :meth:`go_on`."""
        with self._gate:
            self._paused, self._steps = True, 0

    def go_on(self) -> None:
        """Wait no longer."""
        with self._gate:
            self._paused = False
            self._gate.notify_all()

    def step(self) -> None:
        """Make one step, then wait."""
        with self._gate:
            self._paused, self._steps = True, self._steps + 1
            self._gate.notify_all()

    # ---- from the run's own thread -------------------------------------------------------------------------

    def enter(self, system: ScoreDistillation, index: int) -> None:
        """A stage begins, or goes on: it is as everything that was changed before its next step left it."""
        with self._gate:
            self._stage = index
            before = (index, int(system.iteration))
            held = [c for c in self._known if c.stage == index or c.key in _TEXTS]
            earlier = [c for c in held if (c.stage, c.iteration) < before]
            self._apply(system, earlier)

    def before(self, system: ScoreDistillation, iteration: int, waits: Callable[[], bool]) -> None:
        """A step is about to be made: what was changed at it is applied, and it waits where the run is paused.

        Arguments:
            system: of the stage.
            iteration: of the step.
            waits: whether there is still something to wait for.
        """
        with self._gate:
            self._apply(
                system, [c for c in self._known if (c.stage, c.iteration) == (self._stage, iteration)]
            )
            self._take(system, iteration)
            while self._paused and not self._steps and waits():
                self._gate.wait(_LOOK)
                self._take(system, iteration)
            self._steps = max(self._steps - 1, 0)

    def _take(self, system: ScoreDistillation, iteration: int) -> None:
        """Write down what was asked for, then apply it."""
        asked, self._asked = self._asked, []
        changes = [Change(self._stage, iteration, key, value) for key, value in asked]
        for change in changes:
            append_text(self.run.changes, change.line)
        self._known += changes
        self._apply(system, changes)

    def _apply(self, system: ScoreDistillation, changes: Sequence[Change]) -> None:
        if not changes:
            return
        for change in changes:
            self._config = with_change(self._config, self._stage, change.key, change.value)
        self.plan = replace(build_plan(self._config), device=self.plan.device)
        stage = self.plan.stages[self._stage]
        system.guidance, system.background = stage.guidance, stage.background
        system.light, system.stage = stage.light, stage.stage
        heard, system.prompts = system.prompts, self.plan.prompts
        for learner in system.learners.values():
            learner.tell(system.prompts, stage.guidance.timesteps)
        if system.prompts != heard:
            prepare(replace(self.plan, stages=(stage,)), [system])


class Steered(pl.Callback):
    """Opens the door at the start of every step of a stage.

    Arguments:
        steering, index: the door, and which stage this is.
        stop: where requests to stop arrive; a run that was asked to stop waits no longer.
        idle: what is done, again and again, while the run is paused.
    """

    def __init__(
        self, steering: Steering, index: int, stop: Stop,
        idle: Callable[[ScoreDistillation], None] = lambda system: None,
    ) -> None:  # fmt: skip
        self.steering, self.index, self.stop, self.idle = steering, index, stop, idle

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        self.steering.enter(pl_module, self.index)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: int, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ScoreDistillation)

        def waits() -> bool:
            self.idle(pl_module)
            return not self.stop.requested

        self.steering.before(pl_module, int(batch), waits)
