"""How a run ends: its asset's files, and what the judge says about them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from threedistill.exports.picture import write_pictures
from threedistill.protocols import PictureSource, Representation
from threedistill.representations.particles import members
from threedistill.training.asset_files import write_asset
from threedistill.training.facts import facts_of
from threedistill.training.particle_assets import keep_best, particle_folder
from threedistill.training.plan import RunPlan
from threedistill.training.run_folder import RunFolder
from threedistill.training.verdict import verdict

__all__ = ["export_run", "judge_run"]


def export_run(representation: Representation, plan: RunPlan, run: RunFolder) -> Path:
    """Write the asset's files, of several particles each in its own folder; the main file.

    Raises:
        ThreedistillError: nothing to extract, or a place that cannot be written.
    """
    facts = facts_of(plan.names, run)
    particles = members(representation)
    if pictures := [one.pictures() for one in particles if isinstance(one, PictureSource)]:
        return write_pictures(pictures, run.asset_dir)
    files = [
        write_asset(one, particle_folder(run, i, len(particles)), plan.export, facts)[0]
        for i, one in enumerate(particles)
    ]
    return files[0] if len(files) == 1 else keep_best(files, plan.names.prompt, run)


def judge_run(prompt: str, run: RunFolder, quiet: bool) -> dict[str, Any] | None:
    """What the judge sees in the asset, where it knows the prompt's words; its line is said on stderr unless quiet."""
    found = verdict(prompt, run)
    if found and not quiet:
        print(found["verdict"], file=sys.stderr)
    return found
