"""What of a plan cannot work together, and what of a prompt the prior has no words for.

Each is said with the setting to change; no weights are needed to see it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from threedistill.cameras import orbit
from threedistill.errors import UnknownWords, UsageError, nearest
from threedistill.guidance.cfg import base_of
from threedistill.guidance.regularizers import OFFERED
from threedistill.guidance.rules import is_edit, questions
from threedistill.messages import either, shown
from threedistill.prompts import PromptSet, role_of, without_view
from threedistill.protocols import Prior
from threedistill.training.loggers import check_loggers
from threedistill.training.plan import NetworkPlan, PriorPlan, RunPlan, StagePlan
from threedistill.training.student_step import MAIN
from threedistill.types import Condition, TextKind

__all__ = ["WrongPrompt", "check_plan", "check_words", "refusal", "refuse_images", "refuse_untold"]


def check_plan(plan: RunPlan) -> None:
    """Refuse what cannot work.

    Raises:
        UsageError: with the setting to change.
    """
    _check_particles(plan)
    check_loggers(plan.trainer.loggers)
    if "mp4" in plan.export.formats:
        from threedistill.exports.video import need_encoder

        need_encoder("turntable.mp4")
    for stage in plan.stages:
        _check_regularizers(stage)
        _check_scorers(stage)
        _check_rule(plan, stage)
        _check_networks(stage)
        _check_learners(stage.prior, stage)
        frozen = {name: one for name, one in stage.networks.items() if one.model is not None}
        refuse_untold(stage, {"teacher": stage.prior, **frozen})
    for before, stage in pairwise(plan.stages):
        _check_kept(before, stage)
    _check_idle(plan)
    refuse_images(plan, frozenset[Condition]().union(*(prior.wants for prior in plan.priors)))
    _check_material(plan)


def _check_kept(before: StagePlan, stage: StagePlan) -> None:
    """Refuse to keep a learner that grew on another teacher."""
    for learner in stage.learners.values():
        if learner.kept and learner.base is None and before.prior.key != stage.prior.key:
            raise UsageError(
                f"{learner.where}.keep=true: it grew on {before.prior.name}, and this stage's teacher is "
                f"{stage.prior.name}; use keep=false"
            )


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
    if own and not any(plan.stages[i].light.shows("lambertian", plan.stages[i].stage.shading) for i in own):
        raise UsageError(
            "representation.model.material=pbr: no stage shows lit pictures, from which alone it could learn; set "
            f"stages.{own[-1]}.shading=lambertian{' and export.unlit=false' if plan.export.unlit else ''}"
        )


def _check_rule(plan: RunPlan, stage: StagePlan) -> None:
    """Refuse a rule without its baseline or without the scene it edits, and cameras that no prior can be spared."""
    name, prior, rule = stage.guidance_name, stage.prior, stage.guidance.rule
    asked = questions(rule)
    if "baseline" not in stage.networks and any(q.network == "baseline" for q in asked):
        raise UsageError(
            f"guidance={name} compares with a second frozen model, and baseline=none; use baseline=self (the teacher "
            "itself, told the category) or baseline=<prior>"
        )
    own = {"teacher", *(key for key, network in stage.networks.items() if network.name == "self")}
    blind = [q for q in asked if q.network in own and "camera" in q.withheld]
    if prior.needs_camera and blind:
        cfg, networks = base_of(rule.cfg), {q.network for q in blind}
        ways = ["another prior"]
        ways += ["baseline=gaussian"] if networks == {"baseline"} else []
        if networks == {"teacher"} and cfg and cfg.uncond_camera == "null":
            ways.append(f"{'cfg' if cfg is rule.cfg else 'cfg.base'}.uncond_camera=keep")
        raise UsageError(
            f"guidance={name} asks without a camera, which prior={prior.name} cannot answer; use {either(ways)}"
        )
    if not plan.images and any("image" in q.given for q in asked):
        raise UsageError(
            f"guidance={name} asks about pictures of the object, and there are none; give one with --image FILE, or "
            "use cfg=standard"
        )
    for views in sorted(stage.cameras.counts):
        if views % rule.group:
            raise UsageError(
                f"guidance={name} rescales groups of {rule.group} views, and cameras.views={views} is no multiple"
            )
    if rule.differentiates:
        for network in sorted({q.network for q in asked if q.network in own}):
            if not prior.model.cls.differentiable:
                raise UsageError(
                    f"guidance={name} differentiates what the {network} answers, and prior={prior.name} gives no "
                    "derivatives; use another prior or guidance=vsd"
                )
    if is_edit(rule) and (stage.background.surrounds or stage.stage.latents == "direct"):
        raise UsageError(
            f"guidance={name} compares with pictures of the unedited object, which have no surroundings and are "
            "encoded; use background.learned=0 and latents=encoded"
        )
    if is_edit(rule):
        if not plan.given and not stage.scene.model.given("picture"):
            raise UsageError(
                f"guidance={name} edits an existing object, and there is none; give it with --init FILE"
            )
        if not stage.prompts.source:
            raise UsageError(
                f"guidance={name} compares the prompt with a description of the unedited object; say what it is with "
                "prompts.source='a ...'"
            )
    _check_words(stage.prompts, prior, {q.text for q in asked})


def _check_words(prompts: PromptSet, prior: PriorPlan, kinds: set[TextKind]) -> None:
    """Refuse words beside the prompt that a prior with a closed vocabulary does not know."""
    settings: dict[TextKind, str] = {
        "source": "prompts.source", "category": "prompts.category", "inverse": "prompts.inverse",
        "negative": "--negative", "flawed": "prompts.flaws",
    }  # fmt: skip
    given = {"inverse": prompts.inverse, "negative": prompts.negative}
    for kind, setting in settings.items():
        if kind in kinds or given.get(kind):
            try:
                prior.check_text(without_view(prompts.texts(kind, orbit(1))[0]), role_of(kind))
            except UsageError as error:
                raise UsageError(f"{setting}: {error}") from None


def _check_regularizers(stage: StagePlan) -> None:
    """Refuse weights of terms that nobody computes."""
    offered = {*OFFERED, *stage.scene.model.cls.regularizers}
    for name, weight in stage.regularizers.weights.items():
        if weight != 0 and name not in offered:
            close = nearest(name, offered, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(offered))}"
            raise UsageError(
                f"regularizers.weights.{name}: representation={stage.scene.name} offers no term of this name; {hint}"
            )


def _check_scorers(stage: StagePlan) -> None:
    """Refuse those who have no words for the prompt, nobody where a rule wants somebody, and somebody for nothing."""
    for where, scorer in stage.scorers.items():
        try:
            scorer.check_text(stage.prompts.prompt)
        except UsageError as error:
            other = "reward=clip" if where == "reward" else f"scorer@{where}.scorer=clip"
            raise UsageError(
                f"{where}.scorer: {error}; or take one that reads any text: {other} {where}.scorer.folder=DIR"
            ) from None
    if stage.guidance.rule.appraises != (stage.guidance.poses is not None):
        wants = stage.guidance.rule.appraises
        raise UsageError(
            f"guidance={stage.guidance_name} "
            + (
                "needs guidance.poses, and there are none"
                if wants
                else "looks at no poses; leave guidance.poses out"
            )
        )


def _check_networks(stage: StagePlan) -> None:
    """Refuse a rule that asks nobody, and one name for two networks."""
    asked = {query.network for query in questions(stage.guidance.rule)}
    if MAIN in asked - set(stage.learners):
        raise UsageError(
            f"guidance={stage.guidance_name} asks a student, and there is none; use student=lora (or student=gaussian "
            "with a prior that has no network)"
        )
    known = ["teacher", *stage.networks, *stage.learners]
    for name in sorted(asked - set(known)):
        raise UsageError(
            f"guidance={stage.guidance_name} asks the network {shown(name)}, and there is none (there are: "
            f"{', '.join(known)}); put one of this name under networks or learners"
        )
    for name in sorted(set(stage.networks) & set(stage.learners)):
        raise UsageError(f"{name} is among networks and among learners; rename one of them")


def _check_idle(plan: RunPlan) -> None:
    """Refuse learners that no stage's rule asks: they would cost their training and change nothing."""
    asked = {query.network for stage in plan.stages for query in questions(stage.guidance.rule)}
    for stage in plan.stages:
        for name in sorted(set(stage.learners) - asked):
            raise UsageError(
                f"{stage.learners[name].where}: guidance={stage.guidance_name} asks no network of this name; leave the "
                "learner out, or choose a rule that asks it"
            )


def _check_learners(prior: PriorPlan, stage: StagePlan) -> None:
    """Refuse learners without their prior, and a null camera (or any other) that never learns."""
    asked = questions(stage.guidance.rule)
    for name, learner in stage.learners.items():
        base = learner.base or prior.model
        learner.maker.check(base.cls)
        if base.given("offload"):
            raise UsageError(
                f"{base.where}.offload=true: the layers of its network wait in the main memory, and the {name} of "
                f"guidance={stage.guidance_name} learns on them; set it to false"
            )
        own = [query for query in asked if query.network == name]
        for dropout, blind, how in ((0, True, "without a camera"), (1, False, "with a camera")):
            if learner.training.camera_dropout == dropout and any(
                ("camera" in q.withheld) == blind for q in own
            ):
                raise UsageError(
                    f"guidance={stage.guidance_name} asks the {name} {how}, which "
                    f"{learner.where}.training.camera_dropout={dropout} never teaches it; set it to 0.2"
                )


def refuse_images(plan: RunPlan, wants: frozenset[Condition]) -> None:
    """Refuse pictures for a prior that cannot be shown any, and none for one that is made for them.

    Arguments:
        plan: the run.
        wants: what its teacher can be told, as far as that is known.

    Raises:
        UsageError: with what it can be told.
    """
    needy = [prior.name for prior in plan.priors if prior.needs_image]
    if needy and not plan.images:
        raise UsageError(
            f"prior={needy[0]} is shown a picture of the object, and there is none; give one with --image FILE"
        )
    for prior in plan.priors:
        most = prior.most_images
        if most is not None and len(plan.images) > most:
            raise UsageError(
                f"--image: prior={prior.name} is shown {most} picture at most, not {len(plan.images)}; leave the "
                "others out"
            )
        if prior.needs_image_camera and any(image.camera is None for image in plan.images):
            raise UsageError(
                f"prior={prior.name} is told where the picture was taken from: say it with --image-camera AZ,EL in "
                "degrees, such as --image-camera 0,5 for a picture of the front from slightly above"
            )
    if plan.images and "image" not in wants:
        raise UsageError(
            f"--image: prior={plan.names.prior} cannot be shown pictures (it is told: "
            f"{', '.join(sorted(wants))}); leave --image out, or use a prior that wants them "
            "(docs/extend/condition.md)"
        )


def refuse_untold(stage: StagePlan, networks: Mapping[str, Prior | PriorPlan | NetworkPlan]) -> None:
    """Refuse questions about what a network cannot be told.

    Arguments:
        stage: whose rule asks.
        networks: those that are asked, as far as they are known.

    Raises:
        UsageError: with what it can be told.
    """
    for query in questions(stage.guidance.rule):
        asked = networks.get(query.network)
        if asked is not None and (lacking := sorted(query.given - asked.wants)):
            raise UsageError(
                f"guidance={stage.guidance_name} asks the {query.network} about the {lacking[0]}, and "
                f"{asked.name} is told {', '.join(sorted(asked.wants))} only; use another prior or cfg"
            )


#: Prompts that a refusal quotes for reasons of their own.
_MOST = 5


def check_words(prompt: str, prior: PriorPlan) -> tuple[str, ...]:
    """Refuse a prompt that the prior has no words for; returns the words that change nothing.

    Raises:
        WrongPrompt: naming every unknown word.
    """
    try:
        return prior.check_text(prompt)
    except UsageError as error:
        raise WrongPrompt(error) from None


class WrongPrompt(UsageError):
    """A prompt that the prior has no words for, or cannot make sense of.

    Attributes:
        unknown: which words, where that is the reason.
    """

    def __init__(self, reason: UsageError) -> None:
        super().__init__(str(reason))
        self.unknown = reason if isinstance(reason, UnknownWords) else None


def refusal(wrong: Mapping[str, WrongPrompt]) -> UsageError:
    """One line for all prompts that a prior has no words for: every unknown word, then whatever else is wrong."""
    if len(wrong) == 1:
        return next(iter(wrong.values()))
    strange = [error.unknown for error in wrong.values() if error.unknown]
    rest = [str(error) for error in wrong.values() if not error.unknown]
    lines = rest[:_MOST] + ([f"{len(rest) - _MOST} more prompts"] if len(rest) > _MOST else [])
    if len(strange) == 1:
        lines.insert(0, str(strange[0]))
    elif strange:
        merged = {word: close for error in strange for word, close in error.words.items()}
        lines.insert(0, str(strange[0].of(f"{len(strange)} prompts", merged)))
    return UsageError("; ".join(lines))
