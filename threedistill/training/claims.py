"""Whether a request may have the folder it asks for, and whether it means the run that is in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threedistill.config import Config, asked_otherwise, different_settings, in_words, read_config
from threedistill.errors import UsageError
from threedistill.training.naming import free_folder
from threedistill.training.run_folder import RunFolder, RunHere

__all__ = ["check_place", "refuse_other_settings"]


def check_place(run: RunFolder, config: Config, *, overwrite: bool) -> None:
    """Refuse a folder that holds another run, with what differs and a name that is free.

    Raises:
        UsageError: the folder holds a run (unless it is to be replaced) or something else.
    """
    try:
        run.check_free(overwrite=overwrite)
    except RunHere:
        made = _config_or_none(run)
        others = different_settings(config, made) if made else []
        beside = f"keep both with --out {free_folder(run.path)}"
        if others:
            raise RunHere(
                f"{run.path} already holds a run with other settings: {in_words(others)}; {beside}, or replace it "
                "with --overwrite"
            ) from None
        raise RunHere(
            f"{run.path} already holds a run; continue it with --resume, replace it with --overwrite, or {beside}"
        ) from None


def _config_or_none(run: RunFolder) -> Config | None:
    try:
        return read_config(run.config)
    except UsageError:
        return None


def refuse_other_settings(
    run: RunFolder, made: Config, given: dict[str, Any], lines: Sequence[str], asked: Config
) -> None:
    """Refuse to continue a run when what was asked for by name is not what it has.

    Arguments:
        run: the folder.
        made: its configuration.
        given, lines, asked: as for :func:`~threedistill.config.differences.asked_otherwise`.

    Raises:
        UsageError: with every such setting, and what can be done.
    """
    others = asked_otherwise(given, lines, asked, made)
    if not others:
        return
    if prompts := [has for name, _, has in others if name == "prompt"]:
        raise UsageError(
            f"{run.path} was started with the prompt {prompts[0]!r}; give that one, or another --out"
        )
    more = [f"budget.iterations={wanted}" for name, wanted, _ in others if name == "budget.iterations"]
    steps = f", more steps with threedistill resume {run.path} {more[0]}" if more else ""
    raise UsageError(
        f"{run.path} was made with other settings: {in_words(others)}; continue it as it is with threedistill resume "
        f"{run.path}{steps}, or choose another --out"
    )
