"""The BibTeX of exactly what a run used, from its configuration: ``threedistill.cite``.

The entries are in ``assets/references.bib``. A class that this table does not know (a plugin's) is cited by the arXiv
numbers behind "Source:" in its docstring, if it has any.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedistill.config import read_config
from threedistill.training.result import Result
from threedistill.training.run_folder import RunFolder

__all__ = ["CLASSES", "SETTINGS", "Citations", "citations", "cite", "entries", "software", "used_classes"]

_ENTRY = re.compile(r"^@(\w+)\{([^,]+),.*?^\}", re.MULTILINE | re.DOTALL)
_ARXIV = re.compile(r"arXiv:?\s*(\d{4}\.\d{4,5})")

#: Class -> what is cited wherever it is used, and for what.
CLASSES: dict[str, tuple[tuple[str, str], ...]] = {
    "guidance.rules.SDS": (("poole2023dreamfusion", "SDS"),),
    "guidance.rules.SJC": (("wang2023sjc", "SJC"),),
    "guidance.rules.MVSDS": (("shi2024mvdream", "multi-view SDS"), ("poole2023dreamfusion", "SDS")),
    "guidance.rules_student.VSD": (("wang2023prolificdreamer", "VSD"),),
    "guidance.rules_student.ESD": (("wang2024esd", "ESD"), ("wang2023prolificdreamer", "its student")),
    "guidance.rules_classifier.CSD": (("yu2024csd", "CSD"),),
    "guidance.rules_classifier.CSM": (("yang2024tv3dg", "CSM (our reading of the abstract)"),),
    "guidance.rules_classifier.NFSD": (("katzir2024nfsd", "NFSD"),),
    "guidance.rules_reference.CSDS": (("zou2024sparse3d", "C-SDS (our reading of the abstract)"),),
    "guidance.rules_reference.DDS": (("hertz2023dds", "DDS"),),
    "guidance.rules_inversion.ISM": (("liang2024luciddreamer", "ISM"),),
    "guidance.rules_inversion.SDI": (("lukoianov2024sdi", "SDI"),),
    "guidance.rules_inversion.CDS": (("wu2024consistent3d", "CDS"),),
    "guidance.rules_inversion.SCTD": (("zhu2025segmentdreamer", "segmented consistency"),),
    "guidance.rules_bridge.Bridge": (
        ("mcallister2024bridge", "SDS-Bridge"), ("poole2023dreamfusion", "its first stage"),
    ),
    "guidance.rules.CFD": (("yan2025cfd", "consistent flow distillation"),),
    "guidance.rules_student.SIM": (("bai2025dive3d", "SIM in 3D"), ("luo2024sim", "SIM")),
    "guidance.rules_bridge.TraCe": (("li2025trace", "TraCe"),),
    "guidance.rules_student.USD": (
        ("zheng2025recdreamer", "uniform score distillation"), ("wang2023prolificdreamer", "VSD"),
    ),
    "guidance.reward.Reward": (("ye2024dreamreward", "rewards"), ("xu2023imagereward", "a reward's gradient")),
    "guidance.trajectory.Inverted": (("song2021ddim", "DDIM inversion"),),
    "guidance.trajectory.Interval": (("song2021ddim", "DDIM inversion"),),
    "guidance.trajectory.Reparametrized": (("song2021ddim", "DDIM inversion"),),
    "guidance.cfg.ClassifierFree": (("ho2022cfg", "classifier-free guidance"),),
    "guidance.perp_neg.PerpNeg": (("armandpour2023perpneg", "Perp-Neg"),),
    "guidance.two_conditions.TwoConditions": (("brooks2023instructpix2pix", "guidance by two conditions"),),
    "guidance.timesteps.DreamTime": (("huang2024dreamtime", "timesteps"),),
    "priors.lora.LoRA": (("hu2022lora", "the student's adapters"),),
    "priors.families.StableDiffusion": (("rombach2022ldm", "the prior"),),
    "priors.families.SDXL": (("podell2024sdxl", "the prior"),),
    "priors.families.StableDiffusionControlNet": (
        ("rombach2022ldm", "the prior"), ("zhang2023controlnet", "its control"),
    ),
    "priors.families.SDXLControlNet": (("podell2024sdxl", "the prior"), ("zhang2023controlnet", "its control")),
    "priors.families.StableDiffusionInpainting": (("rombach2022ldm", "the prior"),),
    "priors.families.SD3": (("esser2024sd3", "the prior"),),
    "priors.families.FLUX": (("labs2025flux", "the prior"),),
    "priors.families.PixArt": (("chen2024pixart", "the prior"),),
    "priors.families.Sana": (("xie2025sana", "the prior"),),
    "priors.families.FLUX2": (("labs2025flux", "the prior"),),
    "priors.families.Kandinsky5": (("arkhipkin2025kandinsky5", "the prior"),),
    "priors.families.MVDream": (("shi2024mvdream", "the prior"), ("rombach2022ldm", "its base")),
    "priors.families.ImageDream": (("wang2023imagedream", "the prior"), ("shi2024mvdream", "its base")),
    "priors.families.Zero123": (("liu2023zero123", "the prior"), ("rombach2022ldm", "its base")),
    "priors.families.StableDiffusionIPAdapter": (
        ("rombach2022ldm", "the prior"), ("ye2023ipadapter", "its image prompt"),
    ),
    "priors.families.SDXLIPAdapter": (("podell2024sdxl", "the prior"), ("ye2023ipadapter", "its image prompt")),
    "priors.families.DeepFloyd": (("saharia2022imagen", "the prior"),),
    "toybox.priors.embedded.ToyboxPrior": (
        ("ho2020ddpm", "the prior"), ("nichol2021improved", "its noise schedule"),
        ("salimans2022progressive", "its parametrisation"),
    ),
    "representations.hashgrid.HashGrid": (
        ("mueller2022instantngp", "the representation"), ("mildenhall2020nerf", "volume rendering"),
    ),
    "representations.hashfield.HashSettings": (("mueller2022instantngp", "colours from a hash field"),),
    "representations.gaussians.Gaussians": (("kerbl2023gaussians", "the representation"),),
    "representations.densify.Growth": (("bulo2024densification", "splitting"),),
    "representations.densify.Relocation": (("kheradmand2024mcmc", "relocation"),),
    "representations.dmtet.DMTet": (
        ("shen2021dmtet", "the representation"), ("munkberg2022nvdiffrec", "its rendering"),
    ),
    "training.optim.Adam": (("kingma2015adam", "the optimizer"),),
    "training.optim.AdamW": (("loshchilov2019adamw", "the optimizer"),),
    "training.optim.Adan": (("xie2024adan", "the optimizer"),),
}  # fmt: skip


def _off(value: Any) -> bool:
    """Whether a setting that may be a schedule is switched off for good."""
    if isinstance(value, dict):
        return all(v in (0, None) for k, v in value.items() if k in ("start", "end", "value", "values"))
    return value in (None, 0, 0.0, "none", False)


#: Priors of one class, by name: what they are read off is a pipeline, which has no class of ours.
RECORDED = {
    "lumina2": ("qin2025lumina2", "the prior"), "qwen_image": ("wu2025qwenimage", "the prior"),
    "z_image": ("cai2025zimage", "the prior"), "hunyuandit": ("li2024hunyuandit", "the prior"),
    "cogview4": ("zheng2024cogview3", "its forerunner"), "kandinsky3": ("arkhipkin2023kandinsky3", "the prior"),
}  # fmt: skip

#: (class, argument or an entry of one, is it in use?, entry, for what): what is cited only with certain settings.
SETTINGS: tuple[tuple[str, str, Any, str, str], ...] = (
    ("guidance.cfg.ClassifierFree", "rescale", lambda v: not _off(v), "lin2024flawed", "rescaled guidance"),
    ("guidance.cfg.ClassifierFree", "x0_clip", lambda v: v == "dynamic", "saharia2022imagen", "dynamic thresholding"),
    ("guidance.rules.MVSDS", "rescale", lambda v: not _off(v), "lin2024flawed", "rescaled guidance"),
    ("guidance.rules_student.VSD", "normalize", lambda v: v == "dmd", "yin2024dmd2", "normalisation"),
    ("guidance.rules_student.ESD", "normalize", lambda v: v == "dmd", "yin2024dmd2", "normalisation"),
    ("guidance.rules_student.VSD", "divergence", lambda v: v not in (None, "reverse_kl"), "xu2025fdistill", "weights"),
    ("guidance.rules_student.ESD", "divergence", lambda v: v not in (None, "reverse_kl"), "xu2025fdistill", "weights"),
    ("guidance.timesteps.Annealed", "shape", lambda v: v == "sqrt", "zhu2024hifa", "timesteps"),
    ("guidance.regularizers.Regularizers", "weights.distortion", lambda v: not _off(v), "barron2022mipnerf360",
     "distortion loss"),
    ("guidance.regularizers.Regularizers", "weights.orientation", lambda v: not _off(v), "verbin2022refnerf",
     "orientation loss"),
    ("guidance.regularizers.Regularizers", "weights.eikonal", lambda v: not _off(v), "gropp2020igr", "eikonal loss"),
    ("guidance.regularizers.Regularizers", "weights.sign_change", lambda v: not _off(v), "munkberg2022nvdiffrec",
     "sign changes"),
    ("guidance.regularizers.Regularizers", "weights.splat_scale", lambda v: not _off(v), "kheradmand2024mcmc",
     "sizes of splats"),
    ("guidance.regularizers.Regularizers", "weights.splat_opacity", lambda v: not _off(v), "kheradmand2024mcmc",
     "opacities of splats"),
    ("representations.gaussians.Gaussians", "antialiased", lambda v: v is True, "yu2024mipsplatting", "antialiasing"),
    ("guidance.regularizers.Regularizers", "weights.anisotropy", lambda v: not _off(v), "xie2024physgaussian",
     "anisotropy of splats"),
    ("lights.Lighting", "law", lambda v: v == "near_camera", "poole2023dreamfusion", "the light"),
    ("lights.Lighting", "law", lambda v: v == "cone", "lin2023magic3d", "the light"),
    *(
        ("priors.diffusers.DiffusersPrior", "name", lambda v, name=name: v == name, key, what)
        for name, (key, what) in RECORDED.items()
    ),
    ("cameras.CameraSampler", "antithetic", lambda v: v is True, "lupascu2026mvsdi", "antithetic views"),
)  # fmt: skip

#: Parts of the configuration that describe what could be used, not what is.
_UNUSED = ("recommended",)


@dataclass(frozen=True)
class Citations:
    """What a run used.

    Attributes:
        used: BibTeX key -> what it was used for, in the order of the configuration.
    """

    used: dict[str, list[str]]

    @property
    def bibtex(self) -> str:
        """The entries, the package itself first, each with its purposes in a comment."""
        texts = entries()
        parts = [f"% {', '.join(purposes)}\n{texts[key]}" for key, purposes in self.used.items()]
        return "\n\n".join([software(), *parts])

    def __len__(self) -> int:
        return len(self.used) + 1

    def __str__(self) -> str:
        return self.bibtex


def cite(run: str | Path | Result) -> Citations:
    """The BibTeX of exactly what a run used, as ``threedistill cite`` prints it.

    Arguments:
        run: its folder, or what made it gave back.

    Raises:
        UsageError: no run folder, or one whose configuration is damaged.
    """
    plugins = () if isinstance(run, str | Path) else run.plugins
    folder = RunFolder(run if isinstance(run, str | Path) else run.run_dir)
    folder.finish_taking()
    return Citations(citations(read_config(folder.config, plugins)))


def citations(config: dict[str, Any]) -> dict[str, list[str]]:
    """BibTeX key -> what it was used for, in the order of the configuration."""
    found: dict[str, list[str]] = {}
    known = {re.search(r"eprint = \{([^}]+)\}", text): key for key, text in entries().items()}
    by_number = {match.group(1): key for match, key in known.items() if match}

    def add(key: str, purpose: str) -> None:
        purposes = found.setdefault(key, [])
        if purpose not in purposes:
            purposes.append(purpose)

    for target, node in used_classes(config):
        name = target.removeprefix("threedistill.")
        for key, purpose in CLASSES.get(name, ()):
            add(key, purpose)
        for cls, argument, in_use, key, purpose in SETTINGS:
            if cls == name and (value := _setting(node, argument)) is not None and in_use(value):
                add(key, purpose)
        if any(target.startswith(f"{package}.") for package in config.get("plugins", ())):
            for number in _numbers_of(target):
                if number in by_number:
                    add(by_number[number], target)
    return found


def _setting(node: dict[str, Any], path: str) -> Any:
    """An argument of a class by its path in the node; None where it is not given."""
    value: Any = node
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def used_classes(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class that the configuration instantiates, with its arguments."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"]), node
        for key, child in node.items():
            if key not in _UNUSED:
                yield from used_classes(child)
    elif isinstance(node, list):
        for child in node:
            yield from used_classes(child)


def _numbers_of(target: str) -> list[str]:
    """The arXiv numbers behind "Source:" in a plugin class's docstring."""
    module, _, name = target.rpartition(".")
    try:
        doc = getattr(importlib.import_module(module), name).__doc__ or ""
    except (ImportError, AttributeError):
        return []
    return _ARXIV.findall(doc.partition("Source:")[2])


def entries() -> dict[str, str]:
    """BibTeX key -> entry, from the file that ships."""
    from threedistill.resources import assets_dir

    text = (assets_dir() / "references.bib").read_text(encoding="utf-8")
    return {match.group(2): match.group(0) for match in _ENTRY.finditer(text)}


def software() -> str:
    """The package itself."""
    from threedistill import __version__

    return (
        "@software{threedistill,\n"
        "  title = {threedistill: text-to-3D by score distillation},\n"
        "  author = {{The threedistill authors}},\n"
        f"  version = {{{__version__}}}\n"
        "}"
    )
