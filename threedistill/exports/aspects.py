"""What an asset has, and what of it a format cannot hold: the words of ``convert``'s line about losses."""

from __future__ import annotations

from threedistill.exports.formats import Aspect, Format
from threedistill.types import Mesh, Splats

__all__ = ["aspects", "dropped"]

#: Facts about how the asset was laid out, which mean nothing outside the file they came from.
_INTERNAL = {"frame", "texture layout"}


def aspects(asset: Mesh | Splats, unlit: bool = False) -> set[Aspect]:
    """What an asset has beyond its shape.

    Arguments:
        asset: a mesh or splats.
        unlit: whether its colours contain their light.
    """
    found: dict[Aspect, bool] = {"facts": bool(set(asset.extras) - _INTERNAL)}
    if isinstance(asset, Splats):
        found["view dependence"] = asset.sh.shape[1] > 1 and bool(asset.sh[:, 1:].any())
    else:
        mapped = asset.uv is not None
        found |= {
            "texture": mapped and asset.texture is not None,
            "vertex colours": asset.colors is not None and not (mapped and asset.texture is not None),
            "normal map": mapped and asset.normal_map is not None,
            "metalness and roughness": asset.metallic_roughness is not None,
            "emission": asset.emission is not None,
            "transparency": asset.alpha is not None,
            "unlit": unlit,
        }
    return {name for name, there in found.items() if there}


def dropped(asset: Mesh | Splats, row: Format) -> list[str]:
    """What a format takes from an asset, in words; that colours are shown lit is no loss of a file's."""
    lost = [name for name in row.loses if name in aspects(asset)]
    if "texture" in lost and "vertex colours" not in row.loses:
        lost[lost.index("texture")] = "texture (its colours go to the vertices)"
    return lost
