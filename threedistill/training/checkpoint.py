"""A stage's state as one safetensors file: parameters, buffers, optimizer moments and our own counter.

Lightning's checkpoints are pickles; these are not, so a foreign or broken file can do nothing but be refused.
Randomness needs no state (see :mod:`threedistill.rng`), so a run resumed from here repeats the uninterrupted one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threedistill.atomic import write_bytes
from threedistill.errors import ThreedistillError

FORMAT = "threedistill-stage-1"


def save_stage(
    path: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], facts: dict[str, Any]
) -> None:
    """Write the state of a stage.

    Arguments:
        path: the file to replace.
        module: every tensor of its ``state_dict`` is kept.
        optimizers: their per-parameter tensors are kept, in order.
        facts: JSON-able numbers and words (iteration, running values).
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {f"module/{k}": _plain(v) for k, v in module.state_dict().items()}
    scalars: dict[str, float | int] = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                name = f"optimizer/{number}/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[name] = _plain(value)
                else:
                    scalars[name] = value
    header = {"format": FORMAT, "facts": json.dumps(facts), "scalars": json.dumps(scalars)}
    write_bytes(path, save(tensors, metadata=header))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


class StageState:
    """A stage's state read back from disk."""

    def __init__(self, path: Path) -> None:
        """Read and check a file that :func:`save_stage` wrote.

        Raises:
            ThreedistillError: the file is damaged or was written by something else.
        """
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ThreedistillError(
                        f"{path} is not a threedistill checkpoint; remove it to start the stage anew"
                    )
                self.facts: dict[str, Any] = json.loads(header["facts"])
                self._scalars: dict[str, Any] = json.loads(header["scalars"])
                self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError, KeyError):
            raise ThreedistillError(
                f"the checkpoint {path} is damaged; remove it to start the stage anew"
            ) from None

    def load_module(self, module: nn.Module, part: str = "") -> None:
        """Put parameters and buffers back, exactly.

        Arguments:
            module: the system, or only a part of it.
            part: the part's name in the system (``"representation"``); empty = the whole system.

        Raises:
            ThreedistillError: names or shapes do not fit the configured module.
        """
        prefix = f"module/{part}." if part else "module/"
        tensors = {k.removeprefix(prefix): v for k, v in self._tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ThreedistillError(
                f"the checkpoint {self.path} does not fit this configuration: {reason}"
            ) from None

    def load_optimizers(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Put the moments back into freshly made optimizers of the same parameters."""
        for number, optimizer in enumerate(optimizers):
            content = optimizer.state_dict()
            state: dict[int, dict[str, Any]] = {}
            for source in (self._tensors, self._scalars):
                for name, value in source.items():
                    parts = name.split("/")
                    if parts[0] == "optimizer" and int(parts[1]) == number:
                        state.setdefault(int(parts[2]), {})[parts[3]] = value
            optimizer.load_state_dict({"state": state, "param_groups": content["param_groups"]})
