"""The pictures of a glTF file: bounded by their own headers, then decoded, each once."""

from __future__ import annotations

from jaxtyping import UInt8
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.beside import Pictures
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
        self._pictures = Pictures(gltf.path, _KINDS)

    def picture(self, index: int) -> UInt8[Tensor, "h w 4"]:
        """An image as bytes of red, green, blue and alpha, row 0 at the top; its colour profile is ignored (3.8.2).

        Raises:
            ThreedistillError: missing, damaged, too large, or of a kind that is not read.
        """
        return self._pictures.once(index, lambda: self._bytes(index), f"image {index}")

    def _bytes(self, index: int) -> bytes:
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
        return data
