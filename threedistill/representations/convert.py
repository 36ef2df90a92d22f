"""From one representation to another: between the stages of a run, and from a file to the first of them.

    same class, same shapes      the state is copied
    to one that takes a mesh     the source's surface and its colours, then a short fit
    to one that takes splats     the Gaussians themselves, where the source has them
    to a field                   a fit to the source's pictures, from nothing

A fit compares renders with pictures of the source (``representations/fitting.py``), so whatever renders can be
converted into whatever renders differentiably.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated

import torch
from torch import nn

from threedistill.errors import ThreedistillError
from threedistill.protocols import Representation
from threedistill.render.surface import face_crosses, vertex_normals
from threedistill.representations import seeding, splat_color, splat_surface
from threedistill.representations.fitting import fit_to_pictures, pictures_of
from threedistill.rng import Streams
from threedistill.schedule import Schedule, value_at
from threedistill.types import Mesh, Splats
from threedistill.values import Count, Within, settings

__all__ = ["ConvertSettings", "as_mesh", "as_splats", "convert", "without_crumbs"]


@settings
class ConvertSettings:
    """How much care a conversion takes.

    Arguments:
        resolution: cells per axis of the surface in between.
        steps: of a fit from nothing; >= 1.
        polish: steps of the fit that follows a closed-form start; 0 = none.
        views: pictures compared per step.
        size: pixels per side of the pictures; of a schedule its end counts.
        bank: pictures that are taken once and drawn from.
    """

    resolution: Annotated[int, Within(8, 1024)] = 96
    steps: Count = 300
    polish: Annotated[int, Within(0)] = 60
    views: Count = 4
    size: Annotated[int | Schedule, Within(8, 4096)] = 64
    bank: Annotated[int, Within(1, 4096)] = 64

    def __post_init__(self) -> None:
        if self.bank < self.views:
            raise ValueError(f"convert.bank={self.bank} must not be smaller than convert.views={self.views}")


def convert(
    source: Representation | Mesh | Splats, target: Representation, settings: ConvertSettings, rng: Streams,
    rates: Mapping[str, float], on_step: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Make ``target`` show what ``source`` shows, in place.

    Arguments:
        source: within 0.85 m of the origin; a mesh without colours is grey.
        target: freshly built; on the device where it is to be computed.
        settings: see :class:`ConvertSettings`.
        rng: the streams of this conversion: the result depends on them, the source and the settings only.
        rates: learning rate of a fit per parameter group of the target.
        on_step: called with the steps done and their number after every step of a fit.

    Raises:
        ThreedistillError: the source holds no surface, or the fit failed.
    """
    if isinstance(source, nn.Module) and _copied(source, target):
        return
    splats = source if isinstance(source, Splats) else None if isinstance(source, Mesh) else source.splats()
    if splats is not None and "splats" in target.starts_from:
        target.init_from_splats(splats)
        return
    steps = settings.polish
    pictures = pictures_of(source, rng, settings.bank, round(value_at(settings.size, 1.0)))
    if "mesh" in target.starts_from:
        mesh = as_mesh(source, settings.resolution)
        if not isinstance(source, Mesh):
            mesh = without_crumbs(mesh, bound=target.bound)
        target.init_from_mesh(mesh, rng)
    else:
        steps = settings.steps
    if steps:
        fit_to_pictures(
            target, pictures, steps, settings.views, rng, masks=1.0, rates=rates,
            on_step=None if on_step is None else lambda index, *_: on_step(index + 1, steps),
        )  # fmt: skip


def _copied(source: nn.Module, target: Representation) -> bool:
    """Copy the state where both are of one class and shape; what only the target has (a material) begins anew."""
    if type(source) is not type(target):
        return False
    theirs, ours = source.state_dict(), target.state_dict()
    if not theirs.keys() <= ours.keys() or any(theirs[name].shape != ours[name].shape for name in theirs):
        return False
    target.load_state_dict({**ours, **theirs})
    return True


@torch.no_grad()
def as_mesh(source: Representation | Mesh | Splats, resolution: int) -> Mesh:
    """The source's surface, with its colours at the vertices; a mesh is returned as it is.

    Arguments:
        source: a representation, a mesh, or a cloud of splats.
        resolution: cells per axis of the surface.

    Raises:
        ThreedistillError: there is no surface.
    """
    if isinstance(source, Mesh):
        return source
    if isinstance(source, Splats):
        mesh = splat_surface.extract(source, resolution)
        mesh.normals = vertex_normals(mesh.vertices, mesh.faces)
        mesh.colors = splat_color.color(source, mesh.vertices, mesh.normals)
    else:
        mesh = source.extract(resolution)
        mesh.normals = vertex_normals(mesh.vertices, mesh.faces)
        mesh.colors = source.surface_color(mesh.vertices, mesh.normals)
    return mesh


def without_crumbs(mesh: Mesh, bound: float = math.inf, share: float = 0.05) -> Mesh:
    """The mesh without its small separate parts, and without what lies outside a box.

    Optimised fields carry specks, some at the border of their box; the next representation shall not begin with them,
    and may not reach as far.

    Arguments:
        mesh: with vertices in common between neighbouring faces.
        bound: half the side of the box, metres; faces that leave it are dropped.
        share: parts with less than this share of the largest one's area are dropped.

    Raises:
        ThreedistillError: nothing is left.
    """
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    inside = (mesh.vertices.abs() < bound).all(1)
    faces = mesh.faces[inside[mesh.faces].all(1)].long()
    if not len(faces):
        raise ThreedistillError(f"nothing of the object lies within {bound:.2f} m of the origin")
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2).cpu().numpy()
    count = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (count, count))
    label = torch.from_numpy(connected_components(graph, directed=False)[1]).long()[faces[:, 0].cpu()]
    areas = torch.zeros(count, dtype=torch.float64).index_add_(
        0, label, face_crosses(mesh.vertices, faces).norm(dim=1).double().cpu()
    )
    kept = (areas >= share * areas.max())[label].to(faces.device)
    return replace(mesh, faces=faces[kept])


def as_splats(source: Mesh | Splats, count: int = 20_000, rng: Streams | None = None) -> Splats:
    """Flat Gaussians spread over a mesh's surface; splats are returned as they are.

    Arguments:
        source: a mesh or splats.
        count: Gaussians on a mesh.
        rng: where on a mesh; None = seed 0.

    Raises:
        ThreedistillError: a mesh without area.
    """
    if isinstance(source, Splats):
        return source
    return seeding.on_mesh(source, count, rng or Streams(0))
