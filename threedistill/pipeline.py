"""The main path, prompt to asset: compose -> plan -> build -> claim the folder -> optimise -> mesh -> verdict.

Read this file first. :func:`generate` and :func:`resume` are what ``threedistill.generate`` and the command line call.
The configuration becomes a plan once; everything that a request can be refused for is built before its folder is
touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from threedistill.config import Config, compose, pictures, read_config, with_more_steps, write_config
from threedistill.errors import UsageError
from threedistill.training.claims import check_place, refuse_other_settings
from threedistill.training.interruption import Stop, stoppable
from threedistill.training.naming import default_folder
from threedistill.training.result import Result
from threedistill.training.run_folder import RunFolder
from threedistill.training.step import Audience, Step
from threedistill.types import Mesh, Splats

__all__ = ["Result", "generate", "resume", "start_run"]

if TYPE_CHECKING:
    from threedistill.conditions import ReferenceImage
    from threedistill.exports.frames import Axis
    from threedistill.training.assemble import Assembled
    from threedistill.training.plan import RunPlan
    from threedistill.training.record import Record
    from threedistill.viewer.helm import Steers


def generate(
    prompt: str, *, out: str | Path | None = None, preset: Literal["draft", "standard", "high"] | str | None = None,
    seed: int | None = None, representation: str | None = None, prior: str | None = None, guidance: str | None = None,
    recipe: str | None = None, formats: Sequence[str] | None = None, negative: str | None = None, device: str = "auto",
    init: str | Path | None = None, init_up: Axis | None = None, init_front: Axis | None = None,
    images: Sequence[str | Path] = (), image_cameras: Sequence[tuple[float, float] | None] = (), resume: bool = False,
    overwrite: bool = False, quiet: bool = False, overrides: Sequence[str] = (),
    on_step: Callable[[Step], object] | None = None, viewer: int | None = None, changes: str | Path | None = None,
) -> Result:  # fmt: skip
    """Make a textured 3D asset from a prompt.

    Arguments:
        prompt: what to make.
        out: the run's folder; None = ``runs/<prompt>-<what differs from the defaults>-s<seed>``.
        preset: budgets (iterations, views, faces, texture): draft, standard (None), high.
        seed: everything random derives from it; None = 0.
        representation, prior, guidance: config options; None = the defaults.
        recipe: a published method (``threedistill list recipes``); what is given besides counts instead of its own.
        formats: any of ``threedistill list formats``; None = glb.
        negative: what it shall not look like.
        device: auto, cpu or cuda.
        init: a mesh or splats to start from, in any format that is read; None = from nothing.
        init_up, init_front: the axes that point up and to the front in it; None = what it says, else its habit.
        images: reference pictures of the object, for priors that are shown some; opacity says what is the object.
        image_cameras: for each of them where it was taken from, (azimuth, elevation) in degrees; None = unknown.
        resume: continue the run in ``out``; its own settings count, and what is asked for must not differ from them.
        overwrite: replace the run in ``out`` as soon as the new one has a checkpoint.
        quiet: no progress on stderr.
        overrides: ``key=value`` for any setting.
        on_step: called after every step; what it raises ends the run, with what is done saved, and is raised here.
        viewer: watch and steer it in a browser, at this port of this machine; None = no.
        changes: a run (or its ``changes.jsonl``) that was changed while it ran: the same, at the same steps.

    Raises:
        UsageError: the request cannot be carried out as written; nothing was started or changed.
        ThreedistillError: the work failed.
        Interrupted: stopped on request; :func:`resume` continues.
    """
    chosen = {"prior": prior, "representation": representation, "guidance": guidance, "recipe": recipe}
    run = RunFolder(out if out is not None else default_folder(prompt, seed or 0, chosen))
    to = Audience(quiet, on_step, viewer, changes)
    going_on = resume and (run.holds_run or run.holds_request)
    seen = pictures(images, image_cameras)
    config = compose(
        prompt=prompt, negative=negative or "", preset=preset or "standard", seed=seed or 0, **chosen,
        formats=formats or ("glb",), device=device, init=str(init) if init else None,
        images=seen, overrides=overrides,
    )  # fmt: skip
    if going_on:
        given = {
            "prompt": prompt, "negative": negative, "preset": preset, "seed": seed, **chosen, "formats": formats,
            "init": str(init) if init else None, "images": seen or None,
        }  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        chosen_device = None if device == "auto" else device
        return _go_on(run, to, chosen_device, asked=(given, overrides, config))
    with stoppable() as stop:
        check_place(run, config, overwrite=overwrite)
        from threedistill.training.planning import build_plan
        from threedistill.training.references import read_images
        from threedistill.training.start import read_start

        plan = build_plan(config)
        start = read_start(init, init_up, init_front, quiet) if init else None
        return _begin(plan, config, run, start, overwrite, to, stop, read_images(plan.images))


def start_run(
    config: Config, run_dir: str | Path, *, quiet: bool, facts: dict[str, Any] | None = None
) -> Result:
    """Carry out a composed configuration in a folder, in place of what may be there; ``facts`` go into ``run.json``."""
    from threedistill.training.planning import build_plan
    from threedistill.training.references import read_images

    run = RunFolder(run_dir)
    check_place(run, config, overwrite=True)
    with stoppable() as stop:
        plan = build_plan(config)
        return _begin(plan, config, run, None, True, Audience(quiet), stop, read_images(plan.images), facts)


def resume(
    run_dir: str | Path, *, quiet: bool = False, device: str | None = None, overrides: Sequence[str] = (),
    on_step: Callable[[Step], object] | None = None, viewer: int | None = None,
) -> Result:  # fmt: skip
    """Continue the run in a folder; everything but the device comes from its ``config.yaml``.

    Arguments:
        run_dir: the run's folder.
        quiet: no progress on stderr.
        device: None = as before.
        overrides: ``budget.iterations=N`` for more steps than the run has: one more stage goes on where it ended.
        on_step, viewer: as for :func:`generate`.
    """
    return _go_on(RunFolder(run_dir), Audience(quiet, on_step, viewer), device, more=overrides)


def _begin(
    plan: RunPlan, config: Config, run: RunFolder, start: Mesh | Splats | None, overwrite: bool,
    to: Audience, stop: Stop, images: tuple[ReferenceImage, ...] = (), facts: dict[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Build everything, then claim the folder, then work."""
    from threedistill.training.advice import advising
    from threedistill.training.assemble import assemble
    from threedistill.training.record import Record, recorded
    from threedistill.training.references import save_images
    from threedistill.training.start import save_start
    from threedistill.viewer.helm import check_helm, steered

    check_helm(to, config, plan)
    record = Record()
    try:
        with record.phase("setup"), advising(plan):
            parts = assemble(plan, images)
            stop.check()
    except KeyboardInterrupt as error:
        error.hint = "; nothing had begun, the same command starts it"  # type: ignore[attr-defined]
        raise
    with run.locked():
        check_place(run, config, overwrite=overwrite)
        run.settle()
        try:
            run.begin()
            if start is not None:
                save_start(start, run.start)
            if images:
                save_images(images, run.images)
            write_config(config, run.config)  # last: from here on the request can be continued
        except Exception:
            run.abandon()
            raise
        with (
            recorded(run, plan.names, record, facts),
            advising(plan),
            steered(run, config, plan, to) as steers,
        ):
            return _work(parts, plan, run, start, to, stop, record, steers)


def _go_on(
    run: RunFolder, to: Audience, device: str | None = None, more: Sequence[str] = (),
    asked: tuple[dict[str, Any], Sequence[str], Config] | None = None,
) -> Result:  # fmt: skip
    """Continue what is in a folder.

    Arguments:
        run: the folder.
        to: who is told.
        device: None = as before.
        more: for more steps.
        asked: flags, overrides and their configuration, which must not contradict the run's.
    """
    from threedistill.training.advice import advising
    from threedistill.training.assemble import assemble
    from threedistill.training.planning import build_plan
    from threedistill.training.record import Record, recorded
    from threedistill.training.references import load_images
    from threedistill.training.start import load_start
    from threedistill.viewer.helm import check_helm, steered

    check_helm(to)
    if not (run.holds_run or run.holds_request):
        raise UsageError(f"{run.path} is not a run folder: there is nothing in it to continue")
    record = Record()
    with stoppable() as stop, run.locked():
        run.reopen()
        config = read_config(run.config)
        run.settle()
        if asked is not None:
            refuse_other_settings(run, config, *asked)
        if more:
            config = with_more_steps(config, more, run.path)
        plan = build_plan(config)
        plan = replace(plan, device=device or plan.device)
        with recorded(run, plan.names, record), advising(plan):
            with record.phase("setup"):
                parts = assemble(plan, load_images(run.images, plan.images) if plan.images else ())
                start = load_start(run.start) if plan.given else None
                stop.check()
            if more:
                write_config(config, run.config)
                run.forget_evaluation()
            with steered(run, config, plan, to) as steers:
                return _work(parts, plan, run, start, to, stop, record, steers)


def _work(
    parts: Assembled, plan: RunPlan, run: RunFolder, start: Mesh | Splats | None, to: Audience, stop: Stop,
    record: Record, steers: Steers,
) -> Result:  # fmt: skip
    """Carry out a run in its (locked) folder."""
    from threedistill.training.advice import faster
    from threedistill.training.finish import export_run, judge_run
    from threedistill.training.handover import first_unfinished, hand_over
    from threedistill.training.record import introduce, prior_facts
    from threedistill.training.stages import run_stage
    from threedistill.training.watchers import watching

    run.update_record(**prior_facts(parts.priors), stages=[s.stage.iterations for s in parts.stages])
    if not to.quiet:
        introduce(plan, parts.priors)
    stages, device, source = parts.stages, parts.device, start
    with watching(run, plan.trainer, plan.iterations, to.on_step) as watchers:
        for index in range(first_unfinished(run, stages), len(stages)):
            stop.check()
            system = stages[index]
            system.unedited = start
            with record.phase(f"stage {system.stage.name}"):
                hand_over(source, system, plan, run, index, device, to.quiet)
                stop.check()
                before = sum(done.stage.iterations for done in stages[:index])
                run_stage(
                    system, run, index, parts.settings, device, to.quiet, before, stop, faster(plan, device.type),
                    watchers, steers(index, stop),
                )  # fmt: skip
            source = system.scenes[0]
        run.take_place()
        stop.check()
        with record.phase("export"):
            asset = export_run(list(stages[-1].scenes), plan, run)
        stop.check()
        with record.phase("judge"):
            evaluation = judge_run(plan.names.prompt, run, to.quiet)
        watchers.result(evaluation, record.seconds)
    verdict = evaluation["verdict"] if evaluation else None
    return Result(run.path, asset, verdict, record.seconds, evaluation, plan.plugins)
