"""The main path, prompt to asset: compose -> claim the folder -> optimise each stage -> mesh -> files -> verdict.

Read this file first. :func:`generate` and :func:`resume` are what ``threedistill.generate`` and the command line call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from threedistill.config import Config, build, compose, read_config, write_config
from threedistill.errors import UsageError
from threedistill.training.run_folder import RunFolder, slug
from threedistill.types import Mesh

if TYPE_CHECKING:
    from threedistill.exports.frames import Axis


@dataclass
class Result:
    """A finished run.

    Attributes:
        run_dir: the run's folder.
        asset: the main file (``asset/model.glb`` unless other formats were asked for).
        verdict: the judge's line, or None where no judge knows the prompt.
        seconds: wall time by phase.
        plugins: packages that the request named, whose classes its configuration may use.
    """

    run_dir: Path
    asset: Path
    verdict: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    @cached_property
    def mesh(self) -> Mesh:
        """The asset, read back from its file."""
        from threedistill.exports.read import read_asset

        return read_asset(self.run_dir / "asset")

    def export(self, path: str | Path, format: str | None = None, overrides: Sequence[str] = ()) -> Path:
        """Write the asset as another file, as ``threedistill export`` does.

        Arguments:
            path: where.
            format: any of ``threedistill list formats``; None = the one of the path's suffix (``.glb`` is the mesh,
                ``.ply`` the splats where the run has its own).
            overrides: ``export.key=value`` for how it is made or written.
        """
        from threedistill.training.reexport import format_for, write_run

        run, path = RunFolder(self.run_dir), Path(path)
        write_run(run, {format or format_for(run, path): path}, overrides, self.plugins)
        return path


def generate(
    prompt: str, *, out: str | Path | None = None, preset: Literal["draft", "standard", "high"] | str = "standard",
    seed: int = 0, representation: str | None = None, prior: str | None = None, guidance: str | None = None,
    formats: Sequence[str] = ("glb",), negative: str = "", device: str = "auto", init: str | Path | None = None,
    init_up: Axis | None = None, init_front: Axis | None = None, resume: bool = False, overwrite: bool = False,
    quiet: bool = False, overrides: Sequence[str] = (),
) -> Result:  # fmt: skip
    """Make a textured 3D asset from a prompt.

    Arguments:
        prompt: what to make.
        out: the run's folder; None = ``runs/<prompt>-s<seed>``.
        preset: budgets (iterations, views, faces, texture): draft, standard, high.
        seed: everything random derives from it.
        representation, prior, guidance: config options; None = the defaults.
        formats: any of ``threedistill list formats``.
        negative: what it shall not look like.
        device: auto, cpu or cuda.
        init: a mesh or splats to start from, in any format that is read; None = from nothing.
        init_up, init_front: the axes that point up and to the front in it; None = what it says, else its habit.
        resume: continue the run in ``out``; its own settings count.
        overwrite: replace the run in ``out``.
        quiet: no progress on stderr.
        overrides: ``key=value`` for any setting.

    Raises:
        UsageError: the request cannot be carried out as written.
        ThreedistillError: the work failed.
        Interrupted: stopped on request; :func:`resume` continues.
    """
    run = RunFolder(out if out is not None else Path("runs") / f"{slug(prompt)}-s{seed}")
    if resume and run.exists:
        config = read_config(run.config)
        if config["prompt"] != prompt:
            raise UsageError(
                f"{run.path} was started with the prompt {config['prompt']!r}; give that one, or another --out"
            )
        with run.locked():
            return _execute(config, run, quiet)
    config = compose(
        prompt=prompt, negative=negative, preset=preset, seed=seed, representation=representation, prior=prior,
        guidance=guidance, formats=formats, device=device, init=str(init) if init else None, overrides=overrides,
    )  # fmt: skip
    from threedistill.training.assemble import check
    from threedistill.training.start import read_start, save_start

    check(config)
    start = read_start(init, init_up, init_front) if init else None
    run.prepare(overwrite=overwrite)
    with run.locked():
        run.clear()
        if start is not None:
            save_start(start, run.start)
        write_config(config, run.config)
        return _execute(config, run, quiet)


def resume(run_dir: str | Path, *, quiet: bool = False, device: str | None = None) -> Result:
    """Continue the run in a folder; everything but the device comes from its ``config.yaml``."""
    run = RunFolder(run_dir)
    config = read_config(run.config)
    config["device"] = device or config["device"]
    with run.locked():
        return _execute(config, run, quiet)


def _execute(config: Config, run: RunFolder, quiet: bool) -> Result:
    """Carry out a composed run in its (locked) folder."""
    from threedistill.training.assemble import build_prior, build_stages, pick_device
    from threedistill.training.facts import prior_facts
    from threedistill.training.finish import export_run, judge_run
    from threedistill.training.handover import first_unfinished, hand_over
    from threedistill.training.record import recorded
    from threedistill.training.stages import run_stage
    from threedistill.training.start import load_start
    from threedistill.training.words import check_words

    ignored = check_words(config["prompt"], config["prior"])
    if ignored and not quiet:
        print(f"ignored: {', '.join(ignored)}", file=sys.stderr)
    with recorded(run, config) as record:
        device = pick_device(config["device"])
        with record.phase("setup"):
            prior = build_prior(config, device)
            run.update_record(**prior_facts(prior))
            stages = build_stages(config, prior, device)
            settings = build(config["trainer"], "trainer", config["plugins"])
            start = load_start(run.start) if config["init"] else None
        source = start
        for index in range(first_unfinished(run, stages), len(stages)):
            system = stages[index]
            system.unedited = start
            with record.phase(f"stage {system.stage.name}"):
                hand_over(source, system, config, run, index, device, quiet)
                before = sum(done.stage.iterations for done in stages[:index])
                run_stage(system, run, index, settings, device, quiet, before)
            source = system.representation
        with record.phase("export"):
            asset = export_run(stages[-1].representation, config, run)
        with record.phase("judge"):
            verdict = judge_run(config, run, quiet)
    return Result(run.path, asset, verdict, record.seconds, tuple(config["plugins"]))
