"""Extraction and surface colours on fields whose surface is known in closed form."""

import pytest
import torch

from threedistill.errors import ThreedistillError
from threedistill.representations.hashgrid import HashGrid
from threedistill.representations.surface import silhouette_level


class Analytic(HashGrid):
    """A field with a given potential and colour instead of a network."""

    def __init__(self, potential, color=lambda p: torch.zeros_like(p), **changes) -> None:
        self.given = (potential, color)
        # The finest resolution decides how finely rays are marched.
        small = {"levels": 2, "log2_entries": 6, "base_resolution": 4, "finest_resolution": 128}
        super().__init__(**{**small, "start_levels": 2, **changes})
        self.progress.fill_(1.0)
        self.occupancy.refresh(self.density)

    def raw(self, points, progress=None):
        return self.given[0](points), self.given[1](points)


def ball(radius: float, slope: float):
    return lambda p: slope * (radius - p.norm(dim=-1))


@pytest.mark.parametrize(("slope", "cells"), [(400.0, 0.5), (60.0, 1.0), (12.0, 2.0)])
def test_a_ball_comes_out_with_its_radius_from_hard_to_foggy(slope, cells):
    resolution = 96
    field = Analytic(ball(0.5, slope))
    mesh = field.extract(resolution)
    radii = mesh.vertices.norm(dim=-1)
    cell = 2 / resolution
    # In fog the silhouette (half opacity through the rim) lies outside the half-density radius; find it in closed form.
    offsets = torch.linspace(0, 1, 2001, dtype=torch.float64)
    t = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    distance = (offsets[:, None] ** 2 + t**2).sqrt()
    thickness = (40 * torch.nn.functional.softplus(slope * (0.5 - distance))).sum(-1) * (t[1] - t[0])
    silhouette = float(offsets[(1 - torch.exp(-thickness)) > 0.5].max())
    assert float((radii - silhouette).abs().max()) < max(cells, 1.0) * cell
    assert float(radii.std()) < 0.5 * cell


def test_the_mesh_is_closed_and_wound_outward():
    mesh = Analytic(ball(0.5, 1000.0)).extract(48)
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    forward = {tuple(e) for e in edges.tolist()}
    assert len(forward) == len(edges) and all((b, a) in forward for a, b in forward)
    corners = mesh.vertices[mesh.faces].double()
    volume = float((corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6)
    assert volume == pytest.approx(4 / 3 * torch.pi * 0.5**3, rel=0.05)


def test_faint_fog_around_the_object_does_not_become_surface():
    def hazy(p):
        return torch.maximum(
            200 * (0.4 - p.norm(dim=-1)), torch.full((len(p),), -6.0)
        )  # density 0.1 elsewhere

    mesh = Analytic(hazy).extract(64)
    assert float((mesh.vertices.norm(dim=-1) - 0.4).abs().max()) < 1.5 * 2 / 64


def test_a_surface_at_the_border_of_the_box_is_capped():
    mesh = Analytic(lambda p: 100 * (0.3 - p[:, [0, 2]].norm(dim=-1))).extract(48)  # an endless rod along y
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]).sort(-1).values
    _, counts = edges.unique(dim=0, return_counts=True)
    assert bool((counts == 2).all())
    assert float(mesh.vertices.abs().max()) < 1.1


def test_empty_and_full_fields_say_what_to_change():
    with pytest.raises(ThreedistillError, match=r"the field is empty.*sparsity.*blob_strength"):
        Analytic(lambda p: torch.full((len(p),), -20.0)).extract(32)
    with pytest.raises(ThreedistillError, match=r"the field is full.*sparsity.*background"):
        Analytic(lambda p: torch.full((len(p),), 20.0)).extract(32)


def test_silhouette_level_prefers_typical_where_it_is_free():
    peak = torch.tensor([0.0, 0.1, 0.2, 50.0, 60.0])
    opacity = torch.tensor([0.0, 0.0, 0.1, 1.0, 1.0])
    assert silhouette_level(peak, opacity, 20.0) == (pytest.approx(20.0), 1.0)
    assert 0.2 < silhouette_level(peak, opacity, 0.01)[0] < 1.0
    level, agreement = silhouette_level(peak, opacity, 1000.0)
    assert level < 50.0 and agreement == 1.0


def test_silhouette_level_reports_imperfect_agreement():
    peak = torch.tensor([1.0, 2.0, 3.0, 4.0])
    opacity = torch.tensor([0.0, 1.0, 0.0, 1.0])  # no level separates these
    level, agreement = silhouette_level(peak, opacity, 0.5, slack=0.0)
    assert 1.0 <= level < 2.0 and agreement == pytest.approx(2 / 3)


def test_surface_colour_is_what_a_viewer_sees_not_what_lies_at_the_level_set():
    def color(p):  # red only in a thin skin, green outside, blue inside
        r = p.norm(dim=-1, keepdim=True)
        red = ((r < 0.5) & (r > 0.42)).float()
        return 20 * (torch.cat([red, (r >= 0.5).float(), (r <= 0.42).float()], -1) - 0.5)

    # Hardly any density outside 0.48, so light is absorbed between 0.48 and 0.42.
    field = Analytic(ball(0.48, 80.0), color)
    normals = torch.nn.functional.normalize(
        torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    colors = field.surface_color(0.51 * normals, normals)
    assert float(colors[:, 0].min()) > 0.85
    assert float(field.albedo(0.51 * normals)[:, 1].min()) > 0.99  # a point query would have said green


def test_surface_colour_in_empty_space_is_the_points_own():
    field = Analytic(ball(0.3, 100.0), lambda p: torch.full_like(p, 2.0))
    points = torch.tensor([[0.0, 0.8, 0.0]])
    assert torch.allclose(
        field.surface_color(points, torch.tensor([[0.0, 1.0, 0.0]])), torch.sigmoid(torch.tensor(2.0))
    )
