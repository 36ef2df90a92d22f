"""Which student a stage has, and the refusals that need no weights."""

from __future__ import annotations

from threedistill.config import Config, build, checked_class, stage_part, stage_path
from threedistill.errors import UsageError
from threedistill.protocols import GuidanceRule, Prior, Student, StudentMaker
from threedistill.rng import Streams
from threedistill.training.rule_setup import questions
from threedistill.training.student_step import StudentTraining


def check_student(config: Config, index: int, rule: GuidanceRule) -> None:
    """Refuse a rule without its student, a student without its prior, and a null camera that never learns.

    Raises:
        UsageError: with the setting to change.
    """
    name = stage_part(config, index, "guidance")["name"]
    asked = [query for query in questions(rule) if query.network == "student"]
    model, training = _settings(config, index)
    if model is None or training is None:
        if asked:
            raise UsageError(
                f"guidance={name} asks a student, and there is none; use student=lora (or student=gaussian with a "
                "prior that has no network)"
            )
        return
    model.check(checked_class(config["prior"]["model"], "prior.model", config["plugins"]))
    if training.camera_dropout == 0 and any("camera" in q.withheld for q in asked):
        raise UsageError(
            f"guidance={name} asks the student without a camera, which student.training.camera_dropout=0 never "
            "teaches it; set it to 0.2"
        )
    if training.camera_dropout == 1 and any("camera" not in q.withheld for q in asked):
        raise UsageError(
            f"guidance={name} asks the student with a camera, which student.training.camera_dropout=1 never "
            "teaches it; set it to 0.2"
        )


def build_student(
    config: Config, index: int, prior: Prior, before: Student | None
) -> tuple[Student | None, StudentTraining | None]:
    """A stage's student and how it learns: fresh, or with ``student.keep`` that of the stage before."""
    model, training = _settings(config, index)
    if model is None:
        return None, None
    node = stage_part(config, index, "student")
    same = index > 0 and stage_part(config, index - 1, "student")["model"] == node["model"]
    if node["keep"] and same and before is not None:
        return before, training
    seed = Streams(config["seed"], stage=index).generator("student").initial_seed()
    return model.attach(prior, seed), training


def _settings(config: Config, index: int) -> tuple[StudentMaker | None, StudentTraining | None]:
    node = stage_part(config, index, "student")
    where = stage_path(config, index, "student")
    if node["model"] is None or node["training"] is None:
        return None, None
    model = build(node["model"], f"{where}.model", config["plugins"])
    return model, build(node["training"], f"{where}.training", config["plugins"])
