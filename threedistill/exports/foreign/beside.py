"""What a file names beside itself: pictures and material files, found within its folder or refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.bounded import open_picture
from threedistill.exports.foreign.limits import check_pixels

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Pictures", "beside", "read_beside"]

_KINDS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TGA", "TIFF", "GIF")


def beside(path: Path, name: str) -> Path | None:
    """The file that ``path`` means by ``name``, within its folder; None where there is none.

    A name that leads elsewhere (``C:\\art\\wood.png``, ``../wood.png``), as many programs write it, means the file of
    that name beside this one.
    """
    folder = path.parent.resolve()
    plain = name.strip().strip('"').replace("\\", "/")
    last = PurePosixPath(plain).name
    for candidate in dict.fromkeys([plain, unquote(plain), last, unquote(last)]):
        try:
            file = (folder / candidate).resolve()
            if candidate and file.is_relative_to(folder) and file.is_file():
                return file
        except (OSError, ValueError, RuntimeError):  # names that no file system takes
            continue
    return None


def read_beside(path: Path, name: str, what: str) -> bytes:
    """The bytes of the file that ``path`` means by ``name``.

    Arguments:
        path: the file that names it.
        name: as it stands there.
        what: it in words, with the line that names it, for messages.

    Raises:
        ThreedistillError: it is not within the folder, or cannot be opened.
    """
    file = beside(path, name)
    if file is None:
        shown = re.sub(r"\s+", " ", name)[:80]
        raise ThreedistillError(
            f"cannot read {path}: {what} {shown!r} is missing; put it into {path.parent}, or take the line out"
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise ThreedistillError(
            f"cannot read {path}: {what} {name!r} cannot be opened ({(error.strerror or str(error)).lower()})"
        ) from error


class Pictures:
    """The pictures of one file: bounded together by their own headers, then decoded, each once.

    Arguments:
        path: the file.
        kinds: Pillow's names of the formats that may stand in it.
    """

    def __init__(self, path: Path, kinds: tuple[str, ...] = _KINDS) -> None:
        self.path, self.kinds = path, kinds
        self._decoded: dict[Hashable, Tensor] = {}
        self._pixels = self._bytes = 0

    def named(self, name: str, what: str) -> UInt8[Tensor, "h w 4"]:
        """The picture beside the file that has this name; ``what`` says which line names it.

        Raises:
            ThreedistillError: missing, damaged, too large, or of a kind that is not read.
        """
        key = beside(self.path, name) or name
        return self.once(key, lambda: read_beside(self.path, name, what), f"{what} {name!r}")

    def once(self, key: Hashable, read: Callable[[], bytes], what: str) -> UInt8[Tensor, "h w 4"]:
        """A picture as bytes of red, green, blue and alpha, row 0 at the top; colour profiles are ignored.

        Arguments:
            key: its name among the others.
            read: gives its bytes; called the first time only.
            what: it in words, for messages.

        Raises:
            ThreedistillError: damaged, too large together with those before, or of a kind that is not read.
        """
        if key not in self._decoded:
            data = read()
            opened = open_picture(self.path, data, what, kinds=self.kinds)
            self._pixels, self._bytes = self._pixels + opened.width * opened.height, self._bytes + len(data)
            check_pixels(self.path, self._pixels, self._bytes)
            try:
                self._decoded[key] = _rgba(opened)
            except MemoryError:
                raise
            except Exception as error:  # decoders fail in many ways
                raise ThreedistillError(f"cannot read {self.path}: {what} is damaged") from error
        return self._decoded[key]


def _rgba(opened: Image.Image) -> UInt8[Tensor, "h w 4"]:
    if opened.mode.startswith("I") or opened.mode == "F":  # 16 bits of grey, which Pillow would cut at 255
        grey = np.asarray(opened, dtype=np.float64)
        grey = (grey / (257 if grey.max(initial=0) > 255 else 1)).round().clip(0, 255).astype(np.uint8)
        return torch.from_numpy(np.stack([grey, grey, grey, np.full_like(grey, 255)], -1))
    return torch.from_numpy(np.array(opened.convert("RGBA")))
