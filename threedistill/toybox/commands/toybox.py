"""``threedistill toybox``: the world behind the embedded prior: its objects, its samples, its judge, its training."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from threedistill.commands.arguments import Parser, number, unknown, whole_number
from threedistill.commands.generate import LARGEST_SEED
from threedistill.errors import UsageError

__all__ = ["USAGE", "run"]

USAGE = """\
usage: threedistill toybox {render,sample,judge,train} ...

The procedural world that the embedded prior was trained on.

  render "PROMPT"       the true object, as a contact sheet (.png) or a mesh (.glb .obj .ply .stl)
  sample "PROMPT"       pictures that the embedded prior draws
  judge ASSET "PROMPT"  what the judge sees in an asset
  judge                 how much the prior's own pictures look like the world
  train --out DIR       train the prior

threedistill toybox render --help shows the options of render, and so on."""


def run(argv: Sequence[str]) -> int:
    """Dispatch to one of the four."""
    actions: dict[str, Callable[[Sequence[str]], int]] = {
        "render": _render, "sample": _sample, "judge": _judge, "train": _train,
    }  # fmt: skip
    if not argv or argv[0] in ("--help", "-h"):
        print(USAGE)
        return 0
    if argv[0] not in actions:
        raise UsageError(unknown("toybox", argv[0], list(actions)))
    return actions[argv[0]](argv[1:])


def _one_prompt(action: str, data: Sequence[str]) -> str:
    if len(data) != 1:
        raise UsageError(
            f'toybox {action} takes one prompt in quotes: threedistill toybox {action} "a red mushroom"'
        )
    return data[0]


def _file_name(prompt: str, action: str) -> Path:
    from threedistill.training.naming import slug

    return Path(f"{slug(prompt)}-{action}.png")


def _say_ignored(ignored: Sequence[str]) -> None:
    if ignored:
        print(f"ignored: {', '.join(ignored)}", file=sys.stderr)


def _render(argv: Sequence[str]) -> int:
    p = Parser("toybox render", '"PROMPT" [options]', "Show the world's true object for a prompt.")
    p.add_argument("--out", metavar="FILE", help="a .png sheet, or a .glb .obj .ply .stl mesh")
    p.add_argument("--views", type=whole_number("--views", 1, 64), default=8, metavar="N", help="default 8")
    p.add_argument(
        "--variation", type=whole_number("--variation", 0, LARGEST_SEED), metavar="N",
        help="random proportions by this number (default: the canonical ones)",
    )  # fmt: skip
    options, data = p.parse(argv)
    prompt = _one_prompt("render", data)
    from threedistill.exports.asset import write_mesh
    from threedistill.exports.settings import FileSettings
    from threedistill.exports.video import write_sheet
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.world import build

    path = Path(options.out) if options.out else _file_name(prompt, "world")
    rng = None if options.variation is None else random.Random(options.variation)
    parsed = parse(prompt)
    _say_ignored(parsed.ignored)
    mesh = build(parsed.scene, rng)
    if path.suffix.lower() == ".png":
        write_sheet(mesh, path, views=options.views, unlit=False)
    else:
        if mesh.vertex_material is not None:
            print("note: a mesh file has one finish here; shiny beside matt is written matt", file=sys.stderr)
        # Without light a highlight cannot be seen.
        write_mesh(mesh, path, FileSettings(unlit=mesh.metallic_roughness is None))
    print(path)
    return 0


def _add_sampling(p: Parser) -> None:
    """How pictures are drawn."""
    p.add_argument(
        "--scale", type=number("--scale", 0, 100), metavar="S",
        help="guidance (default: the network's own; the transformer's 1.5)",
    )  # fmt: skip
    p.add_argument(
        "--steps", type=whole_number("--steps", 1, 1000), metavar="N",
        help="of sampling (default: the network's own; the transformer's 8)",
    )  # fmt: skip


def _sample(argv: Sequence[str]) -> int:
    p = Parser("toybox sample", '"PROMPT" [options]', "Draw pictures with the embedded prior.")
    p.add_argument("--out", metavar="FILE", help="a .png")
    p.add_argument(
        "--views", type=whole_number("--views", 1, 64), default=8, metavar="N", help="all round (default 8)"
    )
    p.add_argument("--text-only", action="store_true", help="do not tell the prior its camera")
    _add_sampling(p)
    p.add_argument(
        "--seed", type=whole_number("--seed", 0, LARGEST_SEED), default=0, metavar="N", help="default 0"
    )
    p.add_argument("--negative", default="", metavar="TEXT", help="what the pictures must not show")
    options, data = p.parse(argv)
    prompt = _one_prompt("sample", data)
    from threedistill.toybox.grammar import parse, prior_words

    parsed = parse(prompt, prior_words())
    _say_ignored(parsed.ignored)
    import torch

    from threedistill.atomic import write_bytes
    from threedistill.exports.files import png_bytes
    from threedistill.toybox.evaluation.prior_figures import sampling
    from threedistill.toybox.model import ToyboxPipeline, camera

    with contextlib.redirect_stdout(sys.stderr):
        pipeline = ToyboxPipeline.load()
        around = camera([360 * v / options.views for v in range(options.views)])
        pictures = pipeline(
            [parsed.normalised] * options.views, cameras=None if options.text_only else around,
            background=torch.ones(options.views, 3), negative_prompt=options.negative,
            generator=torch.Generator().manual_seed(options.seed), **sampling(options.scale, options.steps),
        )  # fmt: skip
    path = Path(options.out) if options.out else _file_name(prompt, "samples")
    write_bytes(path, png_bytes(torch.cat(list(pictures), dim=1)))
    print(path)
    return 0


def _judge(argv: Sequence[str]) -> int:
    p = Parser(
        "toybox judge", '[ASSET "PROMPT"] [options]',
        "Say what the judge sees in an asset; without one, how much the prior's own pictures look like its world.",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="print everything as one JSON object")
    p.add_argument("--prior", metavar="DIR", help="a saved prior (default: the shipped one)")
    p.add_argument(
        "--prompts", type=whole_number("--prompts", 1, 12), default=12, metavar="N", help="of 12 (default)"
    )
    p.add_argument(
        "--views", type=whole_number("--views", 1, 64), default=4, metavar="N", help="of each (default 4)"
    )
    _add_sampling(p)
    p.add_argument(
        "--set", type=whole_number("--set", 0, 24), default=24, metavar="N",
        help="held-out captions, eight pictures each, of the sets that are compared, and objects shown (24; 0 = none)",
    )  # fmt: skip
    p.add_argument(
        "--seed", type=whole_number("--seed", 0, LARGEST_SEED), default=0, metavar="N", help="default 0"
    )
    options, data = p.parse(argv)
    if not data:
        return _judge_prior(options)
    if len(data) != 2:
        raise UsageError(
            'toybox judge takes a file and a prompt: threedistill toybox judge model.glb "a red mushroom"; without '
            "them it judges the prior's own pictures"
        )
    from threedistill.toybox.evaluation.critic import evaluate_asset

    found = evaluate_asset(data[0], data[1])
    print(json.dumps(found, ensure_ascii=False, default=str) if options.json else found["verdict"])
    return 0


def _judge_prior(options: Namespace) -> int:
    """The figures of the prior's own pictures."""
    from threedistill.resources import assets_dir, weights_hash
    from threedistill.toybox.evaluation import picture_quality as quality
    from threedistill.toybox.evaluation.prior_figures import toybox_sampler
    from threedistill.toybox.judge import Judge
    from threedistill.toybox.model import ToyboxPipeline
    from threedistill.toybox.scenes import held_out

    folder = Path(options.prior) if options.prior else assets_dir() / "toybox" / "prior"
    with contextlib.redirect_stdout(sys.stderr):
        pipeline = ToyboxPipeline.load(folder)
        sampler = toybox_sampler(pipeline, options.scale, options.steps)
        rows = {}
        for prompt in quality.PROMPTS[: options.prompts]:
            rows[prompt] = quality.judge_prompt(
                sampler, prompt, pipeline.size, views=options.views, seed=options.seed
            )
            print(f"{prompt}: SSIM {rows[prompt].ssim:.3f}", file=sys.stderr, flush=True)
        distance = None
        if options.set:
            distance = quality.set_distance(
                sampler, Judge.load(), held_out()[: options.set], pipeline.size, seed=options.seed,
                progress=lambda prompt: print(f"set: {prompt}", file=sys.stderr, flush=True),
            )  # fmt: skip
        reference = None
        if options.set and "image" in pipeline.shows:
            reference = quality.reference_gain(
                pipeline, held_out()[: min(12, options.set)], options.steps, options.scale, options.seed
            )
    mean = quality.mean_figures(list(rows.values()))
    facts = {
        "prior": f"sha256 {weights_hash(folder)}", "size": pipeline.size, "steps": options.steps,
        "scale": options.scale, "views": options.views, "seed": options.seed,
    }  # fmt: skip
    if options.json:
        print(json.dumps(facts | quality.as_dict(rows, mean, distance, reference)))
    else:
        print(", ".join(f"{k} {v}" for k, v in facts.items() if v is not None))
        print(quality.table(rows, mean, distance, reference))
    return 0


def _train(argv: Sequence[str]) -> int:
    p = Parser("toybox train", "--out DIR [options]", "Train the embedded prior; continues what is in DIR.")
    p.add_argument("--out", metavar="DIR", help="checkpoints, log, sample sheets, and the prior in DIR/prior")
    p.add_argument("--cache", metavar="DIR", help="the rendered world (default: OUT/cache)")
    p.add_argument(
        "--network", choices=("transformer", "unet"), default="transformer",
        help="transformer: 128 pixels, can be shown pictures (default); unet: 64 pixels",
    )  # fmt: skip
    p.add_argument(
        "--images", type=whole_number("--images", 1, 10**10), metavar="N",
        help="pictures shown in all (the transformer's run may be made longer until its rate falls)",
    )  # fmt: skip
    p.add_argument("--batch", type=whole_number("--batch", 1, 65536), metavar="N", help="pictures per step")
    p.add_argument("--lr", type=number("--lr", 0, 1), metavar="X", help="peak learning rate")
    p.add_argument(
        "--sketch-images", type=whole_number("--sketch-images", 0, 10**10), metavar="N",
        help="pictures shown to the sketch before (0 keeps it)",
    )  # fmt: skip
    p.add_argument(
        "--sketch-lr", type=number("--sketch-lr", 0, 1), metavar="X", help="its peak learning rate"
    )
    p.add_argument(
        "--from", dest="start_from", metavar="DIR", help="begin with the weights of another run or prior"
    )
    p.add_argument(
        "--processes", type=whole_number("--processes", 1, 1024), metavar="N",
        help="share every batch (on a CPU: one process per core is fastest)",
    )  # fmt: skip
    p.add_argument(
        "--compile", action="store_true",
        help="run the transformer's step through torch.compile (needs a C++ compiler)",
    )  # fmt: skip
    p.add_argument("--device", default="cpu", metavar="D", help="cpu | cuda")
    p.add_argument(
        "--seed", type=whole_number("--seed", 0, LARGEST_SEED), default=0, metavar="N", help="default 0"
    )
    options, data = p.parse(argv)
    if data or not options.out:
        raise UsageError("toybox train needs --out DIR and nothing else")
    given = {k: v for k in ("images", "batch", "lr", "processes") if (v := getattr(options, k)) is not None}
    given |= {"out": options.out, "cache": options.cache or f"{options.out}/cache"}
    given |= {"device": options.device, "seed": options.seed}
    with contextlib.redirect_stdout(sys.stderr):
        if options.network == "unet":
            folder = _train_unet(given, options)
        else:
            folder = _train_transformer(given, options)
    print(folder)
    return 0


def _train_transformer(given: dict[str, Any], options: Namespace) -> Path:
    from threedistill.toybox.teacher_trainer import TeacherTraining
    from threedistill.toybox.train_teacher import train

    if options.sketch_lr is not None:
        given["sketch_lr"] = options.sketch_lr
    plan = TeacherTraining(**given, compiled=options.compile)
    if options.sketch_images is not None:  # alone; afterwards it goes on learning beside the transformer
        plan = replace(plan, head_start=math.ceil(options.sketch_images / plan.sketch_batch))
    return train(plan, options.start_from)


def _train_unet(given: dict[str, Any], options: Namespace) -> Path:
    from threedistill.toybox.train_prior import TrainSettings, train

    if options.compile:
        raise UsageError("--compile is for the transformer: leave it out with --network unet")
    settings = TrainSettings(**given)
    told = {"images": options.sketch_images, "lr": options.sketch_lr}
    sketch = replace(settings.sketch, **{k: v for k, v in told.items() if v is not None})
    return train(replace(settings, sketch=sketch), options.start_from)
