"""The toy world: a grammar of objects with their truth, the diffusion model that learnt it, and the judge of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.toybox.evaluation.critic import ToyboxCritic, evaluate_asset
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.judge import Judge
    from threedistill.toybox.priors.embedded import ToyboxPrior
    from threedistill.toybox.priors.oracle import OraclePrior
    from threedistill.toybox.priors.world import WorldPrior
    from threedistill.toybox.world import build

__all__ = [
    "Judge", "OraclePrior", "ToyboxCritic", "ToyboxPrior", "WorldPrior", "build", "evaluate_asset", "parse",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
