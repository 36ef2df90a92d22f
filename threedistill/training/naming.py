"""What a run's folder is called when nobody says: after its prompt, its seed, and what differs from the defaults."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DEFAULTS", "default_folder", "free_folder", "prompt_name", "slug"]


def slug(text: str, limit: int = 48) -> str:
    """A short file name for a text: lower-case ASCII words joined by hyphens."""
    return _ascii_words(text)[:limit].strip("-") or "prompt"


def _ascii_words(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def prompt_name(prompt: str, limit: int = 48) -> str:
    """A prompt's :func:`slug`, with six digits of its digest where letters got lost.

    They get lost where they have no ASCII form, and at the end of a long prompt. So two prompts share a name only where
    they differ in nothing but case, accents and punctuation.
    """
    plain, whole = unicodedata.normalize("NFKD", prompt), _ascii_words(prompt)
    foreign = any(not c.isascii() and unicodedata.category(c)[0] in "LNS" for c in plain)
    if whole and len(whole) <= limit and not foreign:
        return whole
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{slug(prompt, limit - 7)}-{digest}"


def default_folder(prompt: str, seed: int, chosen: Mapping[str, str | None]) -> Path:
    """``runs/<prompt>-<what was chosen>-s<seed>``.

    Arguments:
        prompt, seed: of the run.
        chosen: by group the option asked for, or None; the defaults (:data:`DEFAULTS`) are not named.
    """
    words = [name for group, name in chosen.items() if name is not None and name != DEFAULTS.get(group)]
    return Path("runs") / "-".join([prompt_name(prompt), *[slug(word) for word in words], f"s{seed}"])


#: What a run is made of where nothing is chosen (configs/generate.yaml).
DEFAULTS = {"prior": "toybox", "representation": "hashgrid", "guidance": "sds"}


def free_folder(path: Path) -> Path:
    """The first of ``path-2``, ``path-3``, ... that does not exist."""
    number = 2
    while (found := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return found
