"""What a run ends with: what the judge sees in the asset, in figures and in one line."""

from __future__ import annotations

from typing import Any

from threedistill.errors import ThreedistillError, UsageError
from threedistill.training.run_folder import RunFolder


def verdict(prompt: str, run: RunFolder) -> dict[str, Any] | None:
    """What :func:`~threedistill.evaluation.report.evaluate_asset` says about ``asset/model.glb``, with its line.

    None where there is no GLB, no judge, or a prompt outside the judge's words.
    """
    from threedistill.evaluation.report import evaluate_asset
    from threedistill.toybox.grammar import parse
    from threedistill.toybox.judge import available

    glb = run.asset_dir / "model.glb"
    if not glb.exists() or not available():
        return None
    try:
        parse(prompt)
    except UsageError:
        return None
    try:
        return evaluate_asset(glb, prompt, quick=True)
    except ThreedistillError as error:
        # The asset is made; a judge that cannot look must not undo that.
        return {"verdict": f"not judged: {error}"}
