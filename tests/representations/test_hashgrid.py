"""The hash-grid field: dense integration, finite differences, determinism, checkpoints and its schema."""

import math

import pytest
import torch

from tests.representations.balls import iou
from threedistill.cameras import CameraSampler, orbit
from threedistill.protocols import RenderContext, Representation
from threedistill.representations import hashgrid
from threedistill.representations.hashgrid import HashGrid
from threedistill.rng import Streams

SMALL = {
    "levels": 3, "log2_entries": 8, "base_resolution": 4, "finest_resolution": 12, "hidden": 8, "hidden_layers": 1,
    "start_levels": 2, "steps": 40, "occupancy_resolution": 16,
}  # fmt: skip


def make(seed: int = 0, spread: float = 0.3, **changes) -> HashGrid:
    """A field with something in it: random features instead of the tiny initial ones."""
    torch.manual_seed(seed)
    field = HashGrid(**{**SMALL, **changes})
    with torch.no_grad():
        field.table.uniform_(-spread, spread)
    field.progress.fill_(1.0)
    for iteration in range(6):
        field.occupancy.refresh(field.density, Streams(seed, iteration=iteration))
    return field


def context(views: int, **changes) -> RenderContext:
    return RenderContext(**{"progress": 1.0, "background": torch.ones(views, 3), **changes})


def test_is_a_representation_with_named_groups():
    field = make()
    assert isinstance(field, Representation)
    groups = field.parameter_groups()
    assert list(groups) == ["table", "mlp"]
    assert {id(p) for g in groups.values() for p in g} == {id(p) for p in field.parameters()}


def test_render_is_the_volume_integral_taken_densely():
    field = make().double()
    cameras = orbit(2, elevation=25, size=12)
    background = torch.tensor([[1.0, 1.0, 1.0], [0.1, 0.5, 0.9]])
    out = field.render(cameras, context(2, background=background))
    origins, directions = (r.double() for r in cameras.rays())
    # Twenty times finer, over the whole box, no occupancy, plain loops over t.
    step = field.step / 20
    transmittance = torch.ones(2, 12, 12, dtype=torch.float64)
    rgb, opacity, depth = torch.zeros(2, 12, 12, 3).double(), torch.zeros(2, 12, 12).double(), 0.0
    with torch.no_grad():
        for t in torch.arange(1.0, 4.8, step, dtype=torch.float64):
            points = (origins + directions * t).reshape(-1, 3)
            inside = (points.abs() <= 1).all(-1)
            sigma = (field.density(points) * inside).view(2, 12, 12)
            weight = transmittance * (1 - torch.exp(-sigma * step))
            transmittance = transmittance - weight
            rgb += weight[..., None] * field.albedo(points).view(2, 12, 12, 3)
            opacity, depth = opacity + weight, depth + weight * t
    image = rgb + (1 - opacity)[..., None] * background[:, None, None, :]
    # Measured 0.030: the longer step at the field's thinnest parts.
    assert float((out.opacity[..., 0] - opacity).abs().max()) < 0.04
    assert float((out.rgb - image).abs().max()) < 0.04
    solid = opacity > 0.5
    assert float((out.depth[..., 0] - depth / opacity)[solid].abs().max()) < field.step
    assert iou(out.opacity[..., 0] > 0.5, solid) > 0.97


@pytest.mark.parametrize("group", ["table", "mlp"])
def test_gradients_are_finite_differences(group):
    field = make(spread=0.2, distortion=True).double()
    cameras = orbit(2, elevation=25, size=8)
    target = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(1)).double()

    def loss() -> torch.Tensor:
        out = field.render(cameras, context(2))
        return ((out.rgb - target) ** 2).mean() + (out.opacity * out.depth).mean() + out.stats["distortion"]

    loss().backward()
    generator = torch.Generator().manual_seed(2)
    for parameter in field.parameter_groups()[group]:
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        epsilon = 1e-7
        with torch.no_grad():
            parameter += epsilon * direction
            above = float(loss())
            parameter -= 2 * epsilon * direction
            below = float(loss())
            parameter += epsilon * direction
        analytic = float((parameter.grad * direction).sum())
        assert analytic == pytest.approx((above - below) / (2 * epsilon), rel=1e-4, abs=1e-9)


def test_shaded_colours_and_normals_depend_on_the_parameters():
    field = make()
    out = field.render(orbit(1, size=12), context(1, shading="normal"))
    assert out.normal is not None and not out.normal.isnan().any()
    lengths = out.normal.norm(dim=-1)
    assert torch.allclose(lengths[out.opacity[..., 0] > 0.5], torch.ones(()), atol=1e-4)
    out.rgb.square().mean().backward()
    assert field.table.grad is not None and float(field.table.grad.abs().max()) > 0


def test_normals_of_the_initial_blob_face_outward_and_orientation_is_zero():
    torch.manual_seed(0)
    field = HashGrid(**{**SMALL, "normals": "always", "distortion": True})
    cameras = orbit(2, elevation=30, size=24)
    out = field.render(cameras, context(2, progress=0.0))
    origins, directions = cameras.rays()
    assert out.normal is not None
    points = torch.nn.functional.normalize(origins + directions * out.depth, dim=-1)
    solid = out.opacity[..., 0] > 0.9
    assert float((out.normal * points).sum(-1)[solid].min()) > 0.98  # taps a coarse cell (0.4 m) apart
    assert float(out.stats["orientation"]) < 1e-3
    assert 0 < float(out.stats["distortion"]) < 1
    plain = make().render(cameras, context(2))
    assert plain.normal is None and "orientation" not in plain.stats and "distortion" not in plain.stats


def test_the_first_render_is_a_soft_ball_and_occupancy_holds_it():
    torch.manual_seed(0)
    field = HashGrid()
    views = orbit(1, size=32)
    with torch.no_grad():
        out = field.render(views, context(1, progress=0.0))
        field.occupancy.occupied.fill_(True)
        field.occupancy.floor.zero_()
        everything = field.render(views, context(1, progress=0.0))
    # What is thinner than occupancy_alpha per step is not shown; measured 0.080 on the blob's soft rim.
    assert float((out.rgb - everything.rgb).abs().max()) < 0.1
    assert float((out.rgb - everything.rgb).abs().mean()) < 0.03
    assert float(out.opacity[0, 16, 16]) > 0.95 and float(out.opacity[0, 0, 0]) < 0.01
    assert float(out.stats["samples"]) < 0.6 * float(everything.stats["samples"])


def test_backgrounds_show_exactly_where_the_field_is_not():
    field = make()
    a = field.render(orbit(2, size=12), context(2, background=torch.zeros(2, 3)))
    b = field.render(orbit(2, size=12), context(2, background=torch.ones(2, 3)))
    assert torch.allclose(b.rgb - a.rgb, (1 - a.opacity).expand_as(a.rgb), atol=1e-6)


def test_two_ranks_with_half_of_the_views_render_what_one_process_does():
    field = make()
    cameras = CameraSampler(views=4).sample(Streams(2, iteration=5), 12)
    whole = field.render(cameras, context(4, rng=Streams(2, iteration=5)))
    half = field.render(cameras[2:], context(2, rng=Streams(2, iteration=5, view_offset=2)))
    assert torch.equal(whole.rgb[2:], half.rgb)


def test_jitter_moves_the_samples_but_not_the_picture():
    field = make()
    plain = field.render(orbit(1, size=24), context(1))
    jittered = field.render(orbit(1, size=24), context(1, rng=Streams(0)))
    assert not torch.equal(plain.depth, jittered.depth)
    assert float((plain.rgb - jittered.rgb).abs().mean()) < 0.01


def test_one_and_two_threads_agree_bit_for_bit():
    field, cameras = make(), orbit(2, size=24)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            field.zero_grad()
            out = field.render(cameras, context(2, rng=Streams(1)))
            (out.rgb * torch.linspace(0, 1, 24)[:, None]).sum().backward()
            assert field.table.grad is not None
            results.append((out.rgb.detach().clone(), field.table.grad.clone()))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-7)


def test_too_many_samples_lengthen_the_step_for_all_views():
    field = make()
    full = field.render(orbit(3, size=16), context(3))
    field.max_samples = int(full.stats["samples"]) // 3
    with pytest.warns(UserWarning, match=r"raise representation\.model\.max_samples"):
        limited = field.render(orbit(3, size=16), context(3))
    assert float(limited.stats["samples"]) <= field.max_samples
    assert float((full.rgb - limited.rgb).abs().mean(dim=(1, 2, 3)).max()) < 0.05


def test_pictures_without_gradients_go_through_in_pieces(monkeypatch):
    field = make(normals="always")
    ask = context(
        2, shading="lambertian", light=torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), rng=Streams(0)
    )
    whole = field.render(orbit(2, size=20), ask)
    monkeypatch.setattr(hashgrid, "_RAYS_AT_ONCE", 130)
    with torch.no_grad():
        pieces = field.render(orbit(2, size=20), ask)
    assert whole.normal is not None and pieces.normal is not None
    for a, b in ((whole.rgb, pieces.rgb), (whole.depth, pieces.depth), (whole.normal, pieces.normal)):
        assert torch.allclose(a, b, atol=1e-6)
    for name, value in whole.stats.items():
        assert float(pieces.stats[name]) == pytest.approx(float(value), rel=1e-4), name


def test_checkpoint_restores_the_picture_and_what_comes_after():
    field, other = make(0), make(1)
    other.load_state_dict(field.state_dict())
    for twin in (field, other):
        twin.after_step(15, 0.7, Streams(0, iteration=15))
    a, b = (f.render(orbit(2, size=16), context(2, rng=Streams(4))) for f in (field, other))
    assert torch.equal(a.rgb, b.rgb) and torch.equal(a.depth, b.depth)
    assert float(other.progress) == pytest.approx(0.7)


def test_occupancy_is_refreshed_on_schedule_only():
    field = make(occupancy_every=4)
    before = field.occupancy.peak.clone()
    field.after_step(2, 0.5, Streams(0, iteration=2))
    assert torch.equal(field.occupancy.peak, before)
    field.after_step(3, 0.5, Streams(0, iteration=3))
    assert not torch.equal(field.occupancy.peak, before)


def test_levels_and_hardness_follow_progress():
    field = make(levels=6, finest_resolution=32, start_levels=2, coarse_until=0.5)
    assert [field.active_levels(p) for p in (0.0, 0.13, 0.26, 0.49, 0.5, 1.0)] == [2, 3, 4, 5, 6, 6]
    assert field.scale(0.0) == pytest.approx(5.0) and field.scale(0.9) == pytest.approx(40.0)
    assert field.scale(0.25) == pytest.approx(math.sqrt(5 * 40))
    assert (
        field.march_step(0.0)
        > field.march_step(1.0)
        == pytest.approx(max(field.step, 0.75 * field.cell(1.0)))
    )
    field.render(orbit(1, size=8), context(1, progress=0.0)).rgb.sum().backward()
    unused = field.layout.offsets[field.start_levels]
    assert field.table.grad is not None
    assert (
        float(field.table.grad[:unused].abs().max()) > 0 and float(field.table.grad[unused:].abs().max()) == 0
    )


def test_potential_of_inverts_the_activation():
    field = make()
    for density in (0.01, 1.0, 30.0, 400.0):
        again = field.activate(torch.tensor([field.potential_of(density)], dtype=torch.float64))
        assert float(again) == pytest.approx(density, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start_levels": 9}, "start_levels=9"),
        ({"coarse_until": 1.5}, "coarse_until=1.5"),
        ({"base_resolution": 200}, "base_resolution=200"),
        ({"hidden": 65}, "hidden=65"),
        ({"hidden_layers": 0}, "hidden_layers=0"),
        ({"bound": 0.0}, "bound=0.0 must lie in"),
        ({"max_samples": 0}, "max_samples=0"),
    ],
)
def test_refuses_what_cannot_work(changes, words):
    with pytest.raises(ValueError, match=words):
        HashGrid(**changes)
