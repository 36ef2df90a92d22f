"""What a step does where memory runs out at a run's start: the same with less at a time.

Every measure computes the same numbers (up to the order of sums) in more time. They are taken one after the other until
the first step goes through; what was taken is said, and kept with the run's warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import torch

from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families.recorded import RecordedSpace
from threedistill.priors.space import LatentSpace

if TYPE_CHECKING:
    from threedistill.training.system import ScoreDistillation

__all__ = ["measures", "ran_out", "thriftily"]

T = TypeVar("T")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the machine's or its GPU's."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def measures(system: ScoreDistillation) -> Iterator[str]:
    """Takes the next measure whenever it is asked for one, and says which; ends when there is none left.

    First views one by one, their activations computed again in the backward pass; then questions in batches of as many
    rows as there are views, which splits the branches of guidance; then in batches of one view; last, on a GPU, with
    the layers of a network that no student grows on in the main memory.
    """
    space = system.prior.space
    if isinstance(space, LatentSpace | RecordedSpace) and not space.one_by_one:
        space.one_by_one = True
        yield "views are encoded one by one (prior.model.one_by_one=true)"
    for rows in dict.fromkeys((system.sampler.most, system.prior.view_group)):
        if system.max_rows is None or system.max_rows > rows:
            system.max_rows = rows
            yield f"networks are asked {rows} at a time (trainer.max_rows={rows})"
    prior = system.prior
    if (
        isinstance(prior, DiffusersPrior)
        and prior.device.type != "cpu"
        and not (system.learners or prior.offloaded)
    ):
        prior.offload()
        yield "the network's layers wait in the main memory (prior.model.offload=true)"


def thriftily(system: ScoreDistillation, work: Callable[[], T]) -> T:
    """What ``work`` gives; where memory runs out, what it gives with further measures.

    Arguments:
        system: whose settings the measures change, and whose warnings name them.
        work: leaves nothing behind where it fails.
    """
    further = measures(system)
    while True:
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error) or (taken := next(further, None)) is None:
                raise
        # Behind the handler: until there the error holds the failed step's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        system.warned.append(f"memory ran out at the start: {taken}; it takes longer and needs less")
