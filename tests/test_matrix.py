"""Everything with everything: each rule on each representation against closed forms, and with each kind of prior."""

from __future__ import annotations

import hashlib

import pytest
import torch
from PIL import Image

from tests.closed_form import Gaussian, World
from threedistill.conditions import Conditions
from threedistill.config import compose, groups
from threedistill.guidance.surface_noise import draw_noise
from threedistill.protocols import RenderContext
from threedistill.toybox.priors.oracle import ground_truth
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.planning import build_plan
from threedistill.training.start import render_unedited

RULES = groups()["guidance"]
REPRESENTATIONS = groups()["representation"]
#: SDI imitates a sampler: at a fixed level it does not contract. SIM's direction is not affine in the render.
CONTRACTING = [rule for rule in RULES if rule not in ("sdi", "sim", "trace")]
SIZE, SCALE, FRACTION, STEPS = 24, 2.0, 0.5, 12

#: Small scenes, one noise level, plain guidance, a student that stands still, nothing random in the picture.
PINS = [
    "budget.views=2", f"budget.resolution={SIZE}", "background=white", "watchdog=disabled", f"cfg.scale={SCALE}",
    "cfg.x0_clip=none", "regularizers.weights.sparsity=0", "regularizers.weights.opacity_entropy=0",
]  # fmt: skip
SMALL = {
    "hashgrid": [
        "representation.model.log2_entries=10", "representation.model.levels=4", "representation.model.start_levels=4",
        "representation.model.finest_resolution=32", "representation.model.steps=32",
        "representation.model.occupancy_resolution=16",
    ],
    "gaussians": ["representation.model.count=300"],
    "dmtet": ["representation.model.resolution=12", "representation.model.color.log2_entries=10"],
    "canvas": [],
}  # fmt: skip
OF_RULES = {
    "vsd": ["student=gaussian", "student.training.lr=1e-9"],
    "esd": ["student=gaussian", "student.training.lr=1e-9"],
    "sim": ["student=gaussian", "student.training.lr=1e-9"],
    "trace": ["student=gaussian", "student.training.lr=1e-9"],
    "usd": ["student=gaussian", "student.training.lr=1e-9"],
    "cfd": ["guidance.rule.normalize=none"],
    "csds": ["baseline=gaussian", f"baseline.model.size={SIZE}"],
    "mvsds": ["guidance.rule.rescale=0.0"],
    "sdi": [
        "guidance.rule.trajectory.scale=1.0", "guidance.rule.trajectory.gap=0.0", "guidance.rule.trajectory.eta=0.0",
        *(f"guidance.timesteps.{end}={FRACTION}" for end in ("start", "end")),
    ],
    "cds": ["guidance.surrogate.clip=null"],
    "csd": ["guidance.rule.negative=0.0", "guidance.rule.empty=-1.0"],
}  # fmt: skip


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture to edit."""
    path = tmp_path_factory.mktemp("canvas") / "blue.png"
    Image.new("RGB", (32, 32), (40, 60, 220)).save(path)
    return path


def make(rule, representation, picture, prior="gaussian", extra=()):
    """The composed run's first stage, with the pins of the closed forms where the prior is Gaussian."""
    overrides = [*PINS, *SMALL.get(representation, []), *extra]
    if rule == "csd":  # its coefficients are the guidance
        overrides.append("cfg.scale=1.0")
    if prior == "gaussian":
        overrides += [f"prior.model.size={SIZE}", *OF_RULES.get(rule, [])]
    if rule != "sdi" and prior == "gaussian":
        overrides += [f"guidance.timesteps.window.{end}={FRACTION}" for end in ("min", "max")]
    init = None
    if rule == "dds":
        overrides.append("prompts.source='a blue ball'")
        if representation == "canvas":
            overrides.append(f"representation.model.picture='{picture}'")
        else:
            init = "ball.glb"
    config = compose(
        prompt="a red ball", preset="draft", prior=prior, guidance=rule, representation=representation, init=init,
        overrides=overrides,
    )  # fmt: skip
    plan = build_plan(config)
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    if init is not None:
        system.unedited = ground_truth("a blue ball")
    return system


def ready(system):
    """A system that can take steps by itself, without a trainer around it."""
    optimizers = system.configure_optimizers()
    system.optimizers = lambda use_pl_optimizer=False: optimizers
    system.manual_backward = lambda loss: loss.backward()
    return system


def world_of(system, cameras, background):
    """The closed forms of what this system's networks believe, for these views."""
    prior, views = system.prior, len(cameras)

    def disc(text, network=prior):
        told = network.conditioning(Conditions([text] * views, cameras, background))
        return Gaussian(told["mean"].double(), float(told["variance"].flatten()[0]) ** 0.5)

    def level(fraction):
        found = prior.path.at_fraction(torch.full((views,), fraction, dtype=torch.float64))
        return tuple(v.view(-1, 1, 1, 1) for v in (found.alpha, found.sigma))

    rgb = torch.zeros(views, SIZE, SIZE, 3)
    if system.unedited is not None:
        rgb = render_unedited(system.unedited, cameras, background)
    elif (before := system.scenes[0].unedited(cameras)) is not None:
        rgb = before
    category = disc("a ball", system.networks.get("baseline", prior))
    return World(
        cond=disc("a red ball"), null=disc(""), category=category, source=disc("a blue ball"),
        student=Gaussian(0.0, 0.5), unedited=prior.space.encode(rgb).double(), scale=SCALE, level=level,
        fraction=FRACTION, share=float(system.streams.at(0).uniform("segment", 1)),
        drawn=system.streams.at(0).normal_per_view("bridge", views, *prior.space.shape).double(),
    )  # fmt: skip


def shown(system, progress=0.0):
    """One step's views, their encoded render and its noise."""
    rng = system.streams.at(0)
    cameras, background = system._views(progress, rng)
    with torch.no_grad():
        out = system.scenes[0].render(cameras, RenderContext(progress=progress, background=background))
    x0 = system.prior.space.encode(out.rgb)
    noise = draw_noise(system.guidance.rule, rng, len(cameras), system.prior.space.shape)
    return rng, cameras, background, x0, noise


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_the_first_direction_is_the_closed_form_and_the_scene_goes_there(rule, representation, picture):
    system = make(rule, representation, picture)
    rng, cameras, background, x0, noise = shown(system)
    world = world_of(system, cameras, background)
    found, level, nonfinite = system._direction(x0, Conditions((), cameras, background), 0.0, rng)
    weight = system.guidance.weighting(system.prior.path.at(torch.tensor([level])))
    expected = float(weight) * world.direction(rule, x0.double(), noise.double())
    assert nonfinite == 0
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert worst < 2e-4, f"{rule} on {representation}: off by {worst:.1e} of the direction"
    if rule not in CONTRACTING:
        return
    target = world.rest(rule, x0.double(), noise.double())
    before = float((x0 - target).square().mean())
    ready(system)
    for index in range(STEPS):
        system.training_step(index)
    with torch.no_grad():
        out = system.scenes[0].render(cameras, RenderContext(progress=0.0, background=background))
    after = float((system.prior.space.encode(out.rgb) - target).square().mean())
    assert after < before, f"{rule} on {representation}: {before:.4f} -> {after:.4f}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Small diffusers pipelines with random weights: eps, v, and flow matching."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from tests.priors.conftest import build_pipeline

    root, folders = tmp_path_factory.mktemp("tiny"), {}
    for seed, (name, kind) in enumerate({"eps": "epsilon", "v": "v_prediction", "flow": "epsilon"}.items()):
        folders[name] = root / name
        build_pipeline(kind, seed).save_pretrained(folders[name], safe_serialization=True)
    FlowMatchEulerDiscreteScheduler().save_pretrained(folders["flow"] / "scheduler")
    return folders


def fingerprint(prior) -> str:
    """Of all weights of a prior's network."""
    digest = hashlib.sha256()
    for name, value in sorted(prior.network.state_dict().items()):
        if "lora" not in name:  # the student's own
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("prior", ["toybox", "eps", "v", "flow"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_with_every_kind_of_prior(rule, prior, tiny, picture):
    """The direction does not depend on how questions are batched, reaches the canvas, and leaves the prior alone."""
    extra = []
    if rule in ("vsd", "esd", "sim", "trace", "usd"):
        extra += ["student.training.steps=1"]
        if prior != "toybox" or rule == "trace":
            extra += ["student.model.rank=2"]
    if prior != "toybox":
        extra += [
            f"prior.model.model='{tiny[prior]}'",
            "prior.model.cache=false",
        ]
    extra.append("prior.model.dtype=float32")
    system = make(rule, "canvas", picture, "toybox" if prior == "toybox" else "sd15", extra)
    if prior != "toybox":
        assert system.prior.kind == prior
    rng, cameras, background, x0, _ = shown(system)
    together, _, nonfinite = system._direction(x0, Conditions((), cameras, background), 0.0, rng)
    system.max_rows = 1
    alone, _, _ = system._direction(x0, Conditions((), cameras, background), 0.0, rng)
    size = float(together.abs().max())
    assert nonfinite == 0 and size > 0
    assert float((together - alone).abs().max()) < 1e-3 * size
    before, theta = fingerprint(system.prior), system.scenes[0].theta.detach().clone()
    ready(system)
    system.training_step(0)
    assert fingerprint(system.prior) == before
    assert bool((system.scenes[0].theta != theta).any())
