"""Who looks at finished assets: the critics of the group ``critic``, and which of them knows a prompt's words."""

from __future__ import annotations

from threedistill.config.building import build
from threedistill.config.choices import options
from threedistill.config.files import parse_yaml
from threedistill.errors import UsageError
from threedistill.evaluation.metrics.metric import Metric, Sight
from threedistill.plugins import trusted
from threedistill.protocols import Critic

__all__ = ["CriticPreference", "critic_for", "critics"]


def critics() -> list[Critic]:
    """Every critic, those of the user's own folders and of plug-ins first; none has looked at anything yet.

    Raises:
        UsageError: a file that does not describe one.
    """
    packages = [one.package for one in trusted()]
    found = sorted(options("critic").values(), key=lambda option: not option.source)
    return [
        build(parse_yaml(o.file.read_text(encoding="utf-8"), f"{o.file} cannot be read"), "critic", packages)
        for o in found
    ]


def critic_for(prompt: str) -> Critic:
    """The first critic that can judge what a prompt asks for.

    Raises:
        UsageError: none can; the reason of the last that was asked.
    """
    reason = UsageError("there is no critic (configs/critic)")
    for critic in critics():
        try:
            critic.check_text(prompt)
        except UsageError as error:
            reason = error
        else:
            return critic
    raise reason


class CriticPreference(Metric):
    """What the critic who knows a prompt's words prefers: the same by which the best of several particles is kept."""

    @property
    def version(self) -> str:
        return ", ".join(dict.fromkeys(one.version for one in critics()))

    def measure(self, sight: Sight) -> dict[str, float]:
        return {"value": critic_for(sight.prompt).preference(sight.asset, sight.prompt)}

    def check_text(self, text: str) -> None:
        critic_for(text)
