"""TraCe and uniform score distillation against closed forms, and the reward term."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.guidance.conftest import direction, scalar_prior, scalars, situation
from tests.guidance.test_newer_rules import SHAPE, eps, sim_step
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.perp_neg import PerpNeg
from threedistill.guidance.poses import Poses
from threedistill.guidance.reward import Reward
from threedistill.guidance.rules_bridge import TraCe
from threedistill.guidance.rules_student import USD, VSD
from threedistill.guidance.schroedinger import BridgeLesson, Walk
from threedistill.guidance.trajectory import collect
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.protocols import ImageSpace
from threedistill.scoring import Scorer
from threedistill.toybox.evaluation.scorer import ToyboxScorer
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.planning import build_plan
from threedistill.training.stages import fresh_views

# TraCe


def test_the_bridges_variance_is_that_of_the_released_schedule():
    """Its 1000 steps: roots of the rate in a straight line from 1e-4 towards 3e-4, turned back in the middle."""
    half = torch.linspace(1e-4**0.5, 3e-4**0.5, 1000, dtype=torch.float64)[:500] ** 2
    gathered = torch.cat([half, half.flip(0)]).cumsum(0)
    places = torch.tensor([100, 250, 500, 750, 999])
    before, after = Walk().variances(places.double() / 1000)
    torch.testing.assert_close(before, gathered[places - 1], rtol=0.01, atol=1e-4)
    torch.testing.assert_close(before + after, gathered[-1].expand(5), rtol=0.01, atol=0)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_the_student_is_asked_between_the_render_and_its_target(place, kind):
    networks = {
        "teacher": scalar_prior({"c": (1.3, 0.7), "": (0.2, 1.4)}, kind),
        "student": scalar_prior({"c": (0.5, 0.9)}, kind),
    }
    walk = Walk(at=place, ends=0.3, middle=0.6)
    rule, step = TraCe(ClassifierFree(3.0), walk), situation(networks, [-0.4], [0.7])
    seen = collect(rule, step, 0.0)
    x_t = 0.6 * -0.4 + 0.8 * 0.7
    guided = eps(x_t, 0.6, 0.8, 0.2, 1.4) * -2 + 3 * eps(x_t, 0.6, 0.8, 1.3, 0.7)
    target = (x_t - 0.8 * guided) / 0.6
    a, b = 0.3**0.5, 0.6**0.5
    whole = (a * a + a * b + b * b) / 3  # twice the integral of a square between a and b over half a unit
    near = min(place, 1 - place)
    part = ((a + 2 * (b - a) * near) ** 3 - a**3) / (6 * (b - a))
    before = part if place <= 0.5 else whole - part
    after = whole - before
    drawn = float(step.rng.normal_per_view("bridge", 1, 1, 1, 1))
    x_b = (after * target + before * -0.4) / whole + (before * after / whole) ** 0.5 * drawn
    level = step.path.at_fraction(torch.tensor([place], dtype=torch.float64))
    student = eps(x_b, float(level.alpha), float(level.sigma), 0.5, 0.9)
    found = float(rule(seen, 0.0))
    assert found == pytest.approx((x_b - target) / before**0.5 - student, abs=2e-4)


def test_who_knows_the_bridge_moves_nothing():
    networks = {
        "teacher": scalar_prior({"c": (1.3, 0.7), "": (0.2, 1.4)}),
        "student": scalar_prior({"c": (0, 1)}),
    }
    rule = TraCe(ClassifierFree(3.0))
    seen = collect(rule, situation(networks, [-0.4, 2.0], [0.7, 0.1]), 0.3)
    knows = replace(seen, predictions={**seen.predictions, "student": seen["bridge"]})
    assert float(rule(knows, 0.3).abs().max()) == 0.0


def test_a_bridge_begins_at_the_target_and_ends_at_the_render():
    path = DiscretePath.from_betas()
    level = path.at_fraction(torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64))
    target, render, noise = (torch.full((4, 1, 1, 1), v, dtype=torch.float64) for v in (-1.0, 3.0, 0.0))
    lesson = BridgeLesson(target, level, path, Walk(ends=0.2, middle=0.2))
    x_b, eps_b = lesson.noised(render, level, noise)
    shares = ((x_b - target) / (render - target)).flatten()
    torch.testing.assert_close(
        shares, torch.tensor([1e-3, 0.25, 0.5, 1.0], dtype=torch.float64), rtol=2e-3, atol=0
    )
    lesson.walk.variances(shares)  # a rate of 0.2 gathers 0.2 u
    torch.testing.assert_close(eps_b.flatten(), 4 * shares / (0.2 * shares).sqrt(), rtol=1e-6, atol=0)


def test_a_student_of_another_noise_path_is_refused():
    networks = {
        "teacher": scalar_prior({"c": (1.3, 0.7), "": (0.2, 1.4)}),
        "student": SimpleNamespace(path=RectifiedFlowPath(), wants=frozenset()),
    }
    with pytest.raises(ValueError, match=r"another noise path than the teacher's .*; use student=bridge"):
        direction(TraCe(ClassifierFree(3.0)), networks, [0.1], [0.2])


def system_of(guidance, *overrides, representation="canvas", iterations=20):
    """A representation under the Gaussian prior, that can take steps by itself."""
    config = compose(
        prompt="a red mushroom", preset="draft", prior="gaussian", guidance=guidance, representation=representation,
        overrides=[
            "prior.model.size=16", f"budget.iterations={iterations}", "budget.resolution=16", "cameras.views=2",
            *overrides,
        ],
    )  # fmt: skip
    plan = build_plan(config)
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    optimizers = system.configure_optimizers()
    system.optimizers = lambda use_pl_optimizer=False: optimizers  # type: ignore[method-assign]
    system.manual_backward = lambda loss: loss.backward()
    return system


def test_the_student_learns_the_bridge_and_is_measured_on_it():
    """What it learns is named exactly where the step asks: its own levels are the bridge's places."""
    asked = []
    system = system_of(
        "trace", "student=gaussian", "student.training.timesteps=null", "student.training.steps=4"
    )
    learner = system.learners["student"]
    answer = learner.model.answer

    def recording(x_t, level, conditioning):
        asked.append((float(level.index.mean()), x_t))
        return answer(x_t, level, conditioning)

    learner.model.answer = recording  # type: ignore[method-assign]
    for index in range(20):
        system.training_step(index)
    path = system.prior.path
    first, last = (float(path.at_fraction(torch.tensor([p])).index) for p in (0.5, 0.02 + 0.48 / 20))
    assert asked[0][0] == pytest.approx(first, rel=1e-4) and asked[-1][0] == pytest.approx(last, rel=1e-4)
    assert learner.asked is learner.learned_at
    with torch.no_grad():
        rng, shown, _ = next(iter(fresh_views(system)))
    assert shown.lesson is not None
    gains = learner.measure(shown, rng, 1.0)
    assert gains.camera < gains.frozen


# Uniform score distillation


class Painted(Scorer):
    """Scores that are linear in a picture's mean colour; differentiable."""

    differentiable = True
    weights = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.5, 0.5]], dtype=torch.float64)

    @property
    def version(self):
        return "painted"

    def __call__(self, pictures, texts):
        assert texts == ("c, front view", "c, back view")
        return pictures.double().mean((1, 2)) @ self.weights.T


class Tinted(ImageSpace):
    """Samples of one channel as pictures in one tint."""

    shape = SHAPE

    def encode(self, rgb):
        raise AssertionError("nobody asks for that")

    def decode(self, x0):
        return x0.permute(0, 2, 3, 1).expand(-1, -1, -1, 3) * torch.tensor([1.0, 0.5, 0.25])


def poses(**changes):
    return Poses(Painted(), **{"views": {"front": 1.0, "back": 3.0}, **changes}).double()


def usd_step(generator=1):
    draws = torch.Generator().manual_seed(generator)
    x0, noise = torch.randn(2, 2, *SHAPE, generator=draws, dtype=torch.float64)
    return sim_step(x0, noise)


def appraised(step, counted):
    return replace(step, appraise=lambda x0, level: counted.appraise(x0, level, "c", Tinted(), step.path))


def loss_of(step, counted, scale):
    """``L`` per picture from what the teacher answers, by the definitions alone."""
    seen = step.ask(VSD(ClassifierFree(scale)).queries(0.0))
    guided = seen["uncond"].eps + scale * (seen["cond"].eps - seen["uncond"].eps)
    alpha, sigma = seen.level.scales(step.x0)
    x_t = alpha * step.x0 + sigma * step.noise
    logits = Painted()(
        Tinted().decode((x_t - sigma * guided) / alpha).float(), ("c, front view", "c, back view")
    )
    p = logits.softmax(1)
    row = int(seen.level.index[0] / step.path.steps * len(counted.mean))
    return -(torch.tensor([0.25, 0.75]) * p / counted.mean[row]).sum(1).log()


def test_the_pull_towards_rare_poses_is_the_gradient_through_decoder_and_teacher():
    """By central differences of L in x0; the teacher has full covariances."""
    step, counted, h = usd_step(), poses(), 1e-3
    counted.mean[:] = torch.tensor([0.6, 0.4])
    rule = USD(ClassifierFree(3.0), most=1e9)
    plain = VSD(ClassifierFree(3.0))
    found = rule(collect(rule, appraised(step, counted), 0.0), 0.0) - plain(collect(plain, step, 0.0), 0.0)
    alpha, sigma = step.level.scales(step.x0)
    for place in itertools.product(*(range(n) for n in SHAPE)):
        moved = torch.zeros_like(step.x0)
        moved[(slice(None), *place)] = h
        up, down = (loss_of(replace(step, x0=step.x0 + sign * moved), counted, 3.0) for sign in (1, -1))
        expected = (sigma / alpha).flatten() * 4 * (up - down) / (2 * h)
        torch.testing.assert_close(found[(slice(None), *place)], expected, rtol=1e-2, atol=1e-4)


def test_the_pull_is_no_longer_than_vsd_and_nothing_while_poses_are_even():
    step, counted = usd_step(), poses()
    for anchor in (0.3, 0.0):
        plain = VSD(ClassifierFree(3.0), anchor=anchor)
        vsd = plain(collect(plain, step, 0.0), 0.0)
        even = USD(ClassifierFree(3.0), anchor=anchor)
        found = even(collect(even, appraised(step, counted), 0.0), 0.0)
        torch.testing.assert_close(found, vsd, rtol=1e-4, atol=1e-5)
    counted.mean[:] = torch.tensor([0.999, 0.001])
    for most in (0.1, 0.5):
        rule = USD(ClassifierFree(3.0), most=most)
        pull = rule(collect(rule, appraised(step, counted), 0.0), 0.0) - vsd
        lengths = (pull.flatten(1).norm(dim=1) / vsd.flatten(1).norm(dim=1)).tolist()
        assert max(lengths) <= most + 1e-6 and max(lengths) == pytest.approx(most, rel=1e-6)


def test_poses_are_counted_per_range_of_noise():
    counted = poses(intervals=2, memory=0.9)
    path = DiscretePath.from_betas()
    level = path.at_fraction(torch.tensor([0.2, 0.3, 0.7], dtype=torch.float64))
    found = counted.appraise(torch.zeros(3, *SHAPE), level, "c", Tinted(), path)
    assert found.rows.tolist() == [0, 0, 1]
    assert torch.equal(
        counted.mean, torch.tensor([[0.25, 0.75]] * 2).double()
    )  # nothing is counted by looking
    counted.count(found)
    even = torch.tensor([0.5, 0.5]).double()
    start = torch.tensor([0.25, 0.75]).double()
    torch.testing.assert_close(
        counted.mean, torch.stack([0.81 * start + 0.19 * even, 0.9 * start + 0.1 * even])
    )
    assert "mean" in counted.state_dict() and len(list(counted.state_dict())) == 1


def test_the_run_counts_its_poses_and_keeps_them_in_the_checkpoint():
    system = system_of("usd", "student=gaussian", "guidance.poses.memory=0.5")
    assert system.poses is not None and system.guidance.poses is not None
    before = system.poses.mean.clone()
    system.training_step(0)
    assert "poses.mean" in system.state_dict() and not torch.equal(system.poses.mean, before)
    torch.testing.assert_close(system.poses.mean.sum(1), torch.ones(10))
    assert torch.equal(system.guidance.poses.mean, before)  # another stage begins anew


def test_who_cannot_tell_poses_apart_is_refused():
    class Blind(Painted):
        reads = False

    class Stiff(Painted):
        differentiable = False

    for scorer, words in ((Blind(), "Blind reads no words"), (Stiff(), "Stiff gives no gradients")):
        with pytest.raises(ValueError, match=words):
            Poses(scorer, views={"front": 1.0, "back": 1.0})
    with pytest.raises(ValueError, match="one pose cannot be evened out"):
        Poses(Painted(), views={"front": 1.0})
    with pytest.raises(ValueError, match="usd differentiates plain guidance, not cfg=PerpNeg"):
        USD(PerpNeg(ClassifierFree(3.0)))
    with pytest.raises(UsageError, match=r"guidance=sds looks at no poses; leave guidance\.poses out"):
        config = compose(prompt="a red mushroom", guidance="usd")
        config["guidance"] = {
            **compose(prompt="a red mushroom")["guidance"], "poses": config["guidance"]["poses"]
        }  # fmt: skip
        config["student"] = compose(prompt="a red mushroom")["student"]
        build_plan(config)
    with pytest.raises(UsageError, match=r"guidance\.poses\.scorer: .*scorer@guidance\.poses\.scorer=clip"):
        build_plan(
            compose(
                prompt="a brass sextant", prior="gaussian", guidance="usd", overrides=["student=gaussian"]
            )
        )


# Rewards


@pytest.mark.parametrize("representation", ["canvas", "hashgrid"])
def test_a_rewards_gradient_reaches_the_representation(representation):
    """With and without it on one step: the difference is ``-lambda factor d mean r / d theta``, and not nothing."""

    def gradients(*overrides):
        system = system_of(
            "sds", "regularizers.scale=absolute", *overrides, representation=representation,
        )  # fmt: skip
        optimizers = system._optimizers()
        pull = system._pull(optimizers[0], 0.0, system.streams.at(0))
        return (
            system,
            pull,
            {n: p.grad.clone() for n, p in system.scenes.named_parameters() if p.grad is not None},
        )

    _, _, plain = gradients()
    system, pull, rewarded = gradients("reward=toybox", "reward.weight=3.0")
    _, out, _ = system.look(0.0, system.streams.at(0))
    values = ToyboxScorer()(out.rgb, ("a red mushroom",))[:, 0]
    assert pull.rewards["reward"] == pytest.approx(float(values.detach().mean()), rel=1e-5)
    names, parameters = zip(*((n, p) for n, p in system.scenes.named_parameters() if n in rewarded))
    own = torch.autograd.grad(values.mean(), parameters, allow_unused=True)
    felt = 0.0
    for name, gradient in zip(names, own):
        if gradient is None:
            continue
        scale = float(gradient.abs().max()) * 3
        torch.testing.assert_close(
            rewarded[name] - plain[name], -3 * gradient, rtol=1e-3, atol=2e-3 * scale + 1e-6
        )
        felt = max(felt, scale)
    assert felt > 1e-4


def test_a_reward_is_climbed():
    """Under a weak teacher the judge's own figure for the prompt rises."""
    system = system_of("sds", "reward=toybox", "reward.weight=30.0", "cfg.scale=1.0")
    values = []
    for index in range(20):
        system.training_step(index)
        values.append(system.metrics["reward"])
    assert sum(values[-5:]) > sum(values[:5])


def test_who_gives_no_gradients_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(ToyboxScorer, "differentiable", False)
    with pytest.raises(
        UsageError, match=r"reward: .*ToyboxScorer gives no gradients, which a reward needs"
    ) as caught:
        build_plan(compose(prompt="a red mushroom", overrides=["reward=toybox"]))
    assert "\n" not in str(caught.value)


def test_a_reward_that_cannot_read_the_prompt_or_has_no_model_is_refused():
    with pytest.raises(UsageError, match=r"reward\.scorer: .*or take one that reads any text: reward=clip"):
        build_plan(compose(prompt="a brass sextant", prior="gaussian", overrides=["reward=toybox"]))
    with pytest.raises(
        UsageError, match=r"reward\.scorer\.folder is the user's to give: reward\.scorer\.folder=PATH"
    ):
        compose(prompt="a red mushroom", overrides=["reward=clip"])


def test_weights_of_a_reward_may_fall():
    from threedistill.schedule import Ramp

    reward = Reward(Painted(), weight=Ramp(start=2.0, end=1.0))
    values = scalars([1.0, 3.0]).flatten()
    assert [float(reward.loss(values, torch.tensor(10.0), p)) for p in (0.0, 1.0)] == [-40.0, -20.0]
