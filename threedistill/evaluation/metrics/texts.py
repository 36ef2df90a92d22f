"""How well pictures show what was asked for: text scores, R-precision, and faces by view words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.evaluation.janus import janus_estimate
from threedistill.evaluation.metrics.metric import ScorerMetric, Sight
from threedistill.resources import assets_dir
from threedistill.scoring import Scorer

__all__ = ["Retrieval", "TextScore", "ViewWords", "read_lines", "shipped_distractors"]


def shipped_distractors() -> tuple[str, ...]:
    """The prompts that ship for R-precision: assets/distractors.txt."""
    return read_lines(assets_dir() / "distractors.txt")


def read_lines(file: Path) -> tuple[str, ...]:
    """The texts of a UTF-8 file, one per line; blank lines and lines that begin with ``#`` are skipped.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"distractors: {file} cannot be read: {error}") from None
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


class _Asking(ScorerMetric):
    """Asks a scorer."""

    def check_text(self, text: str) -> None:
        self.scorer.check_text(text)

    @torch.no_grad()
    def _scores(self, sight: Sight, texts: Sequence[str]) -> Float[Tensor, "V T"]:
        return self.scorer(sight.pictures(self.scorer.size), texts).double().cpu()


class TextScore(_Asking):
    """The mean of a scorer's number over the views, with the prompt as the text.

    ``value`` is that mean, ``worst`` the least of a view.

    Source: Hessel et al. 2021, arXiv:2104.08718; for 3D Jain et al. 2022, arXiv:2112.01455.

    Arguments:
        scorer: who is asked.
    """

    def measure(self, sight: Sight) -> dict[str, float]:
        found = self._scores(sight, [sight.prompt])[:, 0]
        return {"value": float(found.mean()), "worst": float(found.min())}


class Retrieval(_Asking):
    """R-precision: how often the prompt that an asset was made from is the one that fits its picture best.

    ``value`` is the share of views whose highest number is the prompt's own (ties count against it), ``first`` whether
    it is first by the mean over the views, ``rank`` its place there, ``candidates`` how many texts were compared and
    ``chance`` what guessing gives, ``1 / candidates``.

    Source: Park et al. 2021 (NeurIPS Datasets and Benchmarks); for 3D Poole et al. 2022, arXiv:2209.14988.

    Arguments:
        scorer: who is asked.
        distractors: a file of other prompts, one per line; None = the scorer's own rivals, else the list that ships.
    """

    def __init__(self, scorer: Scorer, distractors: str | None = None) -> None:
        super().__init__(scorer)
        if not scorer.reads:
            raise UsageError("R-precision needs a scorer that reads the text")
        self.distractors = distractors

    @cached_property
    def _others(self) -> tuple[str, ...]:
        if self.distractors is not None:
            return read_lines(Path(self.distractors))
        return self.scorer.rivals() or shipped_distractors()

    def measure(self, sight: Sight) -> dict[str, float]:
        own = sight.prompt.strip()
        others = [text for text in self._others if text.casefold() != own.casefold()]
        if not others:
            raise UsageError("R-precision needs other prompts to tell this one from; the list is empty")
        found = self._scores(sight, [sight.prompt, *others])
        pooled = found.mean(0)
        rank = 1 + int((pooled[1:] >= pooled[0]).sum())
        return {
            "value": float((found[:, 0] > found[:, 1:].amax(1)).double().mean()),
            "first": float(rank == 1), "rank": float(rank), "candidates": float(1 + len(others)),
            "chance": 1 / (1 + len(others)),
        }  # fmt: skip


class ViewWords(_Asking):
    """The Janus estimate by view words: where a scorer says "front view" although it is not.

    ``P(view) = softmax(scale * scores of "PROMPT, front view" ...)`` of front, side and back, at every azimuth; the
    rest is :func:`threedistill.evaluation.janus.janus_estimate`. ``value`` is its share.

    Arguments:
        scorer: who is asked.
        template: how a prompt and a view make a text.
    """

    higher = False

    def __init__(self, scorer: Scorer, template: str = "{prompt}, {view} view") -> None:
        super().__init__(scorer)
        if not scorer.reads:
            raise UsageError("view words need a scorer that reads the text")
        if "{prompt}" not in template or "{view}" not in template:
            raise UsageError(f"template={template!r} must hold {{prompt}} and {{view}}")
        self.template = template

    def measure(self, sight: Sight) -> dict[str, float]:
        texts = [
            self.template.replace("{view}", view).replace("{prompt}", sight.prompt)
            for view in ("front", "side", "back")
        ]
        logp = torch.log_softmax(self.scorer.logit_scale * self._scores(sight, texts), -1)
        nowhere = torch.full((len(logp), 1), -1e4, dtype=logp.dtype)  # no camera of the rig is overhead
        found = janus_estimate(torch.cat([logp, nowhere], 1)).as_dict()
        return {"value": found.pop("share"), **{name: float(value) for name, value in found.items()}}
