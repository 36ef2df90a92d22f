"""G-buffers against the renderer, and the batches coloured from them."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from threedistill.cameras import camera_vector, view_name
from threedistill.errors import UsageError
from threedistill.render.mesh import render_mesh
from threedistill.toybox.coloured_world import ColouredWorld
from threedistill.toybox.dataset import DrawSettings, random_cameras, scene_from
from threedistill.toybox.gbuffers import BufferSettings, colour, draw_buffers, recoloured
from threedistill.toybox.grammar import parse
from threedistill.toybox.scenes import is_held_out
from threedistill.toybox.world import build_parts, palette

SETTINGS = BufferSettings(shards=2, scenes=12, palettes=6, size=64, seed=7)
EVERYTHING = DrawSettings(camera_told=1, background_told=1, text_null=0, view_words=0, degraded=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = ColouredWorld(tmp_path_factory.mktemp("world"), SETTINGS)
    world.need(2)
    return world


@pytest.mark.parametrize(
    "prompt",
    [
        "a shiny red duck", "a tall blue car with white wheels", "a black robot with yellow spots",
        "two green apples", "a shiny blue ball on a matt white table", "an owl wearing a red hat",
    ],
)  # fmt: skip
def test_a_coloured_buffer_is_what_the_renderer_draws(prompt):
    scene = parse(prompt).scene
    built = build_parts(scene, random.Random(5))
    views = random_cameras(random.Random(1), 2, 64)
    found = draw_buffers(built.mesh, built.face_slot, views)
    assert (found.gloss is not None) == ("shiny" in prompt)
    for told in (scene, recoloured(scene, random.Random(2), 0.0)):
        colors, _ = palette(built.slots, told, random.Random(3))
        mesh = replace(built.mesh, colors=torch.from_numpy(colors)[built.slot.long()])
        expected = render_mesh(mesh, views, shading="lambertian", background=torch.zeros(3))
        for k in range(2):
            gloss = None if found.gloss is None else found.gloss[k]
            picture = colour(found.group[k], found.light[k], gloss, colors, 64)
            # Half a code of light or gloss: at most half a step of eight bits, as a stored picture has.
            assert np.abs(picture[..., :3] - expected.rgb[k].numpy()).max() < 0.6 / 255
            np.testing.assert_array_equal(picture[..., 3:], expected.opacity[k].numpy())
    clay = render_mesh(built.mesh, views, shading="normal", background=torch.zeros(3))
    normals = found.normal.astype(np.float32) / 255
    assert np.abs(normals[..., :3] - clay.rgb.numpy()).max() < 0.6 / 255


def test_a_scene_in_other_colours_says_so_and_is_never_held_out():
    rng = random.Random(0)
    scene = parse("a striped owl wearing a hat").scene
    seen = set()
    for _ in range(100):
        other = recoloured(scene, rng, 0.5)
        one = other.objects[0]
        assert one.accessory and one.color
        assert (one.kind, one.pattern, one.accessory[0]) == ("owl", "striped", "hat")
        assert len({one.color, one.pattern_color, one.accessory[1]}) == 3
        seen.add(one.color)
    assert len(seen) == 10
    twins = recoloured(parse("two red ducks").scene, rng, 0.5)
    assert twins.twins
    plain = [recoloured(parse("a duck").scene, rng, 0.5) for _ in range(200)]
    assert 60 < sum(s.objects[0].color is None for s in plain) < 140
    assert not any(is_held_out(s) for s in plain)


def test_a_cache_is_a_function_of_its_settings_and_may_grow(world, tmp_path):
    again = ColouredWorld(tmp_path, replace(SETTINGS, shards=1))
    again.need(1)
    for row in (0, 17, 59):
        np.testing.assert_array_equal(again.rgba(row, 3, 64), world.rgba(row, 3, 64))
    ColouredWorld(tmp_path, replace(SETTINGS, shards=5))
    with pytest.raises(UsageError, match="other settings"):
        ColouredWorld(tmp_path, replace(SETTINGS, seed=8))
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"settings.json", "shard-000.json", "facts-000.npz"} | {
        f"{n}-000.npy" for n in ("group", "light", "gloss", "normal")
    }


def test_what_is_told_is_what_is_seen(world):
    batch = world.batch(48, EVERYTHING, 0, 4, 2)
    assert batch.images.shape == (48, 3, 64, 64) and batch.images.abs().max() <= 1.0001
    rgb = batch.rgba[:, :3] + (1 - batch.rgba[:, 3:]) * batch.background[:, :3, None, None]
    torch.testing.assert_close(2 * rgb - 1, batch.images, rtol=0, atol=1e-6)
    assert (batch.background[:, 3] == 1).all() and (batch.cameras[:, -1] == 1).all()
    for text in batch.captions:
        assert not is_held_out(parse(text.replace("clay render of ", "").replace("clay model of ", "")).scene)
    hidden = world.batch(48, replace(EVERYTHING, camera_told=0, background_told=0, text_null=1), 0, 4, 2)
    assert not hidden.cameras.any() and not hidden.background.any() and not any(hidden.captions)


def test_the_colour_word_is_the_colour_of_the_picture(world):
    compared = set()
    for row in range(2 * 60):
        for k in range(SETTINGS.palettes):
            record = world.record(row, k)
            scene, name = scene_from(record), record["colors"][0]
            if len(scene.objects) > 1 or scene.objects[0].pattern or name not in ("red", "green", "blue"):
                continue
            picture = world.rgba(row, k, 64).reshape(-1, 4)
            shown = picture[picture[:, 3] == 1, :3]
            most = np.bincount(shown.argmax(1)[np.ptp(shown, axis=1) > 0.2], minlength=3)
            if scene.objects[0].kind in ("ball", "cube", "apple", "car", "sofa", "vase", "elephant", "fish"):
                assert most.argmax() == ("red", "green", "blue").index(name), (row, k)
                compared.add(name)
    assert len(compared) >= 2


def test_captions_without_a_camera_and_view_lean_to_the_front(world, monkeypatch):
    taken, original = [], world.rgba

    def watched(row, palette_, pixels):
        taken.append(row)
        return original(row, palette_, pixels)

    monkeypatch.setattr(world, "rgba", watched)

    def fronts(draw):
        taken.clear()
        for step in range(20):
            world.batch(16, draw, 3, step, 2)
        angles = [world._shards[row // 60].cameras[row % 60, :2] for row in taken]
        return np.mean([view_name(float(a), float(e)) == "front" for a, e in angles])

    assert abs(fronts(replace(EVERYTHING, camera_told=0)) - 0.75) < 0.08
    assert fronts(EVERYTHING) < 0.45


def test_reference_views_show_the_same_object_from_elsewhere(world):
    batch = world.batch(12, EVERYTHING, 1, 2, 2, references=3, control=True)
    assert batch.references.shape == (12, 3, 3, 64, 64) and batch.reference_cameras.shape == (12, 3, 14)
    told = batch.reference_cameras[..., -1]
    assert set(told.unique().tolist()) == {0.0, 1.0}
    cameras = torch.from_numpy(np.concatenate([s.cameras for s in world._shards]))
    vectors = camera_vector(*cameras.unbind(1))
    for k in range(12):
        own = int((vectors - batch.cameras[k]).abs().sum(1).argmin())
        scene = own // SETTINGS.views
        for r in range(3):
            if told[k, r]:
                other = int((vectors - batch.reference_cameras[k, r]).abs().sum(1).argmin())
                assert other // SETTINGS.views == scene and other != own
    coverage = batch.control[:, 3]
    torch.testing.assert_close(coverage, batch.rgba[:, 3], rtol=0, atol=1 / 255)


def test_batches_repeat_and_can_be_shared(world):
    whole = world.batch(9, DrawSettings(), 3, 5, 2, references=2)
    part = world.batch(9, DrawSettings(), 3, 5, 2, references=2, rows=slice(1, None, 3))
    assert part.captions == whole.captions[1::3]
    for name in ("images", "rgba", "cameras", "background", "references", "reference_cameras"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[1::3])
    assert not torch.equal(whole.images, world.batch(9, DrawSettings(), 3, 6, 2).images)
    half = world.batch(9, replace(EVERYTHING, white=1), 3, 5, 2, pixels=32)
    full = world.batch(9, replace(EVERYTHING, white=1), 3, 5, 2)
    shrunk = torch.nn.functional.avg_pool2d(full.images, 2)
    assert half.images.shape[-1] == 32 and (half.images - shrunk).abs().mean() < 0.02


def test_a_missing_shard_is_waited_for_then_drawn(world, tmp_path):
    slow = ColouredWorld(tmp_path, replace(SETTINGS, scenes=2), patience=0.6)
    slow.need(1)  # nobody else draws
    assert json.loads((tmp_path / "shard-000.json").read_text())[0][0]["objects"]
