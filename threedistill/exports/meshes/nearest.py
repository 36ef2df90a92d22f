"""The point of a surface that lies nearest to a given one: how a finer mesh's colours and normals reach a coarser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.exports.meshes.normal_map import normals_of, shading_normals
from threedistill.protocols import Surface
from threedistill.types import Mesh

__all__ = ["MeshField", "NearestSurface"]

_CANDIDATES = 8
_CHUNK = 1 << 15


class NearestSurface:
    """Finds the nearest point of a mesh among the faces around the nearest of many points spread over it.

    The samples are dense (never fewer than one per face), so the face found is the nearest one or a neighbour that is
    farther by less than their spacing; on that face the point is exact.

    Arguments:
        mesh: the surface.
        samples: points spread over it by area, at least one per face.
    """

    def __init__(self, mesh: Mesh, samples: int = 200_000) -> None:
        from scipy.spatial import KDTree

        self.mesh = mesh
        self.corners = mesh.vertices.detach().cpu().double()[mesh.faces.cpu()]
        normal = torch.linalg.cross(
            self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0]
        )
        area = normal.norm(dim=1)
        self.normals = torch.nn.functional.normalize(normal, dim=1)
        share = (area / area.sum().clamp(min=1e-30) * samples).ceil().long().clamp(min=1)
        self._owner = torch.arange(len(area)).repeat_interleave(share)
        first = torch.cumsum(share, 0) - share
        k = (torch.arange(len(self._owner)) - first[self._owner] + 1).double()
        # Roberts' R2 sequence, folded into the triangle: even without random numbers.
        u, v = (k * 0.7548776662466927 + 0.5) % 1, (k * 0.5698402909980532 + 0.5) % 1
        fold = u + v > 1
        u, v = torch.where(fold, 1 - u, u), torch.where(fold, 1 - v, v)
        a, b, c = self.corners[self._owner].unbind(1)
        self._tree = KDTree((a + u[:, None] * (b - a) + v[:, None] * (c - a)).numpy())

    def at(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"] | None = None
    ) -> tuple[Int[Tensor, "N"], Float[Tensor, "N 3"]]:
        """The faces and the barycentrics of the nearest points.

        Arguments:
            points: anywhere.
            normals: faces that look away from these are taken only where there is no other (thin walls).
        """
        faces, weights = [], []
        for start in range(0, len(points), _CHUNK):
            part = points[start : start + _CHUNK].detach().cpu().double()
            toward = None if normals is None else normals[start : start + _CHUNK].detach().cpu().double()
            found = self._nearest(part, toward)
            faces.append(found[0])
            weights.append(found[1])
        return torch.cat(faces), torch.cat(weights)

    def shading(self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """The unit normals that the nearest points are lit with, in float64; the mesh's normal map counts."""
        face, where = self.at(points, normals)
        if self.mesh.normal_map is not None and self.mesh.uv is not None:
            return shading_normals(self.mesh, face, where).double()
        normal = (normals_of(self.mesh)[self.mesh.faces[face]].double() * where[..., None]).sum(1)
        return torch.nn.functional.normalize(normal, dim=1)

    def _nearest(self, points: Tensor, toward: Tensor | None) -> tuple[Tensor, Tensor]:
        count = min(_CANDIDATES, len(self._owner))
        near = np.asarray(self._tree.query(points.numpy(), k=count)[1]).reshape(len(points), count)
        candidate = self._owner[torch.from_numpy(near.astype(np.int64))]
        barycentric = _closest(points[:, None], self.corners[candidate])
        place = (self.corners[candidate] * barycentric[..., None]).sum(2)
        distance = (place - points[:, None]).norm(dim=2)
        if toward is not None:
            away = (self.normals[candidate] * toward[:, None]).sum(2) <= 0
            distance = distance + away * 1e6
        best = distance.argmin(1)
        row = torch.arange(len(points))
        return candidate[row, best], barycentric[row, best]


def _closest(point: Float[Tensor, "*#n 3"], corners: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3"]:
    """Barycentrics of the point of a triangle nearest to a point.

    The projection onto the plane where it lies inside, else the nearest of the three edges' nearest points.
    """
    a, b, c = corners.unbind(-2)
    ab, ac, ap = b - a, c - a, point - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = (d00 * d11 - d01 * d01).clamp(min=1e-30)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    outside = (v < 0) | (w < 0) | (v + w > 1)
    # Each edge's nearest point, and its squared distance less that of the first corner; all from dot products.
    t, r = (d20 / d00.clamp(min=1e-30)).clamp(0, 1), (d21 / d11.clamp(min=1e-30)).clamp(0, 1)
    across, from_b = d00 + d11 - 2 * d01, d21 - d20 - d01 + d00
    s = (from_b / across.clamp(min=1e-30)).clamp(0, 1)
    to_ab, to_ac = t * (t * d00 - 2 * d20), r * (r * d11 - 2 * d21)
    to_bc = d00 - 2 * d20 + s * (s * across - 2 * from_b)
    on_ab, on_ac = (to_ab <= to_ac) & (to_ab <= to_bc), to_ac <= to_bc
    zero = torch.zeros_like(v)
    v = torch.where(outside, torch.where(on_ab, t, torch.where(on_ac, zero, 1 - s)), v)
    w = torch.where(outside, torch.where(on_ab, zero, torch.where(on_ac, r, s)), w)
    return torch.stack([1 - v - w, v, w], -1)


class MeshField(Surface):
    """A mesh that answers as a representation does at export: its own surface, and its material near it.

    This is how a mesh gets fewer faces, another texture size or a normal map of its former self.
    """

    cut = True

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._nearest: NearestSurface | None = None

    def extract(self, resolution: int) -> Mesh:
        """The surface with its own texture coordinates, whatever the resolution."""
        return Mesh(self.mesh.vertices, self.mesh.faces, normals=self.mesh.normals, uv=self.mesh.uv)

    def surface_color(self, points: Tensor, normals: Tensor) -> Tensor:
        """sRGB colours at the nearest points of the mesh; without colours light grey."""
        from threedistill.render.mesh import picture_at

        mesh = self.mesh
        if mesh.texture is not None and mesh.uv is not None:
            return picture_at(mesh, mesh.texture, self._interpolation(points, normals))
        if mesh.colors is not None:
            return self._interpolation(points, normals)(mesh.colors)
        return torch.full_like(points, 0.8)

    def surface_pictures(self, points: Tensor, normals: Tensor) -> dict[str, Tensor]:
        """The values of the mesh's pictures besides the colour at the nearest points."""
        from threedistill.render.mesh import picture_at

        mesh = self.mesh
        pictures = {
            "metallic_roughness": mesh.metallic_roughness, "emission": mesh.emission, "alpha": mesh.alpha
        }  # fmt: skip
        known = {name: picture for name, picture in pictures.items() if picture is not None}
        if not known:
            return {}
        interpolate = self._interpolation(points, normals)
        return {name: picture_at(mesh, picture, interpolate) for name, picture in known.items()}

    def surface_relief(self, points: Tensor, normals: Tensor) -> Tensor | None:
        """What the mesh is lit with at the nearest points, where it has a normal map."""
        if self.mesh.normal_map is None or self.mesh.uv is None:
            return None
        return self._near().shading(points, normals)

    def _near(self) -> NearestSurface:
        """What finds points of the mesh; it is made when first asked for."""
        self._nearest = self._nearest or NearestSurface(self.mesh)
        return self._nearest

    def _interpolation(self, points: Tensor, normals: Tensor) -> Callable[[Tensor], Tensor]:
        """Values at the vertices to values at the nearest points."""
        face, weights = self._near().at(points, normals)
        corner = self.mesh.faces[face]
        return lambda values: (values[corner].double() * weights[..., None]).sum(1).to(points)
