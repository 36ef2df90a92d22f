"""Where memory runs out at the start, a run does the same with less at a time, says so, and gives up only then."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from threedistill.conditions import Conditions
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.priors.space import LatentSpace
from threedistill.training.assemble import assemble
from threedistill.training.planning import build_plan
from threedistill.training.system import ScoreDistillation
from threedistill.training.thrift import measures, ran_out


@pytest.fixture
def system(pipelines: Any) -> ScoreDistillation:
    overrides = [
        "budget.views=3", "budget.resolution=16", "representation.model.count=30", "background=white",
        f"prior.model.model={pipelines['eps'][0]}",
    ]  # fmt: skip
    config = compose(prompt="a red duck", prior="sd15", representation="gaussians", overrides=overrides)
    return assemble(build_plan(config)).stages[0]


def step(system: ScoreDistillation) -> list[torch.Tensor]:
    """One step without a trainer; the gradients it leaves."""
    optimizers = system.configure_optimizers()
    system._optimizers = lambda: optimizers  # type: ignore[method-assign]
    system.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    system.training_step(0)
    return [p.grad.clone() for p in system.scenes.parameters() if p.grad is not None]


def test_views_one_by_one_are_the_same_views(system: ScoreDistillation) -> None:
    space = system.prior.space
    assert isinstance(space, LatentSpace)
    rgb = torch.rand(3, 16, 16, 3, requires_grad=True)
    answers = []
    for space.one_by_one in (False, True):
        rgb.grad = None
        x0 = space.encode(rgb)
        x0.square().sum().backward()
        answers.append((x0.detach(), rgb.grad))
    for one, other in zip(*answers):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_it_goes_on_with_less_at_a_time_and_says_what_was_done(
    system: ScoreDistillation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory for one view in the VAE and four rows in the network: what is refused is asked for in smaller parts."""
    encode, ask = system.prior.space.vae.encode, system.prior.ask  # type: ignore[attr-defined]
    asked: list[int] = []

    def little(picture: torch.Tensor, *rest: Any) -> Any:
        if len(picture) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return encode(picture, *rest)

    def few(network: Any, x_t: torch.Tensor, *rest: Any) -> Any:
        asked.append(len(x_t))
        if len(x_t) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return ask(network, x_t, *rest)

    state = {name: value.clone() for name, value in system.scenes.state_dict().items()}
    whole = step(system)
    system._untried = True
    system.scenes.load_state_dict(state)
    system.mean_color.fill_(0.5)
    monkeypatch.setattr(system.prior.space.vae, "encode", little)  # type: ignore[attr-defined]
    monkeypatch.setattr(system.prior, "ask", few)
    parts = step(system)
    assert asked == [6, 3, 3]
    assert [w.split(": ", 1)[1].split(" (")[0] for w in system.warned if "memory" in w] == [
        "views are encoded one by one", "networks are asked 3 at a time",
    ]  # fmt: skip
    assert [w for w in system.warnings if "memory" in w] == [w for w in system.warned if "memory" in w]
    one, other = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (parts, whole))
    assert float((one - other).norm()) < 1e-4 * float(other.norm())


def test_layers_that_wait_in_the_main_memory_answer_the_same(system: ScoreDistillation) -> None:
    """diffusers' own hooks, from the main memory to the main memory."""
    prior: Any = system.prior
    told = prior.conditioning(Conditions(["a red duck"] * 2))
    x_t = torch.randn(2, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    level = prior.path.at_fraction(torch.tensor([0.3, 0.8]))
    before = prior.predict(x_t, level, told).value
    prior.offload()
    prior.offload()
    assert prior.offloaded and torch.equal(prior.predict(x_t, level, told).value, before)
    hooked = [m for m in prior.network.modules() if hasattr(m, "_diffusers_hook")]
    assert any(isinstance(m, torch.nn.Conv2d) for m in hooked)


def test_on_a_gpu_the_last_measure_moves_layers_off_it(
    system: ScoreDistillation, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior: Any = system.prior
    moved: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "diffusers.hooks.apply_group_offloading", lambda *where, **how: moved.append((*where, how))
    )
    taken = list(measures(system))
    assert not moved and not prior.offloaded and len(taken) == 3  # on a CPU there is nowhere to move to
    prior.device = torch.device("cuda")
    assert list(measures(system)) == [
        "the network's layers wait in the main memory (prior.model.offload=true)"
    ]
    assert moved == [(prior.network, prior.device, torch.device("cpu"), {"offload_type": "leaf_level"})]
    assert not list(measures(system))


def test_a_student_cannot_learn_on_layers_that_wait(pipelines: Any) -> None:
    overrides = ["prior.model.offload=true", f"prior.model.model={pipelines['eps'][0]}"]
    build_plan(compose(prompt="a red duck", prior="sd15", overrides=overrides))
    with pytest.raises(UsageError, match=r"prior\.model\.offload=true.*set it to false"):
        build_plan(compose(prompt="a red duck", prior="sd15", guidance="vsd", overrides=overrides))


def test_it_gives_up_with_the_error_itself_and_other_errors_at_once(
    system: ScoreDistillation, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def broken(*_: Any) -> Any:
        tries.append(1)
        raise error

    monkeypatch.setattr(system.prior.space.vae, "encode", broken)  # type: ignore[attr-defined]
    error: Exception = ValueError("something else")
    with pytest.raises(ValueError, match="something else"):
        step(system)
    assert len(tries) == 1
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        step(system)
    assert len(tries) == 1 + 4  # as it was, views one by one, three rows, one row
    assert ran_out(MemoryError()) and not ran_out(RuntimeError("shape mismatch"))
