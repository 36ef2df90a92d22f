"""A prior in its true shape without its weights: on ``meta``, where nothing is stored, or of random numbers."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from threedistill.conditions import Conditions
from threedistill.errors import ThreedistillError, UsageError
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.elsewhere import Elsewhere, empty_network
from threedistill.priors.families import FAMILIES, Facts, Family, Picture, Recorded
from threedistill.priors.footprint import size_of
from threedistill.priors.known_models import ENCODERS, KNOWN, PUBLISHED, Known
from threedistill.priors.loading import Source, find
from threedistill.priors.precision import DtypeName
from threedistill.priors.space import LatentSpace
from threedistill.types import Conditioning

__all__ = ["COUNTED", "OutlinedPrior", "shape_of"]

#: Families of which it is known unloaded what their networks are told.
COUNTED: tuple[type[Family], ...] = tuple(family for family in FAMILIES if family is not Recorded)


def shape_of(model: str, home: str | None, mirrors: tuple[str, ...], revision: str | None) -> Known | Source:
    """A model's configurations: its own where it can be read, the published ones where it is known.

    Arguments:
        model, home, mirrors, revision: as for :class:`DiffusersPrior`.

    Raises:
        ThreedistillError: neither.
    """
    try:
        return find(model, tuple(mirrors) if home in (None, model) else (), revision)
    except ThreedistillError:
        if model in KNOWN:
            return KNOWN[model]
        raise


class OutlinedPrior(DiffusersPrior):
    """A prior whose networks have the right shapes and nothing in them.

    What it is told has the right shapes too; nobody can tell what it says.

    Arguments:
        family: the adapter of its family.
        shape: :func:`shape_of` a model.
        name, size, one_by_one, dtype: as for :class:`DiffusersPrior`; ``auto`` is float32.
        device: ``meta``, or where random numbers are to be; what is not of the pipeline's folder is on ``meta``.

    Attributes:
        found: whether all that it is made of is here.
        encoder_bytes: of its text encoders as they are stored.
        sight_bytes: of what embeds reference pictures, in float32.
    """

    def __init__(
        self, *, name: str, family: Family, shape: Known | Source, size: int | None = None, one_by_one: bool = False,
        dtype: DtypeName = "auto", device: str = "meta",
    ) -> None:  # fmt: skip
        if type(family) not in COUNTED:
            raise UsageError(
                f"prior {name}: what the networks of {type(family).__name__} are told is not known unloaded, so they "
                "cannot be counted"
            )
        self.name, self.family, self.wants = name, family, family.wants
        self._dtype_name = "float32" if dtype == "auto" else dtype
        index, configs = shape.index, {} if isinstance(shape, Source) else shape.configs
        if isinstance(shape, Source):
            parts = ("scheduler", *family.components(), "vae", "image_encoder")
            configs = {part: shape.config(part) for part in parts if shape.has(part)}
        elsewhere = family.elsewhere()
        self.found = isinstance(shape, Source) and all(place.here for place in elsewhere.values())
        own = dict(configs)
        if "image_encoder" in elsewhere:
            place = elsewhere["image_encoder"]
            if not place.here:
                self._known(place, ENCODERS)
            config = place.config() if place.here else ENCODERS[place.place, place.inside]
            configs = {**configs, "image_encoder": config}
        missing = [part for part in family.components() if part not in configs and part not in elsewhere]
        if missing:
            raise UsageError(
                f"prior {name}: the shape of its {missing[0]} is not known here; give a folder that has it"
            )
        facts = Facts(index, configs)
        family.check(facts)
        self.facts = Facts(index, configs, size or family.native_size(facts))
        self.path, self.kind = family.path(self.facts)
        classes = family.classes()
        with torch.device(device):
            built = {
                part: _built(configs[part], classes.get(part))
                for part in (*family.components(), "vae")
                if part in own and part not in elsewhere
            }
        for part, place in elsewhere.items():
            if part in family.components():
                if not place.here:
                    self._known(place, PUBLISHED)
                built[part] = place.load(empty=True) if place.here else family.outline(part, self.facts)
        self._parts = {part: built[part] for part in family.components()}
        self.network = family.assemble(self._parts)
        self._sight = None
        if "image" in family.wants:
            kind = elsewhere["image_encoder"].kind if "image_encoder" in elsewhere else None
            kind = kind or "CLIPVisionModelWithProjection"
            self._sight = empty_network(kind, self.facts.configs["image_encoder"])
        self.sight_bytes = 0 if self._sight is None else size_of(self._sight, torch.float32)
        self.space = family.space(built.get("vae"), self.facts)
        if isinstance(self.space, LatentSpace):
            self.space.one_by_one = one_by_one
        self.encoder_bytes = _encoder_bytes(shape, family)
        self.licence, self.version, self.view_group = "none", None, family.view_group
        self.to(device)

    def _known(self, place: Elsewhere, published: Collection[tuple[str, str]]) -> None:
        """Refuse a part that is not here and of which nothing is known.

        Raises:
            UsageError: it is.
        """
        where = (place.place, place.inside)
        if where not in published:
            raise UsageError(
                f"prior {self.name}: {'/'.join(filter(None, where))} is not here and its shape is not known; give a "
                "folder that has it"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing: no text is read."""
        return ()

    def prepare(self, wordings: Any) -> None:
        """Nothing to encode."""

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """Tensors of the right shapes, for any wording."""
        rows, sizes = len(conditions), self.network.config
        told = _told(sizes, self.family.text_rows(self.facts)) if "text" in self.family.wants else {}
        found = {name: torch.zeros(rows, *shape, device=self.device) for name, shape in told.items()}
        if self._sight is not None:
            seen = self.family.look(self._sight, Picture(), self.space, self.facts)
            found |= {
                name: torch.zeros(rows, 1, *value.shape, device=self.device) for name, value in seen.items()
            }
        shown = self.family.show(conditions, self.space, self.facts)
        return {**found, **{name: value.to(self.device) for name, value in shown.items()}}


def _built(sizes: Mapping[str, Any], own: type | None) -> nn.Module:
    """A network of diffusers by its configuration, or of a family's own class."""
    cls: Any = own or getattr(importlib.import_module("diffusers"), str(sizes["_class_name"]))
    return cls.from_config(dict(sizes)).requires_grad_(False).eval()


def _told(sizes: Any, length: int) -> dict[str, tuple[int, ...]]:
    """The shapes of everything that a network of this configuration may be told of a wording of so many rows."""
    names = (
        "joint_attention_dim",
        "caption_channels",
        "encoder_hid_dim",
        "cross_attention_dim",
        "in_text_dim",
    )
    width = next(int(sizes[name]) for name in names if sizes.get(name))
    told: dict[str, tuple[int, ...]] = {
        "encoder_hidden_states": (length, width),
        "encoder_attention_mask": (length,),
    }
    summary = sizes.get("pooled_projection_dim") or sizes.get("in_text_dim2")
    if summary:
        told["pooled_projections"] = (int(summary),)
    if sizes.get("addition_embed_type") == "text_time":
        times = 6 * int(sizes["addition_time_embed_dim"])
        told["text_embeds"] = (int(sizes["projection_class_embeddings_input_dim"]) - times,)
    return told


def _encoder_bytes(shape: Known | Source, family: Family) -> int:
    """Of the text encoders: as they lie in a folder or in the cache, or in 16 bit."""
    if isinstance(shape, Known):
        return 2 * shape.encoders
    folder = Path(shape.location)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(shape.location, revision=shape.revision, local_files_only=True))
    files = [f for _, part in family.encoders for f in sorted((folder / part).glob("*.safetensors"))]
    variants = [f for f in files if ".fp16." in f.name]
    plain = [f for f in files if f not in variants]
    return sum(f.stat().st_size for f in plain or variants)
