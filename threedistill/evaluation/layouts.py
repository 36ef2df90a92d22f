"""Assets in the folders that the field's benchmarks read, so that their own scripts run on ours.

    GPTEval3D  DIR/methods/METHOD/PROMPT_ID/SEED/rgb_0.png ... rgb_119.png, normal_0.png ... normal_119.png
               DIR/prompts.json, where PROMPT_ID is a prompt's place; it is made where there is none
    T3Bench    DIR/outputs_mesh_t3/METHOD_GROUP/a_prompt-s0/save/it0-export/model.obj, with its MTL and PNG
               DIR/data/prompt_GROUP.txt, of which the first that lists the prompt names the group

Source: Wu et al. 2024, arXiv:2401.04092; He et al. 2023, arXiv:2310.02977.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from threedistill.atomic import make_folder, write_bytes, write_text
from threedistill.cameras import orbit
from threedistill.errors import UsageError
from threedistill.evaluation.alignment import centred
from threedistill.exports.asset import ExportSettings, write_mesh
from threedistill.exports.files import png_bytes
from threedistill.exports.read import read_mesh
from threedistill.types import Mesh

__all__ = ["GROUPS", "LAYOUTS", "write_gpteval3d", "write_t3bench"]

#: T3Bench's lists: one object, one with surroundings, several.
GROUPS = ("single", "surr", "multi")


def write_gpteval3d(
    root: Path, method: str, run: dict[str, Any], views: int = 120, size: int = 512, batch: int = 4
) -> Path:
    """A run's pictures for GPTEval3D: colours and normals from ``views`` azimuths at 15 degrees, on white.

    Normals are those of the world with +Z up, as threestudio's, written as ``(n + 1) / 2``.

    Arguments:
        root: the tournament's folder.
        method: what we are called in it.
        run: ``prompt``, ``asset`` and ``seed`` (:func:`~threedistill.evaluation.report.read_run`).
        views, size, batch: how many pictures, their pixels a side, and how many are drawn at once.

    Returns:
        the run's folder in it.
    """
    from threedistill.render.mesh import render_mesh

    place = root / "methods" / method / str(_prompt_id(root, run["prompt"])) / str(run.get("seed") or 0)
    mesh = centred(read_mesh(Path(run["asset"])))
    cameras = orbit(views, size=size)
    for start in range(0, views, batch):
        rows = torch.arange(start, min(start + batch, views))
        with torch.no_grad():
            seen = render_mesh(mesh, cameras[rows], shading="normal")
            colours = render_mesh(mesh, cameras[rows]).rgb
        x, y, z = (seen.rgb * 2 - 1).unbind(-1)
        turned = torch.stack([z, x, y], -1) * 0.5 + 0.5  # our front +Z and up +Y are its +X and +Z
        normals = torch.where(seen.opacity > 0, turned * seen.opacity + 1 - seen.opacity, torch.ones(3))
        for offset, number in enumerate(rows.tolist()):
            write_bytes(place / f"rgb_{number}.png", png_bytes(colours[offset]))
            write_bytes(place / f"normal_{number}.png", png_bytes(normals[offset]))
    return place


def _prompt_id(root: Path, prompt: str) -> int:
    """A prompt's place in the tournament's list; a list of our own grows, somebody else's does not."""
    file, own = root / "prompts.json", root / ".threedistill"
    if not file.exists():
        make_folder(root)
        write_text(own, "prompts.json is made by threedistill and may grow\n")
        write_text(file, "[]\n")
    try:
        prompts = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(prompts, list)
    except (OSError, ValueError, AssertionError):
        raise UsageError(f"{file} is no JSON list of prompts") from None
    if prompt not in prompts:
        if not own.exists():
            raise UsageError(f"{file} does not list {prompt!r}; make an asset of one of its prompts")
        prompts.append(prompt)
        write_text(file, json.dumps(prompts, indent=1, ensure_ascii=False) + "\n")
    return prompts.index(prompt)


def write_t3bench(root: Path, method: str, run: dict[str, Any]) -> Path:
    """A run's mesh for T3Bench: OBJ, MTL and PNG, +Z up, as threestudio exports them.

    Arguments:
        root: the benchmark's folder.
        method, run: as for :func:`write_gpteval3d`.

    Returns:
        the run's folder in it.
    """
    prompt = str(run["prompt"])
    if "/" in prompt:
        raise UsageError(f"{prompt!r} has a slash, and T3Bench names folders after prompts")
    lists = {group: root / "data" / f"prompt_{group}.txt" for group in GROUPS}
    listed = [g for g, file in lists.items() if file.is_file() and prompt in _lines(file)]
    group = listed[0] if listed else "single"
    place = (
        root / "outputs_mesh_t3" / f"{method}_{group}" / f"{prompt.replace(' ', '_')}-s{run.get('seed') or 0}"
    )
    folder = place / "save" / "it0-export"
    make_folder(folder)
    mesh: Mesh = read_mesh(Path(run["asset"]))
    write_mesh(mesh, folder / "model.obj", ExportSettings(up="z"))
    return place


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]


#: Layout -> who writes a run into it.
LAYOUTS: dict[str, Callable[[Path, str, dict[str, Any]], Path]] = {
    "gpteval3d": write_gpteval3d, "t3bench": write_t3bench,
}  # fmt: skip
