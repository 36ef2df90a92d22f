"""Parts of several materials as one mesh: no picture, no factor and no colour is dropped without a word.

From the least to the most work, the first that is exact is taken:

1. one material whose pictures share their coordinates: the pictures as they are, times its factors;
2. no pictures at all: colours at the vertices, everything else as constants or a palette;
3. otherwise an atlas (:mod:`threedistill.exports.appearance.atlas`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.exports.appearance.atlas import atlas
from threedistill.exports.appearance.groups import Group, coverage, encoded, shown, stacked
from threedistill.exports.appearance.materials import Lookup, Material, Texels, settled, texels
from threedistill.exports.appearance.pictures import one_size
from threedistill.exports.foreign.limits import current
from threedistill.render.shading import linear_to_srgb
from threedistill.types import Mesh

__all__ = ["Joined", "Part", "joined"]

_SAME = 1e-5
_CHUNK = 1 << 18
#: Texels of an atlas where the limit on pixels is lifted.
_MOST_TEXELS = 1 << 26


@dataclass
class Part:
    """Triangles of one material.

    Attributes:
        vertices: (N, 3) metres.
        faces: (F, 3) counter-clockwise from outside.
        normals: (N, 3), or None.
        uvs: (N, 2) coordinates by the number of their set, origin at the bottom left.
        colors: (N, 4) linear factors of the base colour, or None.
        material: how it looks.
    """

    vertices: Float[Tensor, "N 3"]
    faces: Int[Tensor, "F 3"]
    normals: Float[Tensor, "N 3"] | None
    uvs: dict[int, Float[Tensor, "N 2"]]
    colors: Float[Tensor, "N 4"] | None
    material: Material


@dataclass
class Joined:
    """What :func:`joined` returns.

    Attributes:
        mesh: everything in one.
        unlit: the colours contain their light.
        lost: what could not be kept, a phrase each.
    """

    mesh: Mesh
    unlit: bool
    lost: list[str]


def joined(parts: Sequence[Part], most_pixels: int | None = None) -> Joined:
    """The parts as one mesh.

    Arguments:
        parts: at least one, with faces.
        most_pixels: of an atlas; what needs more is brought to a coarser grid, and that is said. None = the limit on
            a file's pixels.
    """
    lost: list[str] = []
    most_pixels = most_pixels or current().pixels or _MOST_TEXELS
    groups = _grouped([_simplified(part, lost) for part in parts])
    unlit = all(group.material.unlit for group in groups)
    if len(groups) == 1 and _shared(groups[0]):
        mesh = _one(groups[0])
    elif not any(group.material.lookups or _painted(group, unlit) for group in groups):
        mesh = _plain(groups, unlit)
    else:
        mesh = atlas(groups, unlit, most_pixels, lost)
    if not unlit and any(group.material.unlit for group in groups):
        lost.append("unlit materials beside lit ones (they give off their colour instead)")
    sides = {group.material.double_sided for group in groups}
    mesh.double_sided = True in sides
    if len(sides) > 1:
        lost.append("single sides of some materials (all show both)")
    return Joined(mesh, unlit, list(dict.fromkeys(lost)))


def _simplified(part: Part, lost: list[str]) -> Part:
    """The part with equal vertex colours made a factor, and without pictures that no coordinates reach."""
    material, colors = settled(part.material), part.colors
    missing = [slot for slot, lookup in material.lookups.items() if lookup.uv_set not in part.uvs]
    if missing:
        lost.append("pictures of parts that have no texture coordinates")
        material = replace(material, **dict.fromkeys(missing))
    if colors is not None and float((colors - colors[:1]).abs().max()) < _SAME:
        factor = [a * b for a, b in zip(material.color, colors[0].double().tolist())]
        material = replace(material, color=(factor[0], factor[1], factor[2], factor[3]))
        colors = None
    return replace(part, material=material, colors=colors)


def _grouped(parts: list[Part]) -> list[Group]:
    """The parts by material, in the order of their first."""
    by: dict[tuple[object, ...], list[Part]] = {}
    for part in parts:
        sets = tuple(sorted({lookup.uv_set for lookup in part.material.lookups.values()}))
        by.setdefault((part.material, part.colors is None, sets), []).append(part)
    with_normals = any(part.normals is not None for part in parts)
    return [_gathered(members, with_normals) for members in by.values()]


def _flat(part: Part) -> Part:
    """The part with its faces' normals, each corner its own: what a part without normals looks like."""
    corner = part.faces.reshape(-1)
    a, b, c = part.vertices.double()[part.faces].unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1, eps=1e-30)
    return replace(
        part, vertices=part.vertices[corner], faces=torch.arange(len(corner)).reshape(-1, 3),
        normals=normal.to(part.vertices).repeat_interleave(3, 0),
        uvs={k: values[corner] for k, values in part.uvs.items()},
        colors=None if part.colors is None else part.colors[corner],
    )  # fmt: skip


def _gathered(parts: list[Part], with_normals: bool) -> Group:
    if with_normals:
        parts = [part if part.normals is not None else _flat(part) for part in parts]
    start, faces = 0, []
    normals = [part.normals for part in parts if part.normals is not None]
    for part in parts:
        faces.append(part.faces + start)
        start += len(part.vertices)
    colors = [part.colors for part in parts if part.colors is not None]
    sets = set(parts[0].uvs).intersection(*(part.uvs for part in parts))
    return Group(
        torch.cat([part.vertices for part in parts]), torch.cat(faces), torch.cat(normals) if with_normals else None,
        {k: torch.cat([part.uvs[k] for part in parts]) for k in sets}, torch.cat(colors) if colors else None,
        parts[0].material,
    )  # fmt: skip


def _mapping(lookup: Lookup) -> tuple[object, ...]:
    return lookup.uv_set, lookup.transform, lookup.wrap


def _shared(group: Group) -> bool:
    """Whether one set of coordinates serves all pictures, and no colour has to be painted into them."""
    material = group.material
    if len({_mapping(lookup) for lookup in material.lookups.values()}) > 1:
        return False
    return group.colors is None or (material.base is None and not _painted(group, material.unlit))


def _painted(group: Group, unlit: bool) -> bool:
    """Whether vertex colours say what only a picture can: varying coverage, or light given off."""
    if group.colors is None:
        return False
    varies = float((group.colors[:, 3] - group.colors[0, 3]).abs().max()) > _SAME
    return (varies and group.material.alpha != "opaque") or (group.material.unlit and not unlit)


def _one(group: Group) -> Mesh:
    """A mesh with the material's own pictures, each on its own grid."""
    material = group.material
    mesh = Mesh(group.vertices, group.faces, normals=group.normals)
    for lookup in material.lookups.values():
        mesh.uv, mesh.wrap = lookup.place(group.uvs[lookup.uv_set]), lookup.wrap
    old = material.reflectance is not None  # there the colour needs both pictures
    look = ("base", "specular") if old else ("base",)
    if any(slot in material.lookups for slot in look):
        mesh.texture = _drawn(material, look, lambda found: linear_to_srgb(found.color))
    else:
        base = texels(material, {}, None, 1).color.expand(len(mesh.vertices), 3)
        linear = base if group.colors is None else base * group.colors[:, :3]
        mesh.colors = linear_to_srgb(linear.clamp(0, 1)).contiguous()
    if material.alpha != "opaque":
        factor = 1.0 if group.colors is None else float(group.colors[0, 3])
        mesh.alpha = _drawn(material, ("base",), lambda found: found.coverage * factor)
        mesh.alpha_cutoff = material.cutoff if material.alpha == "mask" else None
    if not material.unlit or material.packed is not None:
        slots = look if old else ("packed",)
        mesh.metallic_roughness = _unless_default(_drawn(material, slots, lambda found: found.metal))
    if material.normal is not None and material.normal_scale == 1:  # to the byte
        mesh.normal_map = material.normal.picture[..., :3].float() / 255
    elif material.normal is not None:
        mesh.normal_map = _drawn(material, ("normal",), lambda found: encoded(found.normal))
    if max(material.glow) > 0:
        mesh.emission = _drawn(material, ("emission",), lambda found: linear_to_srgb(found.glow))
    return mesh


def _drawn(material: Material, slots: Sequence[str], shown: Callable[[Texels], Tensor]) -> Tensor:
    """A picture of what the material shows on the grid of these slots' pictures; of several, on the finer one's."""
    pictures = {slot: material.lookups[slot].picture for slot in slots if slot in material.lookups}
    if len(pictures) == 2:
        pictures = dict(zip(pictures, one_size(*(picture.float() for picture in pictures.values()))))
    height, width = next(iter(pictures.values())).shape[:2] if pictures else (1, 1)
    step = max(_CHUNK // width, 1)
    whole: Tensor | None = None
    for top in range(0, height, step):  # bounded memory at any size
        part = {slot: picture[top : top + step] for slot, picture in pictures.items()}
        values = {slot: rows.reshape(-1, 4).float() / 255 for slot, rows in part.items()}
        found = shown(texels(material, values, None, min(step, height - top) * width))
        if whole is None:
            whole = found.new_empty(height, width, found.shape[1])
        whole[top : top + step] = found.reshape(-1, width, found.shape[1])
    assert whole is not None
    return whole


def _plain(groups: list[Group], unlit: bool) -> Mesh:
    """Colours at the vertices; where the rest of the materials differs, a palette with a place for each."""
    vertices, faces, normals = stacked(groups)
    looks = [texels(group.material, {}, None, 1) for group in groups]
    colors = []
    for k, group in enumerate(groups):
        looks[k] = shown(looks[k], group.material, unlit)
        base = looks[k].color.expand(len(group.vertices), 3)
        if group.colors is not None:
            base = base * group.colors[:, :3]
            looks[k].coverage = looks[k].coverage * group.colors[0, 3]
        colors.append(base)
    mesh = Mesh(vertices, faces, normals=normals, colors=linear_to_srgb(torch.cat(colors).clamp(0, 1)))
    metal = torch.cat([look.metal for look in looks])
    glow = torch.cat([look.glow for look in looks])
    cover = coverage(groups)
    rest = [metal, glow, torch.cat([cover.of(g.material, look.coverage) for g, look in zip(groups, looks)])]
    if all(bool((values == values[:1]).all()) for values in rest):
        rest = [values[:1, None] for values in rest]
    else:
        side = math.ceil(math.sqrt(len(groups)))
        owner = torch.cat([torch.full((len(g.vertices),), k) for k, g in enumerate(groups)])
        place = torch.stack([owner % side, owner // side], 1)
        mesh.uv = (place + 0.5) / side
        mesh.uv[:, 1] = 1 - mesh.uv[:, 1]
        rest = [_palette(values, side) for values in rest]
    metal, glow, alpha = rest
    mesh.metallic_roughness = None if unlit else _unless_default(metal)
    mesh.emission = linear_to_srgb(glow) if bool((glow > 0).any()) else None
    if cover.mode != "opaque":
        mesh.alpha, mesh.alpha_cutoff = alpha, cover.cutoff
    return mesh


def _palette(values: Float[Tensor, "K C"], side: int) -> Float[Tensor, "H W C"]:
    """A square of ``side`` x ``side`` fields, row by row from the top, four texels a side: filtering mixes none."""
    full = torch.cat([values, values[-1:].expand(side * side - len(values), -1)])
    return full.reshape(side, side, -1).repeat_interleave(4, 0).repeat_interleave(4, 1)


def _unless_default(metal: Float[Tensor, "H W 2"]) -> Float[Tensor, "H W 2"] | None:
    """None for rough and no metal, which is what a mesh without a material is."""
    plain = bool((metal == torch.tensor([0.0, 1.0])).all())
    return None if plain else metal.contiguous()
