"""What the page shows of one run: its files, pictures, curves, settings, notes and citations, as plain data."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

from threedistill.atomic import read_json
from threedistill.errors import ThreedistillError
from threedistill.training.curves import curves
from threedistill.training.run_folder import OWN, RunFolder

__all__ = ["details", "files", "motion", "previews", "scene"]

#: A filmstrip has no more pictures than this, evenly spread, the last one among them.
FRAMES = 24
#: Longer texts are cut; the file is linked.
_LONGEST = 60_000
#: Beyond this a browser would rather not decode what a page carries.
_LARGEST = 64 << 20


def details(folder: Path) -> dict[str, Any]:
    """Everything about a run but its 3D data.

    Arguments:
        folder: the run's.

    Returns:
        ``files``, ``previews``, ``curves``, ``config``, ``record``, ``notes``, ``changes``, ``citation``, ``licence``;
        paths are relative to the folder.
    """
    record = read_json(folder / "run.json")
    config = _text(folder / "config.yaml")
    notes = [f"warning: {line}" for line in record.get("warnings") or []]
    notes += [f"error: {record['error']}"] if record.get("error") else []
    notes += [str(line) for line in record.get("prior_notes") or []]
    notes += [traceback] if (traceback := _text(folder / "traceback.txt")) else []
    return {
        "files": files(folder), "previews": previews(folder), "curves": curves(folder), "config": config,
        "record": json.dumps(record, indent=1, ensure_ascii=False), "notes": notes,
        "verdict": read_json(folder / "eval.json").get("verdict"), "citation": _citation(folder),
        "licence": record.get("prior_licence"), "prior": record.get("prior_version"),
        "changes": [line for line in _text(folder / "changes.jsonl").splitlines() if line.strip()],
    }  # fmt: skip


def files(folder: Path) -> list[dict[str, Any]]:
    """What a run offers to take away: its asset first, then what it was made with; name and bytes of each."""
    asset = sorted(p for p in folder.glob("asset/**/*") if p.is_file())
    # Temporary files and checkpoints are no use to anybody who reads a page.
    others = [p for name in OWN if (p := folder / name).is_file()]
    return [
        {"name": str(p.relative_to(folder)), "bytes": p.stat().st_size}
        for p in [*asset, *others]
        if not p.name.startswith(".")
    ]


def previews(folder: Path) -> list[str]:
    """The strips of views that a run left on its way, at most :data:`FRAMES`, in order."""
    found = RunFolder(folder).previews
    if len(found) > FRAMES:
        found = [found[round(k * (len(found) - 1) / (FRAMES - 1))] for k in range(FRAMES)]
    return [str(p.relative_to(folder)) for p in found]


def motion(folder: Path) -> dict[str, Any] | None:
    """What moves when a card is pointed at: a turntable, or a strip of views that is shown one after the other.

    Returns:
        ``file`` and ``frames`` (0 = the file moves by itself), or None where there is no picture at all.
    """
    from PIL import Image

    if (folder / "asset" / "turntable.webp").is_file():
        return {"file": "asset/turntable.webp", "frames": 0}
    strips = [Path("asset/views.png"), *map(Path, previews(folder)[-1:])]
    for strip in strips:
        with contextlib.suppress(OSError), Image.open(folder / strip) as image:
            width, height = image.size
            if width % height == 0:
                return {"file": str(strip), "frames": width // height}
    return None


def scene(folder: Path) -> dict[str, Any]:
    """The asset as a page can show it from a disk: ``glb`` and ``splat`` in base64, and ``notes`` about what is not.

    Splats travel in antimatter15's 32-byte form, without view dependence.
    """
    found: dict[str, Any] = {"notes": []}
    glb = folder / "asset" / "model.glb"
    if glb.is_file():
        if glb.stat().st_size <= _LARGEST:
            found["glb"] = base64.b64encode(glb.read_bytes()).decode("ascii")
        else:
            found["notes"].append("the mesh is too large to be shown here; download it")
    if (folder / "asset" / "splats.ply").is_file():
        import torch

        from threedistill.exports.read import read_asset_splats
        from threedistill.exports.splats.cloud import rotated
        from threedistill.exports.splats.splat import splat_bytes

        try:
            # The viewer's world is that of captures: y points down, and its camera looks from -z.
            data = splat_bytes(
                rotated(read_asset_splats(folder / "asset"), torch.diag(torch.tensor([1.0, -1, -1])))
            )
        except ThreedistillError as error:
            found["notes"].append(str(error))
        else:
            if len(data) <= _LARGEST:
                found["splat"] = base64.b64encode(data).decode("ascii")
            else:
                found["notes"].append("the splats are too many to be shown here; download them")
    return found


def _citation(folder: Path) -> str:
    from threedistill.citation import cite

    try:
        return str(cite(folder))
    except (ThreedistillError, OSError) as error:
        return f"(not known: {' '.join(str(error).split())})"


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\n[...]"
