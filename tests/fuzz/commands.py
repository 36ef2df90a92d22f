"""Hostile requests: prompts, settings, strangers' run folders, and requests over a finished run.

    python tests/fuzz/commands.py                          14,000 tries of all four kinds, seed 0
    python tests/fuzz/commands.py --tries 500 --seed 7 --only folders
    python tests/fuzz/commands.py --show 123               makes try 123 again and says what happens

Most prompts and settings go straight to the function that takes them, which is what makes thousands of them possible;
the others, and all folders and requests, are whole command lines, forked from a process that has everything
imported. An audit hook watches each (:mod:`tests.fuzz.watch`). The last line counts: a traceback, more than 60 s, a
crash, more than 1 GB, a message of several lines or none, a write outside the try's folder, a call that no command
needs, or a lost asset is a fault, and the exit status is then 1.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # children are forked: no thread pool may exist
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml

from tests.fuzz.runner import Report, command_line, run
from tests.fuzz.test_settings import HOSTILE
from tests.fuzz.test_settings import _judge as judge_setting
from tests.fuzz.test_settings import cases as setting_cases
from tests.fuzz.watch import Watch
from threedistill.errors import UsageError

#: Kind -> its share of the tries.
KINDS = {"prompts": 0.42, "settings": 0.53, "folders": 0.03, "starts": 0.02}
#: Names that a stranger could put where a class belongs. All are harmless to name; calling most of them is audited.
TARGETS = (
    "os.system", "subprocess.run", "subprocess.Popen", "builtins.open", "builtins.exec", "shutil.rmtree",
    "os.remove", "webbrowser.open", "urllib.request.urlopen", "pathlib.Path.touch", "tempfile.mkdtemp",
    "logging.config.dictConfig", "threedistill.cli.main", "threedistill.atomic.remove",
    "threedistill.atomic.write_text", "threedistill.pipeline.generate", "threedistill.errors.UsageError",
    "threedistill.training.run_folder.RunFolder", "hydra.utils.get_method", "torch.load", "numpy.load",
    "threedistill.types.Mesh", "",
)  # fmt: skip
_WORDS = (
    "a", "red", "blue", "mushroom", "duck", "on", "wearing", "hat", "striped", "view", "front", "corgi",
    "${prompt}", "$(id)", "`id`", "../..", "/etc/passwd", "-rf", "--out", "key=value", "%s", "{0}", "\\n",
    "\x00", "\n", "\r", "\x1b[31m", "\ud800", "é", "日本", "🍄", "ﬁ", "\u202e", "\u0301", "'", '"', ";", "|", "&",
    "#", "~", "*", "?", "<b>", "NaN", "1e999", "a" * 400, "null", "!!python/object", "&a *a", "@", ":", "- ",
)  # fmt: skip
_VALUES = (
    "nan", "inf", "-inf", "-1", "0", "1", "1e308", "1e-308", "9" * 400, "abc", "null", "true", "[]", "{}",
    "[1,[2]]", "[nan,1]", "[2,1]", "'a b'", "${oc.env:HOME}", "${prompt}", "${cfg.scale}", "???",
    "{_target_:os.system,command:id}", "{_target_:builtins.print}", '"', "[", "0x10", "1_000", "🍄",
)  # fmt: skip


#: Bytes that mean something in many formats.
_MARKS = (
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x80\x7f",
    b"\x00\x00\xc0\x7f",
)
#: Values where a JSON document expects others.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 1e308, float("nan"), "", "x" * 300, [], {}, [[]], [None], {"a": 1}, -0.5,
    "../../x", "/etc/hostname",
)  # fmt: skip


@dataclass(frozen=True)
class Try:
    """One request.

    Attributes:
        words: behind ``threedistill``, ``{}`` standing for the try's folder; with ``call``, its name.
        call: in place of a command line.
        prepare: fills the folder before.
        keep: a file of the folder that must still be there with these bytes.
    """

    words: tuple[str, ...]
    call: Callable[[], object] | None = None
    prepare: Callable[[Path], None] | None = None
    keep: tuple[str, bytes] | None = None


@functools.cache
def material() -> Path:
    """A folder with a finished run of a few steps on exact guidance; removed when this process ends."""
    import atexit

    folder = Path(tempfile.mkdtemp(prefix="fuzz-material-"))
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    status, text = _command(
        "generate", "a red ball", "--prior", "oracle", "--preset", "draft", "--out", str(folder / "run"), "--quiet",
        "budget.iterations=6", "export.resolution=24", "export.faces=300", "export.texture_size=32",
        "representation.model.levels=4", "representation.model.log2_entries=8", "cameras.views=1",
    )  # fmt: skip
    assert status == 0, text
    return folder


def _command(*words: str) -> tuple[int, str]:
    """The exit status of a command line, and what it said on stderr."""
    from threedistill.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return main(list(words)), said.getvalue()


@functools.cache
def keys() -> list[str]:
    """Every key of a composed configuration."""
    from threedistill.config import compose

    found: list[str] = []

    def walk(node: Any, at: str) -> None:
        for key, child in node.items() if isinstance(node, dict) else ():
            found.append(f"{at}{key}")
            walk(child, f"{at}{key}.")

    walk(compose(prompt="a red ball", overrides=["student=lora"]), "")
    return [key for key in found if "_target_" not in key]


def prompts(rng: random.Random) -> Try:
    """Any words: read, named and written down; a thirtieth of them through the whole command line."""
    pieces = (rng.choice(_WORDS) for _ in range(rng.choice((1, 2, 3, 5, 9, 40))))
    prompt = rng.choice((" ", "", " ")).join(pieces)
    if rng.random() < 0.97:
        return Try(("prompt", prompt), lambda: _take_prompt(prompt))
    words = ["generate", "--print-config"]
    if rng.random() < 0.3:
        words += ["--prior", rng.choice(("oracle", "sd15", "gaussian"))]
    if rng.random() < 0.3:
        words += ["--negative", rng.choice(_WORDS)]
    if rng.random() < 0.2:
        words += ["--out", rng.choice(_WORDS)]
    return Try((*words, "--", prompt) if rng.random() < 0.8 else (*words, prompt))


def _take_prompt(prompt: str) -> None:
    """What happens to a prompt before any network hears it."""
    from threedistill.texts import check_prompt
    from threedistill.toybox.grammar import parse
    from threedistill.training.naming import default_folder

    check_prompt(prompt)
    place = default_folder(prompt, 0, {})
    place.mkdir(parents=True)
    assert len(place.parts) == 2 and place.resolve().parent == Path("runs").resolve(), place
    parse(prompt)


def settings(rng: random.Random) -> Try:
    """One setting with a value that few mean; a fiftieth of them as overrides on the command line."""
    if rng.random() < 0.98:
        place, path, node = rng.choice(setting_cases())
        value = rng.choice((*HOSTILE, *ODD, rng.uniform(-2, 2), 10 ** rng.randrange(12)))
        huge = isinstance(value, int) and value > 10**4000
        shown = "a number of 5000 digits" if huge else str(value)[:40]
        name = f"{'.'.join((place, *map(str, path)))}={shown}"
        return Try((name,), lambda: _set(place, path, node, value))
    words = ["generate", "a red ball", "--prior", "oracle", "--print-config"]
    words += [f"{rng.choice(keys())}={rng.choice(_VALUES)}" for _ in range(rng.choice((1, 1, 2)))]
    return Try(tuple(words))


def _set(place: str, path: tuple[Any, ...], node: Any, value: Any) -> None:
    """A setting given; what must be refused and is not is an assertion's failure."""
    if judge_setting(place, path, node, value) == "refused":
        raise UsageError("refused")


def folders(rng: random.Random) -> Try:
    """Somebody's run folder, one of its files damaged or made hostile, met by a verb."""
    name = rng.choice(("config.yaml",) * 6 + ("run.json", "metrics.csv", "eval.json", "checkpoint", "asset"))
    hostile = rng.random() < 0.5
    run = material() / "run"

    def prepare(folder: Path) -> None:
        shutil.copytree(run, folder / "run")
        path = folder / "run" / name
        if name == "checkpoint":
            path = next((folder / "run" / "checkpoints").rglob("*.safetensors"))
        elif name == "asset":
            path = folder / "run" / "asset" / "model.glb"
        if not path.exists():
            path.write_bytes(b"")
        if name == "config.yaml" and hostile:
            config = _hostile(yaml.safe_load(path.read_text()), rng)
            path.write_text(yaml.safe_dump(config, allow_unicode=True))
        else:
            path.write_bytes(damage(path.read_bytes(), rng))

    words = rng.choice(
        (
            ("export", "{}/run", "--format", "stl", "--out", "{}/out"),
            ("cite", "{}/run"),
            ("resume", "{}/run", "--quiet"),
            ("eval", "{}/run"),
        )
    )
    asset = "run/asset/model.glb"
    keep = None if name == "asset" or words[0] == "resume" else (asset, (material() / asset).read_bytes())
    return Try(words, prepare=prepare, keep=keep)


def starts(rng: random.Random) -> Try:
    """A request over a finished run that is refused: the asset must still be there, byte by byte."""
    asset = "run/asset/model.glb"
    words = ["generate", "a red ball", "--prior", "oracle", "--out", "{}/run", "--quiet"]
    words += [rng.choice(("--overwrite", "--resume", "--overwrite"))]
    words += [f"{rng.choice(keys())}={rng.choice(_VALUES)}", "representation.model.levels=abc"]
    return Try(
        tuple(words), prepare=lambda folder: shutil.copytree(material() / "run", folder / "run") and None,
        keep=(asset, (material() / asset).read_bytes()),
    )  # fmt: skip


MAKERS: dict[str, Callable[[random.Random], Try]] = {
    "prompts": prompts, "settings": settings, "folders": folders, "starts": starts,
}  # fmt: skip


def damage(data: bytes, rng: random.Random) -> bytes:
    """The file with a few bytes changed, cut, repeated, or replaced by numbers that mean something."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        at = rng.randrange(len(out))
        if rng.random() < 0.5:  # headers decide more than payloads
            at = rng.randrange(min(len(out), 512))
        how = rng.randrange(6)
        if how == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at : at + 4] = rng.choice(_MARKS)
        elif how == 2:
            del out[at:]
        elif how == 3:
            del out[at : at + rng.randrange(1, 64)]
        elif how == 4:
            out[at:at] = out[at : at + rng.randrange(1, 64)]
        else:
            out[at] = rng.randrange(256)
    return bytes(out)


def damage_tree(node: Any, rng: random.Random, odd: tuple[Any, ...] = ODD) -> Any:
    """A copy of a JSON-like tree with one value replaced, removed or doubled."""
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> Any:
        if isinstance(inner, dict):
            copy: Any = {}
            for key, child in inner.items():
                copy[key] = walk(child)
                places.append((copy, key))
            return copy
        if isinstance(inner, list):
            copy = []
            for index, child in enumerate(inner):
                copy.append(walk(child))
                places.append((copy, index))
            return copy
        return inner

    changed = walk(node)
    if not places:
        return rng.choice(odd)
    holder, key = rng.choice(places)
    how = rng.random()
    if how < 0.15 and isinstance(holder, dict):
        del holder[key]
    elif how < 0.25 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = rng.choice(odd)
    return changed


def _hostile(config: Any, rng: random.Random) -> Any:
    """A configuration with a target, a plug-in or a value that nobody asked for."""
    how = rng.random()
    if how < 0.5:
        places: list[dict[str, Any]] = []

        def walk(node: Any) -> None:
            if isinstance(node, dict):
                if "_target_" in node:
                    places.append(node)
                for child in node.values():
                    walk(child)
            elif isinstance(node, list):
                for child in node:
                    walk(child)

        walk(config)
        node = rng.choice(places)
        if rng.random() < 0.5:
            for key in [k for k in node if k != "_target_"]:
                del node[key]
        node["_target_"] = rng.choice(TARGETS)
        if rng.random() < 0.4:
            node["_args_"] = [rng.choice(("touch fuzzed", "/etc/hostname", "x"))]
        config["plugins"] = [node["_target_"].split(".")[0]] if rng.random() < 0.8 else config.get("plugins")
        return config
    if how < 0.6:
        config["plugins"] = rng.choice(
            ([rng.choice(("os", "subprocess", "this", "antigravity", "json"))], "os", 5, {"a": 1}, [None])
        )
        return config
    return damage_tree(config, rng, tuple(x for x in ODD if x == x))


_watch = functools.cache(Watch)


def made(number: int, seed: int, only: str | None) -> tuple[str, Try]:
    """Try ``number``: its kind, and what it does."""
    rng = random.Random(f"{seed}/{number}/{only}")
    kind = only or rng.choices(list(KINDS), list(KINDS.values()))[0]
    return kind, MAKERS[kind](rng)


def attempt(number: int, seed: int = 0, only: str | None = None) -> tuple[str, str]:
    """Carry out one try in a folder of its own, watched."""
    kind, one = made(number, seed, only)
    name = f"{kind} {' '.join(one.words)}"[:200]
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary).resolve()
        if one.prepare:
            one.prepare(folder)
        os.chdir(folder)
        try:
            with _watch().over(folder) as seen:
                if one.call:
                    status, text = int(bool(one.call())), ""
                else:
                    status, text = _command(*(word.replace("{}", str(folder)) for word in one.words))
        finally:
            os.chdir(before)
        if seen:
            return seen[0][0], f"{name}: {seen[:3]}"
        if "error: unexpected " in text or "Traceback" in text:
            return "traceback", f"{name}: {text[-300:]}"
        if status and not text.strip():
            return "silent", f"{name}: exit {status}"
        if status and len(text.splitlines()[-1]) > 1400:
            return "long line", f"{name}: {text[:200]}"
        if one.keep and (
            not (folder / one.keep[0]).exists() or (folder / one.keep[0]).read_bytes() != one.keep[1]
        ):
            return "asset lost", f"{name}: {text[-300:]}"
    return f"{kind} refused" if status else f"{kind} done", name


def fuzz(
    numbers: range, seed: int = 0, only: str | None = None, progress: Callable[[int], None] | None = None
) -> Report:
    """The tries of these numbers."""
    material(), keys(), setting_cases()  # once, before the children
    _command("cite", str(material() / "run"))
    return run(lambda number: attempt(number, seed, only), numbers, progress=progress)


def show(number: int, seed: int, only: str | None) -> None:
    """Make one try again and say what happens."""
    print(made(number, seed, only))
    print(attempt(number, seed, only))


if __name__ == "__main__":
    sys.exit(command_line(__doc__, 14000, list(KINDS), show, fuzz, every=500))
