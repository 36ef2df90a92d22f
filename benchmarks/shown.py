"""What a reference picture adds: objects nobody has seen, asked for by words alone and with their front shown.

    python benchmarks/shown.py --preset draft --out runs/shown

Of each of the first N held-out prompts a random true object is drawn from the front (and its camera told).
Both assets are compared with that very object: PSNR and SSIM of turntable views, those within 45 degrees of the front
apart from the rest. ``results.md`` and ``sheet.png`` (the picture shown; then three sides of the object, of the asset
that was shown it, and of the one that was not) land in the out folder. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from threedistill.threads import settle_threads

settle_threads()

#: Of the camera that takes the picture, degrees.
_ELEVATION = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for threedistill generate")
    parser.add_argument("--out", type=Path, default=Path("runs/shown"))
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--prompts", type=int, default=12, help="the first N of the public prompts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import torch

    from threedistill.atomic import write_bytes, write_text
    from threedistill.evaluation.appearance import pictures
    from threedistill.evaluation.similarity import psnr, ssim
    from threedistill.exports.files import png_bytes
    from threedistill.exports.read import read_mesh
    from threedistill.pipeline import generate
    from threedistill.render.mesh import render_mesh
    from threedistill.sweeps.job import finished
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.model import camera
    from threedistill.toybox.scenes import held_out
    from threedistill.toybox.world import build
    from threedistill.training.naming import slug

    views, size = 8, 128
    near = torch.tensor([abs((360 * v / views + 180) % 360 - 180) <= 45 for v in range(views)])
    figures, strips = [], []
    prompts = held_out()[: options.prompts]
    for number, prompt in enumerate(prompts):
        truth = build(parse(prompt).scene, random.Random(f"shown/{options.seed}/{number}"))
        seen = render_mesh(truth, camera([0.0], elevation=_ELEVATION, size=256), shading="lambertian")
        rgba = torch.cat([seen.rgb, seen.opacity], -1)[0]
        picture = options.out / f"{slug(prompt)}.png"
        write_bytes(picture, png_bytes(rgba))
        target = pictures(truth, lit=True, views=views, size=size).rgb
        row, drawn = [], [target]
        for name, images in (("words", ()), ("shown", (picture,))):
            run = options.out / f"{slug(prompt)}-{name}"
            if not finished(run):
                generate(
                    prompt, out=run, preset=options.preset, seed=options.seed, overwrite=True, quiet=True,
                    images=images, image_cameras=[(0.0, _ELEVATION)] * len(images), overrides=options.overrides,
                )  # fmt: skip
            made = pictures(read_mesh(run / "asset" / "model.glb"), lit=False, views=views, size=size).rgb
            row += [
                float(measure(made, target)[part].mean())
                for measure in (psnr, ssim)
                for part in (near, ~near)
            ]
            drawn.insert(1, made)
        figures.append(row)
        front = torch.nn.functional.interpolate(
            (rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]).permute(2, 0, 1)[None],
            (size, size),
            mode="area",
        )[0].permute(1, 2, 0)
        strips.append(torch.cat([front, *(d[v] for d in drawn for v in (0, views // 4, views // 2))], 1))
        print(f"{prompt:40} PSNR {row[1]:.1f} -> {row[5]:.1f} dB away from the front", flush=True)
    mean = torch.tensor(figures).mean(0).tolist()
    lines = [
        "| prompt | PSNR front, words | shown | PSNR rest, words | shown | SSIM rest, words | shown |",
        "|---" * 7 + "|",
    ]
    for name, x in (*zip(prompts, figures), ("**mean**", mean)):
        cells = f"{x[0]:.1f} | {x[4]:.1f} | {x[1]:.1f} | {x[5]:.1f} | {x[3]:.3f} | {x[7]:.3f}"
        lines.append(f"| {name} | {cells} |")
    write_text(options.out / "results.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    write_bytes(options.out / "sheet.png", png_bytes(torch.cat(strips)))


if __name__ == "__main__":
    main()
