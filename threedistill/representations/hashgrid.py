"""A radiance field: multiresolution hash encoding, a small MLP, and an occupancy grid that skips empty space."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.errors import ThreedistillWarning
from threedistill.memory import PER_PARAMETER, need
from threedistill.ops.composite import composite
from threedistill.ops.hash_encode import HashLayout, hash_encode
from threedistill.ops.march import Samples, march
from threedistill.ops.mlp import fused_mlp
from threedistill.protocols import RenderContext, Representation
from threedistill.render.shading import shade
from threedistill.render.volume import distortion as ray_distortion
from threedistill.render.volume import field_normals, midpoints, over
from threedistill.representations import surface
from threedistill.representations.hashfield import Cells, Features, Levels, Log2Entries
from threedistill.representations.occupancy import OccupancyGrid
from threedistill.rng import Streams
from threedistill.types import Cameras, Mesh, Rendering
from threedistill.values import Count, Fraction, Within, checked

__all__ = ["HashGrid"]

#: Rays whose opacity stays below this have no surface to speak of: no normal, no shading.
_FAINT = 0.05

#: Rays per piece of a render without gradients: four views of 64 x 64.
_RAYS_AT_ONCE = 1 << 14


class _Traced(NamedTuple):
    """What rays see: premultiplied colour, opacity, expected distance, normals if asked for, sums for the stats."""

    rgb: Tensor
    opacity: Tensor
    distance: Tensor
    normal: Tensor | None
    sums: dict[str, Tensor]


class HashGrid(Representation):
    """Density and albedo of a point from one hash encoding and one bias-free MLP.

        (f, c) = MLP(encode((x / bound + 1) / 2))        f scalar, c in R^3
        sigma  = s softplus(f + b(x))                    1/metres, s from soft to density_scale
        b(x)   = blob_strength (1 - |x| / blob_radius)   the linear blob of Magic3D
        albedo = sigmoid(c)                              sRGB in [0, 1]

    The blob makes the first render a soft ball in the middle, so the occupancy grid is valid before the first
    step, and keeps pulling far, unsupervised space empty. Encoding levels are switched on from coarse to fine
    over the first ``coarse_until`` of the stage. Learning rates that work with Adam (eps 1e-15, betas 0.9,
    0.99): ``table`` 0.01 to 0.02, ``mlp`` 0.002 to 0.005.

    Arguments:
        levels, features: encoding levels and features per level; their product is the MLP's input width.
        log2_entries: table entries per level, as a power of two.
        base_resolution, finest_resolution: cells per axis of the coarsest and the finest level. A 64-pixel
            teacher cannot supervise more than about 128: finer levels only add grain.
        hidden, hidden_layers: width (at most 64) and number of the MLP's hidden layers.
        bound: half the side of the box that holds the field, metres; objects stay within 0.85.
        initial_scale, density_scale: slope of the density in its raw value at the beginning and in the end, 1/metres.
        blob_strength, blob_radius: height of the initial blob before the softplus and where it falls to half of it.
        start_levels: levels active at the beginning.
        coarse_until: fraction of the stage after which all levels are active and the density is hard, in [0, 1].
        steps: samples along the box's diagonal; the march's step is ``2 sqrt(3) bound / steps``, but no less than
            3/4 of a cell of the finest active level, since there is nothing finer to see.
        max_samples: most samples at once (of a step, or of a piece of a larger picture); beyond it, the step is
            lengthened.
        occupancy_resolution: cells per axis of the occupancy grid.
        occupancy_every: iterations between its refreshes.
        occupancy_alpha: opacity per step from which space counts as occupied.
        normals: compute normals only when a shading needs them, or always (for the orientation regulariser).
        distortion: compute ``stats["distortion"]`` (for the distortion regulariser).

    Raises:
        ValueError: a value outside its range.

    Sources: Mueller et al. 2022 (encoding, occupancy), Lin et al. 2023, Magic3D (blob), Verbin et al. 2022
    (orientation).
    """

    regularizers = frozenset({"orientation", "orientation_hits", "distortion", "tv_depth"})

    @checked
    def __init__(
        self, *, levels: Levels = 8, features: Features = 2, log2_entries: Log2Entries = 15,
        base_resolution: Cells = 8, finest_resolution: Cells = 128, hidden: Annotated[int, Within(1, 64)] = 32,
        hidden_layers: Annotated[int, Within(1, 16)] = 2, bound: Annotated[float, Within(0.1, 10)] = 1.0,
        initial_scale: Annotated[float, Within(0, 1e4, "(]")] = 5.0,
        density_scale: Annotated[float, Within(0, 1e4, "(]")] = 40.0,
        blob_strength: Annotated[float, Within(-1000, 1000)] = 5.0,
        blob_radius: Annotated[float, Within(0.001, 10)] = 0.5,
        start_levels: Count = 4, coarse_until: Fraction = 0.5, steps: Annotated[int, Within(1, 100_000)] = 144,
        max_samples: Annotated[int, Within(1, 1 << 30)] = 400_000,
        occupancy_resolution: Annotated[int, Within(4, 1024)] = 64, occupancy_every: Count = 16,
        occupancy_alpha: Annotated[float, Within(0, 1, "()")] = 0.01,
        normals: Literal["when_shaded", "always"] = "when_shaded", distortion: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _require(1 <= start_levels <= levels, f"start_levels={start_levels} must lie in [1, levels={levels}]")
        _require(
            base_resolution <= finest_resolution,
            f"base_resolution={base_resolution} exceeds finest_resolution={finest_resolution}",
        )
        self.layout = HashLayout(levels, features, log2_entries, base_resolution, finest_resolution)
        need(
            PER_PARAMETER * self.layout.entries * features + 60 * occupancy_resolution**3,
            f"a hash table of {self.layout.entries} entries and an occupancy grid of {occupancy_resolution}^3 cells",
        )
        self.bound = float(bound)
        self.initial_scale, self.density_scale = float(initial_scale), float(density_scale)
        self.blob_strength, self.blob_radius = float(blob_strength), float(blob_radius)
        self.start_levels, self.coarse_until = start_levels, float(coarse_until)
        self.step = 2 * math.sqrt(3) * bound / steps
        self.max_samples = max_samples
        self.occupancy_every = occupancy_every
        self.normals: Literal["when_shaded", "always"] = normals
        self.distortion = distortion

        self.table = nn.Parameter((torch.rand(self.layout.entries, features) - 0.5) * 2e-4)
        widths = [self.layout.width, *[hidden] * hidden_layers, 4]
        self.weights = nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            limit = math.sqrt(6 / (fan_in + fan_out))
            weight = (torch.rand(fan_out, fan_in) * 2 - 1) * limit
            self.weights.append(nn.Parameter(weight))
        self.progress: Tensor
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.occupancy = OccupancyGrid(occupancy_resolution, bound, occupancy_alpha / self.step)
        self.occupancy.refresh(self.density)

    # ---- the field -------------------------------------------------------------------------------------------------

    def active_levels(self, progress: float) -> int:
        """Encoding levels in use at a fraction of the stage: linear from ``start_levels`` to all of them."""
        if progress >= self.coarse_until:
            return self.layout.levels
        return self.start_levels + int(
            (self.layout.levels - self.start_levels) * progress / self.coarse_until
        )

    def scale(self, progress: float) -> float:
        """The density's slope ``s`` at a fraction of the stage, 1/metres."""
        u = 1.0 if progress >= self.coarse_until else progress / self.coarse_until
        return self.initial_scale * (self.density_scale / self.initial_scale) ** u

    def march_step(self, progress: float) -> float:
        """Length of a sample at a fraction of the stage, metres."""
        return max(self.step, 0.75 * self.cell(progress))

    def cell(self, progress: float) -> float:
        """Side of a cell of the finest active level, metres."""
        return 2 * self.bound / self.layout.scales[self.active_levels(progress) - 1]

    def raw(self, points: Float[Tensor, "N 3"], progress: float | None = None) -> tuple[Tensor, Tensor]:
        """The potential ``f + b`` (N,), monotone in the density, and the colour logits (N, 3) at world points."""
        active = self.active_levels(float(self.progress) if progress is None else progress)
        unit = points * (0.5 / self.bound) + 0.5
        out = fused_mlp(hash_encode(unit, self.table, self.layout, active), list(self.weights))
        blob = self.blob_strength * (1 - points.norm(dim=-1) / self.blob_radius)
        return out[:, 0] + blob, out[:, 1:]

    def activate(self, potential: Float[Tensor, "N"], progress: float | None = None) -> Float[Tensor, "N"]:
        """Density of a potential, 1/metres."""
        return self.scale(float(self.progress) if progress is None else progress) * nn.functional.softplus(
            potential
        )

    def potential_of(self, density: float) -> float:
        """The potential that :meth:`activate` turns into ``density`` now."""
        ratio = density / self.scale(float(self.progress))
        return ratio + math.log(-math.expm1(-ratio))

    def density(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """(N,) density at world points, 1/metres, with the levels that are active now."""
        return self.activate(self.raw(points)[0])

    def albedo(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """(N, 3) sRGB albedo at world points."""
        return self.raw(points)[1].sigmoid()

    # ---- the representation -----------------------------------------------------------------------------------------

    def march(
        self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], jitter: Tensor | None = None,
        step: float | None = None,
    ) -> tuple[Samples, Float[Tensor, "S 3"]]:  # fmt: skip
        """The samples worth asking along rays, at most ``max_samples`` of them, and their midpoints."""
        wanted = step = self.march_step(float(self.progress)) if step is None else step
        while True:
            samples = march(origins, directions, self.occupancy.occupied, self.bound, step, jitter)
            samples, points = self.occupancy.drop_hidden(samples, midpoints(origins, directions, samples))
            if len(points) <= self.max_samples:
                if step > 2 * wanted:
                    warnings.warn(
                        f"threedistill: max_samples={self.max_samples} makes the field's samples {step / wanted:.1f} "
                        "times as long as they should be; raise representation.model.max_samples, or use fewer views",
                        ThreedistillWarning,
                        stacklevel=2,
                    )
                return samples, points
            # Longer segments thin out all rays alike; cutting the list off would blind the last views.
            step *= 1.05 * len(points) / self.max_samples

    def render(self, cameras: Cameras, context: RenderContext) -> Rendering:
        """Render ``B`` cameras over ``context.background``; see :class:`threedistill.protocols.Representation`.

        ``stats``: ``samples`` (count), ``samples_per_ray``, ``occupied`` (share of the box), ``mean_density``
        (over the samples), ``mean_opacity``; if asked for, ``distortion`` (mip-NeRF 360 eq. 15, mean over rays,
        metres); where normals exist, ``orientation`` (``mean o max(0, n . d)^2``, Ref-NeRF eq. 11, taken once per
        ray) and ``orientation_hits``, its mean over the rays that hit (threestudio's).
        """
        views, height, width = len(cameras), cameras.height, cameras.width
        rays = cameras.to(self.table.device).rays()
        origins, directions = (r.reshape(-1, 3).to(self.table.dtype) for r in rays)
        jitter = light = None
        if context.rng is not None:
            jitter = context.rng.uniform_per_view("march", views, height * width).reshape(-1).to(origins)
        if context.light is not None:
            light = context.light.to(origins).repeat_interleave(height * width, 0)
        # With gradients, all samples are needed at once; without, large pictures go through in pieces.
        piece = len(origins) if torch.is_grad_enabled() else _RAYS_AT_ONCE
        traced = []
        for first in range(0, len(origins), piece):
            rows = slice(first, first + piece)
            own_jitter, own_light = (None if x is None else x[rows] for x in (jitter, light))
            traced.append(self._trace(origins[rows], directions[rows], own_jitter, own_light, context))

        def joined(parts: list[Tensor]) -> Tensor:
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)
            return whole.view(views, height, width, -1)

        sums = {name: sum(t.sums[name] for t in traced) for name in traced[0].sums}
        samples, hits = float(sums.pop("samples")), sums.pop("hits", None)
        stats = {
            "samples": torch.tensor(samples),
            "samples_per_ray": torch.tensor(samples / len(origins)),
            "occupied": self.occupancy.fraction(),
            "mean_density": torch.as_tensor(sums.pop("density")) / max(samples, 1.0),
            **{name: torch.as_tensor(total) / len(origins) for name, total in sums.items()},
        }
        if hits is not None:
            stats["orientation_hits"] = stats["orientation"] * (len(origins) / max(float(hits), 1.0))
        opacity, background = joined([t.opacity for t in traced]), context.background.to(origins)
        stats["mean_opacity"] = opacity.mean()
        normals = [t.normal for t in traced if t.normal is not None]
        return Rendering(
            rgb=over(joined([t.rgb for t in traced]), opacity, background),
            opacity=opacity,
            depth=joined([t.distance for t in traced]),
            background=background,
            normal=joined(normals) if normals else None,
            stats=stats,
        )

    def _trace(
        self,
        origins: Tensor,
        directions: Tensor,
        jitter: Tensor | None,
        light: Tensor | None,
        context: RenderContext,
    ) -> _Traced:
        """What ``R`` rays see, before any background."""
        progress = context.progress
        with torch.no_grad():
            # Without jitter the samples of neighbouring rays line up into visible slices; half the step hides them.
            step = self.march_step(progress) * (0.5 if jitter is None else 1.0)
            samples, points = self.march(origins, directions, jitter, step)
        potential, logits = self.raw(points, progress)
        density = self.activate(potential, progress)
        out = composite(density, logits.sigmoid(), samples)
        rgb, opacity, normal = out.rgb, out.opacity.clamp(0.0, 1.0), None
        distance = torch.where(
            opacity > _FAINT, out.depth / opacity.clamp_min(_FAINT), torch.zeros_like(opacity)
        )
        sums = {"samples": torch.tensor(float(len(points))), "density": density.sum()}
        if self.distortion:
            sums["distortion"] = ray_distortion(out.weights, samples).sum()
        lit = context.shading != "none"
        optimised = lit or self.normals == "always"
        if optimised or context.normals:
            hit = (opacity.detach() > _FAINT).nonzero()[:, 0]
            where = origins[hit] + directions[hit] * distance.detach()[hit, None]
            # A network that is told normals sends no gradient back through them.
            with torch.set_grad_enabled(optimised and torch.is_grad_enabled()):
                normals = field_normals(lambda x: self.raw(x, progress)[0], where, self.cell(progress))
            if optimised:
                away = (normals * directions[hit]).sum(-1).clamp_min(0)
                sums["orientation"] = (opacity.detach()[hit] * away**2).sum()
                sums["hits"] = torch.tensor(float(len(hit)))
            if lit:
                albedo = rgb[hit] / opacity[hit, None]
                towards = None if light is None else light[hit]
                shaded = shade(albedo, normals, -directions[hit], context.shading, towards)
                rgb = torch.zeros_like(rgb).index_copy(0, hit, shaded * opacity[hit, None])
            normal = torch.zeros_like(origins).index_copy(0, hit, normals)
        return _Traced(rgb, opacity, distance, normal, sums)

    def settle(self) -> None:
        """All levels and the hard density from the beginning: the field holds an object already."""
        self.coarse_until = 0.0

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """``table`` (hash entries, large rates) and ``mlp`` (weights, small rates)."""
        return {"table": [self.table], "mlp": list(self.weights)}

    @torch.no_grad()
    def after_step(self, iteration: int, progress: float, rng: Streams) -> None:
        """Note the progress and, every ``occupancy_every`` iterations, refresh the occupancy grid."""
        self.progress.fill_(progress)
        if (iteration + 1) % self.occupancy_every == 0:
            self.occupancy.refresh(self.density, rng)

    @torch.no_grad()
    def extract(self, resolution: int) -> Mesh:
        """The surface, on a grid of ``resolution`` cells per axis (``representations/surface.py`` says which one)."""
        return surface.extract(self, resolution)

    @torch.no_grad()
    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """(N, 3) sRGB albedo as a viewer in front of the surface sees it (``representations/surface.py``)."""
        return surface.color(self, points, normals)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"hashgrid: {message}")
