"""What a finished asset is worth: judged by an independent network, measured against ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.config.critics import critic_for, critics
    from threedistill.evaluation.health import MeshHealth, mesh_health
    from threedistill.evaluation.janus import JanusEstimate, janus_estimate
    from threedistill.evaluation.report import Report, evaluate_runs
    from threedistill.evaluation.silhouette import chamfer_distance, silhouette_agreement, volume_iou
    from threedistill.evaluation.similarity import Similarity, psnr, ssim
    from threedistill.evaluation.statistics import Estimate, bootstrap, wilson
    from threedistill.evaluation.topology import Topology
    from threedistill.protocols import Critic

__all__ = [
    "Critic", "Estimate", "JanusEstimate", "MeshHealth", "Report", "Similarity", "Topology", "bootstrap",
    "chamfer_distance", "critic_for", "critics", "evaluate_runs", "janus_estimate", "mesh_health", "psnr",
    "silhouette_agreement", "ssim", "volume_iou", "wilson",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
