"""Splat files of other programs, written here from the formats' specifications, against known right values."""

from __future__ import annotations

import gzip
import itertools
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exports.splat_files import ksplat_file, packed_ply, ply_file, sog_file, spz_body
from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.read import open_file
from threedistill.render.harmonics import C0
from threedistill.types import Splats

NAN, INF = float("nan"), float("inf")


def opened(path: Path, data: bytes, up: str = "y") -> tuple[Splats, Opened]:
    """The cloud as the file has it, and what is said about it."""
    path.write_bytes(data)
    found = open_file(path, "splats", up)  # type: ignore[arg-type]
    assert isinstance(found.asset, Splats)
    return found.asset, found


def close(found: torch.Tensor, expected: object, tolerance: float = 1e-6) -> bool:
    return torch.allclose(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


# --- PLY ------------------------------------------------------------------------------------------


def test_further_fields_and_elements_are_passed_over_and_named(tmp_path: Path) -> None:
    """Mip-Splatting's filter, labels, Blender's normals; normals and colours as others write them go without a word."""
    more = {"nx": 0.0, "red": 1, "filter_3D": 0.5, "label": 7, "obj_dc_0": 1.0, "normal_x": 0.0}
    kinds = {"red": ("uchar", "u1"), "label": ("int", "<i4")}
    data = ply_file(
        [{**more, "x": 1.5}, more], kinds=kinds, elements="element extrinsic 2\nproperty float extrinsic\n",
        behind=b"\0" * 8,
    )  # fmt: skip
    splats, said = opened(tmp_path / "a.ply", data)
    assert close(splats.means, [[1.5, 0, 0], [0, 0, 0]]) and close(splats.log_scales[0], [-3, -4, -5])
    assert said.lost == ["the fields filter_3D, label, obj_dc_0, normal_x", "the element extrinsic"]
    assert said.notes == []


def test_surfels_are_flat_splats(tmp_path: Path) -> None:
    for data in (ply_file(without=["scale_2"]), ply_file(comments=["SplatRenderMode: 2dgs"])):
        splats, said = opened(tmp_path / "a.ply", data)
        assert close(splats.log_scales, [[-3, -4, -4 + math.log(0.01)]] * 2)
        assert said.notes == ["the file holds 2D Gaussians (surfels): they are read as flat splats"]


@pytest.mark.parametrize("comment", ["SplatRenderMode: mip", "antialiased 1"])
def test_antialiased_clouds_say_so(comment: str, tmp_path: Path) -> None:
    assert "antialiasing" in opened(tmp_path / "a.ply", ply_file(comments=[comment]))[1].notes[0]


def test_infinite_logits_and_scales_of_zero_have_a_meaning(tmp_path: Path) -> None:
    rows = [{"opacity": INF}, {"opacity": -INF}, {"scale_1": -INF}, {"opacity": 30.0}]
    splats, said = opened(tmp_path / "a.ply", ply_file(rows))
    alpha = splats.opacity_logits.sigmoid()
    assert alpha[0] == 1 and alpha[1] < 1e-8 and splats.opacity_logits[3] == 30 and said.lost == []
    assert close(splats.log_scales[2], [-3, -5 + math.log(0.01), -5])


FAULTS = {
    "with numbers that are not finite": [{"x": NAN}, {"f_dc_1": INF}, {"rot_2": NAN}, {"opacity": NAN}, {"z": -INF}],
    "with a rotation of length zero": [{"rot_0": 0.0}],
    "with an infinite scale": [{"scale_0": INF}, {"scale_2": 1e30}],
    "without any extent": [{"scale_0": -INF, "scale_1": -INF, "scale_2": -INF}],
}  # fmt: skip


@pytest.mark.parametrize("reason", FAULTS)
def test_splats_that_cannot_be_shown_are_dropped_and_counted(reason: str, tmp_path: Path) -> None:
    rows = [{"x": 1.0}, *FAULTS[reason], {"x": 2.0}]
    splats, said = opened(tmp_path / "a.ply", ply_file(rows))
    assert close(splats.means[:, 0], [1, 2])
    count = len(FAULTS[reason])
    assert said.lost == [f"{count} of {count + 2} splats ({count} {reason})"]
    with pytest.raises(ThreedistillError, match=f"none of its {count} splats can be shown"):
        opened(tmp_path / "b.ply", ply_file(FAULTS[reason]))


def test_quaternions_of_any_length_are_rotations(tmp_path: Path) -> None:
    rows = [{"rot_0": 1e-6, "rot_1": 1e-6}, {"rot_0": 1e30, "rot_1": 0.0}, {"rot_0": 2.0}]
    splats, _ = opened(tmp_path / "a.ply", ply_file(rows))
    assert close(splats.quaternions, [[0.5**0.5, 0.5**0.5, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]])


def test_harmonics_of_degree_4_are_cut(tmp_path: Path) -> None:
    rest = {f"f_rest_{k}": k / 128 for k in range(72)}
    splats, said = opened(tmp_path / "a.ply", ply_file([rest]))
    assert splats.sh_degree == 3 and said.lost == ["harmonics above degree 3"]
    assert close(splats.sh[0, 1:], [[(k + 24 * channel) / 128 for channel in range(3)] for k in range(15)])


def test_colours_in_bytes_replace_missing_harmonics(tmp_path: Path) -> None:
    kinds = dict.fromkeys(("red", "green", "blue"), ("uchar", "u1"))
    rows = [{"red": 255, "green": 0, "blue": 51}]
    splats, _ = opened(
        tmp_path / "a.ply", ply_file(rows, without=["f_dc_0", "f_dc_1", "f_dc_2"], kinds=kinds)
    )
    assert close(0.5 + C0 * splats.sh[0, 0], [1, 0, 0.2])


def test_elements_before_the_splats_are_skipped(tmp_path: Path) -> None:
    data = ply_file([{"x": 4.0}])
    head, _, body = data.partition(b"element vertex")
    camera = b"element camera 2\nproperty float f\nproperty uchar k\n"
    start = body.index(b"end_header\n") + len(b"end_header\n")
    splats, said = opened(
        tmp_path / "a.ply", head + camera + b"element vertex" + body[:start] + b"12345" * 2 + body[start:]
    )
    assert close(splats.means, [[4, 0, 0]]) and said.lost == ["the element camera"]


@pytest.mark.parametrize(
    ("comment", "axis", "place"),
    [
        ("up y", "y", [0, 1, 0]), ("up -y", "-y", [0, -1, 0]), ("Vertical Axis: z", "z", [0, 0, -1]),
        ("up -y front -z", "-y", [0, -1, 0]), ("up y front y", "y", [0, 1, 0]), ("up sideways", None, [0, -1, 0]),
    ],
)  # fmt: skip
def test_what_a_ply_says_about_its_axes(comment: str, axis: str | None, place: list, tmp_path: Path) -> None:
    """Ours and nerfstudio's; (0, 1, 0) of the file in our frame. Without a word y points down."""
    (tmp_path / "a.ply").write_bytes(ply_file([{"y": 1.0, "x": 0.25}], comments=[comment]))
    found = open_file(tmp_path / "a.ply")
    assert isinstance(found.asset, Splats) and found.frame is not None
    assert found.frame.up == (axis or "-y")
    side = 0.25 if "front -z" in comment or axis in ("y", "z") else -0.25
    assert close(found.asset.means[0], [side, *place[1:]])


# --- PlayCanvas' compressed PLY -------------------------------------------------------------------


def test_compressed_ply(tmp_path: Path) -> None:
    splats, said = opened(tmp_path / "a.compressed.ply", packed_ply(600, degree=1))
    k = np.arange(600)
    expected = np.stack([k % 2048 / 2047, 2 * k % 1024 / 1023, 3 * k % 2048 / 2047], 1) * 4 - 1
    assert np.allclose(splats.means, expected, atol=1e-6) and said.lost == []
    assert close(splats.log_scales, [[-2, -8, -8 + 6 * 1024 / 2047]] * 600, 1e-5)
    assert close(0.5 + C0 * splats.sh[:, 0], [[2, 0, 0.4]] * 600, 1e-5)
    assert close(splats.opacity_logits.sigmoid(), [0.8] * 600, 1e-6)
    small, middle = math.sqrt(0.5), (512 / 1023 - 0.5) * math.sqrt(2)
    for largest in range(4):
        rest = [small, middle, -small]
        rest.insert(largest, 0.0)
        assert close(splats.quaternions[largest], rest, 1e-6)
    # Bytes 0, 5, 10, ... channel by channel: the middle of a step of 1/32, and the lowest itself.
    value = [-4 if b == 0 else (b + 0.5) / 32 - 4 for b in range(0, 45, 5)]
    assert close(splats.sh[0, 1:], [[value[k], value[3 + k], value[6 + k]] for k in range(3)])
    plain, _ = opened(tmp_path / "b.ply", packed_ply(3, colored=False))
    assert close(0.5 + C0 * plain.sh[:, 0], [[1, 0, 0.2]] * 3)
    flat, said = opened(tmp_path / "c.ply", packed_ply(3, comments=["SplatRenderMode: 2dgs"]))
    assert close(flat.log_scales[0], [-2, -8, -8 + math.log(0.01)], 1e-5) and "flat splats" in said.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b"element chunk 2", b"element chunk 1", "1 chunks of 256 are too few for 300 splats"),
        (b"packed_scale", b"packed_skale", "its vertex element lacks packed_scale"),
        (b"property float max_z", b"property float max_w", "its chunk element lacks max_z"),
        (b"property float min_g", b"property float low_g", "its chunk element lacks min_g"),
        (b"uint packed_color", b"int packed_color", "are of type uint"),
        (b"element sh 300", b"element sh 200", "harmonics for 200 of 300 splats"),
        (b"f_rest_8", b"f_rest_9", "9 f_rest fields are no whole degree"),
        (b"element vertex 300", b"element vertex 512", "harmonics for 300 of 512 splats"),
    ],
)
def test_compressed_plys_that_contradict_themselves(
    old: bytes, new: bytes, text: str, tmp_path: Path
) -> None:
    data = packed_ply(300, degree=1)
    assert old in data
    with pytest.raises(ThreedistillError, match=text):
        opened(tmp_path / "a.ply", data.replace(old, new))


# --- .splat and .ksplat ---------------------------------------------------------------------------


def splat_records(scales: tuple, count: int = 2) -> bytes:
    return struct.pack("<6f8B", 1, 2, 3, *scales, 255, 0, 51, 204, 255, 128, 128, 128) * count


def test_splat_and_its_variants(tmp_path: Path) -> None:
    splats, said = opened(tmp_path / "a.splat", splat_records((0.5, 0.25, 0.125)))
    assert close(splats.means, [[1, 2, 3]] * 2) and said.notes == []
    assert close(splats.log_scales[0].exp(), [0.5, 0.25, 0.125])
    assert close(0.5 + C0 * splats.sh[0, 0], [1, 0, 0.2]) and close(
        splats.opacity_logits.sigmoid(), [0.8] * 2
    )
    assert close(splats.quaternions, [[127 / 128, 0, 0, 0]] * 2)
    logs, said = opened(tmp_path / "b.splat", splat_records((-3, -4, -5)))
    assert close(logs.log_scales[0], [-3, -4, -5])
    assert said.notes == ["its scales are logarithms, as INRIA's parameters are"]
    named, said = opened(tmp_path / "c.splat", ply_file([{"x": 1.0}]))
    assert close(named.means, [[1, 0, 0]]) and said.notes == ["c.splat is a PLY file by another name"]
    few, said = opened(tmp_path / "d.splat", splat_records((1, 1, 1), 30) + splat_records((NAN, 1, 1), 1))
    assert len(few) == 30 and said.lost == ["1 of 31 splats (1 with numbers that are not finite)"]
    with pytest.raises(ThreedistillError, match="its numbers cannot be splats"):
        opened(tmp_path / "e.splat", np.random.default_rng(0).bytes(3200))


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_ksplat(level: int, degree: int, tmp_path: Path) -> None:
    splats, said = opened(tmp_path / "a.ksplat", ksplat_file(level, degree, counts=(3, 2)))
    expected = [[10 * s + (k + 1) / 4, 20, 30] for s, n in enumerate((3, 2)) for k in range(n)]
    assert close(splats.means, expected, 1e-4 if level else 1e-6) and said.lost == []
    assert close(splats.log_scales.exp(), [[0.5, 0.25, 0.125]] * 5) and close(
        splats.quaternions, [[0.5] * 4] * 5
    )
    assert close(0.5 + C0 * splats.sh[:, 0], [[1, 0, 0.2]] * 5)
    assert close(splats.opacity_logits.sigmoid(), [0.8] * 5)
    assert splats.sh_degree == degree
    step = (lambda c: c / 255 * 4 - 2) if level == 2 else (lambda c: c / 64)
    if degree:  # degree 1: red 0..2, green 3..5, blue 6..8
        assert close(
            splats.sh[0, 1:4], [[step(3 * channel + k) for channel in range(3)] for k in range(3)], 1e-6
        )
    if degree == 2:  # then degree 2: red 9..13, green 14..18, blue 19..23
        assert close(
            splats.sh[4, 4:], [[step(9 + 5 * channel + k) for channel in range(3)] for k in range(5)], 1e-6
        )


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (1, b"\0", "ksplat version 0.0 of compression level 1 is not known"),
        (20, b"\7", "compression level 7 is not known"),
        (4, struct.pack("<I", 1 << 30), "promises 1073741824 sections"),
        (16, struct.pack("<I", 9), "hold 5 of the 9 splats promised"),
        (4096, struct.pack("<I", 1 << 30), "section 0 contradicts itself"),
        (4096 + 4, struct.pack("<I", 1 << 30), "section 0 reaches beyond its end"),
        (4096 + 12, struct.pack("<I", 1 << 31), "section 0 reaches beyond its end"),
        (4096 + 20, b"\0\0", "section 0 has no buckets"),
        (4096 + 32, struct.pack("<I", 1 << 31), "section 0 reaches beyond its end"),
        (4096 + 36, struct.pack("<I", 1 << 31), "section 0 reaches beyond its end"),
        (4096 + 40, b"\4", "section 0 contradicts itself"),
        (4096 + 2048, b"\0\0\0\0", "section 0 has too few buckets"),
    ],
)
def test_ksplats_that_contradict_themselves(place: int, value: bytes, text: str, tmp_path: Path) -> None:
    data = bytearray(ksplat_file(1, counts=(3, 2)))
    data[place : place + len(value)] = value
    with pytest.raises(ThreedistillError, match=text):
        opened(tmp_path / "a.ksplat", bytes(data))


# --- SPZ ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_spz_of_every_version(version: int, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    body = spz_body(min(version, 3), degree=1, flags=1)
    data = gzip.compress(body)
    if version == 4:
        sizes = [18, 2, 6, 6, 8, 18]
        cuts = np.cumsum([16, *sizes])
        frames = [zstandard.compress(body[a:b]) for a, b in itertools.pairwise(cuts)]
        head = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, 2, 1, 12, 1, 6, 40) + b"vendor.."
        table = b"".join(struct.pack("<QQ", len(f), s) for f, s in zip(frames, sizes))
        data = head + table + b"".join(frames)
    splats, said = opened(tmp_path / "a.spz", data)
    assert close(splats.means, [[1.5, -2, 0.25], [0, 0, -1]], 1e-7)
    assert close(splats.log_scales, [[-3, -4, 0]] * 2)
    assert float(splats.opacity_logits[0].sigmoid()) > 0.999 and close(
        splats.opacity_logits[1].sigmoid(), 0.2
    )
    assert close(splats.sh[:, 0], [[0.5 / 0.15, -0.5 / 0.15, (127 / 255 - 0.5) / 0.15]] * 2, 1e-5)
    assert close(splats.sh[:, 1:], [[[0.5, 0.5, 0.5], [0, 0, 0], [0, 0, 0]]] * 2)
    if version < 3:  # x, y and z as bytes
        assert close(splats.quaternions[0, 2], 191 / 127.5 - 1) and float(splats.quaternions[0, 0]) > 0.8
    else:  # w is the largest; y is 361 / 511 of sqrt 1/2
        y = 361 / 511 * math.sqrt(0.5)
        assert close(splats.quaternions, [[math.sqrt(1 - y * y), 0, y, 0]] * 2)
    assert said.lost == []


def test_spz_says_what_it_leaves_out(tmp_path: Path) -> None:
    splats, said = opened(tmp_path / "a.spz", gzip.compress(spz_body(3, degree=4, flags=2) + b"more"))
    assert splats.sh_degree == 3 and close(splats.sh[0, 1], [0.5] * 3)
    assert said.lost == ["harmonics of degree 4", "a vendor's extensions"]


# --- SOG ------------------------------------------------------------------------------------------


def sog_parts(count: int = 2) -> tuple[dict, dict]:
    """Two splats: steps 0 and 65535 between the extremes; the codebooks count down."""
    size = (4, 4)

    def picture(first: list, second: list) -> np.ndarray:
        pixels = np.zeros((*size, 4))
        pixels[..., 3] = 255
        pixels[0, 0], pixels[0, 1] = first, second
        return pixels

    pictures = {
        "means_l.webp": picture([0, 0, 0, 255], [255, 255, 0, 255]),
        "means_u.webp": picture([0, 0, 0, 255], [255, 255, 128, 255]),
        "quats.webp": picture([255, 128, 128, 252], [128, 128, 128, 255]),
        "scales.webp": picture([0, 1, 2, 255], [3, 4, 5, 255]),
        "sh0.webp": picture([0, 1, 2, 204], [255, 255, 255, 255]),
    }
    book = [-i / 10 for i in range(256)]
    meta = {
        "version": 2, "count": count,
        "means": {"mins": [-1, 0, -2], "maxs": [1, 2, 2], "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": book, "files": ["scales.webp"]}, "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": book, "files": ["sh0.webp"]},
    }  # fmt: skip
    return meta, pictures


def test_sog(tmp_path: Path) -> None:
    meta, pictures = sog_parts()
    splats, said = opened(tmp_path / "a.sog", sog_file(meta, pictures))
    third = -2 + 4 * 32768 / 65535
    e = math.e
    assert close(splats.means, [[1 - e, 0, 1 - e**2], [e - 1, e**2 - 1, math.expm1(third)]], 1e-5)
    assert close(splats.log_scales, [[0, -0.1, -0.2], [-0.3, -0.4, -0.5]])
    assert close(splats.opacity_logits[0].sigmoid(), 0.8) and close(splats.sh[0, 0], [0, -0.1, -0.2])
    x = (255 / 255 * 2 - 1) / math.sqrt(2)
    y = (128 / 255 * 2 - 1) / math.sqrt(2)
    assert close(splats.quaternions[0], [math.sqrt(1 - x * x - 2 * y * y), x, y, y])
    assert said.lost == [] and said.notes == []


def test_sog_of_version_1(tmp_path: Path) -> None:
    """No version; bytes are steps between extremes, opacities logits, the degree is told by the palette's width."""
    meta, pictures = sog_parts()
    del meta["version"], meta["count"]
    meta["means"]["shape"] = [2, 3]
    meta["scales"] = {"mins": [-5, -5, -5], "maxs": [0.1, 0.1, 0.1], "files": ["scales.webp"]}
    meta["sh0"] = {"mins": [0, 0, 0, -4], "maxs": [1, 1, 2.55, 1.1], "files": ["sh0.webp"]}
    meta["shN"] = {"mins": -1, "maxs": 1, "files": ["centroids.webp", "labels.webp"]}
    centroids = np.full((1, 192, 4), 255)
    centroids[0, 3:6, :3] = [[0, 255, 51], [102, 153, 204], [255, 0, 0]]
    labels = np.zeros((4, 4, 4))
    labels[..., 3] = 255
    labels[0, 0, 0] = 1
    splats, _ = opened(
        tmp_path / "a.sog", sog_file(meta, {**pictures, "centroids.webp": centroids, "labels.webp": labels})
    )
    assert close(splats.log_scales[0], [-5, -4.98, -4.96], 1e-5)
    assert close(splats.opacity_logits, [-4 + 5.1 * 204 / 255, 1.1], 1e-5)
    assert close(splats.sh[0, 0], [0, 1 / 255, 0.02], 1e-6)
    assert close(splats.sh[0, 1:], [[-1, 1, -0.6], [-0.2, 0.2, 0.6], [1, -1, -1]], 1e-6)
    assert close(splats.sh[1, 1:], [[1, 1, 1]] * 3)


def test_sog_splats_without_what_they_name_are_dropped(tmp_path: Path) -> None:
    meta, pictures = sog_parts()
    pictures["quats.webp"][0, 0, 3] = 17
    _, said = opened(tmp_path / "a.sog", sog_file(meta, pictures))
    assert said.lost == ["1 of 2 splats (1 with a rotation of length zero)"]
    meta, pictures = sog_parts()
    meta["scales"]["codebook"] = [-3.0, -4.0, -5.0]
    _, said = opened(tmp_path / "a.sog", sog_file(meta, pictures))
    assert said.lost == ["1 of 2 splats (1 with numbers that are not finite)"]


def changed(meta: dict, place: tuple, value: object) -> None:
    for key in place[:-1]:
        meta = meta[key]
    meta[place[-1]] = value


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (("version",), 3, "sog version 3 is not known"),
        (("count",), 0, "it holds no splats"), (("count",), 17, "means has 16 pixels for 17 splats"),
        (("count",), True, "its count is no whole number"), (("count",), "2", "its count is no whole number"),
        (("means", "mins"), [0, 0], "a list of 3 numbers is missing"),
        (("means", "maxs"), [[0, 0, 0]] * 3, "a list of 3 numbers is missing"),
        (("means", "maxs"), [0, 0, 1e9], "lie beyond everything"),
        (("scales", "codebook"), [[0] * 9] * 256, "a list of finite numbers is missing"),
        (("sh0", "codebook"), [0] * 257, "its codebook of sh0 has 257 entries"),
        (("quats", "files"), ["other.webp"], "it lacks its part 'other.webp'"),
        (("quats", "files"), [3], "quats names no files"),
        (("shN",), {"bands": 9}, "harmonics of degree 9 are not supported"),
    ],
)  # fmt: skip
def test_sogs_that_contradict_themselves(place: tuple, value: object, text: str, tmp_path: Path) -> None:
    meta, pictures = sog_parts()
    changed(meta, place, value)
    with pytest.raises(ThreedistillError, match=text):
        opened(tmp_path / "a.sog", sog_file(meta, pictures))


# --- what the user reads --------------------------------------------------------------------------


def test_convert_says_what_was_left_out_in_one_line(command: Callable, workspace: Path) -> None:
    Path("a.ply").write_bytes(ply_file([{"x": NAN, "filter_3D": 1.0}, {"filter_3D": 1.0}]))
    done = command("convert", "a.ply", "b.ply")
    assert done.status == 0
    line = "not in b.ply: the field filter_3D, 1 of 2 splats (1 with numbers that are not finite)"
    assert line in done.err.splitlines()
