"""What the training runs of both priors share: averaged weights, processes, where weights come from, and the sheet."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from threedistill.errors import UsageError
from threedistill.toybox.model import ToyboxPipeline, camera

__all__ = [
    "CHECKPOINT", "AveragedWeights", "in_processes", "refuse_other_settings", "take_weights", "write_sheet",
]  # fmt: skip

CHECKPOINT = "last.safetensors"
#: The prompts of a sheet, in two columns.
SHEET_PROMPTS = (
    "a yellow duck", "a blue car", "an orange robot", "a red mushroom", "a brown teddy bear", "a green house",
    "a purple chair", "a red duck", "a white owl", "a pink cat", "a green rocket", "a black mug",
)  # fmt: skip


class AveragedWeights:
    """The weights of a run and their running average, which is what a run is for.

    Arguments:
        modules: the run's networks.

    Attributes:
        now, average: tensors by the parameters' names.
    """

    def __init__(self, modules: nn.Module) -> None:
        self.now: dict[str, nn.Parameter] = dict(modules.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.now.items()}

    @torch.no_grad()
    def begin(self) -> None:
        """The average becomes what the weights are."""
        for name, p in self.now.items():
            self.average[name].copy_(p)

    @torch.no_grad()
    def follow(self, step: int, most: float) -> None:
        """``a <- d a + (1 - d) w`` with ``d = min(most, (1 + step) / (10 + step))``, so that the start is forgotten."""
        decay = min(most, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.now.values()], 1 - decay)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.now.items():
            held = p.detach().clone()
            p.copy_(self.average[name])
            self.average[name].copy_(held)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The average in the weights' place, and the weights in the average's, until the block ends."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def share_gradients(self, processes: int) -> None:
        """The mean of all processes' gradients, in every process."""
        if processes == 1:
            return
        import torch.distributed as dist

        gradients = [p.grad for p in self.now.values() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        parts = flat.div_(processes).split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts):
            gradient.copy_(part.view_as(gradient))


def in_processes(count: int, work: Callable[..., object], *arguments: Any) -> None:
    """``work(rank, *arguments)`` in ``count`` processes that can share gradients; in this one where it is alone."""
    if count == 1:
        work(0, *arguments)
        return
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(_join, (count, f"{meeting}/store", work, arguments), count)


def _join(rank: int, count: int, meeting: str, work: Callable[..., object], arguments: Sequence[Any]) -> None:
    """One of several processes of a run."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    work(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()


def take_weights(pipeline: Any, modules: Sequence[str], folder: Path) -> None:
    """Copy the averaged weights of a training run, or those of a saved pipeline, into ``pipeline``.

    Arguments:
        pipeline: changed in place.
        modules: the names of its networks.
        folder: of a run (``last.safetensors``) or of a pipeline (``model_index.json``).

    Raises:
        UsageError: when it is neither, or was made with another architecture.
    """
    found = _stored(type(pipeline), modules, folder)
    for module in modules:
        network: nn.Module = getattr(pipeline, module)
        own = {k.removeprefix(f"{module}."): v for k, v in found.items() if k.startswith(f"{module}.")}
        shapes = {k: p.shape for k, p in network.named_parameters()}
        if {k: v.shape for k, v in own.items()} != shapes:
            raise UsageError(
                f"{module} in {folder} was made with another architecture; begin with other weights, or with none"
            )
        # Buffers (positions, the noise path) follow from the configuration.
        network.load_state_dict(own, strict=False)


def _stored(kind: type, modules: Sequence[str], folder: Path) -> dict[str, Tensor]:
    """Parameters by ``module.name``."""
    from safetensors import safe_open

    if (folder / CHECKPOINT).exists():
        with safe_open(folder / CHECKPOINT, "pt") as file:
            names = [k for k in file.keys() if k.startswith("average/")]  # noqa: SIM118 - no mapping
            return {k.removeprefix("average/"): file.get_tensor(k) for k in names}
    if not (folder / "model_index.json").exists():
        raise UsageError(
            f"{folder} holds neither a training run ({CHECKPOINT}) nor a prior (model_index.json)"
        )
    other = ToyboxPipeline.load(folder)
    if type(other) is not kind:
        raise UsageError(
            f"{folder} holds the {other.size}-pixel prior; begin with other weights, or with none"
        )
    return {f"{m}.{k}": v.detach() for m in modules for k, v in getattr(other, m).named_parameters()}


def refuse_other_settings(stored: Mapping[str, Any], settings: Any, free: set[str], path: Path) -> None:
    """Refuse to continue a run under settings that would change what it computes.

    Arguments:
        stored: the settings that the checkpoint was made with.
        settings: a dataclass, this run's.
        free: names that may differ.
        path: of the checkpoint.

    Raises:
        UsageError: naming what differs.
    """
    mine = json.loads(json.dumps(asdict(settings)))
    changed = [k for k in mine if k not in free and stored.get(k) != mine[k]]
    if changed:
        was = ", ".join(f"{k}={stored.get(k)}" for k in changed)
        raise UsageError(
            f"{path} was made with {was}: continue with the same settings, or train into another folder"
        )


def write_sheet(pipeline: Any, path: Path) -> None:
    """A picture of samples: a row per prompt, its columns asked for at azimuths 0, 90, 180 and 270 degrees."""
    from PIL import Image

    turns = [0.0, 90.0, 180.0, 270.0]
    prompts = [p for p in SHEET_PROMPTS for _ in turns]
    images: Tensor = pipeline(
        prompts, camera(turns * len(SHEET_PROMPTS)), torch.ones(len(prompts), 3),
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    half, size = len(SHEET_PROMPTS) // 2, images.shape[1]
    grid = images.cpu().view(2, half, len(turns), size, size, 3).permute(1, 3, 0, 2, 4, 5)
    grid = grid.reshape(half * size, 2 * len(turns) * size, 3)
    Image.fromarray((grid.numpy() * 255 + 0.5).astype(np.uint8)).save(path)
