"""The scene optimizers: their steps against the formulas by hand, rates by group, and state that follows rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from threedistill.representations.gaussians import Gaussians
from threedistill.schedule import Ramp
from threedistill.training.optim import Adam, AdamW, Adan, apply_refinement
from threedistill.types import Refinement


def walk(settings: Adam | AdamW | Adan, gradients: list[float], start: float = 1.0) -> float:
    """Where one number ends under these gradients."""
    parameter = nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer = settings.build({"x": [parameter]})
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return float(parameter.detach())


def test_adan_is_its_algorithm() -> None:
    gradients, lr, decay = [0.3, -0.1, 0.25, 0.4], 0.02, 0.05
    keep, eps = (0.98, 0.92, 0.99), 1e-8
    x, m, v, n, before = 1.0, 0.0, 0.0, 0.0, gradients[0]
    for k, g in enumerate(gradients, 1):
        d, before = g - before, g
        m = keep[0] * m + (1 - keep[0]) * g
        v = keep[1] * v + (1 - keep[1]) * d
        n = keep[2] * n + (1 - keep[2]) * (g + keep[1] * d) ** 2
        ahead = m / (1 - keep[0] ** k) + keep[1] * v / (1 - keep[1] ** k)
        x = (x - lr * ahead / (math.sqrt(n / (1 - keep[2] ** k)) + eps)) / (1 + lr * decay)
    settings = Adan(lr={"x": lr}, weight_decay=decay)
    assert walk(settings, gradients) == pytest.approx(x, rel=1e-12)
    # A steady gradient is followed at exactly the rate, like Adam's.
    assert walk(Adan(lr={"x": lr}), [0.7] * 5) == pytest.approx(1 - 5 * lr, rel=1e-6)


def test_adamw_shrinks_what_adam_leaves_alone() -> None:
    assert walk(Adam(lr={"x": 0.1}), [0.0] * 3) == 1.0
    assert walk(AdamW(lr={"x": 0.1}, weight_decay=0.5), [0.0] * 3) == pytest.approx((1 - 0.1 * 0.5) ** 3)


def test_every_group_may_have_a_decay_of_its_own() -> None:
    groups = {f"particle-{k}/{name}": [nn.Parameter(torch.zeros(2))] for k in (0, 1) for name in ("a", "b")}
    adam = Adam(lr={"a": 0.1, "b": 0.2}, decay=0.5, decays={"b": Ramp(1.0, 0.01, shape="log")})
    optimizer = adam.build(groups)
    for progress, b in ((0.0, 0.2), (0.5, 0.02), (1.0, 0.002)):
        adam.anneal(optimizer, progress)
        rates = {row["name"]: row["lr"] for row in optimizer.param_groups}
        assert rates["particle-0/a"] == rates["particle-1/a"] == pytest.approx(0.05)
        assert rates["particle-0/b"] == rates["particle-1/b"] == pytest.approx(b)
    with pytest.raises(
        ValueError, match=r"optim\.decays\.c: there is no such parameter group \(there are a, b\)"
    ):
        Adam(lr={"a": 0.1, "b": 0.2}, decays={"c": 1.0}).build(groups)


def test_adans_state_follows_splats_that_come_and_go() -> None:
    cloud = Gaussians(count=5)
    adan = Adan(lr=dict.fromkeys(cloud.parameter_groups(), 0.01))
    optimizer = adan.build(cloud.parameter_groups())
    for _ in range(2):
        for group in cloud.parameter_groups().values():
            group[0].grad = torch.arange(group[0].numel(), dtype=torch.float32).view_as(group[0]) + 1
        optimizer.step()
    old = {key: value.clone() for key, value in optimizer.state[cloud.means].items()}
    source = torch.tensor([4, 1, 1])
    values = {name: group[0].detach()[source] for name, group in cloud.parameter_groups().items()}
    apply_refinement(optimizer, cloud, Refinement(source, torch.tensor([False, False, True]), values))
    new = optimizer.state[cloud.means]
    assert set(new) == {"step", "mean", "change", "square", "before"} and float(new["step"]) == 2
    for name in ("mean", "change", "square", "before"):
        assert torch.equal(new[name][:2], old[name][[4, 1]]) and not new[name][2].any()
