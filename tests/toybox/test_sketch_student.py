"""The embedded prior's own student: what it learns of a scene from pictures, it knows from every camera."""

from __future__ import annotations

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.priors.analytic import GaussianPrior
from threedistill.priors.student import denoising_loss, drop_cameras
from threedistill.toybox.priors.embedded import ToyboxPrior
from threedistill.toybox.priors.sketch_student import Sketched


def told(views: int) -> Conditions:
    return Conditions(["a red duck"] * views, orbit(views), torch.ones(views, 3))


def test_a_fresh_student_is_its_teacher():
    prior = ToyboxPrior(dtype="float32")
    student = Sketched().attach(prior, 0)
    x_t = torch.randn(3, *prior.space.shape)
    level = prior.path.at_fraction(torch.tensor([0.2, 0.6, 0.95]))
    for facts in (told(3), told(3).without("camera")):
        mine = student.predict(x_t, level, student.conditioning(facts)).value
        theirs = prior.predict(x_t, level, prior.conditioning(facts)).value
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)
    blind = drop_cameras(student.conditioning(told(3)), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(
        student.predict(x_t, level, blind).value,
        prior.predict(x_t, level, prior.conditioning(told(3).without("camera"))).value,
        rtol=1e-2, atol=1e-2,
    )  # fmt: skip


def test_it_learns_a_scene_from_some_sides_and_knows_it_from_others():
    prior = ToyboxPrior(dtype="float32")
    student = Sketched().attach(prior, 0)
    facts = Conditions(["a blue duck"] * 4, orbit(4), torch.ones(4, 3))
    with torch.no_grad():  # the scene: a duck of another colour than the student is told of
        level = prior.path.at(torch.full((4,), 999.0))
        x0 = prior.predict(torch.zeros(4, *prior.space.shape), level, prior.conditioning(facts)).value
    mine = student.conditioning(told(4))
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)

    def loss(views: list[int]) -> torch.Tensor:
        noise = torch.randn(len(views), *prior.space.shape, generator=rng)
        level = prior.path.at_fraction(torch.full((len(views),), 0.9))
        rows = {k: v[views] for k, v in mine.items()}
        return denoising_loss(
            student.answer(level.add_noise(x0[views], noise), level, rows), x0[views], noise
        ).mean()

    with torch.no_grad():
        before = loss([0, 2])
    for _ in range(12):
        optimizer.zero_grad()
        loss([1, 3]).backward()
        optimizer.step()
    with torch.no_grad():
        assert loss([0, 2]) < 0.7 * before
    assert all(not p.requires_grad for p in prior.network.parameters())
    assert set(student.state_dict()) == {f"changes.{k}" for k in student.changes}


def test_other_priors_are_refused_before_they_are_loaded():
    with pytest.raises(UsageError, match="student=lora"):
        Sketched().check(GaussianPrior)
