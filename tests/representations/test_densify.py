"""Growing, pruning, relocating, and carrying it out on parameters and moments."""

from __future__ import annotations

import math

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.protocols import RenderContext
from threedistill.render.splat import render_splats
from threedistill.representations.densify import Cloud, Growth, Relocation, _shared
from threedistill.representations.gaussians import Gaussians
from threedistill.representations.refinement import apply_refinement
from threedistill.rng import Streams
from threedistill.types import Refinement, Splats


def cloud(count: int = 40, opacity: float = 0.5, seed: int = 0) -> Cloud:
    generator = torch.Generator().manual_seed(seed)
    values = {
        "means": torch.randn(count, 3, generator=generator),
        "scales": torch.full((count, 3), -4.0),
        "rotations": torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        "opacities": torch.full((count,), math.log(opacity / (1 - opacity))),
        "sh0": torch.rand(count, 1, 3, generator=generator),
    }
    return Cloud(values, torch.arange(count).float(), torch.ones(count))


def test_growth_splits_what_is_pulled_at_most():
    growth = Growth(every=10, start=0, stop=1, cap=100, share=0.1, split_size=0.5)
    before = cloud()
    plan = growth.plan(before, 9, 1.0, Streams(0))
    assert plan is not None
    assert len(plan.source) == 44  # a tenth more
    assert plan.source[:36].tolist() == list(range(36)) and not plan.fresh[:36].any()
    assert plan.source[36:].tolist() == [36, 37, 38, 39] * 2 and plan.fresh[36:].all()
    for name, value in before.values.items():
        assert torch.equal(plan.values[name][:36], value[:36]), name
    # Two halves in a row absorb what one did.
    halves = plan.values["opacities"][36:].sigmoid()
    torch.testing.assert_close(1 - (1 - halves) ** 2, torch.full((8,), 0.5))
    # They are drawn from the splat's own Gaussian, three standard deviations of 0.018 m at most here.
    moved = (plan.values["means"][36:] - before.values["means"][plan.source[36:]]).norm(dim=-1)
    assert float(moved.min()) > 0 and float(moved.max()) < 4 * math.exp(-4)
    assert torch.equal(plan.values["scales"][36:], before.values["scales"][36:].repeat(2, 1))
    large = Growth(every=10, start=0, stop=1, cap=100, share=0.1, split_size=0.01).plan(
        before, 9, 1.0, Streams(0)
    )
    assert large is not None
    torch.testing.assert_close(large.values["scales"][36:], torch.full((8, 3), -4 - math.log(1.6)))


def test_absolute_gradients_find_a_splat_that_is_pulled_both_ways():
    """Brighter is better everywhere: a round splat in the middle is pulled to all sides alike."""
    found = {}
    for absolute in (False, True):
        field = Gaussians(count=1, densification=Growth(every=100, absolute=absolute))
        field.init_from_splats(
            Splats(
                torch.zeros(1, 3), torch.full((1, 3), math.log(0.15)), torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
                torch.full((1,), 2.0), torch.zeros(1, 1, 3),
            )
        )  # fmt: skip
        out = field.render(orbit(1, size=32), RenderContext(0.0, torch.zeros(1, 3)))
        out.rgb.sum().backward()
        field.after_step(0, 0.1, Streams(0))
        found[absolute] = float(field.gradient_sum)
    assert found[True] > 100 * found[False] and found[True] > 1


def test_gradients_have_no_scale():
    growth = Growth(every=1, start=0, stop=1, cap=100)
    one, other = cloud(), cloud()
    other = other._replace(gradient=other.gradient * 1e6)
    plans = [growth.plan(c, 0, 1.0, Streams(0)) for c in (one, other)]
    assert plans[0] is not None and plans[1] is not None
    assert torch.equal(plans[0].values["means"], plans[1].values["means"])


def test_growth_prunes_the_transparent_and_the_huge():
    before = cloud()
    before.values["opacities"][3] = -6.0
    before.values["scales"][7, 1] = 0.0
    plan = Growth(every=1, start=0, stop=1, cap=40, share=0.0).plan(before, 0, 0.5, Streams(0))
    assert plan is not None and plan.source.tolist() == [i for i in range(40) if i not in (3, 7)]
    before.values["opacities"][:] = -7.0
    plan = Growth(every=1, start=0, stop=1, cap=40).plan(before, 0, 0.5, Streams(0))
    assert plan is not None and len(plan.source) > 0  # never nothing


def test_growth_keeps_its_times_and_its_cap():
    growth = Growth(every=10, start=0.2, stop=0.6, cap=50)
    assert growth.plan(cloud(), 8, 0.3, Streams(0)) is None
    assert growth.plan(cloud(), 9, 0.1, Streams(0)) is None
    assert growth.plan(cloud(), 9, 0.7, Streams(0)) is None
    now = cloud(50)
    for _ in range(5):
        plan = growth.plan(now, 9, 0.6, Streams(0))
        assert plan is not None and len(plan.source) <= 50
        now = Cloud(plan.values, torch.rand(len(plan.source)), torch.ones(len(plan.source)))
    early = growth.plan(cloud(), 9, 0.3, Streams(0))
    assert early is not None and len(early.source) == 40  # a quarter of the way to 50 is less than there are
    crowd = growth.plan(cloud(80), 9, 0.5, Streams(0))
    assert crowd is not None and len(crowd.source) == 50


def test_growth_resets_opacities():
    growth = Growth(every=1, start=0, stop=1, cap=40, share=0.0, reset_every=3, reset_to=0.2)
    plans = [growth.plan(cloud(), i, 0.5, Streams(0)) for i in range(3)]
    assert [p.restart for p in plans if p] == [(), (), ("opacities",)]
    assert plans[2] is not None
    torch.testing.assert_close(plans[2].values["opacities"].sigmoid(), torch.full((40,), 0.2))


@pytest.mark.parametrize("together", [1, 2, 5])
@pytest.mark.parametrize("opacity", [0.1, 0.7])
def test_splats_that_share_a_place_absorb_what_one_did(together, opacity):
    """Equation 9's condition, integrated numerically: ``int 1 - (1 - o' G(x; S'))^n dx = int o G(x; S) dx``."""
    logit, factor = _shared(torch.tensor([opacity]).double(), torch.tensor([together]))
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    many = 1 - (1 - logit.sigmoid() * torch.exp(-0.5 * (x / factor) ** 2)) ** together
    one = opacity * torch.exp(-0.5 * x**2)
    assert float(torch.trapezoid(many, x)) == pytest.approx(float(torch.trapezoid(one, x)), rel=1e-6)
    assert float(many.max()) == pytest.approx(opacity, rel=1e-6)


def test_what_shares_a_place_shows_a_little_less_sharply():
    """Three splats of opacity 0.9 in the place of one: as much light, and up to 0.054 of alpha elsewhere."""
    logit, factor = _shared(torch.tensor([0.9]).double(), torch.tensor([3]))
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    many = 1 - (1 - logit.sigmoid() * torch.exp(-0.5 * (x / factor) ** 2)) ** 3
    assert float((many - 0.9 * torch.exp(-0.5 * x**2)).abs().max()) == pytest.approx(0.0536, abs=0.0005)


@pytest.mark.parametrize("dying", [True, False])
def test_splats_die_and_come_back_where_opacity_costs(dying):
    """A ball full of opaque splats, fitted to a ball by an L1 loss: hidden ones die of the paper's costs, or never."""
    torch.manual_seed(0)
    cameras = orbit(2, size=24)
    truth = Splats(
        torch.zeros(1, 3), torch.full((1, 3), math.log(0.2)), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1,), 8.0),
        torch.zeros(1, 1, 3),
    )  # fmt: skip
    wanted = render_splats(truth, cameras).rgb
    relocation = Relocation(every=10, start=0.1, stop=0.9, cap=260, share=0.05, dead=0.05)
    splats = Gaussians(count=200, radius=0.3, densification=relocation, opacity=0.95)
    groups = splats.parameter_groups()
    rates = {"means": 4e-3, "scales": 2e-2, "rotations": 2e-2, "opacities": 1e-1, "sh0": 3e-2}
    adam = torch.optim.Adam([{"params": g, "lr": rates[n], "name": n} for n, g in groups.items()])
    lost = born = 0
    for i in range(120):
        out = splats.render(cameras, RenderContext(i / 120, torch.ones(2, 3)))
        cost = 0.01 * (out.stats["splat_opacity"] + out.stats["splat_scale"]) if dying else 0.0
        adam.zero_grad()
        ((out.rgb - wanted).abs().mean() + cost).backward()
        adam.step()
        plan, before = splats.after_step(i, i / 120, Streams(0).at(i)), len(splats)
        if plan is not None:
            kept = len(torch.unique(plan.source))
            lost, born = lost + before - kept, born + len(plan.source) - kept
            apply_refinement(adam, splats, plan)
    # Measured: 665 against 2.
    assert lost > 200 if dying else lost < 20
    assert len(splats) == 260 and born == lost + 60


def test_relocation_moves_the_dead_onto_the_living():
    before = cloud()
    before.values["opacities"][:10] = -6.0
    plan = Relocation(every=1, start=0, stop=1, cap=42, share=0.05).plan(before, 0, 0.5, Streams(3))
    assert plan is not None and len(plan.source) == 42
    assert plan.source[:30].tolist() == list(range(10, 40)) and bool((plan.source >= 10).all())
    assert torch.equal(plan.values["means"], before.values["means"][plan.source])
    twice = torch.bincount(plan.source, minlength=40)[plan.source] > 1
    assert torch.equal(plan.fresh, twice)
    assert bool((plan.values["opacities"][twice] < before.values["opacities"][plan.source][twice]).all())
    torch.testing.assert_close(
        plan.values["opacities"][~twice], before.values["opacities"][plan.source][~twice]
    )


def test_noise_moves_only_what_is_transparent():
    before = cloud()
    before.values["opacities"][0] = -9.0
    moved = Relocation(start=0, stop=1).tremble(before, 0.5, Streams(0))
    assert moved is not None
    lengths = moved.norm(dim=-1)
    assert 1e-4 < float(lengths[0]) < 5e-3 and float(lengths[1:].max()) < 1e-12
    assert Relocation(start=0.6).tremble(before, 0.5, Streams(0)) is None


def test_moments_follow_their_rows():
    torch.manual_seed(0)
    splats = Gaussians(count=6)
    groups = splats.parameter_groups()
    adam = torch.optim.Adam([{"params": group, "lr": 0.01} for group in groups.values()])
    for _ in range(3):
        adam.zero_grad()
        sum(p.square().sum() + p.sum() for g in groups.values() for p in g).backward()
        adam.step()
    old = {name: adam.state[g[0]]["exp_avg"].clone() for name, g in groups.items()}
    source, fresh = torch.tensor([5, 0, 0]), torch.tensor([False, False, True])
    values = {name: g[0].detach()[source] + 1 for name, g in groups.items()}
    apply_refinement(adam, splats, Refinement(source, fresh, values, ("opacities",)))
    assert len(splats) == 3 and len(adam.state) == 5
    for name, (parameter,) in splats.parameter_groups().items():
        assert torch.equal(parameter.detach(), values[name])
        state = adam.state[parameter]
        assert float(state["step"]) == 3
        expected = old[name][source]
        expected[2] = 0
        if name == "opacities":
            expected[:] = 0
        assert torch.equal(state["exp_avg"], expected), name
        assert any(parameter is p for row in adam.param_groups for p in row["params"])
    adam.zero_grad()
    splats.means.sum().backward()
    adam.step()
    with pytest.raises(ValueError, match="the group 'table' has 0 parameters"):
        apply_refinement(adam, splats, Refinement(source, fresh, {"table": torch.zeros(3, 2)}))
    with pytest.raises(ValueError, match=r"means of shape \(3, 3\) cannot get \(2, 3\) for 3 rows"):
        apply_refinement(adam, splats, Refinement(source, fresh, {"means": torch.zeros(2, 3)}))


@pytest.mark.parametrize(
    "bad", [{"every": 0}, {"start": 0.8, "stop": 0.2}, {"cap": 0}, {"share": 1.5}, {"shrink": 0.5}]
)
def test_impossible_settings(bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name}={value} must"):
        Growth(**bad)
