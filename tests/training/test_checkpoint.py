"""A stage's file gives back exactly what was saved, and refuses everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from threedistill.errors import ThreedistillError
from threedistill.training.checkpoint import StageState, load_stage, previous_of, save_stage
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


def test_every_flipped_bit_is_noticed_and_the_state_before_is_used(tmp_path: Path, capsys) -> None:
    module, optimizer = make()
    path = tmp_path / "last.safetensors"
    train(module, optimizer, range(2))
    save_stage(path, module, [optimizer], {"iteration": 2})
    train(module, optimizer, range(2, 3))
    save_stage(path, module, [optimizer], {"iteration": 3})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 6):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            if place >= 8 and damaged[place] in b" {}" and whole[place] in b" {}":
                continue  # blanks behind the header mean nothing
            with pytest.raises(ThreedistillError):
                StageState(path)
    state = load_stage(path)
    assert state is not None and state.facts == {"iteration": 2} and state.path == previous_of(path)
    assert "going on from the one before it" in capsys.readouterr().err
    previous_of(path).write_bytes(whole[:100])
    with pytest.raises(ThreedistillError, match="remove the folder"):
        load_stage(path)
    path.write_bytes(whole)
    state = load_stage(path)
    assert state is not None and state.facts == {"iteration": 3}
    path.unlink()
    previous_of(path).write_bytes(whole)  # a process ended between the two renames
    state = load_stage(path)
    assert state is not None and state.facts == {"iteration": 3}
    previous_of(path).unlink()
    assert load_stage(path) is None
