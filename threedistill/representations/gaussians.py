"""A cloud of 3D Gaussians, parametrised, drawn and refined as in 3D Gaussian splatting."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.memory import PER_PARAMETER, need
from threedistill.protocols import RenderContext, Representation
from threedistill.render.harmonics import C0, MAX_DEGREE
from threedistill.render.shading import shade
from threedistill.render.splat import FAINT, Normals, draw
from threedistill.render.volume import over
from threedistill.representations import seeding, splat_color, splat_surface, splatstats
from threedistill.representations.densify import Cloud, Growth, Relocation
from threedistill.rng import Streams
from threedistill.types import Cameras, Mesh, Refinement, Rendering, Splats
from threedistill.values import Within, checked

__all__ = ["Gaussians"]

#: Per-splat tensors with one row per splat, besides the parameters.
_STATISTICS = ("gradient_sum", "gradient_count")


class Gaussians(Representation):
    """``N`` Gaussians with mean, log-scales, quaternion, opacity logit and spherical harmonics.

        Sigma = R S S^T R^T,  o = sigmoid(logit),  S = exp(log_scales),  colour(d) = 0.5 + sum_k Y_k(d) sh_k

    Drawing is described in ``render/splat.py``, growing and pruning in ``representations/densify.py``. After every step
    the parameters are brought back into their ranges: scales into ``[min_scale, max_scale]``, opacities away from
    saturation, constant colours into [0, 1]. ``min_scale`` matters: the screen's low-pass filter makes every splat at
    least a pixel of a small render wide, and without a floor splats shrink behind it to needles that a larger picture
    shows.

    Parameter groups: ``means``, ``scales``, ``rotations``, ``opacities``, ``sh0``, and ``sh_rest`` where ``sh_degree``
    is not 0.

    Arguments:
        count: splats at the beginning.
        radius: of the ball they start in, metres.
        opacity: they start with, in (0, 1).
        sh_degree: of the colour's dependence on the direction, 0 to 3; 0 bakes best.
        min_scale, max_scale: standard deviations, metres.
        densification: :class:`~threedistill.representations.densify.Growth`,
            :class:`~threedistill.representations.densify.Relocation`, or None for a fixed number.
        normals: where shading needs them: the splats' shortest axes, or the normals of the rendered depth.
        antialiased: whether the screen's low-pass filter keeps a splat's light (``render/projection.py``).

    Raises:
        ValueError: a value outside its range.

    Source: Kerbl et al. 2023, "3D Gaussian splatting for real-time radiance field rendering".
    """

    regularizers = splatstats.NAMES | {"tv_depth"}
    has_splats = True
    starts_from = frozenset({"mesh", "splats"})

    @checked
    def __init__(
        self, *, count: Annotated[int, Within(1, 100_000_000)] = 3000, radius: Annotated[float, Within(0.001, 1)] = 0.5,
        opacity: Annotated[float, Within(0, 1, "()")] = 0.1, sh_degree: Annotated[int, Within(0, MAX_DEGREE)] = 0,
        min_scale: Annotated[float, Within(0, 10, "(]")] = 0.008,
        max_scale: Annotated[float, Within(0, 10, "(]")] = 0.2,
        densification: Growth | Relocation | None = None,
        normals: Normals = "depth", antialiased: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if min_scale >= max_scale:
            raise ValueError(f"gaussians: min_scale={min_scale} must be below max_scale={max_scale}")
        if densification is not None and densification.cap < count:
            raise ValueError(f"gaussians: count={count} exceeds densification.cap={densification.cap}")
        most = count if densification is None else densification.cap
        need(PER_PARAMETER * (11 + 3 * (sh_degree + 1) ** 2) * most, f"{most} splats")
        self.count, self.sh_degree, self.densification = count, sh_degree, densification
        self.min_scale, self.max_scale = float(min_scale), float(max_scale)
        self.normals: Normals = normals
        self.antialiased = antialiased
        self.gradient_sum: Tensor
        self.gradient_count: Tensor
        start = seeding.ball(count, radius, opacity)
        self.means = nn.Parameter(start.means)
        self.log_scales = nn.Parameter(start.log_scales)
        self.quaternions = nn.Parameter(start.quaternions)
        self.opacity_logits = nn.Parameter(start.opacity_logits)
        self.sh0 = nn.Parameter(start.sh)
        rest = (sh_degree + 1) ** 2 - 1
        self.sh_rest = nn.Parameter(torch.zeros(count, rest, 3)) if rest else None
        for name in _STATISTICS:
            self.register_buffer(name, torch.zeros(count))
        self._screen: list[Tensor] = []
        self._pixels = 1
        self.register_load_state_dict_pre_hook(_resize)

    def __len__(self) -> int:
        return len(self.means)

    # ---- starting points ---------------------------------------------------------------------------------------------

    def init_from_splats(self, splats: Splats) -> None:
        """Take over a cloud; missing degrees of its colour are zero, surplus ones are dropped."""
        if not len(splats):
            raise ValueError("gaussians: there are no splats to start from")
        device = self.means.device
        parts = {
            "means": splats.means, "log_scales": splats.log_scales, "quaternions": splats.quaternions,
            "opacity_logits": splats.opacity_logits, "sh0": splats.sh[:, :1],
        }  # fmt: skip
        if self.sh_rest is not None:
            rest = splats.sh.new_zeros(len(splats), (self.sh_degree + 1) ** 2 - 1, 3)
            known = min(rest.shape[1], splats.sh.shape[1] - 1)
            rest[:, :known] = splats.sh[:, 1 : 1 + known]
            parts["sh_rest"] = rest
        for name, value in parts.items():
            value = value.detach().to(device=device, dtype=self.means.dtype)
            setattr(self, name, nn.Parameter(value.contiguous().clone()))
        self._forget()
        self._keep_in_range()

    def init_from_points(
        self, points: Float[Tensor, "N 3"], colors: Float[Tensor, "N 3"] | None = None
    ) -> None:
        """One splat per point, sized by its neighbours."""
        self.init_from_splats(seeding.on_points(points, colors))

    def init_from_mesh(self, mesh: Mesh, rng: Streams) -> None:
        """As many flat splats as there may be (the densification's cap, or ``count``) on the mesh's surface."""
        cap = self.count if self.densification is None else self.densification.cap
        self.init_from_splats(seeding.on_mesh(mesh, cap, rng))

    @torch.no_grad()
    def splats(self) -> Splats:
        """The cloud as it is drawn, detached, on the CPU."""
        means, scales, quaternions, opacities, sh = (
            part.detach().cpu().clone()
            for part in (self.means, self.log_scales, self.quaternions, self.opacity_logits, self._sh())
        )
        return Splats(means, scales, quaternions, opacities, sh, antialiased=self.antialiased)

    # ---- the representation ------------------------------------------------------------------------------------------

    def _sh(self) -> Tensor:
        return self.sh0 if self.sh_rest is None else torch.cat([self.sh0, self.sh_rest], 1)

    def render(self, cameras: Cameras, context: RenderContext) -> Rendering:
        """Render ``B`` cameras over ``context.background``; see :class:`threedistill.protocols.Representation`.

        ``stats``: ``splats`` (count), ``mean_opacity``, and the regularisers ``splat_scale``, ``splat_opacity``,
        ``anisotropy`` and ``splat_entropy`` (``representations/splatstats.py``).
        """
        cameras = cameras.to(self.means.device)
        scales, opacities = self.log_scales.exp(), self.opacity_logits.sigmoid()
        watched, pulls = torch.is_grad_enabled() and self.means.requires_grad, None
        if watched and isinstance(self.densification, Growth) and self.densification.absolute:
            pulls = self.means.new_zeros(len(cameras), len(self), 2, requires_grad=True)
        drawn = draw(
            self.means, scales, self.quaternions, opacities, self._sh(), cameras,
            normals=self.normals if context.normals or context.shading != "none" else "none",
            antialiased=self.antialiased, pulls=pulls,
        )  # fmt: skip
        if watched:
            if pulls is None:
                drawn.projected.means.retain_grad()
            self._screen.append(drawn.projected.means if pulls is None else pulls)
            self._pixels = cameras.height
        rgb, opacity, background = drawn.rgb, drawn.opacity, context.background.to(drawn.rgb)
        if context.shading != "none" and drawn.normal is not None:
            light = None if context.light is None else context.light.to(rgb)[:, None, None]
            albedo = rgb / opacity.clamp_min(FAINT)
            shaded = shade(albedo, drawn.normal, -cameras.rays()[1].to(rgb), context.shading, light)
            rgb = torch.where(opacity > FAINT, shaded * opacity, rgb)
        stats = {
            "splats": torch.tensor(float(len(self))),
            "mean_opacity": opacity.mean(),
            "splat_scale": splatstats.splat_scale(scales),
            "splat_opacity": splatstats.splat_opacity(opacities),
            "anisotropy": splatstats.anisotropy(scales),
            "splat_entropy": splatstats.splat_entropy(opacities),
        }
        return Rendering(
            over(rgb, opacity, background), opacity, drawn.depth, background, drawn.normal, stats
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One parameter each, so that a refinement can name them."""
        groups = {
            "means": [self.means], "scales": [self.log_scales], "rotations": [self.quaternions],
            "opacities": [self.opacity_logits], "sh0": [self.sh0],
        }  # fmt: skip
        return groups if self.sh_rest is None else {**groups, "sh_rest": [self.sh_rest]}

    @torch.no_grad()
    def after_step(self, iteration: int, progress: float, rng: Streams) -> Refinement | None:
        """Collect the screen-space gradients, bring parameters into range, and say what to add and remove."""
        self._collect()
        self._keep_in_range()
        if self.densification is None:
            return None
        cloud = Cloud(
            {name: group[0].detach() for name, group in self.parameter_groups().items()},
            self.gradient_sum / self.gradient_count.clamp_min(1),
            self.gradient_count,
        )
        if isinstance(self.densification, Relocation):
            moved = self.densification.tremble(cloud, progress, rng)
            if moved is not None:
                self.means += moved
        refinement = self.densification.plan(cloud, iteration, progress, rng)
        if refinement is not None:
            self._forget(len(refinement.source))
        return refinement

    def _collect(self) -> None:
        """Add up the gradients by the screen positions (or their pulls), in half pictures rather than pixels."""
        if len(self.gradient_sum) != len(self):
            self._forget()
        for means in self._screen:
            if means.grad is not None and means.shape[1] == len(self):
                length = means.grad.norm(dim=-1) * (self._pixels / 2)
                self.gradient_sum += length.sum(0).to(self.gradient_sum)
                self.gradient_count += (length > 0).sum(0)
        self._screen.clear()

    def _forget(self, count: int | None = None) -> None:
        for name in _STATISTICS:
            setattr(self, name, self.means.new_zeros(len(self) if count is None else count))
        self._screen.clear()

    @torch.no_grad()
    def _keep_in_range(self) -> None:
        self.log_scales.clamp_(math.log(self.min_scale), math.log(self.max_scale))
        self.opacity_logits.clamp_(-8.0, 8.0)
        if self.sh_rest is None:
            self.sh0.clamp_(-0.5 / C0, 0.5 / C0)

    @torch.no_grad()
    def extract(self, resolution: int) -> Mesh:
        """The surface, on a grid of ``resolution`` cells per axis (``representations/splat_surface.py``)."""
        return splat_surface.extract(self.splats(), resolution)

    @torch.no_grad()
    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """(N, 3) sRGB colour as views around the surface show it (``representations/splat_color.py``)."""
        return splat_color.color(self.splats(), points.cpu(), normals.cpu()).to(points.device)


def _resize(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint decides how many splats there are: make room before its values are copied."""
    assert isinstance(module, Gaussians)
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    for name, tensor in own.items():
        saved = state.get(prefix + name)
        if isinstance(saved, Tensor) and saved.shape[1:] == tensor.shape[1:] and saved.ndim == tensor.ndim:
            tensor.data = tensor.new_zeros(saved.shape)
