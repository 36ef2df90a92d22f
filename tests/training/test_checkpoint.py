"""A stage's file gives back exactly what was saved, and refuses everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from threedistill.errors import ThreedistillError
from threedistill.training.checkpoint import StageState, save_stage
from threedistill.training.optim import Adam


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        module(x).square().sum().backward()
        optimizer.step()


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    adam = Adam(lr={"weights": 0.1, "bias": 0.01})
    return module, adam.build({"weights": [module.weight], "bias": [module.bias]})


def test_ten_steps_equal_five_a_file_and_five(tmp_path: Path) -> None:
    whole, optimizer = make()
    train(whole, optimizer, range(10))

    first, optimizer = make()
    train(first, optimizer, range(5))
    path = tmp_path / "last.safetensors"
    save_stage(path, first, [optimizer], {"iteration": 5})

    second, optimizer = make()
    state = StageState(path)
    assert state.facts == {"iteration": 5}
    state.load_module(second)
    state.load_optimizers([optimizer])
    train(second, optimizer, range(5, 10))
    assert torch.equal(whole.weight, second.weight) and torch.equal(whole.bias, second.bias)


def test_damage_foreign_files_and_misfits_are_told_apart(tmp_path: Path) -> None:
    module, optimizer = make()
    path = tmp_path / "last.safetensors"
    save_stage(path, module, [optimizer], {})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ThreedistillError, match="damaged"):
        StageState(path)
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(ThreedistillError, match="damaged"):
        StageState(path)
    save_file({"w": torch.zeros(1)}, str(path))
    with pytest.raises(ThreedistillError, match="not a threedistill checkpoint"):
        StageState(path)
    path.write_bytes(data)
    with pytest.raises(ThreedistillError, match="does not fit"):
        StageState(path).load_module(nn.Linear(5, 2))


def test_rates_follow_their_groups_and_decay() -> None:
    module = nn.Linear(3, 2)
    adam = Adam(lr={"weights": 0.1, "bias": 0.01}, decay=0.5)
    optimizer = adam.build({"weights": [module.weight], "bias": [module.bias]})
    adam.anneal(optimizer, 0.3)
    adam.anneal(optimizer, 0.3)
    assert [row["lr"] for row in optimizer.param_groups] == [0.05, 0.005]
    with pytest.raises(ValueError, match="no rate for the parameter group 'table'"):
        adam.build({"table": [module.weight]})
