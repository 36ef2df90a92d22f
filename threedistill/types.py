"""The data that the parts of the system exchange. No behaviour beyond reading and moving it.

Alphabet of the shapes: ``B`` views, ``H W`` image, ``N`` primitives, ``F`` faces, ``S`` samples, ``C h w`` prior
space. World: right-handed, +Y up, the object's front faces +Z, metres. Cameras: OpenGL (they look down -Z), radians.
Colours: sRGB-encoded, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedistill.prediction import NoiseLevel, Prediction, PredictionKind

__all__ = [
    "Appraisal", "Cameras", "Condition", "Conditioning", "Evidence", "Lesson", "Mesh", "NoiseLevel", "Prediction",
    "PredictionKind", "Query", "Refinement", "Rendering", "Shading", "Splats", "TextKind", "Wrap",
]  # fmt: skip

Shading = Literal["none", "lambertian", "textureless", "normal"]

#: What a picture does beyond the unit square: go on from the other side, turn back, or keep its border's colour.
Wrap = Literal["repeat", "mirror", "clamp"]

#: What a network can be told about a view (``conditions.py`` has the facts themselves).
Condition = Literal["text", "camera", "background", "image", "rgb", "opacity", "depth", "normal"]

#: The wordings of a prompt that a question may choose from.
TextKind = Literal[
    "view",
    "base",
    "null",
    "uncond",
    "negative",
    "inverse",
    "category",
    "source",
    "flawed",
    "front",
    "side",
    "back",
]

#: What a network is given besides the noisy sample: what its prior made of the conditions, batch-first tensors by name.
Conditioning = dict[str, Tensor]


@dataclass(frozen=True)
class Cameras:
    """``B`` pinhole cameras of one image size.

    Attributes:
        c2w: (B, 4, 4) camera-to-world, OpenGL axes (x right, y up, looking down -z).
        fov_y: (B,) vertical field of view, radians.
        azimuth: (B,) radians, 0 = in front of the object (on +Z), pi/2 = on +X.
        elevation: (B,) radians, pi/2 = straight above.
        distance: (B,) metres from the origin.
        height, width: pixels.
    """

    c2w: Float[Tensor, "B 4 4"]
    fov_y: Float[Tensor, "B"]
    azimuth: Float[Tensor, "B"]
    elevation: Float[Tensor, "B"]
    distance: Float[Tensor, "B"]
    height: int
    width: int

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Cameras:
        return replace(
            self, c2w=self.c2w[rows], fov_y=self.fov_y[rows], azimuth=self.azimuth[rows],
            elevation=self.elevation[rows], distance=self.distance[rows],
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras with their tensors on ``device``."""
        return replace(
            self, c2w=self.c2w.to(device), fov_y=self.fov_y.to(device), azimuth=self.azimuth.to(device),
            elevation=self.elevation.to(device), distance=self.distance.to(device),
        )  # fmt: skip

    def resized(self, height: int, width: int) -> Cameras:
        """The same views at another image size."""
        return replace(self, height=height, width=width)

    def rays(self) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 3"]]:
        """Origins and unit directions through the pixel centres, in the world; row 0 is the top."""
        tan = torch.tan(self.fov_y / 2)
        ys = 1 - (torch.arange(self.height, device=tan.device, dtype=tan.dtype) + 0.5) * (2 / self.height)
        xs = (torch.arange(self.width, device=tan.device, dtype=tan.dtype) + 0.5) * (2 / self.width) - 1
        xs = xs * (self.width / self.height)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        local = (
            torch.stack([x, y, -torch.ones_like(x)], -1)[None]
            * torch.stack([tan, tan, torch.ones_like(tan)], -1)[:, None, None]
        )
        directions = torch.einsum(
            "bij,bhwj->bhwi", self.c2w[:, :3, :3], torch.nn.functional.normalize(local, dim=-1)
        )
        origins = self.c2w[:, None, None, :3, 3].expand_as(directions)
        return origins, directions

    def world_to_clip(self, near: float = 0.05, far: float = 20.0) -> Float[Tensor, "B 4 4"]:
        """OpenGL clip-space matrices: ``clip = world_to_clip @ (x, y, z, 1)``, y up, depth in [-w, w]."""
        focal = 1 / torch.tan(self.fov_y / 2)
        projection = self.c2w.new_zeros(len(self), 4, 4)
        projection[:, 0, 0] = focal * (self.height / self.width)
        projection[:, 1, 1] = focal
        projection[:, 2, 2] = -(far + near) / (far - near)
        projection[:, 2, 3] = -2 * far * near / (far - near)
        projection[:, 3, 2] = -1
        return projection @ torch.inverse(self.c2w)


@dataclass
class Rendering:
    """What a representation shows the cameras.

    Attributes:
        rgb: (B, H, W, 3) sRGB in [0, 1], composited over ``background``.
        opacity: (B, H, W, 1) in [0, 1].
        depth: (B, H, W, 1) expected distance along the unit ray, metres; 0 where nothing was hit.
        background: (B, 3) sRGB colour behind the object.
        normal: (B, H, W, 3) unit outward normals in the world where computed, else None.
        stats: scalars for regularisers and the watchdog, by name (differentiable where it makes sense).
        behind: (B, H, W, 3) what is behind the object where that is no plain colour; ``background`` is its mean.
    """

    rgb: Float[Tensor, "B H W 3"]
    opacity: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"]
    background: Float[Tensor, "B 3"]
    normal: Float[Tensor, "B H W 3"] | None = None
    stats: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    behind: Float[Tensor, "B H W 3"] | None = None


@dataclass(frozen=True)
class Query:
    """One question to a network; a rule, a CFG variant and a trajectory each declare theirs.

    A network is told all that its prior wants and the step knows, except what is withheld. What is given must be among
    it: the question means nothing without.

    Attributes:
        name: what the answer is called in the :class:`Evidence`.
        network: who answers: ``teacher``, a frozen network or a learner by its name in the run.
        text: which wording it is told: the view-dependent prompt, the base prompt, the empty one, what the
            unconditional branch of guidance is told (the user's negative prompt, else nothing), the negative prompt
            (the user's, else the prior's own), the inversion prompt, the category noun, the source prompt of an edit,
            the view-dependent prompt of a bad picture, or the prompt with the words of one fixed view.
        withheld: the conditions besides the text that it is not told (``"camera"``, ``"image"``, ``"depth"``, ...).
        given: those that it must be told; a run whose networks cannot be is refused.
        point: which noisy sample it sees; ``"t"`` is the step's own ``x_t``, others come from a trajectory.

    Raises:
        ValueError: a condition or a kind of text that does not exist, or a condition that is both given and withheld.
    """

    name: str
    network: str = "teacher"
    text: TextKind = "view"
    withheld: Set[Condition] = frozenset()
    given: Set[Condition] = frozenset()
    point: str = "t"

    def __post_init__(self) -> None:
        object.__setattr__(self, "withheld", frozenset(self.withheld))
        object.__setattr__(self, "given", frozenset(self.given))
        if self.text not in get_args(TextKind):
            raise ValueError(
                f"query {self.name!r}: text={self.text!r} is not one of {', '.join(get_args(TextKind))}"
            )
        known = [name for name in get_args(Condition) if name != "text"]
        for what, named in (("withheld", self.withheld), ("given", self.given)):
            if unknown := sorted(named - set(known)):
                raise ValueError(
                    f"query {self.name!r}: {what} names {unknown[0]!r}, which is not one of {', '.join(known)} (no "
                    "text is text='null')"
                )
        if both := sorted(self.withheld & self.given):
            raise ValueError(f"query {self.name!r}: {both[0]} cannot be both given and withheld")


class Lesson(Protocol):
    """What learners learn in place of noised renders."""

    @property
    def level(self) -> NoiseLevel:
        """Where the rule asks them in this step."""
        ...

    def noised(
        self, x0: Float[Tensor, "B C h w"], level: NoiseLevel, noise: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """What they are shown of renders ``x0`` there, from standard normal numbers, and the noise they should say."""
        ...


@dataclass(frozen=True)
class Appraisal:
    """What is made of clean samples.

    Attributes:
        gradient: (B, C, h, w) of the loss by the sample.
        shares: (B, K) the probability of each pose.
        rows: (B,) the range of noise levels that each sample belongs to.
    """

    gradient: Float[Tensor, "B C h w"]
    shares: Float[Tensor, "B K"]
    rows: Int[Tensor, "B"]


@dataclass(frozen=True)
class Evidence:
    """Everything a rule may look at, gathered without gradients.

    Attributes:
        predictions: the answers, by query name.
        x0: (B, C, h, w) the clean sample (the encoded render), detached.
        noise: (B, C, h, w) the noise in ``x_t`` at point ``"t"``.
        level: the noise level at point ``"t"``.
        cameras: the ``B`` views, for what depends on the direction of view.
        pulled: (B, C, h, w) ``sum_k J_k^T c_k`` of the cotangents ``c_k`` that a rule gave, ``J_k`` the derivative of
            its answer ``k`` in eps by ``x_t``; None where it gave none.
        appraisal: of the clean sample that a rule wants appraised; None where it wants none.
        lesson: what learners learn in place of noised renders; None = those.
    """

    predictions: dict[str, Prediction]
    x0: Float[Tensor, "B C h w"]
    noise: Float[Tensor, "B C h w"]
    level: NoiseLevel
    cameras: Cameras | None = None
    pulled: Float[Tensor, "B C h w"] | None = None
    appraisal: Appraisal | None = None
    lesson: Lesson | None = None

    def __getitem__(self, name: str) -> Prediction:
        try:
            return self.predictions[name]
        except KeyError:
            known = ", ".join(sorted(self.predictions)) or "none"
            raise KeyError(f"no prediction named {name!r} was gathered (there are: {known})") from None


@dataclass
class Mesh:
    """A triangle mesh, optionally textured.

    All pictures share ``uv`` and ``wrap``; one of a single texel is a constant, which needs no ``uv``.

    Attributes:
        vertices: (N, 3) metres.
        faces: (F, 3) vertex indices, counter-clockwise from outside.
        normals: (N, 3) unit vertex normals, or None.
        colors: (N, 3) sRGB vertex colours, or None.
        uv: (N, 2) texture coordinates, origin at the bottom left (OBJ convention), or None.
        texture: (Ht, Wt, 3) sRGB base colour in [0, 1], row 0 at the top, or None.
        normal_map: (Hn, Wn, 3) tangent-space normals encoded as ``(n + 1) / 2`` (OpenGL: green up), same uv, or None.
        metallic_roughness: (Hm, Wm, 2) metallic and roughness in [0, 1] (linear), same uv, or None (rough, no metal).
        emission: (He, We, 3) light that the surface gives off, sRGB-encoded, above 1 where it is stronger than white,
            same uv, or None.
        alpha: (Ha, Wa, 1) coverage in [0, 1] (linear), same uv, or None (opaque).
        alpha_cutoff: below it ``alpha`` is a hole, from it on solid; None: it blends.
        wrap: what the pictures do beyond the unit square, along u and along v.
        double_sided: whether the back of a face is seen too.
        vertex_material: (N, 2) metallic and roughness per vertex where there is no such map, or None.
        extras: facts that travel with the asset (prompt, seed, prior, licences).
    """

    vertices: Float[Tensor, "N 3"]
    faces: Int[Tensor, "F 3"]
    normals: Float[Tensor, "N 3"] | None = None
    colors: Float[Tensor, "N 3"] | None = None
    uv: Float[Tensor, "N 2"] | None = None
    texture: Float[Tensor, "Ht Wt 3"] | None = None
    normal_map: Float[Tensor, "Hn Wn 3"] | None = None
    metallic_roughness: Float[Tensor, "Hm Wm 2"] | None = None
    emission: Float[Tensor, "He We 3"] | None = None
    alpha: Float[Tensor, "Ha Wa 1"] | None = None
    alpha_cutoff: float | None = None
    wrap: tuple[Wrap, Wrap] = ("clamp", "clamp")
    double_sided: bool = False
    vertex_material: Float[Tensor, "N 2"] | None = None
    extras: dict[str, object] = field(default_factory=dict[str, object])


@dataclass
class Splats:
    """A cloud of 3D Gaussians, as 3DGS parametrises them (before activation).

    Attributes:
        means: (N, 3) metres.
        log_scales: (N, 3) logarithms of the standard deviations along the local axes.
        quaternions: (N, 4) rotations (w, x, y, z) from local axes to the world, not necessarily of unit length.
        opacity_logits: (N,) opacities before the sigmoid.
        sh: (N, K, 3) spherical-harmonic coefficients of the colour, ``K = (degree + 1)^2``; the colour seen along the
            unit direction d is ``0.5 + sum_k Y_k(d) sh_k``, sRGB (INRIA's basis, order and signs).
        extras: facts that travel with the asset (prompt, seed, prior, licences).
        antialiased: whether they are to be drawn with their light kept under the screen's low-pass filter.
    """

    means: Float[Tensor, "N 3"]
    log_scales: Float[Tensor, "N 3"]
    quaternions: Float[Tensor, "N 4"]
    opacity_logits: Float[Tensor, "N"]
    sh: Float[Tensor, "N K 3"]
    extras: dict[str, object] = field(default_factory=dict[str, object])
    antialiased: bool = False

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        return round(self.sh.shape[1] ** 0.5) - 1


@dataclass(frozen=True)
class Refinement:
    """A change of how many primitives a representation has, as data; whoever owns the optimizer carries it out.

    Row ``m`` of every named parameter becomes ``values[name][m]``; the optimizer's moments of row ``m`` become those
    of the old row ``source[m]``, or zero where ``fresh[m]``.

    Attributes:
        source: (M,) old row that each new row comes from.
        fresh: (M,) whether the moments of the row start anew.
        values: new values (M, ...) by parameter group; each of these groups holds one parameter.
        restart: groups whose moments all start anew.
    """

    source: Int[Tensor, "M"]
    fresh: Bool[Tensor, "M"]
    values: dict[str, Tensor]
    restart: tuple[str, ...] = ()
