"""The contracts of the three axes: what a new representation, prior or rule must answer.

A class is an interface or final: these are the interfaces, everything that implements them is concrete.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.conditions import Conditions
from threedistill.rng import Streams
from threedistill.types import (
    Cameras,
    Condition,
    Conditioning,
    Evidence,
    Mesh,
    NoiseLevel,
    Prediction,
    Query,
    Refinement,
    Rendering,
    Shading,
    Splats,
)


@dataclass(frozen=True)
class RenderContext:
    """What a render depends on besides its cameras.

    Attributes:
        progress: fraction of the stage that is done, in [0, 1]; drives everything annealed.
        rng: the iteration's random streams (jitter); None renders without jitter.
        background: (B, 3) sRGB colours behind the object.
        shading: how albedo becomes colour.
        light: (B, 3) unit directions towards the light, for Lambertian and textureless shading; None = headlight.
        normals: whether normals are wanted although the shading does without: a network is told them.
    """

    progress: float
    background: Tensor
    rng: Streams | None = None
    shading: Shading = "none"
    light: Tensor | None = None
    normals: bool = False


@runtime_checkable
class Representation(Protocol):
    """What is optimised: an ``nn.Module`` that renders cameras differentiably."""

    def render(self, cameras: Cameras, context: RenderContext) -> Rendering:
        """Render ``B`` cameras; gradients flow to the parameters."""
        ...

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name under which the optimizer config gives their learning rates."""
        ...

    def after_step(self, iteration: int, progress: float, rng: Streams) -> Refinement | None:
        """Bookkeeping after each optimizer step (occupancy refresh, progressive levels).

        The gradients of the step are still there. A returned refinement must be carried out at once
        (:func:`threedistill.representations.refinement.apply_refinement`).
        """
        ...

    def extract(self, resolution: int) -> Mesh:
        """The surface, untextured, all components, wound outward; raises ThreedistillError if empty or full."""
        ...

    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """sRGB albedo at surface points, for baking."""
        ...


@runtime_checkable
class SplatSource(Protocol):
    """A representation that is made of splats: it is exported as splats too."""

    def splats(self) -> Splats:
        """A detached copy on the CPU."""
        ...


@runtime_checkable
class PictureSource(Protocol):
    """A representation that is pictures and no scene: they are its asset."""

    def pictures(self) -> Float[Tensor, "N H W 3"]:
        """sRGB in [0, 1], detached, on the CPU."""
        ...

    def unedited(self, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
        """What the cameras saw before the first step."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A representation with a coarse-to-fine schedule that makes no sense once it holds an object."""

    def settle(self) -> None:
        """Switch the schedule off: this stage starts from something, not from nothing."""
        ...


@runtime_checkable
class ImageSpace(Protocol):
    """The space a prior works in: pixels in [-1, 1] of some size, a folded version of them, or VAE latents."""

    shape: tuple[int, int, int]

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """sRGB renders of any size to prior space, differentiable."""
        ...

    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """Prior space to sRGB in [0, 1]."""
        ...


@runtime_checkable
class NoisePath(Protocol):
    """The family of levels ``x_t = alpha x0 + sigma eps`` a prior was trained on.

    ``steps`` is the number of trained levels of a discrete path, None on a continuous one.
    """

    @property
    def steps(self) -> int | None: ...

    def at(self, index: Tensor) -> NoiseLevel:
        """Levels at the network's own (float) time indices."""
        ...

    def at_fraction(self, fraction: Tensor) -> NoiseLevel:
        """Levels at fractions of the path's length, 0 = clean, 1 = noise (the ``t: [0.02, 0.98]`` convention)."""
        ...

    def at_log_snr(self, log_snr: Tensor) -> NoiseLevel:
        """Levels at given log signal-to-noise ratios, clamped to the path's ends."""
        ...


@runtime_checkable
class TimestepPolicy(Protocol):
    """Draws the noise levels of a step."""

    def sample(
        self, path: NoisePath, progress: float, rng: Streams, views: int, group: int = 1
    ) -> NoiseLevel:
        """(views,) levels; views of one group share theirs."""
        ...


@runtime_checkable
class Prior(Protocol):
    """What teaches: a frozen diffusion model. It must not be registered as a submodule of the system.

    ``wants`` names the conditions that it can be told; nothing else is computed for it.
    """

    name: str
    space: ImageSpace
    path: NoisePath
    view_group: int
    licence: str
    wants: frozenset[Condition]

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """Everything the network is told about ``B`` samples, batch first.

        Of the conditions at most those in ``wants`` are there; one that is None (no images: ``()``) is withheld, and
        the network's own null stands for it. Embeddings are cached inside. One call may mix any texts, "" included,
        and ask for the same views several times; all rows share keys and shapes.
        """
        ...

    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The network's answer for noisy samples (no gradients are kept)."""
        ...

    def to(self, device: torch.device | str) -> Prior:
        """Moves the networks to ``device``, in place, and returns the prior."""
        ...


@runtime_checkable
class NetworkPrior(Prior, Protocol):
    """A prior that is one torch network, so that a student can grow on it."""

    @property
    def network(self) -> nn.Module: ...

    def ask(
        self, network: nn.Module, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """As ``predict``, through another network with the same inputs and outputs, with gradients."""
        ...


@runtime_checkable
class Student(Prior, Protocol):
    """The score of what is being optimised (VSD, ESD): an ``nn.Module`` that is asked like a prior and learns.

    Its ``state_dict`` is what it has learned and nothing else. ``conditioning`` carries the student's own camera
    under :data:`STUDENT_CAMERA`; without one it is its null camera.
    """

    @property
    def frozen(self) -> Prior:
        """What it answered before its first step."""
        ...

    def answer(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """As ``predict``, with gradients to the student's parameters."""
        ...

    def active(self, conditioning: Conditioning) -> AbstractContextManager[Conditioning]:
        """The context in which the student is told its cameras; gives what is left for the network."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """What its optimizer steps."""
        ...


@runtime_checkable
class StudentMaker(Protocol):
    """The settings of a student: what ``student.model`` names."""

    def check(self, prior: type) -> None:
        """Refuse a class of prior that cannot carry this student; raises UsageError."""
        ...

    def attach(self, prior: Prior, seed: int) -> Student:
        """A fresh student on this teacher."""
        ...


#: Under this name a student's conditioning carries its own camera: (B, 14), zeros = none.
STUDENT_CAMERA = "student_camera"


class Critic(ABC):
    """Who looks at a finished asset and says what it sees (group ``critic``)."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Who exactly it is: what another version said is asked for anew."""

    @abstractmethod
    def check_text(self, text: str) -> None:
        """Refuse a prompt that it has no words for; raises UsageError. Loads nothing heavy."""

    @abstractmethod
    def judge(self, asset: str | Path, prompt: str, *, quick: bool = False) -> dict[str, Any]:
        """Everything that it says about an asset's file, ready for JSON.

        ``verdict`` is one line for people, ``judge_version`` and ``schema`` say by whom and in which figures; of the
        others :data:`threedistill.evaluation.report.COLUMNS` shows those that are there.

        Arguments:
            asset: the file, opened again.
            prompt: what was asked for.
            quick: leave out what takes long.
        """

    @abstractmethod
    def preference(self, asset: str | Path, prompt: str) -> float:
        """How well a file shows what was asked for, the larger the better: the best of several particles is kept."""

    def truth(self, prompt: str, rng: random.Random | None = None) -> Mesh | None:
        """What a prompt truly looks like: the canonical object, or one drawn; None where nobody knows."""
        return None


@runtime_checkable
class GuidanceRule(Protocol):
    """Which score-distillation rule: a pure function of evidence."""

    def queries(self, progress: float) -> tuple[Query, ...]:
        """The questions whose answers the rule needs at this point of the stage."""
        ...

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The unweighted direction ``g`` (pointing up the loss), detached, shaped like ``x0``."""
        ...
