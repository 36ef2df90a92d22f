"""The ceiling row: what the same field, budget and export reach when the teacher is the truth itself.

No distillation run can be expected to beat it; where it is low, the representation or the export is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from threedistill.atomic import make_folder
from threedistill.types import Mesh

if TYPE_CHECKING:
    from threedistill.exports.asset import ExportSettings
    from threedistill.protocols import Representation

__all__ = ["fit_ceiling"]


def fit_ceiling(
    representation: Representation,
    truth: Mesh,
    prompt: str,
    folder: str | Path,
    settings: ExportSettings,
    *,
    steps: int,
    rates: Mapping[str, float],
    views: int = 4,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Path:
    """Fit ``representation`` to 64x64 renders of the ground truth and export it like any run.

    Arguments:
        representation: fresh, as a run would start with; optimised in place.
        truth: what the prompt asks for.
        prompt: for the file's facts.
        folder: where ``model.glb`` goes.
        settings: the run's export settings.
        steps, views: the run's budget.
        rates: learning rate per parameter group.
        seed: of cameras and jitter.
        on_step: called with the number of steps done after every step of the fit.

    Returns:
        the file's path.
    """
    from threedistill.exports.asset import build_asset, write_mesh
    from threedistill.representations.fitting import fit_photometric

    fit_photometric(
        representation, truth, steps=steps, views=views, seed=seed, rates=rates,
        on_step=None if on_step is None else lambda index, *_: on_step(index + 1),
    )  # fmt: skip
    path = Path(folder) / "model.glb"
    make_folder(path.parent)
    extras = {"prompt": prompt, "seed": seed, "prior": "ground truth (ceiling)"}
    write_mesh(build_asset(representation, settings, extras), path, settings)
    return path
