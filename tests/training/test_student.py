"""The student's step: it finds the closed-form optimum, keeps to itself, and its gains say what it knows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.guidance.timesteps import Annealed
from threedistill.priors.noise_path import DiscretePath
from threedistill.priors.student import GaussianStudent, denoising_loss
from threedistill.prompts import PromptSet
from threedistill.rng import Streams
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.planning import build_plan
from threedistill.training.student_step import Gains, Learner, Shown, StudentTraining

MEAN, SWING = 0.7, 0.9
VIEWS = 48


def scalar_world(**training) -> tuple[GaussianStudent, Learner, Shown]:
    """One-pixel renders whose colour follows the azimuth: ``x0 = m + a sin(azimuth)``, equally spread cameras."""
    space = SimpleNamespace(shape=(1, 1, 1))
    student = GaussianStudent(space, DiscretePath.from_betas())
    step = Learner(
        "student",
        student,
        StudentTraining(**{"steps": 4, "lr": 0.02, "warmup": 5, "camera_dropout": 0.5, **training}),
        PromptSet("a ball"),
        Annealed(start=0.5, end=0.5),
    )
    cameras = orbit(VIEWS)
    x0 = (MEAN + SWING * cameras.azimuth.sin()).view(-1, 1, 1, 1)
    return student, step, Shown(x0, Conditions((), cameras, torch.ones(VIEWS, 3)))


def learn(step: Learner, shown: Shown, iterations: int) -> dict[str, float]:
    optimizer, numbers = step.optimizer(), {}
    for index in range(iterations):
        numbers = step(optimizer, shown, Streams(0, iteration=index), 0.0, lambda loss: loss.backward())
    return numbers


def line(student: GaussianStudent, cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope and intercept of the student's eps in x_t, read off two points."""
    rows = VIEWS
    level = student.path.at_fraction(torch.full((rows,), 0.5))
    told = student.conditioning(Conditions(["a ball"] * rows, cameras))
    zero, one = (
        student.predict(torch.full((rows, 1, 1, 1), v), level, told).eps.flatten() for v in (0.0, 1.0)
    )
    return one - zero, zero


def test_the_student_learns_the_closed_form_optimum():
    """Among functions linear in x_t the best without cameras has slope sigma / (alpha^2 Var + sigma^2) and its zero at
    alpha m; with cameras x0 is known, so the best is (x_t - alpha x0(c)) / sigma, the noise itself."""
    student, step, shown = scalar_world()
    learn(step, shown, 150)
    level = student.path.at_fraction(torch.tensor([0.5]))
    alpha, sigma = float(level.alpha), float(level.sigma)
    slope, intercept = line(student, None)
    expected = sigma / (alpha**2 * SWING**2 / 2 + sigma**2)
    torch.testing.assert_close(slope, torch.full((VIEWS,), expected), rtol=0.03, atol=0)
    torch.testing.assert_close(-intercept / slope / alpha, torch.full((VIEWS,), MEAN), rtol=0, atol=0.03)

    slope, intercept = line(student, shown.cameras)
    torch.testing.assert_close(slope, torch.full((VIEWS,), 1 / sigma), rtol=0.02, atol=0)
    torch.testing.assert_close(-intercept / slope / alpha, shown.x0.flatten(), rtol=0, atol=0.04)
    noise = torch.randn(shown.x0.shape, generator=torch.Generator().manual_seed(3))
    levels = student.path.at_fraction(torch.full((VIEWS,), 0.5))
    told = student.conditioning(Conditions(["a ball"] * VIEWS, shown.cameras))
    answer = student.predict(levels.add_noise(shown.x0, noise), levels, told)
    assert float((answer.eps - noise).square().mean()) < 0.01


def test_gains_are_zero_at_first_and_then_say_what_was_learned():
    student, step, shown = scalar_world(measure_every=1)
    fresh = step.measure(shown, Streams(0), 0.0)
    assert fresh.student_gain == 0 and fresh.camera_gain == 0
    numbers = learn(step, shown, 100)
    # Knowing x0 leaves next to no loss; not knowing the view leaves alpha^2 V / (alpha^2 V + sigma^2).
    level = student.path.at_fraction(torch.tensor([0.5]))
    signal = float(level.alpha) ** 2 * SWING**2 / 2
    left = signal / (signal + float(level.sigma) ** 2)
    many = step.measure(shown, Streams(5), 0.0, draws=40)
    assert many.null == pytest.approx(left, rel=0.1)
    assert many.camera_gain == pytest.approx(left, rel=0.15)
    assert many.student_gain > 0.95
    assert numbers["student_gain"] > 0.9 and numbers["camera_gain"] > 0
    assert Gains(camera=0.3, null=0.5, frozen=0.6).student_gain == pytest.approx(0.5)
    assert Gains(camera=0.3, null=0.5, frozen=0.6).camera_gain == pytest.approx(0.2)


def test_gains_are_taken_where_told_wherever_the_student_learns():
    """The untrained student's loss depends on the level, so it says which was used."""
    high, same = Annealed(start=0.9, end=0.9), Annealed(start=0.5, end=0.5)

    def frozen(**training) -> float:
        _, step, shown = scalar_world(**training)
        return step.measure(shown, Streams(5), 0.0, draws=40).frozen

    assert frozen() == frozen(measured_at=same)
    assert frozen(measured_at=high) == frozen(timesteps=high) < 0.5 * frozen()
    assert frozen(timesteps=high, measured_at=same) == frozen()


def test_camera_dropout_decides_what_the_null_camera_learns():
    always, never = (scalar_world(camera_dropout=d)[0:3] for d in (1.0, 0.0))
    learn(*always[1:], 3)
    learn(*never[1:], 3)
    start = GaussianStudent(always[0].space, always[0].path)
    assert torch.equal(always[0].camera_mean, start.camera_mean) and not torch.equal(
        always[0].mean, start.mean
    )
    assert torch.equal(never[0].mean, start.mean) and not torch.equal(never[0].camera_mean, start.camera_mean)


def test_the_rate_warms_up_over_the_students_own_steps():
    training = StudentTraining(lr=1e-3, warmup=4)
    assert [training.rate(s) for s in range(6)] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3])
    assert StudentTraining(lr=1e-3, warmup=0).rate(0) == 1e-3


def test_renders_with_gradients_are_refused():
    _, _, shown = scalar_world()
    with pytest.raises(ValueError, match="detached"):
        Shown(shown.x0.clone().requires_grad_(True), shown.conditions)


TINY = [
    "budget.iterations=8", "budget.views=2", "budget.resolution=16", "prior.model.size=16",
    "representation.model.log2_entries=10", "representation.model.levels=4", "representation.model.start_levels=2",
    "representation.model.finest_resolution=32", "representation.model.steps=32", "student=gaussian",
    "representation.model.occupancy_resolution=24", "representation.model.occupancy_every=5",
]  # fmt: skip


def tiny_system(*overrides: str, guidance: str = "vsd"):
    """A system of the Gaussian prior that steps without a trainer."""
    config = compose(prompt="a red ball", prior="gaussian", guidance=guidance, overrides=[*TINY, *overrides])
    plan = build_plan(config)
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    optimizers = system.configure_optimizers()
    system._optimizers = lambda: optimizers
    system.manual_backward = lambda loss: loss.backward()
    return system


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("guidance", ["vsd", "esd"])
def test_scene_and_student_never_mix(guidance):
    system = tiny_system(guidance=guidance)
    student: nn.Module = system.learners["student"].model
    rng, progress = system.streams.at(0), 0.0
    from threedistill.protocols import RenderContext

    cameras, background = system._views(progress, rng)
    out = system.scenes[0].render(cameras, RenderContext(progress=progress, background=background, rng=rng))
    x0 = system.prior.space.encode(out.rgb)
    direction = system._direction(x0, Conditions((), cameras, background), progress, rng)[0]
    system.guidance.surrogate.loss(x0, direction).backward()
    assert any(p.grad is not None and p.grad.any() for p in system.scenes[0].parameters())
    assert all(p.grad is None for p in student.parameters()), "the scene's loss reached the student"

    system.scenes[0].zero_grad(set_to_none=True)
    scene, before = copies(system.scenes[0]), copies(student)
    system._teach(
        Shown(x0.detach(), Conditions((), cameras, background)), system._optimizers()[1:], progress, rng
    )
    assert all(p.grad is None for p in system.scenes[0].parameters()), "the student reached the scene"
    assert all(torch.equal(p, scene[n]) for n, p in system.scenes[0].named_parameters())
    assert any(not torch.equal(p, before[n]) for n, p in student.named_parameters())


def test_how_long_the_student_learns_does_not_change_the_scenes_step():
    """In the first iteration both see the same fresh student."""
    one, three = tiny_system("student.training.steps=1"), tiny_system("student.training.steps=3")
    for system in (one, three):
        system.training_step(0)
    for (name, mine), (_, theirs) in zip(
        one.scenes[0].named_parameters(), three.scenes[0].named_parameters()
    ):
        assert torch.equal(mine, theirs), name
    assert not torch.equal(one.learners["student"].model.mean, three.learners["student"].model.mean)
    for system in (one, three):
        system.training_step(1)
    assert not torch.equal(one.scenes[0].table, three.scenes[0].table), "the student is not heard"


def test_the_log_carries_the_gains_and_the_state_the_student():
    system = tiny_system()
    system.training_step(0)
    assert {"student_loss", "student_gain", "camera_gain", "seconds_student"} <= set(system.metrics)
    assert all(math.isfinite(v) for v in system.metrics.values())
    names = {k.removeprefix("learner/student.") for k in system.state_dict() if "student" in k}
    assert names == {
        "model.mean", "model.log_std", "model.camera_mean", "model.camera_log_std", "measured",
    }  # fmt: skip
    assert len(system.configure_optimizers()) == 2
    assert not tiny_system("student=none", guidance="sds").learners


def test_what_cannot_work_is_refused_before_anything_is_loaded():
    def refused(*overrides: str, guidance: str, prior: str = "toybox") -> str:
        with pytest.raises(UsageError) as caught:
            build_plan(
                compose(prompt="a red ball", prior=prior, guidance=guidance, overrides=list(overrides))
            )
        return str(caught.value)

    assert "guidance=vsd asks a student, and there is none; use student=lora" in refused(
        "student=none", guidance="vsd"
    )
    assert "student.training.camera_dropout=0" in refused("student.training.camera_dropout=0", guidance="esd")
    build_plan(
        compose(prompt="a red ball", guidance="vsd", overrides=["student.training.camera_dropout=0"])
    )  # VSD never asks it blind
    assert "use student=gaussian" in refused(guidance="vsd", prior="gaussian")
    assert "particles=2 and 2 stages" in refused(
        "particles=2", "stages=[{name: a, iterations: 2}, {name: b, iterations: 2}]", guidance="sds"
    )
    assert "particles=0 must be" in refused("particles=0", guidance="sds")


@pytest.mark.parametrize("keep", [False, True])
def test_stages_start_with_a_fresh_student_unless_it_is_kept(keep):
    config = compose(
        prompt="a red ball", prior="gaussian", guidance="vsd",
        overrides=[*TINY, f"student.keep={keep}", "stages=[{name: a, iterations: 2}, {name: b, iterations: 2}]"],
    )  # fmt: skip
    plan = build_plan(config)
    first, second = build_stages(plan, build_prior(plan, torch.device("cpu")))
    assert (first.networks["student"] is second.networks["student"]) == keep


def test_the_loss_is_summed_for_the_optimizer_and_averaged_for_the_log():
    student, step, shown = scalar_world(steps=1, camera_dropout=0.0)
    seen: list[float] = []
    numbers = step(
        step.optimizer(), shown, Streams(0, iteration=1), 0.0,
        lambda loss: (seen.append(float(loss.detach())), loss.backward())[1],
    )  # fmt: skip
    assert numbers["student_loss"] == pytest.approx(seen[0] / shown.x0[0].numel())
    level = student.path.at_fraction(torch.full((VIEWS,), 0.5))
    rng = Streams(0, iteration=1).branched("student").branched("0")
    noise = rng.normal_per_view("noise", VIEWS, 1, 1, 1)
    fresh = GaussianStudent(student.space, student.path)
    told = fresh.conditioning(Conditions(["a ball"] * VIEWS, shown.cameras))
    loss = denoising_loss(fresh.answer(level.add_noise(shown.x0, noise), level, told), shown.x0, noise)
    assert numbers["student_loss"] == pytest.approx(float(loss.detach().mean()), rel=1e-5)


def test_a_step_that_overflows_is_left_out():
    student, step, shown = scalar_world(steps=1)
    optimizer, before = step.optimizer(), copies(student)

    def overflowing(loss: torch.Tensor) -> None:
        (loss * math.inf).backward()

    step(optimizer, shown, Streams(0, iteration=1), 0.0, overflowing)
    assert all(torch.equal(p, before[n]) for n, p in student.named_parameters()) and not optimizer.state
    step(optimizer, shown, Streams(0, iteration=1), 0.0, lambda loss: loss.backward())
    assert any(not torch.equal(p, before[n]) for n, p in student.named_parameters())
