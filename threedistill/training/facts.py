"""The facts that travel with an asset: what made it, under which licence. Made here and nowhere else."""

from __future__ import annotations

from typing import Any

from threedistill import __version__
from threedistill.protocols import Prior
from threedistill.training.plan import Names
from threedistill.training.run_folder import RunFolder

__all__ = ["facts_of", "prior_facts"]


def prior_facts(prior: Prior) -> dict[str, object]:
    """What only the loaded prior knows of itself, kept in ``run.json`` for exports that do not load it."""
    facts: dict[str, object] = {"prior_version": prior.version, "prior_licence": prior.licence}
    return {**facts, "prior_notes": prior.notes} if prior.notes else facts


def facts_of(names: Names, run: RunFolder) -> dict[str, object]:
    """The facts about a run's asset, from its plan and its record."""
    record: dict[str, Any] = run.read_record()
    return {
        "prompt": names.prompt, "seed": names.seed, "prior": names.prior,
        "prior_version": record.get("prior_version"), "prior_licence": record.get("prior_licence"),
        "guidance": names.guidance, "generator": f"threedistill {__version__}",
    }  # fmt: skip
