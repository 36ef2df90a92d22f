"""Anchors: shares of a score that rests at the teacher's picture, for rules that do not. Ours, 0 = as published.

Rules that compare two answers of the teacher, or the teacher with a student, say the same of a render whose colours
have run away as of one that is right: nothing pulls it back. What does is the score of the render itself, which is
known.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.types import Evidence, Prediction, Query

__all__ = ["anchored_student", "asked", "pull"]


def asked(queries: tuple[Query, ...], anchor: float) -> tuple[Query, ...]:
    """The questions, and the one about the prompt where only the anchor has it (guidance of scale 0).

    Arguments:
        queries: a rule's.
        anchor: ``a`` at this moment.
    """
    if not anchor or any(query.name == "cond" for query in queries):
        return queries
    return (*queries, Query("cond", text="view"))


def pull(evidence: Evidence, anchor: float) -> Float[Tensor, "B C h w"] | float:
    """``a (eps_c - eps)``: towards the teacher's picture, with the noise ``eps`` that is in ``x_t``; 0 without anchor.

    Arguments:
        evidence: with the answer to the prompt, ``cond``.
        anchor: ``a``, at least 0.
    """
    return anchor * (evidence["cond"].eps - evidence.noise) if anchor else 0.0


def anchored_student(evidence: Evidence, student: Prediction, anchor: float) -> Prediction:
    """``(1 - a) eps_student + a eps``: a student's answer drawn towards that of the perfect student of one scene.

    Arguments:
        evidence: whose noise is in ``x_t``.
        student: its answer there.
        anchor: ``a`` in [0, 1].
    """
    if anchor == 0:
        return student
    return Prediction(torch.lerp(student.eps, evidence.noise, anchor), "eps", student.x_t, student.level)
