"""``student=sketch``: the score of the renders by the embedded prior itself, shown a sketch of them that is learned.

    eps_phi(x_t; y, c) = eps(x_t; y, c, draw(C(y) + phi; c))

C(y) is the sketch's cloud of splats for the words y, phi what is learned of it: places, sizes, opacities, shares of the
paints, paints and light. The network that reads the sketch stays as it is. A few thousand numbers say what the renders
look like from every camera at once, so that they are learned within some tens of steps, where adapters on the network,
which have to find out from single pictures what a camera is, need hundreds.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.prediction import Prediction, PredictionKind
from threedistill.priors.student import told_cameras
from threedistill.protocols import STUDENT_CAMERA, ImageSpace, NoisePath, Prior, Student
from threedistill.toybox.conditioning import background_vectors
from threedistill.toybox.priors.embedded import ToyboxPrior
from threedistill.toybox.sketch import Cloud
from threedistill.toybox.teacher import conditioning as inputs
from threedistill.types import Condition, Conditioning, NoiseLevel
from threedistill.values import settings

__all__ = ["SketchStudent", "Sketched"]

#: Opacities and shares are changed on a logarithmic scale, which ends here.
_LEAST = 1e-4


class SketchStudent(Student):
    """The embedded prior with a cloud of its own.

    A fresh one is the teacher, told its camera where there is one.

    Arguments:
        prior: the teacher, on its device.
    """

    licence = "Apache-2.0"
    wants: frozenset[Condition] = frozenset({"text", "camera", "background"})

    def __init__(self, prior: ToyboxPrior) -> None:
        super().__init__()
        self.name = f"{prior.name} student"
        self.space: ImageSpace = prior.space
        self.path: NoisePath = prior.path
        self.kind: PredictionKind = prior.kind
        sketch: Any = prior.pipeline.sketch
        sizes = {"means": (3,), "scales": (3,), "opacities": (), "features": (sketch.slots,), "light": (2,)}
        self.changes = nn.ParameterDict(
            {name: torch.zeros(sketch.splats, *size) for name, size in sizes.items()}
        )
        self.changes["palette"] = torch.zeros(sketch.slots, 3)
        self.to(prior.device)
        # A tuple hides the teacher from module registration.
        self._unregistered = (prior,)

    @property
    def frozen(self) -> Prior:
        """A fresh one."""
        return SketchStudent(self._unregistered[0])

    def _changed(self, cloud: Cloud) -> Cloud:
        """The cloud as it is learned to be."""
        by = self.changes
        return cloud._replace(
            means=cloud.means + by["means"],
            scales=cloud.scales * by["scales"].exp(),
            opacities=torch.sigmoid(torch.logit(cloud.opacities, _LEAST) + by["opacities"]),
            features=torch.softmax(cloud.features.clamp(min=_LEAST).log() + by["features"], -1),
            light=cloud.light + by["light"],
            palette=cloud.palette + by["palette"],
        )

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """The words, the background, and its own camera; what is drawn of them changes as it learns."""
        told, prior = conditions.only(self.wants), self._unregistered[0]
        kept = prior.kept(told.wordings, ("tokens", "told"))
        behind = background_vectors(told.background, len(told)).to(prior.device)
        camera = told_cameras(told.cameras, len(told), prior.device)
        return {**kept, "background": behind, STUDENT_CAMERA: camera}

    def answer(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The network's answer to the learned sketch, with gradients to what is learned."""
        prior, given = self._unregistered[0], conditioning
        picture = prior.pipeline.sketch(given["told"], given[STUDENT_CAMERA], self._changed)
        seen = inputs(given["tokens"], given["told"], picture, given[STUDENT_CAMERA], given["background"])
        return prior.ask(prior.network, x_t, level, seen)


@settings
class Sketched:
    """``student=sketch``: see :class:`SketchStudent`; for the embedded prior's transformer alone."""

    def check(self, prior: type) -> None:
        """Refuse other priors before they are loaded.

        Raises:
            UsageError: with the student that fits.
        """
        if not issubclass(prior, ToyboxPrior):
            raise UsageError(
                f"student=sketch grows on prior=toybox alone, not {prior.__name__}; use student=lora"
            )

    def attach(self, prior: Prior, seed: int) -> SketchStudent:
        """A fresh student of this teacher; nothing in it is random."""
        self.check(type(prior))
        assert isinstance(prior, ToyboxPrior)
        if not prior.pipeline.shows:
            raise UsageError(
                "student=sketch needs the transformer's weights (prior.model.folder); use student=lora"
            )
        return SketchStudent(prior)
