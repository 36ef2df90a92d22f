"""The 128-pixel prior: its networks, its roads, its layout on disk, and its training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from threedistill.cameras import camera_vectors
from threedistill.conditions import Conditions, ReferenceImage
from threedistill.errors import UsageError
from threedistill.guidance.cfg import combine
from threedistill.prediction import Prediction
from threedistill.priors.noise_path import DiscretePath
from threedistill.priors.sampling import ancestral
from threedistill.priors.schedulers import scheduler_path
from threedistill.toybox.coloured_world import ColouredWorld
from threedistill.toybox.gbuffers import BufferSettings
from threedistill.toybox.grammar import caption
from threedistill.toybox.model import ModelSettings, ToyboxPipeline, camera
from threedistill.toybox.priors.embedded import ToyboxPrior
from threedistill.toybox.scenes import random_scene
from threedistill.toybox.teacher import (
    MAX_WORDS,
    TeacherSettings,
    TransformerToyboxPipeline,
    build_scheduler,
)
from threedistill.toybox.teacher_trainer import TeacherTraining, Trainer
from threedistill.toybox.train_teacher import export_checkpoint, train
from threedistill.toybox.trunk import ToyboxTransformer, _attend, _gather, _scatter, shifted_cosine

TINY = TeacherSettings(
    size=64, fine=16, width=32, middle_width=64, depth=1, sketch_width=64, splats=24, sketch_slots=4,
    text_width=32, text_layers=1, view_layers=1,
)  # fmt: skip
WORLD = BufferSettings(shards=1, scenes=8, palettes=4, size=64)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    ColouredWorld(folder, WORLD).draw()
    return str(folder)


def settings(out, cache, images=64, **more):
    base = TeacherTraining(
        out=str(out), cache=cache, images=images, batch=4, sketch_batch=4, head_start=2, warmup=2, first_shards=1,
        log_every=2, save_every=3, test_every=4, sheet_every=0, precision="float32", model=TINY, world=WORLD,
    )  # fmt: skip
    return replace(base, **more)


def pipeline(seed=0):
    torch.manual_seed(seed)
    found = TransformerToyboxPipeline.create(TINY)
    for network in found.networks:
        network.eval()
    return found


@torch.no_grad()
def awake(found):
    """The same with every zero-initialised layer given weights, so that what enters there is seen."""
    generator = torch.Generator().manual_seed(1)
    for parameter in found.transformer.parameters():
        if not parameter.any() or parameter.std() < 2e-3:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return found


def test_the_path_is_the_cosine_path_of_a_quarter_of_the_pixels():
    plain = DiscretePath.from_betas(schedule="squaredcos_cap_v2", steps=1000)
    for size, factor in ((64, 1.0), (128, 4.0)):
        path = DiscretePath.from_scheduler_config(build_scheduler(size).config)
        for index in (20.0, 500.0, 900.0):
            one, other = (p.at(torch.tensor([index], dtype=torch.float64)) for p in (path, plain))
            snr, before = ((level.alpha / level.sigma) ** 2 for level in (one, other))
            torch.testing.assert_close(snr * factor, before, rtol=1e-4, atol=0)
    network = ToyboxTransformer(size=32, fine=8, width=16, middle_width=16, depth=1, head=8, told=16)
    torch.testing.assert_close(network.log_snr, shifted_cosine(0.5).float())


def test_roads_open_where_they_should():
    network = ToyboxTransformer(size=32, fine=8, width=16, middle_width=16, depth=1, head=8, told=16)
    t = torch.tensor([1.0, 30.0, 300.0, 999.0])
    noisy, clean, snr = (x.flatten() for x in network.roads(t))
    torch.testing.assert_close(snr, shifted_cosine(0.5)[t.long()].exp().float())
    k = 0.07**2 / (0.07**2 + 1 / snr)
    torch.testing.assert_close(noisy, k / (snr / (1 + snr)).sqrt(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(clean, 1 - k)
    assert clean[0] < 0.1 and clean[2] > 0.95
    assert noisy[0] == pytest.approx(1, abs=0.15) and noisy[3] < 1e-4


def test_a_fresh_network_answers_with_noisy_picture_and_sketch():
    found = pipeline()
    sketch = 2 * torch.rand(2, 16, 16, 16) - 1
    x0 = 2 * torch.rand(2, 48, 16, 16) - 1
    told = {
        "encoder_hidden_states": torch.randn(2, MAX_WORDS, 32),
        "class_labels": torch.randn(2, 64 + 18),
        "sketch": sketch,
    }
    with torch.no_grad():
        clean = found.transformer(x0, torch.tensor([0.0, 0.0]), **told).sample
        blind = found.transformer(torch.randn(2, 48, 16, 16), 999, **told).sample
    assert (clean - x0).abs().mean() < 0.1 * x0.abs().mean()
    drawn = torch.nn.functional.interpolate(
        torch.nn.functional.pixel_shuffle(sketch, 2)[:, :3], scale_factor=2, mode="bilinear"
    )
    assert (torch.nn.functional.pixel_shuffle(blind, 4) - drawn).abs().mean() < 0.02


def test_gathering_tokens_is_invertible_and_local():
    x = torch.randn(2, 64, 3)
    gathered = _gather(x, 8)
    assert gathered.shape == (2, 16, 12)
    torch.testing.assert_close(_scatter(gathered, 8), x)
    dot = torch.zeros(1, 64, 1)
    dot[0, 3 * 8 + 5] = 1
    token = _gather(dot, 8)[0].nonzero()[0].tolist()
    assert token == [1 * 4 + 2, 1 * 2 + 1]


def test_attention_is_the_same_with_and_without_gradients():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (10, 7, 7))
    with torch.no_grad():
        fused = _attend(q, k, v)
    torch.testing.assert_close(_attend(q, k, v), fused)


def test_everything_that_is_told_reaches_the_output():
    found = awake(pipeline())
    noise = torch.randn(1, 48, 16, 16)
    views, seen = torch.rand(1, 2, 3, 64, 64), torch.randn(1, 2, 14)
    control = torch.rand(1, 4, 64, 64)

    def sample(text="a red duck", cameras=None, background=None, **more):
        rng = torch.Generator().manual_seed(0)
        return found([text], cameras, background, num_inference_steps=2, latents=noise, generator=rng, **more)

    base = sample()
    assert base.shape == (1, 64, 64, 3) and torch.equal(base, sample())
    others = [
        sample("a blue car"), sample(cameras=camera([90.0])), sample(background=torch.zeros(1, 3)),
        sample(views=views), sample(views=views.flip(1)), sample(views=views, view_cameras=seen),
        sample(control=control),
    ]  # fmt: skip
    for k, other in enumerate(others):
        assert not torch.equal(base, other), k
        assert all(not torch.equal(other, another) for another in others[:k]), k


def test_what_is_not_shown_costs_nothing_and_changes_nothing():
    found = pipeline()  # fresh: the roads of views and control are closed
    inputs = found.condition(
        **found.read(["a red duck"]), camera=torch.zeros(1, 14), background=torch.zeros(1, 4)
    )
    x, t = torch.randn(1, 48, 16, 16), torch.tensor([400.0])
    calls = []
    for module in found.transformer.modules():
        if module is found.transformer.control_in or module in [b.views for b in found.transformer.middle]:
            module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        base = found.transformer(x, t, **inputs).sample
        assert not calls
        shown = found.transformer(
            x, t, **inputs, views=found.show(torch.rand(1, 1, 3, 64, 64), torch.zeros(1, 1, 14)),
            control=torch.rand(1, 64, 16, 16),
        ).sample  # fmt: skip
    assert len(calls) == 2 and torch.equal(base, shown)


def test_its_sampling_is_ancestral_sampling_of_the_prior(tmp_path):
    found = awake(pipeline())
    found.save(tmp_path, dtype=torch.float32)
    cameras, background = camera([0.0, 90.0]), torch.tensor([[1.0, 1.0, 1.0], [0.2, 0.5, 0.1]])
    texts = ["a red duck", "a blue car"]
    theirs = found(
        texts, cameras, background, guidance_scale=2.0, num_inference_steps=3, stop=0.4,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip

    prior = ToyboxPrior(folder=str(tmp_path), dtype="float32")
    cond = prior.conditioning(Conditions(texts, cameras, background))
    null = prior.conditioning(Conditions(["", ""], cameras, background))

    def denoise(x_t, level):
        both = [prior.predict(x_t, level, c).value for c in (null, cond)]
        return Prediction(combine(*both, 2.0).clamp(-1, 1), prior.kind, x_t, level)

    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(2, *prior.space.shape, generator=rng)
    levels = [prior.path.at(torch.full((2,), float(t))) for t in (999, 699, 400)]
    ours = prior.space.decode(ancestral(denoise, noise, levels, rng))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_ancestral_sampling_of_a_gaussian_has_its_variance():
    """Data N(m, s^2) are denoised exactly; with many small steps the last answer is one of them, known to sigma."""
    path, _ = scheduler_path(build_scheduler(64).config)
    mean, std = 0.3, 0.2

    def denoise(x_t, level):
        alpha, sigma = level.scales(x_t)
        gain = std**2 * alpha / (alpha.square() * std**2 + sigma.square())
        return Prediction(mean + gain * (x_t - alpha * mean), "x0", x_t, level)

    rng = torch.Generator().manual_seed(0)
    levels = [path.at(torch.full((1,), t)) for t in torch.linspace(999, 1, 800)]
    found = ancestral(denoise, torch.randn(1, 1, 100, 100, generator=rng), levels, rng)
    assert found.mean() == pytest.approx(mean, abs=0.01) and found.std() == pytest.approx(std, rel=0.03)


def test_bfloat16_answers_are_those_of_float32_to_its_rounding(tmp_path):
    awake(pipeline()).save(tmp_path)
    exact, rounded = (ToyboxPrior(folder=str(tmp_path), dtype=d) for d in ("float32", "bfloat16"))
    assert {p.dtype for p in rounded.network.parameters()} == {torch.bfloat16}
    assert rounded.network.log_snr.dtype == torch.float32  # a rounded path is another path
    x_t = torch.randn(2, *exact.space.shape)
    level = exact.path.at_fraction(torch.tensor([0.3, 0.9]))
    told = Conditions(["a red duck", "a blue car"], camera([0.0, 90.0]), torch.ones(2, 3))
    one, two = (p.predict(x_t, level, p.conditioning(told)).value for p in (exact, rounded))
    assert one.dtype == two.dtype == torch.float32 and not torch.equal(one, two)
    assert (one - two).abs().max() < 0.05 * one.abs().max()


def test_saved_and_loaded_it_is_the_same_and_a_prior(tmp_path):
    found = awake(pipeline())
    found.save(tmp_path / "whole", dtype=torch.float32)
    loaded = ToyboxPipeline.load(tmp_path / "whole")
    assert isinstance(loaded, TransformerToyboxPipeline) and loaded.size == 64
    arguments = (["a red duck", "a blue car, side view"], camera([0.0, 90.0]), torch.ones(2, 3))
    one, two = (
        p(*arguments, num_inference_steps=3, generator=torch.Generator().manual_seed(1))
        for p in (found, loaded)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    found.save(tmp_path / "half")
    assert next(found.transformer.parameters()).dtype == torch.float32
    assert all(p.stat().st_size < 16 * 2**20 for p in (tmp_path / "half").rglob("*.safetensors"))

    prior = ToyboxPrior(folder=str(tmp_path / "whole"), dtype="float32")
    assert prior.space.shape == (48, 16, 16) and prior.kind == "x0"
    x = torch.randn(2, *prior.space.shape)
    level = prior.path.at_fraction(torch.tensor([0.3, 0.7]))
    texts, cameras = ["a red duck", "a blue car"], camera([0.0, 90.0])
    told = prior.conditioning(Conditions(texts, cameras, torch.ones(2, 3)))
    untold = prior.conditioning(Conditions(texts, None, torch.ones(2, 3)))
    direct = found.condition(**found.read(texts), camera=torch.zeros(2, 14), background=torch.ones(2, 4))
    for name, value in direct.items():
        # A splat ends at 1/255 of opacity: a last bit of what the words say may move a pixel over that edge.
        loose = 5e-3 if name == "sketch" else 1e-5
        torch.testing.assert_close(untold[name], value, rtol=1e-4, atol=loose)
    seen, blind = (prior.predict(x, level, c).value for c in (told, untold))
    with torch.no_grad():
        expected = found.transformer(x, level.index.float(), **untold).sample
    torch.testing.assert_close(blind, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(seen, blind)


def test_a_prior_is_shown_reference_views_and_normals(tmp_path):
    awake(pipeline()).save(tmp_path, dtype=torch.float32)
    prior = ToyboxPrior(folder=str(tmp_path), normals=True)
    assert {"image", "normal"} <= prior.wants and "normal" not in ToyboxPrior(folder=str(tmp_path)).wants
    rgba = torch.rand(96, 96, 4)
    images = (ReferenceImage(rgba, camera([30.0])), ReferenceImage(rgba.flip(1)))
    facts = Conditions(["a red duck"] * 2, camera([0.0, 90.0]), torch.ones(2, 3), images)
    told = prior.conditioning(facts)
    white = torch.nn.functional.interpolate(
        (rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]).permute(2, 0, 1)[None], (64, 64), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    pictures = torch.cat([2 * white - 1, 2 * white.flip(3) - 1])[None]
    cameras = torch.stack([camera_vectors(camera([30.0]), 1)[0], torch.zeros(14)])[None]
    expected = prior.pipeline.show(pictures, cameras)
    assert told["views"].shape == (2, 2 * 16, 32)
    torch.testing.assert_close(told["views"], expected.expand(2, -1, -1), rtol=1e-4, atol=1e-4)
    assert "views" not in prior.conditioning(facts.without("image"))

    normal = torch.zeros(2, 64, 64, 3)
    normal[:, 16:48, 16:48, 2] = 1
    seen = prior.conditioning(replace(facts, normal=normal, opacity=normal[..., 2:]))
    control = torch.nn.functional.pixel_shuffle(seen["control"], 4)
    torch.testing.assert_close(control[0, :, 20, 20], torch.tensor([0.5, 0.5, 1.0, 1.0]))
    assert not control[0, :, 3, 3].any()
    x, level = torch.randn(2, 48, 16, 16), prior.path.at_fraction(torch.tensor([0.5, 0.5]))
    answers = [
        prior.predict(x, level, c).value for c in (told, seen, prior.conditioning(facts.without("image")))
    ]
    assert not torch.allclose(answers[0], answers[1]) and not torch.allclose(answers[0], answers[2])
    ToyboxPipeline.create(ModelSettings(channels=(32, 32, 32))).save(tmp_path / "unet")
    with pytest.raises(UsageError, match="cannot be shown normals"):
        ToyboxPrior(folder=str(tmp_path / "unet"), normals=True)


def test_captions_fit_the_tokenizer():
    import random

    rng = random.Random(0)
    tokenizer = pipeline().tokenizer
    for _ in range(300):
        ids = tokenizer(caption(random_scene(rng, 0.7), "front", rng)).input_ids
        assert len(ids) <= MAX_WORDS and tokenizer.unk_token_id not in ids


def test_resuming_repeats_an_uninterrupted_run(tmp_path, cache):
    world = ColouredWorld(cache, WORLD)
    plan = settings(tmp_path, cache, references=0.5, control=0.5)
    assert any(plan.shown(step)[0] for step in range(6)) and any(plan.shown(step)[1] for step in range(6))
    whole = Trainer(plan, world)
    losses = [whole.advance() for _ in range(6)]
    assert "loss" not in losses[1] and "loss" in losses[2]
    first = Trainer(plan, world)
    for k in range(3):
        assert first.advance()["sketch"] == losses[k]["sketch"]
    first.save(tmp_path)
    torch.manual_seed(99)
    second = Trainer(plan, world)
    assert second.restore(tmp_path) and second.step == 3
    assert [second.advance()["loss"] for _ in range(3)] == [x["loss"] for x in losses[3:]]
    for name, average in whole.weights.average.items():
        assert torch.equal(average, second.weights.average[name]), name
    frozen = [p for n, p in whole.weights.now.items() if n.startswith("text_encoder")]
    assert frozen and not any(p.requires_grad for p in frozen)


def test_the_transformer_is_shown_the_averaged_sketch(tmp_path, cache):
    trainer = Trainer(settings(tmp_path, cache), ColouredWorld(cache, WORLD))
    for _ in range(3):
        trainer.advance()
    for name, parameter in trainer.shown_sketch.named_parameters():
        assert torch.equal(parameter, trainer.weights.average[f"sketch.{name}"])
    moved = [
        not torch.equal(p, trainer.weights.average[f"sketch.{n}"])
        for n, p in trainer.pipeline.sketch.named_parameters()
    ]
    assert all(moved)


def test_every_road_learns(tmp_path, cache):
    """Closed roads open: after steps in which views and normals are shown, their first weights have moved."""
    trainer = Trainer(
        settings(tmp_path, cache, references=1.0, control=1.0, head_start=0), ColouredWorld(cache, WORLD)
    )
    before = {n: p.detach().clone() for n, p in trainer.weights.now.items()}
    for _ in range(3):
        trainer.advance()
    still = [n for n, p in trainer.weights.now.items() if p.requires_grad and torch.equal(p, before[n])]
    assert not still


def test_the_usual_step_is_compiled_and_no_other(tmp_path, cache, monkeypatch):
    """Without views and control, while it learns; a graph for every number of views would be compiled anew."""
    asked = []

    def recorded(function, dynamic):
        return lambda name, *args, **told: asked.append((name, sorted(told))) or function(name, *args, **told)

    monkeypatch.setattr(torch, "compile", recorded)
    world = ColouredWorld(cache, WORLD)
    compiled = Trainer(
        settings(tmp_path, cache, references=0.3, control=0.3, head_start=0, compiled=True), world
    )
    eager = Trainer(compiled.settings, world)
    eager._compiled = eager._cast
    usual = 0
    for step in range(6):
        shown = compiled.settings.shown(step)
        usual += shown == (0, False)
        assert compiled.advance()["loss"] == eager.advance()["loss"]
        assert len(asked) == usual
    assert 0 < usual < 6 and {name for name, _ in asked} == {"transformer"}
    assert not {"views", "control"} & set(asked[0][1])
    compiled.test(world, 2)  # nothing is learnt there
    assert len(asked) == usual


def test_processes_share_a_batch_without_changing_the_run(tmp_path, cache):
    train(settings(tmp_path / "one", cache, 12))
    train(settings(tmp_path / "two", cache, 12, processes=2))
    one, two = (load_file(tmp_path / n / "last.safetensors") for n in ("one", "two"))
    for key in one:
        if key.startswith("weights/"):
            torch.testing.assert_close(one[key], two[key], rtol=0, atol=5e-4, msg=key)  # Adam's first steps
    rows = [(tmp_path / n / "log.csv").read_text().splitlines() for n in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 4 and rows[0][0].startswith("step,images,loss,x0_0-0.1")


def test_a_run_leaves_a_loadable_pipeline_and_goes_on_from_there(tmp_path, cache):
    folder = train(settings(tmp_path / "run", cache, 16))
    index = json.loads((folder / "model_index.json").read_text())
    assert index["transformer"][1] == "ToyboxTransformer" and index["sketch"][1] == "SplatSketch"
    tests = np.genfromtxt(tmp_path / "run" / "test.csv", delimiter=",", names=True)
    assert tests["step"].tolist() == [4, 6] and np.isfinite(tests["x0_at_05"]).all()
    assert export_checkpoint(tmp_path / "run", tmp_path / "again") == 6
    names = [p.relative_to(folder) for p in folder.rglob("*.safetensors")]
    assert len(names) == 4
    for name in names:
        one, two = load_file(folder / name), load_file(tmp_path / "again" / name)
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    images = ToyboxPipeline.load(folder)(["a red duck"], camera([0.0]), num_inference_steps=2)
    assert images.shape == (1, 64, 64, 3) and torch.isfinite(images).all()
    for start in (tmp_path / "run", folder):
        prior = train(settings(tmp_path / f"from-{start.name}", cache, 0, head_start=0), start)
        for name in names:
            one, two = load_file(folder / name), load_file(prior / name)
            assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_may_be_made_longer_until_its_rate_falls(tmp_path, cache):
    world = ColouredWorld(cache, WORLD)
    plan = settings(tmp_path, cache, 64)
    trainer = Trainer(plan, world)
    for _ in range(4):
        trainer.advance()
    trainer.save(tmp_path)
    assert Trainer(replace(plan, images=640), world).restore(tmp_path)
    with pytest.raises(UsageError, match=r"lr=0.001: continue with the same settings"):
        Trainer(replace(plan, lr=2e-3), world).restore(tmp_path)
    trainer.step = plan.steps - 1
    trainer.save(tmp_path)
    with pytest.raises(UsageError, match="images=64: continue with the same settings"):
        Trainer(replace(plan, images=640), world).restore(tmp_path)


def test_weights_to_begin_with_must_be_there_and_fit(tmp_path, cache):
    with pytest.raises(UsageError, match="holds neither a training run"):
        train(settings(tmp_path / "run", cache, 4), tmp_path)
    ToyboxPipeline.create(ModelSettings(channels=(32, 32, 32))).save(tmp_path / "unet")
    with pytest.raises(UsageError, match="64-pixel prior"):
        train(settings(tmp_path / "run", cache, 4), tmp_path / "unet")
    torch.manual_seed(0)
    TransformerToyboxPipeline.create(replace(TINY, depth=2)).save(tmp_path / "deep")
    train(
        settings(tmp_path / "deeper", cache, 0, head_start=0, model=replace(TINY, depth=2)), tmp_path / "deep"
    )
    with pytest.raises(UsageError, match="another architecture"):
        train(settings(tmp_path / "run", cache, 4, model=replace(TINY, depth=3)), tmp_path / "deep")


def test_the_rate_rises_stays_and_falls(tmp_path, cache):
    plan = settings(tmp_path, cache, 400, head_start=10, warmup=5)
    rates = [plan.rates(step)[0] for step in range(plan.steps)]
    assert rates[9] == 0 and rates[10] == pytest.approx(plan.lr / 5) and rates[14] == pytest.approx(plan.lr)
    begin = plan.steps - int(0.2 * plan.steps)
    assert all(r == pytest.approx(plan.lr) for r in rates[14:begin]) and rates[-1] < 0.1 * plan.lr
    assert all(a >= b for a, b in zip(rates[begin:], rates[begin + 1 :], strict=False))


def test_what_is_told_stays_in_bounds_and_as_it_is_where_it_is_usual():
    from threedistill.toybox.told import ToldEmbedding

    torch.manual_seed(0)
    found = ToldEmbedding(1042, 16)
    told = torch.randn(4, 1042)
    usual = found(told)
    with torch.no_grad():
        found.embed.linear_2.weight.mul_(1e4)
    assert float(usual.detach().abs().max()) < 2 and float(found(told).detach().abs().max()) <= 8.0
    with torch.no_grad():
        found.embed.linear_2.weight.mul_(1e-4)
    plain = 8.0 * torch.atanh(found(told) / 8.0)
    torch.testing.assert_close(found(told), plain, rtol=0.03, atol=1e-3)
