"""Notices that a run is going nowhere, and says in words what to change.

It only reads numbers the step has computed anyway. Faults that no further step can mend stop the run with exit
status 1 (the checkpoint stays); the others are said once and kept in ``run.json``.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

from threedistill.errors import ThreedistillError
from threedistill.values import Fraction, Within, checked

__all__ = ["Symptom", "Vital", "Watchdog"]

Symptom = Literal["nonfinite", "empty", "full", "fog", "saturated"]


@dataclass(frozen=True)
class Vital:
    """The vital signs of one step.

    Attributes:
        progress: fraction of the stage that is done.
        nonfinite: entries of the direction (or of the render) that were not finite.
        opacity: mean opacity of the rendered views, in [0, 1].
        fog: mean of ``4 o (1 - o)`` over pixels: 0 for crisp silhouettes, 1 for half-transparent everywhere.
        saturated: fraction of object pixels whose strongest or weakest channel is at the end of its range.
    """

    progress: float
    nonfinite: int
    opacity: float
    fog: float
    saturated: float


class Watchdog:
    """Judges vital signs over a sliding window of steps.

    Arguments:
        window: steps that must agree before anything is said.
        empty, full: mean opacities below / above which the volume counts as empty / as filling every view.
        fog, saturated: thresholds of the warnings, applied after ``late`` of the stage.
        late: fraction of the stage before which fog and saturation are normal.
        enabled: False silences everything.
    """

    @checked
    def __init__(
        self, window: Annotated[int, Within(1, 1_000_000)] = 30, empty: Fraction = 0.002, full: Fraction = 0.985,
        fog: Fraction = 0.35, saturated: Fraction = 0.9, late: Fraction = 0.6, enabled: bool = True,
    ) -> None:  # fmt: skip
        self.empty, self.full, self.fog, self.saturated = empty, full, fog, saturated
        self.late, self.enabled = late, enabled
        self._recent: deque[Vital] = deque(maxlen=window)
        self._said: set[str] = set()
        self._remedies: dict[Symptom, str] = {}

    def advising(self, remedies: Mapping[Symptom, str]) -> Watchdog:
        """A fresh one with the same settings, which has seen nothing and says what helps."""
        fresh = copy.deepcopy(self)
        fresh._remedies = dict(remedies)
        return fresh

    def _remedy(self, symptom: Symptom) -> str:
        return f"; what helps: {self._remedies[symptom]}" if self._remedies.get(symptom) else ""

    def _hopeless(self, symptom: Symptom, text: str) -> ThreedistillError:
        return ThreedistillError(text + self._remedy(symptom))

    def check(self, vital: Vital) -> list[str]:
        """Take one step's signs; returns warnings that are new.

        Raises:
            ThreedistillError: the run cannot recover: nothing but non-finite numbers, an empty or a full volume.
        """
        self._recent.append(vital)
        recent = self._recent
        if not self.enabled or len(recent) < (recent.maxlen or 0):
            return []
        if all(v.nonfinite for v in recent):
            raise self._hopeless("nonfinite", f"the last {len(recent)} steps gave non-finite directions")
        if all(v.opacity < self.empty for v in recent):
            raise self._hopeless("empty", "the volume has become empty and gets no signal any more")
        if all(v.opacity > self.full for v in recent):
            raise self._hopeless("full", "the volume fills every view")
        warnings = []
        if vital.progress >= self.late:
            if fmean(v.fog for v in recent) > self.fog:
                warnings.append("fog: much of the object is half-transparent" + self._remedy("fog"))
            if fmean(v.saturated for v in recent) > self.saturated:
                text = "saturation: most colours sit at the end of their range"
                warnings.append(text + self._remedy("saturated"))
        fresh = [w for w in warnings if w.split(":")[0] not in self._said]
        self._said.update(w.split(":")[0] for w in fresh)
        return fresh
