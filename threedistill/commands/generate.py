"""``threedistill generate``: one prompt, one asset."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from threedistill.commands.arguments import (
    Parser,
    frame_options,
    frame_overrides,
    from_options,
    image_options,
    images_of,
    is_setting,
    limit_option,
    many_of,
    one_of,
    unknown,
    viewer_option,
    whole_number,
)
from threedistill.commands.metric_options import best_by, best_options
from threedistill.errors import UsageError
from threedistill.exports.foreign.limits import limits, parse_limits
from threedistill.exports.formats import of_kind
from threedistill.texts import check_prompt

if TYPE_CHECKING:
    from threedistill.config import Config
    from threedistill.config.metrics import Asked
    from threedistill.exports.frames import Axis
    from threedistill.training.result import Result

__all__ = ["DEVICES", "LARGEST_SEED", "PRESETS", "Request", "answer", "composed", "parse", "parser", "run"]

PRESETS = ("bench", "draft", "standard", "high")
DEVICES = ("auto", "cpu", "cuda")
LARGEST_SEED = 2**63 - 1

#: Flags that name the same thing as a configuration key of the same name.
_SHARED = ("preset", "seed", "representation", "prior", "guidance", "recipe", "device")

_EPILOG = """\
examples:
  threedistill generate "a red mushroom"
  threedistill generate "a blue car" --preset draft --seed 3 --format glb,stl
  threedistill generate "a yellow duck" --negative blurry export.faces=4000
  threedistill generate "a yellow duck" --init duck.glb --representation dmtet
  threedistill generate "a yellow duck" --image duck.png --image-camera 30,15 --prior my_prior
  threedistill generate "a yellow duck" --seeds 8 --keep best --by clip --model clip=models/clip
  echo "a green tree" | threedistill generate --prompt-file -

key=value words behind the prompt override the configuration (threedistill list shows the choices).
The last line on stdout is the path of the asset; progress goes to stderr.
"""


@dataclass
class Request:
    """What the command line asks for: the arguments of :func:`threedistill.generate`, and how to answer."""

    prompt: str
    out: Path | None = None
    preset: str | None = None
    seed: int | None = None
    representation: str | None = None
    prior: str | None = None
    guidance: str | None = None
    recipe: str | None = None
    formats: tuple[str, ...] | None = None
    negative: str | None = None
    device: str = "auto"
    init: Path | None = None
    init_up: Axis | None = None
    init_front: Axis | None = None
    images: tuple[Path, ...] = ()
    image_cameras: tuple[tuple[float, float], ...] = ()
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    json: bool = False
    print_config: bool = False
    viewer: int | None = None
    changes: Path | None = None
    limits: dict[str, int | None] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    seeds: int | None = None
    best_by: Asked | None = None


def parser() -> Parser:
    """The options of ``generate``."""
    p = Parser(
        "generate",
        '"PROMPT" [options] [key=value ...]',
        "Make a textured 3D asset from a text prompt.",
        _EPILOG,
    )
    p.add_argument("--out", metavar="DIR", help="run folder (default: runs/<prompt>-<choices>-s<seed>)")
    p.add_argument(
        "--preset",
        type=one_of("--preset", PRESETS),
        metavar="P",
        help="bench | draft | standard | high: time and detail",
    )
    p.add_argument("--seed", type=whole_number("--seed", 0, LARGEST_SEED), metavar="N", help="default 0")
    best_options(p)
    p.add_argument(
        "--representation", metavar="R", help="what is optimised (threedistill list representations)"
    )
    p.add_argument("--prior", metavar="P", help="which diffusion model teaches (threedistill list priors)")
    p.add_argument(
        "--guidance", metavar="G", help="which score-distillation rule (threedistill list guidance)"
    )
    p.add_argument(
        "--recipe", metavar="NAME", help="a published method, stages and numbers (threedistill list recipes)"
    )
    p.add_argument(
        "--format",
        dest="formats",
        type=many_of("--format", of_kind("mesh", "splats", "film")),
        metavar="F,F",
        help="glb,obj,stl,usdz,3dgs,mp4 ... (threedistill list formats; default glb)",
    )
    frame_options(p)
    p.add_argument("--negative", metavar="TEXT", help="what the asset must not look like")
    p.add_argument("--device", type=one_of("--device", DEVICES), metavar="D", help="auto | cpu | cuda")
    p.add_argument(
        "--init", metavar="FILE", help="start from this mesh or these splats (glb obj ply stl, 3DGS ply ...)"
    )
    from_options(p, "the --init file")
    image_options(p)
    limit_option(p)
    viewer_option(p)
    p.add_argument(
        "--changes", metavar="FILE", help="make the changes that a run's changes.jsonl has, at the same steps"
    )
    p.add_argument("--stages", metavar="FILE", help="a YAML list of stages in place of the preset's")
    p.add_argument("--resume", action="store_true", help="continue the run in the folder")
    p.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    p.add_argument(
        "--prompt-file", metavar="FILE", help="read the prompt from a UTF-8 file, or from stdin with -"
    )
    p.add_argument("--quiet", action="store_true", help="print nothing but the asset's path")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the path")
    p.add_argument(
        "--print-config", action="store_true", help="print the complete configuration as YAML and stop"
    )
    return p


def parse(argv: Sequence[str]) -> Request:
    """Read the command line. The prompt is data: nothing in it is interpreted."""
    options, data = parser().parse(argv)
    if options.prompt_file is not None:
        prompt = _read_prompt(options.prompt_file)
    elif data:
        prompt, data = data[0], data[1:]
    else:
        raise UsageError('generate needs a prompt: threedistill generate "a red mushroom"')
    check_prompt(prompt)
    overrides = frame_overrides(options, _split_overrides(options, prompt, data))
    if options.stages:
        from threedistill.commands.stage_file import stages_override

        if rivals := [line for line in overrides if line.startswith("stages=")]:
            raise UsageError(f"--stages {options.stages} and {rivals[0]} disagree; keep one of them")
        overrides.append(stages_override(options.stages))
    if (options.from_up or options.from_front) and not options.init:
        raise UsageError("--from-up and --from-front say which axes the --init file has; there is none")
    images, image_cameras = images_of(options)
    if options.resume and options.overwrite:
        raise UsageError("--resume and --overwrite exclude each other: continue the run, or replace it")
    return Request(
        prompt=prompt, out=Path(options.out) if options.out else None, preset=options.preset,
        seed=options.seed, representation=options.representation, prior=options.prior,
        guidance=options.guidance, recipe=options.recipe, formats=options.formats, negative=options.negative,
        device=options.device or "auto", init=Path(options.init) if options.init else None,
        init_up=options.from_up, init_front=options.from_front, images=images,
        image_cameras=image_cameras, resume=options.resume, overwrite=options.overwrite,
        quiet=options.quiet, json=options.json, print_config=options.print_config,
        viewer=options.viewer, changes=Path(options.changes) if options.changes else None,
        limits=parse_limits(options.limit), overrides=overrides, seeds=options.seeds, best_by=best_by(options),
    )  # fmt: skip


def run(argv: Sequence[str]) -> int:
    """Make the asset and print where it is."""
    request = parse(argv)
    if request.print_config:
        return _print_config(request)
    # Whatever libraries print belongs to the log: stdout carries the answer and nothing else.
    with contextlib.redirect_stdout(sys.stderr), limits(request.limits):
        result = _make(request) if request.seeds is None else _best(request, request.seeds)
    answer(result, as_json=request.json)
    return 0


def _make(request: Request) -> Result:
    """Make one asset."""
    from threedistill import pipeline

    return pipeline.generate(
        request.prompt, out=request.out, preset=request.preset, seed=request.seed,
        representation=request.representation, prior=request.prior, guidance=request.guidance,
        recipe=request.recipe, formats=request.formats, negative=request.negative, device=request.device,
        init=request.init, init_up=request.init_up, init_front=request.init_front, images=request.images,
        image_cameras=request.image_cameras, resume=request.resume, overwrite=request.overwrite,
        quiet=request.quiet, overrides=request.overrides, changes=request.changes, viewer=request.viewer,
    )  # fmt: skip


def _best(request: Request, count: int) -> Result:
    """Make several seeds' assets, and choose."""
    from threedistill.config.metrics import metrics_for
    from threedistill.sweeps.best import best_of, check_folders, seed_folders
    from threedistill.training.naming import default_folder

    assert request.best_by is not None
    chosen = {
        "prior": request.prior, "representation": request.representation, "guidance": request.guidance,
        "recipe": request.recipe,
    }  # fmt: skip
    folders = seed_folders(
        request.seed or 0,
        count,
        request.out,
        lambda seed: default_folder(request.prompt, seed, chosen),
        LARGEST_SEED,
    )
    ((name, metric),) = metrics_for(request.best_by).items()
    try:
        metric.check_text(request.prompt)
    except UsageError as error:
        raise UsageError(f"--by {name}: {error}; choose another (threedistill list metrics)") from None
    check_folders(folders, lambda seed: composed(replace(request, seed=seed)))
    return best_of(
        folders, lambda seed, out: _make(replace(request, seed=seed, out=out, resume=True)), name, metric,
        request.quiet,
    )  # fmt: skip


def _print_config(request: Request) -> int:
    """Show what would be run, every key that can be overridden included."""
    import yaml

    print(yaml.safe_dump(composed(request), allow_unicode=True, sort_keys=False, width=110), end="")
    return 0


def composed(request: Request) -> Config:
    """The configuration that a request is for."""
    from threedistill.config import compose, pictures

    return compose(
        prompt=request.prompt, negative=request.negative or "", preset=request.preset or "standard",
        seed=request.seed or 0, representation=request.representation, prior=request.prior, guidance=request.guidance,
        recipe=request.recipe, formats=request.formats or ("glb",), device=request.device,
        init=str(request.init) if request.init else None, images=pictures(request.images, request.image_cameras),
        overrides=request.overrides,
    )  # fmt: skip


def answer(result: object, *, as_json: bool) -> None:
    """Print the asset's path as the last line of stdout, or everything about it as one JSON object."""
    if not as_json:
        print(result.asset)  # type: ignore[attr-defined]
        return
    facts = {
        "asset": str(result.asset),  # type: ignore[attr-defined]
        "run_dir": str(result.run_dir),  # type: ignore[attr-defined]
        "verdict": result.verdict,  # type: ignore[attr-defined]
        "evaluation": result.evaluation,  # type: ignore[attr-defined]
        "seconds": result.seconds,  # type: ignore[attr-defined]
    }
    print(json.dumps(facts, ensure_ascii=False, default=str))


def _read_prompt(file: str) -> str:
    """The prompt in a file or on stdin, without the final line break that editors and echo add."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"--prompt-file {file}: {(error.strerror or str(error)).lower()}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"--prompt-file {file}: not UTF-8 text (byte {error.start})") from None
    return text.removesuffix("\n").removesuffix("\r")


def _split_overrides(options: argparse.Namespace, prompt: str, words: Sequence[str]) -> list[str]:
    """Check the words behind the prompt; those that name a flag become that flag, unless the two disagree."""
    kept = []
    for word in words:
        if not is_setting(word):
            if "=" in word:
                raise UsageError(f"not an override: {word!r}; write key=value, for example export.faces=4000")
            whole = " ".join([prompt, *(w for w in words if not is_setting(w))])
            raise UsageError(f'more than one prompt; put it in quotes: threedistill generate "{whole}"')
        key, value = word.split("=", 1)
        if key not in _SHARED:
            kept.append(word)
            continue
        checked = _checked(key, value)
        flag = getattr(options, key)
        if flag is not None and flag != checked:
            raise UsageError(f"--{key} {flag} and {word} disagree; keep one of them")
        setattr(options, key, checked)
    return kept


def _checked(key: str, value: str) -> str | int:
    if key == "seed":
        return whole_number("seed", 0, LARGEST_SEED)(value)
    choices = {"preset": PRESETS, "device": DEVICES}.get(key)
    if choices is not None and value not in choices:
        raise UsageError(unknown(key, value, choices))
    return value
