"""The flags that name metrics and the models behind them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from threedistill.commands.arguments import Parser, one_of, whole_number
from threedistill.errors import UsageError

if TYPE_CHECKING:
    from threedistill.config.metrics import Asked

__all__ = ["asked_metrics", "best_by", "best_options", "metric_options", "model_options"]


def metric_options(parser: Parser) -> None:
    """Add ``--metrics`` and what its metrics need."""
    parser.add_argument(
        "--metrics", type=_names, metavar="M,M", help="what else is measured (threedistill list metrics)"
    )
    model_options(parser)
    parser.add_argument("--reference", metavar="DIR", help="the pictures that fid and kid compare with")


def model_options(parser: Parser) -> None:
    """Add what metrics need, for verbs that rank by one."""
    parser.add_argument(
        "--model", action="append", type=_model, metavar="SCORER=DIR",
        help="the folder of a scorer's model, of transformers or open_clip (threedistill list scorers)",
    )  # fmt: skip
    parser.add_argument(
        "--distractors", metavar="FILE", help="other prompts for rprecision (default: a list that ships)"
    )


def best_options(parser: Parser) -> None:
    """Add the flags that make several seeds and choose among them."""
    parser.add_argument(
        "--seeds", type=whole_number("--seeds", 1, 1000), metavar="N",
        help="make N seeds, from --seed on, each a run of its own; the same command goes on",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=one_of("--keep", ("best",)), metavar="best", help="the answer is the best seed's asset"
    )
    parser.add_argument(
        "--by", metavar="METRIC", help="which is the best: default critic (threedistill list metrics)"
    )
    model_options(parser)


def best_by(options: argparse.Namespace) -> Asked | None:
    """By what the best of several seeds is chosen; None where there is one seed.

    Raises:
        UsageError: flags about a choice without one, or a run that both goes on and is replaced.
    """
    if options.seeds is None:
        for flag in ("keep", "by", "model", "distractors"):
            if getattr(options, flag) is not None:
                raise UsageError(f"--{flag} is about several seeds; add --seeds N")
        return None
    if options.resume or options.overwrite:
        flag = "--resume" if options.resume else "--overwrite"
        raise UsageError(f"{flag} and --seeds exclude each other: with --seeds the same command goes on")
    return asked_metrics(options, (options.by or "critic",))


def asked_metrics(options: argparse.Namespace, names: Sequence[str]) -> Asked:
    """The metrics of a command line."""
    from threedistill.config.metrics import Asked

    models = options.model or ()
    for name, folder in models:
        if rivals := [other for known, other in models if known == name and other != folder]:
            raise UsageError(
                f"--model {name}={folder} and --model {name}={rivals[0]} disagree; keep one of them"
            )
    if models and not names:
        raise UsageError(
            f"--model {models[0][0]}={models[0][1]}: no metric asks it; name some with --metrics"
        )
    return Asked(tuple(names), dict(models), vars(options).get("reference"), options.distractors)


def _names(value: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not found:
        raise UsageError("--metrics needs names, such as clip,rprecision (threedistill list metrics)")
    return found


def _model(value: str) -> tuple[str, str]:
    name, equals, folder = value.partition("=")
    if not equals or not name or not folder:
        raise UsageError(f"--model needs SCORER=DIR, such as clip=models/clip, not {value!r}")
    return name, folder
