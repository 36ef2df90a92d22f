"""Search for the settings that make a metric best: trials of Optuna, each a small sweep over prompts and seeds.

The study is a file in the folder, and a trial's runs are ordinary runs of the sweep: after a kill the trial that was
under way goes on with the same settings, and what is finished is never made again. The sampler of trial ``k`` is seeded
with ``k``, so that a search that was stopped asks the same questions as one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.atomic import make_folder, os_errors_in_words, write_text
from threedistill.errors import UsageError
from threedistill.locks import lock
from threedistill.sweeps.plan import Setting, setting_of

if TYPE_CHECKING:
    from optuna import Study, Trial

__all__ = ["Axis", "Search", "Searched", "axis", "check_optuna"]


@dataclass(frozen=True)
class Axis:
    """What a setting may be.

    Attributes:
        key: of the configuration.
        choices: its values as words; () for a range.
        low, high: the ends of a range, included.
        whole: whether only whole numbers count.
        log: whether the range is searched by ratios.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False

    def suggest(self, trial: Trial) -> str:
        """A trial's value as a word of an override."""
        if self.choices:
            return str(trial.suggest_categorical(self.key, self.choices))
        if self.whole:
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log))
        return repr(trial.suggest_float(self.key, self.low, self.high, log=self.log))


def check_optuna() -> None:
    """Refuse a search where its library is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError(
            '--maximize needs optuna, which is not installed: pip install "threedistill[search]"'
        )


def axis(word: str) -> Axis:
    """``key=interval(2,20)``, ``key=tag(log,interval(1e-4,1e-1))``, ``key=int(interval(1,8))``, ``key=range(1,9)``,
    ``key=a,b,c`` or ``key=choice(a,b,c)`` in Hydra's grammar.

    Raises:
        UsageError: anything else, or ends the wrong way round.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep
    from hydra.errors import HydraException

    key, text = word.split("=", 1)
    try:
        parsed = OverridesParser.create().parse_override(word)
        value = parsed.value()
        if not parsed.is_sweep_override():
            return Axis(key, (text,))
        if not isinstance(value, IntervalSweep):
            return Axis(key, tuple(dict.fromkeys(parsed.sweep_string_iterator())))
    except HydraException:
        raise UsageError(f"{word!r} could not be read; ranges are written {key}=interval(LOW,HIGH)") from None
    low, high = value.start, value.end
    log = "log" in value.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        raise UsageError(
            f"{word}: an interval goes from a lower to a higher number (above 0 where it is log)"
        )
    return Axis(key, (), float(low), float(high), isinstance(low, int) and isinstance(high, int), log)


@dataclass(frozen=True)
class Searched:
    """What a search has found so far.

    Attributes:
        trials: per trial ``number, settings, value, state``.
        best: the best of them; None where none has a value.
    """

    trials: tuple[dict[str, Any], ...]
    best: dict[str, Any] | None


@dataclass
class Search:
    """A search in a sweep's folder.

    Arguments:
        root: the folder.
        axes: what may vary; an axis with one value is the same in all trials.
        metric: its name.
        maximize: whether larger is better.
        value: carries out a trial's setting and gives its figure; None where a run failed. May raise UsageError for
            settings that cannot work together.
        facts: what else makes the search another one: prompts, seeds, preset.
    """

    root: Path
    axes: Sequence[Axis]
    metric: str
    maximize: bool
    value: Callable[[Setting], float | None]
    facts: dict[str, Any]
    say: Callable[[str], None] = field(default=lambda line: None)

    def run(self, trials: int) -> Searched:
        """Go on until so many trials are there.

        Raises:
            UsageError: another process searches here, or an axis has no choice.
            KeyboardInterrupt: stopped on request; the same call goes on.
        """
        from optuna.trial import TrialState

        if all(len(axis.choices) == 1 for axis in self.axes):
            raise UsageError("nothing to search: give a key several values, or key=interval(LOW,HIGH)")
        with self._alone():
            study = self._study(0)
            for left in study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING]):
                # A process that was killed left it; its runs are on the disk as far as they got.
                if set(left.params) == {axis.key for axis in self._varied}:
                    self._carry_out(study, left.number, {k: _word(v) for k, v in left.params.items()}, trials)
                else:
                    study.tell(left.number, state=TrialState.FAIL)
            while (number := len(study.get_trials(deepcopy=False))) < trials:
                study = self._study(number)
                trial = study.ask()
                words = {axis.key: axis.suggest(trial) for axis in self._varied}
                self._carry_out(study, trial.number, words, trials)
            return self._write(study)

    def searched(self) -> Searched:
        """What is on the disk."""
        return self._write(self._study(0))

    @property
    def _varied(self) -> list[Axis]:
        return [axis for axis in self.axes if len(axis.choices) != 1]

    def _carry_out(self, study: Study, number: int, words: dict[str, str], trials: int) -> None:
        from optuna.trial import TrialState

        fixed = [(axis.key, axis.choices[0]) for axis in self.axes if len(axis.choices) == 1]
        setting = setting_of(fixed, list(words.items()), **self.facts["setting"])
        try:
            value = self.value(setting)
        except UsageError as error:
            self.say(f"trial {number + 1} of {trials}: {setting.name}: {error}")
            value = None
        if value is None:
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, value)
            self.say(f"trial {number + 1} of {trials}: {setting.name}: {self.metric} {value:.4g}")
        self._write(study)

    def _study(self, seed: int) -> Study:
        """The study of this folder with a sampler for its trial ``seed``."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        make_folder(self.root / "sweep")
        space = [self.metric, self.maximize, [vars(axis) for axis in self.axes], self.facts]
        name = hashlib.sha256(json.dumps(space, sort_keys=True, default=str).encode()).hexdigest()[:12]
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(self.root / "sweep" / "study.log"))),
            sampler=optuna.samplers.TPESampler(seed=seed), study_name=name, load_if_exists=True,
            direction="maximize" if self.maximize else "minimize",
        )  # fmt: skip

    def _write(self, study: Study) -> Searched:
        found = [
            {
                "number": t.number, "settings": {k: _word(v) for k, v in t.params.items()}, "value": t.value,
                "state": t.state.name.lower(),
            }
            for t in study.get_trials(deepcopy=False)
        ]  # fmt: skip
        valued = [t for t in found if t["value"] is not None]
        sign = 1 if self.maximize else -1
        best = max(valued, key=lambda t: sign * t["value"]) if valued else None
        facts = {"metric": self.metric, "direction": "maximize" if self.maximize else "minimize"}
        text = json.dumps({**facts, "best": best, "trials": found}, indent=1, ensure_ascii=False)
        write_text(self.root / "search.json", text + "\n")
        return Searched(tuple(found), best)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        file = self.root / "sweep" / ".search"
        make_folder(file.parent)
        with os_errors_in_words(file):
            handle = lock(file)
        if handle is None:
            raise UsageError(f"{self.root}: another process searches here; wait for it")
        try:
            yield
        finally:
            os.close(handle)


def _word(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)
