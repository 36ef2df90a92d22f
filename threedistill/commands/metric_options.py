"""The flags that name metrics and the models behind them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from threedistill.commands.arguments import Parser
from threedistill.errors import UsageError

if TYPE_CHECKING:
    from threedistill.config.metrics import Asked

__all__ = ["asked_metrics", "metric_options", "model_options"]


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
