"""The command ``threedistill``: one verb per task, one line per mistake.

Only the standard library is imported here; a verb's module is imported when the verb is called, and torch
after the thread variables are set. Exit status: 0 done, 1 the work failed, 2 the request was wrong,
130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from threedistill import __version__
from threedistill.errors import ThreedistillError, UsageError, nearest
from threedistill.plugins import naming
from threedistill.threads import settle_threads

#: Verb -> (module with ``run(argv) -> int``, one line about it).
VERBS = {
    "generate": ("threedistill.commands.generate", "make a textured 3D asset from a text prompt"),
    "resume": ("threedistill.commands.resume", "continue an interrupted run"),
    "export": ("threedistill.commands.export", "write a finished run's asset in other formats"),
    "convert": ("threedistill.commands.convert", "write a mesh or splat file in another format"),
    "eval": ("threedistill.commands.evaluate", "judge the assets of finished runs"),
    "sweep": ("threedistill.commands.sweep", "many runs: prompts x settings x seeds, and their table"),
    "bench": ("threedistill.commands.bench", "compare the rules on a world with ground truth"),
    "cite": ("threedistill.commands.cite", "the BibTeX of exactly what a run used"),
    "list": ("threedistill.commands.listing", "show representations, priors, rules, presets, words, formats"),
    "doctor": ("threedistill.doctor", "say what is installed, what is missing, and what brings it"),
    "toybox": ("threedistill.commands.toybox", "the embedded prior's world: render, sample, train, judge"),
}

#: Verbs whose ``key=value`` words are settings of a run.
_TAKE_SETTINGS = ("generate", "sweep")


def usage() -> str:
    """The text of ``threedistill --help``."""
    lines = ["usage: threedistill VERB ...", "", "Text-to-3D by score distillation.", "", "verbs:"]
    lines += [f"  {verb:10} {about}" for verb, (_, about) in VERBS.items()]
    lines += [
        "",
        '  threedistill generate "a red mushroom"      the shortest way to an asset',
        "  threedistill VERB --help                    the options of a verb",
        "  threedistill --version",
        "",
        "An unexpected failure writes its traceback to a file; --traceback shows it instead.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every failure ends as one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    show_traceback = "--traceback" in words[:cut]
    words = [w for i, w in enumerate(words) if i >= cut or w != "--traceback"]
    try:
        return _dispatch(words)
    except ThreedistillError as error:
        return _fail(_one_line(error), error.exit_code, show_traceback)
    except KeyboardInterrupt as error:
        folder = _run_folder_of(error)
        hint = f"; continue with: threedistill resume {folder}" if folder else ""
        hint = getattr(error, "hint", hint)
        return _fail(f"interrupted{hint}", 130, show_traceback, prefix="threedistill: ")
    except BrokenPipeError:
        # The reader of our output has gone (| head): not an error, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        known = _resource_failure(error)
        if known:
            return _fail(known, 1, show_traceback)
        if show_traceback:
            traceback.print_exc()
        where = "" if show_traceback else f"; the traceback is in {_write_traceback(error)}"
        return _fail(f"unexpected {type(error).__name__}: {_one_line(error)}{where}", 1, False)


def _dispatch(words: Sequence[str]) -> int:
    if os.name == "nt":  # run folders are held by flock, which Windows lacks
        raise UsageError("threedistill runs on Linux and macOS; on Windows, run it in WSL 2")
    verb = words[0] if words else "--help"
    if verb in ("--help", "-h", "help"):
        print(usage())
        return 0
    if verb == "--version":
        print(f"threedistill {__version__}")
        return 0
    if verb not in VERBS:
        close = nearest(verb, VERBS, count=1)
        fix = f"did you mean threedistill {close[0]}?" if close else f"verbs: {', '.join(VERBS)}"
        if any(c.isspace() for c in verb):
            fix = 'to make an asset: threedistill generate "PROMPT"'
        raise UsageError(f"there is no verb {verb!r}; {fix}")
    settle_threads()
    # Libraries' advice about optional parts is not our user's business; their errors still come through.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rest, packages, folders = _named(verb, words[1:])
    try:
        with naming(packages, folders):
            return importlib.import_module(VERBS[verb][0]).run(rest)
    except SystemExit as stop:  # argparse, after --help
        return int(stop.code or 0)


def _named(verb: str, words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """What every verb understands: the words without them, and the packages and folders that the user names.

    ``plugins=[a,b]`` is a setting too, so it stays in the words of the verbs that take settings.
    """
    rest: list[str] = []
    found: dict[str, list[str]] = {"--plugins": [], "--config-dir": []}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        option, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *waiting]
            break
        if option in found:
            if not equals and not waiting:
                raise UsageError(f"{verb}: {option} needs a value")
            value = value if equals else waiting.pop(0)
            found[option] += [value] if option == "--config-dir" else _names(value)
            continue
        if option == "plugins" and equals and value.startswith("["):
            found["--plugins"] += _names(value.strip("[]"))
            if verb not in _TAKE_SETTINGS:
                continue
        rest.append(word)
    if verb in _TAKE_SETTINGS and found["--plugins"] and not any(w.startswith("plugins=") for w in rest):
        rest.append(f"plugins=[{','.join(found['--plugins'])}]")
    return rest, found["--plugins"], found["--config-dir"]


def _names(text: str) -> list[str]:
    return [name.strip(" '\"") for name in text.split(",") if name.strip(" '\"")]


def _fail(message: str, status: int, show_traceback: bool, prefix: str = "threedistill: error: ") -> int:
    if show_traceback:
        traceback.print_exc()
    sys.stdout.flush()
    print(f"{prefix}{message}", file=sys.stderr)
    return status


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _run_folder_of(error: BaseException) -> Path | None:
    """The run folder the pipeline noted on the way out (``error.run_dir``), if it had one already."""
    folder = getattr(error, "run_dir", None)
    return Path(folder) if folder else None


def _resource_failure(error: Exception) -> str | None:
    """One line for memory and disk that ran out; None for anything else."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; free some and continue with threedistill resume"
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory ran out; use --preset draft, or --device cpu"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "memory ran out; use --preset draft, or close other programs"
    return None


def _write_traceback(error: Exception) -> Path:
    """Keep the traceback in the run folder, or in the temporary folder where there is none."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    folder = _run_folder_of(error)
    for place in (folder, Path(tempfile.gettempdir())):
        if place is None or not place.is_dir():
            continue
        try:
            file = place / (
                "traceback.txt" if place == folder else f"threedistill-traceback-{os.getpid()}.txt"
            )
            file.write_text(lines, encoding="utf-8")
            return file
        except OSError:
            continue
    return Path("(nowhere: no folder could be written; use --traceback)")


if __name__ == "__main__":
    sys.exit(main())
