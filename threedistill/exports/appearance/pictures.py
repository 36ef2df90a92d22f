"""A mesh's pictures as files hold them, and what is seen of it where only one colour is known."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.exports.files import roughness_and_metal
from threedistill.render.mesh import picture_at, sample_texture
from threedistill.render.shading import linear_to_srgb, srgb_to_linear
from threedistill.types import Mesh

__all__ = ["glowing", "is_constant", "one_size", "pictures_of", "with_vertex_colors", "within_one"]

#: How far inside its face a corner's colour is looked up, in texels, or half the way to its middle where that is less.
_INSIDE = 1.5


def is_constant(picture: Tensor | None) -> bool:
    """Whether a picture is a single texel: a number rather than a picture."""
    return picture is not None and picture.shape[:2] == (1, 1)


def pictures_of(mesh: Mesh) -> dict[str, Tensor]:
    """The pictures in [0, 1] that a file needs, by what they show, as glTF and USD both take them.

    ``base-colour`` has a fourth channel where the mesh has ``alpha``; ``metallic-roughness`` is packed as in glTF;
    ``emission`` is to be multiplied with its strength (:func:`within_one`). Constants are not among them, since both
    formats have numbers for those, and without texture coordinates there are none.
    """
    if mesh.uv is None:
        return {}
    found: dict[str, Tensor | None] = {"base-colour": mesh.texture}
    if mesh.alpha is not None and not (is_constant(mesh.alpha) and mesh.texture is None):
        colour = mesh.texture if mesh.texture is not None else mesh.alpha.new_ones(*mesh.alpha.shape[:2], 3)
        found["base-colour"] = torch.cat(one_size(colour, mesh.alpha), -1)
    found["normal"] = mesh.normal_map
    if mesh.metallic_roughness is not None and not is_constant(mesh.metallic_roughness):
        found["metallic-roughness"] = roughness_and_metal(mesh.metallic_roughness)
    if mesh.emission is not None and not is_constant(mesh.emission):
        found["emission"] = within_one(mesh.emission)[0]
    return {kind: image for kind, image in found.items() if image is not None}


def within_one(emission: Float[Tensor, "H W 3"]) -> tuple[Float[Tensor, "H W 3"], float]:
    """Emission as a picture in [0, 1], and the strength (linear, at least 1) to multiply it with."""
    if float(emission.max()) <= 1:
        return emission, 1.0
    linear = srgb_to_linear(emission)
    strength = float(linear.max())
    return linear_to_srgb(linear / strength), strength


def one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two pictures of one square, both on a grid that is as fine as either's."""
    height, width = (max(a, b) for a, b in zip(first.shape[:2], second.shape[:2]))

    def resized(picture: Tensor) -> Tensor:
        if picture.shape[:2] == (height, width):
            return picture
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        places = torch.stack([x / width, 1 - y / height], -1).reshape(-1, 2).to(picture)
        return sample_texture(picture, places).reshape(height, width, -1)

    return resized(first), resized(second)


def glowing(mesh: Mesh) -> Mesh:
    """The mesh with its emission added to its colours, in linear light: for places that know only one colour.

    Where the colours are the vertices' and the emission is a picture, a plain colour becomes a picture, and others
    get the emission at the vertices.
    """
    if mesh.emission is None:
        return mesh
    base, colors = mesh.texture, mesh.colors

    def added(color: Tensor, emission: Tensor) -> Tensor:
        return linear_to_srgb(srgb_to_linear(color) + srgb_to_linear(emission)).clamp(0, 1)

    if base is None and mesh.uv is not None and (colors is None or bool((colors == colors[:1]).all())):
        plain = torch.ones(3) if colors is None else colors[0]
        base = plain.expand(1, 1, 3)
        if is_constant(mesh.emission):
            base = None
    if base is not None and mesh.uv is not None:
        base = added(*one_size(base, mesh.emission))
    if colors is not None or base is None:
        colors = torch.ones_like(mesh.vertices) if colors is None else colors
        colors = added(colors, picture_at(mesh, mesh.emission, lambda values: values))
    if mesh.texture is None and base is not None:
        colors = None
    return replace(mesh, texture=base, colors=colors, emission=None)


def with_vertex_colors(mesh: Mesh) -> Mesh:
    """The mesh with its texture's colours at its vertices where it has no others.

    A corner lies where pictures end, and there a lookup mixes in what is beyond (the opposite side of a picture that
    repeats). So each corner is looked up a little inside its face, and a vertex gets the mean of its corners.
    """
    if mesh.colors is not None or mesh.texture is None or mesh.uv is None:
        return mesh
    height, width = mesh.texture.shape[:2]
    texels = torch.tensor([width, height]).to(mesh.uv)
    middle = mesh.uv[mesh.faces].mean(1)
    sums = torch.zeros(len(mesh.vertices), 3, dtype=torch.float64)
    for corner in mesh.faces.T:
        inwards = middle - mesh.uv[corner]
        length = (inwards * texels).norm(dim=1, keepdim=True).clamp(min=1e-12)
        place = mesh.uv[corner] + inwards * (_INSIDE / length).clamp(max=0.5)
        seen = sample_texture(mesh.texture, place, mesh.wrap).double()
        sums += torch.stack([torch.bincount(corner, c, len(sums)) for c in seen.T], 1)
    uses = torch.bincount(mesh.faces.flatten(), minlength=len(sums))
    alone = picture_at(mesh, mesh.texture, lambda values: values)
    colors = torch.where((uses > 0)[:, None], (sums / uses.clamp(min=1)[:, None]).to(alone), alone)
    return replace(mesh, colors=colors)
