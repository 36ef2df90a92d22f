"""From one representation to another: between the stages of a run, and from a file to the first of them.

    same class, same shapes      the state is copied
    to one that takes a mesh     the source's surface and its colours, then a short fit
    to one that takes splats     the Gaussians themselves, where the source has them
    to a field                   a fit to the source's pictures, from nothing

A fit compares renders with pictures of the source (``representations/fitting.py``), so whatever renders can be
converted into whatever renders differentiably.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from threedistill.protocols import Representation
from threedistill.render.mesh import vertex_normals
from threedistill.representations.fitting import fit_to_pictures, pictures_of
from threedistill.rng import Streams
from threedistill.types import Mesh, Splats

__all__ = ["ConvertSettings", "FromMesh", "FromSplats", "as_mesh", "convert"]


@runtime_checkable
class FromMesh(Protocol):
    """A representation with a closed-form start from a surface."""

    def init_from_mesh(self, mesh: Mesh, rng: Streams) -> None:
        """Take the shape (and the colours, where it can) of a mesh within 0.85 m of the origin."""
        ...


@runtime_checkable
class FromSplats(Protocol):
    """A representation that is made of Gaussians."""

    def init_from_splats(self, splats: Splats) -> None:
        """Take these Gaussians."""
        ...


@dataclass(frozen=True)
class ConvertSettings:
    """How much care a conversion takes.

    Arguments:
        resolution: cells per axis of the surface in between.
        steps: of a fit from nothing; >= 1.
        polish: steps of the fit that follows a closed-form start; 0 = none.
        views: pictures compared per step.
        size: pixels per side of the pictures.
        bank: pictures that are taken once and drawn from.
    """

    resolution: int = 96
    steps: int = 300
    polish: int = 60
    views: int = 4
    size: int = 64
    bank: int = 64

    def __post_init__(self) -> None:
        for name, least in {
            "resolution": 8,
            "steps": 1,
            "polish": 0,
            "views": 1,
            "size": 8,
            "bank": 1,
        }.items():
            if getattr(self, name) < least:
                raise ValueError(f"convert.{name}={getattr(self, name)} must be at least {least}")
        if self.bank < self.views:
            raise ValueError(f"convert.bank={self.bank} must not be smaller than convert.views={self.views}")


def convert(
    source: Representation | Mesh | Splats, target: Representation, settings: ConvertSettings, rng: Streams
) -> None:
    """Make ``target`` show what ``source`` shows, in place.

    Arguments:
        source: within 0.85 m of the origin; a mesh without colours is grey.
        target: freshly built; on the device where it is to be computed.
        settings: see :class:`ConvertSettings`.
        rng: the streams of this conversion: the result depends on them, the source and the settings only.

    Raises:
        ThreedistillError: the source holds no surface, or the fit failed.
    """
    if isinstance(source, nn.Module) and _copied(source, target):
        return
    pictures = pictures_of(source, rng, settings.bank, settings.size)
    steps = settings.polish
    if isinstance(target, FromSplats) and (splats := _splats(source)) is not None:
        target.init_from_splats(splats)
    elif isinstance(target, FromMesh):
        target.init_from_mesh(as_mesh(source, settings.resolution), rng)
    else:
        steps = settings.steps
    if steps:
        fit_to_pictures(target, pictures, steps, settings.views, rng, masks=1.0)


def _copied(source: nn.Module, target: Representation) -> bool:
    """Copy the state where both are of one class and shape."""
    assert isinstance(target, nn.Module)
    if type(source) is not type(target):
        return False
    theirs, ours = source.state_dict(), target.state_dict()
    if theirs.keys() != ours.keys() or any(theirs[name].shape != ours[name].shape for name in ours):
        return False
    target.load_state_dict(theirs)
    return True


def _splats(source: Representation | Mesh | Splats) -> Splats | None:
    if isinstance(source, Splats):
        return source
    return source.splats() if hasattr(source, "splats") else None  # pyright: ignore


@torch.no_grad()
def as_mesh(source: Representation | Mesh | Splats, resolution: int) -> Mesh:
    """The source's surface with its colours at the vertices.

    Raises:
        ThreedistillError: there is no surface.
    """
    if isinstance(source, Mesh):
        return source
    if isinstance(source, Splats):
        raise NotImplementedError
    mesh = source.extract(resolution)
    mesh.normals = vertex_normals(mesh)
    mesh.colors = source.surface_color(mesh.vertices, mesh.normals)
    return mesh
