"""Checkpoints of one file, as trainers of Stable Diffusion and its kin write them: taken apart by diffusers.

Such a file holds weights and nothing else. What they are weights of (configurations, scheduler, tokenizers) is said by
another pipeline of the same kind, the layout; nothing is guessed and nothing is asked of the network for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedistill.errors import ThreedistillError, UsageError
from threedistill.priors.fetching import fetch, file_digest, guarded, need_safetensors
from threedistill.priors.loading import Source, find

__all__ = ["SingleFile", "find_file", "is_single_file"]

#: What diffusers reads of a pipeline's folder to lay a file out.
LAYOUT = ["*.json", "*.txt", "*.model"]


def is_single_file(model: str) -> bool:
    """Whether a model is named as a file of weights."""
    return Path(model).suffix in (".safetensors", ".ckpt", ".pt", ".bin")


@dataclass(frozen=True)
class SingleFile(Source):
    """A pipeline whose weights are one file.

    Attributes:
        layout: the pipeline that says what they are weights of.
    """

    layout: Source

    def config(self, component: str) -> dict[str, Any]:
        """As in the layout."""
        return self.layout.config(component)

    def licence(self) -> str | None:
        """What the file's own metadata say (``modelspec.license``); None = nothing."""
        from safetensors import safe_open

        with safe_open(self.location, "pt") as file:
            return (file.metadata() or {}).get("modelspec.license")

    def load(
        self, component: str, dtype: torch.dtype | None = None, variant: str | None = None, kind: Any = None
    ) -> Any:
        """A component with the file's weights, or with the layout's where the file has none of it.

        Raises:
            UsageError: the weights are not all of such a component, or it is of a class that diffusers has not.
        """
        import diffusers
        from diffusers.loaders.single_file_utils import SingleFileComponentError

        if kind is not None:
            raise UsageError(
                f"{self.index['_class_name']} is read from folders only, or with prior.model.family.checkpoint"
            )
        parts = [name for name, value in self.index.items() if isinstance(value, list)]
        _, kind = self.index.get(component) or (None, "")
        if any(word in kind for word in ("Tokenizer", "Processor", "Scheduler")):
            return self.layout.load(component)
        pipeline: Any = getattr(diffusers, self.index["_class_name"])
        others = {name: None for name in parts if name != component}
        options = {"config": self._folder(), "local_files_only": True, "dtype": dtype, **others}
        where = f"{self.location}: it has no {component} as {self.layout.location} describes it"
        try:
            loaded = guarded(where, lambda: pipeline.from_single_file(self.location, **options))
            module: torch.nn.Module = getattr(loaded, component)
        except SingleFileComponentError:
            return self.layout.load(component, dtype, variant)
        except KeyError as error:
            raise UsageError(f"{where}: {error} is missing") from None
        except ThreedistillError as error:
            holed = "meta tensor" in str(error)  # torch's word for a weight that nobody filled
            raise UsageError(f"{where}: weights are missing" if holed else str(error)) from None
        if missing := next((name for name, p in module.named_parameters() if p.is_meta), None):
            raise UsageError(f"{where}: {missing} is missing")
        return module

    def _folder(self) -> str:
        """The layout's files on this disk."""
        if Path(self.layout.location).is_dir():
            return self.layout.location
        from huggingface_hub import snapshot_download

        options = {"allow_patterns": LAYOUT}
        return fetch(self.layout.location, self.layout.revision, snapshot_download, options)


def find_file(
    model: str, layout: str | None, mirrors: tuple[str, ...] = (), revision: str | None = None
) -> SingleFile:
    """A file of weights and what describes it.

    Arguments:
        model: the file.
        layout: a folder or hub id of a pipeline of its kind; None = unknown.
        mirrors, revision: of the layout.

    Raises:
        UsageError: no such file, one of a format that can run code, or a layout that cannot be read.
    """
    path = Path(model).expanduser()
    need_safetensors(model, path.name)
    if not path.is_file():
        raise UsageError(f"{model}: no such file")
    try:
        if layout is None:
            raise UsageError("nothing")
        found = find(layout, mirrors, revision)
    except ThreedistillError as error:
        raise UsageError(
            f"{model} holds weights and not what they are weights of, which is described by {error}; give the folder "
            "of any pipeline of its kind with prior.model.layout=/path/to/pipeline"
        ) from None
    commit = f"{file_digest(path)} laid out as {found.location}@{found.commit}"
    return SingleFile(str(path), None, commit, found.index, found)
