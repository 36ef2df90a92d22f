"""The pictures of a glTF file: bounded by their own headers, then decoded, each once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.bounded import open_picture
from threedistill.exports.gltf_accessors import Accessors
from threedistill.exports.gltf_container import Gltf, pick, unsound
from threedistill.exports.limits import check_pixels

__all__ = ["Images"]

_KINDS = ("PNG", "JPEG", "WEBP", "AVIF")
_KTX2 = b"\xabKTX 20\xbb\r\n\x1a\n"


class Images:
    """Reads the pictures of an open file.

    Arguments:
        gltf: the file.
        accessors: its buffer views.
    """

    def __init__(self, gltf: Gltf, accessors: Accessors) -> None:
        self.gltf, self.accessors = gltf, accessors
        self._read: dict[int, Tensor] = {}
        self._pixels = self._bytes = 0

    def picture(self, index: int) -> UInt8[Tensor, "h w 4"]:
        """An image as bytes of red, green, blue and alpha, row 0 at the top; its colour profile is ignored (3.8.2).

        Raises:
            ThreedistillError: missing, damaged, too large, or of a kind that is not read.
        """
        if index not in self._read:
            self._read[index] = self._decoded(index)
        return self._read[index]

    def _decoded(self, index: int) -> Tensor:
        image = pick(self.gltf, self.gltf.document.images, index, "a texture names image")
        what = f"image {index}"
        if image.uri is not None:
            data = self.gltf.resource(image.uri, what)
        elif image.buffer_view is not None:
            data = bytes(self.accessors.view(image.buffer_view, what)[0])
        else:
            raise unsound(self.gltf.path, f"{what} has neither a uri nor a bufferView")
        if data.startswith(_KTX2):
            raise ThreedistillError(
                f"cannot read {self.gltf.path}: {what} is KTX2, which is not supported; convert it: "
                "npx @gltf-transform/cli ktxdecompress IN OUT"
            )
        opened = open_picture(self.gltf.path, data, what, kinds=_KINDS)
        self._pixels, self._bytes = self._pixels + opened.width * opened.height, self._bytes + len(data)
        check_pixels(self.gltf.path, self._pixels, self._bytes)
        try:
            if (
                opened.mode.startswith("I") or opened.mode == "F"
            ):  # 16 bits of grey, which Pillow would cut at 255
                grey = np.asarray(opened, dtype=np.float64)
                grey = (
                    (grey / (257 if grey.max(initial=0) > 255 else 1)).round().clip(0, 255).astype(np.uint8)
                )
                rgba = np.stack([grey, grey, grey, np.full_like(grey, 255)], -1)
            else:
                rgba = np.array(opened.convert("RGBA"))
        except MemoryError:
            raise
        except Exception as error:  # decoders fail in many ways
            raise ThreedistillError(f"cannot read {self.gltf.path}: {what} is damaged") from error
        return torch.from_numpy(rgba)
