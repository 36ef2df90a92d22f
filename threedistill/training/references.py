"""``--image FILE``: reference pictures that networks are shown beside the words, kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from threedistill.atomic import write_bytes
from threedistill.cameras import orbit
from threedistill.conditions import ReferenceImage
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.foreign.beside import Pictures
from threedistill.training.plan import PicturePlan
from threedistill.training.tensor_file import Damaged, read_tensors, tensor_bytes

__all__ = ["load_images", "read_images", "save_images"]

_KINDS = ("PNG", "JPEG", "WEBP", "AVIF")


def read_images(plans: Sequence[PicturePlan]) -> tuple[ReferenceImage, ...]:
    """The pictures that are asked for, in their order.

    Networks see squares: a picture stands in the middle of one that is transparent around it. A camera is given by its
    azimuth and elevation; it sees that square from where previews are taken, 2.9 m away with a field of view of 44
    degrees.

    Raises:
        UsageError: a file that is missing, damaged, too large, or no picture.
    """
    found: list[ReferenceImage] = []
    for plan in plans:
        path = Path(plan.file).expanduser()
        try:
            picture = Pictures(path, _KINDS).once(path, path.read_bytes, "the picture")
        except OSError as error:
            raise UsageError(f"--image {path}: {(error.strerror or str(error)).lower()}") from None
        except ThreedistillError as error:
            raise UsageError(f"--image {path}: {str(error).removeprefix(f'cannot read {path}: ')}") from None
        found.append(_reference(picture, plan.camera))
    return tuple(found)


def _reference(picture: torch.Tensor, angles: Sequence[float] | None) -> ReferenceImage:
    """A picture of bytes, (H, W, 4), seen from (azimuth, elevation) in degrees."""
    height, width = picture.shape[:2]
    size, camera = max(height, width), None
    square = picture.new_zeros(size, size, 4)
    square[(size - height) // 2 :, (size - width) // 2 :][:height, :width] = picture
    if angles is not None:
        azimuth, elevation = angles
        camera = orbit(1, elevation=elevation, start=azimuth).resized(size, size)
    return ReferenceImage(square.float() / 255, camera)


def save_images(images: Sequence[ReferenceImage], path: Path) -> None:
    """Keep the pictures in the run's folder: what happens to the user's files no longer matters."""
    tensors = {
        f"{i}": (image.rgba * 255).round().to(torch.uint8).contiguous() for i, image in enumerate(images)
    }
    write_bytes(path, tensor_bytes(tensors, {"kind": "images"}))


def load_images(path: Path, plans: Sequence[PicturePlan]) -> tuple[ReferenceImage, ...]:
    """What :func:`save_images` kept, seen from where the plans say.

    Raises:
        ThreedistillError: the file is missing or damaged.
    """
    try:
        tensors, _ = read_tensors(path)
        return tuple(_reference(tensors[str(i)], plan.camera) for i, plan in enumerate(plans))
    except (Damaged, FileNotFoundError, KeyError, ValueError):
        raise ThreedistillError(
            f"{path}, the run's copy of its --image files, is missing or damaged; start the run anew with --overwrite"
        ) from None
