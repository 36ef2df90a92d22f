"""A LoRA student: fresh it is the teacher without a camera, it never touches the teacher, what it learns is saved."""

from __future__ import annotations

import hashlib

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.prediction import Prediction
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import StableDiffusion
from threedistill.priors.lora import CameraEmbedding, CameraMap, LoRA, twin
from threedistill.priors.student import denoising_loss, drop_cameras
from threedistill.protocols import STUDENT_CAMERA, NetworkPrior, Prior
from threedistill.toybox.priors.oracle import OraclePrior
from threedistill.types import NoiseLevel

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "time_emb_proj")


def fingerprint(network: torch.nn.Module) -> str:
    """Names and bytes of everything in a network."""
    digest = hashlib.blake2b()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().float().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def toybox():
    from threedistill.toybox.priors.embedded import ToyboxPrior

    return ToyboxPrior()


@pytest.fixture(params=["eps", "v", "toybox"])
def prior(request, pipelines) -> NetworkPrior:
    """Tiny random Stable Diffusions, which have no slot for a camera, and the prior that ships, which has one."""
    if request.param == "toybox":
        return request.getfixturevalue("toybox")
    folder = pipelines[request.param][0]
    return DiffusersPrior(name="tiny", family=StableDiffusion(), model=str(folder), cache=False)


PROMPT = "a red duck"


def noisy(prior: Prior, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, NoiseLevel]:
    generator = torch.Generator().manual_seed(5)
    x0 = torch.rand(rows, *prior.space.shape, generator=generator) * 2 - 1
    noise = torch.randn(x0.shape, generator=generator)
    return x0, noise, prior.path.at_fraction(torch.linspace(0.3, 0.9, rows))


def teach(student, steps: int, lr: float = 1e-2) -> list[float]:
    """Some steps on one fixed batch of noisy pictures; the losses."""
    x0, noise, level = noisy(student)
    told = student.conditioning(Conditions([PROMPT] * 3, orbit(3), torch.ones(3, 3)))
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = denoising_loss(student.answer(level.add_noise(x0, noise), level, told), x0, noise).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_fresh_student_is_the_teacher_without_a_camera(prior):
    student = LoRA(rank=2, targets=TARGETS, camera_maps=4).attach(prior, 0)
    assert isinstance(student, Prior)
    x0, noise, level = noisy(prior)
    x_t = level.add_noise(x0, noise)
    behind = torch.ones(3, 3)
    expected = prior.predict(x_t, level, prior.conditioning(Conditions([PROMPT] * 3, None, behind)))
    for cameras in (orbit(3), None):
        told = student.conditioning(Conditions([PROMPT] * 3, cameras, behind))
        assert torch.equal(student.predict(x_t, level, told).value, expected.value)
        assert torch.equal(student.frozen.predict(x_t, level, told).value, expected.value)
    assert student.predict(x_t, level, told).kind == prior.kind


def test_the_teachers_camera_slot_is_never_told(toybox):
    """Otherwise it would know the views before its first step; the teacher itself hears them."""
    student = LoRA(rank=2, targets=TARGETS, camera_maps=4).attach(toybox, 0)
    own, null = (student.conditioning(Conditions([PROMPT] * 3, c)) for c in (orbit(3), None))
    for name in own:
        assert torch.equal(own[name], null[name]) == (name != STUDENT_CAMERA)
    seen, blind = (toybox.conditioning(Conditions([PROMPT] * 3, c)) for c in (orbit(3), None))
    assert not torch.equal(seen["class_labels"], blind["class_labels"])


def test_learning_changes_the_student_and_nothing_of_the_teacher(prior):
    x0, noise, level = noisy(prior)
    x_t = level.add_noise(x0, noise)
    told = prior.conditioning(Conditions([PROMPT] * 3, orbit(3)))
    before, answer = fingerprint(prior.network), prior.predict(x_t, level, told).value
    student = LoRA(rank=4, targets=TARGETS, camera_maps=4).attach(prior, 0)
    losses = teach(student, 8)
    assert losses[-1] < 0.97 * losses[0]
    own = student.conditioning(Conditions([PROMPT] * 3, orbit(3)))
    with student.active(own), torch.no_grad():
        assert torch.equal(prior.predict(x_t, level, told).value, answer)  # even while the student speaks
    assert fingerprint(prior.network) == before
    assert not any(p.requires_grad or p.grad is not None for p in prior.network.parameters())
    assert not torch.equal(
        student.predict(x_t, level, own).value, student.frozen.predict(x_t, level, own).value
    )


def test_the_twin_shares_every_weight(prior):
    student = LoRA(rank=2, targets=TARGETS, camera_maps=4).attach(prior, 0)
    theirs = {p.data_ptr() for p in prior.network.parameters()}
    adapters = {p.data_ptr() for p in student.parameters()}
    mine = {p.data_ptr() for p in student.twin.parameters()}
    assert theirs < mine and mine - theirs == adapters & mine
    copy = twin(prior.network)
    assert {p.data_ptr() for p in copy.parameters()} == theirs


def test_state_is_the_adapter_only_and_comes_back_exactly(prior, tmp_path):
    from threedistill.training.checkpoint import StageState, save_stage

    first = LoRA(rank=3, targets=TARGETS, camera_maps=4).attach(prior, 0)
    teach(first, 2)
    path = tmp_path / "student.safetensors"
    save_stage(path, first, [], {})
    prior_size = sum(p.numel() for p in prior.network.parameters())
    assert sum(t.numel() for t in first.state_dict().values()) == sum(p.numel() for p in first.parameters())
    assert path.stat().st_size < 4 * prior_size
    assert {k.split(".")[0] for k in first.state_dict()} == {"adapter", "camera", "camera_map"}

    second = LoRA(rank=3, targets=TARGETS, camera_maps=4).attach(prior, 1)
    x0, noise, level = noisy(prior)
    own = first.conditioning(Conditions([PROMPT] * 3, orbit(3)))
    expected = first.predict(level.add_noise(x0, noise), level, own).value
    StageState(path).load_module(second)
    assert torch.equal(second.predict(level.add_noise(x0, noise), level, own).value, expected)


def test_the_same_seed_is_the_same_student_and_the_callers_randomness_is_left_alone(prior):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    states = [
        LoRA(rank=2, targets=TARGETS, camera_maps=4).attach(prior, seed).state_dict() for seed in (7, 7, 8)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_the_camera_enters_where_it_is_told_and_the_null_camera_is_its_own_vector():
    torch.manual_seed(0)
    embedding = CameraEmbedding(6, 8)
    camera = torch.cat([torch.randn(2, 13), torch.ones(2, 1)], 1)
    nothing = torch.zeros(1, 14)
    assert not embedding(torch.cat([camera, nothing])).any()
    with torch.no_grad():
        embedding.outer.weight.normal_()
        embedding.null.fill_(3.0)
    out = embedding(torch.cat([camera, nothing]))
    hidden = torch.nn.functional.silu(camera @ embedding.inner.weight.T + embedding.inner.bias)
    torch.testing.assert_close(out[:2], hidden @ embedding.outer.weight.T)
    assert (out[2] == 3).all()
    told = {STUDENT_CAMERA: camera, "other": camera}
    dropped = drop_cameras(told, torch.tensor([True, False]))
    assert not dropped[STUDENT_CAMERA][0].any() and torch.equal(dropped[STUDENT_CAMERA][1], camera[1])
    assert dropped["other"] is camera and camera[0].any()


def test_the_camera_is_drawn_where_there_is_one():
    torch.manual_seed(0)
    drawn = CameraMap(6, 3, 8)
    camera = torch.cat([torch.randn(2, 13), torch.ones(2, 1)], 1)
    assert drawn(camera, 16, 16).shape == (2, 6, 16, 16) and not drawn(camera, 16, 16).any()
    with torch.no_grad():
        drawn.last.weight.normal_()
        drawn.last.bias.fill_(1.0)
    out = drawn(torch.cat([camera, torch.zeros(1, 14)]), 16, 16)
    assert not out[2].any() and (out[0] - out[1]).abs().max() > 0.1
    assert out[0, 0].std() > 0.01, "a map, not a constant"
    with torch.no_grad():
        drawn.common.normal_()
    both = drawn(torch.cat([camera, torch.zeros(1, 14)]), 16, 16)
    assert both[2].std() > 0.1
    torch.testing.assert_close(both[:2] - out[:2], both[2].expand(2, -1, -1, -1), msg="common to all views")


def test_a_trained_student_tells_views_apart_only_by_its_own_camera(prior):
    student = LoRA(rank=2, targets=TARGETS, camera_maps=4).attach(prior, 0)
    teach(student, 3)
    x0, noise, level = noisy(prior)
    x_t = level.add_noise(x0[:1], noise[:1])[:1].repeat(3, 1, 1, 1)
    same = NoiseLevel(level.alpha[:1].expand(3), level.sigma[:1].expand(3), level.index[:1].expand(3))
    own = student.predict(x_t, same, student.conditioning(Conditions([PROMPT] * 3, orbit(3)))).value
    null = student.predict(x_t, same, student.conditioning(Conditions([PROMPT] * 3))).value
    assert (own[0] - own[1]).abs().max() > 1e-6
    torch.testing.assert_close(null[0], null[1], rtol=0, atol=1e-6)


def test_the_loss_is_the_networks_own_and_for_x0_the_bounded_error_in_v():
    generator = torch.Generator().manual_seed(0)
    x0, noise, value = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3))
    angle = torch.tensor([0.2, 1.2])
    level = NoiseLevel(angle.cos(), angle.sin(), torch.zeros(2))
    x_t = level.add_noise(x0, noise)
    answer = Prediction(value, "x0", x_t, level)
    in_v = (answer.v - (level.scales(x0)[0] * noise - level.scales(x0)[1] * x0)).square().mean((1, 2, 3))
    loss = denoising_loss(answer, x0, noise)
    torch.testing.assert_close(loss[1], in_v[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(loss[0], 5 * (value - x0)[0].square().mean(), rtol=1e-5, atol=0)
    for kind, target in (("eps", noise), ("flow", noise - x0)):
        torch.testing.assert_close(
            denoising_loss(Prediction(value, kind, x_t, level), x0, noise),
            (value - target).square().mean((1, 2, 3)),
        )


def test_priors_without_a_network_and_layers_without_a_name_are_refused(toybox):
    with pytest.raises(UsageError, match="OraclePrior has none; use student=gaussian"):
        LoRA().attach(OraclePrior(8), 0)
    with pytest.raises(UsageError, match="has no layer named so"):
        LoRA(targets=("nonsense",)).attach(toybox, 0)
    with pytest.raises(ValueError, match="targets is empty"):
        LoRA(targets=())
    LoRA().check(type(toybox))
    with pytest.raises(ValueError, match="camera_maps=-1 must lie in"):
        LoRA(camera_maps=-1)
