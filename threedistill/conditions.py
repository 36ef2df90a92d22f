"""What networks may be told about a batch of views, as data; each prior turns what it wants of it into tensors.

A :class:`Conditions` holds facts about the views and nothing of any network: words, cameras, colours, pictures. A fact
that is None (no images: ``()``) is withheld, and a prior answers as it was trained to without it. A prior names what it
can be told in ``Prior.wants``, a question what it withholds in ``Query.withheld``: the questions of classifier-free
guidance, of Perp-Neg and of guidance by two conditions withhold different things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.types import Cameras, Condition, Rendering

__all__ = ["CONDITIONS", "MAPS", "Conditions", "ReferenceImage", "Role", "Wording", "check_names"]

#: ``prompt``: what the picture is to show. ``negative``: what guidance leads away from, the empty text included. Some
#: text encoders put an instruction before prompts only.
Role = Literal["prompt", "negative"]

#: Everything that can be told.
CONDITIONS: Final[tuple[Condition, ...]] = get_args(Condition)

#: What a view itself shows, as pictures: what ControlNets, inpainting and depth models are told.
MAPS: tuple[Condition, ...] = ("rgb", "opacity", "depth", "normal")

#: Where a condition stands in :class:`Conditions`; of the others the name is the field's.
_FIELDS = {"text": "texts", "camera": "cameras", "image": "images"}


def check_names(names: Collection[str], where: str) -> None:
    """Refuse names of conditions that do not exist.

    Raises:
        ValueError: with the names that do.
    """
    if unknown := sorted(set(names) - set(CONDITIONS)):
        raise ValueError(
            f"{where}: there is no condition {unknown[0]!r} (there are: {', '.join(CONDITIONS)})"
        )


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class Wording:
    """A text and what it is for."""

    text: str
    role: Role = "prompt"

    @property
    def fingerprint(self) -> str:
        """Equal for equal wordings only; what caches of embeddings are keyed by."""
        return _digest(self.role.encode(), self.text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, eq=False)
class ReferenceImage:
    """A picture of the object that a network is shown beside the words.

    Arguments:
        rgba: (H, W, 4) sRGB and opacity in [0, 1], not premultiplied; opacity 1 where the file has none.
        camera: the one camera that it was taken with; None = unknown.
    """

    rgba: Float[Tensor, "H W 4"]
    camera: Cameras | None = None

    def __post_init__(self) -> None:
        if self.rgba.ndim != 3 or self.rgba.shape[-1] != 4:
            raise ValueError(f"ReferenceImage: rgba must be (H, W, 4), got {tuple(self.rgba.shape)}")
        if self.camera is not None and len(self.camera) != 1:
            raise ValueError(f"ReferenceImage: one picture has one camera, got {len(self.camera)}")

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal pixels seen by equal cameras; what caches of embeddings are keyed by."""
        camera = () if self.camera is None else (_bytes(self.camera.c2w), _bytes(self.camera.fov_y))
        return _digest(str(tuple(self.rgba.shape)).encode(), _bytes(self.rgba), *camera)

    def over(self, background: Float[Tensor, "3"] | None = None) -> Float[Tensor, "H W 3"]:
        """The picture over one colour, sRGB; None = white."""
        rgb, opacity = self.rgba[..., :3], self.rgba[..., 3:]
        behind = torch.ones(3) if background is None else background
        return rgb * opacity + behind.to(rgb) * (1 - opacity)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Conditions:
    """The facts about ``B`` samples that networks may be told; what is None is withheld.

    Arguments:
        texts: one per sample; "" = nothing is said.
        cameras: the ``B`` views.
        background: (B, 3) sRGB colours behind the object.
        images: reference pictures, the same for all samples.
        rgb: (B, H, W, 3) what the views show, sRGB in [0, 1].
        opacity: (B, H, W, 1) in [0, 1].
        depth: (B, H, W, 1) metres along the unit ray, 0 where nothing was hit.
        normal: (B, H, W, 3) unit normals in the world, 0 where nothing was hit.
        roles: what each text is for; () = "" is a negative, all others are prompts.

    Raises:
        ValueError: facts about different numbers of samples.
    """

    texts: Sequence[str] = ()
    cameras: Cameras | None = None
    background: Float[Tensor, "B 3"] | None = None
    images: tuple[ReferenceImage, ...] = ()
    rgb: Float[Tensor, "B H W 3"] | None = None
    opacity: Float[Tensor, "B H W 1"] | None = None
    depth: Float[Tensor, "B H W 1"] | None = None
    normal: Float[Tensor, "B H W 3"] | None = None
    roles: Sequence[Role] = ()

    def __post_init__(self) -> None:
        roles: tuple[Role, ...] = tuple(self.roles) or tuple(
            "prompt" if t else "negative" for t in self.texts
        )
        object.__setattr__(self, "texts", tuple(self.texts))
        object.__setattr__(self, "roles", roles)
        counts = {name: len(value) for name, value in self._rows().items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"Conditions: {said} do not belong together")

    def _rows(self) -> dict[str, Sequence[object] | Cameras | Tensor]:
        """What has a row per sample, by field."""
        names = ("texts", "roles", "cameras", "background", *MAPS)
        found = {name: value for name, value in ((n, vars(self)[n]) for n in names) if value is not None}
        return {name: value for name, value in found.items() if name not in ("texts", "roles") or value}

    def __len__(self) -> int:
        return next((len(value) for value in self._rows().values()), 0)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Conditions:
        index = torch.arange(len(self))[rows].tolist()
        picked = {
            name: tuple(value[i] for i in index) if isinstance(value, tuple) else value[rows]  # type: ignore[index]
            for name, value in self._rows().items()
        }
        return replace(self, **picked)  # pyright: ignore[reportArgumentType]

    @property
    def given(self) -> frozenset[Condition]:
        """What is told."""
        told: dict[Condition, object] = {name: vars(self)[_FIELDS.get(name, name)] for name in CONDITIONS}
        return frozenset[Condition](
            name
            for name, value in told.items()
            if value is not None and not (isinstance(value, tuple) and not value)
        )

    @property
    def wordings(self) -> tuple[Wording, ...]:
        """The texts with their roles."""
        return tuple(Wording(text, role) for text, role in zip(self.texts, self.roles, strict=True))

    def saying(self, texts: Sequence[str], role: Role | None = None) -> Conditions:
        """The same facts with these texts; one role for all, or as by default."""
        return replace(self, texts=tuple(texts), roles=() if role is None else (role,) * len(texts))

    def only(self, names: Collection[str]) -> Conditions:
        """The same samples, told these conditions and no others; texts stay, where nothing else counts the samples."""
        withheld: list[Condition] = [name for name in CONDITIONS if name not in names]
        return self.without(*withheld)

    def without(self, *names: Condition) -> Conditions:
        """The same samples with some conditions withheld; withheld texts are empty ones.

        Raises:
            ValueError: a condition that does not exist.
        """
        check_names(names, "Conditions.without")
        blank: dict[str, object] = {"text": ("",) * len(self.texts), "image": ()}
        changes = {_FIELDS.get(name, name): blank.get(name) for name in names}
        if "text" in names:
            changes["roles"] = ()
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def showing(self, rendering: Rendering, names: Collection[str]) -> Conditions:
        """The same samples with what their views show, detached: of :data:`MAPS` those that are named.

        Raises:
            ValueError: the rendering has no such map.
        """
        shown = {field.name: vars(rendering)[field.name] for field in fields(rendering) if field.name in MAPS}
        wanted = {name: shown[name] for name in MAPS if name in names}
        if missing := [name for name, value in wanted.items() if value is None]:
            raise ValueError(
                f"a network wants the {missing[0]} of the views, which this rendering does not show"
            )
        return replace(self, **{name: value.detach() for name, value in wanted.items()})
