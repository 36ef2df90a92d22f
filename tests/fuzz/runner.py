"""Tries that may fail in any way, run in children that may hang, crash or take too much, and counted.

A child carries out tries one after the other and says how each ended; the parent ends it where it takes too long,
starts another behind the try that ended it, and counts. Nothing here knows what is tried.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from threedistill.errors import ThreedistillError

__all__ = ["Report", "command_line", "run"]

#: Ways to end that are faults.
FAULTS = (
    "traceback", "hang", "crash", "memory", "long line", "silent loss", "silent", "outside", "forbidden", "asset lost",
)  # fmt: skip


@dataclass
class Report:
    """What happened.

    Attributes:
        counts: how often each way to end came; ``refused`` is one line of ours, other words are the tries' own.
        faults: (number of the try, its name, what happened) for each that ended in a way that is a fault.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The counts, and the first of the faults."""
        counted = ", ".join(f"{self.counts[k]} {k}" for k in sorted({*self.counts, *FAULTS}))
        return [
            f"{sum(self.counts.values())} tries: {counted}",
            *(f"  #{n} {name}: {text}" for n, name, text in self.faults[:40]),
        ]


def run(
    attempt: Callable[[int], tuple[str, str]], numbers: Iterable[int], seconds: float = 60, megabytes: int = 1000,
    progress: Callable[[int], None] | None = None,
) -> Report:  # fmt: skip
    """Carry out ``attempt(number)`` for every number.

    Arguments:
        attempt: returns how it ended in a word, and the try's name with what should be shown; raising ThreedistillError
            is ``refused``, anything else a fault.
        numbers: which tries.
        seconds: after which a try hangs.
        megabytes: that a child may grow by.
        progress: called with the number of every finished try.
    """
    report, waiting = Report(), list(numbers)
    while waiting:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _child(attempt, waiting, megabytes, writer)
        os.close(writer)
        waiting = waiting[_watched(child, reader, waiting, seconds, report, progress) :]
        os.close(reader)
    return report


def _watched(
    child: int, reader: int, waiting: list[int], seconds: float, report: Report, progress: Callable[[int], None] | None
) -> int:  # fmt: skip
    """Count what a child says until it has ended; how many of its tries are over."""
    done, rest = 0, b""
    while done < len(waiting):
        ready = select.select([reader], [], [], seconds)[0]
        data = os.read(reader, 1 << 16) if ready else b""
        if not data:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            word = "hang" if not ready else "crash"
            text = f"no end within {seconds:g} s" if not ready else f"the process ended ({status})"
            report.counts[word] += 1
            report.faults.append((waiting[done], "", text))
            return done + 1
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number, word, name, text = json.loads(line)
            if word == "again":  # it has grown too large to go on
                os.waitpid(child, 0)
                return done
            report.counts[word] += 1
            if word in FAULTS:
                report.faults.append((number, name, text))
            done += 1
            if progress:
                progress(number)
    os.waitpid(child, 0)
    return done


def _child(
    attempt: Callable[[int], tuple[str, str]], numbers: list[int], megabytes: int, writer: int
) -> None:
    """Never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    scale = 1 if sys.platform == "darwin" else 1024

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6

    start = peak()
    for number in numbers:
        name = ""
        try:
            word, name = attempt(number)
            text = name
        except ThreedistillError as error:
            text = str(error)
            word = "long line" if "\n" in text or len(text) > 600 else "refused"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            word, text = "traceback", f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        grown = peak() - start
        if grown > megabytes:
            word, text = "memory", f"{grown:.0f} MB"
        os.write(writer, json.dumps([number, word, name, text[:300]]).encode() + b"\n")
        if grown > megabytes:
            os.write(writer, json.dumps([number, "again", "", ""]).encode() + b"\n")
            break
    os._exit(0)


def command_line(
    description: str | None, tries: int, kinds: Sequence[str], show: Callable[[int, int, str | None], None],
    fuzz: Callable[[range, int, str | None, Callable[[int], None]], Report], every: int,
) -> int:  # fmt: skip
    """The command line of a search; the exit status.

    Arguments:
        description: for ``--help``.
        tries: how many there are unless ``--tries`` says otherwise.
        kinds: what ``--only`` takes.
        show: makes one try again and says what happens: number, seed, kind.
        fuzz: makes tries: numbers, seed, kind, and what is called with the number of each.
        every: after how many tries it says how far it is.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=tries)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--to", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=kinds)
    parser.add_argument("--show", type=int)
    options = parser.parse_args()
    if options.show is not None:
        show(options.show, options.seed, options.only)
        return 0
    last = options.tries if options.to is None else options.to

    def progress(number: int) -> None:
        if number % every == 0:
            print(f"{number} of {last}", file=sys.stderr)

    report = fuzz(range(options.first, last), options.seed, options.only, progress)
    print("\n".join(report.lines()))
    return 1 if any(report.counts[word] for word in FAULTS) else 0
