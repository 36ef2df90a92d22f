"""What a run is to do, in objects: every setting typed and checked, everything heavy still a recipe.

:func:`threedistill.training.planning.build_plan` makes it from the configuration, once; whoever works on a run is given
the plan or a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from threedistill.cameras import CameraSampler
from threedistill.conditions import Role
from threedistill.config import Recipe
from threedistill.exports.settings import ExportSettings
from threedistill.guidance.regularizers import Regularizers
from threedistill.guidance.reward import Reward
from threedistill.lights import Lighting
from threedistill.prompts import PromptSet
from threedistill.protocols import Prior, Representation, StudentMaker
from threedistill.representations.background import BackgroundSampler
from threedistill.representations.convert import ConvertSettings
from threedistill.rng import Streams
from threedistill.scoring import Scorer
from threedistill.training.optim import SceneOptimizer
from threedistill.training.stage import Guidance, Stage
from threedistill.training.student_step import StudentTraining
from threedistill.training.trainer_settings import TrainerSettings
from threedistill.training.watchdog import Watchdog
from threedistill.types import Condition

__all__ = [
    "AssetPlan", "LearnerPlan", "Names", "NetworkPlan", "PicturePlan", "PriorPlan", "RunPlan", "ScenePlan", "StagePlan",
]  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What a run is known by: in ``run.json``, in its files' facts, in advice.

    Attributes:
        prompt, seed: what was asked for.
        preset: the budget's; None where it has no name.
        prior: the teacher's option.
        representation, guidance: the last stage's options.
    """

    prompt: str
    seed: int
    preset: str | None
    prior: str
    representation: str
    guidance: str


@dataclass(frozen=True)
class PriorPlan:
    """The frozen teacher.

    Attributes:
        name: its option.
        model: how to load it.
        needs_camera: it has no answer to questions without one.
        needs_image: it has little to say of an object that it is shown no picture of.
        needs_image_camera: it is told how views stand to the picture.
        most_images: how many pictures it can be shown; None = any number.
    """

    name: str
    model: Recipe[Prior]
    needs_camera: bool
    needs_image: bool = False
    needs_image_camera: bool = False
    most_images: int | None = None

    @property
    def key(self) -> str:
        """Equal for what is loaded once."""
        return repr((self.model.cls, self.model.node))

    @property
    def wants(self) -> frozenset[Condition]:
        """What it can be told at most."""
        return self.model.cls.wants_of(self.model.arguments)

    def check_text(self, text: str, role: Role = "prompt") -> tuple[str, ...]:
        """Refuse a text that the prior has no words for (UsageError), unloaded; the words that change nothing."""
        return self.model.cls.check_text(text, role, self.model.node)


@dataclass(frozen=True)
class ScenePlan:
    """What a stage optimises.

    Attributes:
        name: the representation's option.
        model: how to make one, with random parameters.
        rates: learning rates by parameter group.
        particles: how many of them.
        streams: where their random parameters come from.
    """

    name: str
    model: Recipe[Representation]
    rates: Mapping[str, float]
    particles: int
    streams: Streams


@dataclass(frozen=True)
class LearnerPlan:
    """A network that learns from the renders, and how.

    Attributes:
        where: its place in the configuration, for messages.
        maker: attaches it to a prior.
        base: how to load the prior it is attached to; None = it grows on the teacher.
        training: how it learns.
        kept: it is the one of the stage before.
    """

    where: str
    maker: StudentMaker
    base: Recipe[Prior] | None
    training: StudentTraining
    kept: bool


@dataclass(frozen=True)
class NetworkPlan:
    """A further frozen network.

    Attributes:
        where: its place in the configuration, for messages.
        name: its option; ``self`` = the teacher itself.
        model: how to load it; None = nothing to load.
    """

    where: str
    name: str
    model: Recipe[Prior] | None

    @property
    def wants(self) -> frozenset[Condition]:
        """What it can be told at most; nothing where there is nothing to load."""
        return frozenset() if self.model is None else self.model.cls.wants_of(self.model.arguments)


@dataclass(frozen=True)
class PicturePlan:
    """A reference picture.

    Attributes:
        file: where it was when the run began; the run has a copy.
        camera: azimuth and elevation that it was taken from, degrees; None = unknown.
    """

    file: str
    camera: tuple[float, float] | None


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        prior: its teacher: the run's, or one of its own.
        prompts: the wordings of the prompt, as this teacher's words for views and its negative have it.
        stage: how long, how large, how shaded.
        scene: what is optimised.
        guidance_name: the option that ``guidance`` is.
        guidance: rule, noise levels, weights.
        learners, networks: the rule's other networks, by the names under which it asks them; ``student`` and
            ``baseline`` are among them where they are chosen.
        cameras, background, light, regularizers, reward, optim, watchdog: the stage's own, or the run's.
        convert: how it takes over what came before.
    """

    prior: PriorPlan
    prompts: PromptSet
    stage: Stage
    scene: ScenePlan
    guidance_name: str
    guidance: Guidance
    learners: Mapping[str, LearnerPlan]
    networks: Mapping[str, NetworkPlan]
    cameras: CameraSampler
    background: BackgroundSampler
    light: Lighting
    regularizers: Regularizers
    reward: Reward | None
    optim: SceneOptimizer
    watchdog: Watchdog
    convert: ConvertSettings

    @property
    def scorers(self) -> dict[str, Scorer]:
        """Who gives pictures numbers while it goes on, by the place in the configuration."""
        poses = self.guidance.poses
        found = {} if self.reward is None else {"reward": self.reward.scorer}
        return found if poses is None else {**found, "guidance.poses": poses.scorer}


@dataclass(frozen=True)
class AssetPlan:
    """What the asset of a finished run is made of.

    Attributes:
        names: what the run is known by.
        index, stage: its last stage.
        scene: what that stage optimised.
        export: how an asset is made and written.
    """

    names: Names
    index: int
    stage: str
    scene: ScenePlan
    export: ExportSettings


@dataclass(frozen=True)
class RunPlan:
    """A whole run.

    Attributes:
        names: what it is known by.
        prompts: the wordings of its prompt.
        ignored: words of the prompt that change nothing for this prior.
        prior: the teacher, where a stage has none of its own.
        stages: one after the other.
        export: how the asset is made and written.
        trainer: how the run is watched and saved.
        device: auto, cpu or cuda.
        given: whether it starts from a file.
        images: reference pictures that its networks are shown.
        plugins: packages besides ``threedistill`` from which its classes may come.
    """

    names: Names
    prompts: PromptSet
    ignored: tuple[str, ...]
    prior: PriorPlan
    stages: tuple[StagePlan, ...]
    export: ExportSettings
    trainer: TrainerSettings
    device: str
    given: bool
    images: tuple[PicturePlan, ...]
    plugins: tuple[str, ...]

    @property
    def priors(self) -> tuple[PriorPlan, ...]:
        """The teachers of all stages, each once."""
        return tuple({one.key: one for one in (stage.prior for stage in self.stages)}.values())

    @property
    def iterations(self) -> int:
        """Scene steps of all stages."""
        return sum(stage.stage.iterations for stage in self.stages)
