"""The prior's network and its training: layout on disk, resuming, conditioning."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from threedistill.cameras import camera_vector, camera_vectors
from threedistill.errors import UsageError
from threedistill.toybox.conditioning import fold, unfold
from threedistill.toybox.dataset import DrawSettings, RenderedWorld, WorldSettings
from threedistill.toybox.grammar import words
from threedistill.toybox.lexicon import COLORS, KINDS
from threedistill.toybox.model import ModelSettings, ToyboxPipeline, camera
from threedistill.toybox.networks import HARMONICS, harmonics, over_background
from threedistill.toybox.tokenizer import MAX_WORDS, build_tokenizer
from threedistill.toybox.train_prior import Trainer, TrainSettings, export_checkpoint, spread, train
from threedistill.toybox.train_sketch import SketchSettings, sketch_loss, train_sketch

TINY = ModelSettings(channels=(32, 32, 32), heads=2, text_width=32, text_layers=1)
WORLD = WorldSettings(images=40)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    RenderedWorld(folder, WORLD)
    return str(folder)


def settings(out, cache, images, sketch=0, processes=1):
    return TrainSettings(
        out=str(out), cache=cache, images=images, batch=4, warmup=2, log_every=2, sheet_every=0, save_every=3,
        model=TINY, world=WORLD, sketch=SketchSettings(images=sketch, batch=8, save_every=2), processes=processes,
    )  # fmt: skip


def test_resuming_repeats_an_uninterrupted_run(tmp_path, cache):
    whole = Trainer(settings(tmp_path / "a", cache, 64), RenderedWorld(cache, WORLD))
    losses = [whole.advance()[0] for _ in range(6)]
    first = Trainer(settings(tmp_path / "b", cache, 64), RenderedWorld(cache, WORLD))
    assert [first.advance()[0] for _ in range(3)] == losses[:3]
    first.save(tmp_path / "b")
    torch.manual_seed(99)
    second = Trainer(settings(tmp_path / "b", cache, 64), RenderedWorld(cache, WORLD))
    assert second.restore(tmp_path / "b") and second.step == 3
    assert [second.advance()[0] for _ in range(3)] == losses[3:]
    for a, b in zip(whole.weights.average.values(), second.weights.average.values()):
        assert torch.equal(a, b)


def test_processes_share_a_batch_without_changing_the_run(tmp_path, cache):
    train(settings(tmp_path / "one", cache, 12))
    train(settings(tmp_path / "two", cache, 12, processes=2))
    one, two = (load_file(tmp_path / n / "last.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        if key.startswith("weights/"):
            torch.testing.assert_close(
                one[key], two[key], rtol=0, atol=2e-4, msg=key
            )  # measured 3e-5: Adam's first steps


def test_the_sketch_learns_the_mean_picture_and_resumes(tmp_path, cache):
    world, draw = (
        RenderedWorld(cache, WORLD),
        DrawSettings(camera_told=1, text_null=0, view_words=0, degraded=0),
    )

    def run(folder, images):
        torch.manual_seed(0)
        pipeline = ToyboxPipeline.create(TINY)
        folder.mkdir(exist_ok=True)
        train_sketch(pipeline, world, SketchSettings(images=images, batch=32, save_every=10), draw, 0, folder)
        return pipeline

    fresh, trained = run(tmp_path / "none", 0), run(tmp_path / "whole", 3200)
    with torch.no_grad():
        before, after = (float(sketch_loss(p, world, draw, 64, 1, 0)) for p in (fresh, trained))
    pictures = world.batch(64, draw, 1, 0).rgba
    variance = float((pictures - pictures.mean(0)).square().mean())
    assert before > variance and after < 0.65 * variance  # 40 pictures: words and camera say which
    state = load_file(tmp_path / "whole" / "sketch.safetensors")
    assert state["weights/words.weight"].shape == (1024, 32)

    torch.manual_seed(0)
    pipeline = ToyboxPipeline.create(TINY)
    (tmp_path / "half").mkdir()
    plan = SketchSettings(images=640, batch=32, save_every=10)
    train_sketch(pipeline, world, plan, draw, 0, tmp_path / "half")
    torch.manual_seed(0)
    again = ToyboxPipeline.create(TINY)
    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_sketch(again, _Stopping(world, 13), plan, draw, 0, tmp_path / "cut")
    train_sketch(again, world, plan, draw, 0, tmp_path / "cut")
    for a, b in zip(pipeline.sketch.parameters(), again.sketch.parameters()):
        assert torch.equal(a, b)


class _Stopping:
    """A world that is interrupted at a step."""

    def __init__(self, world, step):
        self.world, self.step = world, step

    def batch(self, size, draw, seed, step):
        if step == self.step:
            raise KeyboardInterrupt
        return self.world.batch(size, draw, seed, step)


def test_the_sketch_lies_over_the_told_background():
    rgba = torch.rand(2, 4, 64, 64)
    shown = over_background(fold(rgba), torch.tensor([[1.0, 0.5, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    picture = unfold(shown[:, :48])
    expected = rgba[0, :3, 5, 9] + (1 - rgba[0, 3, 5, 9]) * torch.tensor([1.0, 0.5, 0.0])
    torch.testing.assert_close(picture[0, :, 5, 9], 2 * expected - 1)
    torch.testing.assert_close(picture[1, :, 7, 3], 2 * rgba[1, :3, 7, 3] - 1)
    torch.testing.assert_close(unfold(shown[:, 48:])[0, 0, 5, 9], 2 * rgba[0, 3, 5, 9] - 1)


def test_a_run_is_not_continued_under_other_settings(tmp_path, cache):
    world = RenderedWorld(cache, WORLD)
    Trainer(settings(tmp_path, cache, 64), world).save(tmp_path)
    with pytest.raises(UsageError, match="images=64: continue with the same settings"):
        Trainer(settings(tmp_path, cache, 128), world).restore(tmp_path)


def test_a_run_leaves_a_loadable_pipeline_and_a_log(tmp_path, cache):
    folder = train(settings(tmp_path / "run", cache, 16, sketch=16))
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "ToyboxPipeline" and index["unet"][1] == "ToyboxUNet"
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 3
    assert export_checkpoint(tmp_path / "run", tmp_path / "again") == 4
    for part in (
        "unet/diffusion_pytorch_model",
        "text_encoder/model",
        "camera_tokens/diffusion_pytorch_model",
        "sketch/diffusion_pytorch_model",
    ):
        one, two = (load_file(f / f"{part}.safetensors") for f in (folder, tmp_path / "again"))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    trained = load_file(tmp_path / "run" / "sketch" / "diffusion_pytorch_model.safetensors")
    assert all(
        torch.equal(trained[k].half(), one[k]) for k in one
    )  # the second phase keeps the first's sketch
    images = ToyboxPipeline.load(folder)(["a red duck"], camera([0.0]), num_inference_steps=2)
    assert images.shape == (1, 64, 64, 3) and torch.isfinite(images).all()


def test_a_run_begins_with_the_weights_of_another_run_or_of_a_prior(tmp_path, cache):
    prior = train(settings(tmp_path / "first", cache, 8, sketch=8))
    train(settings(tmp_path / "run", cache, 0), start_from=tmp_path / "first")
    train(settings(tmp_path / "prior", cache, 0), start_from=prior)
    train(settings(tmp_path / "drawn", cache, 0, sketch=16), start_from=prior)
    first, of_run, of_prior, drawn = (
        {
            part: load_file(tmp_path / run / "prior" / part / "diffusion_pytorch_model.safetensors")
            for part in ("unet", "sketch")
        }
        for run in ("first", "run", "prior", "drawn")
    )
    for part, tensors in first.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, of_run[part][key]) and torch.equal(tensor, of_prior[part][key])
    assert all(torch.equal(tensor, drawn["unet"][key]) for key, tensor in first["unet"].items())
    # The sketch went on from there: elsewhere, but no further than two small steps of AdamW reach.
    moved = [float((drawn["sketch"][key] - tensor).abs().max()) for key, tensor in first["sketch"].items()]
    assert max(moved) > 0 and max(moved) < 1e-3


def test_weights_to_begin_with_must_be_there_and_fit(tmp_path, cache):
    with pytest.raises(UsageError, match="holds neither a training run"):
        train(settings(tmp_path / "run", cache, 0), start_from=tmp_path)
    narrow = ToyboxPipeline.create(ModelSettings(channels=(32, 32, 32)))
    narrow.save(tmp_path / "narrow")
    with pytest.raises(UsageError, match="another architecture"):
        train(settings(tmp_path / "run", cache, 0), start_from=tmp_path / "narrow")
    other = replace(settings(tmp_path / "other", cache, 4), model=ModelSettings(channels=(32, 32)))
    train(other)
    with pytest.raises(UsageError, match="another architecture"):
        train(settings(tmp_path / "run", cache, 0), start_from=tmp_path / "other")


def test_harmonics_go_on_where_the_camera_vector_ends():
    azimuth, elevation = torch.tensor([0.3, -2.0]), torch.tensor([0.2, 0.9])
    told = camera_vector(azimuth, elevation, torch.tensor([2.8, 3.0]), torch.tensor([0.75, 0.8]))
    found = harmonics(told)
    assert found.shape == (2, HARMONICS) and torch.equal(found[:, :14], told)
    for k in range(5, 9):
        torch.testing.assert_close(found[:, 14 + k - 5], torch.sin(k * azimuth), atol=1e-5, rtol=0)
        torch.testing.assert_close(found[:, 18 + k - 5], torch.cos(k * azimuth), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found[:, -1], torch.cos(8 * azimuth) * torch.cos(2 * elevation), atol=1e-5, rtol=0
    )
    assert (harmonics(torch.zeros(1, 14)) == 0).all()


def test_the_shipped_sketch_knows_which_colour_belongs_to_which_thing():
    pipeline = ToyboxPipeline.load()
    captions = ["a red apple on a purple table", "a purple apple on a red table"]
    with torch.no_grad():
        picture = pipeline.sketch(pipeline.read(captions)["told"], camera_vectors(camera([30.0, 30.0]), 2))
    top, bottom = (picture[:, :3, rows, 20:44].mean((2, 3)) for rows in (slice(20, 28), slice(40, 48)))
    red, _, blue = 0, 1, 2
    assert top[0, red] > 2 * top[0, blue] and top[1, blue] > top[1, red]
    assert bottom[0, blue] > bottom[0, red] and bottom[1, red] > 2 * bottom[1, blue]


def test_saved_and_loaded_pipelines_agree(tmp_path):
    torch.manual_seed(0)
    pipeline = ToyboxPipeline.create(TINY)
    before = pipeline.unet.conv_in.weight.clone()
    pipeline.save(tmp_path, dtype=torch.float32)
    assert torch.equal(before, pipeline.unet.conv_in.weight)
    loaded = ToyboxPipeline.load(tmp_path)
    for p in (pipeline.unet, pipeline.text_encoder, pipeline.camera_tokens, pipeline.sketch):
        p.eval()
    arguments = (["a red duck", "a blue car, side view"], camera([0.0, 90.0]), torch.ones(2, 3))
    one, two = (
        p(*arguments, num_inference_steps=3, generator=torch.Generator().manual_seed(1))
        for p in (pipeline, loaded)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    half = tmp_path / "half"
    pipeline.save(half)
    assert torch.equal(before, pipeline.unet.conv_in.weight)
    three = ToyboxPipeline.load(half)(
        *arguments, num_inference_steps=3, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(one, three, rtol=0, atol=2e-2)


def test_conditioning_reaches_the_output(tmp_path):
    torch.manual_seed(0)
    pipeline = ToyboxPipeline.create(TINY)
    noise = torch.randn(1, 48, 16, 16)

    def sample(text="a red duck", cameras=None, background=None):
        return pipeline([text], cameras, background, num_inference_steps=2, latents=noise)

    base = sample()
    assert torch.equal(base, sample())
    for other in (sample("a blue car"), sample(cameras=camera([90.0])), sample(background=torch.zeros(1, 3))):
        assert not torch.equal(base, other)


def test_words_stay_apart_while_the_unet_learns(tmp_path, cache):
    trainer = Trainer(settings(tmp_path, cache, 64), RenderedWorld(cache, WORLD))
    before = [p.clone() for p in trainer.pipeline.text_encoder.parameters()]
    convolution = trainer.pipeline.unet.conv_out.weight.clone()
    for _ in range(2):
        trainer.advance()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.pipeline.text_encoder.parameters()))
    assert not torch.equal(convolution, trainer.pipeline.unet.conv_out.weight)
    things = [word for word in words() if word in (*KINDS, *COLORS)]
    with torch.no_grad():
        hidden = trainer.pipeline.encode_text([f"a {word}" for word in things])[:, 2]
    distance = torch.cdist(hidden, hidden) / hidden.shape[-1] ** 0.5  # hidden states have unit variance
    distance.fill_diagonal_(9)
    assert distance.min() > 0.3


def test_times_follow_their_bands():
    u = (torch.arange(1000) + 0.5) / 1000
    t = spread(u, ((0.25, 0.99, 1.0), (0.35, 0.93, 0.99), (0.4, 0.0, 0.93)))
    for share, low, high in ((0.25, 0.99, 1.0), (0.35, 0.93, 0.99), (0.4, 0.0, 0.93)):
        inside = t[(t >= low) & (t < high)]
        assert abs(len(inside) / 1000 - share) < 0.002
        assert abs(float(inside.mean()) - (low + high) / 2) < 0.01 * (high - low)


def test_tokenizer_knows_every_word_of_the_grammar():
    tokenizer = build_tokenizer()
    for word in words():
        ids = tokenizer(word).input_ids
        assert len(ids) == 3 and tokenizer.unk_token_id not in ids, word
    assert tokenizer("A Red duck, front view!").input_ids == tokenizer("a red duck front view").input_ids
    assert tokenizer("dragon").input_ids[1] == tokenizer.unk_token_id
    padded = tokenizer("a", padding="max_length", max_length=MAX_WORDS).input_ids
    assert len(padded) == MAX_WORDS and padded[-1] == tokenizer.pad_token_id


def test_camera_vectors_by_hand():
    v = camera_vectors(camera([90.0], elevation=30.0, distance=2.0, fov_y=60.0), 1)[0]
    expected = [1, 0, 0, -1, -1, 0, 0, 1, 0.5, math.cos(math.pi / 6), math.sin(math.pi / 3), 0.5]
    expected += [(2 * math.tan(math.pi / 6) - 1.17) / 0.2, 1]
    torch.testing.assert_close(v, torch.tensor(expected), atol=1e-6, rtol=0)
    assert not camera_vectors(None, 2).any()
    full = camera_vector(*(torch.tensor([x]) for x in (0.3 + 2 * math.pi, 0.2, 2.9, 0.8)))
    same = camera_vector(*(torch.tensor([x]) for x in (0.3, 0.2, 2.9, 0.8)))
    torch.testing.assert_close(full, same, atol=1e-5, rtol=0)


def test_folding_is_exactly_invertible_and_local():
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(unfold(fold(x)), x)
    dot = torch.zeros(1, 3, 64, 64)
    dot[0, 1, 9, 22] = 1
    channel, row, column = fold(dot)[0].nonzero()[0].tolist()
    assert (row, column) == (9 // 4, 22 // 4) and channel == 1 * 16 + (9 % 4) * 4 + 22 % 4
