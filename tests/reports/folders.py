"""Run folders with everything that a report shows, without any training: a coloured ball by our own exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from threedistill.config import compose, write_config
from threedistill.exports.settings import FileSettings
from threedistill.exports.splat_files import write_splats
from threedistill.exports.write import write_mesh
from threedistill.types import Mesh, Splats

__all__ = ["HOSTILE", "ball", "cloud", "make_run", "many_runs"]

#: Prompts that would be scripts where somebody forgot to escape them.
HOSTILE = (
    "<img src=x onerror=\"window.pwned='img'\">",
    "</script><script>window.pwned='script'</script>",
    "<!--<script>window.pwned='comment'",
    '"onmouseover="window.pwned=\'attribute\'" x="',
    "javascript:window.pwned='url' '); window.pwned='css' \u2028 \\u003c",
)


def ball(color: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Mesh:
    """A small sphere with vertex colours."""
    import trimesh

    shape = trimesh.creation.icosphere(2, 0.5)
    vertices = torch.from_numpy(np.asarray(shape.vertices)).float()
    colors = torch.tensor(color).expand(len(vertices), 3).contiguous()
    return Mesh(vertices=vertices, faces=torch.from_numpy(np.asarray(shape.faces)), colors=colors)


def cloud(count: int = 400) -> Splats:
    """Red splats on a sphere."""
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 0.5
    red = (torch.tensor([0.9, 0.1, 0.1]) - 0.5) / 0.28209479177387814
    return Splats(
        means=means, log_scales=torch.full((count, 3), -2.8),
        quaternions=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        opacity_logits=torch.full((count,), 4.0), sh=red.expand(count, 1, 3).contiguous(),
    )  # fmt: skip


def make_run(
    folder: Path, prompt: str = "a red ball", seed: int = 0, guidance: str = "sds", *, status: str = "done",
    splats: bool = False, turntable: bool = True, iou: float = 0.8,
) -> Path:  # fmt: skip
    """One finished run."""
    (folder / "asset").mkdir(parents=True)
    (folder / "preview").mkdir()
    write_config(
        compose(prompt=prompt, seed=seed, prior="gaussian", guidance=guidance), folder / "config.yaml"
    )
    record = {
        "schema": 1, "status": status, "prompt": prompt, "seed": seed, "seconds": {"stage": 2.0, "export": 0.5},
        "prior_version": "gaussian 1", "prior_licence": "Apache-2.0",
        "error": None if status == "done" else "it got lost",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "eval.json").write_text(json.dumps({"verdict": "ball 0.99", "shape": {"silhouette_iou": iou}}))
    rows = "\n".join(f"0,{k},{1 / k:.4f},{k * 0.01:.4f},0" for k in range(10, 110, 10))
    (folder / "metrics.csv").write_text(f"stage,iteration,direction_rms,opacity,nonfinite\n{rows}\n")
    write_mesh(ball(), folder / "asset" / "model.glb", FileSettings())
    if splats:
        write_splats(cloud(), folder / "asset" / "splats.ply")
    frames = [Image.fromarray(np.full((64, 64, 3), (200, 30 + 20 * k, 30), dtype=np.uint8)) for k in range(4)]
    if turntable:
        frames[0].save(
            folder / "asset" / "turntable.webp", save_all=True, append_images=frames[1:], duration=90
        )
    strip = Image.new("RGB", (256, 64))
    for k, frame in enumerate(frames):
        strip.paste(frame, (64 * k, 0))
    for step in (50, 100):
        strip.save(folder / "preview" / f"{step:06d}.png")
    strip.save(folder / "asset" / "views.png")
    return folder


def many_runs(root: Path, count: int) -> None:
    """``count`` runs of two rules and four seeds; the first has splats, hostile prompts are among them."""
    first = make_run(root / "r000", splats=True)
    for k in range(1, count):
        folder = root / f"r{k:03d}"
        shutil.copytree(first, folder)
        if k > 1:
            (folder / "asset" / "splats.ply").unlink()
        prompt = HOSTILE[k % 7] if k % 7 < len(HOSTILE) else ["a red ball", "a blue car"][k % 2]
        config = (folder / "config.yaml").read_text().replace("seed: 0", f"seed: {k % 4}", 1)
        (folder / "config.yaml").write_text(config)
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "prompt": prompt, "seed": k % 4}))
        (folder / "eval.json").write_text(json.dumps({"shape": {"silhouette_iou": 0.5 + 0.4 * k / count}}))
