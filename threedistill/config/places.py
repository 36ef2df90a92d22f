"""What may stand where: every place of a configuration that holds a ``_target_``, and the contract of its class."""

from __future__ import annotations

import importlib
import re
from typing import Any

from threedistill.errors import ThreedistillError

__all__ = ["PLACES", "STAGE_PARTS", "contract_of"]

#: Parts of a run that a stage may have of its own; without one, the run's counts.
STAGE_PARTS = (
    "prior", "representation", "optim", "cameras", "background", "light", "regularizers", "reward", "guidance",
    "student", "baseline", "learners", "networks", "watchdog", "convert",
)  # fmt: skip

#: Place -> the class or protocol of which its ``_target_`` must be one. What stands below is held to the annotations
#: of the constructor's arguments (``config/targets.py``), so this table names the doors only. By name, because the
#: classes live above this package.
PLACES = {
    "prior.model": "threedistill.protocols.Prior",
    "baseline.model": "threedistill.protocols.Prior",
    "representation.model": "threedistill.protocols.Representation",
    "guidance.rule": "threedistill.protocols.GuidanceRule",
    "guidance.timesteps": "threedistill.protocols.TimestepPolicy",
    "guidance.weighting": "threedistill.guidance.weighting.Weighting",
    "guidance.surrogate": "threedistill.guidance.surrogate.Surrogate",
    "guidance.poses": "threedistill.guidance.poses.Poses",
    "student.model": "threedistill.protocols.StudentMaker",
    "student.base": "threedistill.protocols.Prior",
    "student.training": "threedistill.training.student_step.StudentTraining",
    "cfg": "threedistill.guidance.cfg.CFG",
    "cameras": "threedistill.cameras.CameraSampler",
    "background": "threedistill.representations.background.BackgroundSampler",
    "light": "threedistill.lights.Lighting",
    "regularizers": "threedistill.guidance.regularizers.Regularizers",
    "reward": "threedistill.guidance.reward.Reward",
    "optim": "threedistill.training.optim.SceneOptimizer",
    "watchdog": "threedistill.training.watchdog.Watchdog",
    "convert": "threedistill.representations.convert.ConvertSettings",
    "trainer": "threedistill.training.trainer_settings.TrainerSettings",
    "export": "threedistill.exports.asset.ExportSettings",
    "stages": "threedistill.training.stage.Stage",
    "critic": "threedistill.protocols.Critic",
    "scorer": "threedistill.scoring.Scorer",
    "metric": "threedistill.evaluation.metrics.metric.Metric",
}


def contract_of(where: str) -> Any:
    """The contract of a place, e.g. of ``guidance.rule``, ``stages.1`` or ``stages.1.guidance.rule``."""
    place = re.sub(r"^stages\.\d+\.", "", where)
    place = re.sub(r"^stages\.\d+$", "stages", place)
    place = re.sub(r"^learners\.\w+\.", "student.", place)
    place = re.sub(r"^networks\.\w+\.", "baseline.", place)
    if place not in PLACES:
        raise ThreedistillError(f"{where} is no place of a configuration; there are {', '.join(PLACES)}")
    module, _, name = PLACES[place].rpartition(".")
    return getattr(importlib.import_module(module), name)
