"""Reference views, heard by the sketch: the cloud of what the words say is fitted to what the pictures show.

    min over z, a, s, p of   mean |draw(C(w + z); a, s, p) - picture|^2 + priors

C is the sketch's cloud of splats, w what the words say of it. What may change is what objects of one caption differ in:
the words' vector (z), the size along each axis (a) and the place (s), and the paints (p). A paint is the same on all
sides, and what no picture shows of the size follows what they do show, so the far side becomes the other side of the
object in the picture and not of any such object.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import camera_vectors, orbit
from threedistill.toybox.sketch import Cloud, draw_cloud, placed

__all__ = ["backdrop", "fit_cloud", "likely_camera"]

#: Azimuths at which a view without a camera is looked for.
_AROUND = 12
#: Adam's rate for size, place and paints, and for the words' vector in units of its size.
_RATE, _WORDS_RATE = 0.02, 0.004
#: Weights of the priors: of all that changes, of what all pictures see end-on, and of the words' vector.
_SMALL, _UNSEEN, _WORDS = 1e-3, 1.0, 1e-3


def backdrop(picture: Float[Tensor, "3 H W"]) -> Float[Tensor, "3"]:
    """The colour behind the object: the median of the picture's border."""
    border = torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], 1)
    return border.median(1).values


def fit_cloud(
    cloud: Callable[[Tensor], Cloud],
    told: Float[Tensor, "T"],
    pictures: Float[Tensor, "R 3 H W"],
    cameras: Float[Tensor, "R 14"],
    steps: int = 150,
) -> tuple[Cloud, float]:
    """The cloud (of one row) that looks like the pictures from their cameras, and the mean squared error that is left.

    Arguments:
        cloud: of what is told (1, W).
        told: what the words say.
        pictures: sRGB in [0, 1], at the sketch's size; what is behind the object is read off their borders.
        cameras: their camera vectors.
        steps: of Adam.
    """
    size, unit = pictures.shape[-1], told.square().mean().sqrt()
    behind = torch.stack([backdrop(p) for p in pictures])[:, :, None, None]
    # How far each axis points along all views: there size and place cannot be told from perspective.
    unseen = placed(cameras, size).c2w[:, :3, 2].square().mean(0).square()
    with torch.enable_grad():
        start = cloud(told[None])
        grow, shift, words = (
            torch.zeros(n, device=told.device, requires_grad=True) for n in (3, 3, len(told))
        )
        paint = torch.zeros_like(start.palette).requires_grad_()
        optimizer = torch.optim.Adam(
            [{"params": [grow, shift, paint]}, {"params": [words], "lr": _WORDS_RATE}], lr=_RATE
        )

        def changed() -> Cloud:
            found = cloud((told + unit * words)[None])
            return found._replace(
                means=found.means * grow.exp() + shift,
                scales=found.scales * grow.mean().exp(),
                palette=found.palette + paint,
            )

        error = torch.zeros(())
        for _ in range(steps):
            rows = Cloud(*(x.expand(len(pictures), *x.shape[1:]) for x in changed()))
            drawn = draw_cloud(rows, cameras, size)
            error = (drawn[:, :3] + (1 - drawn[:, 3:]) * behind - pictures).square().mean()
            small = grow.square().mean() + shift.square().mean() + paint.square().mean()
            hidden = (unseen * ((grow - grow.mean()).square() + shift.square())).sum()
            loss = error + _SMALL * small + _UNSEEN * hidden + _WORDS * words.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return Cloud(*(x.detach() for x in changed())), float(error.detach())


def likely_camera(
    cloud: Callable[[Tensor], Cloud], told: Float[Tensor, "T"], picture: Float[Tensor, "3 H W"]
) -> Float[Tensor, "14"]:
    """The camera vector, of some all around, from which the words' cloud is soonest like the picture."""
    vectors = camera_vectors(orbit(_AROUND), _AROUND).to(told)
    errors = [fit_cloud(cloud, told, picture[None], v[None], steps=20)[1] for v in vectors]
    return vectors[errors.index(min(errors))]
