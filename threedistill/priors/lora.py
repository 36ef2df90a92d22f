"""The student of VSD and ESD: low-rank adapters on the teacher's own network, and a camera of its own.

The student is a twin of the teacher's network (or of another prior's in the same space: ProlificDreamer's grows on a
v-network beside an eps-teacher): another tree of modules over the *same* weight tensors, into which peft
puts the adapters. So the teacher stays as it was, bit by bit and whatever happens to the student, and one more network
costs the memory of its adapters only.

The teacher's slot for a camera (if it has one) is always told "none": otherwise the student would know the views
before its first step. The student's camera enters behind the time embedding,

    emb(t, y) + E(c)
    E(c) = W2 silu(W1 f(c) + b1) + b2,  W2 = b2 = 0 at first;  E(none) = a learned vector, 0 at first

so that a fresh student is the teacher without a camera, and the same code serves networks that have no such slot. Where
a network has no embedding of its time alone, E(c) is added to every vector that it modulates by.
An embedding says the same to every pixel, and a small network takes long to turn it into a picture. So what is seen may
also be drawn, as a map that is added (0 at first) to what the first convolution says: one for all views, and where
there is a camera, what dense layers make of it. So the blind student learns from every sample, too, and the camera has
to explain only how views differ.
Sources: Hu et al. 2021 (LoRA), arXiv 2106.09685; Wang et al. 2023 (ProlificDreamer), arXiv 2305.16213, section 3.3.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.cameras import CAMERA_SIZE
from threedistill.conditions import Conditions, Wording
from threedistill.errors import UsageError
from threedistill.prediction import Prediction
from threedistill.priors.arrangement import arranged
from threedistill.priors.student import told_cameras
from threedistill.protocols import STUDENT_CAMERA, ImageSpace, NetworkPrior, NoisePath, Prior, Student
from threedistill.types import Condition, Conditioning, NoiseLevel
from threedistill.values import Within, settings

__all__ = ["CameraEmbedding", "CameraMap", "LoRA", "LoRAStudent", "twin"]

#: The common map in units of this: a step of Adam changes it about as much as it changes what dense layers draw.
_PACE = 100.0

#: What embeds the time is called so in diffusers' networks, at whatever depth: mostly a ``TimestepEmbedding``; Z-Image
#: has a class of its own, and Chroma an approximator of all its modulations.
TIME_EMBEDDINGS = (
    "time_embedding", "timestep_embedder", "time_embedder", "time_step_proj", "t_embedder", "time_embeddings",
    "distilled_guidance_layer",
)  # fmt: skip


class CameraEmbedding(nn.Module):
    """``E(c)``: a two-layer perceptron of the camera vector; a learned vector where there is no camera.

    Arguments:
        size: of the network's time embedding.
        width: of the hidden layer.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(CAMERA_SIZE, width)
        self.outer = nn.Linear(width, size)
        self.null = nn.Parameter(torch.zeros(size))
        # Features of unit size: what the last layer learns from zero grows with them.
        nn.init.normal_(self.inner.weight, std=0.5)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, camera: Float[Tensor, "B 14"]) -> Float[Tensor, "B D"]:
        own = self.outer(nn.functional.silu(self.inner(camera)))
        return torch.where(camera[:, -1:] > 0, own, self.null)


class CameraMap(nn.Module):
    """``M + D(c)``: a map that is learned as it is, and one drawn from the camera; only the first without a camera.

    D is two dense layers, 8 x 8 maps and a convolution that starts at 0, as M does.

    Arguments:
        channels: of the network's first convolution.
        maps: drawn per camera.
        width: of the hidden layer.
    """

    def __init__(self, channels: int, maps: int, width: int) -> None:
        super().__init__()
        self.maps = maps
        self.inner = nn.Linear(CAMERA_SIZE, width)
        self.draw = nn.Linear(width, maps * 64)
        self.common = nn.Parameter(torch.zeros(channels, 8, 8))
        self.last = nn.Conv2d(maps, channels, 3, padding=1)
        nn.init.normal_(self.inner.weight, std=0.5)
        nn.init.normal_(self.draw.weight, std=width**-0.5)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, camera: Float[Tensor, "B 14"], height: int, width: int) -> Float[Tensor, "B C h w"]:
        x = nn.functional.silu(self.draw(nn.functional.silu(self.inner(camera))))
        x = nn.functional.interpolate(x.unflatten(-1, (self.maps, 8, 8)), (height, width), mode="bilinear")
        common = nn.functional.interpolate(_PACE * self.common[None], (height, width), mode="bilinear")
        return common + self.last(x) * camera[:, -1].view(-1, 1, 1, 1)


def twin(network: nn.Module) -> nn.Module:
    """Another tree of modules over the same parameters and buffers."""
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})


class LoRAStudent(Student):
    """The teacher's network with adapters, asked like a prior.

    Registered are the adapters and the camera embedding; the twin is not, so no checkpoint ever holds the prior.

    Arguments:
        prior: the teacher, on its device.
        rank, scale: of ``W x + scale B A x`` (``B = 0`` at first).
        targets: ends of the names of the layers that get adapters; ``*`` stands for anything.
        camera_width: hidden width of the camera embedding and of the camera maps.
        camera_maps: maps of features drawn from the camera; 0 = none.

    Raises:
        UsageError: none of the network's layers is named so, or a camera cannot enter it.
    """

    def __init__(
        self, prior: NetworkPrior, rank: int, scale: float, targets: Sequence[str], camera_width: int,
        camera_maps: int,
    ) -> None:  # fmt: skip
        super().__init__()
        from peft import LoraConfig, inject_adapter_in_model

        self.name, self.licence, self.view_group = f"{prior.name} student", prior.licence, prior.view_group
        own: frozenset[Condition] = frozenset({"camera"})
        self.wants = prior.wants | own
        self.space: ImageSpace = prior.space
        self.path: NoisePath = prior.path
        network = twin(prior.network)
        layers = [
            n for n, _ in network.named_modules() if any(fnmatchcase(f".{n}", f"*.{t}") for t in targets)
        ]
        if not layers:
            raise UsageError(
                f"student.model.targets={list(targets)}: the network of prior {prior.name} has no layer named so"
            )
        # peft divides by the rank; its annotation says int, any number will do.
        alpha: Any = rank * scale
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, lora_dropout=0.0)
        network = inject_adapter_in_model(config, network, adapter_name="student")
        adapters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        for parameter in adapters.values():
            # Small steps on small numbers: in float32 whatever the network computes in.
            parameter.data = parameter.data.float()
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.adapter = nn.ParameterDict({n.replace(".", "/"): p for n, p in adapters.items()})
        embedding, size = _time_embedding(network, prior.name)
        device = next(embedding.parameters()).device
        self.camera = CameraEmbedding(size, camera_width).to(device)
        embedding.register_forward_hook(self._add_camera)
        self.camera_map = None
        if camera_maps:
            first = getattr(network, "conv_in", None)
            if not isinstance(first, nn.Conv2d):
                raise UsageError(
                    f"student.model.camera_maps={camera_maps}: the network of prior {prior.name} has no first "
                    "convolution to which they could be added; set it to 0"
                )
            self.camera_map = CameraMap(first.out_channels, camera_maps, camera_width).to(first.weight.device)
            first.register_forward_hook(self._add_map)
        # A tuple hides the twin and the teacher from module registration.
        self._unregistered: tuple[NetworkPrior, nn.Module] = (prior, network.eval())
        self._told: Tensor | None = None
        self._seen: Tensor | None = None

    @property
    def frozen(self) -> Prior:
        """The teacher, told no camera."""
        return _Cameraless(self._unregistered[0])

    @property
    def twin(self) -> nn.Module:
        """The network with the adapters."""
        return self._unregistered[1]

    def _add_camera(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if self._told is None:
            return output
        told = arranged(self._told.to(output))
        return output + told.view(len(told), *(1,) * (output.ndim - 2), -1)

    def _add_map(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if self._seen is None or self.camera_map is None:
            return output
        added = self.camera_map(self._seen, output.shape[-2], output.shape[-1])
        return output + arranged(added.to(output))

    def prepare(self, wordings: Sequence[Wording]) -> None:
        """Tells the prior it grows on, which may be another than the teacher."""
        self._unregistered[0].prepare(wordings)

    @contextlib.contextmanager
    def active(self, conditioning: Conditioning) -> Iterator[Conditioning]:
        """The context in which the twin is told these rows' cameras; gives the rest of the conditioning."""
        before, seen = (self._told, self._seen), conditioning[STUDENT_CAMERA]
        self._told, self._seen = self.camera(seen), seen
        try:
            yield {k: v for k, v in conditioning.items() if k != STUDENT_CAMERA}
        finally:
            self._told, self._seen = before

    def conditioning(self, conditions: Conditions) -> Conditioning:
        """What the teacher is told without a camera, and the student's own camera."""
        prior = self._unregistered[0]
        told = told_cameras(conditions.cameras, len(conditions), self.camera.null.device)
        return {**prior.conditioning(conditions.only(prior.wants - {"camera"})), STUDENT_CAMERA: told}

    def answer(
        self, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The adapted network's answer, with gradients to the adapters and the camera embedding."""
        prior, network = self._unregistered
        with self.active(conditioning) as rest:
            return prior.ask(network, x_t, level, rest)


class _Cameraless(Prior):
    """A prior that is never told a camera; it also overlooks a student's."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.name, self.space, self.path = prior.name, prior.space, prior.path
        self.view_group, self.licence = prior.view_group, prior.licence
        self.wants = prior.wants - {"camera"}

    def to(self, device: torch.device | str) -> Self:
        self.prior.to(device)
        return self

    def conditioning(self, conditions: Conditions) -> Conditioning:
        return self.prior.conditioning(conditions.only(self.wants))

    def predict(self, x_t: Tensor, level: NoiseLevel, conditioning: Conditioning) -> Prediction:
        rest = {k: v for k, v in conditioning.items() if k != STUDENT_CAMERA}
        return self.prior.predict(x_t, level, rest)


def _time_embedding(network: nn.Module, name: str) -> tuple[nn.Module, int]:
    """Where the camera enters a network, and the size of what it says."""
    for path, module in network.named_modules():
        if path.rpartition(".")[2] in TIME_EMBEDDINGS:
            sizes = [m.out_features for m in module.modules() if isinstance(m, nn.Linear)]
            if sizes:
                return module, sizes[-1]
    raise UsageError(
        f"student=lora: the network of prior {name} has nothing called {', '.join(TIME_EMBEDDINGS[:-1])} or "
        f"{TIME_EMBEDDINGS[-1]} for the camera to enter by; use student=gaussian"
    )


@settings
class LoRA:
    """``student=lora``: see :class:`LoRAStudent`.

    Arguments:
        rank: of the adapters.
        scale: factor on what they add.
        targets: ends of the names of the layers that get adapters; ``*`` stands for anything.
        camera_width: hidden width of the camera embedding and of the camera maps.
        camera_maps: maps of features drawn from the camera; 0 = none.
    """

    rank: Annotated[int, Within(1, 4096)] = 16
    scale: Annotated[float, Within(-1000, 1000)] = 1.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    camera_width: Annotated[int, Within(1, 65536)] = 64
    camera_maps: Annotated[int, Within(0, 4096)] = 0

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("student.model.targets is empty; name some layers, such as to_q")

    def check(self, prior: type) -> None:
        """Refuse a prior without a network, before it is loaded.

        Raises:
            UsageError: with the student that fits.
        """
        if not issubclass(prior, NetworkPrior):
            raise UsageError(
                f"student=lora needs a prior with a network, and {prior.__name__} has none; use student=gaussian"
            )

    def attach(self, prior: Prior, seed: int) -> LoRAStudent:
        """A fresh student on this teacher.

        Arguments:
            prior: the teacher, already on its device.
            seed: of the adapters' and the camera embedding's first values.
        """
        self.check(type(prior))
        assert isinstance(prior, NetworkPrior)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LoRAStudent(
                prior, self.rank, self.scale, self.targets, self.camera_width, self.camera_maps
            )
