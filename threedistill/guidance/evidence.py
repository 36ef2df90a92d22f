"""Asking the networks: everything a rule needs, in as few forward passes as possible, answers by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Conditions, Wording
from threedistill.prediction import NoiseLevel, Prediction, stack_levels
from threedistill.prompts import PromptSet, role_of
from threedistill.protocols import Prior
from threedistill.types import Condition, Conditioning, Evidence, Query

__all__ = ["Told", "gather", "pull_back"]


class _Topic(NamedTuple):
    """What tells apart what networks are told in a step, whichever sample they look at.

    The step's facts are the same for all, so the words and the names of what is told are their fingerprint.
    """

    network: str
    wordings: tuple[Wording, ...]
    given: frozenset[Condition]


class _Asked(NamedTuple):
    """What makes two queries the same."""

    topic: _Topic
    point: str


#: What networks were told about a step's views.
Told = dict[_Topic, Conditioning]


@dataclass(frozen=True)
class _Question:
    """A query with its words, camera and noisy sample filled in."""

    network: str
    conditioning: Conditioning
    x_t: Tensor
    level: NoiseLevel

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Questions with equal keys fit into one forward pass: same network, same kinds of extra inputs."""
        return (self.network, *((k, tuple(v.shape[1:])) for k, v in sorted(self.conditioning.items())))


@torch.no_grad()
def gather(
    queries: Sequence[Query],
    networks: Mapping[str, Prior],
    prompts: PromptSet,
    conditions: Conditions,
    x0: Float[Tensor, "B C h w"],
    level: NoiseLevel,
    noise: Float[Tensor, "B C h w"],
    max_rows: int | None = None,
    points: Mapping[str, tuple[Tensor, NoiseLevel]] | None = None,
    known: Mapping[str, Prediction] | None = None,
    told: Told | None = None,
) -> Evidence:
    """Ask every query once and return the answers by name.

    Queries that say the same thing (also because two wordings coincide) are asked once. The others are
    batched: one forward pass per network and set of conditioning inputs, in chunks of at most ``max_rows``.

    Arguments:
        queries: what the rule, the CFG variant and the trajectory ask.
        networks: ``teacher`` and, by the names that queries use, the others. One with another noise path than the
            teacher's is asked at the same log-SNR.
        prompts: the wordings.
        conditions: the facts about the ``B`` views, without words; each network is told those that it wants and the
            query does not withhold.
        x0: (B, C, h, w) the encoded render.
        level: its noise levels at point ``t``.
        noise: (B, C, h, w) standard normal.
        max_rows: memory bound on the rows of one forward pass; rounded down to whole view groups.
        points: further noisy samples by name, from a trajectory. One named ``t`` replaces the step's own, and the
            evidence's noise becomes the one that is in it, ``(x_t - alpha x0) / sigma``.
        known: answers that the trajectory already has, by name.
        told: what these networks were told before about these conditions, looked up and added to.

    Raises:
        ValueError: a network or point that does not exist, one name for two questions, a question about what nobody
            is told, no cameras, or shapes that disagree.
    """
    x0, noise = x0.detach(), noise.detach()
    cameras = conditions.cameras
    if cameras is None:
        raise ValueError("gather: the conditions have no cameras, which the wordings of the views need")
    if noise.shape != x0.shape or len(level) != len(x0) or len(cameras) != len(x0):
        raise ValueError(
            f"gather: x0 {tuple(x0.shape)}, noise {tuple(noise.shape)}, {len(level)} levels and "
            f"{len(cameras)} cameras do not belong together"
        )
    samples = {"t": (level.add_noise(x0, noise), level), **(points or {})}
    if points and "t" in points:
        x_t, level = points["t"]
        alpha, sigma = level.scales(x_t)
        noise = (x_t - alpha * x0) / sigma
    asked_as, questions = _questions(
        queries, networks, prompts, conditions, samples, {} if told is None else told
    )
    answers: dict[_Asked, Prediction] = {}
    batches: dict[tuple[object, ...], list[_Asked]] = {}
    for key, question in questions.items():
        batches.setdefault(question.batch_key, []).append(key)
    for keys in batches.values():
        group = [questions[k] for k in keys]
        answers.update(zip(keys, _ask(networks, group, max_rows)))
    found = {name: answers[key] for name, key in asked_as.items()}
    return Evidence({**(known or {}), **found}, x0, noise, level, cameras)


@torch.no_grad()
def pull_back(
    queries: Sequence[Query],
    cotangents: Mapping[str, Float[Tensor, "B C h w"]],
    networks: Mapping[str, Prior],
    prompts: PromptSet,
    conditions: Conditions,
    evidence: Evidence,
    max_rows: int | None = None,
    told: Told | None = None,
) -> Float[Tensor, "B C h w"]:
    """Vector-Jacobian products of the networks: ``sum_k (d eps_k / d x_t)^T c_k`` over some queries.

    Arguments:
        queries: those that are pulled back; all about the evidence's own ``x_t``.
        cotangents: ``c_k`` by query name.
        networks, prompts, conditions, max_rows, told: as for :func:`gather`.
        evidence: their answers.

    Raises:
        ValueError: a network that cannot, or one with another noise path than the teacher's.
    """
    total = torch.zeros_like(evidence.x0)
    for query in queries:
        answer = evidence[query.name]
        samples = {query.point: (answer.x_t, answer.level)}
        asked_as, questions = _questions(
            [query], networks, prompts, conditions, samples, {} if told is None else told
        )
        question = questions[asked_as[query.name]]
        network = networks[question.network]
        if network.path != networks.get("teacher", network).path:
            raise ValueError(
                f"the {query.network} has another noise path than the teacher; its Jacobian is about another sample"
            )
        rows = len(answer.x_t)
        chunk = rows if max_rows is None else max(max_rows // network.view_group, 1) * network.view_group
        for start in range(0, rows, chunk):
            part = slice(start, start + chunk)
            conditioning = {k: v[part] for k, v in question.conditioning.items()}
            total[part] += network.pull_back(
                answer.x_t[part], answer.level[part], conditioning, cotangents[query.name][part]
            ).to(total)
    return total


def _questions(
    queries: Sequence[Query],
    networks: Mapping[str, Prior],
    prompts: PromptSet,
    conditions: Conditions,
    samples: Mapping[str, tuple[Tensor, NoiseLevel]],
    told: Told,
) -> tuple[dict[str, _Asked], dict[_Asked, _Question]]:
    """What each query comes down to, and every question once, with all that its network is told."""
    cameras = conditions.cameras
    assert cameras is not None
    given = conditions.given - {"text"}
    asked_as: dict[str, _Asked] = {}
    for query in queries:
        if query.network not in networks:
            raise ValueError(
                f"query {query.name!r} asks the {query.network}, but there is none (there are: "
                f"{', '.join(networks)}); choose another guidance rule or add a {query.network}"
            )
        if query.point not in samples:
            raise ValueError(
                f"query {query.name!r} looks at point {query.point!r}, which no trajectory supplies"
            )
        # Names of one network, as of a baseline that is the teacher itself, share its forward pass.
        network = next(name for name, one in networks.items() if one is networks[query.network])
        wants = networks[network].wants
        if lacking := sorted(query.given - (given & wants)):
            raise ValueError(
                f"query {query.name!r} asks the {query.network} about the {lacking[0]}, which it is not told"
            )
        # What a network is not told cannot tell two questions to it apart.
        kind = query.text if "text" in wants else "null"
        wordings = tuple(Wording(text, role_of(kind)) for text in prompts.texts(kind, cameras))
        key = _Asked(_Topic(network, wordings, (given & wants) - query.withheld), query.point)
        if asked_as.setdefault(query.name, key) != key:
            raise ValueError(f"two different queries are both named {query.name!r}")

    asked = dict.fromkeys(asked_as.values())
    _tell(told, asked, networks, conditions)
    questions = {key: _Question(key.topic.network, told[key.topic], *samples[key.point]) for key in asked}
    return asked_as, questions


def _tell(told: Told, asked: Iterable[_Asked], networks: Mapping[str, Prior], conditions: Conditions) -> None:
    """Adds what ``told`` lacks: one call per network and set of conditions for all texts."""
    missing: dict[tuple[str, frozenset[Condition]], dict[tuple[Wording, ...], None]] = {}
    for topic, _ in asked:
        if topic not in told:
            missing.setdefault((topic.network, topic.given), {})[topic.wordings] = None
    views = len(conditions)
    for (network, given), wordings in missing.items():
        rows = torch.arange(views).repeat(len(wordings))
        said = [wording for row in wordings for wording in row]
        facts = replace(
            conditions.saying([""] * views).only(given)[rows],
            texts=[w.text for w in said],
            roles=[w.role for w in said],
        )
        conditioning = networks[network].conditioning(facts)
        for i, row in enumerate(wordings):
            part = slice(i * views, (i + 1) * views)
            told[_Topic(network, row, given)] = {k: v[part] for k, v in conditioning.items()}


def _ask(networks: Mapping[str, Prior], group: list[_Question], max_rows: int | None) -> list[Prediction]:
    """One batched forward pass for questions that fit together, split again into one prediction each."""
    network = networks[group[0].network]
    teacher = networks.get("teacher", network)
    x_t = torch.cat([q.x_t for q in group])
    level = stack_levels([q.level for q in group])
    conditioning = {k: torch.cat([q.conditioning[k] for q in group]) for k in group[0].conditioning}

    own_x, own_level = x_t, level
    foreign = network is not teacher and network.path != teacher.path
    if foreign:
        # Same signal-to-noise ratio on the other path: x / alpha is the same picture with the same noise.
        own_level = network.path.at_log_snr(level.log_snr)
        ratio = (own_level.alpha / level.alpha).to(x_t).view(-1, *(1,) * (x_t.ndim - 1))
        own_x = x_t * ratio

    rows = len(x_t)
    chunk = rows if max_rows is None else max(max_rows // network.view_group, 1) * network.view_group
    values: list[Tensor] = []
    kind = None
    for start in range(0, rows, chunk):
        part = slice(start, start + chunk)
        answer = network.predict(own_x[part], own_level[part], {k: v[part] for k, v in conditioning.items()})
        values.append(answer.eps if foreign else answer.value)
        kind = "eps" if foreign else answer.kind
    value = torch.cat(values)
    whole = Prediction(value, kind or "eps", x_t, level)
    sizes = [len(q.x_t) for q in group]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [whole[s : s + n] for s, n in zip(starts, sizes)]
