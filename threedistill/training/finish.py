"""How a run ends: its asset's files, and what the judge says about them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threedistill.exports.picture import write_pictures
from threedistill.protocols import Representation
from threedistill.training.asset_files import write_asset
from threedistill.training.facts import facts_of
from threedistill.training.particle_assets import keep_best, particle_folder
from threedistill.training.plan import RunPlan
from threedistill.training.run_folder import RunFolder
from threedistill.training.verdict import verdict

__all__ = ["export_run", "judge_run"]


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
