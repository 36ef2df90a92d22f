"""A LoRA student grows on every network that can teach: UNets, joint attention, and those with places of their own."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from tests.priors.folders import OPTIONS, settings
from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.config import build, compose
from threedistill.errors import UsageError
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.lora import LoRA, LoRAStudent, _time_embedding
from threedistill.priors.student import denoising_loss
from threedistill.types import NoiseLevel

PROMPT = "a red duck"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module", params=OPTIONS)
def pair(request: pytest.FixtureRequest, folder: Path) -> tuple[DiffusersPrior, LoRAStudent, LoRA]:
    """A teacher and its fresh student, with the adapters that the prior's option recommends; one test teaches it."""
    option = request.param
    config = compose(prompt=PROMPT, prior=option, guidance="vsd", overrides=settings(option, folder))
    prior = build(config["prior"]["model"], "prior.model")
    maker = build(config["student"]["model"], "student.model")
    return prior, maker.attach(prior, 0), maker


def noisy(prior: DiffusersPrior) -> tuple[torch.Tensor, torch.Tensor, NoiseLevel]:
    generator = torch.Generator().manual_seed(5)
    x0 = torch.rand(2 * prior.view_group, *prior.space.shape, generator=generator) * 2 - 1
    noise = torch.randn(x0.shape, generator=generator)
    levels = torch.tensor([0.4, 0.8]).repeat_interleave(prior.view_group)
    return x0, noise, prior.path.at_fraction(levels)


def told(prior: DiffusersPrior | LoRAStudent, cameras: bool):
    """What a network is told of two views or groups: wordings of two lengths; a ControlNet's depth is no camera."""
    rows = 2 * prior.view_group
    texts = [PROMPT, "a red duck, overhead view"] * prior.view_group
    depth = 1 + torch.rand(rows, 16, 16, 1, generator=torch.Generator().manual_seed(1))
    conditions = Conditions(texts, orbit(rows) if cameras else None, torch.ones(rows, 3), depth=depth)
    return prior.conditioning(conditions.only(prior.wants))


def test_a_fresh_student_is_its_teacher_bit_by_bit_and_learns_without_touching_it(pair):
    prior, student, maker = pair
    names = [name for name, _ in prior.network.named_modules()]
    for target in maker.targets:
        assert any(fnmatchcase(f".{name}", f"*.{target}") for name in names), target
    x0, noise, level = noisy(prior)
    x_t = level.add_noise(x0, noise)
    before = copy.deepcopy(prior.network.state_dict())
    teachers = prior.predict(x_t, level, told(prior, False)).value
    for cameras in (True, False):
        assert torch.equal(student.predict(x_t, level, told(student, cameras)).value, teachers)

    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = denoising_loss(student.answer(x_t, level, told(student, True)), x0, noise).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    seen, blind = (student.predict(x_t, level, told(student, cameras)).value for cameras in (True, False))
    assert not torch.equal(seen, blind)
    assert torch.equal(prior.predict(x_t, level, told(prior, False)).value, teachers)
    after = prior.network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_every_adapted_layer_gets_gradients(pair):
    """But the text's questions in joint attention's last block, whose answers nobody reads."""
    prior, student, _ = pair
    student.zero_grad()
    x0, noise, level = noisy(prior)
    loss = denoising_loss(
        student.answer(level.add_noise(x0, noise), level, told(student, True)), x0, noise
    ).mean()
    loss.backward()
    ends = [name for name in student.adapter if "lora_B" in name]
    idle = {
        name for name in ends if student.adapter[name].grad is None or not student.adapter[name].grad.any()
    }
    # Zero123 is told no picture here: its cross attention hears zeros.
    deaf = ("add_q_proj", "attn2/") if "zero123" in prior.name else ("add_q_proj",)
    assert ends and all(any(part in name for part in deaf) for name in idle), idle
    assert student.camera.outer.weight.grad is not None and student.camera.outer.weight.grad.any()


def test_networks_with_places_of_their_own():
    """Z-Image embeds its time in a class of its own; Chroma approximates all its modulations at once."""
    from diffusers import ChromaTransformer2DModel, ZImageTransformer2DModel

    zimage = ZImageTransformer2DModel(
        dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, in_channels=4,
        axes_dims=[4, 6, 6], axes_lens=[64, 32, 32],
    )  # fmt: skip
    module, size = _time_embedding(zimage, "zimage")
    assert module is zimage.t_embedder and module(torch.rand(3)).shape == (3, size)
    chroma = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=32,
        approximator_layers=1,
    )  # fmt: skip
    module, size = _time_embedding(chroma, "chroma")
    assert module is chroma.distilled_guidance_layer and size == chroma.inner_dim
    with pytest.raises(UsageError, match=r"nothing called time_embedding.*use student=gaussian"):
        _time_embedding(torch.nn.Linear(2, 2), "plain")
