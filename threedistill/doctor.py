"""``threedistill doctor``: what is here, what is missing, and the exact command that brings it.

Every finding is ``ok``, ``missing`` (a part this tool needs) or ``optional`` (it works without). Nothing is
downloaded or compiled; CUDA packages are only looked for, because importing them may start a compiler.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from threedistill.commands.arguments import Parser
from threedistill.errors import UsageError
from threedistill.resources import assets_dir, weights_hash
from threedistill.threads import usable_cores

__all__ = ["Finding", "State", "examine", "parser", "run"]

State = Literal["ok", "missing", "optional"]
_MIN_FREE_GB = 0.2
_REINSTALL = "pip install --force-reinstall --no-deps .  (in the folder of threedistill's source)"


@dataclass(frozen=True)
class Finding:
    """One line of the report: the part, its state, what was seen, and the command that brings it."""

    part: str
    state: State
    detail: str
    fix: str = ""


def parser() -> Parser:
    """The options of ``doctor``."""
    p = Parser("doctor", "[--json]", "Say what is installed, what is missing, and what brings it.")
    p.add_argument("--json", action="store_true", help="print a JSON list")
    return p


def run(argv: Sequence[str]) -> int:
    """Print the findings; exit status 1 if something needed is missing."""
    options, data = parser().parse(argv)
    if data:
        raise UsageError(f"doctor takes no arguments, got {data[0]!r}")
    with contextlib.redirect_stdout(sys.stderr):
        findings = examine()
    if options.json:
        print(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        width = max(len(f.part) for f in findings)
        for f in findings:
            print(f"{f.state:9}{f.part:{width}}  {f.detail}")
            if f.fix:
                print(f"{'':9}{'':{width}}  -> {f.fix}")
    return 1 if any(f.state == "missing" for f in findings) else 0


def examine() -> list[Finding]:
    """Look at every part in turn."""
    return [
        _python(),
        *_torch(),
        _native(),
        *(
            _package(name)
            for name in ("diffusers", "transformers", "peft", "pytorch-lightning", "hydra-core", "hydra-zen")
        ),
        *(_package(name) for name in ("trimesh", "xatlas", "fast-simplification")),
        *_toybox(),
        *_accelerators(),
        *(_extra(*row) for row in _EXTRAS),
        *_plugins(),
        _disk(),
    ]


#: (distribution, module, what it adds, command)
_EXTRAS = (
    (
        "imageio-ffmpeg",
        "imageio_ffmpeg",
        "mp4 turntables (webp and gif need nothing)",
        "pip install imageio-ffmpeg",
    ),
    ("gradio", "gradio", "threedistill app, a page in a browser", "pip install 'threedistill[app]'"),
    ("usd-core", "pxr", "USD validation", "pip install 'usd-core>=26.8'"),
    ("matplotlib", "matplotlib", "plots of bench (SVG)", "pip install 'threedistill[plots]'"),
    ("viser", "viser", "the viewer: view, generate --viewer", "pip install 'viser>=1.1'"),
)


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("torch", "missing", " ".join(str(error).split()), "pip install 'torch>=2.6,<2.14'")]
    threads, cores = torch.get_num_threads(), usable_cores()
    spin = os.environ.get("OMP_WAIT_POLICY", "unset")
    findings = [Finding("torch", "ok", f"{torch.__version__}")]
    detail = f"{threads} on {cores} usable cores, OMP_WAIT_POLICY={spin}"
    state: State = "ok" if threads <= cores else "optional"
    fix = "" if state == "ok" else f"export OMP_NUM_THREADS={cores}"
    findings.append(Finding("threads", state, detail, fix))
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        free, total = torch.cuda.mem_get_info(0)
        findings.append(Finding("cuda", "ok", f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"))
    elif torch.version.cuda is None:
        findings.append(
            Finding(
                "cuda",
                "optional",
                "this torch is built for the CPU",
                "install a CUDA build of torch (pytorch.org)",
            )
        )
    else:
        findings.append(
            Finding("cuda", "optional", "torch sees no GPU", "install or repair the NVIDIA driver")
        )
    return findings


def _native() -> Finding:
    import warnings

    from threedistill.ops import _native as ops

    path = ops.library_path()
    if path is None:
        fix = f"install a C++ compiler (apt install g++), then {_REINSTALL}"
        return Finding("native ops", "missing", "not built: the slower torch path is used", fix)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = ops.library()
    if loaded is None:
        reason = str(said[-1].message) if said else f"{path.name} does not load"
        return Finding("native ops", "missing", reason, _REINSTALL)
    forced = os.environ.get("THREEDISTILL_OPS")
    suffix = f", THREEDISTILL_OPS={forced}" if forced else ""
    return Finding("native ops", "ok", f"{path.name}, {_openmp(path)}{suffix}")


def _openmp(library: Path) -> str:
    """Whether the library was linked to OpenMP: its name stands in the dynamic section."""
    content = library.read_bytes()
    return (
        "with OpenMP"
        if any(name in content for name in (b"libgomp", b"libomp", b"libiomp"))
        else "without OpenMP: one thread"
    )


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", f"pip install {name}")


def _toybox() -> list[Finding]:
    folder = assets_dir() / "toybox"
    return [_weights("toybox prior", folder / "prior"), _weights("toybox judge", folder / "judge")]


def _weights(part: str, folder: Path) -> Finding:
    """The weight files under ``folder``, with a short hash of their content."""
    digest = weights_hash(folder)
    if digest is None:
        return Finding(part, "missing", f"no weights in {folder}", _REINSTALL)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
    return Finding(part, "ok", f"sha256 {digest}, {size:.1f} MB")


def _accelerators() -> list[Finding]:
    rows = (
        ("nerfacc", "nerfacc", "CUDA ray marching", "pip install nerfacc==0.5.3"),
        ("gsplat", "gsplat", "CUDA splatting", "pip install gsplat==1.5.3"),
        (
            "tinycudann",
            "tinycudann",
            "CUDA hash grids",
            "pip install git+https://github.com/NVlabs/tiny-cuda-nn#subdirectory=bindings/torch",
        ),
    )
    return [_extra(*row) for row in rows]


def _extra(distribution: str, module: str, purpose: str, fix: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(distribution, "optional", f"not installed; adds {purpose}", fix)
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "installed"
    return Finding(distribution, "ok", version)


def _plugins() -> list[Finding]:
    """The plug-ins that are trusted, and the folders of configurations besides ours."""
    from threedistill.config.choices import clashes
    from threedistill.plugins import config_dirs, trusted

    found = []
    for one in trusted():
        options = sorted(
            f"{f.parent.name}={f.stem}" for f in (one.configs or Path()).glob("*/*.yaml") if one.configs
        )
        detail = f"{one.source}, brings {', '.join(options) or 'classes only'}"
        if one.found:
            found.append(Finding(f"plug-in {one.package}", "ok", detail))
        else:
            fix = f"pip install the package, or set PYTHONPATH to the folder that {one.package} is in"
            found.append(Finding(f"plug-in {one.package}", "missing", "Python does not find it", fix))
    found += [
        Finding("config dir", "ok", str(path))
        for who, path in config_dirs()
        if who.startswith("--config-dir")
    ]
    found += [Finding("config clash", "optional", line, "rename one of them") for line in clashes()]
    return found


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < _MIN_FREE_GB:
        return Finding(
            "disk",
            "missing",
            f"{free:.2f} GiB free here; a run needs up to {_MIN_FREE_GB} GiB",
            "choose another disk with --out DIR",
        )
    return Finding("disk", "ok", f"{free:.1f} GiB free here")
