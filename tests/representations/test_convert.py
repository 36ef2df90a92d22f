"""Whatever shows a known object shows it after every conversion; conversions repeat themselves; files become starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.rates import RATES
from tests.representations.balls import ball_mesh, iou, psnr
from threedistill.cameras import orbit
from threedistill.errors import ThreedistillError
from threedistill.protocols import RenderContext, Representation
from threedistill.render.mesh import render_mesh
from threedistill.render.splat import render_splats
from threedistill.representations.convert import ConvertSettings, as_mesh, as_splats, convert, without_crumbs
from threedistill.representations.dmtet import DMTet
from threedistill.representations.gaussians import Gaussians
from threedistill.representations.hashfield import HashSettings
from threedistill.representations.hashgrid import HashGrid
from threedistill.rng import Streams
from threedistill.types import Mesh, Splats

SMALL = {
    "hashgrid": lambda: HashGrid(
        log2_entries=13, levels=6, start_levels=3, finest_resolution=64, occupancy_resolution=32, occupancy_every=8
    ),
    "gaussians": lambda: Gaussians(count=2000),
    "dmtet": lambda: DMTet(
        resolution=20, color=HashSettings(levels=6, log2_entries=12, start_levels=3),
        shape=HashSettings(levels=4, log2_entries=12, base_resolution=4, finest_resolution=32, start_levels=2),
    ),
}  # fmt: skip
FULL = {"hashgrid": HashGrid, "gaussians": lambda: Gaussians(count=8000), "dmtet": DMTet}
KINDS = tuple(SMALL)


def mushroom() -> Mesh:
    """A known object with a thin part, a wide part and two colours, of the Toybox world."""
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.world import build

    return build(parse("a red mushroom").scene, None)


def fresh(builders: dict[str, Callable[[], Representation]], kind: str) -> Representation:
    torch.manual_seed(0)
    return builders[kind]()


@torch.no_grad()
def views(thing: Representation | Mesh | Splats, size: int) -> tuple[Tensor, Tensor]:
    """(8, size, size) silhouettes and colours over white of eight views, as a stage that goes on would show them."""
    cameras, white = orbit(8, size=size), torch.ones(8, 3)
    if isinstance(thing, Mesh):
        out = render_mesh(thing, cameras, background=white)
    elif isinstance(thing, Splats):
        out = render_splats(thing, cameras, white)
    else:
        if isinstance(thing, HashGrid | DMTet):
            thing.settle()
        out = thing.render(cameras, RenderContext(progress=0.0, background=white))
    return out.opacity[..., 0] > 0.5, out.rgb


def table(
    builders: dict[str, Callable[[], Representation]], settings: ConvertSettings
) -> dict[tuple[str, str], tuple[float, float]]:
    """IoU of the silhouettes and PSNR before and after, for each of the 3 x 3 conversions."""
    sources: dict[str, Representation] = {}
    for kind in KINDS:
        sources[kind] = fresh(builders, kind)
        convert(mushroom(), sources[kind], settings, Streams(0), RATES)
    result = {}
    for source in KINDS:
        before = views(sources[source], settings.size)
        for target in KINDS:
            converted = fresh(builders, target)
            convert(sources[source], converted, settings, Streams(1), RATES)
            after = views(converted, settings.size)
            result[source, target] = iou(before[0], after[0]), psnr(before[1], after[1])
    print({f"{a} -> {b}": f"{i:.3f}, {p:.1f} dB" for (a, b), (i, p) in result.items()})
    return result


def test_three_by_three_conversions_keep_the_silhouette_small() -> None:
    """The small version of the table below: coarser, and in the default run."""
    found = table(SMALL, ConvertSettings(resolution=48, steps=100, polish=30, size=48, bank=16))
    for pair, (overlap, quality) in found.items():
        assert overlap >= 0.95 and quality >= 22, (pair, overlap, quality)
        if pair[0] == pair[1]:
            assert overlap == 1, pair


@pytest.mark.long
def test_three_by_three_conversions_keep_the_silhouette() -> None:
    found = table(FULL, ConvertSettings())
    for pair, (overlap, quality) in found.items():
        assert overlap >= 0.95 and quality >= 25, (pair, overlap, quality)
        if pair[0] == pair[1]:
            assert overlap == 1, pair


# ---- surfaces and clouds -------------------------------------------------------------------------------------------


def test_a_ball_of_splats_is_a_ball_of_triangles_and_back() -> None:
    """Closed form: the radius of what comes out, and which half is red."""
    ball = ball_mesh(0.6, rings=16)
    cloud = as_splats(ball, 3000, Streams(3))
    assert isinstance(cloud, Splats) and len(cloud) == 3000
    assert as_splats(cloud) is cloud
    # A splat's middle lies half its thickness below the surface.
    radii = cloud.means.norm(dim=1)
    assert float(radii.min()) > 0.55 and float(radii.max()) <= 0.6 + 1e-5
    mesh = as_mesh(cloud, 48)
    assert mesh.normals is not None and mesh.colors is not None
    outside = mesh.vertices.norm(dim=1)
    assert 0.57 < float(outside.median()) < 0.65
    outward = (mesh.normals * mesh.vertices).sum(1) / outside
    assert float(outward.median()) > 0.95
    upper = (mesh.vertices[:, 1] > 0.2) & (outside > 0.55)
    torch.testing.assert_close(
        mesh.colors[upper].median(0).values, torch.tensor([0.9, 0.2, 0.1]), atol=0.05, rtol=0
    )
    assert as_mesh(ball, 48) is ball


def test_specks_and_what_lies_outside_are_not_handed_on() -> None:
    ball, speck = ball_mesh(0.6, 16), ball_mesh(0.05, 8)
    far = ball_mesh(0.5, 16)
    parts = [ball.vertices, speck.vertices + 0.7, far.vertices + torch.tensor([0.6, 0.0, 0.0])]
    starts = [0, len(parts[0]), len(parts[0]) + len(parts[1])]
    faces = torch.cat([m.faces + start for m, start in zip((ball, speck, far), starts)])
    mesh = Mesh(torch.cat(parts), faces)
    kept = without_crumbs(mesh, bound=0.95)
    used = mesh.vertices[kept.faces.unique()]
    assert float(used.abs().max()) < 0.95
    assert not bool((kept.faces >= starts[1]).logical_and(kept.faces < starts[2]).any()), "the speck"
    assert len(kept.faces[kept.faces[:, 0] < starts[1]]) >= 0.9 * len(ball.faces)
    assert len(without_crumbs(ball).faces) >= 0.9 * len(ball.faces)
    with pytest.raises(ThreedistillError, match=r"within 0\.10 m"):
        without_crumbs(ball, bound=0.1)


def test_a_conversion_depends_on_its_streams_only() -> None:
    """Whatever has been drawn before, and in this order or another."""

    def once(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(int(torch.randint(1 << 30, ())))
        target = fresh(SMALL, "gaussians")
        convert(ball_mesh(0.5, 8), target, ConvertSettings(polish=4, size=16, bank=4), Streams(seed), RATES)
        return target.state_dict()  # type: ignore[attr-defined]

    first, second, other = once(0), once(0), once(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["means"], other["means"])


def test_the_same_class_of_another_size_is_converted_not_copied() -> None:
    small = Gaussians(count=50)
    large = Gaussians(count=80, sh_degree=1)
    convert(small, large, ConvertSettings(polish=0, size=16, bank=4), Streams(0), RATES)
    assert len(large) == 50
    assert torch.equal(large.means, small.means) and torch.equal(large.sh0, small.sh0)
    assert large.sh_rest is not None and not large.sh_rest.any()


def test_nothing_to_convert_is_one_clear_line() -> None:
    field = HashGrid(
        log2_entries=8,
        levels=2,
        start_levels=1,
        initial_scale=1e-3,
        density_scale=1e-3,
        occupancy_resolution=8,
    )
    with pytest.raises(ThreedistillError, match="empty"):
        convert(field, fresh(SMALL, "dmtet"), ConvertSettings(size=16, bank=4), Streams(0), RATES)
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    with pytest.raises(ThreedistillError, match="empty"):
        convert(empty, fresh(SMALL, "dmtet"), ConvertSettings(size=16, bank=4), Streams(0), RATES)


@pytest.mark.parametrize(
    ("values", "line"), [({"steps": 0}, "steps=0"), ({"bank": 2}, "bank=2"), ({"size": 4}, "size=4")]
)
def test_settings_out_of_range(values: dict[str, int], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        ConvertSettings(**values)
