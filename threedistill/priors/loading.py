"""Loading the parts of a diffusers pipeline one by one, from a folder, the local cache, the hub or a
mirror.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedistill.errors import ThreedistillError, UsageError
from threedistill.priors.fetching import (
    UNREACHABLE_LINE,
    either,
    fetch,
    folder_digest,
    guarded,
    hub_reachable,
    is_hub_id,
    quiet,
)

__all__ = ["LIBRARIES", "Source", "find"]

#: Where the classes named in a model_index.json may come from; nothing else is imported, no code is
#: downloaded.
LIBRARIES = ("diffusers", "transformers")


@dataclass(frozen=True)
class Source:
    """Where a pipeline lives.

    Attributes:
        location: a folder, or a hub id.
        revision: branch, tag or commit on the hub; None = the default branch.
        commit: the resolved commit, or a fingerprint of a folder; names the prior in caches and tables.
        index: the pipeline's ``model_index.json``.
    """

    location: str
    revision: str | None
    commit: str
    index: dict[str, Any]

    def has(self, component: str) -> bool:
        """Whether the pipeline has this component; some may be left out."""
        return (self.index.get(component) or (None,))[0] is not None

    def config(self, component: str) -> dict[str, Any]:
        """The configuration of a scheduler or network of diffusers, without its weights."""
        from diffusers import AutoencoderKL, DDPMScheduler  # any class reads the file of any of its kind

        kind: Any = DDPMScheduler if component == "scheduler" else AutoencoderKL
        return dict(fetch(self.location, self.revision, kind.load_config, {"subfolder": component}))

    def licence(self) -> str | None:
        """What the model card says of the licence; None = nothing."""
        if Path(self.location).is_dir():
            card = Path(self.location) / "README.md"
        else:
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(self.location, "README.md", revision=self.revision)
            if not isinstance(found, str):
                return None
            card = Path(found)
        if not card.is_file():
            return None
        head = card.read_text(encoding="utf-8", errors="replace").split("---")
        fields = dict(re.findall(r"(?m)^(license(?:_name)?):[ \t]*(\S+)", head[1] if len(head) > 2 else ""))
        name = fields.get("license_name") if fields.get("license") == "other" else None
        return name or fields.get("license")

    def load(
        self, component: str, dtype: torch.dtype | None = None, variant: str | None = None, kind: Any = None
    ) -> Any:
        """An instance of a component; weights from safetensors only.

        Arguments:
            component: its name in ``model_index.json``.
            dtype: of the weights; None = as stored (and for tokenizers).
            variant: such as ``fp16``, where the pipeline has files of it.
            kind: its class, where ``model_index.json`` names one that no library here has.
        """
        library, name = self.index.get(component) or (None, "")
        if kind is not None and library is not None:
            named: dict[str, Any] = {"subfolder": component, "use_safetensors": True}
            return either(self.location, self.revision, kind.from_pretrained, named, variant)
        if library not in LIBRARIES:
            raise UsageError(
                f"{self.location} has no loadable {component!r} (its model_index.json says {library!r})"
            )
        options: dict[str, Any] = {"subfolder": component}
        if "Tokenizer" not in name and "Processor" not in name:
            options["use_safetensors"] = True
            if dtype is not None:
                options["dtype"] = dtype
        if "Processor" in name and component.startswith("tokenizer"):
            name = "AutoTokenizer"  # of what reads pictures too, which needs torchvision, the part that reads words
        found = getattr(importlib.import_module(library), name)
        if "use_safetensors" not in options:
            return fetch(self.location, self.revision, found.from_pretrained, options)
        return either(self.location, self.revision, found.from_pretrained, options, variant)


def find(model: str, mirrors: tuple[str, ...] = (), revision: str | None = None) -> Source:
    """The first of ``model`` and its mirrors that can be read: folders and the local cache before the
    network.

    Arguments:
        model, mirrors: folders or hub ids, tried in this order.
        revision: for hub ids.

    Raises:
        ThreedistillError: none could be read; one line says why for each.
    """
    quiet()
    reasons: dict[str, str] = {}
    remote: list[str] = []
    for place in (model, *mirrors):
        folder = Path(place).expanduser()
        if folder.is_dir():
            return _folder(folder)
        if not is_hub_id(place):
            reasons[place] = "no such folder"
            continue
        try:
            return _hub(place, revision, cached=True)
        except ThreedistillError:
            remote.append(place)
    online = bool(remote) and hub_reachable()
    for place in remote:
        reasons[place] = UNREACHABLE_LINE
        if online:
            try:
                return _hub(place, revision, cached=False)
            except ThreedistillError as error:
                reasons[place] = str(error).split(": ", 1)[1]
    raise ThreedistillError("; ".join(f"{p}: {reasons[p]}" for p in (model, *mirrors)))


def _folder(folder: Path) -> Source:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UsageError(f"{folder} is not a diffusers pipeline: it has no model_index.json")
    return Source(str(folder), None, folder_digest(folder), json.loads(index.read_text()))


def _hub(place: str, revision: str | None, cached: bool) -> Source:
    from diffusers import DiffusionPipeline

    def load() -> tuple[dict[str, Any], str | None]:
        loaded: Any = DiffusionPipeline.load_config(
            place, revision=revision, local_files_only=cached, return_commit_hash=True
        )
        return loaded

    index, commit = guarded(place, load)
    # From here on by commit, so that all components are of one version.
    return Source(place, commit or revision, str(commit or revision or "main"), dict(index))
