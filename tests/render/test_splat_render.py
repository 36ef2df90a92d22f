"""Splats on the screen: against rays, sampling, invariances, closed forms, and gsplat's torch functions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from threedistill.cameras import orbit, place
from threedistill.render.harmonics import C0, basis, color_of
from threedistill.render.projection import LOW_PASS, project, rotations
from threedistill.render.splat import draw, render_splats
from threedistill.types import Cameras, Splats


def ring(
    views: int, elevation: float = 15.0, distance: float = 2.9, size: int = 64, start: float = 0.0
) -> Cameras:
    """Like ``orbit``, in double precision throughout."""
    azimuth = torch.deg2rad(start + torch.arange(views).double() * (360 / views))
    ones = torch.ones(views, dtype=torch.float64)
    return place(
        azimuth, ones * math.radians(elevation), ones * distance, ones * math.radians(44), size, size
    )


def cloud(count: int, seed: int = 0, degree: int = 0, size: float = -3.0) -> Splats:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Splats(
        0.35 * normal(count, 3), size + 0.4 * normal(count, 3), normal(count, 4), normal(count),
        0.3 * normal(count, (degree + 1) ** 2, 3),
    )  # fmt: skip


def test_a_point_on_a_ray_lands_on_its_pixel():
    cameras = ring(3, elevation=25, size=64).resized(24, 40)
    origins, directions = cameras.rays()
    points = (origins + 2.7 * directions)[1].reshape(-1, 3)
    found = project(
        points, torch.full_like(points, 0.01), torch.eye(3).double().expand(len(points), 3, 3), cameras
    )
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    expected = torch.stack([x, y], -1).reshape(-1, 2).double()
    torch.testing.assert_close(found.means[1], expected, rtol=0, atol=1e-9)


def test_covariances_are_those_of_projected_samples():
    cameras, splats = ring(2, elevation=20, size=64), cloud(6, size=-4.0)
    axes = rotations(splats.quaternions)
    found = project(splats.means, splats.log_scales.exp(), axes, cameras)
    noise = torch.randn(60_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for i in range(6):
        points = splats.means[i] + (noise * splats.log_scales[i].exp()) @ axes[i].T
        ones = torch.ones(len(points), 1, dtype=torch.float64)
        for view, matrix in enumerate(cameras.world_to_clip()):
            clip = torch.cat([points, ones], 1) @ matrix.T
            pixels = clip[:, :2] / clip[:, 3:] * torch.tensor([32.0, -32.0]).double()
            a, b, c = found.conics[view, i]
            ours = torch.linalg.inv(torch.stack([torch.stack([a, b]), torch.stack([b, c])]))
            ours = ours - LOW_PASS * torch.eye(2).double()
            # 60,000 samples: 1 % noise; the affine approximation adds about (scale / distance)^2.
            assert float((torch.cov(pixels.T) - ours).norm() / ours.norm()) < 0.03


def test_what_is_behind_the_camera_is_hidden():
    cameras = ring(1, elevation=0, distance=2.0)
    means = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.99], [0.0, 0.0, 2.0], [0.0, 0.0, 5.0]]).double()
    found = project(means, torch.full((4, 3), 0.1).double(), torch.eye(3).double().expand(4, 3, 3), cameras)
    assert found.depths[0].tolist() == [pytest.approx(2.0), -1, -1, -1]
    assert found.means.isfinite().all() and found.conics.isfinite().all()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_are_orthonormal(degree):
    nodes, weights = _legendre(12)
    phi = torch.arange(24).double() * (2 * math.pi / 24)
    z, angle = torch.meshgrid(nodes, phi, indexing="ij")
    ring = (1 - z**2).sqrt()
    directions = torch.stack([ring * angle.cos(), ring * angle.sin(), z], -1).reshape(-1, 3)
    area = (weights[:, None] * (2 * math.pi / 24)).expand(-1, 24).reshape(-1)
    y = basis(directions, degree)
    gram = torch.einsum("n,ni,nj->ij", area, y, y)
    torch.testing.assert_close(gram, torch.eye(y.shape[1]).double(), rtol=0, atol=1e-12)


def _legendre(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def test_the_signs_are_those_of_splat_files():
    """Degree 1 along the axes, as INRIA's viewer evaluates it: ``-C1 y, C1 z, -C1 x``."""
    c1 = math.sqrt(3 / (4 * math.pi))
    found = basis(torch.eye(3).double(), 1)
    expected = torch.tensor([[C0, 0, 0, -c1], [C0, -c1, 0, 0], [C0, 0, c1, 0]]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert color_of(torch.full((1, 1, 3), 10.0), None).tolist() == [[1, 1, 1]]
    with pytest.raises(ValueError, match="degree 4"):
        basis(torch.eye(3), 4)
    with pytest.raises(ValueError, match="K = 1, 4, 9 or 16"):
        color_of(torch.zeros(2, 5, 3), None)


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_of_everything_by_differences(antialiased):
    splats, cameras = cloud(3, seed=2, degree=1, size=-2.0), ring(1, elevation=30, size=6)
    leaves = (
        splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits, splats.sh,
        torch.rand(1, 3, generator=torch.Generator().manual_seed(0)).double(),
    )  # fmt: skip

    def run(means, scales, quaternions, logits, sh, background):
        splats = Splats(means, scales, quaternions, logits, sh, antialiased=antialiased)
        out = render_splats(splats, cameras, background)
        return out.rgb, out.opacity, out.depth

    for leaf in leaves:
        leaf.requires_grad_()
    assert torch.autograd.gradcheck(run, leaves, atol=1e-5)


def test_turning_everything_changes_nothing():
    splats, cameras = cloud(80), ring(2, size=32)
    angle = torch.tensor([0.3, -1.1, 0.7]).double()
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0, -angle[2], angle[1]], [angle[2], 0, -angle[0]], [-angle[1], angle[0], 0]]).double()
    )
    rotated = cameras.c2w.clone()
    rotated[:, :3] = turn @ cameras.c2w[:, :3]
    scales, opacities = splats.log_scales.exp(), splats.opacity_logits.sigmoid()
    before = draw(splats.means, scales, splats.quaternions, opacities, splats.sh, cameras)
    axes = turn @ rotations(splats.quaternions)
    after = draw(
        splats.means @ turn.T, scales, _quaternions(axes), opacities, splats.sh, replace(cameras, c2w=rotated)
    )
    torch.testing.assert_close(after.rgb, before.rgb, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.depth, before.depth, rtol=0, atol=1e-8)


def _quaternions(matrices: torch.Tensor) -> torch.Tensor:
    from scipy.spatial.transform import Rotation

    x, y, z, w = torch.from_numpy(Rotation.from_matrix(matrices.numpy()).as_quat()).T
    return torch.stack([w, x, y, z], 1)


def test_a_splat_thinner_than_a_pixel_keeps_its_light():
    """Opaque, 0.25 pixels wide: ``2 pi sigma^2`` pixels of light, wherever it lies between pixel centres."""
    cameras = ring(1, elevation=0, distance=3.0, size=32)
    pixel = 2 * 3.0 * math.tan(math.radians(22)) / 32
    true = 2 * math.pi * 0.25**2
    for shift in torch.rand(6, 2, generator=torch.Generator().manual_seed(0)).double() * pixel:
        splat = Splats(
            torch.cat([shift, torch.zeros(1).double()])[None],
            torch.full((1, 3), math.log(0.25 * pixel)).double(),
            torch.tensor([[1.0, 0, 0, 0]]).double(), torch.full((1,), 12.0).double(), torch.zeros(1, 1, 3).double(),
        )  # fmt: skip
        kept = float(render_splats(replace(splat, antialiased=True), cameras).opacity.sum())
        blurred = float(render_splats(splat, cameras).opacity.sum())
        assert kept == pytest.approx(true, rel=0.05) and blurred == pytest.approx(5.8 * true, rel=0.05)
    # A splat of many pixels hardly needs it.
    wide = replace(splat, log_scales=splat.log_scales + math.log(40))
    ratio = (
        render_splats(replace(wide, antialiased=True), cameras).opacity / render_splats(wide, cameras).opacity
    )
    assert float(ratio.nan_to_num(1).min()) > 0.99


@pytest.mark.parametrize("normals", ["axis", "depth"])
def test_a_wall_has_its_distance_and_its_normal(normals):
    """Flat discs on the plane z = 0.2, tilted cameras: the distance of ray and plane, and +Z."""
    grid = torch.linspace(-1, 1, 141)
    x, y = torch.meshgrid(grid, grid, indexing="ij")
    means = torch.stack([x, y, torch.full_like(x, 0.2)], -1).reshape(-1, 3)
    count = len(means)
    wall = Splats(
        means, torch.tensor([0.01, 0.01, 0.001]).log().expand(count, 3),
        torch.tensor([1.0, 0, 0, 0]).expand(count, 4), torch.full((count,), 5.0), torch.zeros(count, 1, 3),
    )  # fmt: skip
    cameras = orbit(1, elevation=20, size=128, start=15)
    out = render_splats(wall, cameras, normals=normals)
    origins, directions = cameras.rays()
    expected = (0.2 - origins[..., 2]) / directions[..., 2]
    middle = (slice(None), slice(48, 80), slice(48, 80))
    # Discs are sorted by their centres, so what is seen is a little nearer than the wall: 0.009 m measured.
    assert float((out.depth[..., 0] - expected)[middle].abs().max()) < 0.02
    assert out.normal is not None
    assert float(out.normal[middle][..., 2].min()) > 0.99


def test_the_background_shows_through():
    splats, cameras = cloud(50), ring(2, size=16)
    background = torch.rand(2, 3, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    out = render_splats(splats, cameras, background)
    grad = torch.autograd.grad(out.rgb.sum(), background)[0]
    torch.testing.assert_close(grad[:, 0], (1 - out.opacity).sum((1, 2, 3)))
    assert float(out.rgb.detach().min()) >= 0 and float(out.rgb.detach().max()) <= 1
    white = render_splats(splats, cameras)
    torch.testing.assert_close(white.rgb - out.rgb, (1 - out.opacity) * (1 - background[:, None, None]))


def test_projection_and_harmonics_are_gsplats():
    """gsplat's rasteriser needs a GPU, its torch functions for everything before it do not."""
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    splats, cameras = cloud(400, degree=3), ring(3, elevation=25, size=64).resized(48, 80)
    axes, scales = rotations(splats.quaternions), splats.log_scales.exp()
    ours = project(splats.means, scales, axes, cameras)
    covariance, _ = torch_impl._quat_scale_to_covar_preci(splats.quaternions, scales, True, False, False)
    torch.testing.assert_close((axes * scales[:, None] ** 2) @ axes.mT, covariance, rtol=0, atol=1e-12)
    opengl_to_opencv = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]).double())
    views = torch.linalg.inv(cameras.c2w @ opengl_to_opencv)
    intrinsics = torch.zeros(3, 3, 3).double()
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = 24 / torch.tan(cameras.fov_y / 2)
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = 40, 24, 1
    radii, means, depths, conics, _ = torch_impl._fully_fused_projection(
        splats.means, covariance, views, intrinsics, 80, 48, eps2d=LOW_PASS
    )
    seen = (radii > 0).all(-1)
    assert float(seen.double().mean()) > 0.9
    for a, b in ((ours.means, means), (ours.conics, conics), (ours.depths, depths)):
        torch.testing.assert_close(a[seen], b[seen], rtol=1e-9, atol=1e-9)
    directions = torch.nn.functional.normalize(splats.means, dim=-1)
    for degree in range(4):
        part = splats.sh[:, : (degree + 1) ** 2]
        expected = torch_impl._spherical_harmonics(degree, directions, part)
        mine = torch.einsum("nk,nkc->nc", basis(directions, degree), part)
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
