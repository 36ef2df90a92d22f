"""What all students share (their camera, their loss), and the Gaussian student, whose optimum is known.

A student learns the score of the renders themselves: it is trained to denoise them,

    L = E_{t, eps} w ||net(alpha x0 + sigma eps, t, y, c) - target||^2,

on detached renders ``x0`` seen by cameras ``c``. Source: Wang et al. 2023 (ProlificDreamer), arXiv 2305.16213.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threedistill.cameras import CAMERA_SIZE, camera_vectors
from threedistill.conditions import Conditions
from threedistill.prediction import Prediction, PredictionKind, training_target
from threedistill.priors.analytic import gaussian_eps
from threedistill.protocols import STUDENT_CAMERA, ImageSpace, NoisePath, Prior, Student
from threedistill.types import Cameras, Condition, Conditioning, NoiseLevel
from threedistill.values import Within, settings

__all__ = ["Gaussian", "GaussianStudent", "denoising_loss", "drop_cameras", "told_cameras"]

#: The weight ``1 / sigma^2`` that turns an error in x0 into one in v grows without limit; at most this.
MAX_WEIGHT = 5.0


def drop_cameras(conditioning: Conditioning, dropped: Bool[Tensor, "B"]) -> Conditioning:
    """The same conditioning with the student's camera withheld from some rows."""
    told = conditioning[STUDENT_CAMERA]
    return {**conditioning, STUDENT_CAMERA: told.masked_fill(dropped.to(told.device)[:, None], 0.0)}


def told_cameras(cameras: Cameras | None, rows: int, device: torch.device) -> Float[Tensor, "B 14"]:
    """What a student is told of its cameras; the last number is 1 where there is one, all are 0 where there is none."""
    return camera_vectors(cameras, rows).to(device)


def denoising_loss(
    prediction: Prediction, x0: Float[Tensor, "B C h w"], noise: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B"]:
    """``mean |value - target|^2`` per sample, in what the network predicts.

    Of eps, v and flow the plain error counts. An error in x0 counts ``min(1 / sigma^2, 5)``: that is the error in v,
    bounded near t = 0, where an x0-network is all but exact.
    """
    target = training_target(prediction.kind, x0, noise, prediction.level)
    error = (prediction.value.float() - target.float()).square().flatten(1).mean(1)
    if prediction.kind == "x0":
        error = error * prediction.level.sigma.to(error).square().reciprocal().clamp(max=MAX_WEIGHT)
    return error


class GaussianStudent(Student):
    """A Gaussian of the renders: one of all views, and one whose mean depends on the camera.

    With features ``f(c)`` (azimuth and elevation in sines and cosines, and 1) the student is the exact score of

        q(x0 | c) = N(W f(c), diag(exp(2 r)))        q(x0) = N(m, diag(exp(2 r0)))

    so ``eps = sigma (x_t - alpha mean) / (alpha^2 S^2 + sigma^2)``. For renders that are Gaussian its loss has its
    minimum at their mean and standard deviation, at every noise level. It needs no network.

    Arguments:
        space, path: the teacher's.
        std: standard deviation it starts with, around 0.
    """

    name = "gaussian student"
    licence = "Apache-2.0"
    wants: frozenset[Condition] = frozenset({"camera"})

    def __init__(self, space: ImageSpace, path: NoisePath, std: float = 0.5) -> None:
        super().__init__()
        self.space, self.path = space, path
        self.kind: PredictionKind = "eps"
        start = torch.full(space.shape, float(std)).log()
        self.mean = nn.Parameter(torch.zeros(space.shape))
        self.log_std = nn.Parameter(start.clone())
        self.camera_mean = nn.Parameter(torch.zeros(CAMERA_SIZE, *space.shape))
        self.camera_log_std = nn.Parameter(start.clone())
        self._start = std
        self._camera: Tensor | None = None

    @property
    def frozen(self) -> Prior:
        """A fresh one."""
        return GaussianStudent(self.space, self.path, self._start).to(self.mean)

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """The cameras; it is told neither words nor background."""
        return {STUDENT_CAMERA: told_cameras(conditions.cameras, len(conditions), self.mean.device)}

    @contextlib.contextmanager
    def active(self, conditioning: Conditioning) -> Iterator[Conditioning]:
        """The context in which it knows the cameras of these rows."""
        before, self._camera = self._camera, conditioning[STUDENT_CAMERA]
        try:
            yield {k: v for k, v in conditioning.items() if k != STUDENT_CAMERA}
        finally:
            self._camera = before

    def answer(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The Gaussian's score, with gradients."""
        with self.active(conditioning):
            assert self._camera is not None
            camera = self._camera.to(self.mean)
            told = camera[:, -1].view(-1, 1, 1, 1) > 0
            mean = torch.where(told, torch.einsum("bf,fchw->bchw", camera, self.camera_mean), self.mean)
            variance = torch.where(told, (2 * self.camera_log_std).exp(), (2 * self.log_std).exp())
            return Prediction(gaussian_eps(x_t, level, mean.to(x_t), variance.to(x_t)), "eps", x_t, level)


@settings
class Gaussian:
    """``student=gaussian``: see :class:`GaussianStudent`; for priors without a network.

    Arguments:
        std: standard deviation it starts with, around 0.
    """

    std: Annotated[float, Within(1e-6, 1e6)] = 0.5

    def check(self, prior: type) -> None:
        """Fits every prior."""

    def attach(self, prior: Prior, seed: int) -> GaussianStudent:
        """A fresh student for this teacher; nothing in it is random."""
        return GaussianStudent(prior.space, prior.path, self.std)
