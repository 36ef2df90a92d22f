"""A stage's state as one safetensors file: parameters, buffers, optimizer moments and our own counter.

Lightning's checkpoints are pickles; these are not, so a foreign or broken file can do nothing but be refused.
Randomness needs no state (see :mod:`threedistill.rng`), so a run resumed from here repeats the uninterrupted one. The
state before the latest stays beside it (``previous.safetensors``): a damaged file costs a few steps, not the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threedistill.atomic import fill, move, replacing
from threedistill.errors import ThreedistillError
from threedistill.training.tensor_file import Damaged, read_tensors, tensor_bytes

__all__ = ["StageState", "has_state", "load_stage", "previous_of", "save_stage"]

FORMAT = "threedistill-stage-3"

#: Written by earlier versions; the first has no checksum.
_FORMER = ("threedistill-stage-1", "threedistill-stage-2")

#: What tensors were called by them, and what they are called now.
_RENAMED = {
    "module/representation.particles.": "module/scenes.", "module/representation.steps": "module/scenes.steps",
    "module/representation.": "module/scenes.0.", "module/student_step.": "module/learner/student.",
    "module/student.": "module/learner/student.model.",
}  # fmt: skip


def save_stage(
    path: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], facts: dict[str, Any]
) -> None:
    """Write the state of a stage; the state that was there becomes the previous one.

    Arguments:
        path: the file to replace.
        module: every tensor of its ``state_dict`` is kept.
        optimizers: their per-parameter tensors are kept, in order.
        facts: JSON-able numbers and words (iteration, running values).
    """
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
    with replacing(path) as temporary:
        fill(temporary, tensor_bytes(tensors, header))
        if path.exists():
            move(path, previous_of(path))


def previous_of(path: Path) -> Path:
    """Where the state before the latest one is kept."""
    return path.with_name("previous.safetensors")


def has_state(path: Path) -> bool:
    """Whether a stage has a state, be it the latest or, where a process ended between two renames, the one before."""
    return path.exists() or previous_of(path).exists()


def load_stage(path: Path) -> StageState | None:
    """The stage's latest state that is whole; None where it has none.

    Raises:
        ThreedistillError: there are files, and none of them is whole.
    """
    try:
        if path.exists():
            return StageState(path)
    except Damaged as damage:
        if not previous_of(path).exists():
            raise
        try:
            state = StageState(previous_of(path))
        except ThreedistillError:
            raise damage from None
        print(
            f"the checkpoint {path} is damaged; going on from the one before it", file=sys.stderr, flush=True
        )
        return state
    return StageState(previous_of(path)) if previous_of(path).exists() else None


def _modern(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state under the names they have now; a scene alone did not count its own steps."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        former = next((start for start in _RENAMED if name.startswith(start)), "")
        found[_RENAMED.get(former, "") + name.removeprefix(former)] = tensor
    if "module/iteration" in found:
        found.setdefault("module/scenes.steps", found["module/iteration"].reshape(1))
    return found


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


class StageState:
    """A stage's state read back from disk."""

    def __init__(self, path: Path) -> None:
        """Read and check a file that :func:`save_stage` wrote.

        Raises:
            Damaged: its bytes are not those that were written.
            ThreedistillError: it was written by something else.
        """
        self.path = path
        cure = f"remove the folder {path.parent} to start the stage anew"
        try:
            self._tensors, header = read_tensors(path)
            if header.get("format") not in (FORMAT, *_FORMER):
                raise ThreedistillError(f"{path} is not a threedistill checkpoint; {cure}")
            if header["format"] != _FORMER[0] and "checksum" not in header:
                raise Damaged(f"{path} has lost its checksum")
            if header["format"] in _FORMER:
                self._tensors = _modern(self._tensors)
            self.facts: dict[str, Any] = json.loads(header["facts"])
            self._scalars: dict[str, Any] = json.loads(header["scalars"])
        except (Damaged, ValueError, KeyError):
            raise Damaged(f"the checkpoint {path} is damaged; {cure}") from None

    def load_module(self, module: nn.Module, part: str = "") -> None:
        """Put parameters and buffers back, exactly.

        Arguments:
            module: the system, or only a part of it.
            part: the part's name in the system (``"scenes.0"``); empty = the whole system.

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
