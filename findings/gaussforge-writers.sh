#!/usr/bin/env bash
# gaussforge 0.6.0 (PyPI) puts spherical harmonics into the wrong places when it writes .ksplat and compressed PLY, and
# writes wrong rotations into .sog unless those in the PLY have length 1, which INRIA's trainer does not give them.
#
# Both formats name the place of every coefficient. A compressed PLY (PlayCanvas) has fields f_rest_0 ... in INRIA's
# order: all of red, then green, then blue. gaussforge writes them coefficient by coefficient under those names, and
# even degree 1 is scrambled. In .ksplat (mkkellogg's GaussianSplats3D, PlyParser.js and SplatBuffer.js) the
# coefficients of a degree stand together, each degree channel by channel; gaussforge copies INRIA's order, which is
# the same in files of degree 1 and wrong from degree 2 on. Geometry, opacity and the constant colour are right, so files
# look right from one side and take wrong tints from others. Its SPZ files are right.
#
# Valid input, no code of ours. Fails if the behaviour changes. Seen 2026-11 on Linux x86_64, Python 3.11:
#     compressed.ply, degree 1: fields f_rest_0..8 hold the input's fields 0 3 6 1 4 7 2 5 8
#     ksplat, degree 2: its 24 places hold the input's fields 0 1 2 3 ... 23; mkkellogg's order has
#                       0 1 2 8 9 10 16 17 18 3 4 5 6 7 11 12 13 14 15 19 20 21 22 23
#     sog: the rotations (1.2, 0.8, 0, 0) and (2.4, 1.6, 0, 0) come back as (0.71, 0.71, 0, 0) instead of
#          (0.83, 0.55, 0, 0); normalised first, they come back right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gaussforge==0.6.0 numpy
"$work/venv/bin/python" - <<'PYTHON'
import struct

import gaussforge
import numpy as np


def ply(degree: int, w: float = 1, x: float = 0) -> bytes:
    """Two equal splats, turned by (w, x, 0, 0); f_rest_k holds a number that tells k and survives eight bits in [-4, 4]."""
    rest = 3 * ((degree + 1) ** 2 - 1)
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{k}" for k in range(rest)), "opacity",
             "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    row = [0] * 6 + [(k + 0.5) / 8 - 3.9 for k in range(rest)] + [0, -3, -3, -3, w, x, 0, 0]
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    head += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    return head.encode() + np.array([row, row], "<f4").tobytes()


def which(values: np.ndarray) -> list[int]:
    """The input's fields that the values came from."""
    return np.round((values + 3.9) * 8 - 0.5).astype(int).tolist()


forge = gaussforge.GaussForge()
print("gaussforge", forge.get_version())

head, _, body = forge.convert(ply(1), "ply", "compressed.ply")["data"].partition(b"end_header\n")
assert [f"property uchar f_rest_{k}".encode() in head for k in range(9)] == [True] * 9
found = which((np.frombuffer(body[-9:], np.uint8) + 0.5) / 32 - 4)
print("compressed.ply, degree 1: f_rest_0..8 hold the input's fields", *found)
assert found == [0, 3, 6, 1, 4, 7, 2, 5, 8], "changed: read the note above again"

data = forge.convert(ply(2), "ply", "ksplat")["data"]
assert struct.unpack_from("<H", data, 20)[0] == 0 and struct.unpack_from("<H", data, 4096 + 40)[0] == 2
found = which(np.frombuffer(data[-96:], "<f4"))
# mkkellogg: degree 1 of red, of green, of blue, then degree 2 of red, of green, of blue
right = [0, 1, 2, 8, 9, 10, 16, 17, 18, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 19, 20, 21, 22, 23]
print("ksplat, degree 2: hold the input's fields", *found)
print("              where mkkellogg's order has", *right)
assert found == list(range(24)) and found != right, "changed: read the note above again"


def turned(w: float, x: float) -> np.ndarray:
    """What gaussforge itself reads from the SOG that it wrote, the larger component first."""
    sog = forge.convert(ply(0, w, x), "ply", "sog")["data"]
    head, _, body = forge.convert(sog, "sog", "ply")["data"].partition(b"end_header\n")
    names = [line.split()[2] for line in head.decode().splitlines() if line.startswith("property")]
    row = np.frombuffer(body, "<f4")[: len(names)]
    found = np.abs([row[names.index(f"rot_{k}")] for k in range(4)])
    return found / np.linalg.norm(found)


for w, x in ((1.2, 0.8), (2.4, 1.6)):
    length = (w * w + x * x) ** 0.5
    plain, normal = turned(w, x), turned(w / length, x / length)
    print(f"sog: ({w}, {x}, 0, 0) comes back as", plain.round(2), "and, normalised before, as", normal.round(2))
    assert np.allclose(normal[:2], [w / length, x / length], atol=0.01), "changed: read the note above again"
    assert not np.allclose(plain, normal, atol=0.01), "changed: read the note above again"
PYTHON
