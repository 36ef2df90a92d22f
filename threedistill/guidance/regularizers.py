"""What keeps a shape sensible beside the prior: small functions of a rendering, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.schedule import ScheduledNonNegative, value_at
from threedistill.types import Rendering
from threedistill.values import Below, checked

__all__ = [
    "OFFERED", "TERMS", "Regularizers", "opacity_entropy", "sparsity", "term", "total_variation", "tv_color",
    "tv_depth",
]  # fmt: skip


def opacity_entropy(rendering: Rendering) -> Float[Tensor, ""]:
    """``mean -(o ln o + (1 - o) ln(1 - o)) / ln 2``, in [0, 1]: every ray should hit or miss
    (DreamFusion's "opaque").
    """
    o = rendering.opacity.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean() / math.log(2)


def sparsity(rendering: Rendering) -> Float[Tensor, ""]:
    """``mean sqrt(o^2 + 0.01)``: the object should not fill the picture (DreamFusion, arXiv 2209.14988,
    section 3.1).
    """
    return (rendering.opacity**2 + 0.01).sqrt().mean()


def total_variation(picture: Float[Tensor, "B H W C"]) -> Float[Tensor, ""]:
    """``mean (x_(i+1, j) - x_ij)^2 + mean (x_(i, j+1) - x_ij)^2``."""
    return (picture[:, 1:] - picture[:, :-1]).square().mean() + (
        picture[:, :, 1:] - picture[:, :, :-1]
    ).square().mean()


def tv_color(rendering: Rendering) -> Float[Tensor, ""]:
    """:func:`total_variation` of the picture; LucidDreamer's is twice that."""
    return total_variation(rendering.rgb)


def tv_depth(rendering: Rendering) -> Float[Tensor, ""]:
    """:func:`total_variation` of the depth, square metres; 0 where nothing is hit, as LucidDreamer's, which is twice
    that.
    """
    return total_variation(rendering.depth)


#: The terms that are functions of a rendering. The others are the representation's own
#: (``Representation.regularizers``).
TERMS: dict[str, Callable[[Rendering], Tensor]] = {
    "opacity_entropy": opacity_entropy, "sparsity": sparsity, "tv_color": tv_color, "tv_depth": tv_depth,
}  # fmt: skip

#: Those of them that every representation offers; the gradient of depth is not in every picture of depth.
OFFERED = frozenset(TERMS) - {"tv_depth"}


def term(name: str, rendering: Rendering) -> Float[Tensor, ""]:
    """A term by name: one of :data:`TERMS`, or the mean of ``rendering.stats[name]``.

    Raises:
        ValueError: the rendering has none.
    """
    if name in TERMS:
        return TERMS[name](rendering)
    if name not in rendering.stats:
        raise ValueError(
            f"regularizers.weights.{name} needs a rendering with stats[{name!r}], which this representation and "
            f"shading do not compute; set regularizers.weights.{name}=0"
        )
    return rendering.stats[name].mean()


class Regularizers(nn.Module):
    """``sum_k lambda_k r_k``, absolute or relative to the strength of the guidance.

    Adam hides the scale of the direction ``g``, so weights tuned for one rule break the next. ``relative``
    therefore multiplies by ``rms(g) C h w``: with ``lambda = 1`` the derivative of a term with respect to a
    pixel, before its mean is taken, counts as much as a typical element of ``g``.

    Arguments:
        weights: per term, numbers or schedules of progress; 0 leaves a term out.
        scale: ``relative`` or ``absolute``.
        memory: decay of the running RMS per step, in [0, 1).
    """

    rms_squared: Tensor

    @checked
    def __init__(
        self,
        weights: dict[str, ScheduledNonNegative],
        scale: Literal["relative", "absolute"] = "relative",
        memory: Annotated[float, Below(1)] = 0.95,
    ) -> None:
        super().__init__()
        self.weights, self.scale, self.memory = weights, scale, memory
        self.register_buffer("rms_squared", torch.zeros(()))
        self.elements = 1

    @torch.no_grad()
    def observe(self, direction: Float[Tensor, "B C h w"]) -> None:
        """Tells the running RMS this step's weighted direction (done by :meth:`forward`)."""
        now = direction.float().square().mean()
        self.elements = direction[0].numel()
        if torch.isfinite(now):
            first = bool(self.rms_squared == 0)
            self.rms_squared.copy_(now if first else self.memory * self.rms_squared + (1 - self.memory) * now)

    @property
    def factor(self) -> Float[Tensor, ""]:
        """What every weight is multiplied by: ``rms(g) C h w``, or 1."""
        relative = self.scale == "relative"
        return self.rms_squared.sqrt() * self.elements if relative else torch.ones_like(self.rms_squared)

    def active(self, progress: float) -> dict[str, float]:
        """The weights that are not 0, by name of the term."""
        now = {name: value_at(given, progress) for name, given in self.weights.items()}
        return {name: weight for name, weight in now.items() if weight}

    def terms(self, rendering: Rendering, progress: float) -> dict[str, tuple[float, Tensor]]:
        """The active terms: weight and value, by name."""
        return {name: (weight, term(name, rendering)) for name, weight in self.active(progress).items()}

    def forward(
        self, rendering: Rendering, progress: float, direction: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, ""]:
        """The weighted sum for one step, whose weighted guidance direction is ``direction``."""
        self.observe(direction)
        total = rendering.rgb.new_zeros(())
        for weight, value in self.terms(rendering, progress).values():
            total = total + weight * self.factor * value
        return total
