"""Every recipe's shape with the embedded prior on one prompt: an asset each, and one picture of all.

python benchmarks/recipes.py --preset bench --out /tmp/recipes --picture docs/pictures/recipes.png

An asset that is there already is not made again, and a run that was stopped goes on where it was. DreamMat's mesh is
the one that Magic3D's recipe made.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")


def make(
    name: str, prompt: str, overrides: list[str], preset: str, folder: Path, seed: int
) -> tuple[int, str]:
    """The asset of a recipe; its seconds and the judge's line."""
    from threedistill import pipeline
    from threedistill.config.critics import critic_for

    out = folder / name
    asset = out / "asset" / "model.glb"
    if not asset.exists() and any(out.glob("checkpoints/*/last.safetensors")):
        pipeline.resume(out, quiet=True)
    elif not asset.exists():
        init = folder / "magic3d" / "asset" / "model.glb" if name == "dreammat" else None
        pipeline.generate(
            prompt, out=out, recipe=name, prior="toybox", preset=preset, seed=seed, init=init, overwrite=True,
            quiet=True, overrides=overrides,
        )  # fmt: skip
    seconds = json.loads((out / "run.json").read_text())["seconds"]
    return round(sum(seconds.values())), critic_for(prompt).judge(asset, prompt, quick=True)["verdict"]


def picture(path: Path, folders: list[Path], views: int = 4, size: int = 72, columns: int = 3) -> None:
    """One picture: ``views`` views of every asset, reopened from its file, over the recipe's name."""
    import torch
    from PIL import Image, ImageDraw

    from threedistill.exports.read import read_mesh
    from threedistill.toybox.evaluation.judging import look

    rows = -(-len(folders) // columns)
    width, height = views * size + 12, size + 14
    whole = Image.new("RGB", (columns * width, rows * height), "white")
    pen = ImageDraw.Draw(whole)
    for number, folder in enumerate(folders):
        left, top = number % columns * width, number // columns * height
        strip = torch.cat(list(look(read_mesh(folder / "asset" / "model.glb"), views=views, size=size)), 1)
        whole.paste(Image.fromarray((strip * 255).round().byte().numpy()), (left, top))
        pen.text((left + 2, top + size), folder.name, fill="black")
    whole.quantize(128).save(path, optimize=True)


def main() -> None:
    from threedistill.config import options

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", default="a red mushroom")
    parser.add_argument("--preset", default="bench")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--overrides", nargs="*", default=())
    chosen = parser.parse_args()
    names = chosen.only or sorted(options("experiment"), key=lambda name: (name == "dreammat", name))
    print("| recipe | seconds | the judge |\n|---|---|---|")
    for name in names:
        seconds, verdict = make(
            name, chosen.prompt, list(chosen.overrides), chosen.preset, chosen.out, chosen.seed
        )
        print(f"| {name} | {seconds} | {verdict} |", flush=True)
    if chosen.picture:
        picture(chosen.picture, [chosen.out / name for name in names])


if __name__ == "__main__":
    main()
