"""What the verbs share: an argument parser that treats free text as data, and typed, checked options.

``argparse`` alone would mistake some prompts for options, so positionals are not declared to it: whatever
is no option comes back as data, in order, and everything behind ``--`` is data.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from threedistill.errors import UsageError, nearest
from threedistill.exports.foreign.limits import limits, parse_limits
from threedistill.texts import is_number

__all__ = [
    "Parser", "angles", "frame_options", "frame_overrides", "from_options", "image_options",
    "images_of", "is_setting", "limit_option", "limits_of", "many_of", "number", "one_of", "splat_options",
    "unknown", "viewer_option", "whole_number",
]  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` without abbreviations whose complaints are :class:`UsageError` lines."""

    def __init__(self, verb: str, usage: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"threedistill {verb}", usage=f"threedistill {verb} {usage}", description=description,
            epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, add_help=False,
        )  # fmt: skip
        self.verb = verb
        # No one-letter options: argparse would read the prompt "-happy duck" as "-h" with a value.
        self.add_argument("--help", action="help", help="show this help and exit")
        # Taken from the command line before a verb sees it (cli.py); they stand here to be listed and corrected.
        self.add_argument("--plugins", metavar="P,P", help="packages whose classes a configuration may name")
        self.add_argument("--config-dir", metavar="DIR", help="a folder of your own configurations")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.verb}: {message} (see threedistill {self.verb} --help)")

    def parse(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options and, in order, everything else; raises UsageError for options that do not exist."""
        argv = list(argv)
        cut = argv.index("--") if "--" in argv else len(argv)
        before, behind = argv[:cut], argv[cut + 1 :]
        if "-h" in before:
            before = ["--help"]
        options, data = self.parse_known_args(self._with_axes(before))
        for word in data:
            if (
                word.startswith("-")
                and word != "-"
                and not any(c.isspace() for c in word)
                and not is_number(word)
            ):
                self._unknown(word)
        return options, data + behind

    def _with_axes(self, words: list[str]) -> list[str]:
        """``--from-up -y`` as ``--from-up=-y``: argparse would take the axis, or ``-30,15``, for another option.

        An option with an optional number (``--viewer``) takes the next word only where that is one: the prompt is none.
        """
        taking = {name for a in self._actions if a.nargs is None for name in a.option_strings}
        numbered = {name for a in self._actions if a.nargs == "?" for name in a.option_strings}
        joined: list[str] = []
        for word in words:
            last = joined[-1] if joined else ""
            axis = last in taking and re.fullmatch(r"-([xyz]|[\d.]+,[-\d.]+)", word)
            if axis or (last in numbered and word.isdecimal()):
                joined[-1] += f"={word}"
            elif last in numbered:
                joined[-1] += "="
                joined.append(word)
            else:
                joined.append(word)
        if joined and joined[-1] in numbered:
            joined[-1] += "="
        return joined

    def _unknown(self, word: str) -> NoReturn:
        known = {name.lstrip("-"): name for action in self._actions for name in action.option_strings}
        option = word.split("=")[0]
        close = nearest(option.lstrip("-"), known, count=1)  # without the dashes, which all of them share
        hint = f"did you mean {known[close[0]]}?" if close else "words that start with - go behind --"
        self.error(f"no option {option}; {hint}")


def one_of(option: str, choices: Iterable[str]) -> Callable[[str], str]:
    """An option type: one of ``choices``, or a UsageError that names the nearest."""
    choices = tuple(choices)

    def check(value: str) -> str:
        if value not in choices:
            raise UsageError(unknown(f"{option}", value, choices))
        return value

    return check


def many_of(option: str, choices: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """An option type: a comma-separated list of some of ``choices``, without repetitions."""
    check = one_of(option, choices)

    def split(value: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(check(part.strip().lower()) for part in value.split(",")))

    return split


def angles(option: str) -> Callable[[str], tuple[float, float]]:
    """An option type: two finite numbers with a comma between them, degrees."""

    def check(value: str) -> tuple[float, float]:
        try:
            first, second = (float(part) for part in value.split(","))
        except ValueError:
            first = second = math.nan
        if not (math.isfinite(first) and math.isfinite(second)):
            raise UsageError(
                f"{option} needs an azimuth and an elevation in degrees, such as 30,15, not {value!r}"
            )
        return first, second

    return check


def image_options(parser: Parser) -> None:
    """Add the flags that show a prior pictures."""
    parser.add_argument(
        "--image", action="append", metavar="FILE",
        help="show the prior a picture of the object, opaque where the object is (once per picture)",
    )  # fmt: skip
    parser.add_argument(
        "--image-camera", action="append", type=angles("--image-camera"), metavar="AZ,EL",
        help="where that picture was taken from: degrees around from the front, and up",
    )  # fmt: skip


def images_of(options: argparse.Namespace) -> tuple[tuple[Path, ...], tuple[tuple[float, float], ...]]:
    """The pictures and their cameras; raises UsageError for cameras without pictures."""
    if options.image_camera and not options.image:
        raise UsageError("--image-camera says where an --image was taken from; there is none")
    return tuple(map(Path, options.image or ())), tuple(options.image_camera or ())


def whole_number(option: str, low: int, high: int) -> Callable[[str], int]:
    """An option type: an integer in ``[low, high]``."""

    def check(value: str) -> int:
        try:
            number = int(float(value)) if _POWER.fullmatch(value) else int(value)
        except ValueError:
            raise UsageError(f"{option} needs a whole number, not {value!r}") from None
        if not low <= number <= high:
            raise UsageError(f"{option} must lie between {low} and {high}, not {number}")
        return number

    return check


#: A whole number as ``1e3``, which overrides may be given as, too.
_POWER = re.compile(r"\d{1,9}[eE]\+?\d{1,2}")

#: ``key=value``, in the one grammar of every verb (:func:`threedistill.config.parse_override`).
_SETTING = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*=.*", re.DOTALL)


def is_setting(word: str) -> bool:
    """Whether a word of the command line is ``key=value``."""
    return _SETTING.fullmatch(word) is not None


def number(option: str, low: float, high: float) -> Callable[[str], float]:
    """An option type: a number in ``[low, high]``."""

    def check(value: str) -> float:
        try:
            found = float(value)
        except ValueError:
            raise UsageError(f"{option} needs a number, not {value!r}") from None
        if not low <= found <= high:
            raise UsageError(f"{option} must lie between {low:g} and {high:g}, not {value}")
        return found

    return check


def frame_options(parser: Parser) -> None:
    """Add the flags that are export settings: the asset's size and origin, its budgets, which way is up."""
    parser.add_argument(
        "--unit-size",
        type=number("--unit-size", 1e-6, 1e6),
        metavar="M",
        help="longest side in metres (default 1)",
    )
    parser.add_argument(
        "--origin",
        type=one_of("--origin", ("center", "base")),
        metavar="O",
        help="center | base: where (0, 0, 0) is",
    )
    parser.add_argument(
        "--face-budget",
        type=whole_number("--face-budget", 12, 10_000_000),
        metavar="N",
        help="triangles at most",
    )
    parser.add_argument(
        "--texture-size",
        type=whole_number("--texture-size", 0, 8192),
        metavar="N",
        help="texels a side, a power of two; 0 = vertex colours",
    )
    splat_options(parser)


def splat_options(parser: Parser) -> None:
    """Add the flags about writing that splats have too."""
    parser.add_argument(
        "--sh-degree",
        type=whole_number("--sh-degree", 0, 3),
        metavar="D",
        help="harmonics of splats: 0 to 3 (default: as they are)",
    )
    parser.add_argument(
        "--up",
        type=one_of("--up", ("y", "z", "-y")),
        metavar="A",
        help="y | z points up in files whose format leaves it open, -y in splats (default: each format's habit)",
    )
    parser.add_argument(
        "--front",
        type=one_of("--front", ("x", "-x", "y", "-y", "z", "-z")),
        metavar="A",
        help="the axis that the front faces in splat files (default: what goes with their up axis)",
    )


def limit_option(parser: Parser) -> None:
    """Add ``--limit``, for verbs that read files."""
    parser.add_argument(
        "--limit",
        action="append",
        metavar="NAME=N",
        help="read files that are larger than allowed; the refusal says which limit (N or none)",
    )


def viewer_option(parser: Parser) -> None:
    """Add ``--viewer [PORT]``, for verbs that make a run."""

    def port(value: str) -> int:
        from threedistill.viewer.serving import PORT

        return whole_number("--viewer", 1, 65535)(value) if value else PORT

    parser.add_argument(
        "--viewer", nargs="?", type=port, metavar="PORT",
        help="watch and steer the run in a browser of this machine (default port 8080)",
    )  # fmt: skip


def limits_of(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """The limits that ``--limit`` asks for, within a block; raises UsageError for wrong words."""
    return limits(parse_limits(options.limit))


def from_options(parser: Parser, file: str) -> None:
    """Add the flags that say which way is up in a file that is read."""
    axes = ("x", "-x", "y", "-y", "z", "-z")
    parser.add_argument(
        "--from-up",
        type=one_of("--from-up", axes),
        metavar="A",
        help=f"the axis that points up in {file}: y, z, -y ... (default: what it says, else its format's habit)",
    )
    parser.add_argument(
        "--from-front",
        type=one_of("--from-front", axes),
        metavar="A",
        help=f"the axis that the front faces in {file} (default: what goes with its up axis)",
    )


#: Flag -> the export settings it stands for.
_EXPORT_FLAGS = {
    "unit_size": ("unit_size",), "origin": ("origin",), "face_budget": ("faces",), "texture_size": ("texture_size",),
    "sh_degree": ("sh_degree",), "up": ("up", "splat_up"), "front": ("splat_front",),
}  # fmt: skip


def frame_overrides(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """The overrides with those flags among them; raises UsageError where a flag and an override disagree."""
    found = list(overrides)
    for flag, settings in _EXPORT_FLAGS.items():
        value = getattr(options, flag)
        if value is None:
            continue
        for setting in settings if value != "-y" else [name for name in settings if name != "up"]:
            line = f"export.{setting}={value}"
            rivals = [o for o in overrides if o.startswith(f"export.{setting}=") and not _agree(o, line)]
            if rivals:
                raise UsageError(
                    f"--{flag.replace('_', '-')} {value} and {rivals[0]} disagree; keep one of them"
                )
            found.append(line)
    return list(dict.fromkeys(found))


def _agree(one: str, other: str) -> bool:
    """Whether two settings give one key the same value, however it is written."""
    from threedistill.config import parse_override

    return one == other or parse_override(one) == parse_override(other)


def unknown(what: str, value: str, choices: Sequence[str]) -> str:
    """The line for a value that is none of ``choices``."""
    close = nearest(value, choices, count=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{what}: there is no {value!r}{hint} (there are: {', '.join(choices)})"
