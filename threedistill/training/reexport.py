"""A finished run's asset as other files: converted from its own file, or meshed anew from what was optimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from threedistill.atomic import make_folder
from threedistill.config import parse_override, read_config
from threedistill.errors import UsageError, nearest
from threedistill.exports.asset import build_asset
from threedistill.exports.formats import of_kind, writable
from threedistill.exports.read import read_asset, read_asset_splats
from threedistill.exports.settings import AssetSettings, ExportSettings
from threedistill.exports.video import need_encoder
from threedistill.exports.write import write_format
from threedistill.training.checkpoint import load_stage
from threedistill.training.finish import splats_for
from threedistill.training.plan import AssetPlan
from threedistill.training.planning import asset_plan
from threedistill.training.record import facts_of
from threedistill.training.run_folder import RunFolder
from threedistill.training.scene_building import build_scene

__all__ = ["format_for", "reopen", "write_run"]


def write_run(
    run: RunFolder, paths: Mapping[str, Path], overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> None:  # fmt: skip
    """Write a run's asset into files.

    Arguments:
        run: a finished run.
        paths: where each format goes, by its name.
        overrides: ``export.key=value``. Settings of how files are written apply to the asset's own file; with one of
            how the asset is made, it is meshed anew from its checkpoint.
        plugins: packages that the user names besides the installed plug-ins.

    Raises:
        UsageError: an unknown setting, or a run without the asset or checkpoint that this needs.
        ThreedistillError: a place that cannot be written.
    """
    changes = [_change(line) for line in overrides]
    plan = asset_plan(read_config(run.config, plugins), changes)
    settings = plan.export
    if "mp4" in paths:
        need_encoder(paths["mp4"])
    facts = facts_of(plan.names, run)
    wanted = set(paths) & set(of_kind("splats"))
    mesh, splats = None, None
    if any(setting in _OF_MAKING for setting, _ in changes):
        source = reopen(run, plan)
        mesh = build_asset(source, settings, facts)
        splats = splats_for(tuple(paths), mesh, source)
    else:
        if wanted and _of_splats(plan):
            splats = read_asset_splats(run.asset_dir)
            splats = replace(splats, extras=_with(facts, splats.extras))
        if splats is None or set(paths) - wanted:
            mesh = read_asset(run.asset_dir)
            mesh = replace(mesh, extras=_with(facts, mesh.extras))
            splats = splats or splats_for(tuple(paths), mesh)
    for name, path in paths.items():
        make_folder(path.parent)
        write_format(name, mesh, splats, path, settings)


def format_for(run: RunFolder, path: Path, plugins: Sequence[str] = ()) -> str:
    """The format that a path's suffix names for a run's asset: ``.ply`` of a run of splats holds its splats.

    Raises:
        UsageError: no format has the suffix.
    """
    own = path.suffix.lower() == ".ply" and _of_splats(asset_plan(read_config(run.config, plugins)))
    return writable(path, *(("splats",) if own else ())).name


def reopen(run: RunFolder, plan: AssetPlan) -> Any:
    """The optimised representation of a run's last stage, from its checkpoint; of several particles the best.

    Raises:
        UsageError: the checkpoint is not there.
    """
    state = load_stage(run.checkpoint(plan.index, plan.stage))
    if state is None:
        raise UsageError(
            f"{run.path} has no checkpoint of its last stage; finish it with threedistill resume {run.path}"
        )
    best = run.read_record().get("particles", {}).get("best", 0)
    representation: Any = build_scene(plan.scene, best)
    state.load_module(representation, part=f"scenes.{best}")
    return representation


#: Settings that need the asset to be made again; all others are about its files.
_OF_MAKING = frozenset(field.name for field in fields(AssetSettings))


def _of_splats(plan: AssetPlan) -> bool:
    """Whether a run's asset has splats of its own, not only those that an export spread over its surface."""
    return plan.scene.model.cls.has_splats


def _with(facts: dict[str, object], found: dict[str, object]) -> dict[str, object]:
    """A file's own facts, completed by those of the run; what a run does not know is not set to nothing."""
    return {**found, **{key: value for key, value in facts.items() if value is not None or key not in found}}


def _change(line: str) -> tuple[str, Any]:
    """The setting of ``export`` that an override names, and its value."""
    key, value = parse_override(line)
    name = key.removeprefix("export.")
    known = [name for name in ExportSettings.__dataclass_fields__ if name != "formats"]
    if name not in known:
        close = nearest(name, known, count=1)
        hint = f"did you mean export.{close[0]}?" if close else f"there are: {', '.join(known)}"
        raise UsageError(f"{line}: export has no setting {key!r}; {hint}")
    return name, value
