"""The command ``threedistill``: one verb per task, one line per mistake.

Only the standard library is imported here; a verb's module is imported when the verb is called, and torch
after the thread variables are set. Exit status: 0 done, 1 the work failed, 2 the request was wrong,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from threedistill import __version__
from threedistill.console import steady
from threedistill.errors import ThreedistillError, UsageError, nearest
from threedistill.plugins import naming
from threedistill.threads import settle_threads

__all__ = ["VERBS", "main", "usage"]

#: Verb -> (module with ``run(argv) -> int``, one line about it).
VERBS = {
    "generate": ("threedistill.commands.generate", "make a textured 3D asset from a text prompt"),
    "plan": ("threedistill.commands.plan", "say what a run will take, and on which cards it fits"),
    "resume": ("threedistill.commands.resume", "continue an interrupted run"),
    "export": ("threedistill.commands.export", "write a finished run's asset in other formats"),
    "convert": ("threedistill.commands.convert", "write a mesh or splat file in another format"),
    "eval": ("threedistill.commands.evaluate", "judge the assets of finished runs"),
    "view": ("threedistill.commands.view", "look at a run or a file in a browser"),
    "sweep": ("threedistill.commands.sweep", "many runs: prompts x settings x seeds, and their table"),
    "report": ("threedistill.commands.report", "one page for many runs, to open from the disk"),
    "bench": ("threedistill.toybox.commands.bench", "compare the rules on a world with ground truth"),
    "app": ("threedistill.commands.app", "a page in a browser to type prompts into"),
    "cite": ("threedistill.commands.cite", "the BibTeX of exactly what a run used"),
    "list": (
        "threedistill.commands.listing",
        "show what can be chosen: priors, rules, presets, metrics, formats ...",
    ),
    "doctor": ("threedistill.doctor", "say what is installed, what is missing, and what brings it"),
    "toybox": (
        "threedistill.toybox.commands.toybox",
        "the embedded prior's world: render, sample, train, judge",
    ),
}

#: Verbs whose ``key=value`` words are settings of a run.
_TAKE_SETTINGS = ("generate", "plan", "sweep", "app")


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
    flags = words[:cut]
    words = [w for i, w in enumerate(words) if i >= cut or w != "--traceback"]
    with steady(quiet="--quiet" in flags):
        try:
            return _guarded(words, _Answer("--json" in flags, "--traceback" in flags))
        except KeyboardInterrupt:  # another signal while the first one was answered
            return 130


def _guarded(words: Sequence[str], answer: _Answer) -> int:
    try:
        return _dispatch(words)
    except ThreedistillError as error:
        return answer.fail(error, _one_line(error), error.exit_code)
    except KeyboardInterrupt as error:
        folder = _run_folder_of(error)
        hint = f"; continue with: threedistill resume {folder}" if folder else ""
        hint = getattr(error, "hint", hint)
        return answer.fail(error, f"interrupted{hint}", 130, prefix="threedistill: ")
    except BrokenPipeError:
        # The reader of our output has gone (| head): not an error, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        known = _resource_failure(error)
        if known:
            return answer.fail(error, known, 1)
        where = "" if answer.traceback else f"; {_kept_traceback(error)}"
        return answer.fail(error, f"unexpected {type(error).__name__}: {_one_line(error)}{where}", 1)


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
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current folder is not there any more; change to another one") from None
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


@dataclass(frozen=True)
class _Answer:
    """How a failure is told: always as one line on stderr, and as what else was asked for.

    Attributes:
        json: also as one JSON object on stdout, where a success would have put its own.
        traceback: also with its traceback on stderr.
    """

    json: bool
    traceback: bool

    def fail(
        self, error: BaseException, message: str, status: int, prefix: str = "threedistill: error: "
    ) -> int:
        if self.traceback:
            import traceback

            traceback.print_exception(error)
        if self.json:
            import json

            folder = _run_folder_of(error)
            facts = {"error": message, "status": status, "run_dir": None if folder is None else str(folder)}
            with contextlib.suppress(OSError):
                print(json.dumps(facts, ensure_ascii=False))
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        print(f"{prefix}{message}", file=sys.stderr)
        return status


#: A message may repeat what was given; of more than this the middle is left out.
_LONGEST = 1200


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} [...] {text[-half:]}"


def _run_folder_of(error: BaseException) -> Path | None:
    """The run folder the pipeline noted on the way out (``error.run_dir``), if it had one already."""
    folder = getattr(error, "run_dir", None)
    return Path(folder) if folder else None


def _resource_failure(error: Exception) -> str | None:
    """One line for what the machine ran out of; None for anything else."""
    text = str(error)
    advice = getattr(error, "advice", "close other programs")
    helps = f"; what helps: {advice}" if advice else ""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; free some and continue with threedistill resume"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "no more files can be opened; close other programs, or raise the limit (ulimit -n 1024)"
    if isinstance(error, FileNotFoundError) and "usable temporary directory" in text:
        return "no folder can be written, not even a temporary one; set TMPDIR to one that can"
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU's memory ran out{helps}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"memory ran out{helps}"
    return None


def _kept_traceback(error: Exception) -> str:
    """Keep the traceback in the run folder, or in the temporary folder where there is none; where it is, in words."""
    import tempfile
    import traceback

    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    folder = _run_folder_of(error)
    with contextlib.suppress(OSError):
        if folder is not None and folder.is_dir():
            (folder / "traceback.txt").write_text(lines, encoding="utf-8")
            return f"the traceback is in {folder / 'traceback.txt'}"
    with contextlib.suppress(OSError):
        file = Path(tempfile.gettempdir(), f"threedistill-traceback-{os.getpid()}.txt")
        file.write_text(lines, encoding="utf-8")
        return f"the traceback is in {file}"
    return "no folder could be written to keep the traceback; --traceback shows it"


if __name__ == "__main__":
    sys.exit(main())
