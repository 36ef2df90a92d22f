"""What a finished run gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from threedistill.training.run_folder import RunFolder
from threedistill.types import Mesh

__all__ = ["Result"]


@dataclass
class Result:
    """A finished run.

    Attributes:
        run_dir: the run's folder.
        asset: the main file (``asset/model.glb`` unless other formats were asked for).
        verdict: the judge's line, or None where no judge knows the prompt.
        seconds: wall time by phase.
        evaluation: the figures behind the line, as in ``eval.json``; None with it.
        plugins: packages that the request named, whose classes its configuration may use.
    """

    run_dir: Path
    asset: Path
    verdict: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    plugins: tuple[str, ...] = ()

    @cached_property
    def mesh(self) -> Mesh:
        """The asset, read back from its file."""
        from threedistill.exports.read import read_asset

        return read_asset(self.run_dir / "asset")

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from threedistill.training.showing import result_html

        return result_html(self)

    def export(self, path: str | Path, format: str | None = None, overrides: Sequence[str] = ()) -> Path:
        """Write the asset as another file, as ``threedistill export`` does.

        Arguments:
            path: where.
            format: any of ``threedistill list formats``; None = the one of the path's suffix (``.glb`` is the mesh,
                ``.ply`` the splats where the run has its own).
            overrides: ``export.key=value`` for how it is made or written.
        """
        from threedistill.training.reexport import format_for, write_run

        run, path = RunFolder(self.run_dir), Path(path)
        write_run(run, {format or format_for(run, path, self.plugins): path}, overrides, self.plugins)
        return path
