"""Damaged files of every format: each is read right, read with its losses named, or refused in one line.

    python tests/fuzz/files.py                        2,000 files over all formats, seed 0
    python tests/fuzz/files.py --tries 500 --seed 7 --only glb
    python tests/fuzz/files.py --from 500 --to 1000   a part of them
    python tests/fuzz/files.py --show 123             makes try 123 in ./fuzz-123 and says what happens

Small sound files of each format are changed by a drawn mutation, read, and written again. The last line counts: a
traceback, more than 60 s, a crash, more than 1 GB, a message of several lines, or a silent loss is a fault, and the
exit status is then 1. A loss is silent where something of the file is gone for certain (its end was cut off, its
picture was taken away) and the reader neither refuses the file nor names a loss.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.fuzz.runner import Report, command_line, run
from threedistill.errors import ThreedistillError
from threedistill.exports.formats import FORMATS, named
from threedistill.exports.read import open_file
from threedistill.exports.settings import FileSettings
from threedistill.exports.write import write_file
from threedistill.types import Mesh, Splats

#: Numbers that are more, less or nothing of what belongs there.
_WORDS = [
    "nan",
    "inf",
    "-1",
    "0",
    "1e999",
    "99999999999999999999",
    "4294967295",
    "",
    "x",
    "\x00",
    "[",
    "-0.5",
    "1e-40",
]
_VALUES = [None, [], {}, "", "x", -1, 0, 1.5, 2**31, 2**63, 10**30, True, [0], ["POSITION"], float("1e300")]


@dataclass(frozen=True)
class Sound:
    """A file before it is damaged.

    Attributes:
        name: of the format, or of a variant of one.
        file: the one that is opened.
        files: all, by name.
        text: it is made of lines and words.
        ends: whether its end can be seen to be missing.
        tail: bytes at its end that hold nothing of the object (a checksum, a name).
    """

    name: str
    file: str
    files: dict[str, bytes]
    text: bool = False
    ends: bool = True
    tail: int = 0


@cache
def sound() -> list[Sound]:
    """A sound file of every format that is read, and of some of their forms."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, row in FORMATS.items():
            if not (row.read and row.write):
                continue
            folder = Path(temporary, name)
            folder.mkdir()
            try:
                write_file(
                    _mesh() if row.kind == "mesh" else _cloud(),
                    folder / f"a{row.suffix}",
                    FileSettings(unlit=False),
                    row,
                )
            except Exception as error:  # an extra that is not installed
                print(f"left out: {name} ({error})", file=sys.stderr)
                continue
            files = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
            found.append(
                Sound(
                    name,
                    f"a{row.suffix}",
                    files,
                    text=name == "obj",
                    ends=name not in ("obj", "splat"),
                    tail={"spz": 8, "usdz": 2, "usd-splat": 2, "sog": 2}.get(name, 0),
                )
            )
    glb = next(one for one in found if one.name == "glb").files["a.glb"]
    length = struct.unpack_from("<I", glb, 12)[0]
    document, binary = json.loads(glb[20 : 20 + length]), glb[28 + length :]
    document["buffers"][0]["uri"] = "a.bin"
    picture = next(one for one in found if one.name == "obj").files["a.png"]
    for image in document["images"][:1]:
        image.pop("bufferView")
        image["uri"] = "a.png"
    text = json.dumps(document).encode()
    found.append(Sound("gltf", "a.gltf", {"a.gltf": text, "a.bin": binary, "a.png": picture}, ends=True))
    document["buffers"][0]["uri"] = (
        "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    )
    embedded = json.dumps({**document, "extensionsRequired": ["KHR_texture_transform"]}).encode()
    found.append(Sound("gltf embedded", "a.gltf", {"a.gltf": embedded, "a.png": picture}))
    head = "ply\nformat {} 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    points = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 1)]
    rows = "".join(" ".join(map(str, p)) + "\n" for p in points) + "4 0 1 2 3\n3 0 2 3"
    found.append(Sound("ply ascii", "a.ply", {"a.ply": (head.format("ascii") + rows).encode()}, text=True))
    body = b"".join(struct.pack(">3f", *p) for p in points) + struct.pack(
        ">B4iB3i", 4, 0, 1, 2, 3, 3, 0, 2, 3
    )
    found.append(Sound("ply big", "a.ply", {"a.ply": head.format("binary_big_endian").encode() + body}))
    facets = (
        "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\n" * 2
    )
    found.append(
        Sound("stl ascii", "a.stl", {"a.stl": f"solid a\n{facets}endsolid a".encode()}, text=True, tail=2)
    )
    return found


def _mesh() -> Mesh:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    uv = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]])
    draw = torch.Generator().manual_seed(0)
    return Mesh(
        points, faces, uv=uv, texture=torch.rand(8, 8, 3, generator=draw), normal_map=torch.full((8, 8, 3), 0.5),
        metallic_roughness=torch.rand(8, 8, 2, generator=draw), extras={"prompt": "a thing"},
    )  # fmt: skip


def _cloud(count: int = 40) -> Splats:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    return Splats(
        normal(count, 3), normal(count, 3) - 3, normal(count, 4), normal(count), normal(count, 4, 3) * 0.3
    )


# --- mutations: (files, draw, sound) -> whether something is gone for certain ---------------------------------------

Mutation = Callable[[dict[str, bytes], random.Random, Sound], bool]


def flipped(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """A few bits."""
    name = draw.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(draw.choice([1, 1, 2, 8, 32])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    files[name] = bytes(data)
    return False


def flipped_head(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """A byte or a whole number among the first, where headers are."""
    data = bytearray(files[one.file])
    at = draw.randrange(min(len(data) - 4, 400))
    size = draw.choice([1, 2, 4])
    data[at : at + size] = draw.choice([b"\xff" * size, b"\0" * size, draw.randbytes(size), b"\x7f" * size])
    files[one.file] = bytes(data)
    return False


def cut(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """Its end is missing."""
    data = files[one.file]
    keep = draw.choice(
        [len(data) - 1, draw.randrange(1, len(data)), draw.randrange(1, len(data)), len(data) // 2]
    )
    files[one.file] = data[:keep]
    return one.ends and len(data) - keep > one.tail


def doubled(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """A stretch stands twice, or is gone, or something is put in."""
    data = files[one.file]
    a, b = sorted(draw.randrange(len(data)) for _ in range(2))
    middle = draw.choice([data[a:b] * 2, b"", draw.randbytes(draw.choice([1, 4, 100])), data[a:b][::-1]])
    files[one.file] = data[:a] + middle + data[b:]
    return False


def without(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """A file beside it is missing."""
    others = sorted(name for name in files if name != one.file)
    if not others:
        return cut(files, draw, one)
    del files[draw.choice(others)]
    return True


def broken_beside(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """A picture beside it is none."""
    others = sorted(name for name in files if name.endswith(".png"))
    if not others:
        return flipped(files, draw, one)
    files[draw.choice(others)] = draw.choice([b"", b"no picture", b"\x89PNG\r\n\x1a\n" + draw.randbytes(40)])
    return True


def reworded(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """Words of a text, or of a text within, become others."""
    texts = sorted(
        name for name in files if name.endswith((".mtl", ".gltf", ".usda")) or (name == one.file and one.text)
    )
    if not texts:
        return _rewritten_json(files, draw, one) or flipped_head(files, draw, one)
    name = draw.choice(texts)
    if name.endswith(".gltf"):
        return _rewritten_json(files, draw, one)
    words = files[name].split(b" ")
    for _ in range(draw.choice([1, 1, 3])):
        words[draw.randrange(len(words))] = draw.choice(_WORDS).encode()
    files[name] = b" ".join(words)
    return False


def _rewritten_json(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """A value of glTF's JSON becomes another."""
    data = files[one.file]
    binary = data.startswith(b"glTF")
    if not binary and not one.file.endswith(".gltf"):
        return False
    length = struct.unpack_from("<I", data, 12)[0] if binary else 0
    document = json.loads(data[20 : 20 + length] if binary else data)
    places: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        for key, child in (
            node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        ):
            places.append((node, key))
            walk(child)

    walk(document)
    node, key = draw.choice(places)
    node[key] = draw.choice(_VALUES)  # type: ignore[index]
    text = json.dumps(document).encode()
    if binary:
        text += b" " * (-len(text) % 4)
        body = struct.pack("<I4s", len(text), b"JSON") + text + data[20 + length :]
        text = struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
    files[one.file] = text
    return False


def renamed(files: dict[str, bytes], draw: random.Random, one: Sound) -> bool:
    """It is something else than its name says."""
    other = draw.choice([s.file for s in sound() if s.file != one.file])
    files[other] = files.pop(one.file)
    return False


MUTATIONS: list[Mutation] = [
    flipped,
    flipped_head,
    cut,
    cut,
    doubled,
    without,
    broken_beside,
    reworded,
    reworded,
    renamed,
]


def made(number: int, seed: int, only: str | None = None) -> tuple[str, str, dict[str, bytes], bool]:
    """Try ``number``: its name, the file that is opened, all files, and whether something is gone for certain."""
    draw = random.Random(f"{seed}/{number}")
    bases = [one for one in sound() if only in (None, one.name)]
    one = bases[number % len(bases)]
    files = dict(one.files)
    mutation = draw.choice(MUTATIONS)
    gone = mutation(files, draw, one)
    opened = one.file if one.file in files else next(name for name in files if name not in one.files)
    return f"{one.name} {mutation.__name__}", opened, files, gone and files != one.files


def attempt(number: int, seed: int, only: str | None = None, folder: Path | None = None) -> tuple[str, str]:
    """Make the file, read it, write it again."""
    name, opened, files, gone = made(number, seed, only)
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        folder.mkdir(exist_ok=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        found = open_file(folder / opened)
        if gone and not found.lost and not found.notes:
            return "silent loss", name
        asset = found.asset
        target = "glb" if isinstance(asset, Mesh) else "3dgs"
        write_file(
            asset, folder / f"out{named(target).suffix}", FileSettings(unlit=found.unlit), named(target)
        )
        return "read, losses named" if found.lost or found.notes else "read", name


def fuzz(
    numbers: range, seed: int = 0, only: str | None = None, show: Callable[[int], None] | None = None
) -> Report:
    """The tries of these numbers."""
    sound()  # once, before the children
    return run(lambda number: attempt(number, seed, only), numbers, progress=show)


def show(number: int, seed: int, only: str | None) -> None:
    """Make one file again in a folder that stays, and say what happens."""
    folder = Path(f"fuzz-{number}")
    shutil.rmtree(folder, ignore_errors=True)
    print(made(number, seed, only)[0], "in", folder)
    try:
        print(attempt(number, seed, only, folder))
    except ThreedistillError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    sys.exit(command_line(__doc__, 2000, [one.name for one in sound()], show, fuzz, every=100))
