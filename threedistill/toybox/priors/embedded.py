"""``prior=toybox``: the diffusion model that ships with the package, as a camera-conditioned or text-only teacher."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Conditions, ReferenceImage, Role, Wording
from threedistill.errors import UsageError
from threedistill.priors.embedding_cache import Embedding, EmbeddingCache, stack
from threedistill.priors.fetching import quiet
from threedistill.priors.precision import DtypeName, multiplies_bfloat16, pick_dtype
from threedistill.priors.schedulers import scheduler_path
from threedistill.priors.space import FoldedPixelSpace, resize, to_signed
from threedistill.protocols import NetworkPrior
from threedistill.resources import assets_dir, weights_hash
from threedistill.toybox.grammar import prior_words
from threedistill.toybox.priors.texts import check_text, vocabulary, wording
from threedistill.types import Cameras, Condition, Conditioning, NoiseLevel, Prediction, PredictionKind

__all__ = ["ToyboxPrior", "named_cameras"]

#: Where the views that a word places exactly are, radians.
NAMED_AZIMUTHS = {"front": 0.0, "back": math.pi}


def named_cameras(
    texts: Sequence[str], cameras: Cameras, known: Collection[str] | None = None
) -> Float[Tensor, "B 14"]:
    """The vectors of the cameras that view words name, zeros (no camera) where they name none.

    "Front view" and "back view" are azimuths; "side view" could be either side and "overhead view" any. Elevation,
    distance and field of view are the views' own, also above the 45 degrees from which captions say "overhead".
    """
    from threedistill.cameras import camera_vectors

    said = [
        next((v for v in NAMED_AZIMUTHS if wording(text, known).endswith(f", {v} view")), None)
        for text in texts
    ]
    azimuth = torch.tensor([NAMED_AZIMUTHS[v] if v else 0.0 for v in said]).to(cameras.azimuth)
    told = torch.tensor([v is not None for v in said], device=cameras.azimuth.device)
    return camera_vectors(replace(cameras, azimuth=azimuth), len(texts)) * told[:, None]


class _Shown:
    """Reference views: their tokens, and every wording's cloud fitted to them, once."""

    def __init__(
        self,
        key: tuple[str, ...],
        pipeline: Any,
        pictures: Float[Tensor, "R 3 H W"],
        cameras: Float[Tensor, "R 14"],
    ) -> None:
        self.key = key
        self.tokens: Float[Tensor, "1 M D"] = pipeline.show(pictures[None], cameras[None])
        self._fit = lambda told: pipeline.fitted(told, pictures, cameras)
        self._clouds: dict[str, Any] = {}

    def cloud(self, text: str, told: Float[Tensor, "T"]) -> Any:
        """Of a text and what it says."""
        if text not in self._clouds:
            self._clouds[text] = self._fit(told)
        return self._clouds[text]


class ToyboxPrior(NetworkPrior):
    """The embedded prior: small pictures folded by 4 x 4 pixels (size and networks are the weights'), x0-prediction.

    It is told the camera and the background colour; weights that can be shown pictures also take reference views and,
    where ``normals`` asks for it, the normals that a view shows (the embedded analogue of a ControlNet).

    Arguments:
        folder: of a saved pipeline; None = the weights that ship.
        camera: ``own`` tells it every view's camera where the query allows; ``none`` never does (text only); ``words``
            tells it what view words name, azimuth 0 for "front view" and 180 degrees for "back view" at the view's own
            elevation, and nothing otherwise.
        background: whether it is told the background colour.
        channels_last: memory layout of the convolutions (faster on a CPU).
        normals: whether it is shown the normals of every view.
        dtype: of the denoising network; what it is told is computed in float32. ``auto`` is bfloat16 on a CPU that
            multiplies in it, where answers then take half the time, and float32 elsewhere.

    Raises:
        ThreedistillError: the weights are missing or incomplete.
        UsageError: the weights cannot be shown normals, or their network computes in float32 alone.
    """

    name = "toybox"
    licence = "Apache-2.0"
    wants: frozenset[Condition] = frozenset({"text", "camera", "background", "image", "normal"})

    def __init__(
        self,
        *,
        folder: str | None = None,
        camera: Literal["own", "none", "words"] | None = "own",
        background: bool = True,
        channels_last: bool = True,
        normals: bool = False,
        dtype: DtypeName = "auto",
    ) -> None:
        from threedistill.toybox.model import ToyboxPipeline

        if camera not in ("own", "none", "words", None):
            raise UsageError(f"prior.camera={camera!r} must be own, none or words")
        quiet()
        #: Which weights taught: run.json and the asset carry it.
        self.version = (
            f"sha256 {weights_hash(Path(folder).expanduser() if folder else assets_dir() / 'toybox/prior')}"
        )
        # Stored as float16.
        self.pipeline: Any = ToyboxPipeline.load(Path(folder).expanduser() if folder else None, torch.float32)
        self.network = self.pipeline.network
        if dtype not in ("auto", "float32") and not self.pipeline.rounds:
            raise UsageError(f"prior.model.dtype={dtype}: these weights compute in float32; set it to auto")
        self._dtype_name: DtypeName = dtype
        self.camera = camera or "none"
        told: dict[Condition, bool] = {
            "text": True,
            "camera": self.camera != "none",
            "background": background,
            "image": "image" in self.pipeline.shows,
            "normal": normals,
        }
        if normals and "normal" not in self.pipeline.shows:
            raise UsageError("prior.normals=true: these weights cannot be shown normals; set it to false")
        self.wants = frozenset(name for name, wanted in told.items() if wanted)
        #: What its weights have words for; the world may have more.
        self.words = frozenset(self.pipeline.tokenizer.get_vocab())
        self.space = FoldedPixelSpace(self.pipeline.size, self.pipeline.fold)
        self.kind: PredictionKind
        self.path, self.kind = scheduler_path(self.pipeline.scheduler.config)
        self._views: _Shown | None = None
        self.texts = EmbeddingCache(self._encode, "toybox")
        self.to("cpu")
        if channels_last:
            self.network.to(memory_format=torch.channels_last)

    @classmethod
    def check_text(cls, text: str, role: Role, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Refuses words that the weights in ``folder`` were not trained on."""
        folder = settings.get("folder")
        return check_text(text, role, prior_words(Path(folder).expanduser() if folder else None))

    @classmethod
    def vocabulary(cls) -> dict[str, str]:
        """The words of the shipped weights."""
        return vocabulary()

    def to(self, device: torch.device | str) -> Self:
        """Moves the networks to ``device``."""
        self.device = torch.device(device)
        for network in self.pipeline.networks:
            network.to(self.device)
        if self.pipeline.rounds:
            best = torch.bfloat16 if multiplies_bfloat16() else torch.float32
            dtype = pick_dtype(self._dtype_name, self.device, torch.float32, best)
            for parameter in self.network.parameters():  # not the path, which rounding would bend
                parameter.data = parameter.data.to(dtype)
        self._views = None
        return self

    @torch.no_grad()
    def _encode(self, wordings: Sequence[Wording]) -> list[Embedding]:
        # One by one: what else a step asks must not reach a wording's last bits, or resumed runs would differ.
        return [self.pipeline.keep(wording(asked.text, self.words)) for asked in wordings]

    @torch.no_grad()
    def conditioning(self, conditions: Conditions) -> Conditioning:
        """``encoder_hidden_states``, ``class_labels`` and ``sketch``, and what is shown: ``views``, ``control``.

        Raises:
            UsageError: a word outside the Toybox vocabulary.
        """
        from threedistill.cameras import camera_vectors
        from threedistill.toybox.conditioning import background_vectors

        told = conditions.only(self.wants)
        texts, cameras, rows = told.texts, told.cameras, len(told)
        if self.camera == "words" and cameras is not None:
            seen = named_cameras(texts, cameras, self.words)
        else:
            seen = camera_vectors(cameras, rows)
        words = self.kept(told.wordings, self.pipeline.needs(bool(seen.any(1).all())))
        behind = background_vectors(told.background, rows).to(self.device)
        if not told.images:
            inputs = self.pipeline.condition_kept(words, seen.to(self.device), behind)
        else:
            shown = self._shown(told.images)
            clouds = {
                row: shown.cloud(asked.text, words["told"][row])
                for row, asked in enumerate(told.wordings)
                if asked.role == "prompt"
            }
            inputs = self.pipeline.condition_kept(words, seen.to(self.device), behind, clouds)
            inputs["views"] = shown.tokens.expand(rows, -1, -1)
        if told.normal is not None:
            inputs["control"] = self._control(told.normal, told.opacity)
        return inputs

    def kept(self, wordings: Sequence[Wording], wanted: Sequence[str]) -> dict[str, Tensor]:
        """What is kept of these wordings, of each a row."""
        return stack([{k: kept[k] for k in wanted} for kept in self.texts(wordings)], self.device)

    def _shown(self, images: tuple[ReferenceImage, ...]) -> _Shown:
        """Reference views as the network is shown them, kept as long as they are the same."""
        from threedistill.cameras import camera_vectors

        key = tuple(image.fingerprint for image in images)
        if self._views is None or self._views.key != key:
            pictures = torch.cat([to_signed(image.over()[None], self.pipeline.size) for image in images])
            cameras = torch.cat([camera_vectors(image.camera, 1) for image in images])
            pictures, cameras = pictures.to(self.device), cameras.to(self.device)
            self._views = _Shown(key, self.pipeline, pictures, cameras)
        return self._views

    def _control(self, normal: Float[Tensor, "B H W 3"], opacity: Tensor | None) -> Float[Tensor, "B C h w"]:
        """Normals and coverage as the network is shown them; without opacity, what has a normal is covered."""
        from threedistill.toybox.conditioning import fold

        covered = normal.any(-1, keepdim=True).to(normal) if opacity is None else opacity
        shown = torch.cat([(normal + 1) / 2 * covered, covered], -1).permute(0, 3, 1, 2)
        return fold(resize(shown, self.pipeline.size).to(self.device))

    def ask(
        self, network: Any, x_t: Float[Tensor, "B C h w"], level: NoiseLevel, conditioning: Conditioning
    ) -> Prediction:
        """The answer of ``network``, which takes and gives what the prior's own does; gradients flow."""
        index = level.index.to(device=self.device, dtype=torch.float32)
        value = network(x_t.float(), index, **conditioning, return_dict=False)[0]
        return Prediction(value.to(x_t.dtype), self.kind, x_t, level)
