"""The assets of several particles: each in a folder of its own, the critic's favourite beside them as the run's."""

from __future__ import annotations

import math
from pathlib import Path

from threedistill.atomic import copy_file, is_temporary
from threedistill.config.critics import critic_for
from threedistill.errors import ThreedistillError
from threedistill.training.run_folder import RunFolder

__all__ = ["keep_best", "particle_folder"]


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
