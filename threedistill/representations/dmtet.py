"""Deep marching tetrahedra: a signed distance on a tetrahedral grid, its surface, and colours from a hash field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedistill.errors import ThreedistillError
from threedistill.memory import need
from threedistill.ops.antialias import face_neighbours
from threedistill.ops.marching_cubes import marching_cubes
from threedistill.ops.marching_tets import TetTopology, marching_tets, tet_topology, tet_vertices
from threedistill.protocols import RenderContext, Representation
from threedistill.render.mesh import picture_at, render_mesh
from threedistill.render.surface import face_crosses, render_surface
from threedistill.representations import meshstats
from threedistill.representations.carving import PIT, Views, rings, seal
from threedistill.representations.hashfield import HashField, HashSettings
from threedistill.representations.signed_distance import check_mesh, sample_surface, signed_distance
from threedistill.representations.tetgrid import tetrahedral_grid
from threedistill.rng import Streams
from threedistill.types import Cameras, Mesh, Rendering
from threedistill.values import Count, Fraction, Within, checked

__all__ = ["DMTet"]

#: Points closer to the surface than this many cells are asked after every step, the others every few steps.
_BAND = 2.5

#: Pixels of the views that say what is seen.
_PROBE = 128

#: Added to what the material's field says before the sigmoid, and the smallest roughness: a highlight sharper than a
#: pixel has no gradient anywhere else.
_MATERIAL_START, _LEAST_ROUGHNESS = (-3.0, 0.5), 0.1

ColorFunction = Callable[[Tensor, Tensor], Tensor]


class _Surface(NamedTuple):
    vertices: Tensor  # (M, 3)
    topology: TetTopology
    neighbours: Tensor  # (F, 3) int32
    points: Tensor  # (N, 3) grid points after displacement
    sdf: Tensor  # (N,), with gradients where the surface is


class DMTet(Representation):
    """A triangle mesh that can change its topology: the zero set of a signed distance on a tetrahedral grid.

        s_i   = base_i + reach f(x_i)                            metres, negative inside
        p_i   = x_i + h deformation tanh(g_i)                    grid points
        mesh  = marching_tets(p, s)
        color = sigmoid(c(x))                                    sRGB albedo, from a hash field
        metalness = sigmoid(m_0(x) - 3),  roughness = 0.1 + 0.9 sigmoid(m_1(x) + 1/2)      ``material="pbr"``

    ``geometry="field"``: f and g are the outputs of a second hash field, so the shape moves smoothly and from coarse
    to fine, and ``base`` is what the surface started from (a sphere, a mesh, another field). ``geometry="explicit"``:
    one distance and one displacement per grid point, as in the original. Pictures are rasterised; gradients reach the
    vertices through silhouettes (``ops/antialias.py``), normals where shading uses them, and, if asked for, the
    colours' positions.

    Arguments:
        resolution: cells per axis of the grid (12 tetrahedra each).
        bound: half the side of the grid's box, metres; objects stay within 0.85.
        radius: of the sphere it starts from, metres.
        geometry: see above.
        reach: metres per unit of f.
        deformation: largest displacement of a grid point per axis, in cells; up to 0.2 no tetrahedron can turn over
            (points on the border of the box stay where they are).
        supersample: rasterised samples per pixel and axis, averaged down.
        texture_gradient: colours move vertices too, by where on the surface a pixel looks.
        yielding: 1/metres; gradient for the surface away from outlines, without which no hole opens (see
            :func:`threedistill.render.surface.render_surface`). It roughens, so it fades.
        yield_until: fraction of the stage over which it falls to 0, in [0, 1].
        color_jitter: colours are asked up to this far from the surface, in cells, so that they also hold for a
            slightly smoothed surface; needs ``context.rng``.
        refresh_every: iterations between evaluations of all grid points (``geometry="field"``).
        material: ``pbr`` gives the surface metalness and roughness from a field of their own, which lit pictures show
            (``shading="lambertian"``; the others do not teach them). It begins rough (0.66) and hardly metallic
            (0.05).
        color, shape, reflectance: sizes of the hash fields; that of the material is small, for a material that varied
            from pixel to pixel would be painted with highlights.

    Raises:
        ValueError: a value outside its range.

    Sources: Shen et al. 2021, DMTet; Munkberg et al. 2022, nvdiffrec (the rendering); Lin et al. 2023, Magic3D.
    """

    regularizers = meshstats.NAMES
    starts_from = frozenset({"mesh"})

    @checked
    def __init__(
        self, *, resolution: Annotated[int, Within(4, 256)] = 40, bound: Annotated[float, Within(0.1, 10)] = 0.95,
        radius: Annotated[float, Within(0.001, 10)] = 0.5, geometry: Literal["field", "explicit"] = "field",
        reach: Annotated[float, Within(1e-6, 10)] = 0.1, deformation: Annotated[float, Within(0, 0.2)] = 0.2,
        supersample: Annotated[int, Within(1, 8)] = 1, texture_gradient: bool = False,
        yielding: Annotated[float, Within(0, 1000)] = 10.0, yield_until: Fraction = 0.5,
        color_jitter: Annotated[float, Within(0, 4)] = 0.25, refresh_every: Count = 8,
        material: Literal["lambert", "pbr"] = "lambert", color: HashSettings | None = None,
        shape: HashSettings | None = None, reflectance: HashSettings | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if radius > 0.95 * bound:
            raise ValueError(f"dmtet: radius={radius} must not exceed 0.95 bound={0.95 * bound:g}")
        need(600 * (resolution + 1) ** 3, f"a tetrahedral grid of {resolution}^3 cells")
        self.grid = tetrahedral_grid(resolution, bound)
        self.resolution, self.bound, self.cell = resolution, float(bound), self.grid.cell
        self.geometry: Literal["field", "explicit"] = geometry
        self.reach, self.deformation = float(reach), float(deformation)
        self.supersample, self.texture_gradient = supersample, texture_gradient
        self.yielding, self.yield_until = float(yielding), float(yield_until)
        self.color_jitter, self.refresh_every = float(color_jitter), refresh_every
        self.points: Tensor
        self.tets: Tensor
        self.border: Tensor
        self.base: Tensor
        self.values: Tensor
        # The grid follows from the configuration: it moves with the module but is not in checkpoints.
        self.register_buffer("points", self.grid.points, persistent=False)
        self.register_buffer("tets", self.grid.tets, persistent=False)
        self.register_buffer("border", self.grid.border, persistent=False)
        sphere = self.points.norm(dim=1) - radius
        self.color = HashField(3, color or HashSettings(), bound)
        if geometry == "field":
            shape = shape or HashSettings(base_resolution=4, finest_resolution=64, log2_entries=14)
            self.shape = HashField(4, shape, bound)
            self.register_buffer("base", sphere)
        else:
            self.sdf = nn.Parameter(sphere)
            self.displacement = nn.Parameter(torch.zeros_like(self.points))
        self.reflectance: HashField | None = None
        if material == "pbr":
            reflectance = reflectance or HashSettings(
                levels=4, log2_entries=12, base_resolution=4, finest_resolution=32, hidden=16, start_levels=2
            )
            self.reflectance = HashField(2, reflectance, bound)
        #: The last known distances, whose signs decide where the surface is.
        self.register_buffer("values", sphere.clone())
        self.refresh()

    # ---- the geometry ----------------------------------------------------------------------------------------------

    def distances(self, index: Int[Tensor, "P"], progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """Signed distance (P,) and place (P, 3) of grid points, metres; the grid's border is always outside."""
        at = self.points.index_select(0, index)
        if self.geometry == "field":
            raw = self.shape(at, progress)
            sdf, moved = self.base.index_select(0, index) + self.reach * raw[:, 0], raw[:, 1:]
        else:
            sdf = self.sdf.index_select(0, index)
            moved = self.displacement.index_select(0, index)
        rim = self.border.index_select(0, index)
        sdf = torch.where(rim, sdf.clamp_min(0.1 * self.cell), sdf)
        place = at + self.deformation * self.cell * torch.where(
            rim[:, None], torch.zeros_like(moved), moved.tanh()
        )
        return sdf, place

    @torch.no_grad()
    def refresh(self, everywhere: bool = True) -> None:
        """Bring ``values`` up to date with the parameters: at all grid points, or only near the surface."""
        if everywhere:
            index = torch.arange(len(self.points), device=self.points.device)
        else:
            index = (self.values.abs() < _BAND * self.cell).nonzero()[:, 0]
        self.values[index] = self.distances(index)[0]

    def surface(self, progress: float = 0.0, values: Float[Tensor, "N"] | None = None) -> _Surface:
        """The mesh of the current parameters, differentiable, with what the regularisers need; of other distances
        ``values`` at the grid's points, where they are given.
        """
        topology = tet_topology(self.values if values is None else values, self.tets)
        active = torch.zeros(len(self.points), dtype=torch.bool, device=self.points.device)
        active[self.tets[topology.tets].flatten().long()] = True
        index = active.nonzero()[:, 0]
        fresh, place = self.distances(index, progress)
        sdf = self.values.index_copy(0, index, fresh) if values is None else values
        points = self.points.index_copy(0, index, place)
        vertices = tet_vertices(points, sdf, topology)
        return _Surface(vertices, topology, face_neighbours(topology.faces), points, sdf)

    # ---- the representation ----------------------------------------------------------------------------------------

    def render(self, cameras: Cameras, context: RenderContext) -> Rendering:
        """Render ``B`` cameras over ``context.background``; see :class:`threedistill.protocols.Representation`.

        ``stats``: ``faces`` (count), ``mean_opacity``; with gradients also the regularisers of
        ``representations/meshstats.py`` that the context wants.
        """
        shape = self.surface(context.progress)

        def color(at: Tensor, pixels: Tensor) -> Tensor:
            at = at + self._jitter(cameras, pixels, context)
            albedo = self.color(at, context.progress).sigmoid()
            if self.reflectance is None or context.shading != "lambertian":
                return albedo
            return torch.cat([albedo, _material(self.reflectance(at, context.progress))], 1)

        out = render_surface(
            shape.vertices, shape.topology.faces, color, cameras.to(self.points.device), context.background,
            shading=context.shading, normals=context.normals, light=context.light, supersample=self.supersample,
            neighbours=shape.neighbours, texture_gradient=self.texture_gradient, yielding=self.yields(context.progress),
        )  # fmt: skip
        out.stats = {
            "faces": torch.tensor(float(len(shape.topology.faces))),
            "mean_opacity": out.opacity.mean(),
        }
        if torch.is_grad_enabled():
            wanted = meshstats.NAMES if context.terms is None else meshstats.NAMES & context.terms
            out.stats.update((name, self._term(name, shape)) for name in sorted(wanted))
        return out

    def yields(self, progress: float) -> float:
        """``yielding`` at a fraction of the stage: linear to 0 at ``yield_until``."""
        return 0.0 if progress >= self.yield_until else self.yielding * (1 - progress / self.yield_until)

    def _jitter(self, cameras: Cameras, pixels: Tensor, context: RenderContext) -> Tensor | float:
        if context.rng is None or self.color_jitter == 0:
            return 0.0
        size = cameras.height * cameras.width * self.supersample**2
        noise = context.rng.uniform_per_view("color", len(cameras), size, 3).view(-1, 3).to(self.points)
        return (2 * noise[pixels] - 1) * (self.color_jitter * self.cell)

    def _fields(self) -> list[HashField]:
        shape = [self.shape] if self.geometry == "field" else []
        return [self.color, *shape, *([] if self.reflectance is None else [self.reflectance])]

    def _term(self, name: str, shape: _Surface) -> Tensor:
        vertices, (edges, faces, tets) = shape.vertices, shape.topology
        if not len(faces):
            return vertices.sum() * 0
        match name:
            case "normal_consistency":
                return meshstats.normal_consistency(vertices, faces, shape.neighbours)
            case "laplacian":
                return meshstats.laplacian(vertices, faces) / self.cell**2
            case "laplacian_length":
                return meshstats.laplacian_length(vertices, faces)
            case "vertex_consistency":
                return meshstats.vertex_consistency(vertices, faces)
            case "eikonal":
                return meshstats.eikonal(shape.points, shape.sdf, self.tets[tets])
            case "sign_change":
                return meshstats.sign_change(shape.sdf / self.cell, edges)
            case _:
                raise KeyError(name)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """``table`` and ``mlp`` of the colours; ``shape_table`` and ``shape_mlp``, or ``sdf`` and ``displacement``;
        ``reflectance_table`` and ``reflectance_mlp`` of the material.
        """
        groups = {"table": [self.color.table], "mlp": list(self.color.weights)}
        if self.reflectance is not None:
            field = self.reflectance
            groups |= {"reflectance_table": [field.table], "reflectance_mlp": list(field.weights)}
        if self.geometry == "field":
            groups |= {"shape_table": [self.shape.table], "shape_mlp": list(self.shape.weights)}
        else:
            groups |= {"sdf": [self.sdf], "displacement": [self.displacement]}
        return groups

    @torch.no_grad()
    def after_step(self, iteration: int, progress: float, rng: Streams) -> None:
        """Note the progress and bring the signs up to date, everywhere every ``refresh_every`` iterations."""
        for field in self._fields():
            field.reach(progress)
        self.refresh(everywhere=self.geometry == "explicit" or (iteration + 1) % self.refresh_every == 0)

    @torch.no_grad()
    def extract(self, resolution: int) -> Mesh:
        """The optimised surface itself; below the grid's own resolution, marching cubes on its corners, resampled.

        Silhouettes and colours alone hold a surface, so that it may have hollows and tunnels where nobody looks:
        the inside that no view sees is solid, and pits are closed (``representations/carving.py``).

        Raises:
            ThreedistillError: nothing lies inside, or everything does.
        """
        self.refresh()
        solid = float((self.values < 0)[~self.border].float().mean())
        if solid > 0.9:
            raise ThreedistillError(
                f"the signed distance is full: {solid:.0%} of its box lies inside; raise the sparsity weight, or draw "
                "random backgrounds (background.white below 1)"
            )
        sealed = self._sealed()
        if resolution >= self.resolution:
            shape = self.surface(values=sealed)
            vertices, faces = shape.vertices, shape.topology.faces.long()
        else:
            corners = self.resolution + 1
            lattice = -sealed[: corners**3].view(1, 1, corners, corners, corners)
            volume = F.interpolate(lattice, [resolution + 1] * 3, mode="trilinear", align_corners=True)[0, 0]
            vertices, faces = marching_cubes(volume, 0.0, (-self.bound,) * 3, 2 * self.bound / resolution)
        if not len(faces):
            raise ThreedistillError(
                "the signed distance is empty: no point lies inside the surface; train longer, lower the sparsity "
                "weight, or start from a larger sphere (representation.model.radius)"
            )
        return Mesh(vertices.float(), faces)

    def _sealed(self) -> Float[Tensor, "N"]:
        """``values``, smaller where what no view sees becomes solid; the others bit for bit."""
        shape, cameras = self.surface(), rings(_PROBE)
        seen = render_mesh(Mesh(shape.vertices, shape.topology.faces), cameras.to(self.points.device))
        views = Views.of(cameras, seen)
        # Corners and centres of the cells lie on one lattice, twice as fine.
        size, inside = 2 * self.resolution + 1, -self.values / self.cell
        corners, centres = inside.split([(self.resolution + 1) ** 3, self.resolution**3])
        lattice = corners.view(1, 1, *[self.resolution + 1] * 3)
        lattice = F.interpolate(lattice, [size] * 3, mode="trilinear", align_corners=True)[0, 0]
        lattice[1::2, 1::2, 1::2] = centres.view([self.resolution] * 3)
        axis = torch.linspace(-self.bound, self.bound, size, device=lattice.device)
        lattice = seal(lattice, 0.0, (axis, axis, axis), self.cell / 2, PIT, views)
        grown = torch.cat([lattice[::2, ::2, ::2].flatten(), lattice[1::2, 1::2, 1::2].flatten()])
        values = torch.where(grown > inside, -self.cell * grown, self.values)
        return torch.where(self.border, self.values, values)

    @torch.no_grad()
    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """(N, 3) sRGB albedo at surface points."""
        at = points.to(self.points)
        return torch.cat([self.color(part).sigmoid() for part in at.split(1 << 16)]).float()

    @torch.no_grad()
    def surface_material(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 2"] | None:
        """(N, 2) metalness and roughness at surface points; None where there is only colour."""
        if self.reflectance is None:
            return None
        at = points.to(self.points)
        return torch.cat([_material(self.reflectance(part)) for part in at.split(1 << 16)]).float()

    # ---- where it starts -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """All levels of the fields from the beginning: the grid holds an object already."""
        for field in self._fields():
            field.settings = replace(field.settings, coarse_until=0.0)

    def init_from_mesh(self, mesh: Mesh, rng: Streams, color: ColorFunction | None = None) -> None:
        """Start from a mesh: its signed distance, its colours, and with ``material="pbr"`` its material.

        Arguments:
            mesh: within the box, metres; closed or nearly so. Vertex colours or a texture are taken over.
            rng: draws the surface samples.
            color: sRGB colours of surface points and normals, in place of the mesh's own.

        Raises:
            ThreedistillError: the mesh is empty, not finite, too large, or encloses nothing.
        """
        generator = rng.generator("init mesh")
        mesh = check_mesh(mesh, self.bound)  # on the CPU from here on
        distance = signed_distance(self.grid, mesh, generator)
        with torch.no_grad():
            if self.geometry == "field":
                self.base.copy_(distance)
                self.shape.reset(generator)
            else:
                self.sdf.copy_(distance)
                self.displacement.zero_()
        self.refresh()
        self._fit_colors(mesh, generator, color)

    def init_from_density(
        self,
        density: Callable[[Tensor], Tensor],
        level: float,
        rng: Streams,
        color: ColorFunction | None = None,
    ) -> None:
        """Start from the level set of a density (a radiance field's), inside where it is above ``level``.

        Arguments:
            density: of points (N, 3), 1/metres.
            level: 1/metres.
            rng: draws the surface samples.
            color: see :meth:`init_from_mesh`.

        Raises:
            ThreedistillError: the level set is empty.
        """
        with torch.no_grad():
            found = torch.cat([density(part) for part in self.points.split(1 << 16)]).to(self.points)
            signs = torch.where(self.border, torch.full_like(found, level), level - found)
            vertices, topology = marching_tets(self.points, signs, self.tets)
        if not len(topology.faces):
            raise ThreedistillError(
                f"the density is nowhere above {level:g}: there is no surface to start from"
            )
        self.init_from_mesh(Mesh(vertices, topology.faces.long()), rng, color)

    def _interpolated(self, points: Tensor) -> Tensor:
        """(N,) signed distance at any points, from the corners of the grid's cells."""
        n = self.resolution + 1
        lattice = self.values[: n**3].view(1, 1, n, n, n)
        where = (points.flip(1) / self.bound).view(1, 1, 1, -1, 3)
        return F.grid_sample(lattice, where, align_corners=True, padding_mode="border").flatten()

    def _fit_colors(self, mesh: Mesh, generator: torch.Generator, color: ColorFunction | None) -> None:
        """Regression on surface points, jittered as in training."""
        corners = mesh.vertices[mesh.faces.long()].to(self.points)
        face, weights = sample_surface(mesh, 1 << 15, generator)
        face, weights = face.to(self.points.device), weights.to(self.points)
        at = (corners[face] * weights[..., None]).sum(1)
        # Parts of a mesh that lie inside of others have colours that nobody sees.
        seen = self._interpolated(at) > -0.2 * self.cell
        face, weights, at = face[seen], weights[seen], at[seen]

        def of_corners(values: Tensor) -> Tensor:
            index = mesh.faces.long().to(face.device)[face]
            return (values.to(self.points)[index] * weights[..., None]).sum(1)

        jitter = self.color_jitter * self.cell
        if self.reflectance is not None and mesh.metallic_roughness is not None:
            with torch.no_grad():
                known = picture_at(mesh, mesh.metallic_roughness.to(self.points), of_corners)
            self.reflectance.fit(at, _raw_material(known), jitter, generator)
        with torch.no_grad():
            if color is not None:
                normals = F.normalize(face_crosses(mesh.vertices, mesh.faces), dim=1).to(self.points)
                truth = color(at, normals[face])
            elif mesh.texture is not None and mesh.uv is not None:
                truth = picture_at(mesh, mesh.texture.to(self.points), of_corners)
            elif mesh.colors is not None:
                truth = of_corners(mesh.colors)
            else:
                return
        self.color.fit(at, torch.logit(truth.clamp(0.01, 0.99)), jitter, generator)


def _material(raw: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
    """Metalness and roughness from what the field says, 0 being a rough dielectric."""
    metallic, rest = (raw + raw.new_tensor(_MATERIAL_START)).sigmoid().split(1, 1)
    return torch.cat([metallic, _LEAST_ROUGHNESS + (1 - _LEAST_ROUGHNESS) * rest], 1)


def _raw_material(material: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
    """The inverse of :func:`_material`, within what the field can say without saturating."""
    metallic, roughness = material.split(1, 1)
    rest = (roughness - _LEAST_ROUGHNESS) / (1 - _LEAST_ROUGHNESS)
    values = torch.logit(torch.cat([metallic, rest], 1).clamp(0.01, 0.99))
    return values - values.new_tensor(_MATERIAL_START)
