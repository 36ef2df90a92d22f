"""Score-distillation rules: pure functions from gathered predictions to a direction in prior space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.guidance.cfg import CFG, ClassifierFree
    from threedistill.guidance.perp_neg import PerpNeg
    from threedistill.guidance.poses import Poses
    from threedistill.guidance.regularizers import Regularizers
    from threedistill.guidance.reward import Reward
    from threedistill.guidance.rules import CFD, MVSDS, SDS, SJC
    from threedistill.guidance.rules_bridge import Bridge, TraCe
    from threedistill.guidance.rules_classifier import CSD, CSM, NFSD
    from threedistill.guidance.rules_inversion import CDS, ISM, SCTD, SDI
    from threedistill.guidance.rules_reference import CSDS, DDS
    from threedistill.guidance.rules_student import ESD, SIM, USD, VSD
    from threedistill.guidance.surrogate import Surrogate
    from threedistill.guidance.timesteps import Annealed, DreamTime, Uniform, Window
    from threedistill.guidance.two_conditions import TwoConditions
    from threedistill.guidance.weighting import Weighting
    from threedistill.protocols import GuidanceRule
    from threedistill.schedule import Constant, Piecewise, Ramp
    from threedistill.types import Evidence, Query

__all__ = [
    "CDS", "CFD", "CFG", "CSD", "CSDS", "CSM", "DDS", "ESD", "ISM", "MVSDS", "NFSD", "SCTD", "SDI", "SDS", "SIM", "SJC",
    "USD", "VSD", "Annealed", "Bridge", "ClassifierFree", "Constant", "DreamTime", "Evidence", "GuidanceRule",
    "PerpNeg", "Piecewise", "Poses", "Query", "Ramp", "Regularizers", "Reward", "Surrogate", "TraCe", "TwoConditions",
    "Uniform", "Weighting", "Window",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
