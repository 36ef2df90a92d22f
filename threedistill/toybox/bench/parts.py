"""What ``threedistill bench guidance`` runs: settings, prompts, seeds, and the claims that they are to weigh.

Two modes. *Blind*: the teacher is never told a camera and hears no view words, but takes most views for fronts, on
kinds that have one; so nothing but the rule keeps an object from having several faces. *Told*: the default mode, for
everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from threedistill.errors import UsageError
from threedistill.evaluation.claims import Claim
from threedistill.sweeps.plan import Cell, Setting, cells

__all__ = [
    "CLAIMS", "ESD_BLIND", "ESD_FULL_BLIND", "FRONT_BIAS", "NOISE_PART", "PARTS", "PART_NAMES", "PRIORS", "PROMPTS",
    "PROMPTS_TIER_TWO", "RULES", "SCALED", "SCALES", "SDS_BLIND", "SDS_PERP_NEG", "SDS_WORDS", "SEEDS",
    "SEEDS_TIER_TWO", "VSD_BLIND", "Part", "chosen", "scaled", "taught",
]  # fmt: skip

#: Kinds with a front, mostly figures with faces, where many-facedness is known best; each in a colour that training
#: shows it in, none of them held out.
PROMPTS = (
    "an orange robot",
    "a purple owl",
    "a red car",
    "a green teddy bear",
    "a yellow duck",
    "a white snowman",
    "a black cat",
    "a pink pig",
)
PROMPTS_TIER_TWO = 4
SEEDS, SEEDS_TIER_TWO = 5, 2
#: Who can teach: the embedded prior, or the exact answer of its world.
PRIORS = ("toybox", "world")
#: CFG scales of the saturation table; 7.5 is ProlificDreamer's.
SCALES = (2.0, 7.5, 20.0, 50.0)

_BENCH = "preset=bench"
#: Told no view, the embedded prior leans to fronts (75 % of such training pictures are), which is not enough: blind SDS
#: with prior.camera=none makes bodies of revolution without any face. So this share of views is told to be fronts.
FRONT_BIAS = 0.8
_BIASED = ("prior.camera=words", f"prompts.front_bias={FRONT_BIAS}")
_BLIND = (*_BIASED, "prompts.view_words=false")

#: Claims are about rules as they were published: without what the embedded prior's settings add to hold them, and with
#: the guidance that they need without it.
_PUBLISHED = {
    **dict.fromkeys(("vsd", "esd", "csm"), ("guidance.rule.anchor=0",)),
    **dict.fromkeys(
        ("usd", "ism", "nfsd", "cds"), ("guidance.rule.anchor=0", "cfg.scale=${recommended:unanchored}")
    ),
    "csd": tuple(
        f"guidance.rule.{k}=${{guidance.recommended.{k}}}" for k in ("cond", "empty", "negative", "noise")
    ),
    "csds": ("guidance.rule.form=difference",),
}


def _setting(name: str, *overrides: str) -> Setting:
    choices = dict(line.split("=", 1) for line in overrides)
    overrides += _PUBLISHED.get(choices["guidance"], ())
    # Groups before the keys that they bring.
    lines = sorted((_BENCH, *overrides), key=lambda line: "." in line.split("=")[0])
    return Setting(name, tuple(lines), choices)


SDS_BLIND = _setting("SDS blind", "guidance=sds", *_BLIND)
VSD_BLIND = _setting("VSD blind", "guidance=vsd", *_BLIND)
ESD_BLIND = _setting("ESD 0.5 blind", "guidance=esd", "guidance.rule.lam=0.5", *_BLIND)
ESD_FULL_BLIND = _setting("ESD 1 blind", "guidance=esd", "guidance.rule.lam=1", *_BLIND)
SDS_WORDS = _setting("SDS view words", "guidance=sds", *_BIASED, "prompts.view_words=true")
SDS_PERP_NEG = _setting("SDS Perp-Neg", "guidance=sds", "cfg=perp_neg", *_BIASED, "prompts.view_words=true")
RULES = tuple(
    _setting(name, f"guidance={rule}")
    for name, rule in (
        ("SDS", "sds"), ("VSD", "vsd"), ("ESD", "esd"), ("CSM", "csm"), ("C-SDS", "csds"), ("CSD", "csd"),
        ("ISM", "ism"), ("NFSD", "nfsd"), ("SDI", "sdi"), ("CDS", "cds"), ("SJC", "sjc"), ("MV-SDS", "mvsds"),
        ("SDS-Bridge", "bridge"), ("CFD", "cfd"), ("SCTD", "sctd"), ("SIM", "sim"), ("TraCe", "trace"),
        ("USD", "usd"),
    )
)  # fmt: skip


def scaled(rule: str, scale: float) -> Setting:
    """A rule at a CFG scale, with the clean sample left unclipped: clipping would hide what the scale does."""
    return _setting(
        f"{rule} s={scale:g}", f"guidance={rule.lower()}", f"cfg.scale={scale:g}", "cfg.x0_clip=none"
    )


SCALED = tuple(scaled(rule, scale) for rule in ("SDS", "VSD") for scale in SCALES)


@dataclass(frozen=True)
class Part:
    """One table of the benchmark.

    Attributes:
        name: for ``--only``.
        tier: 1 or 2.
        title: of its section.
        settings: its rows.
        prompts, seeds: how many of the prompts, and how many seeds from 0.
        figures: columns shown.
    """

    name: str
    tier: int
    title: str
    settings: tuple[Setting, ...]
    prompts: int
    seeds: int
    figures: tuple[str, ...]

    def runs(self) -> list[Cell]:
        """Its runs, seeds slowest, so that partial tables hold complete pairs."""
        return cells(PROMPTS[: self.prompts], range(self.seeds), self.settings)


PARTS = (
    Part("janus", 1, "ESD against VSD: one face or several", (SDS_BLIND, VSD_BLIND, ESD_BLIND, ESD_FULL_BLIND),
         len(PROMPTS), SEEDS, ("janus", "kind_right", "color_right", "clean", "iou", "diversity", "seconds")),
    Part("rules", 2, "All rules side by side", RULES, PROMPTS_TIER_TWO, SEEDS_TIER_TWO,
         ("kind_right", "color_right", "clean", "iou", "janus", "saturation_error", "detail", "high_frequency",
          "diversity", "seconds")),
    Part("scale", 2, "Saturation and sharpness against the CFG scale", SCALED, PROMPTS_TIER_TWO, 1,
         ("saturation_error", "detail", "high_frequency", "kind_p", "kind_right", "seconds")),
    Part("remedies", 2, "Remedies for Janus beside the rule", (SDS_BLIND, SDS_WORDS, SDS_PERP_NEG),
         PROMPTS_TIER_TWO, SEEDS_TIER_TWO, ("janus", "kind_right", "color_right", "iou", "seconds")),
)  # fmt: skip
#: Measured on gradients, not on runs.
NOISE_PART = "noise"
PART_NAMES = (*[part.name for part in PARTS], NOISE_PART)

_ESD, _PROLIFIC = "Wang et al. 2024, arXiv 2401.00909", "Wang et al. 2023, arXiv 2305.16213"
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "janus": (
        Claim("ESD (lambda 0.5) lowers VSD's Janus estimate", _ESD, "janus", "VSD blind", "ESD 0.5 blind", "lower",
              ("VSD blind", "ESD 0.5 blind"), "SDS blind"),
        Claim("ESD (lambda 1) lowers VSD's Janus estimate", _ESD, "janus", "VSD blind", "ESD 1 blind", "lower",
              ("VSD blind", "ESD 1 blind"), "SDS blind"),
        Claim("ESD (lambda 0.5) is more varied than VSD over seeds", _ESD, "diversity", "VSD blind", "ESD 0.5 blind",
              "higher", ("VSD blind", "ESD 0.5 blind")),
        Claim("VSD is more varied than SDS over seeds, blind", _PROLIFIC, "diversity", "SDS blind", "VSD blind",
              "higher", ("VSD blind",)),
        Claim("VSD lowers SDS's Janus estimate", "for comparison", "janus", "SDS blind", "VSD blind", "lower",
              ("VSD blind",), "SDS blind"),
    ),
    "rules": (
        Claim("C-SDS has more high-frequency energy than SDS", "Zou et al. 2024, arXiv 2308.14078", "high_frequency",
              "SDS", "C-SDS", "higher"),
        Claim("C-SDS has more detail inside its outline than SDS", "Zou et al. 2024, arXiv 2308.14078", "detail",
              "SDS", "C-SDS", "higher"),
        Claim("VSD is more varied than SDS over seeds", _PROLIFIC, "diversity", "SDS", "VSD", "higher", ("VSD",)),
    ),
    "scale": (
        Claim("SDS's colours saturate as the scale grows (2 to 50)", _PROLIFIC, "saturation", "SDS s=2", "SDS s=50",
              "higher"),
        Claim("SDS is recognised better at 50 than at 7.5", _PROLIFIC, "kind_p", "SDS s=7.5", "SDS s=50", "higher"),
        Claim("VSD at 7.5 is recognised better than SDS at 7.5", _PROLIFIC, "kind_p", "SDS s=7.5", "VSD s=7.5",
              "higher", ("VSD s=7.5",)),
        Claim("VSD at 7.5 is less saturated than SDS at 50", _PROLIFIC, "saturation", "SDS s=50", "VSD s=7.5",
              "lower", ("VSD s=7.5",)),
        Claim("VSD at 7.5 has more detail than SDS at 7.5", _PROLIFIC, "detail", "SDS s=7.5", "VSD s=7.5", "higher",
              ("VSD s=7.5",)),
    ),
    "remedies": (
        Claim("View words lower SDS's Janus estimate", "Poole et al. 2022, arXiv 2209.14988", "janus", "SDS blind",
              "SDS view words", "lower", diseased="SDS blind"),
        Claim("Perp-Neg lowers it below view words alone", "Armandpour et al. 2023, arXiv 2304.04968", "janus",
              "SDS view words", "SDS Perp-Neg", "lower", diseased="SDS blind"),
    ),
}  # fmt: skip


def taught(setting: Setting, prior: str) -> Setting:
    """The setting with its teacher and, of the rules that claims are about, a student who does not know the cameras
    before it has learned anything: on a teacher without a network adapters cannot grow."""
    own = "student=lora" if prior == "toybox" else "student=gaussian"
    student = (own,) if {"guidance=vsd", "guidance=esd"} & set(setting.overrides) else ()
    lines = (*setting.overrides, f"prior={prior}", *student)
    return replace(setting, overrides=tuple(sorted(lines, key=lambda line: "." in line.split("=")[0])))


def chosen(
    tier: int | None = None, only: Sequence[str] = (), prompts: int | None = None, seeds: int | None = None,
    extra: Sequence[str] = (), prior: str = "toybox",
) -> tuple[Part, ...]:  # fmt: skip
    """The parts to run, cut to size.

    Arguments:
        tier: 1, 2 or None for both.
        only: names of parts; empty = all.
        prompts, seeds: upper limits on each part's numbers.
        extra: ``key=value`` lines added to every setting.
        prior: who teaches: one of :data:`PRIORS`.

    Raises:
        UsageError: nothing is left, or an extra line that would undo what a part compares.
    """
    for line in extra:
        key = line.split("=")[0]
        if key in (
            "guidance",
            "cfg",
            "preset",
            "prior",
            "seed",
            "cfg.scale",
            "prior.camera",
            "prompts.view_words",
            "prompts.front_bias",
        ):
            raise UsageError(f"{line}: the benchmark decides about {key}")
    found = [
        replace(
            part,
            settings=tuple(
                taught(replace(s, overrides=(*s.overrides, *extra)), prior) for s in part.settings
            ),
            prompts=min(part.prompts, prompts or part.prompts),
            seeds=min(part.seeds, seeds or part.seeds),
        )
        for part in PARTS
        if tier in (None, part.tier) and (not only or part.name in only)
    ]
    if not found and NOISE_PART not in only:
        raise UsageError(f"bench guidance: --only {','.join(only)} and --tier {tier} leave nothing")
    return tuple(found)
