"""Every random number of a run, derived from what it is for; nothing to save, so a resumed run repeats itself.

A stream is named by (seed, stage, iteration, purpose, view). Purposes that all ranks must agree on leave the
view out; per-view purposes use the *global* view index, so two ranks with half of the views each draw what one
process with all of them draws.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

__all__ = ["Streams"]


@dataclass(frozen=True)
class Streams:
    """Named random streams of one iteration.

    Attributes:
        seed: the user's seed, >= 0.
        stage: index of the stage in the run.
        iteration: index of the iteration in the stage.
        view_offset: global index of this process's first view (0 in a single process).
        branch: put before every purpose, so that a part of the step that draws like another draws other numbers.
    """

    seed: int
    stage: int = 0
    iteration: int = 0
    view_offset: int = 0
    branch: str = ""

    def at(self, iteration: int) -> Streams:
        """The streams of another iteration of the same stage."""
        return replace(self, iteration=iteration)

    def branched(self, name: str) -> Streams:
        """Streams with the same purposes and other numbers (the student's steps, a measurement)."""
        return replace(self, branch=f"{self.branch}{name}/")

    def generator(self, purpose: str, view: int | None = None) -> torch.Generator:
        """A fresh CPU generator for ``purpose`` (and one view, given by its index in this process)."""
        index = -1 if view is None else view + self.view_offset
        key = f"{self.seed}/{self.stage}/{self.iteration}/{self.branch}{purpose}/{index}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    def uniform(self, purpose: str, *shape: int) -> torch.Tensor:
        """U[0, 1) float32 numbers shared by all views, of the given shape."""
        return torch.rand(shape, generator=self.generator(purpose))

    def uniform_per_view(self, purpose: str, views: int, *shape: int) -> torch.Tensor:
        """U[0, 1) float32 numbers of shape (views, *shape), each view from its own stream."""
        return torch.stack([torch.rand(shape, generator=self.generator(purpose, v)) for v in range(views)])

    def normal_per_view(self, purpose: str, views: int, *shape: int) -> torch.Tensor:
        """N(0, 1) float32 numbers of shape (views, *shape), each view from its own stream."""
        return torch.stack([torch.randn(shape, generator=self.generator(purpose, v)) for v in range(views)])

    def generator_uniform(self, purpose: str, index: int, count: int | None = None) -> torch.Tensor:
        """U[0, 1) numbers of a globally indexed thing (a view group): a scalar, or ``count`` of them."""
        return torch.rand(() if count is None else (count,), generator=self._indexed(purpose, index))

    def generator_normal(self, purpose: str, index: int, count: int) -> torch.Tensor:
        """(count,) N(0, 1) numbers of a globally indexed thing (a view group)."""
        return torch.randn(count, generator=self._indexed(purpose, index))

    def groups(self, views: int, group: int) -> range:
        """Global indices of this process's view groups; ranks draw for them what one process would.

        Arguments:
            views: this process's views.
            group: contiguous views per group of a multi-view teacher.

        Raises:
            ValueError: ``views`` is no multiple of ``group``.
        """
        if views % group:
            raise ValueError(f"{views} views are not a multiple of the prior's view group of {group}")
        first = self.view_offset // group
        return range(first, first + views // group)

    def _indexed(self, purpose: str, index: int) -> torch.Generator:
        return replace(self, view_offset=0).generator(purpose, index)
