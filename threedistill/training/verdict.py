"""The line a run ends with: what the judge sees in the asset, and whether another seed is worth a try."""

from __future__ import annotations

from threedistill.config import Config
from threedistill.errors import ThreedistillError, UsageError
from threedistill.training.run_folder import RunFolder


def verdict_line(config: Config, run: RunFolder) -> str | None:
    """Judge ``asset/model.glb``; None where there is no GLB, no judge, or a prompt outside the judge's words."""
    from threedistill.evaluation.report import evaluate_asset
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.judge import available

    glb = run.asset_dir / "model.glb"
    if not glb.exists() or not available():
        return None
    try:
        parse(config["prompt"])
    except UsageError:
        return None
    try:
        return str(evaluate_asset(glb, config["prompt"], quick=True)["verdict"])
    except ThreedistillError as error:
        return f"not judged: {error}"  # the asset is made; a judge that cannot look must not undo that
