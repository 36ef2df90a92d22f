"""Loading the parts of a diffusers pipeline one by one, from a folder, the local cache, the hub or a
mirror.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedistill.errors import ThreedistillError, UsageError

__all__ = [
    "LIBRARIES",
    "UNREACHABLE",
    "UNREACHABLE_LINE",
    "Source",
    "file_digest",
    "find",
    "find_network",
    "hub_reachable",
    "is_hub_id",
    "quiet",
    "reason",
]

#: Where the classes named in a model_index.json may come from; nothing else is imported, no code is
#: downloaded.
LIBRARIES = ("diffusers", "transformers")

#: Names (over several libraries) of the errors that mean "no network and nothing cached".
UNREACHABLE = frozenset(
    ["OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError"]
)
UNREACHABLE_LINE = "not in the local cache, and the hub cannot be reached"


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
        return dict(_fetch(self.location, self.revision, kind.load_config, {"subfolder": component}))

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

    def load(self, component: str, dtype: torch.dtype | None = None, variant: str | None = None) -> Any:
        """An instance of a component; weights from safetensors only.

        Arguments:
            component: its name in ``model_index.json``.
            dtype: of the weights; None = as stored (and for tokenizers).
            variant: such as ``fp16``, where the pipeline has files of it.
        """
        library, name = self.index.get(component) or (None, "")
        if library not in LIBRARIES:
            raise UsageError(
                f"{self.location} has no loadable {component!r} (its model_index.json says {library!r})"
            )
        options: dict[str, Any] = {"subfolder": component}
        if not name.startswith("PreTrainedTokenizer") and "Tokenizer" not in name:
            options["use_safetensors"] = True
            if dtype is not None:
                options["torch_dtype" if library == "diffusers" else "dtype"] = dtype
        kind = getattr(importlib.import_module(library), name)
        if "use_safetensors" not in options:
            return _fetch(self.location, self.revision, kind.from_pretrained, options)
        return _either(self.location, self.revision, kind.from_pretrained, options, variant)


def find_network(name: str, place: str, variant: str | None = None) -> Any:
    """A network of diffusers that has a folder or a hub id of its own, such as a ControlNet.

    Arguments:
        name: its class.
        place: the folder or hub id.
        variant: such as ``fp16``.
    """
    import diffusers

    if not Path(place).expanduser().is_dir() and not is_hub_id(place):
        raise UsageError(f"{place}: no such folder")
    call = getattr(diffusers, name).from_pretrained
    return _either(str(Path(place).expanduser()), None, call, {"use_safetensors": True}, variant)


def _either(
    location: str,
    revision: str | None,
    call: Callable[..., Any],
    options: dict[str, Any],
    variant: str | None,
) -> Any:
    """Weights with or without a variant: where only one of the two exists, that one is meant."""
    named = {"variant": variant} if variant else {}
    try:
        return _fetch(location, revision, call, {**options, **named})
    except ThreedistillError as error:
        other = {} if variant else {"variant": "fp16"}
        try:
            return _fetch(location, revision, call, {**options, **other})
        except ThreedistillError:
            raise error from None


def _fetch(location: str, revision: str | None, call: Callable[..., Any], options: dict[str, Any]) -> Any:
    """``call`` on a place: folder or cache first; the network only for what the cache lacks."""
    where = "/".join((location, *([options["subfolder"]] if "subfolder" in options else [])))
    if Path(location).is_dir():
        return _guarded(where, lambda: call(location, **options))
    options = {**options, "revision": revision}
    try:
        return _guarded(where, lambda: call(location, local_files_only=True, **options))
    except ThreedistillError:
        if not hub_reachable():
            raise ThreedistillError(f"{where}: {UNREACHABLE_LINE}") from None
    return _guarded(where, lambda: call(location, **options))


def quiet() -> None:
    """No progress bars and no advice from the libraries: what a run prints is its own."""
    import diffusers.utils.logging
    import huggingface_hub.utils.logging
    import transformers.utils.logging

    huggingface_hub.utils.logging.set_verbosity_error()
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity(logging.CRITICAL)  # what fails is told in our own words, or tried another way
        library.disable_progress_bar()


def hub_reachable(timeout: float = 5.0) -> bool:
    """Whether the hub answers at all, asked once: the library's own retries would take half a minute to
    say no.
    """
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=timeout)
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
    return True


def is_hub_id(place: str) -> bool:
    """Whether a place is ``owner/name`` and no path."""
    return not place.startswith((".", "/", "~")) and place.count("/") == 1


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
    files = sorted(f for f in folder.rglob("*") if f.suffix in (".json", ".safetensors", ".txt", ".model"))
    commit = _digest([(str(f.relative_to(folder)), _sampled(f)) for f in files])
    return Source(str(folder), None, commit, json.loads(index.read_text()))


def file_digest(file: Path) -> str:
    """Names the content of a file."""
    return _digest(_sampled(file))


def _digest(what: object) -> str:
    return hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()


def _sampled(file: Path, pieces: int = 64, length: int = 4096) -> tuple[int, str]:
    """Size and a digest of a file: all of a small one, of a large one pieces all over it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= pieces * length:
            return size, _digest(stream.read())
        read: list[bytes] = []
        for k in range(pieces):
            stream.seek(k * (size - length) // (pieces - 1))
            read.append(stream.read(length))
        return size, _digest(read)


def _hub(place: str, revision: str | None, cached: bool) -> Source:
    from diffusers import DiffusionPipeline

    def load() -> tuple[dict[str, Any], str | None]:
        loaded: Any = DiffusionPipeline.load_config(
            place, revision=revision, local_files_only=cached, return_commit_hash=True
        )
        return loaded

    index, commit = _guarded(place, load)
    # From here on by commit, so that all components are of one version.
    return Source(place, commit or revision, str(commit or revision or "main"), dict(index))


def _guarded(where: str, load: Any) -> Any:
    """What ``load`` returns, or its failure in one line."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"huggingface_hub\..*")
            return load()
    except ThreedistillError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise ThreedistillError(f"{where}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """The true cause of a failed download or load, found along the chain of exceptions, in a few words."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {cls.__name__ for e in chain for cls in type(e).__mro__}
    text = " ".join(str(e) for e in chain)
    if "GatedRepoError" in names:
        return "gated: accept its licence on the hub, then `hf auth login`"
    if "RepositoryNotFoundError" in names:
        return "does not exist on the hub, or is private"
    if "RevisionNotFoundError" in names:
        return "has no such revision"
    if "safetensors" in text and ("no file named" in text or "does not appear to have" in text):
        return "has no safetensors weights (other formats can run code and are not loaded)"
    if names & UNREACHABLE or "couldn't connect" in text.lower() or "offline" in text.lower():
        return UNREACHABLE_LINE
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first[:200]
