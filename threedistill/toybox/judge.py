"""The judge: a small network, independent of every prior, that says what a picture of a Toybox object shows.

It has only ever seen ground-truth renders (and spoilt ones), so what it says about samples and assets is not the
prior marking its own work. Training is in :mod:`threedistill.toybox.train_judge`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.errors import ThreedistillError, UsageError
from threedistill.resources import assets_dir
from threedistill.toybox.grammar import ObjectSpec, Scene

__all__ = [
    "SIZE", "VIEWS", "Judge", "JudgeNetwork", "JudgeReading", "Vocabulary", "available", "scene_labels", "to_input",
]  # fmt: skip

VIEWS = ("front", "side", "back", "overhead")
SIZE = 64


@dataclass(frozen=True)
class JudgeReading:
    """Natural-log probabilities (calibrated) of what each picture shows, rows = pictures.

    Attributes:
        kind_logp: (B, K) of the main object's kind.
        color_logp: (B, C) of its main colour.
        pattern_logp: (B, P) of its pattern; index 0 is plain.
        accessory_logp: (B, A) of what it wears or carries; index 0 is nothing.
        second_kind_logp: (B, K + 1) of the second object; index 0 is none.
        second_color_logp: (B, C + 1) of the pattern, accessory or second object; index 0 is none.
        view_logp: (B, 4) front, side, back, overhead; meaningful for kinds with a front only.
        clean: (B,) probability in [0, 1] that this is one whole, well-made object.
        azimuth: (B,) radians, where the camera stands seen from the object's front, kinds with a front only.
        parts: (B, S) probabilities that each of the vocabulary's parts can be seen; S = 0 for judges that were not
            taught parts.
    """

    kind_logp: Float[Tensor, "B K"]
    color_logp: Float[Tensor, "B C"]
    pattern_logp: Float[Tensor, "B P"]
    accessory_logp: Float[Tensor, "B A"]
    second_kind_logp: Float[Tensor, "B K1"]
    second_color_logp: Float[Tensor, "B C1"]
    view_logp: Float[Tensor, "B 4"]
    clean: Float[Tensor, "B"]
    azimuth: Float[Tensor, "B"]
    parts: Float[Tensor, "B S"]

    def __getitem__(self, rows: slice | Tensor) -> JudgeReading:
        return JudgeReading(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concatenated(parts: list[JudgeReading]) -> JudgeReading:
        """Readings one after the other."""
        return JudgeReading(
            **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(JudgeReading)}
        )


@dataclass(frozen=True)
class Vocabulary:
    """The words behind the judge's outputs, in order (without the leading "none" of the optional ones)."""

    kinds: tuple[str, ...]
    colors: tuple[str, ...]
    patterns: tuple[str, ...]
    accessories: tuple[str, ...]
    parts: tuple[str, ...] = ()

    def head_sizes(self) -> dict[str, int]:
        """Classes per head."""
        kinds, colors = len(self.kinds), len(self.colors)
        sizes = {
            "kind": kinds, "color": colors, "pattern": 1 + len(self.patterns),
            "accessory": 1 + len(self.accessories), "second_kind": 1 + kinds, "second_color": 1 + colors,
            "view": len(VIEWS), "clean": 2,
        }  # fmt: skip
        return sizes | ({"parts": len(self.parts)} if self.parts else {})


def _index(name: str | None, words: tuple[str, ...]) -> int:
    """Position in an optional head: 0 is none."""
    return 0 if name is None else 1 + words.index(name)


def scene_labels(scene: Scene, words: Vocabulary) -> dict[str, int]:
    """The right class of every head for a scene; heads that the scene leaves open are missing.

    The first object is the main one. ``second_color`` is the colour of its pattern or accessory, or of the second
    object.

    Raises:
        UsageError: a kind that the judge was not trained on.
    """
    strange = [o.kind for o in scene.objects if o.kind not in words.kinds]
    if strange:
        raise UsageError(
            f"the judge does not know {', '.join(map(repr, strange))}; it knows {', '.join(words.kinds)}"
        )
    first = scene.objects[0]
    second = scene.objects[1] if len(scene.objects) > 1 else None
    labels = {
        "kind": words.kinds.index(first.kind),
        "pattern": _index(first.pattern, words.patterns),
        "accessory": _index(first.accessory[0] if first.accessory else None, words.accessories),
        "second_kind": _index(second.kind if second else None, words.kinds),
    }
    if first.color:
        labels["color"] = words.colors.index(first.color)
    other = _second_color(first, second)
    if other or (first.plain and second is None):
        labels["second_color"] = _index(other, words.colors)
    return labels


def _second_color(first: ObjectSpec, second: ObjectSpec | None) -> str | None:
    if first.pattern:
        return first.pattern_color
    if first.accessory:
        return first.accessory[1]
    return second.color if second else None


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.first(x)))
        return F.relu(x + self.norm2(self.second(h)))


class JudgeNetwork(nn.Module):
    """(B, 3, 64, 64) pictures in [-1, 1] to one logit vector per head, and ``pose`` (B, 3): sine and
    cosine of the azimuth, and the elevation in radians, of kinds with a front."""

    def __init__(self, heads: dict[str, int], widths: tuple[int, int, int, int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for before, after, blocks in zip(widths, widths[1:], (1, 2, 1)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            layers += [_Residual(after) for _ in range(blocks)]
        self.trunk = nn.Sequential(*layers)
        # What is where tells views apart; what is anywhere tells kinds and colours.
        self.where = nn.Linear(16 * widths[-1], widths[-1])
        self.heads = nn.ModuleDict({name: nn.Linear(3 * widths[-1], n) for name, n in heads.items()})
        self.pose = nn.Linear(3 * widths[-1], 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.trunk(x)
        h = torch.cat([h.mean((2, 3)), h.amax((2, 3)), F.relu(self.where(h.flatten(1)))], 1)
        return {**{name: head(h) for name, head in self.heads.items()}, "pose": self.pose(h)}


def to_input(images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 64 64"]:
    """sRGB pictures of any square size as the network sees them."""
    x = images.float().permute(0, 3, 1, 2)
    if x.shape[-2:] != (SIZE, SIZE):
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return (x.clamp(0, 1) * 2 - 1).contiguous(memory_format=torch.channels_last)


class Judge:
    """The trained judge, in evaluation mode on the CPU.

    Arguments:
        network: the trained network.
        vocabulary: the words behind its outputs.
        temperatures: calibration per head; logits are divided by it.
        version: what results tables name.
    """

    def __init__(
        self, network: JudgeNetwork, vocabulary: Vocabulary, temperatures: dict[str, float], version: str
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self.temperatures = temperatures
        self.version = version

    @classmethod
    def load(cls, path: str | Path | None = None) -> Judge:
        """The judge in folder ``path`` (``judge.safetensors`` + ``config.json``), by default the shipped one."""
        from safetensors.torch import load_file

        folder = Path(path) if path is not None else assets_dir() / "toybox" / "judge"
        try:
            config = json.loads((folder / "config.json").read_text())
            weights = load_file(str(folder / "judge.safetensors"))
        except FileNotFoundError as missing:
            raise ThreedistillError(
                f"no judge at {folder} ({Path(missing.filename or '').name or 'weights'} is missing): reinstall "
                "threedistill, or train one with `python -m threedistill.toybox.train_judge`"
            ) from None
        words = Vocabulary(**{k: tuple(v) for k, v in config["vocabulary"].items()})
        network = JudgeNetwork(words.head_sizes(), tuple(config["widths"]))
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return cls(network, words, config["temperatures"], config["version"])

    def save(self, path: str | Path, facts: dict[str, object] | None = None) -> None:
        """Write the folder :meth:`load` reads, weights in float16; ``facts`` (figures, training) go into the config."""
        from safetensors.torch import save_file

        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.network.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, str(folder / "judge.safetensors"))
        (folder / "judge.safetensors").chmod(0o644)  # the library leaves it to its owner alone
        words = {f.name: list(getattr(self.vocabulary, f.name)) for f in fields(Vocabulary)}
        widths = [m.out_channels for m in self.network.trunk if isinstance(m, nn.Conv2d)]
        config = {
            "version": self.version, "widths": widths, "vocabulary": words, "temperatures": self.temperatures,
            **(facts or {}),
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B H W 3"], batch: int = 64) -> JudgeReading:
        """What pictures show: sRGB in [0, 1], square, any size, one object on a plain background."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.shape[1] != images.shape[2]:
            raise ValueError(f"the judge wants square (B, H, W, 3) pictures, not {tuple(images.shape)}")
        return JudgeReading.concatenated([self.read(part) for part in images.detach().cpu().split(batch)])

    def read(self, images: Float[Tensor, "B H W 3"]) -> JudgeReading:
        """As a call, all at once and with gradients to the pictures."""
        out = self.network(to_input(images))
        logp = {
            k: F.log_softmax(out[k] / self.temperatures.get(k, 1.0), -1)
            for k in self.network.heads
            if k != "parts"
        }
        seen = out["parts"].sigmoid() if "parts" in out else images.new_zeros(len(images), 0)
        return JudgeReading(
            kind_logp=logp["kind"], color_logp=logp["color"], pattern_logp=logp["pattern"],
            accessory_logp=logp["accessory"], second_kind_logp=logp["second_kind"],
            second_color_logp=logp["second_color"], view_logp=logp["view"], clean=logp["clean"][:, 1].exp(),
            azimuth=torch.atan2(out["pose"][:, 0], out["pose"][:, 1]), parts=seen,
        )  # fmt: skip


def available(path: str | Path | None = None) -> bool:
    """Whether the shipped judge (or the one in ``path``) is there to be loaded."""
    folder = Path(path) if path is not None else assets_dir() / "toybox" / "judge"
    return (folder / "config.json").is_file() and (folder / "judge.safetensors").is_file()
