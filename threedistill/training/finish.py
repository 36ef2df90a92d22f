"""How a run ends: its asset's files, of several scenes the best, and what a critic says about them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from threedistill.atomic import copy_file, is_temporary
from threedistill.config.critics import critic_for
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.asset import ExportSettings, build_asset, export_asset, placed_splats
from threedistill.exports.formats import of_kind
from threedistill.exports.picture import write_pictures
from threedistill.protocols import Representation, Surface
from threedistill.training.plan import RunPlan
from threedistill.training.record import facts_of
from threedistill.training.run_folder import RunFolder
from threedistill.types import Mesh, Splats

__all__ = ["export_run", "judge_run", "keep_best", "particle_folder", "splats_for", "verdict", "write_asset"]


def export_run(scenes: Sequence[Representation], plan: RunPlan, run: RunFolder) -> Path:
    """Write the asset's files, of several scenes each in its own folder; the main file.

    Raises:
        ThreedistillError: nothing to extract, or a place that cannot be written.
    """
    facts = facts_of(plan.names, run)
    if pictures := [found for one in scenes if (found := one.pictures()) is not None]:
        return write_pictures(pictures, run.asset_dir)
    files = [
        write_asset(one, particle_folder(run, i, len(scenes)), plan.export, facts)[0]
        for i, one in enumerate(scenes)
    ]
    return files[0] if len(files) == 1 else keep_best(files, plan.names.prompt, run)


def judge_run(prompt: str, run: RunFolder, quiet: bool) -> dict[str, Any] | None:
    """What the judge sees in the asset, where it knows the prompt's words; its line is said on stderr unless quiet."""
    found = verdict(prompt, run)
    if found and not quiet:
        print(found["verdict"], file=sys.stderr)
    return found


def write_asset(
    representation: Surface, folder: Path, settings: ExportSettings, extras: Mapping[str, object]
) -> list[Path]:
    """Write the asset in every format asked for; the paths, meshes first.

    A representation made of splats always gets its ``model.glb`` (evaluation and other programs want a surface) and
    its ``splats.ply``, whatever else is asked for.

    Raises:
        UsageError: mp4 without its encoder.
        ThreedistillError: nothing to extract, or a place that cannot be written.
    """
    if representation.splats() is not None:
        settings = replace(settings, formats=tuple(dict.fromkeys(["glb", *settings.formats, "3dgs"])))
    mesh = build_asset(representation, settings, extras)
    return export_asset(mesh, folder, settings, splats_for(settings.formats, mesh, representation))


def splats_for(formats: Sequence[str], mesh: Mesh, source: Surface | None = None) -> Splats | None:
    """The asset as splats, in its mesh's frame: its own, or flat ones on the surface; None where no format asks.

    Arguments:
        formats: what is to be written.
        mesh: the asset, made by :func:`threedistill.exports.asset.build_asset` where ``source`` is given.
        source: what it was made of.
    """
    if not set(formats) & set(of_kind("splats")):
        return None
    own = None if source is None else source.splats()
    if own is not None:
        return placed_splats(own, mesh)
    from threedistill.representations.convert import as_splats

    return replace(as_splats(mesh), extras={k: v for k, v in mesh.extras.items() if k != "texture layout"})


def particle_folder(run: RunFolder, index: int, count: int) -> Path:
    """Where a particle's files go: the asset's own folder where there is only one."""
    return run.asset_dir if count == 1 else run.asset_dir / f"particle-{index}"


def keep_best(files: list[Path], prompt: str, run: RunFolder) -> Path:
    """Copy the best particle's files to the asset's folder; the copy of its main file.

    The best is the one that the critic prefers; without a critic who knows the prompt's words, the
    first.

    Arguments:
        files: the main file of each particle.
        prompt, run: what was asked for, and where; ``run.json`` gets the scores and the choice.
    """
    scores = [_score(file.parent / "model.glb", prompt) for file in files]
    best = max(range(len(files)), key=lambda index: (scores[index], -index))
    run.update_record(
        particles={"best": best, "caption_logp": [round(s, 4) if math.isfinite(s) else None for s in scores]}
    )
    for file in sorted(files[best].parent.iterdir()):
        if file.is_file() and not is_temporary(file):
            copy_file(file, run.asset_dir / file.name)
    return run.asset_dir / files[best].name


def _score(glb: Path, prompt: str) -> float:
    if not glb.exists():
        return -math.inf
    try:
        return critic_for(prompt).preference(glb, prompt)
    except ThreedistillError:
        return -math.inf


def verdict(prompt: str, run: RunFolder) -> dict[str, Any] | None:
    """What the critic says about ``asset/model.glb``, with its line; None without a GLB or a critic for the prompt."""
    glb = run.asset_dir / "model.glb"
    if not glb.exists():
        return None
    try:
        critic = critic_for(prompt)
    except UsageError:
        return None
    try:
        return critic.judge(glb, prompt, quick=True)
    except ThreedistillError as error:
        # The asset is made; a judge that cannot look must not undo that.
        return {"verdict": f"not judged: {error}"}
