"""The state of a training run as one safetensors file: weights, their average, AdamW's moments and the step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["MOMENTS", "load_state", "read_facts", "save_state"]

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    path: Path,
    weights: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Replace ``path``; the last good file stays until the new one is whole. Frozen weights have no moments."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, p in weights.items():
        tensors[f"weights/{name}"], tensors[f"average/{name}"] = p.detach(), average[name]
        state = optimizer.state.get(p, {})
        tensors |= {f"{key}/{name}": state[key] for key in (*MOMENTS, "step") if key in state}
    part = path.with_name(path.name + ".part")
    save_file(
        {k: v.cpu().contiguous() for k, v in tensors.items()},
        part,
        metadata={"step": str(step), **(facts or {})},
    )
    part.replace(path)


def read_facts(path: Path) -> dict[str, str]:
    """What stands in the header: ``step``, and the facts that were given."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


@torch.no_grad()
def load_state(
    path: Path,
    weights: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Put everything back, exactly; returns the step."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step, keys = int(file.metadata()["step"]), set(file.keys())
        for name, p in weights.items():
            p.copy_(file.get_tensor(f"weights/{name}"))
            average[name].copy_(file.get_tensor(f"average/{name}"))
            if f"exp_avg/{name}" in keys:
                # In the parameter's own memory layout: fused AdamW walks the memory, not the indices.
                moments = {k: torch.empty_like(p).copy_(file.get_tensor(f"{k}/{name}")) for k in MOMENTS}
                # Weights that not every step asks for have taken fewer steps than the run.
                own = file.get_tensor(f"step/{name}") if f"step/{name}" in keys else torch.tensor(float(step))
                optimizer.state[p] = {"step": own, **moments}
    return step
