"""Fetching what a model is made of: folders and the local cache before the network, and what failed in one line."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from threedistill.errors import ThreedistillError, UsageError

__all__ = [
    "UNREACHABLE", "UNREACHABLE_LINE", "either", "fetch", "file_digest", "folder_digest", "guarded", "hub_reachable",
    "is_hub_id", "need_safetensors", "quiet", "reason", "weight_files",
]  # fmt: skip

#: Names (over several libraries) of the errors that mean "no network and nothing cached".
UNREACHABLE = frozenset(
    ["OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError"]
)
UNREACHABLE_LINE = "not in the local cache, and the hub cannot be reached"


def either(
    location: str,
    revision: str | None,
    call: Callable[..., Any],
    options: dict[str, Any],
    variant: str | None,
) -> Any:
    """Weights with or without a variant: where only one of the two exists, that one is meant."""
    named = {"variant": variant} if variant else {}
    other = {} if variant else {"variant": "fp16"}
    return _first(location, revision, call, [{**options, **named}, {**options, **other}])


def fetch(location: str, revision: str | None, call: Callable[..., Any], options: dict[str, Any]) -> Any:
    """``call`` on a place: folder or cache first; the network only for what the cache lacks."""
    return _first(location, revision, call, [options])


def _first(
    location: str, revision: str | None, call: Callable[..., Any], ways: Sequence[dict[str, Any]]
) -> Any:
    """The first way of ``call`` that succeeds: all in the folder or the cache before any on the network, which is
    asked once whether it is there.

    Raises:
        ThreedistillError: why the first did not.
    """
    where = "/".join((location, *([ways[0]["subfolder"]] if "subfolder" in ways[0] else [])))
    online: dict[str, Any] = {"revision": revision}
    failures: list[ThreedistillError] = []
    for more in [{}] if Path(location).is_dir() else [{**online, "local_files_only": True}, online]:
        if more is online and not hub_reachable():
            raise ThreedistillError(f"{where}: {UNREACHABLE_LINE}") from None
        failures = []
        for way in ways:
            try:
                return guarded(where, partial(call, location, **way, **more))
            except ThreedistillError as error:
                failures.append(error)
    raise failures[0] from None


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


def weight_files(setting: str, place: str, single: bool = False) -> list[Path]:
    """The safetensors file that a setting names, or those of a folder.

    Arguments:
        setting: its name, for messages.
        place: what it says.
        single: whether a folder may hold one only.

    Raises:
        UsageError: nothing there, or weights of a format that can run code.
    """
    path = Path(place).expanduser()
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or (single and len(files) > 1) or not all(file.is_file() for file in files):
        lacks = "not one" if single else "no"
        raise UsageError(f"{setting}={place}: there is no such file, or {lacks} .safetensors in that folder")
    need_safetensors(f"{setting}={place}", files[0].name)
    return files


def need_safetensors(where: str, name: str) -> None:
    """Refuse weights of a format that can run code, by the file's name.

    Raises:
        UsageError: beginning with ``where``.
    """
    if not name.endswith(".safetensors"):
        raise UsageError(f"{where}: only .safetensors is read (other formats can run code)")


def is_hub_id(place: str) -> bool:
    """Whether a place is ``owner/name`` and no path."""
    return not place.startswith((".", "/", "~")) and place.count("/") == 1


def folder_digest(folder: Path) -> str:
    """Names the content of all that is read of a folder."""
    files = sorted(f for f in folder.rglob("*") if f.suffix in (".json", ".safetensors", ".txt", ".model"))
    return _digest([(str(f.relative_to(folder)), _sampled(f)) for f in files])


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


def guarded(where: str, load: Any) -> Any:
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
