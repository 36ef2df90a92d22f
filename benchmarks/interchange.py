"""Which programs read our files, and whose files we read: a table by value, not by exit code.

    python benchmarks/interchange.py --python VENV/bin/python --node DIR/node_modules [--program NAME ...]

A box of 1 x 2 x 0.5 m with another colour at each of its eight corners (and a cloud of eight splats like it) is written
by us, opened by each program, and what the program then holds is compared: the number of faces, the bounds (size, unit,
axes) and the colour at every corner, which also tells a mirrored box from a turned one. The other way, the program
opens our file, saves it in each of its formats, and our reader's mesh is compared in the same way.

Each cell says *reads ours / we read theirs*. ``yes``: all of it; ``shape``: shape and place, no colours (where the
format, the program or its way without a screen has none); ``moved``: the same, somewhere else; ``-``: not tried, or not
a format of the program; ``not here``: the program is not installed. Anything else is what went wrong.

The programs are not among our dependencies. Put those from PyPI into one environment and those from npm into one
folder; the rest is looked for on the PATH:

    pip install trimesh open3d pymeshlab bpy meshio pyvista pygltflib usd-core plyfile numpy-stl gsply gaussforge
    npm install three @babylonjs/core @babylonjs/loaders @gltf-transform/cli gltfpack obj2gltf gltf-validator \\
        @playcanvas/splat-transform
    apt install assimp-utils admesh prusa-slicer openctm-tools libusb-1.0-0    # Open3D needs the last
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threedistill import __version__
from threedistill.errors import ThreedistillError
from threedistill.exports.formats import named
from threedistill.exports.frames import Axis
from threedistill.exports.read import open_file
from threedistill.exports.settings import FileSettings
from threedistill.exports.write import write_file
from threedistill.render.mesh import sample_texture
from threedistill.types import Mesh, Splats

HERE = Path(__file__).resolve().parent
HALF = np.array([0.5, 1.0, 0.25])
#: The colour at the corner with this sign of x, y and z (bits 0, 1, 2).
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255], [255, 255, 255],
                   [0, 0, 0]]) / 255  # fmt: skip
SECONDS = 240


class Missing(Exception):
    """The program is not installed."""


@dataclass
class Program:
    """One program.

    Attributes:
        name: as people know it.
        read: format -> what the program sees of a file of ours; absent where it does not read the format.
        write: format -> makes the program write one; the second of the pair is our format that it opens for that.
        version: what it is.
    """

    name: str
    version: Callable[[], str]
    read: dict[str, Callable[[Path], Any]] = field(default_factory=dict)
    write: dict[str, tuple[Callable[[Path, Path], None], str]] = field(default_factory=dict)


# --- the object and its truth ----------------------------------------------------------------------------------------


def box() -> Mesh:
    """Twelve triangles, a vertex for each corner of each side, a texture of eight plain fields."""
    signs = np.array([[(k >> a) & 1 for a in range(3)] for k in range(8)])
    vertices, faces, uv = [], [], []
    for axis in range(3):
        for side in (0, 1):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            ring = [(0, 0), (1, 0), (1, 1), (0, 1)] if side else [(0, 0), (0, 1), (1, 1), (1, 0)]
            start = len(vertices)
            for a, b in ring:
                corner = np.zeros(3, int)
                corner[axis], corner[u], corner[v] = side, a, b
                vertices.append((2 * corner - 1) * HALF)
                k = int((corner * [1, 2, 4]).sum())
                uv.append(((k % 4 + 0.5) / 4, 1 - (k // 4 + 0.5) / 2))
            faces += [(start, start + 1, start + 2), (start, start + 2, start + 3)]
    assert len(signs) == 8
    picture = np.repeat(np.repeat(COLORS.reshape(2, 4, 3), 32, 0), 32, 1)
    return Mesh(
        torch.tensor(np.array(vertices), dtype=torch.float32), torch.tensor(faces), uv=torch.tensor(uv).float(),
        texture=torch.tensor(picture, dtype=torch.float32),
    )  # fmt: skip


def cloud() -> Splats:
    """Eight splats at the corners of the box."""
    points = torch.tensor([[(2 * ((k >> a) & 1) - 1) * HALF[a] for a in range(3)] for k in range(8)]).float()
    sh = (torch.tensor(COLORS, dtype=torch.float32).clamp(0.02, 0.98) - 0.5) / 0.28209479177387814
    turns = torch.tensor([1.0, 0, 0, 0]).expand(8, 4).contiguous()
    return Splats(points, torch.full((8, 3), -3.0), turns, torch.full((8,), 3.0), sh[:, None])


def verdict(seen: dict[str, Any], name: str) -> str:
    """``yes``, ``shape``, or what is wrong with what a program holds, in the frame in which we wrote the format."""
    points = np.array(seen["points"], float).reshape(-1, 3)
    splats = named(name).kind == "splats"
    scale, loose = 1.0, 2e-3
    if name == "stl":
        scale, points = 50.0, points[:, [0, 2, 1]] * [1, 1, -1]  # millimetres, longest side 100, +Z up
    if splats:
        loose = 0.02
        if named(name).frame == "-y":
            points = points * [-1, -1, 1]
    faces = 8 if splats else 12
    if not len(points):
        return "nothing in it"
    if seen["faces"] != faces:
        return f"{seen['faces']} faces"
    low, high = points.min(0) / scale, points.max(0) / scale
    if np.abs(high - HALF).max() > loose or np.abs(low + HALF).max() > loose:
        size = " x ".join(f"{v:.3g}" for v in (high - low))
        return f"size {size}" if np.abs((high - low) - 2 * HALF).max() > 2 * loose else "moved"
    colors = np.array([] if seen["colors"] is None else seen["colors"], float)
    if not len(colors) or (colors == colors[0]).all():
        return "shape"
    expected = COLORS[((points > 0) * [1, 2, 4]).sum(1)]
    worst = np.abs(colors - (expected.clip(0.02, 0.98) if splats else expected)).max()
    return "yes" if worst < 0.05 else f"colours off by {worst:.2f}"


def ours(path: Path, name: str, up: Axis | None = None, front: Axis | None = None) -> dict[str, Any]:
    """What our reader holds of a file, in our frame."""
    asset = open_file(path, named(name).kind, up, front).asset
    if isinstance(asset, Splats):
        colors = 0.5 + 0.28209479177387814 * asset.sh[:, 0]
        return {"points": asset.means.numpy(), "faces": len(asset), "colors": colors.numpy()}
    colors = asset.colors
    if asset.texture is not None and asset.uv is not None:
        colors = sample_texture(asset.texture, asset.uv, asset.wrap)
    used = asset.faces.unique()
    found = None if colors is None else colors[used].numpy()
    return {"points": asset.vertices[used].numpy(), "faces": len(asset.faces), "colors": found}


def verdict_of_theirs(path: Path, name: str, up: Axis | None = None, front: Axis | None = None) -> str:
    """The same of a file that a program wrote; where only another up axis makes it right, that is said."""
    try:
        seen = ours(path, name, up, front)
    except ThreedistillError as error:
        return " ".join(str(error).split())[:80]
    if named(name).kind == "splats" and named(name).frame == "-y":
        seen["points"] = seen["points"] * [-1, -1, 1]  # back into the file's frame, as for readers
    if name == "stl":  # ours came as 100 mm; others' units are taken as they stand
        seen["points"] = np.stack([seen["points"][:, 0], -seen["points"][:, 2], seen["points"][:, 1]], 1)
        if np.ptp(seen["points"], axis=0).max() < 1:  # our own header was kept, so it is in metres
            seen["points"] = seen["points"] * 1000
    found = verdict(seen, name)
    if up is front is None and found != "yes" and named(name).kind == "splats":
        if verdict_of_theirs(path, name, "-y") == "yes":
            return "yes with --from-up=-y"
        if verdict_of_theirs(path, name, None, "-z") == "yes":
            return "yes with --from-front=-z"
    return found


# --- running them ----------------------------------------------------------------------------------------------------


def answer_of(command: Sequence[str], cwd: Path | None = None) -> str:
    """What a command says on stdout; raises RuntimeError with its last line where it fails."""
    if shutil.which(command[0]) is None:
        raise Missing
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        if any(
            "No module named" in line or "PackageNotFoundError" in line or "Cannot find" in line
            for line in lines
        ):
            raise Missing
        raise RuntimeError(lines[-1][:80] if lines else f"exit {done.returncode}")
    return done.stdout


def python_program(python: str, name: str, key: str, read: str, write: dict[str, str]) -> Program:
    """A program that is a Python package; ``write``: format -> our format that it opens for it."""
    return _driven([python, str(HERE / "interchange_py.py"), key], name, read, write)


def node_program(modules: str, name: str, key: str, read: str, write: dict[str, str]) -> Program:
    """A program of npm that the JavaScript driver knows."""
    driver = ["node", str(HERE / "interchange_js.mjs"), str(Path(modules).absolute()), key]
    return _driven(driver, name, read, write)


def _driven(driver: list[str], name: str, read: str, write: dict[str, str]) -> Program:
    """A program behind one of the drivers, which all are asked in the same words."""

    def seen(path: Path) -> Any:
        return json.loads(answer_of([*driver, "read", str(path)]).strip().splitlines()[-1])

    def made(source: Path, target: Path) -> None:
        answer_of([*driver, "write", str(source), str(target)])

    return Program(
        name, lambda: json.loads(answer_of([*driver, "version"]).strip().splitlines()[-1]),
        dict.fromkeys(read.split(), seen), {one: (made, source) for one, source in write.items()},
    )  # fmt: skip


def command_program(
    name: str, version: Sequence[str], pattern: str, write: dict[str, tuple[Sequence[str], str]], modules: str = "",
) -> Program:  # fmt: skip
    """A program with a command line: ``IN`` and ``OUT`` stand for the files. What it holds is seen in what it writes.

    Its own export is the witness that it read ours: a program without a way to ask it is judged by both together.
    """

    def found(words: Sequence[str]) -> list[str]:
        first = words[0]
        local = Path(modules) / ".bin" / first
        return [str(local.absolute()) if modules and local.exists() else first, *words[1:]]

    def made(words: Sequence[str]) -> Callable[[Path, Path], None]:
        def make(source: Path, target: Path) -> None:
            answer_of(
                found([w.replace("IN", str(source)).replace("OUT", str(target)) for w in words]),
                cwd=target.parent,
            )

        return make

    def said() -> str:
        command = found(version)
        if shutil.which(command[0]) is None:
            raise Missing
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        match = re.search(pattern, done.stdout + done.stderr)
        return match.group(1) if match else ""

    return Program(name, said, {}, {one: (made(words), source) for one, (words, source) in write.items()})


def through(make: Callable[[Path, Path], None], name: str) -> Callable[[Path], dict[str, Any]]:
    """What a program sees of a splat file of ours, by the 3DGS PLY that it turns it into."""

    def seen(path: Path) -> dict[str, Any]:
        target = path.with_name(f"through-{name}-{abs(hash(make))}.ply")
        make(path, target)
        found = ours(target, "3dgs")
        turns = [
            [1, 1, 1],
            [-1, -1, 1],
            [1, -1, -1],
            [-1, 1, -1],
        ]  # which way is up in a PLY is its writer's habit
        down = named(name).frame == "-y"
        for turn in turns:
            turned = {**found, "points": found["points"] * turn * ([-1, -1, 1] if down else [1, 1, 1])}
            if verdict(turned, name) == "yes":
                return turned
        return found

    return seen


def programs(python: str, modules: str) -> list[Program]:
    """All of them."""

    def py(name: str, key: str, read: str, **write: str) -> Program:
        return python_program(python, name, key, read, {k.replace("_", "-"): v for k, v in write.items()})

    splat = {"3dgs": "3dgs", "spz": "3dgs", "sog": "3dgs", "gltf-splat": "3dgs"}
    found = [
        py("Blender", "blender", "glb obj ply stl usdz", glb="glb", obj="obj", ply="ply", stl="stl", usdz="usdz"),
        py("MeshLab (pymeshlab)", "pymeshlab", "obj ply stl", obj="obj", ply="ply", stl="stl"),
        py("Open3D", "open3d", "glb obj ply stl", glb="ply", obj="obj", ply="ply", stl="stl"),
        py("trimesh", "trimesh", "glb obj ply stl", glb="glb", obj="obj", ply="ply", stl="stl"),
        py("VTK (pyvista)", "pyvista", "glb obj ply stl", ply="ply", stl="stl", obj="obj"),
        py("OpenUSD", "usd", "usdz usd-splat", usdz="usdz", usd_splat="usd-splat"),
        py("pygltflib", "pygltflib", "glb", glb="glb"),
        py("meshio", "meshio", "obj ply stl", obj="obj", ply="ply", stl="stl"),
        py("plyfile", "plyfile", "ply 3dgs", **{"ply": "ply", "3dgs": "3dgs"}),
        py("numpy-stl", "numpystl", "stl", stl="stl"),
        node_program(modules, "three.js", "three", "glb obj ply stl",
                     {"glb": "ply", "obj": "obj", "ply": "ply", "stl": "stl"}),
        node_program(modules, "Babylon.js", "babylon", "glb stl", {}),
        node_program(modules, "glTF-Validator", "gltf-validator", "glb", {}),
        command_program("glTF-Transform", ["gltf-transform", "--version"], r"([\d.]+)",
                        {"glb": (["gltf-transform", "dedup", "IN", "OUT"], "glb")}, modules),
        command_program("gltfpack", ["gltfpack", "-v"], r"gltfpack ([\d.]+)",
                        {"glb": (["gltfpack", "-i", "IN", "-o", "OUT"], "glb")}, modules),
        command_program("obj2gltf", ["obj2gltf", "--version"], r"([\d.]+)",
                        {"glb": (["obj2gltf", "-i", "IN", "-o", "OUT"], "obj")}, modules),
        command_program("assimp", ["assimp", "version"], r"Version ([\d.]+)",
                        {k: (["assimp", "export", "IN", "OUT"], s)
                         for k, s in (("glb", "glb"), ("obj", "obj"), ("ply", "ply"), ("stl", "stl"))}),
        command_program("ADMesh", ["admesh", "--version"], r"version ([\d.]+)",
                        {"stl": (["admesh", "--write-binary-stl=OUT", "IN"], "stl")}),
        command_program("PrusaSlicer", ["prusa-slicer", "--help"], r"PrusaSlicer-([\d.]+)",
                        {"stl": (["prusa-slicer", "--export-stl", "--output", "OUT", "IN"], "stl")}),
        command_program("OpenCTM tools", ["dpkg-query", "--show", "openctm-tools"], r"([\d.]+)",  # it says none itself
                        {k: (["ctmconv", "IN", "OUT", "--no-normals"], k) for k in ("ply", "obj", "stl")}),
        command_program("splat-transform", ["splat-transform", "--version"], r"v([\d.]+)",
                        {k: (["splat-transform", "-w", "IN", "OUT"], s) for k, s in splat.items()}, modules),
        py("gaussforge", "gaussforge", "", **{"3dgs": "3dgs", "spz": "3dgs", "splat": "3dgs"}),
        py("gsply", "gsply", "3dgs", **{"3dgs": "3dgs", "spz": "3dgs"}),
    ]  # fmt: skip
    for program in found:
        if program.name in ("splat-transform", "gaussforge"):
            make = program.write["3dgs"][0]
            known = ("splat", "spz", "sog") if program.name == "splat-transform" else ("splat", "spz")
            program.read |= {name: through(make, name) for name in known}
    return found


def tried(program: Program, files: dict[str, Path], folder: Path) -> dict[str, tuple[str, str]]:
    """Format -> (reads ours, we read theirs)."""
    found: dict[str, tuple[str, str]] = {}
    for name in dict.fromkeys([*program.read, *program.write]):
        forth, back = "-", "-"
        if name in program.read:
            try:
                seen = program.read[name](files[name])
                forth = verdict(seen, name) if "points" in seen else _validated(seen)
            except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                forth = " ".join(str(error).split())[:80]
        if name in program.write:
            make, source = program.write[name]
            target = folder / f"{re.sub('[^a-z]', '', program.name.lower())}-{name}{named(name).suffix}"
            try:
                make(files[source], target)
                back = verdict_of_theirs(target, name) if target.exists() else "it wrote nothing"
            except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                back = f"it failed: {' '.join(str(error).split())[:60]}"
            if name not in program.read and source == name:
                forth = back  # what it wrote is the only witness
        found[name] = forth, back
    return found


def _validated(seen: dict[str, Any]) -> str:
    return "yes" if (seen["errors"], seen["faces"]) == (0, 12) else f"{seen['errors']} errors"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the programs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="the Python that has the programs of PyPI")
    parser.add_argument("--node", default="node_modules", help="the node_modules with the programs of npm")
    parser.add_argument("--program", action="append", help="only this one; may be repeated")
    parser.add_argument("--keep", help="leave the files in this folder")
    options = parser.parse_args(argv)
    known = programs(options.python, options.node)
    chosen = [p for p in known if not options.program or p.name in options.program]
    columns = ("glb", "obj", "ply", "stl", "usdz", "3dgs", "splat", "spz", "sog", "gltf-splat", "usd-splat")
    rows, both = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary).absolute()  # programs run in folders of their own
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for name in columns:
            row = named(name)
            files[name] = folder / row.file
            write_file(box() if row.kind == "mesh" else cloud(), files[name], FileSettings(), row)
        for program in chosen:
            try:
                version = program.version()
            except (Missing, RuntimeError, OSError):
                rows.append(f"| {program.name} | not here |{' |' * (len(columns) - 1)}")
                continue
            print(f"{program.name} {version} ...", file=sys.stderr)
            found = tried(program, files, folder)
            fine = ("yes", "shape", "moved", "yes with --from-up=-y", "yes with --from-front=-z")
            both += any(forth in fine and back in fine for forth, back in found.values())
            cells = [" / ".join(found[name]) if name in found else "" for name in columns]
            rows.append(f"| {program.name} {version} | {' | '.join(cells)} |")
    print(f"| reads ours / we read theirs | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    print("\n".join(rows))
    print(
        f"\n{both} of {len(chosen)} programs both ways; threedistill {__version__}, Python {sys.version.split()[0]}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
