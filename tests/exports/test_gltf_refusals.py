"""glTF that must be refused: one line that says what and where, before anything large is unpacked."""

from __future__ import annotations

import json
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exports.gltf_files import CORNERS, File, container, four, png
from tests.exports.test_gltf_materials import textured
from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.limits import limits
from threedistill.exports.gltf.read import read_gltf


def refused(path: Path, *words: str) -> str:
    with pytest.raises(ThreedistillError) as caught:
        read_gltf(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line and len(line) < 500
    for word in words:
        assert word in line, line
    return line


def sound() -> File:
    file = File()
    file.show(file.quad(textured(file)))
    return file


def written(document: dict[str, Any], tmp_path: Path, binary: bytes = b"") -> Path:
    path = tmp_path / "file.glb"
    path.write_bytes(container(json.dumps(document).encode(), binary))
    return path


def test_required_extensions_are_refused_by_name_before_anything_is_read(tmp_path: Path) -> None:
    document = {"asset": {"version": "2.0"}, "extensionsRequired": ["ACME_teapots", "KHR_materials_volume"]}
    document |= {"meshes": "nonsense", "buffers": [{"byteLength": 10, "uri": "not-there.bin"}]}
    refused(written(document, tmp_path), "ACME_teapots, KHR_materials_volume", "not supported")
    document["extensionsRequired"] = ["KHR_texture_basisu"]
    refused(written(document, tmp_path), "KHR_texture_basisu", "ktxdecompress")


@pytest.mark.parametrize(
    ("extension", "library"),
    [("KHR_draco_mesh_compression", "DracoPy"), ("EXT_meshopt_compression", "meshopt")],
)
def test_compression_without_its_library_names_the_extra(
    extension: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else object())
    file = sound()
    file.use(extension, required=True)
    refused(file.write(tmp_path / "file.glb"), extension, "threedistill[gltf]", "npx @gltf-transform/cli")


def test_compression_beside_plain_data_needs_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    file = sound()
    file.use("KHR_draco_mesh_compression")
    primitive = file.document["meshes"][0]["primitives"][0]
    draco = {"bufferView": file.view(b"DRACO, and no more"), "attributes": {"POSITION": 0}}
    primitive["extensions"] = {"KHR_draco_mesh_compression": draco}
    assert len(read_gltf(file.write(tmp_path / "file.glb")).mesh.faces) == 2


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.glb", b"", ["begins with neither"]),
        ("text.gltf", b"hello", ["begins with neither"]),
        ("list.gltf", b"[1, 2]", ["begins with neither"]),
        ("one.glb", struct.pack("<4sII", b"glTF", 1, 20) + b"\0" * 8, ["version 1"]),
        ("head.glb", b"glTF\2\0\0\0", ["cut off in its header"]),
        ("cut.glb", container(b"{}")[:-1] + b"", ["cut off"]),
        (
            "order.glb",
            struct.pack("<4sIII4s", b"glTF", 2, 24, 4, b"BIN\0") + b"1234",
            ["first chunk is not JSON"],
        ),
        ("long.glb", struct.pack("<4sIII4s", b"glTF", 2, 24, 400, b"JSON") + b"{}  ", ["chunk is longer"]),
        ("json.glb", container(b'{"asset": }'), ["JSON"]),
        ("old.gltf", b'{"asset": {"version": "1.0"}}', ["glTF 1.0", "only 2.0"]),
        ("new.gltf", b'{"asset": {"version": "2.1", "minVersion": "2.1"}}', ["at least 2.1"]),
        ("bare.gltf", b"{}", ["asset.version is missing"]),
        ("nothing.gltf", b'{"asset": {"version": "2.0"}}', ["no triangles"]),
        ("latin.gltf", b'{"asset": {"version": "2.0", "generator": "\xff"}}', ["JSON"]),
    ],
)
def test_damaged_containers(name: str, data: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, *words)


def test_a_byte_order_mark_and_a_glb_by_another_name_are_read(tmp_path: Path) -> None:
    file = sound()
    (tmp_path / "binary.gltf").write_bytes(file.glb())
    (tmp_path / "side.bin").write_bytes(bytes(file.data))
    document = {**file.document, "buffers": [{"byteLength": len(file.data), "uri": "side.bin"}]}
    (tmp_path / "marked.gltf").write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    for name in ("binary.gltf", "marked.gltf"):
        assert len(read_gltf(tmp_path / name).mesh.faces) == 2


#: Every value of every place of a sound file is replaced by each of these.
WRONG: list[Any] = [None, [], {}, "text", -1, 3.5, 10**30, True, [[]], {"a": 1}, 4_000_000_000, ["a"]]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, child in value.items():
            found += places(child, (*path, key))
    if isinstance(value, list):
        for index, child in enumerate(value):
            found += places(child, (*path, index))
    return found


def everything() -> File:
    """A file that has one of everything that is read."""
    file = File()
    file.use("EXT_mesh_gpu_instancing", "KHR_texture_transform", "KHR_materials_pbrSpecularGlossiness")
    material = textured(file, {"wrapS": 10497}, 2, extensions={"KHR_texture_transform": {"offset": [0.5, 0]}})
    material |= {"normalTexture": {"index": 0, "scale": 2}, "emissiveFactor": [1, 1, 1], "alphaMode": "MASK"}
    old = {"diffuseTexture": {"index": 0}, "specularFactor": [1, 1, 1]}
    primitive = file.quad(material, COLOR_0=file.array([[255] * 4] * 4, "u1", True))
    primitive["targets"] = [{"POSITION": primitive["attributes"]["POSITION"]}]
    instancing = {"attributes": {"TRANSLATION": file.array([[0, 0, 0]])}}
    file.show(
        primitive, weights=[0.5], extensions={"EXT_mesh_gpu_instancing": instancing}, rotation=[0, 0, 0, 1]
    )
    file.document["accessors"][0]["sparse"] = {
        "count": 1, "indices": {"bufferView": file.view(b"\1"), "componentType": 5121},
        "values": {"bufferView": file.view(b"\0" * 12)},
    }  # fmt: skip
    skin = file.add("skins", {"joints": [0], "inverseBindMatrices": file.array(np.eye(4).reshape(1, 16))})
    more = {"JOINTS_0": file.array([[0] * 4] * 4, "u1"), "WEIGHTS_0": file.array([[1, 0, 0, 0]] * 4)}
    file.show(file.quad({"extensions": {"KHR_materials_pbrSpecularGlossiness": old}}, **more), skin=skin)
    file.document["buffers"] = [{"byteLength": len(file.data)}]
    return file


@pytest.mark.parametrize("tries", [200, pytest.param(None, marks=pytest.mark.slow)])
def test_wrong_shapes_anywhere_are_one_line(tries: int | None, tmp_path: Path) -> None:
    """Lists, numbers, null, text and objects where none of them belongs: read rightly or refused, never a traceback."""
    file = everything()
    binary = bytes(file.data)
    assert len(read_gltf(file.write(tmp_path / "sound.glb")).mesh.faces) == 4
    cases = [(place, wrong) for place in places(file.document) for wrong in WRONG]
    if tries is not None:
        cases = random.Random(0).sample(cases, tries)
    refusals = 0
    for place, wrong in cases:
        document = json.loads(json.dumps(file.document))
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = wrong
        try:
            read_gltf(written(document, tmp_path, binary))
        except ThreedistillError as error:
            refusals += 1
            assert "\n" not in str(error) and len(str(error)) < 500, (place, wrong)
    assert refusals > len(cases) / 2


def test_deep_and_long_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.gltf"
    path.write_text('{"asset": {"version": "2.0"}, "extras": ' + "[" * 100_000 + "]" * 100_000 + "}")
    refused(path, "levels of JSON")
    path.write_text('{"asset": {"version": "2.0", "extras": ' + "1" * 10_000 + "}}")
    refused(path)


def test_nodes_must_be_a_tree(tmp_path: Path) -> None:
    """24 nodes that name each other twice would be walked 2^24 times."""
    file = sound()
    nodes = [{"children": [k + 1, k + 1]} for k in range(23)] + [{"mesh": 0}]
    file.document["nodes"] = nodes
    refused(file.write(tmp_path / "file.glb"), "demands a tree")
    file.document["nodes"] = [{"children": [1]}, {"children": [0], "mesh": 0}]
    refused(file.write(tmp_path / "file.glb"), "its own ancestor")
    file.document["nodes"] = [{"children": [2]}, {"children": [2]}, {"mesh": 0}]
    refused(file.write(tmp_path / "file.glb"), "node 2 is named as a child twice")
    chain = [{"children": [k + 1]} for k in range(5000)] + [{"mesh": 0}]
    file.document["nodes"] = chain  # deep, and a tree
    assert len(read_gltf(file.write(tmp_path / "file.glb")).mesh.faces) == 2
    with limits(nodes=100):
        refused(tmp_path / "file.glb", "5001 nodes", "--limit nodes=5001")


def test_claims_are_compared_with_the_file_before_anything_is_allocated(tmp_path: Path) -> None:
    file = sound()
    position = file.document["accessors"][0]
    del position["bufferView"]
    position["count"] = 2_000_000_000
    refused(file.write(tmp_path / "file.glb"), "24000 MB", "--limit expansion=")
    file = sound()
    file.document["accessors"][0]["count"] = 2_000_000_000
    refused(file.write(tmp_path / "file.glb"), "reaches beyond its buffer view")
    file = File()
    instancing = {"attributes": {"TRANSLATION": file.array(np.zeros((1000, 3)))}}
    points = np.random.default_rng(0).normal(size=(3000, 3))
    primitive = {"attributes": {"POSITION": file.array(points)}}
    file.show(primitive, extensions={"EXT_mesh_gpu_instancing": instancing})
    with limits(triangles=999_999):
        refused(file.write(tmp_path / "file.glb"), "1000000 triangles", "--limit triangles=1000000")


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    body = b"IDAT" + zlib.compress(b"\0" * 10)
    return data + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def test_pictures_are_bounded_by_their_headers_one_by_one_and_together(tmp_path: Path) -> None:
    def made(*pictures: bytes) -> Path:
        file = File()
        for k, data in enumerate(pictures):
            material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": file.texture(data)}}}
            file.show(file.quad(material, corners=CORNERS + 3 * k))
        return file.write(tmp_path / "file.glb")

    refused(made(header_only_png(60_000, 60_000)), "3600000000 pixels", "--limit pixels=")
    small = png(four(64))
    with limits(pixels=3 * 64 * 64):
        assert read_gltf(made(small, small, small)).mesh.texture is not None
        refused(made(small, small, small, small), f"{4 * 64 * 64} pixels", "--limit pixels=")


def apart(tmp_path: Path, image: str | None = None, buffer: str = "side.bin") -> Path:
    """A .gltf with a buffer and a picture of its own beside it."""
    file = sound()
    folder = tmp_path / "folder"
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    if image is not None:
        file.document["images"][0] = {"uri": image}
    file.document["buffers"] = [{"byteLength": len(file.data), "uri": buffer}]
    (folder / "side.bin").write_bytes(bytes(file.data))
    (folder / "maps" / "a picture.png").write_bytes(png(four()))
    (tmp_path / "outside.png").write_bytes(png(four()))
    path = folder / "file.gltf"
    path.write_text(json.dumps(file.document))
    return path


def test_files_beside_it_are_found_by_their_encoded_names(tmp_path: Path) -> None:
    for image in ("maps/a%20picture.png", "maps/a picture.png", "./maps/../maps/a%20picture.png"):
        assert read_gltf(apart(tmp_path, image)).mesh.texture is not None


@pytest.mark.parametrize(
    "uri", ["../outside.png", "/etc/hostname", "file:///etc/hostname", "https://example.org/a.png",
            "maps/../../outside.png", "%2e%2e/outside.png", "C:\\a.png", "a\0b.png"],
)  # fmt: skip
def test_nothing_outside_the_folder_is_read(uri: str, tmp_path: Path) -> None:
    line = refused(apart(tmp_path, uri))
    assert "outside its folder" in line or "missing" in line
    refused(apart(tmp_path, buffer=uri))


def test_a_link_out_of_the_folder_is_outside(tmp_path: Path) -> None:
    path = apart(tmp_path, "link.png")
    (path.parent / "link.png").symlink_to(tmp_path / "outside.png")
    refused(path, "outside its folder")


def test_missing_and_damaged_companions_are_errors(tmp_path: Path) -> None:
    refused(apart(tmp_path, "maps/gone.png"), "image 0", "gone.png", "is missing")
    refused(apart(tmp_path, buffer="gone.bin"), "buffer 0", "gone.bin", "is missing")
    refused(apart(tmp_path, "file.gltf"), "image 0 is no sound picture")
    path = apart(tmp_path, "maps/a%20picture.png")
    whole = (path.parent / "maps" / "a picture.png").read_bytes()
    (path.parent / "maps" / "a picture.png").write_bytes(whole[: len(whole) // 2])
    refused(path, "image 0 is damaged")
    (path.parent / "side.bin").write_bytes(b"12")
    refused(path, "cut off")
    refused(apart(tmp_path, "data:image/png;base64,!!!"), "damaged base64")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["meshes"][0]["primitives"][0].update(material=7), ["material 7, there are 1"]),
        (lambda d: d["meshes"][0]["primitives"][0].update(indices=70), ["accessor 70"]),
        (lambda d: d["nodes"][0].update(mesh=3), ["node 0 names mesh 3"]),
        (lambda d: d["nodes"][0].update(skin=0), ["skin 0, there are 0"]),
        (lambda d: d["nodes"][0].update(children=[9]), ["node 0 names node 9"]),
        (lambda d: d.update(scene=4), ["scene 4, there are 1"]),
        (lambda d: d["accessors"][0].update(bufferView=44), ["bufferView 44"]),
        (lambda d: d["bufferViews"][0].update(byteLength=10**6), ["reaches beyond its buffer"]),
        (lambda d: d["accessors"][0].update(type="VEC2"), ["2 components, not 3"]),
        (lambda d: d["accessors"][1].update(componentType=5126, count=3), ["not of unsigned integers"]),
        (lambda d: d["textures"][0].update(source=5), ["image 5"]),
        (lambda d: d["meshes"][0]["primitives"][0]["attributes"].update(TEXCOORD_0=1), ["2 of TEXCOORD_0"]),
        (lambda d: d["accessors"][0].update(count=3), ["corner is vertex 3 of 3"]),
    ],
)
def test_wrong_references_name_their_place(change: Any, words: list[str], tmp_path: Path) -> None:
    file = sound()
    file.document["buffers"] = [{"byteLength": len(file.data)}]
    if "2 of TEXCOORD_0" in words:
        file.document["accessors"][1] |= {"componentType": 5123, "type": "VEC2", "count": 2}
        file.document["meshes"][0]["primitives"][0]["indices"] = file.array(np.arange(3), "u2")
    change(file.document)
    refused(file.write(tmp_path / "file.glb"), *words)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    file = File()
    corners = CORNERS.copy()
    corners[2, 1] = np.nan
    file.show({"attributes": {"POSITION": file.array(corners)}, "mode": 6})
    for entry in file.document["accessors"]:
        entry.pop("min", None), entry.pop("max", None)
    refused(file.write(tmp_path / "file.glb"), "1 of 4 vertices are not finite")
    file = sound()
    text = json.dumps(file.document).replace('"mesh": 0', '"mesh": 0, "scale": [1e999, 1, 1]')
    (tmp_path / "file.glb").write_bytes(container(text.encode(), bytes(file.data)))
    refused(tmp_path / "file.glb", "scale")
