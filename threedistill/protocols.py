"""The contracts of the three axes: what a new representation, prior or rule must answer.

A class is an interface or final: these are the interfaces, everything that implements them is concrete. Their optional
parts are declared here with what stands for them (``contracts.py``); nobody looks whether an object has them.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.conditions import Conditions, Role, Wording, check_names
from threedistill.contracts import Contract, annotated
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

__all__ = [
    "STUDENT_CAMERA", "Critic", "GuidanceRule", "ImageSpace", "NetworkPrior", "NoiseLaw", "NoisePath", "Prior",
    "RenderContext", "Representation", "Student", "StudentMaker", "Surface", "TimestepPolicy",
    "vector_jacobian",
]  # fmt: skip


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
        terms: the representation's regularisers that are wanted in ``stats``; others may be left out. None = all.
    """

    progress: float
    background: Tensor
    rng: Streams | None = None
    shading: Shading = "none"
    light: Tensor | None = None
    normals: bool = False
    terms: frozenset[str] | None = None


class Surface(Contract, interface=True):
    """What can be made into a mesh with a texture.

    Attributes:
        cut: its surface has seams, where several vertices are one point; they are welded before faces are merged.
    """

    cut: bool = False

    @abstractmethod
    def extract(self, resolution: int) -> Mesh:
        """The surface, untextured, all components, wound outward; raises ThreedistillError if empty or full."""

    @abstractmethod
    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """sRGB albedo at surface points, for baking."""

    def surface_material(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 2"] | None:
        """Metalness and roughness in [0, 1] at surface points, for baking; None = only colour."""
        return None

    def surface_pictures(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> dict[str, Float[Tensor, "N _"]]:
        """What else a mesh has pictures of, at surface points, by the names that they have there, for baking."""
        return {}

    def surface_relief(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"] | None:
        """Unit normals of a relief finer than what is extracted, for baking; None = what is extracted is all."""
        return None

    def splats(self) -> Splats | None:
        """What is made of splats is exported as splats too: a detached copy on the CPU; None = it is not."""
        return None


class Representation(nn.Module, Surface, interface=True):
    """What is optimised: a module that renders cameras differentiably.

    Four methods make one (``render``, ``parameter_groups``, ``extract``, ``surface_color``); the others are for
    representations that have more to offer, and answer for those that have not.

    Attributes:
        bound: nothing of it lies outside of ``[-bound, bound]^3``, metres.
        shows: what of a view its renderings can show; ``normal`` is rendered where shading or a network wants it.
        regularizers: the terms that its renderings carry in ``stats``, for weights of these names.
        has_splats: whether its :meth:`splats` gives some.
        starts_from: what it has a closed-form start from; anything else it is fitted to.
    """

    bound: float = math.inf
    shows: frozenset[Condition] = frozenset({"rgb", "opacity", "depth", "normal"})
    regularizers: frozenset[str] = frozenset()
    has_splats: bool = False
    starts_from: frozenset[Literal["mesh", "splats"]] = frozenset()

    @abstractmethod
    def render(self, cameras: Cameras, context: RenderContext) -> Rendering:
        """Render ``B`` cameras; gradients flow to the parameters."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name under which the optimizer config gives their learning rates."""

    def after_step(self, iteration: int, progress: float, rng: Streams) -> Refinement | None:
        """Bookkeeping after each optimizer step (occupancy refresh, progressive levels).

        The gradients of the step are still there. A returned refinement must be carried out at once
        (:func:`threedistill.representations.refinement.apply_refinement`).
        """
        return None

    def settle(self) -> None:
        """Switch coarse-to-fine schedules off: this stage starts from something, not from nothing."""
        return

    def init_from_mesh(self, mesh: Mesh, rng: Streams) -> None:
        """Take the shape (and the colours, where it can) of a mesh within 0.85 m of the origin."""
        raise NotImplementedError(f"{type(self).__name__}.starts_from names no mesh")

    def init_from_splats(self, splats: Splats) -> None:
        """Take these Gaussians."""
        raise NotImplementedError(f"{type(self).__name__}.starts_from names no splats")

    def pictures(self) -> Float[Tensor, "N H W 3"] | None:
        """What is pictures and no scene has them as its asset: sRGB in [0, 1], detached, on the CPU."""
        return None

    def unedited(self, cameras: Cameras) -> Float[Tensor, "B H W 3"] | None:
        """What the cameras saw before the first step, where it remembers."""
        return None


class ImageSpace(Contract, interface=True):
    """The space a prior works in: pixels in [-1, 1] of some size, a folded version of them, or VAE latents."""

    shape: tuple[int, int, int]

    @abstractmethod
    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """sRGB renders of any size to prior space, differentiable."""

    @abstractmethod
    def decode(self, x0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """Prior space to sRGB in [0, 1]."""

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves its networks, if it has some."""
        return


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


class Prior(Contract, interface=True):
    """What teaches: a frozen diffusion model. It must not be registered as a submodule of the system.

    Attributes:
        name: what it is called in tables and messages.
        space: what it calls pictures.
        path: the noise levels it was trained on.
        licence: of its weights; travels into the asset.
        version: which weights, exactly; travels into the asset and into ``run.json``.
        view_group: how many views of one object it sees at once.
        wants: the conditions that it can be told; nothing is computed for it beside these. An object may want fewer
            than its class names, never others (:meth:`wants_of`).
        differentiable: whether its answers can be differentiated by the sample (:meth:`pull_back`).
    """

    name: str
    space: ImageSpace
    path: NoisePath
    licence: str
    version: str | None = None
    view_group: int = 1
    wants: frozenset[Condition] = frozenset({"text"})
    differentiable: bool = False

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if isinstance(wants := vars(cls).get("wants"), Set):
            check_names(wants, f"{cls.__name__}.wants")

    @abstractmethod
    def conditioning(self, conditions: Conditions) -> Conditioning:
        """Everything the network is told about ``B`` samples, batch first.

        Of the conditions at most those in ``wants`` are there; one that is None (no images: ``()``) is withheld, and
        the network's own null stands for it. Embeddings are cached inside. One call may mix any texts, "" included,
        and ask for the same views several times; all rows share keys and shapes.
        """

    @abstractmethod
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The network's answer for noisy samples (no gradients are kept)."""

    def pull_back(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning,
        cotangent: Float[Tensor, "B C h w"],
    ) -> Float[Tensor, "B C h w"]:  # fmt: skip
        """``(d eps / d x_t)^T cotangent``: a vector-Jacobian product of its answer read as noise."""
        raise ValueError(f"{type(self).__name__} gives no derivatives of its answers")

    @classmethod
    def wants_of(cls, arguments: Mapping[str, Any]) -> frozenset[Condition]:
        """What an object made with these arguments can be told at most: nothing is loaded for what it cannot be."""
        return cls.wants

    @classmethod
    def check_text(cls, text: str, role: Role, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Refuse a text that it has no words for, before weights are loaded; the words of it that change nothing.

        Arguments:
            text: what it would be told.
            role: a prompt describes the object, a negative need not.
            settings: its constructor's arguments, as they are configured.

        Raises:
            UsageError: an :class:`~threedistill.errors.UnknownWords` where only words are unknown.
        """
        return ()

    @classmethod
    def vocabulary(cls) -> dict[str, str]:
        """Its words by topic, for ``threedistill list words``; none where it takes any."""
        return {}

    def to(self, device: torch.device | str) -> Self:
        """Moves the networks to ``device``, in place, and returns the prior."""
        return self

    def prepare(self, wordings: Sequence[Wording]) -> None:
        """All that a run may say, before it says any: what text encoders make of it may be kept."""
        return

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing about a run with it, such as words that it could not hear; kept in ``run.json``."""
        return ()


def vector_jacobian(
    answer: Callable[[Tensor], Prediction], x_t: Float[Tensor, "B C h w"], cotangent: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B C h w"]:
    """``(d eps / d x)^T cotangent`` at ``x_t`` by one backward pass.

    Arguments:
        answer: the prediction as a differentiable function of the sample.
        x_t, cotangent: (B, C, h, w).
    """
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        eps = answer(x).eps
        return torch.autograd.grad(eps, x, cotangent.detach().to(eps))[0].detach()


class NetworkPrior(Prior, interface=True):
    """A prior that is one torch network, so that a student can grow on it.

    Attributes:
        network: the network.
    """

    network: Any
    differentiable: bool = True

    def pull_back(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning,
        cotangent: Float[Tensor, "B C h w"],
    ) -> Float[Tensor, "B C h w"]:  # fmt: skip
        """By one backward pass through the network."""
        return vector_jacobian(lambda x: self.ask(self.network, x, level, conditioning), x_t, cotangent)

    @abstractmethod
    def ask(
        self, network: Any, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """As ``predict``, through another network with the same inputs and outputs, with gradients."""

    @torch.no_grad()
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The network's own answer."""
        return self.ask(self.network, x_t, level, conditioning)


class Student(nn.Module, Prior, interface=True):
    """The score of what is being optimised (VSD, ESD): a module that is asked like a prior and learns.

    Its ``state_dict`` is what it has learned and nothing else. ``conditioning`` carries the student's own camera
    under :data:`STUDENT_CAMERA`; without one it is its null camera.
    """

    differentiable: bool = True

    def pull_back(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning,
        cotangent: Float[Tensor, "B C h w"],
    ) -> Float[Tensor, "B C h w"]:  # fmt: skip
        """By one backward pass; its parameters receive nothing."""
        return vector_jacobian(lambda x: self.answer(x, level, conditioning), x_t, cotangent)

    @property
    @abstractmethod
    def frozen(self) -> Prior:
        """What it answered before its first step."""

    @abstractmethod
    def answer(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """As ``predict``, with gradients to the student's parameters."""

    @torch.no_grad()
    def predict(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """Its answer, without gradients."""
        return self.answer(x_t, level, conditioning)


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


class Critic(Contract, interface=True):
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


#: Where the noise of a step comes from.
NoiseLaw = Literal["fresh", "fixed", "surface"]


class GuidanceRule(Contract, interface=True):
    """Which score-distillation rule: a pure function of evidence.

    Attributes:
        cfg: a :class:`~threedistill.guidance.cfg.CFG`: how it guides, and how what its trajectory asks is guided;
            None = it does not.
        trajectory: a :class:`~threedistill.guidance.trajectory.Trajectory`: how further noisy samples are found; None =
            the step's own ``x_t`` is all.
        group: contiguous views that belong together; must divide the batch.
        differentiates: whether it asks for :meth:`cotangents`' products, of every network that it asks.
        appraises: whether it wants clean samples :meth:`appraised`.
    """

    cfg: Any
    trajectory: Any
    group: int
    differentiates: ClassVar[bool] = False
    appraises: ClassVar[bool] = False

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        # Not in this class's own body: there a dataclass would take them for the defaults of its arguments.
        for name, default in {"cfg": None, "trajectory": None, "group": 1}.items():
            if name not in annotated(cls) and not any(name in vars(base) for base in cls.__mro__):
                setattr(cls, name, default)

    @property
    def noise_law(self) -> NoiseLaw:
        """Fresh noise for every view and step, one for all views and the whole run, or noise on the surface."""
        return "fresh"

    @property
    def noise_turns(self) -> float:
        """How often noise on the surface is replaced over a stage, continuously; 0 = never."""
        return 0.0

    @abstractmethod
    def queries(self, progress: float) -> tuple[Query, ...]:
        """The questions whose answers the rule needs at this point of the stage."""

    def appraised(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"] | None:
        """The clean sample of which ``evidence.appraisal`` is to be; None = of none."""
        return None

    def cotangents(self, evidence: Evidence, progress: float) -> dict[str, Float[Tensor, "B C h w"]]:
        """By which vectors the networks' Jacobians are multiplied, by query name: ``evidence.pulled`` is their sum."""
        return {}

    @abstractmethod
    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The unweighted direction ``g`` (pointing up the loss), detached, shaped like ``x0``."""
