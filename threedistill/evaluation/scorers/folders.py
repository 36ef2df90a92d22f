"""Scorers whose model is a folder: what it says of itself, its version, and how it wants pictures prepared."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.errors import ThreedistillError, UsageError
from threedistill.priors.fetching import quiet
from threedistill.resources import weights_hash
from threedistill.scoring import Scorer

__all__ = ["FolderScorer", "ModelFolder", "Preparation", "prepared"]

T = TypeVar("T")

#: What OpenAI's CLIP was trained with; for folders without preprocessor_config.json.
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
#: PIL's numbers of filters -> torch's.
_FILTERS = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Preparation:
    """How a network wants its pictures: ``(resize(x) - mean) / std``.

    Attributes:
        size: pixels a side.
        mean, std: per channel, of sRGB in [0, 1].
        filter: of the resizing, antialiased.
    """

    size: int
    mean: tuple[float, float, float] = _CLIP_MEAN
    std: tuple[float, float, float] = _CLIP_STD
    filter: str = "bicubic"


class ModelFolder:
    """A model of ``transformers`` or ``open_clip`` on the disk.

    Arguments:
        folder: where.

    Raises:
        UsageError: no folder, or nothing in it says which model it is.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder).expanduser()
        if not self.path.is_dir():
            raise UsageError(f"model folder {folder}: there is no such folder")
        names = ("config.json", "open_clip_config.json")
        self.file = next((self.path / n for n in names if (self.path / n).is_file()), self.path / names[0])
        self.facts = self._json(self.file)

    @property
    def kind(self) -> str:
        """``model_type`` of transformers; "open_clip" for that library's folders."""
        return "open_clip" if "model_cfg" in self.facts else str(self.facts.get("model_type"))

    @property
    def version(self) -> str:
        """The folder's name and the first digits of its weights' SHA-256."""
        return f"{self.path.resolve().name}@{weights_hash(self.path)}"

    def preparation(self, size: int) -> Preparation:
        """What the folder says about pictures; squares of ``size`` where it says nothing of their size."""
        if self.kind == "open_clip":
            said = dict(self.facts.get("preprocess_cfg") or {})
            mean, std = said.get("mean", _CLIP_MEAN), said.get("std", _CLIP_STD)
            return Preparation(size, _three(mean), _three(std), str(said.get("interpolation", "bicubic")))
        file = self.path / "preprocessor_config.json"
        said = self._json(file) if file.is_file() else {}
        mean, std = said.get("image_mean", _CLIP_MEAN), said.get("image_std", _CLIP_STD)
        return Preparation(size, _three(mean), _three(std), _FILTERS.get(said.get("resample", 3), "bicubic"))

    def load(self, read: Callable[..., T], **options: Any) -> T:
        """A part of the model, without network and without anybody's code; weights from safetensors only.

        Raises:
            ThreedistillError: with the folder and what its library says.
        """
        quiet()
        try:
            return read(str(self.path), local_files_only=True, trust_remote_code=False, **options)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            line = " ".join(str(error).split())[:300]
            raise ThreedistillError(f"{self.path} cannot be loaded: {line}") from None

    def tokenizer(self) -> Any:
        """Its words."""
        from transformers import AutoTokenizer

        return self.load(AutoTokenizer.from_pretrained)

    def network(self, cls: Any) -> Any:
        """Its network, float32, for evaluation: its own parameters take no gradients."""
        found = self.load(cls.from_pretrained, use_safetensors=True, dtype=torch.float32)
        return found.eval().requires_grad_(False)

    def _json(self, file: Path) -> dict[str, Any]:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"model folder {self.path}: no config.json in it; give a folder of transformers or open_clip"
            ) from None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise UsageError(f"model folder {file}: no JSON object")
        return found


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(v) for v in values)
    return first, second, third


def prepared(pictures: Float[Tensor, "B H W 3"], how: Preparation) -> Float[Tensor, "B 3 h w"]:
    """sRGB pictures in [0, 1] as a network wants them; differentiable."""
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.shape[1] != pictures.shape[2]:
        raise ValueError(f"scorers want square (B, H, W, 3) pictures, not {tuple(pictures.shape)}")
    x = pictures.float().permute(0, 3, 1, 2)
    if x.shape[-1] != how.size:
        smooth = how.filter in ("bilinear", "bicubic")
        options: dict[str, Any] = {"antialias": True, "align_corners": False} if smooth else {}
        x = F.interpolate(x, (how.size, how.size), mode=how.filter, **options)
    mean, std = (x.new_tensor(v)[:, None, None] for v in (how.mean, how.std))
    return (x.clamp(0, 1) - mean) / std


class FolderScorer(Scorer):
    """A scorer whose network, words and preparation of pictures come from one folder; they are read when first asked.

    Arguments:
        folder: the model's.
        kinds: which models it takes.
        batch: pictures or texts at once.

    Raises:
        UsageError: a model of another kind.
    """

    differentiable = True

    def __init__(self, folder: str, kinds: Sequence[str], batch: int) -> None:
        self.folder, self.batch = ModelFolder(folder), batch
        if self.folder.kind not in kinds:
            raise UsageError(
                f"model folder {folder}: a {self.folder.kind} model; this scorer takes {', '.join(kinds)}"
            )
        self.how = self.folder.preparation(int(self._config.vision_config.image_size))
        self.size = self.how.size
        self._device = torch.device("cpu")

    @property
    @abstractmethod
    def _config(self) -> Any:
        """The model's configuration."""

    @cached_property
    def version(self) -> str:
        return self.folder.version

    @cached_property
    def _words(self) -> Any:
        return self.folder.tokenizer()

    def to(self, device: torch.device | str) -> Self:
        """Moves what is loaded; what is not will be loaded there."""
        self._device = torch.device(device)
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(self._device)
        return self
