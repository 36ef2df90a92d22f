"""What a browser may ask for: a prompt and choices from lists, and the command line that they become.

Everything here comes from strangers. A choice is one of a list or refused, a number lies in its range, the prompt is
data that reaches the child on its standard input; nothing of it is ever a path or an option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedistill.config.choices import options
from threedistill.config.files import parse_yaml
from threedistill.errors import UsageError
from threedistill.messages import shown
from threedistill.texts import check_prompt
from threedistill.training.naming import DEFAULTS

__all__ = ["GROUPS", "Asked", "Limits", "Offer", "ask", "offer"]

#: The choices of the page; each is an option of ``generate``.
GROUPS = ("preset", "representation", "guidance", "prior")

#: Representations that make a picture and no asset.
_FLAT = ("canvas",)
_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """What a page allows.

    Attributes:
        prompt: characters of a prompt.
        running: jobs at a time.
        waiting: jobs that may wait.
        minutes: of one job, from start to stop.
        gigabytes: of the folder that everything is in; as much again of the disk must not be full.
        picture: bytes of an uploaded picture.
    """

    prompt: int = 400
    running: int = 1
    waiting: int = 20
    minutes: float = 60.0
    gigabytes: float = 20.0
    picture: int = 10_000_000


@dataclass(frozen=True)
class Offer:
    """What the page offers.

    Attributes:
        choices: by group, the options; the first is taken where nothing is chosen.
        pictured: the priors among them that are shown a picture.
    """

    choices: Mapping[str, tuple[str, ...]]
    pictured: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Asked:
    """A request that has been checked.

    Attributes:
        prompt, seed: what to make.
        choices: by group, an option of the offer.
        picture: the bytes of a reference picture.
    """

    prompt: str
    seed: int
    choices: Mapping[str, str]
    picture: bytes | None = None

    def words(self, out: Path, picture: Path | None, settings: Sequence[str]) -> list[str]:
        """``generate``'s words for it; the prompt is read from standard input.

        Arguments:
            out: the run's folder; a run that is there is continued.
            picture: where the reference picture is.
            settings: ``key=value`` words of whoever runs the page.
        """
        chosen = [word for group in self.choices for word in (f"--{group}", self.choices[group])]
        seen = [] if picture is None else ["--image", str(picture)]
        flags = ["--out", str(out), "--resume", "--json", "--seed", str(self.seed), *chosen, *seen]
        return ["generate", "--prompt-file", "-", *flags, *settings]


def offer(presets: Sequence[str], priors: Sequence[str] = ()) -> Offer:
    """What the page offers: these presets and priors, every rule, every representation of an object.

    Arguments:
        presets, priors: by name; without priors, the default one.

    Raises:
        UsageError: an option that there is not.
    """
    from threedistill.config.choices import check_option

    priors = tuple(priors) or (DEFAULTS["prior"],)
    for group, names in (("preset", presets), ("prior", priors)):
        for name in names:
            check_option(group, name)
    choices = {
        "preset": tuple(presets),
        "representation": _first("representation", _FLAT),
        "guidance": _first("guidance", ()),
        "prior": priors,
    }
    files = {name: options("prior")[name].file for name in priors}
    pictured = {
        name
        for name, file in files.items()
        if parse_yaml(file.read_text(encoding="utf-8"), f"{file} cannot be read as YAML").get("needs_image")
    }
    return Offer(choices, frozenset(pictured))


def _first(group: str, without: Sequence[str]) -> tuple[str, ...]:
    """The options of a group, the default one first."""
    names = [name for name in options(group) if name not in without]
    return tuple(sorted(names, key=lambda name: (name != DEFAULTS[group], name)))


def ask(offered: Offer, limits: Limits, prompt: Any, seed: Any, picture: Any = None, **choices: Any) -> Asked:
    """A browser's request, checked.

    Arguments:
        offered, limits: what is allowed.
        prompt, seed, picture: what was sent.
        choices: by group; None = the first option.

    Raises:
        UsageError: with what to send instead.
    """
    check_prompt(prompt)
    prompt = " ".join(prompt.split())
    if len(prompt) > limits.prompt:
        raise UsageError(f"the prompt has {len(prompt)} characters; at most {limits.prompt} are taken here")
    chosen = {}
    for group, allowed in offered.choices.items():
        value = choices.pop(group, None)
        value = allowed[0] if value is None else value
        if not isinstance(value, str) or value not in allowed:
            raise UsageError(f"{group}: {shown(value)} is not offered here (there are: {', '.join(allowed)})")
        chosen[group] = value
    if choices:
        raise UsageError(f"there is nothing to choose by the name {shown(next(iter(choices)))}")
    seed = 0 if seed is None else seed
    if isinstance(seed, bool) or not isinstance(seed, int | float) or seed != seed or seed != seed // 1:
        raise UsageError(f"the seed must be a whole number, not {shown(seed)}")
    if not 0 <= seed <= _LARGEST_SEED:
        raise UsageError(f"the seed must lie between 0 and {_LARGEST_SEED}, not {shown(seed)}")
    if picture is not None and not isinstance(picture, bytes):
        raise UsageError("the picture must be a file")
    if picture is not None and len(picture) > limits.picture:
        raise UsageError(f"the picture has {len(picture)} bytes; at most {limits.picture} are taken here")
    return Asked(prompt, int(seed), chosen, picture)
