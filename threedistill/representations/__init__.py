"""What is optimised: the representations, and what they share (occupancy, backgrounds)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.protocols import RenderContext, Representation
    from threedistill.representations.background import BackgroundSampler
    from threedistill.representations.canvas import Canvas
    from threedistill.representations.convert import ConvertSettings, as_mesh, as_splats
    from threedistill.representations.dmtet import DMTet
    from threedistill.representations.fitting import fit_photometric
    from threedistill.representations.gaussians import Gaussians
    from threedistill.representations.hashgrid import HashGrid
    from threedistill.types import Cameras, Mesh, Rendering, Splats

__all__ = [
    "BackgroundSampler", "Cameras", "Canvas", "ConvertSettings", "DMTet", "Gaussians", "HashGrid", "Mesh",
    "RenderContext", "Rendering", "Representation", "Splats", "as_mesh", "as_splats",
    "fit_photometric",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
