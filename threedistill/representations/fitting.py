"""Fit a representation to pictures of something known: the ceiling of what it can show, and how conversions end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import CameraSampler
from threedistill.errors import ThreedistillError
from threedistill.protocols import RenderContext, Representation
from threedistill.render.mesh import render_mesh
from threedistill.render.splat import render_splats
from threedistill.render.volume import over
from threedistill.representations.background import BackgroundSampler
from threedistill.representations.refinement import apply_refinement
from threedistill.rng import Streams
from threedistill.schedule import Ramp
from threedistill.types import Cameras, Mesh, Rendering, Shading, Splats

__all__ = ["Pictures", "fit_photometric", "fit_to_pictures", "pictures_of"]

#: The rates decay to a tenth over the second half.
_DECAY = Ramp(start=1.0, end=0.1, at=0.5, over=0.5, shape="log")


@dataclass(frozen=True)
class Pictures:
    """Views of something known.

    Attributes:
        cameras: ``B`` views, stratified in azimuth, in its order.
        rgba: (B, H, W, 4) sRGB premultiplied with opacity, and the opacity, in [0, 1].
    """

    cameras: Cameras
    rgba: Float[Tensor, "B H W 4"]


@torch.no_grad()
def pictures_of(
    source: Representation | Mesh | Splats, streams: Streams, count: int, size: int, shading: Shading = "none"
) -> Pictures:
    """``count`` square views of a mesh, of splats, or of what a representation shows at the end of its stage.

    Arguments:
        source: within 0.85 m of the origin.
        streams: of the cameras.
        count: number of views.
        size: pixels per side.
        shading: of the pictures; splats carry theirs.
    """
    cameras = CameraSampler(views=count).sample(replace(streams, iteration=0), size)
    rows = [list(range(start, min(start + 8, count))) for start in range(0, count, 8)]
    black = torch.zeros(8, 3)
    pieces = []
    for part in rows:
        views, behind = cameras[part], black[: len(part)]
        if isinstance(source, Mesh):
            out = render_mesh(source, views, shading=shading, background=behind)
        elif isinstance(source, Splats):
            out = render_splats(source, views, behind)
        else:
            out = source.render(views, RenderContext(progress=1.0, background=behind, shading=shading))
        pieces.append(torch.cat([out.rgb, out.opacity], -1))
    return Pictures(cameras, torch.cat(pieces))


def fit_photometric(
    representation: Representation, mesh: Mesh, steps: int = 1000, views: int = 4, seed: int = 0, *,
    size: int = 64, bank: int = 96, shading: Shading = "lambertian", rates: Mapping[str, float],
    on_step: Callable[[int, Rendering, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Minimise ``mean (render - truth)^2`` over random views of ``mesh`` and random backgrounds, in sRGB.

    Cameras, backgrounds, rates and bookkeeping are those of a distillation run; only the teacher is replaced by the
    truth. Nothing but the colours is compared: no masks, no depth, no regularisers.

    Arguments:
        representation: optimised in place.
        mesh: the truth, with vertex colours or a texture, within 0.85 m of the origin.
        steps, views: optimizer steps and views per step.
        seed: of the cameras, backgrounds and jitter.
        size: pixels per side.
        bank: number of ground-truth views that are rendered once and drawn from.
        shading: of the truth; the representation bakes it in.
        rates: learning rate per parameter group, as in the representation's configuration (``lr``).
        on_step: called with (step, rendering, loss) after every step.

    Returns:
        the loss of every step.

    Raises:
        ThreedistillError: a parameter group without a rate, or a loss that is not finite.
    """
    streams = Streams(seed)
    pictures = pictures_of(mesh, streams, bank, size, shading)
    return fit_to_pictures(representation, pictures, steps, views, streams, rates=rates, on_step=on_step)


def fit_to_pictures(
    representation: Representation, pictures: Pictures, steps: int, views: int, streams: Streams, *,
    masks: float = 0.0, rates: Mapping[str, float],
    on_step: Callable[[int, Rendering, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Minimise ``mean (render - picture)^2 + masks mean (opacity - mask)^2`` over random views and backgrounds.

    Arguments:
        representation: optimised in place.
        pictures: the truth.
        steps, views: optimizer steps and views per step; at most as many views as there are pictures.
        streams: of the views, backgrounds and jitter.
        masks: weight of the silhouettes.
        rates: learning rate per parameter group, as in the representation's configuration (``lr``).
        on_step: called with (step, rendering, loss) after every step.

    Returns:
        the loss of every step.

    Raises:
        ThreedistillError: a parameter group without a rate, or a loss that is not finite.
    """
    groups = representation.parameter_groups()
    if missing := [name for name in groups if name not in rates]:
        raise ThreedistillError(
            f"the fit has no learning rate for {', '.join(missing)}; name them under lr in the representation's YAML"
        )
    base = {name: rates[name] for name in groups}
    optimizer = torch.optim.Adam(
        [{"params": list(parameters), "lr": base[name], "name": name} for name, parameters in groups.items()],
        betas=(0.9, 0.99), eps=1e-15, foreach=True,
    )  # fmt: skip
    cameras, truth, bank = pictures.cameras, pictures.rgba, len(pictures.rgba)
    device = next(p.device for parameters in groups.values() for p in parameters)
    sampler = BackgroundSampler(clearance=0.0)
    losses = []
    for index in range(steps):
        rng, progress = streams.at(index), index / steps
        # One view from each part of the (azimuth-ordered) bank, so a batch covers the circle.
        part = bank / views
        rows = [int((k + float(u)) * part) for k, u in enumerate(rng.uniform("fit/views", views))]
        background = sampler.sample(rng, views).to(device)
        target = over(truth[rows][..., :3].to(device), truth[rows][..., 3:].to(device), background)
        out = representation.render(
            cameras[rows].to(device), RenderContext(progress, background, rng, terms=frozenset())
        )
        loss = (out.rgb - target).square().mean()
        if masks:
            loss = loss + masks * (out.opacity - truth[rows][..., 3:].to(device)).square().mean()
        for row in optimizer.param_groups:
            row["lr"] = base[row["name"]] * _DECAY(progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        refinement = representation.after_step(index, progress, rng)
        if refinement is not None:
            apply_refinement(optimizer, representation, refinement)
        losses.append(float(loss.detach()))
        if not losses[-1] < float("inf"):
            raise ThreedistillError(
                f"the fit failed: the loss is {losses[-1]} at step {index}; lower the rates"
            )
        if on_step is not None:
            on_step(index, out, losses[-1])
    return losses
