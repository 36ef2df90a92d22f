"""threestudio's guidance step on the same networks as ours, from a checkout of it that the caller has.

    git clone https://github.com/threestudio-project/threestudio /tmp/threestudio
    python benchmarks/step.py --prior sd15-random --resolution 512 --threestudio /tmp/threestudio

Only the file of its Stable Diffusion guidance is read; what that imports of the rest of threestudio (registry, base
class, types) is replaced by names that do nothing, so none of its dependencies is needed. Its step is asked for a
picture of 512 pixels and does what it does with one: encode, noise, denoise for two rows, loss, backward.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor

from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.priors.outline import OutlinedPrior

__all__ = ["peer"]

#: Of the checkout.
GUIDANCE = Path("threestudio/models/guidance/stable_diffusion_guidance.py")


def _module(name: str, **names: Any) -> types.ModuleType:
    found = types.ModuleType(name)
    vars(found).update(names)
    return found


class _Base:
    """What its classes derive from: settings, and nothing else."""

    class Config:
        pass


def _stand_ins() -> dict[str, types.ModuleType]:
    """What its file imports from the rest of it."""
    shown = {name: getattr(typing, name) for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")}
    words = {name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Int")}
    root = "threestudio"

    def silent(*_: Any) -> None:
        return None

    return {
        root: _module(root, register=lambda name: lambda cls: cls, info=silent, warn=silent),
        f"{root}.models": _module(f"{root}.models"),
        f"{root}.models.prompt_processors": _module(f"{root}.models.prompt_processors"),
        f"{root}.models.prompt_processors.base": _module("base", PromptProcessorOutput=object),
        f"{root}.utils": _module(f"{root}.utils"),
        f"{root}.utils.base": _module("base", BaseObject=_Base),
        f"{root}.utils.misc": _module("misc", C=silent, cleanup=silent, parse_version=silent),
        f"{root}.utils.ops": _module("ops", perpendicular_component=silent),
        f"{root}.utils.typing": _module("typing", Tensor=Tensor, **shown, **words),
    }


def _guidance_class(checkout: Path) -> Any:
    """The class, from its file."""
    file = checkout / GUIDANCE
    if not file.is_file():
        raise UsageError(f"--threestudio {checkout}: no {GUIDANCE} there; give a checkout of threestudio")
    spec = importlib.util.spec_from_file_location("peer_guidance", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stand_ins = _stand_ins()
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
    finally:
        for name, known in before.items():
            if known is None:
                del sys.modules[name]
            else:
                sys.modules[name] = known
    return module.StableDiffusionGuidance


class _Prompts:
    """Embeddings of two rows, for every view."""

    use_perp_neg = False

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def get_text_embeddings(self, *_: Any) -> Tensor:
        return self.rows


def peer(prior: OutlinedPrior, checkout: Path) -> Callable[[], None]:
    """One of its guidance steps, the picture's gradient included.

    Arguments:
        prior: whose networks it works with.
        checkout: of threestudio.
    """
    from diffusers import DDIMScheduler

    cls = _guidance_class(checkout)
    guidance = cls.__new__(cls)
    space: Any = prior.space
    guidance.cfg, guidance.device = cls.Config(), prior.device
    guidance.weights_dtype = prior.dtype
    guidance.vae, guidance.unet = space.vae, prior.network
    guidance.scheduler = DDIMScheduler.from_config(dict(prior.facts.configs["scheduler"]))
    guidance.num_train_timesteps = guidance.scheduler.config.num_train_timesteps
    guidance.set_min_max_steps()
    guidance.alphas = guidance.scheduler.alphas_cumprod.to(prior.device)
    guidance.grad_clip_val = None
    prompts = _Prompts(prior.conditioning(Conditions(["a red duck"] * 2))["encoder_hidden_states"])
    size = prior.facts.size
    picture = torch.rand(1, size, size, 3, device=prior.device, requires_grad=True)
    camera = {name: torch.zeros(1, device=prior.device) for name in ("elevation", "azimuth")}

    def work() -> None:
        picture.grad = None
        answer = guidance(picture, prompts, **camera, camera_distances=torch.ones(1, device=prior.device))
        answer["loss_sds"].backward()

    return work
