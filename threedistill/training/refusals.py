"""What of a plan cannot work together, each with the setting to change; no weights are needed to see it."""

from __future__ import annotations

from threedistill.errors import UsageError
from threedistill.prompts import PromptSet
from threedistill.training.plan import PriorPlan, RunPlan, StagePlan
from threedistill.training.rule_setup import is_edit, questions
from threedistill.types import Query, TextKind

__all__ = ["check_plan"]


def check_plan(plan: RunPlan) -> None:
    """Refuse what cannot work.

    Raises:
        UsageError: with the setting to change.
    """
    _check_particles(plan)
    if "mp4" in plan.export.formats:
        from threedistill.exports.video import need_encoder

        need_encoder("turntable.mp4")
    for stage in plan.stages:
        _check_rule(plan, stage)
        _check_student(plan.prior, stage)
    _check_material(plan)


def _check_particles(plan: RunPlan) -> None:
    count = plan.stages[0].scene.particles
    if count > 1 and len(plan.stages) > 1:
        raise UsageError(
            f"particles={count} and {len(plan.stages)} stages: several particles go through one stage only; use "
            "particles=1, or a preset with one stage"
        )


def _check_material(plan: RunPlan) -> None:
    """Metalness and roughness that no stage shows would be written as they began."""
    own = [i for i, stage in enumerate(plan.stages) if stage.scene.model.given("material") == "pbr"]
    if own and all(plan.stages[i].stage.shading != "lambertian" for i in own):
        raise UsageError(
            "representation.model.material=pbr: no stage shows lit pictures, from which alone it could learn; set "
            f"stages.{own[-1]}.shading=lambertian and export.unlit=false"
        )


def _check_rule(plan: RunPlan, stage: StagePlan) -> None:
    """Refuse a rule without its baseline or without the scene it edits, and cameras that no prior can be spared."""
    name, prior, rule = stage.guidance_name, plan.prior, stage.guidance.rule
    asked = questions(rule)
    if stage.baseline is None and any(q.network == "baseline" for q in asked):
        raise UsageError(
            f"guidance={name} compares with a second frozen model, and baseline=none; use baseline=self (the teacher "
            "itself, told the category) or baseline=<prior>"
        )
    itself = stage.baseline is not None and stage.baseline.name == "self"
    own = ("teacher", "baseline") if itself else ("teacher",)
    if prior.needs_camera and any(q.network in own and "camera" in q.withheld for q in asked):
        way = "use another prior, baseline=gaussian or cfg.uncond_camera=keep"
        raise UsageError(
            f"guidance={name} asks without a camera, which prior={prior.name} cannot answer; {way}"
        )
    group, views = getattr(rule, "group", 1), stage.cameras.views
    if views % group:
        raise UsageError(
            f"guidance={name} rescales groups of {group} views, and cameras.views={views} is no multiple"
        )
    if is_edit(rule):
        if not plan.given and not stage.scene.model.given("picture"):
            raise UsageError(
                f"guidance={name} edits an existing object, and there is none; give it with --init FILE"
            )
        if not plan.prompts.source:
            raise UsageError(
                f"guidance={name} compares the prompt with a description of the unedited object; say what it is with "
                "prompts.source='a ...'"
            )
    _check_words(plan.prompts, prior, {q.text for q in asked})


def _check_words(prompts: PromptSet, prior: PriorPlan, kinds: set[TextKind]) -> None:
    """Refuse words beside the prompt that a prior with a closed vocabulary does not know."""
    if prior.words is None:
        return
    from threedistill.cameras import orbit
    from threedistill.toybox.priors.embedded import wording

    settings: dict[TextKind, str] = {
        "source": "prompts.source", "category": "prompts.category", "inverse": "prompts.inverse",
        "negative": "--negative",
    }  # fmt: skip
    given = {"inverse": prompts.inverse, "negative": prompts.negative}
    for kind, setting in settings.items():
        if kind in kinds or given.get(kind):
            try:
                wording(prompts.texts(kind, orbit(1))[0], prior.words)
            except UsageError as error:
                raise UsageError(f"{setting}: {error}") from None


def _check_student(prior: PriorPlan, stage: StagePlan) -> None:
    """Refuse a rule without its student, a student without its prior, and a null camera that never learns."""
    name = stage.guidance_name
    asked: list[Query] = [query for query in questions(stage.guidance.rule) if query.network == "student"]
    if stage.student is None:
        if asked:
            raise UsageError(
                f"guidance={name} asks a student, and there is none; use student=lora (or student=gaussian with a "
                "prior that has no network)"
            )
        return
    stage.student.maker.check(prior.model.cls)
    dropout = stage.student.training.camera_dropout
    if dropout == 0 and any("camera" in q.withheld for q in asked):
        raise UsageError(
            f"guidance={name} asks the student without a camera, which student.training.camera_dropout=0 never "
            "teaches it; set it to 0.2"
        )
    if dropout == 1 and any("camera" not in q.withheld for q in asked):
        raise UsageError(
            f"guidance={name} asks the student with a camera, which student.training.camera_dropout=1 never "
            "teaches it; set it to 0.2"
        )
