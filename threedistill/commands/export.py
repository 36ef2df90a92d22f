"""``threedistill export``: other formats of a finished run's asset, or its field meshed anew with other settings."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threedistill.commands.arguments import Parser, frame_options, frame_overrides, many_of
from threedistill.commands.resume import run_folder
from threedistill.errors import UsageError, nearest
from threedistill.exports.formats import FORMATS, SPLATS, file_of

_EPILOG = """\
examples:
  threedistill export runs/a-red-mushroom-s0 --format obj,stl
  threedistill export runs/a-red-mushroom-s0 --out print --format stl --up z export.resolution=256
  threedistill export runs/a-yellow-duck-s0 --out web --format sog,usdz,mp4

Without settings of its making the asset's own file is converted. With them (size, budgets, resolution), what was
optimised is meshed again from its checkpoint; threedistill generate "..." --print-config shows the export settings.
threedistill list formats shows the formats.
"""

#: Settings about how files are written; all others are about how the asset is made.
_OF_WRITING = (
    "up", "splat_up", "sh_degree", "stl_size", "unlit", "turntable_frames", "turntable_passes", "preview_size",
)  # fmt: skip


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
    paths = {name: target / file_of(name) for name in options.formats}
    for path in paths.values():
        if path.exists() and not options.overwrite:
            raise UsageError(f"{path} exists; replace it with --overwrite or choose another place with --out")
    with contextlib.redirect_stdout(sys.stderr):
        write(run_dir, paths, overrides)
    written = [str(p) for p in paths.values()]
    print(json.dumps(written) if options.json else "\n".join(written))
    return 0


def write(run_dir: Path, paths: dict[str, Path], overrides: Sequence[str]) -> None:
    """Write the run's asset to ``paths``, by format; with overrides of its making it is meshed anew."""
    from threedistill.config import build, read_config
    from threedistill.exports.asset import build_asset, write_format
    from threedistill.exports.read import read_asset, read_asset_splats
    from threedistill.exports.video import need_encoder
    from threedistill.training.asset_files import splats_for

    config = read_config(run_dir / "config.yaml")
    changed = _overridden(config["export"], overrides)
    settings = build(changed, "export", config["plugins"])
    if "mp4" in paths:
        need_encoder(paths["mp4"])
    source = None
    if any(_setting(line) not in _OF_WRITING for line in overrides):
        source = reopen(run_dir, config)
        mesh = build_asset(source, settings, _facts(config))
        splats = splats_for(tuple(paths), mesh, source)
    else:
        own = run_dir / "asset" / file_of("3dgs")
        wanted = any(name in SPLATS for name in paths)
        splats = read_asset_splats(run_dir / "asset") if wanted and own.exists() else None
        mesh = None
        if splats is None or not all(name in SPLATS for name in paths):
            mesh = read_asset(run_dir / "asset")
            splats = splats or splats_for(tuple(paths), mesh)
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_format(name, mesh, splats, path, settings)


def _facts(config: dict[str, Any]) -> dict[str, object]:
    """What travels with the asset, as far as the configuration knows it."""
    return {
        "prompt": config["prompt"], "seed": config["seed"], "prior": config["prior"]["name"],
        "guidance": config["guidance"]["name"],
    }  # fmt: skip


def reopen(run_dir: Path, config: dict[str, Any]) -> Any:
    """The optimised representation of a run's last stage, from its checkpoint; of several particles the best."""
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


def _setting(line: str) -> str:
    return line.partition("=")[0].removeprefix("export.")


def _overridden(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The run's export settings with some of them replaced."""
    import yaml

    from threedistill.exports.settings import ExportSettings

    changed = dict(settings)
    known = [name for name in ExportSettings.__dataclass_fields__ if name != "formats"]
    for line in overrides:
        key, _, text = line.partition("=")
        name = _setting(line)
        if name not in known:
            close = nearest(name, known, count=1)
            hint = f"did you mean export.{close[0]}?" if close else f"there are: {', '.join(known)}"
            raise UsageError(f"{line}: export has no setting {key!r}; {hint}")
        try:
            changed[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"{line}: the value cannot be read") from None
    return changed
