"""The learning rates that the shipped configurations give each representation."""

from __future__ import annotations

from threedistill.config import compose


def rates(representation: str) -> dict[str, float]:
    """Rate by parameter group."""
    return compose(prompt="a red ball", representation=representation)["representation"]["lr"]


#: Of all of them: their groups have different names.
RATES = {name: rate for kind in ("hashgrid", "dmtet", "gaussians") for name, rate in rates(kind).items()}
