"""Assets in the folders that the field's benchmarks read, so that their own scripts run on ours.

    GPTEval3D  DIR/methods/METHOD/PROMPT_ID/SEED/rgb_0.png ... rgb_119.png, normal_0.png ... normal_119.png
               DIR/prompts.json, where PROMPT_ID is a prompt's place; it is made where there is none
    T3Bench    DIR/outputs_mesh_t3/METHOD_GROUP/a_prompt-s0/save/it0-export/model.obj, with its MTL and PNG
               DIR/data/prompt_GROUP.txt, of which the first that lists the prompt names the group

T3Bench's are read as well (:func:`read_t3bench`), whatever method made them. GPTEval3D's hold pictures, and no assets.

Source: Wu et al. 2024, arXiv:2401.04092; He et al. 2023, arXiv:2310.02977.
"""

from __future__ import annotations

import json
import re
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
from threedistill.exports.frames import Frame, frame_of, turned
from threedistill.exports.read import read_mesh
from threedistill.types import Mesh

__all__ = ["GROUPS", "LAYOUTS", "read_t3bench", "write_gpteval3d", "write_t3bench"]

#: T3Bench's lists: one object, one with surroundings, several.
GROUPS = ("single", "surr", "multi")
#: The axes of threestudio's meshes, which T3Bench's are.
_THREESTUDIO = Frame("z", "x")


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
    """A run's mesh for T3Bench: OBJ, MTL and PNG, +Z up and front +X, as threestudio exports them.

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
    turn = (
        frame_of("z").to_ours() @ _THREESTUDIO.to_ours().T
    )  # the file's up axis can be asked for, its front cannot
    write_mesh(turned(mesh, turn), folder / "model.obj", ExportSettings(up="z"))
    return place


def read_t3bench(folder: Path) -> list[Path]:
    """A method's assets in T3Bench's folder, made readable as runs are: ``threedistill/`` in each of their folders gets
    a ``run.json`` and the mesh as GLB in our frame. Nothing of theirs is changed.

    The prompt is the listed one (``data/prompt_GROUP.txt`` two folders up) that the folder's name begins with, the
    longest if there are several; without a list, the name up to ``@`` or ``-s0``.

    Arguments:
        folder: ``outputs_mesh_t3/METHOD_GROUP``.

    Returns:
        those folders; empty where this is no such folder.
    """
    lists = [folder.parent.parent / "data" / f"prompt_{group}.txt" for group in GROUPS]
    listed = {prompt.replace(" ", "_"): prompt for file in lists if file.is_file() for prompt in _lines(file)}
    found = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = sorted(place.glob("save/it*-export/model.obj"), key=lambda file: _number(file.parent.name))
        if not files:
            continue
        known = [name for name in listed if name and place.name.startswith(name)]
        named = re.sub(r"(@.*|-s\d+)$", "", place.name).replace("_", " ")
        prompt = listed[max(known, key=len)] if known else named
        seed = re.search(r"-s(\d+)$", place.name)
        own = place / "threedistill"
        make_folder(own / "asset")
        write_mesh(
            read_mesh(files[-1], _THREESTUDIO.up, _THREESTUDIO.front),
            own / "asset" / "model.glb",
            ExportSettings(),
        )
        record = {
            "prompt": prompt,
            "seed": int(seed[1]) if seed else None,
            "source": str(files[-1].relative_to(place)),
        }
        write_text(own / "run.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        found.append(own)
    return found


def _number(text: str) -> int:
    """The iteration in ``it10000-export``."""
    return int("".join(filter(str.isdigit, text)) or 0)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]


#: Layout -> who writes a run into it.
LAYOUTS: dict[str, Callable[[Path, str, dict[str, Any]], Path]] = {
    "gpteval3d": write_gpteval3d, "t3bench": write_t3bench,
}  # fmt: skip
