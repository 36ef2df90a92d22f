"""What a run ends with: what a critic sees in the asset, in figures and in one line."""

from __future__ import annotations

from typing import Any

from threedistill.config.critics import critic_for
from threedistill.errors import ThreedistillError, UsageError
from threedistill.training.run_folder import RunFolder

__all__ = ["verdict"]


def verdict(prompt: str, run: RunFolder) -> dict[str, Any] | None:
    """What the critic says about ``asset/model.glb``, with its line; None without a GLB or a critic for the prompt."""
    glb = run.asset_dir / "model.glb"
    if not glb.exists():
        return None
    try:
        critic = critic_for(prompt)
    except UsageError:
        return None
    try:
        return critic.judge(glb, prompt, quick=True)
    except ThreedistillError as error:
        # The asset is made; a judge that cannot look must not undo that.
        return {"verdict": f"not judged: {error}"}
