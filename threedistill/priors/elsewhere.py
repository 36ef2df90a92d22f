"""Components that are not of the pipeline's own folder, such as ControlNets and IP-Adapters."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.priors.fetching import either, fetch, file_digest, folder_digest, is_hub_id
from threedistill.priors.loading import LIBRARIES

__all__ = ["Elsewhere", "empty_network", "shapes_of"]


def shapes_of(file: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on ``meta``: its header alone is read."""
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def empty_network(kind: str, config: Mapping[str, Any]) -> Any:
    """A network of diffusers or transformers in its shape alone, on ``meta``.

    Arguments:
        kind: its class.
        config: its configuration.
    """
    from diffusers import ConfigMixin

    cls = _class(kind)
    with torch.device("meta"):
        if issubclass(cls, ConfigMixin):  # of diffusers; else of transformers
            network: Any = cls.from_config(dict(config))
        else:
            network = cls(cls.config_class.from_dict(dict(config)))
    return network.requires_grad_(False).eval()


def _class(kind: str) -> Any:
    libraries = (importlib.import_module(library) for library in LIBRARIES)
    return next(found for library in libraries if (found := getattr(library, kind, None)))


@dataclass(frozen=True)
class Elsewhere:
    """A component that is not of the pipeline's own folder, such as a ControlNet or an IP-Adapter.

    Attributes:
        place: a folder or a hub id, perhaps with a revision: ``owner/name@revision``.
        kind: its class, of diffusers or transformers; None = a file of tensors.
        inside: the folder or file in it; "" = the place itself.
    """

    place: str
    kind: str | None
    inside: str = ""

    def load(self, variant: str | None = None, empty: bool = False) -> Any:
        """The network with its weights from safetensors, or the tensors by name.

        Arguments:
            variant: such as ``fp16``.
            empty: in its shape alone, on ``meta``.

        Raises:
            ThreedistillError: it is not there, or not readable.
        """
        if self.kind is None:
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            file = self.file(self.inside)
            try:
                return shapes_of(file) if empty else load_file(file)
            except SafetensorError as error:
                raise UsageError(f"{self._called} is not a safetensors file: {error}") from None
        if empty:
            return empty_network(self.kind, self.config())
        cls = _class(self.kind)
        options = {"use_safetensors": True, **({"subfolder": self.inside} if self.inside else {})}
        return either(*self._where, cls.from_pretrained, options, variant)

    def config(self) -> dict[str, Any]:
        """A network's configuration, without its weights; a file of tensors has none, and is looked for."""
        file = self.file(self._first)
        return {} if self.kind is None else dict(json.loads(Path(file).read_text()))

    @property
    def here(self) -> bool:
        """Whether it is in a folder or in the local cache."""
        location, revision = self._where
        if Path(location).is_dir():
            return (Path(location) / self._first).is_file()
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(location, self._first, revision=revision), str)

    @property
    def _first(self) -> str:
        """The file that is read first."""
        return self.inside if self.kind is None else f"{self.inside}/config.json".lstrip("/")

    def file(self, name: str) -> str:
        """Where a file of the place lies on this disk, downloaded if need be."""
        location, revision = self._where
        if Path(location).is_dir():
            found = Path(location) / name
            if not found.is_file():
                raise UsageError(f"{found}: no such file")
            return str(found)
        from huggingface_hub import hf_hub_download

        def call(place: str, **options: Any) -> str:
            return hf_hub_download(place, name, **options)

        return fetch(location, revision, call, {})

    @property
    def version(self) -> str:
        """Place and commit (of what lies on this disk: a digest); names it in caches and tables."""
        location, _ = self._where
        if Path(location).is_dir():
            part = Path(location) / self.inside
            return f"{self._called}@{file_digest(part) if part.is_file() else folder_digest(part)}"
        known = self.file(self._first)
        return f"{self._called}@{Path(known).parts[Path(known).parts.index('snapshots') + 1]}"

    @property
    def _called(self) -> str:
        return "/".join(filter(None, (self._where[0], self.inside)))

    @property
    def _where(self) -> tuple[str, str | None]:
        """The folder, or the hub id and its revision."""
        folder = Path(self.place).expanduser()
        if folder.is_dir():
            return str(folder), None
        place, _, revision = self.place.partition("@")
        if not is_hub_id(place):
            raise UsageError(f"{self.place}: no such folder")
        return place, revision or None
