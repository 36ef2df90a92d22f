"""Clouds written and read back, by us and by PlayCanvas' converter; damaged and lying files."""

from __future__ import annotations

import gzip
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exports.clouds import FIELDS, axes, cloud, covariances, matched
from tests.exports.gltf_files import floats_in, taken_apart
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.frames import frame_of
from threedistill.exports.settings import FileSettings
from threedistill.exports.splat_files import read_splats, write_splats
from threedistill.exports.splats.cloud import from_file_frame, into_file_frame, moved, rotated
from threedistill.types import Splats

FORMATS = ("ply", "splat", "spz", "sog", "glb")
DEGREES = (0, 1, 2, 3)


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).abs().max())


def rotation_error(found: Splats, expected: Splats) -> float:
    """The largest angle between two axes of one splat, radians; an axis has no direction."""
    cosine = (axes(found) * axes(expected)).sum(1).abs()
    return float(torch.acos(cosine.clamp(max=1)).max())


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("up", ["-y", "y", "z"])
def test_ply_keeps_every_number(degree: int, up, tmp_path: Path) -> None:
    splats = cloud(degree=degree)
    write_splats(splats, tmp_path / "a.ply", FileSettings(splat_up=up))
    found = read_splats(tmp_path / "a.ply")
    assert found.sh_degree == degree and found.extras == splats.extras
    for name in FIELDS:
        assert worst(getattr(found, name), getattr(splats, name)) < (1e-6 if up != "y" else 1e-12), name


def test_ply_is_laid_out_as_inrias(tmp_path: Path) -> None:
    """Read by hand: order of the fields, channel-major harmonics, y down."""
    splats = cloud(degree=1)
    write_splats(splats, tmp_path / "a.ply")
    text, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    lines = text.decode("ascii").splitlines()
    names = [line.split()[2] for line in lines if line.startswith("property")]
    assert all(line.startswith("property float ") for line in lines if line.startswith("property"))
    assert (
        names
        == (
            "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 "
            + " ".join(f"f_rest_{k}" for k in range(9))
            + " opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
        ).split()
    )
    table = torch.from_numpy(np.frombuffer(body, "<f4").reshape(200, -1).copy())
    column = {name: table[:, k] for k, name in enumerate(names)}
    assert torch.allclose(column["x"], -splats.means[:, 0]) and torch.allclose(
        column["y"], -splats.means[:, 1]
    )
    assert torch.allclose(column["z"], splats.means[:, 2]) and not column["nx"].any()
    # Degree 1 is (-y, z, -x) times constants: half a turn about z changes the signs of the first and the last.
    for channel in range(3):
        for k, sign in enumerate((-1, 1, -1)):
            expected = sign * splats.sh[:, 1 + k, channel]
            assert torch.allclose(column[f"f_rest_{3 * channel + k}"], expected, atol=1e-6)
    assert torch.equal(column["opacity"], splats.opacity_logits)
    assert torch.equal(column["scale_2"], splats.log_scales[:, 2])


@pytest.mark.parametrize("fields", ["shuffled", "double", "big", "ascii", "extra"])
def test_ply_of_other_tools_is_read(fields: str, tmp_path: Path) -> None:
    splats = cloud(30, degree=2)
    rest = splats.sh[:, 1:].transpose(1, 2).reshape(30, -1)
    columns = {f"f_rest_{k}": rest[:, k] for k in range(24)}
    columns |= {f"rot_{k}": splats.quaternions[:, k] for k in range(4)}
    columns |= {n: splats.means[:, k] for k, n in enumerate("xyz")} | {"opacity": splats.opacity_logits}
    columns |= {f"scale_{k}": splats.log_scales[:, k] for k in range(3)}
    columns |= {f"f_dc_{k}": splats.sh[:, 0, k] for k in range(3)}
    kind, word, form = "<f4", "float", "binary_little_endian"
    if fields == "double":
        kind, word = "<f8", "double"
    elif fields == "big":
        kind, form = ">f4", "binary_big_endian"
    elif fields == "ascii":
        form = "ascii"
    header = ["ply", f"format {form} 1.0", "obj_info made elsewhere", "element vertex 30"]
    header += [f"property {word} {name}" for name in columns]
    if fields == "extra":
        header += ["property uchar red", "property uchar green", "property uchar blue"]
    table = np.stack([c.numpy() for c in columns.values()], 1)
    body = table.astype(kind).tobytes()
    if fields == "ascii":
        body = "\n".join(" ".join(repr(float(v)) for v in row) for row in table).encode()
    elif fields == "extra":
        body = b"".join(row.astype("<f4").tobytes() + b"\1\2\3" for row in table)
    newline = "\r\n" if fields == "ascii" else "\n"
    (tmp_path / "a.ply").write_bytes(newline.join([*header, "end_header", ""]).encode() + body)
    found = read_splats(tmp_path / "a.ply", up="y")
    for name in FIELDS:
        assert worst(getattr(found, name), getattr(splats, name)) < 1e-6, name
    # Without a word about its axes, y is taken to point down.
    down = read_splats(tmp_path / "a.ply")
    assert torch.allclose(down.means, splats.means * torch.tensor([-1.0, -1, 1]), atol=1e-6)


#: (position, log scale, rotation in radians, opacity, degree-0 coefficient, higher coefficient): what each format
#: may lose. Bytes: half a step of 1/255 in opacity and colour (/ 0.282), 1/16 in log scale; spz rounds to buckets of
#: 1/8 and 1/16; sog's codebooks hold the 600 scales in 256 entries.
LOSSES = {
    "ply": (1e-6, 1e-6, 1e-3, 1e-6, 1e-6, 1e-6),
    "glb": (1e-6, 1e-5, 1e-3, 1e-6, 1e-6, 1e-6),
    "splat": (1e-6, 1e-5, 0.02, 0.0021, 0.008, None),
    "spz": (1e-6, 0.032, 0.006, 0.0021, 0.0132, 0.0626),
    "sog": (2e-5, 0.05, 0.02, 0.0021, 0.05, 0.05),
}  # fmt: skip


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trips_lose_what_the_format_says(suffix: str, degree: int, tmp_path: Path) -> None:
    splats = cloud(degree=degree)
    splats.sh[:, 0] = splats.sh[:, 0].clamp(-1.7, 1.7)  # colours beyond [0, 1] do not fit into bytes
    write_splats(splats, tmp_path / f"a.{suffix}")
    found = matched(read_splats(tmp_path / f"a.{suffix}"), splats)
    position, scale, angle, opacity, dc, higher = LOSSES[suffix]
    assert worst(found.means, splats.means) <= position
    assert worst(found.log_scales, splats.log_scales) <= scale
    assert rotation_error(found, splats) <= angle
    assert worst(found.opacity_logits.sigmoid(), splats.opacity_logits.sigmoid()) <= opacity
    assert worst(found.sh[:, 0], splats.sh[:, 0]) <= dc
    if higher is None:
        assert found.sh_degree == 0
    else:
        assert found.sh_degree == degree
        if degree:
            assert worst(found.sh[:, 1:], splats.sh[:, 1:]) <= higher
    if suffix not in ("splat", "spz"):
        assert found.extras == splats.extras


@pytest.mark.parametrize("suffix", FORMATS)
def test_equal_clouds_give_equal_bytes(suffix: str, tmp_path: Path) -> None:
    for name in "ab":
        write_splats(cloud(), tmp_path / f"{name}.{suffix}")
    a, b = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert a.replace(b'"a"', b'"b"') == b


@pytest.mark.parametrize("suffix", ["ply", "spz", "sog", "glb"])
@pytest.mark.parametrize("wanted", DEGREES)
def test_the_degree_is_chosen_on_export(suffix: str, wanted: int, tmp_path: Path) -> None:
    splats = cloud(degree=2)
    write_splats(splats, tmp_path / f"a.{suffix}", FileSettings(sh_degree=wanted))
    found = matched(read_splats(tmp_path / f"a.{suffix}"), splats)
    assert found.sh_degree == wanted
    common = (min(wanted, 2) + 1) ** 2
    assert worst(found.sh[:, 1:common], splats.sh[:, 1:common]) < 0.07 if wanted else True
    assert found.sh[:, common:].abs().sum() < 1e-2 if suffix == "sog" else not found.sh[:, common:].any()


def test_large_clouds_share_a_palette(tmp_path: Path) -> None:
    """More splats than the palette has entries: what is lost stays small where views repeat."""
    splats = cloud(3000, degree=1)
    generator = torch.Generator().manual_seed(5)
    kinds = torch.randn(40, 3, 3, generator=generator) * 0.2
    splats.sh[:, 1:] = kinds[torch.randint(40, (3000,), generator=generator)]
    write_splats(splats, tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as bundle:
        meta = json.loads(bundle.read("meta.json"))
        assert meta["shN"]["count"] <= 1024 and all(i.compress_type == 0 for i in bundle.infolist())
    found = read_splats(tmp_path / "a.sog")
    order = torch.cdist(splats.means.double(), found.means.double()).argmin(1)
    assert worst(found.sh[order, 1:], splats.sh[:, 1:]) < 0.03
    write_splats(splats, tmp_path / "a.ply")
    assert (tmp_path / "a.sog").stat().st_size * 4 < (tmp_path / "a.ply").stat().st_size


def test_frames_turn_everything_and_back() -> None:
    """A cloud looked at from d has the colours of the turned cloud looked at from R d, and its shape turns along."""
    from threedistill.render.harmonics import basis

    splats = cloud(degree=3)
    splats = replace(splats, **{n: getattr(splats, n).double() for n in FIELDS})
    turn = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    turned = rotated(splats, turn)
    assert torch.allclose(turned.means, splats.means @ turn.T)
    assert worst(covariances(turned), turn @ covariances(splats) @ turn.T) < 1e-12
    direction = torch.nn.functional.normalize(torch.randn(7, 3, dtype=torch.float64), dim=1)
    seen = torch.einsum("dk,nkc->dnc", basis(direction, 3), splats.sh)
    assert worst(torch.einsum("dk,nkc->dnc", basis(direction @ turn.T, 3), turned.sh), seen) < 1e-12
    for up in ("-y", "y", "z"):
        back = from_file_frame(into_file_frame(splats, frame_of(up)), frame_of(up))
        assert worst(back.means, splats.means) < 1e-12 and worst(back.sh, splats.sh) < 1e-12
        assert worst(covariances(back), covariances(splats)) < 1e-12
    standing = into_file_frame(
        replace(splats, means=torch.tensor([[0.0, 1, 0]]).double().expand(200, 3)), frame_of("z")
    )
    assert torch.allclose(standing.means, torch.tensor([0.0, 0, 1]).double())


def test_moved_clouds_are_enlarged_alike() -> None:
    splats = cloud()
    centre = torch.tensor([0.1, 0.2, -0.3])
    found = moved(splats, centre, 3.0)
    assert torch.allclose(found.means, (splats.means - centre) * 3, atol=1e-6)
    assert torch.allclose(covariances(found), covariances(splats) * 9, rtol=1e-5)


def test_gltf_splats_as_the_validator_sees_them(validate: Callable[[Path], dict], tmp_path: Path) -> None:
    """The validator does not know the extension (nor its attributes' names); it finds nothing else."""
    write_splats(cloud(degree=3), tmp_path / "a.glb")
    report = validate(tmp_path / "a.glb")
    messages = report["issues"]["messages"]
    assert {m["code"] for m in messages} <= {"UNSUPPORTED_EXTENSION", "MESH_PRIMITIVE_INVALID_ATTRIBUTE"}, (
        messages
    )
    assert all("KHR_gaussian_splatting" in json.dumps(m) for m in messages), messages
    assert report["info"]["totalVertexCount"] == 200


def test_gltf_splats_hold_what_the_extension_defines(tmp_path: Path) -> None:
    """One splat read by hand: (x, y, z, w), scales, coverage and coefficients are stored as they are."""
    sh = torch.arange(12.0).reshape(1, 4, 3) / 10
    one = Splats(
        torch.tensor([[1.0, 2, 3]]), torch.tensor([[2.0, 3, 4]]).log(), torch.tensor([[0.5, 0.1, 0.7, 0.5]]),
        torch.tensor([math.log(3)]), sh,
    )  # fmt: skip
    write_splats(one, tmp_path / "a.glb")
    document, binary = taken_apart(tmp_path / "a.glb")

    def stored(name: str) -> list[float]:
        return floats_in(document, binary, name)[0].tolist()

    assert stored("POSITION") == [1, 2, 3]  # glTF's axes are ours
    assert stored("KHR_gaussian_splatting:SCALE") == pytest.approx([2, 3, 4])
    assert stored("KHR_gaussian_splatting:ROTATION") == pytest.approx([0.1, 0.7, 0.5, 0.5])
    assert stored("KHR_gaussian_splatting:OPACITY") == pytest.approx([0.75])
    for degree, k, index in ((0, 0, 0), (1, 0, 1), (1, 1, 2), (1, 2, 3)):
        name = f"KHR_gaussian_splatting:SH_DEGREE_{degree}_COEF_{k}"
        assert stored(name) == pytest.approx(sh[0, index].tolist())
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0 and document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert primitive["extensions"]["KHR_gaussian_splatting"] == {
        "kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }  # fmt: skip


def test_gltf_nodes_place_their_splats(tmp_path: Path) -> None:
    splats = cloud(50, degree=2)
    write_splats(splats, tmp_path / "a.glb")
    document, binary = taken_apart(tmp_path / "a.glb")
    half = 0.5**0.5
    document["nodes"] = [
        {"children": [1], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": [0, half, 0, half], "scale": [2, 2, 2]},
    ]
    document["buffers"][0]["uri"] = "a.bin"
    (tmp_path / "a.bin").write_bytes(binary)
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    found = read_splats(tmp_path / "b.gltf")
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)  # a quarter about y
    expected = rotated(splats, turn)
    assert worst(found.means, expected.means * 2 + torch.tensor([1.0, 2, 3])) < 1e-5
    assert worst(covariances(found), covariances(expected) * 4) < 1e-5 and worst(found.sh, expected.sh) < 1e-5
    document["nodes"][1]["scale"] = [1, 2, -3]  # stretched, and a mirror
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    found = read_splats(tmp_path / "b.gltf")
    linear = turn @ torch.diag(torch.tensor([1.0, 2, -3], dtype=torch.float64))
    assert worst(found.means, splats.means.double() @ linear.T + torch.tensor([1.0, 2, 3])) < 1e-5
    assert worst(covariances(found), linear @ covariances(splats) @ linear.T) < 1e-5
    document["nodes"][1]["scale"] = [1, 2, 0]
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    with pytest.raises(ThreedistillError, match="a matrix that cannot be inverted"):
        read_splats(tmp_path / "b.gltf")


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "lying", "missing", "folder"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_refused_in_one_line(suffix: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        write_splats(cloud(20), path)
        whole = path.read_bytes()
        if damage == "lying":
            other = {"ply": "glb", "splat": "sog", "spz": "sog", "sog": "spz", "glb": "splat"}[suffix]
            write_splats(cloud(20), tmp_path / f"b.{other}")
            whole = (tmp_path / f"b.{other}").read_bytes()
        path.write_bytes(
            {
                "empty": b"",
                "garbage": bytes(range(256)) * 40,
                "cut": whole[: len(whole) * 2 // 3 + 5],
                "lying": whole,
            }[damage]
        )
    with pytest.raises(ThreedistillError, match=r"cannot (read|use) ") as caught:
        read_splats(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def header_changed(path: Path, old: str, new: str) -> None:
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode()))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("property float opacity", "property float alpha_", "it lacks opacity"),
        ("property float scale_1", "property float scale_9", "it lacks scale_1"),
        (
            "property float nx",
            "property list uchar int nx",
            "its property 'nx' is a list where numbers belong",
        ),
        ("property float nx", "property string nx", "its property 'nx' is no number"),
        ("element vertex 20", "element vertex many", "its header has a line 'element vertex many'"),
        ("property float f_rest_8\n", "", "8 f_rest fields are no whole degree"),
        ("property float f_rest_3", "property float f_rest_77", "9 f_rest fields are no whole degree"),
        ("property float rot_0", "property float x", "appears twice"),
        ("element vertex 20", "element vertex 2000000", "it is cut off, its header promises 2000000 splats"),
        ("element vertex 20", "element vertex 0", "it holds no splats"),
        ("binary_little_endian", "binary_middle_endian", "none of binary_little_endian"),
        ("property float f_dc_0", "property float packed_position", "has a chunk and a vertex element"),
        ("end_header", "end_of_it", "its header has no end"),
    ],
)
def test_wrong_headers_are_named(old: str, new: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_splats(cloud(20, degree=1), path)
    header_changed(path, old, new)
    with pytest.raises(ThreedistillError, match=text):
        read_splats(path)


def test_a_mesh_is_no_cloud(cube_asset, tmp_path: Path) -> None:
    from threedistill.exports.asset import write_mesh

    write_mesh(cube_asset, tmp_path / "m.ply")
    with pytest.raises(
        ThreedistillError, match=r"not a splat ply, it lacks .* \(a mesh or a point cloud\?\)"
    ):
        read_splats(tmp_path / "m.ply")
    write_mesh(cube_asset, tmp_path / "m.glb")
    with pytest.raises(ThreedistillError, match="it holds no splats"):
        read_splats(tmp_path / "m.glb")


def test_absurd_requests_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    splats = cloud(10)
    for degree in (-1, 4, 100):
        with pytest.raises(ValueError, match=f"sh_degree={degree} must lie in"):
            FileSettings(sh_degree=degree)
    with pytest.raises(ValueError, match="must be -y, y or z"):
        FileSettings(splat_up="x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"did you mean \.splat\?"):
        write_splats(splats, tmp_path / "a.splats")
    empty = Splats(*(getattr(splats, name)[:0] for name in FIELDS))
    nan = replace(splats, log_scales=splats.log_scales.clone().fill_(float("nan")))
    odd = replace(splats, sh=splats.sh[:, :7])
    flat = replace(splats, quaternions=splats.quaternions * 0)
    for bad, text in [
        (empty, "there are no splats"), (nan, "10 of 10 splats have log_scales that are not finite"),
        (odd, "7 harmonics per colour are no whole degree"), (flat, "a rotation of length zero"),
    ]:  # fmt: skip
        for suffix in FORMATS:
            with pytest.raises(ThreedistillError, match=text):
                write_splats(bad, tmp_path / f"a.{suffix}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (4, b"\x09", "version 9 is not known"),
        (12, b"\x05", "claims harmonics of degree 5"),
        (8, b"\0\0\0\0", "it holds no splats"),
    ],
)
def test_spz_headers_are_checked(position: int, value: bytes, text: str, tmp_path: Path) -> None:
    write_splats(cloud(10), tmp_path / "a.spz")
    data = bytearray(gzip.decompress((tmp_path / "a.spz").read_bytes()))
    data[position : position + len(value)] = value
    (tmp_path / "a.spz").write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(ThreedistillError, match=text):
        read_splats(tmp_path / "a.spz")


def test_spz_of_version_2_is_read(tmp_path: Path) -> None:
    """One splat packed by hand after the format's description."""
    body = struct.pack("<IIIBBBB", 0x5053474E, 2, 1, 0, 12, 0, 0)
    body += (
        (4096).to_bytes(3, "little") + (-2048 & 0xFFFFFF).to_bytes(3, "little") + (0).to_bytes(3, "little")
    )
    body += bytes([128, 255, 128, 0, 160, 144, 128, 255, 128, 128])
    (tmp_path / "a.spz").write_bytes(gzip.compress(body))
    found = read_splats(tmp_path / "a.spz")
    assert found.means.tolist() == [[1.0, -0.5, 0.0]] and found.log_scales.tolist() == [[0.0, -1.0, -2.0]]
    assert found.quaternions[0].tolist() == pytest.approx([0, 1, 0.004, 0.004], abs=0.001)
    assert found.opacity_logits.sigmoid().item() == pytest.approx(128 / 255)
    assert found.sh[0, 0].tolist() == pytest.approx([0.5 / 0.15, 0.013, -0.5 / 0.15], abs=1e-3)
