"""What a sweep consists of, on disk: prompts as data, settings, and one numbered run folder per combination.

    OUT/sweep/prompts.json   every prompt; runs refer to them by index
    OUT/sweep/plan.json      every run: prompt index, seed, settings, folder
    OUT/sweep/configs/       the composed configuration of each setting
    OUT/sweep/images/        the pictures that all runs are shown, named after their content
    OUT/runs/<name>/         run folders, each of which ``threedistill resume`` could continue by hand
    OUT/results.csv  results.json  index.html

A run's folder is named after everything that was asked for, so the same request finds the same folder again; what is
finished stays finished whatever else is added to the sweep.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from threedistill.atomic import make_folder, os_errors_in_words, write_bytes, write_text
from threedistill.config import pictures, with_pictures
from threedistill.errors import UsageError
from threedistill.locks import lock
from threedistill.training.naming import slug

__all__ = [
    "PLAN_SCHEMA",
    "Cell",
    "Picture",
    "Plan",
    "Setting",
    "cells",
    "grid",
    "read_pictures",
    "read_prompts",
    "setting_of",
]

PLAN_SCHEMA = 1


@dataclass(frozen=True)
class Picture:
    """A reference picture that the runs of a sweep are shown.

    Attributes:
        source: the user's file.
        camera: azimuth and elevation that it was taken from, degrees; None = unknown.
        data: what the file held when the sweep was asked for.
    """

    source: Path
    camera: tuple[float, float] | None
    data: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """Its copy's place in the sweep's folder: the same for the same content."""
        return f"sweep/images/{hashlib.sha256(self.data).hexdigest()[:16]}{self.source.suffix}"


@dataclass(frozen=True)
class Setting:
    """How a run is made, apart from its prompt and seed.

    Attributes:
        name: for tables; unique within a plan.
        overrides: ``key=value`` lines, presets and groups among them.
        choices: the keys that vary over the sweep, with this setting's values.
        negative, device: as for ``generate``.
        pictures: what its prior is shown.
    """

    name: str
    overrides: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    negative: str = ""
    device: str = "auto"
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    prompt: str
    seed: int
    setting: Setting

    @property
    def folder(self) -> str:
        """The run folder's name: readable, and unique by a digest of the whole request."""
        # The order of overrides may matter (a group, then a key in it), so it counts; the device does not.
        request: list[object] = [self.prompt, self.seed, list(self.setting.overrides), self.setting.negative]
        if self.setting.pictures:
            request.append([[picture.name, picture.camera] for picture in self.setting.pictures])
        digest = hashlib.sha256(json.dumps(request, ensure_ascii=False).encode()).hexdigest()[:8]
        return f"{slug(self.prompt, 32)}-{slug(self.setting.name, 40)}-s{self.seed}-{digest}"


class Plan:
    """The runs of a sweep folder. Entries are only ever added, so a number means the same run for ever."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.prompts: list[str] = []
        self.entries: list[dict[str, Any]] = []
        self._read()

    @property
    def prompts_file(self) -> Path:
        return self.root / "sweep" / "prompts.json"

    @property
    def plan_file(self) -> Path:
        return self.root / "sweep" / "plan.json"

    def folder(self, index: int) -> Path:
        """The run folder of an entry."""
        return self.root / "runs" / self.entries[index]["folder"]

    def prompt(self, index: int) -> str:
        """The prompt of an entry."""
        return self.prompts[self.entries[index]["prompt"]]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Read the plan anew and be the only process that changes it, or the tables, until the block ends."""
        file = self.root / "sweep" / ".lock"
        make_folder(file.parent)
        with os_errors_in_words(file):
            handle = lock(file, wait=True)
        assert handle is not None
        try:
            self._read()
            yield
        finally:
            os.close(handle)

    def config(self, digest: str) -> dict[str, Any]:
        """A setting's composed configuration, without prompt and seed.

        Raises:
            UsageError: its file is missing or damaged.
        """
        path = self.root / "sweep" / "configs" / f"{digest}.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise UsageError(f"{path} is missing or damaged; start the sweep's command again") from None

    def keep_config(self, config: dict[str, Any]) -> str:
        """Put a setting's composed configuration on disk; its digest, under which runs ask for it."""
        kept = {k: v for k, v in config.items() if k not in ("prompt", "negative", "seed", "device")}
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        path = self.root / "sweep" / "configs" / f"{digest}.json"
        if not path.is_file() or path.read_bytes() != f"{text}\n".encode():
            write_text(path, text + "\n")
        return digest

    def keep_pictures(self, setting: Setting, config: dict[str, Any]) -> dict[str, Any]:
        """Put what a setting's runs are shown on disk; the setting's configuration with the copies' places."""
        for picture in setting.pictures:
            if not (path := self.root / picture.name).is_file():
                write_bytes(path, picture.data)
        return with_pictures(config, lambda index, _: setting.pictures[index].name)

    def _read(self) -> None:
        if not self.plan_file.exists():
            return
        try:
            plan = json.loads(self.plan_file.read_text(encoding="utf-8"))
            self.prompts = list(json.loads(self.prompts_file.read_text(encoding="utf-8")))
            self.entries = list(plan["runs"])
            if plan["schema"] != PLAN_SCHEMA or not all(isinstance(p, str) for p in self.prompts):
                raise ValueError
            assert all(0 <= e["prompt"] < len(self.prompts) for e in self.entries)
        except (OSError, ValueError, KeyError, TypeError, AssertionError):
            raise UsageError(
                f"{self.plan_file.parent} is damaged or of another version; choose another --out "
                "(finished runs are in the folder runs beside it)"
            ) from None

    def add(self, cells: Iterable[Cell], configs: Mapping[str, str]) -> list[int]:
        """Enter runs that are not there yet; the numbers of all of them, in order, without repetition.

        Arguments:
            cells: the runs.
            configs: by a setting's name, the digest of its configuration (:meth:`keep_config`).
        """
        known = {entry["folder"]: index for index, entry in enumerate(self.entries)}
        prompts = {prompt: index for index, prompt in enumerate(self.prompts)}
        numbers: dict[int, None] = {}
        for cell in cells:
            name = cell.folder
            if name not in known:
                if cell.prompt not in prompts:
                    prompts[cell.prompt] = len(self.prompts)
                    self.prompts.append(cell.prompt)
                known[name] = len(self.entries)
                setting = asdict(replace(cell.setting, pictures=()))
                del setting["pictures"]  # the configuration has them
                setting["setting"] = setting.pop("name")
                self.entries.append(
                    {"folder": name, "prompt": prompts[cell.prompt], "seed": cell.seed, **setting}
                )
            self.entries[known[name]]["config"] = configs[cell.setting.name]
            numbers[known[name]] = None
        return list(numbers)

    def write(self) -> None:
        """Put the plan on disk; prompts first, so that no index ever points nowhere."""
        write_text(self.prompts_file, json.dumps(self.prompts, indent=1, ensure_ascii=False) + "\n")
        plan = {"schema": PLAN_SCHEMA, "runs": self.entries}
        write_text(self.plan_file, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a UTF-8 file, one per line, or a JSON list of strings (``.json``), which is taken as it is.

    Blank lines and lines that begin with ``#`` are skipped.

    Raises:
        UsageError: the file cannot be read or holds no prompt.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--prompts {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--prompts {path}: not UTF-8 text (byte {error.start})") from None
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(p, str) for p in found):
            raise UsageError(f"--prompts {path}: not a JSON list of strings")
    else:
        lines = [line.strip("\r") for line in text.split("\n")]
        found = [line for line in lines if not line.lstrip().startswith("#")]
    prompts = list(dict.fromkeys(p for p in found if p.strip()))
    if not prompts:
        raise UsageError(f"--prompts {path}: no prompt in it; write one per line")
    return prompts


def read_pictures(
    files: Sequence[Path], cameras: Sequence[tuple[float, float]] = ()
) -> tuple[Picture, ...]:  # fmt: skip
    """The pictures of ``--image`` with where they were taken from; without cameras, nobody knows.

    Raises:
        UsageError: a file that cannot be read, another number of cameras than of pictures, or angles that are none.
    """
    found = []
    for node in pictures(files, cameras):
        path = Path(node["file"])
        try:
            data = path.expanduser().read_bytes()
        except OSError as error:
            raise UsageError(f"--image {path}: {(error.strerror or str(error)).lower()}") from None
        found.append(Picture(path, None if node["camera"] is None else tuple(node["camera"]), data))
    return tuple(found)


def grid(
    axes: Sequence[tuple[str, Sequence[str]]],
    *,
    preset: str | None = None,
    negative: str = "",
    device: str = "auto",
    pictures: tuple[Picture, ...] = (),
) -> list[Setting]:
    """Every combination of the axes' values, the last axis fastest.

    Arguments:
        axes: (key, values) in the order given; a key with one value is the same for all runs.
        preset, negative, device: as for ``generate``.
        pictures: what all runs' priors are shown.
    """
    constant = [(key, values[0]) for key, values in axes if len(values) == 1]
    varied = [(key, values) for key, values in axes if len(values) > 1]
    return [
        setting_of(
            constant, [(key, value) for (key, _), value in zip(varied, values)],
            preset=preset, negative=negative, device=device, pictures=pictures,
        )
        for values in product(*[values for _, values in varied])
    ]  # fmt: skip


def setting_of(
    constant: Sequence[tuple[str, str]],
    choices: Sequence[tuple[str, str]],
    *,
    preset: str | None = None,
    negative: str = "",
    device: str = "auto",
    pictures: tuple[Picture, ...] = (),
) -> Setting:
    """One combination.

    Arguments:
        constant: keys that are the same for all runs.
        choices: keys that vary, with this setting's values; it is named after them.
        preset, negative, device, pictures: as for :func:`grid`.
    """
    lines = [f"{key}={value}" for key, value in choices]
    fixed = [f"{key}={value}" for key, value in constant]
    if preset is not None:
        fixed.insert(0, f"preset={preset}")
    # Groups first: a group brings the keys that later lines may set.
    overrides = sorted([*fixed, *lines], key=lambda line: "." in line.split("=")[0])
    name = " ".join(lines) or "default"
    return Setting(name, tuple(overrides), dict(choices), negative, device, pictures)


def cells(prompts: Sequence[str], seeds: Sequence[int], settings: Sequence[Setting]) -> list[Cell]:
    """All runs, ordered so that whatever is finished early can be compared: seeds slowest, settings fastest."""
    return [Cell(p, seed, setting) for seed, p, setting in product(seeds, prompts, settings)]
