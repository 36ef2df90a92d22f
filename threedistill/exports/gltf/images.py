"""The pictures of a glTF file: bounded by their own headers, then decoded, each once."""

from __future__ import annotations

from jaxtyping import UInt8
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.beside import decoded
from threedistill.exports.foreign.limits import check_pixels
from threedistill.exports.gltf.accessors import Accessors
from threedistill.exports.gltf.container import Gltf, pick, unsound

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
        picture = decoded(self.gltf.path, data, what, _KINDS)
        self._pixels, self._bytes = (
            self._pixels + picture.shape[0] * picture.shape[1],
            self._bytes + len(data),
        )
        check_pixels(self.gltf.path, self._pixels, self._bytes)
        return picture
