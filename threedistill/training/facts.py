"""The facts that travel with an asset: what made it, under which licence. Made here and nowhere else."""

from __future__ import annotations

from typing import Any

from threedistill import __version__
from threedistill.config import Config, stage_part
from threedistill.protocols import Prior
from threedistill.training.run_folder import RunFolder

__all__ = ["facts_of", "prior_facts"]


def prior_facts(prior: Prior) -> dict[str, object]:
    """What only the loaded prior knows of itself, kept in ``run.json`` for exports that do not load it."""
    return {"prior_version": getattr(prior, "version", None), "prior_licence": prior.licence}


def facts_of(config: Config, run: RunFolder) -> dict[str, object]:
    """The facts about a run's asset, from its configuration and its record."""
    record: dict[str, Any] = run.read_record()
    return {
        "prompt": config["prompt"], "seed": config["seed"], "prior": config["prior"]["name"],
        "prior_version": record.get("prior_version"), "prior_licence": record.get("prior_licence"),
        "guidance": stage_part(config, -1, "guidance")["name"], "generator": f"threedistill {__version__}",
    }  # fmt: skip
