"""The contract of a family of diffusers models, and the facts about a model that a family reads.

A family says how a text is encoded, what its network is told, what it predicts and on which path, and which space it
works in. Finding, loading, moving and asking is :class:`threedistill.priors.diffusers.DiffusersPrior`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from threedistill.conditions import Conditions, ReferenceImage, Role
from threedistill.errors import UsageError
from threedistill.prediction import NoiseLevel, PredictionKind
from threedistill.priors.elsewhere import Elsewhere
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.schedulers import scheduler_path
from threedistill.priors.space import LatentSpace
from threedistill.protocols import ImageSpace, NoisePath
from threedistill.types import Condition, Conditioning

__all__ = ["Facts", "Family", "Picture", "Said"]


@dataclass(frozen=True)
class Facts:
    """What is known of a model before its weights are read.

    Attributes:
        index: ``model_index.json``.
        configs: the configuration of each component that has one.
        size: pixels per side that the prior sees.
    """

    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    size: int = 0

    @property
    def factor(self) -> int:
        """Pixels per latent."""
        vae = self.configs.get("vae")
        if vae is None:
            return 1
        blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
        if not blocks:
            raise UsageError(f"the VAE {vae.get('_class_name')} does not say how far it shrinks a picture")
        return 2 ** (len(blocks) - 1)


@dataclass(frozen=True)
class Said:
    """A wording as each tokenizer is to read it.

    Attributes:
        texts: by the name of the tokenizer, each as long as its encoder can hear.
        role: what the text is for.
    """

    texts: Mapping[str, str]
    role: Role = "prompt"

    def __getitem__(self, tokenizer: str) -> str:
        return self.texts[tokenizer]


@dataclass(frozen=True)
class Picture:
    """A reference picture as networks are shown it; None = it is withheld."""

    image: ReferenceImage | None = None

    @property
    def fingerprint(self) -> str:
        """What caches of embeddings are keyed by."""
        return "withheld" if self.image is None else self.image.fingerprint


class Family(ABC):
    """One family of diffusers models.

    Attributes:
        option: the ``--prior`` that ships with it.
        pipelines: the classes of ``model_index.json`` that it reads.
        network: the component that is asked.
        vae: the component that makes latents of pictures, where there is one.
        encoders: (tokenizer, text encoder) components;
        optional: text encoders that a model may do without.
        wants: the conditions that its network can be told.
        beside: channels that its network is told in front of its first convolution, beside those of ``x_t``.
        packed: channels of ``x_t`` that its network takes for one.
        half: what ``dtype=auto`` means on a GPU.
        patch: latents per side that the network cannot divide.
        view_group: how many views of one object the network sees at once.
    """

    option: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    network: str = "transformer"
    vae: str = "vae"
    encoders: tuple[tuple[str, str], ...] = (("tokenizer", "text_encoder"),)
    optional: ClassVar[frozenset[str]] = frozenset()
    wants: frozenset[Condition] = frozenset({"text"})
    beside: ClassVar[int] = 0
    packed: ClassVar[int] = 1
    half: ClassVar[torch.dtype] = torch.bfloat16
    patch: ClassVar[int] = 1
    view_group: ClassVar[int] = 1

    @classmethod
    def takes(cls, pipeline: str) -> bool:
        """Whether it reads models of this class of ``model_index.json``."""
        return pipeline in cls.pipelines

    def adapted(self, index: Mapping[str, Any]) -> Family:
        """The family as it is for the model of this ``model_index.json``."""
        return self

    @property
    def reads(self) -> str:
        """Names how texts are encoded; what caches of embeddings are keyed by."""
        own = ("text_length", "instruct")
        settings = (f"{name}={vars(self)[name]}" for name in own if name in vars(self))
        return " ".join((type(self).__name__, *settings))

    def native_size(self, facts: Facts) -> int:
        """Pixels per side that the network was trained on."""
        return int(facts.configs[self.network]["sample_size"]) * facts.factor

    def text_rows(self, facts: Facts) -> int:
        """How many rows of text the network is told of one wording: CLIP's 77, where a family says nothing else."""
        return 77

    def channels(self, facts: Facts) -> int | None:
        """How many channels ``x_t`` has, by the VAE; None = no VAE."""
        vae = facts.configs.get("vae")
        return None if vae is None else int(vae["latent_channels"])

    def check(self, facts: Facts) -> None:
        """Refuse a model that is not of this family, or whose network wants more than this family tells it.

        Raises:
            UsageError: with the option that would do, where one ships.
        """
        channels, wanted = self.channels(facts), facts.configs[self.network].get("in_channels")
        if channels is None or wanted is None:
            return
        given, told = channels * self.packed, (channels + self.beside) * self.packed
        if int(wanted) == told:
            return
        if self.beside:
            raise UsageError(
                f"its {self.network} takes {wanted} channels, and that of prior={self.option} is told {told}"
            )
        raise UsageError(
            f"its {self.network} takes {wanted} channels and its VAE gives {given}: it is told more than a "
            f"noisy picture (a mask, a depth map), which prior={self.option} does not tell it"
        )

    def path(self, facts: Facts) -> tuple[NoisePath, PredictionKind]:
        """The noise path and the parametrisation, from the scheduler that the model ships."""
        tokens = (facts.size // (facts.factor * self.patch)) ** 2
        return scheduler_path(facts.configs["scheduler"], tokens)

    def observe(self, load: Callable[[str], Any], parts: Mapping[str, Any], facts: Facts) -> None:
        """What can be known only of the model at work; most families know all that they need.

        Arguments:
            load: loads another component by its name.
            parts: those that are loaded, the VAE included.
            facts: about the model.
        """
        return

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is worth knowing about this model, for ``run.json``."""
        return ()

    def space(self, vae: Any, facts: Facts) -> ImageSpace:
        """The space the network works in."""
        return LatentSpace(vae, facts.size, multiple=self.patch)

    def assemble(self, parts: Mapping[str, Any]) -> nn.Module:
        """The network from its loaded components."""
        return parts[self.network]

    def components(self) -> tuple[str, ...]:
        """What :meth:`assemble` takes."""
        return (self.network,)

    def classes(self) -> Mapping[str, type]:
        """The classes of components that no library has."""
        return {}

    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """Components that are not of the pipeline's folder."""
        return {}

    def outline(self, part: str, facts: Facts) -> Any:
        """A component of :meth:`elsewhere` in the shape that the published one has, on ``meta``.

        Arguments:
            part: its name.
            facts: about the model beside it.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing elsewhere")

    def show(self, conditions: Conditions, space: ImageSpace, facts: Facts) -> dict[str, Tensor]:
        """What the network is told of the views, batch first; withheld is what is None."""
        return {}

    def look(self, encoder: Any, picture: Picture, space: ImageSpace, facts: Facts) -> Embedding:
        """What the network is told of one reference picture, without rows; it is told one of each per picture.

        Arguments:
            encoder: the component ``image_encoder``.
            picture: it, or that it is withheld.
            space: the space the network works in.
            facts: about the model.
        """
        raise NotImplementedError(f"{type(self).__name__} wants no pictures")

    def length(self, tokenizer: str, pipe: Any) -> int:
        """How many tokens of a text the encoder behind a tokenizer hears, special ones included."""
        return int(getattr(pipe, tokenizer).model_max_length)

    @abstractmethod
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """What the network is told of one wording.

        Arguments:
            pipe: the pipeline's class of diffusers with the text encoders and the network, and nothing else.
            said: the wording.
            facts: about the model.
        """

    @abstractmethod
    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The network's answer, shaped like ``x_t``, in the sign and parametrisation that :meth:`path` says.

        Arguments:
            network: the network, or another with the same inputs and outputs.
            x_t: (B, C, h, w) in the network's dtype.
            level: noise levels; ``index`` (float32) is the scheduler's time.
            told: :meth:`encode`'s tensors, batch first.
            facts: about the model.
        """
