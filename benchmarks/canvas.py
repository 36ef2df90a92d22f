"""What each rule does to a canvas: same prior, prompt and seed, no renderer in between.

    python benchmarks/canvas.py [--prompt "a red mushroom"] [--seed 0] [--iterations 300] [--rules sds,vsd]
                                [--out docs/maths/canvas] [key=value ...]

Writes one strip per rule (the picture at the start, after 1/8, 1/4, 1/2 and all of the iterations, and the true one)
and ``all.png`` of all strips in the folder, and prints seconds and how far from the true picture of the toybox world
each rule ended. ``dds`` starts from the true picture of the thing in another colour and edits it. With the default
``--out`` the rules' pages are given a link to their strip where they have none.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

MATHS = Path(__file__).resolve().parent.parent / "docs" / "maths"


def picture_of(prompt: str, path: Path) -> torch.Tensor:
    """The true picture of a prompt from the canvas's place, written to a file."""
    from threedistill.atomic import write_bytes
    from threedistill.cameras import orbit
    from threedistill.exports.files import png_bytes
    from threedistill.render.mesh import render_mesh
    from threedistill.toybox.priors.oracle import ground_truth

    mesh = ground_truth(prompt)
    rgb = render_mesh(mesh, orbit(1, size=64), background=torch.ones(1, 3)).rgb[0]
    write_bytes(path, png_bytes(rgb))
    return rgb


def other_color(prompt: str) -> str:
    """The prompt with its colour word changed."""
    from threedistill.toybox.lexicon import COLORS

    words = prompt.split()
    for i, word in enumerate(words):
        if word in COLORS:
            words[i] = "blue" if word != "blue" else "red"
            return " ".join(words)
    raise SystemExit("give a prompt with a colour, which the edit can start without")


def run(
    rule: str, prompt: str, seed: int, iterations: int, folder: Path, prior: object, overrides: list[str]
):
    """Snapshots (K, 64, 64, 3), and the seconds they took."""
    from threedistill.config import compose
    from threedistill.training.assemble import build_stages
    from threedistill.training.planning import build_plan

    extra = []
    if rule == "dds":
        source = other_color(prompt)
        start = folder / "source.png"
        picture_of(source, start)
        extra = [f"prompts.source='{source}'", f"representation.model.picture='{start}'"]
    config = compose(
        prompt=prompt, preset="draft", seed=seed, guidance=rule, representation="canvas",
        overrides=[f"budget.iterations={iterations}", *extra, *overrides],
    )  # fmt: skip
    system = build_stages(build_plan(config), prior)[0]
    optimizers = system.configure_optimizers()
    system.optimizers = lambda use_pl_optimizer=False: optimizers
    system.manual_backward = lambda loss: loss.backward()
    at = {iterations // 8, iterations // 4, iterations // 2, iterations}
    pictures, began = [system.scenes[0].pictures()[0]], time.perf_counter()
    for index in range(iterations):
        system.training_step(index)
        if index + 1 in at:
            pictures.append(system.scenes[0].pictures()[0])
    return torch.stack(pictures), time.perf_counter() - began


def link(rule: str) -> None:
    """Show a rule's strip on its page."""
    page = MATHS / f"{rule}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if text and f"(canvas/{rule}.png)" not in text:
        before, source, after = text.partition("**Source.**")
        page.write_text(
            f"{before}![{rule} on a canvas](canvas/{rule}.png)\n\n{source}{after}", encoding="utf-8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red mushroom")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--rules", default="")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent.parent / "docs" / "maths" / "canvas"
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for threedistill generate")
    options = parser.parse_args()

    from threedistill.atomic import write_bytes
    from threedistill.config import compose, groups
    from threedistill.exports.files import png_bytes
    from threedistill.training.assemble import build_prior
    from threedistill.training.planning import build_plan

    plan = build_plan(compose(prompt=options.prompt, overrides=options.overrides))
    prior = build_prior(plan, torch.device("cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    truth = picture_of(options.prompt, options.out / "truth.png")
    names = options.rules.split(",") if options.rules else groups()["guidance"]
    for rule in names:
        strip, seconds = run(
            rule, options.prompt, options.seed, options.iterations, options.out, prior, options.overrides
        )
        row = torch.cat([*strip, truth], 1).repeat_interleave(2, 0).repeat_interleave(2, 1)
        write_bytes(options.out / f"{rule}.png", png_bytes(row))
        if options.out == MATHS / "canvas":
            link(rule)
        error = float((strip[-1] - truth).square().mean().sqrt())
        print(f"{rule:6} {seconds:6.1f} s  rms to the true picture {error:.3f}", flush=True)
    strips = [options.out / f"{rule}.png" for rule in groups()["guidance"]]
    rows = [
        torch.from_numpy(np.array(Image.open(file).convert("RGB"))) / 255 for file in strips if file.exists()
    ]
    write_bytes(options.out / "all.png", png_bytes(torch.cat(rows)))


if __name__ == "__main__":
    main()
