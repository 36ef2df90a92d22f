"""``threedistill export``: other formats of a finished run's asset, or its field meshed anew with other settings."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threedistill.commands.arguments import Parser, frame_options, frame_overrides, many_of
from threedistill.commands.generate import FORMATS
from threedistill.commands.resume import run_folder
from threedistill.errors import ThreedistillError, UsageError, nearest

_EPILOG = """\
examples:
  threedistill export runs/a-red-mushroom-s0 --format obj,stl
  threedistill export runs/a-red-mushroom-s0 --out print --format stl export.resolution=256

Without settings the asset's own file is converted. With them, the optimised field is meshed again from its
checkpoint; threedistill generate "..." --print-config shows the export settings.
"""


def parser() -> Parser:
    """The options of ``export``."""
    p = Parser(
        "export", "DIR [options] [export.key=value ...]", "Write a finished run's asset as files.", _EPILOG
    )
    p.add_argument(
        "--format", dest="formats", type=many_of("--format", FORMATS), metavar="F,F", default=("glb",)
    )
    frame_options(p)
    p.add_argument("--out", metavar="DIR", help="where to write (default: the run's asset folder)")
    p.add_argument("--overwrite", action="store_true", help="replace files that exist")
    p.add_argument("--json", action="store_true", help="print a JSON list of the files instead of lines")
    return p


def run(argv: Sequence[str]) -> int:
    """Write the files and print their paths, one per line."""
    options, data = parser().parse(argv)
    overrides = frame_overrides(options, [word for word in data if "=" in word])
    folders = [word for word in data if "=" not in word]
    if len(folders) != 1:
        raise UsageError(f"export takes one run folder, not {len(folders)}: threedistill export runs/NAME")
    run_dir = run_folder(folders[0])
    target = Path(options.out) if options.out else run_dir / "asset"
    paths = [target / f"model.{suffix}" for suffix in options.formats]
    for path in paths:
        if path.exists() and not options.overwrite:
            raise UsageError(f"{path} exists; replace it with --overwrite or choose another place with --out")
    with contextlib.redirect_stdout(sys.stderr):
        write(run_dir, paths, overrides)
    print(json.dumps([str(p) for p in paths]) if options.json else "\n".join(str(p) for p in paths))
    return 0


def write(run_dir: Path, paths: Sequence[Path], overrides: Sequence[str]) -> None:
    """Write the run's asset to ``paths``, by suffix; with overrides it is meshed anew."""
    from threedistill.config import build, read_config
    from threedistill.exports.asset import build_asset, write_mesh

    config = read_config(run_dir / "config.yaml")
    settings = build(_overridden(config["export"], overrides), "export", config["plugins"])
    if overrides:
        mesh = build_asset(reopen(run_dir, config), settings, _facts(config))
    else:
        mesh = _asset_mesh(run_dir)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mesh(mesh, path, settings)


def _facts(config: dict[str, Any]) -> dict[str, object]:
    """What travels with the asset, as far as the configuration knows it."""
    return {
        "prompt": config["prompt"], "seed": config["seed"], "prior": config["prior"]["name"],
        "guidance": config["guidance"]["name"],
    }  # fmt: skip


def reopen(run_dir: Path, config: dict[str, Any]) -> Any:
    """The optimised representation of a run's last stage, from its checkpoint."""
    from threedistill.representations.particles import members
    from threedistill.training.assemble import build_representation
    from threedistill.training.checkpoint import StageState
    from threedistill.training.run_folder import RunFolder

    last = len(config["stages"]) - 1
    path = RunFolder(run_dir).checkpoint(last, config["stages"][last]["name"])
    if not path.exists():
        raise UsageError(f"{run_dir} has no checkpoint of its last stage; finish it with threedistill resume")
    representation: Any = build_representation(config, last)
    StageState(path).load_module(representation, part="representation")
    best = RunFolder(run_dir).read_record().get("particles", {}).get("best", 0)
    return members(representation)[best]


def _asset_mesh(run_dir: Path) -> Any:
    """The mesh of the richest file in the asset folder."""
    from threedistill.exports.read import read_mesh

    for suffix in FORMATS:
        path = run_dir / "asset" / f"model.{suffix}"
        if path.exists():
            return read_mesh(path)
    raise ThreedistillError(f"{run_dir} has no asset yet; finish the run with threedistill resume {run_dir}")


def _overridden(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The run's export settings with some of them replaced."""
    import yaml

    changed = dict(settings)
    for line in overrides:
        key, _, text = line.partition("=")
        name = key.removeprefix("export.")
        known = [k for k in settings if not k.startswith("_") and k != "formats"]
        if name not in known:
            close = nearest(name, known, count=1)
            hint = f"did you mean export.{close[0]}?" if close else f"there are: {', '.join(known)}"
            raise UsageError(f"{line}: export has no setting {key!r}; {hint}")
        try:
            changed[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"{line}: the value cannot be read") from None
    return changed
