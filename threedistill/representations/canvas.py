"""A picture instead of a scene: what a guidance rule does, in seconds, without a renderer in between."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.errors import ThreedistillError, UsageError
from threedistill.memory import need
from threedistill.protocols import RenderContext, Representation
from threedistill.types import Cameras, Mesh, Rendering
from threedistill.values import Count, Within, checked

__all__ = ["Canvas"]


class Canvas(Representation):
    """``rgb = sigmoid(theta)``: one picture that every camera sees, or several that take turns.

    View ``i`` of a step sees picture ``i mod pictures``, so with as many pictures as views each has its own and they
    only meet in the student. There is no object: opacity is 1, depth 0, and nothing can be extracted.

    Arguments:
        size: pixels per side.
        pictures: how many.
        noise: standard deviation of the initial ``theta`` (grey with grain); random, so seeded by the run.
        picture: file of a picture to start from instead; what an edit (``guidance=dds``) is compared with.

    Raises:
        UsageError: the file cannot be read as a picture.
    """

    shows = frozenset({"rgb", "opacity", "depth"})

    start: Tensor

    @checked
    def __init__(
        self, size: Annotated[int, Within(8, 8192)] = 64, pictures: Count = 1,
        noise: Annotated[float, Within(0, 100)] = 0.3, picture: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        need(48 * size * size * pictures, f"{pictures} pictures of {size} pixels a side")
        self.size, self.count = size, pictures
        if picture is None:
            theta = noise * torch.randn(pictures, size, size, 3)
        else:
            theta = torch.logit(_read(picture, size), eps=1e-3).expand(pictures, -1, -1, -1).clone()
        self.theta = nn.Parameter(theta)
        self.register_buffer("start", theta.clone())

    def pictures(self) -> Float[Tensor, "N H W 3"]:
        """All pictures, sRGB in [0, 1], detached on the CPU."""
        return self.theta.detach().sigmoid().cpu()

    def render(self, cameras: Cameras, context: RenderContext) -> Rendering:
        """(B, H, W, 3) the pictures in turn, whatever the cameras and the background."""
        rgb = self._shown(self.theta.sigmoid(), cameras)
        blank = rgb.new_zeros(*rgb.shape[:-1], 1)
        return Rendering(rgb, blank + 1, blank, context.background.to(rgb))

    def unedited(self, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
        """What the same views saw before the first step."""
        return self._shown(self.start.sigmoid(), cameras)

    def _shown(self, pictures: Tensor, cameras: Cameras) -> Tensor:
        rows = torch.arange(len(cameras), device=pictures.device) % self.count
        shown = pictures[rows]
        if (cameras.height, cameras.width) == (self.size, self.size):
            return shown
        return torch.nn.functional.interpolate(
            shown.permute(0, 3, 1, 2), (cameras.height, cameras.width), mode="bilinear", antialias=True,
            align_corners=False,
        ).permute(0, 2, 3, 1)  # fmt: skip

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group, ``canvas``."""
        return {"canvas": [self.theta]}

    def extract(self, resolution: int) -> Mesh:
        """Refused.

        Raises:
            ThreedistillError: always.
        """
        raise ThreedistillError(
            "representation=canvas is a picture and has no surface; its result is asset/model.png. For a 3D asset use "
            "representation=hashgrid"
        )

    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """Refused, as :meth:`extract`."""
        self.extract(0)
        raise AssertionError


def _read(path: str, size: int) -> Float[Tensor, "1 H W 3"]:
    """A picture file over white, as large as the canvas."""
    import numpy
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(Path(path).expanduser()) as file:
            over: Any = Image.new("RGBA", file.size, "white")
            over.alpha_composite(file.convert("RGBA"))
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(
            f"representation.model.picture={path}: cannot be read as a picture ({error})"
        ) from None
    pixels = numpy.asarray(over.convert("RGB").resize((size, size), Image.Resampling.BOX))
    return torch.from_numpy(pixels.copy()).float()[None] / 255
