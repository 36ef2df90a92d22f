"""A run's needs in words and figures: here and on a GPU, which cards it fits, what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from threedistill.config import Recipe, compose
from threedistill.memory import available
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.outline import OutlinedPrior, shape_of
from threedistill.protocols import Prior
from threedistill.training.assemble import pick_device
from threedistill.training.estimate import Need, SceneCost, need_of, rate, scene_cost
from threedistill.training.plan import RunPlan, StagePlan
from threedistill.training.planning import build_plan

__all__ = ["CARDS", "costs", "outlined", "table", "told"]

#: GPUs by the GiB that they are sold with.
CARDS = (8, 12, 16, 24, 48, 80)
#: GiB of a card that its driver and CUDA's own context take (from memory: a few hundred MiB each).
CONTEXT = 0.8
GIB = 2**30
#: Moments before the first step.
FIRST = ("reading the texts", "looking at the pictures")
#: The options in the documentation's table.
SHIPPED = ("sd15", "sdxl", "sd3", "flux_schnell", "pixart", "sana")


def outlined(model: Recipe[Prior], half: bool, size: int | None = None) -> tuple[Prior, bool]:
    """A prior in its true shape, and whether the model itself was found.

    Arguments:
        model: how it would be loaded; what is none of diffusers' is small, and loaded.
        half: whether in the family's 16 bit.
        size: pixels; None = as configured.

    Raises:
        ThreedistillError: neither here nor known.
    """
    if not issubclass(model.cls, DiffusersPrior):
        return model.make(), True
    given = model.arguments
    shape = shape_of(
        given["model"], given.get("home"), tuple(given.get("mirrors") or ()), given.get("revision")
    )
    name: Any = given.get("dtype", "auto")
    if name == "auto":
        name = str(given["family"].half).removeprefix("torch.") if half else "float32"
    prior = OutlinedPrior(
        name=given["name"], family=given["family"], shape=shape, size=size or given.get("size"),
        one_by_one=bool(given.get("one_by_one")), dtype=name,
    )  # fmt: skip
    return prior, prior.found


def costs(plan: RunPlan, device: str) -> dict[str, Any]:
    """Everything that ``threedistill plan --json`` says; bytes, seconds, products.

    Arguments:
        plan: the run.
        device: auto, cpu or cuda: where it would run on this machine.
    """
    place = pick_device(device)
    speed = rate(place)
    stages = []
    for stage in plan.stages:
        scene = scene_cost(stage)
        here, found = _needs(plan, stage, scene, place.type == "cuda")
        there = here if place.type == "cuda" else _needs(plan, stage, scene, True)[0]
        seconds = here.seconds + here.flops / speed
        facts = {
            "name": stage.stage.name, "iterations": stage.stage.iterations, "views": here.views,
            "rows": here.rows.total, "rendered": here.size, "parts": _parts(here), "phases": here.phases,
            "peak": here.peak, "flops": here.flops, "seconds": seconds, "found": found,
        }  # fmt: skip
        stages.append({**facts, "gpu": _on_card(there), "less": list(_less(plan, stage, scene, there))})
    base = 0 if place.type == "cuda" else _resident()
    return {
        "prior": plan.names.prior, "device": place.type, "process": base, "free": available(), "rate": speed,
        "peak": base + max(one["peak"] for one in stages), "stages": stages,
        "seconds": sum(one["seconds"] * one["iterations"] for one in stages),
    }  # fmt: skip


def _needs(
    plan: RunPlan, stage: StagePlan, scene: SceneCost, half: bool, size: int | None = None
) -> tuple[Need, bool]:
    prior, found = outlined(stage.prior.model, half, size)
    bases = [learner.base for learner in stage.learners.values() if learner.base is not None]
    further = [*bases, *(network.model for network in stage.networks.values() if network.model is not None)]
    others = tuple(outlined(model, half, size)[0] for model in further)
    return need_of(plan, stage, scene, prior, others), found


def _parts(need: Need) -> dict[str, int]:
    parts = {
        "denoiser": need.denoiser, "encoder of pictures": need.encoder, "text encoders, at the start": need.texts,
        "image encoder, at the start": need.sight,
        "scene with its moments": need.scene, "student with its moments": need.student,
        "further networks": need.others,
    }  # fmt: skip
    return {name: size for name, size in parts.items() if size}


def _less(plan: RunPlan, stage: StagePlan, scene: SceneCost, need: Need) -> Iterator[dict[str, Any]]:
    """What would need less on a GPU, each together with those before it, as long as it helps."""
    full, steps = need, list[tuple[str, Need]]()
    if need.encoder and not need.one_by_one:
        need = need.with_less(one_by_one=True)
        steps.append(("prior.model.one_by_one=true", need))
    if need.rows.most > 1:
        need = need.with_less(most=1)
        steps.append(("trainer.max_rows=1", need))
    if need.views > 1:
        need = need.with_less(views=1)
        steps.append(("cameras.views=1", need))
    native = stage.prior.model.given("size")
    if need.encoder and (native is None or native > 512):
        prior, _ = outlined(stage.prior.model, True)
        if isinstance(prior, OutlinedPrior) and prior.facts.size > 512:
            small, _ = _needs(plan, stage, scene, True, 512)
            small = small.with_less(one_by_one=True, views=1, most=1)
            steps.append(("prior.model.size=512", replace(small, one_by_one=True)))
    before = full
    for setting, smaller in steps:
        if smaller.peak < 0.97 * before.peak:
            yield {"setting": setting, **_on_card(smaller)}
        before = smaller


def _on_card(need: Need) -> dict[str, Any]:
    """Bytes on a GPU, and the cards that have as many."""
    return {"peak": need.peak + CONTEXT * GIB, "fits": [c for c in CARDS if need.peak / GIB + CONTEXT <= c]}


def _resident() -> int:
    """Bytes that this process holds with everything imported that a run imports."""
    import pytorch_lightning  # noqa: F401
    import transformers  # noqa: F401

    import threedistill.training.finish  # noqa: F401

    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return GIB // 2


def told(found: dict[str, Any]) -> str:
    """The same in words."""
    lines = []
    for stage in found["stages"]:
        which = "" if stage["found"] else " (the model is not here: its published shape)"
        lines += [
            f"stage {stage['name']}: {stage['iterations']} steps of {stage['views']} views of {stage['rendered']} "
            f"pixels; prior {found['prior']}{which} is asked {stage['rows']} rows a step",
            f"  memory on {found['device']}, GiB:",
        ]
        if found["process"]:
            lines.append(f"    {found['process'] / GIB:7.2f}  the process itself")
        lines += [f"    {size / GIB:7.2f}  {name}" for name, size in stage["parts"].items()]
        full = max(stage["phases"], key=stage["phases"].get)
        lines.append(f"    {(found['process'] + stage['peak']) / GIB:7.2f}  at most, while {full}")
        lines.append(
            f"  time: {stage['flops'] / 1e12:.2f} TFLOP a step, {found['rate'] / 1e12:.2f} TFLOP/s here: about "
            f"{_span(stage['seconds'])} a step, {_span(stage['seconds'] * stage['iterations'])} in all"
        )
        lines.append(
            f"  on a GPU in 16 bit: {stage['gpu']['peak'] / GIB:.1f} GiB; {_cards(stage['gpu']['fits'])}"
        )
        for less in stage["less"]:
            lines.append(f"    with {less['setting']}: {less['peak'] / GIB:.1f} GiB; {_cards(less['fits'])}")
    if found["free"] is not None and found["device"] == "cpu":
        enough = found["peak"] <= found["free"]
        lines.append(f"{found['free'] / GIB:.1f} GiB are free here: {'enough' if enough else 'not enough'}")
    return "\n".join(lines)


def _cards(fits: list[int]) -> str:
    return f"fits cards of {fits[0]} GB and more" if fits else f"fits no card of {CARDS[-1]} GB"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _distilling(need: Need) -> float:
    """Bytes at most once the texts are read."""
    return max(size for name, size in need.phases.items() if name not in FIRST)


#: Columns of :func:`table`.
COLUMNS = (
    "option, pixels", "denoiser", "GiB in 16 bit", "text encoders, GiB", "one row asked, TFLOP", "alive, GiB",
    "encoder, GiB", "there and back, TFLOP", "kept for it, GiB", "reading texts, GiB", "distilling 1 view, GiB",
    "at 512, GiB", "card",
)  # fmt: skip


def table() -> str:
    """Real sizes of the shipped options on a GPU: one view, splats, SDS; as Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name in SHIPPED:
        overrides = ["cameras.views=1", "budget.resolution=512"]
        plan = build_plan(
            compose(prompt="a duck", prior=name, representation="gaussians", overrides=overrides)
        )
        stage, (prior, _) = plan.stages[0], outlined(plan.prior.model, True)
        assert isinstance(prior, OutlinedPrior)
        scene = scene_cost(stage)
        need = need_of(plan, stage, scene, prior)
        small = need if prior.facts.size <= 512 else _needs(plan, stage, scene, True, 512)[0]
        reading, distilling, at_512 = need.phases["reading the texts"], _distilling(need), _distilling(small)
        numbers = sum(p.numel() for p in prior.network.parameters()) / 1e6
        fits = _on_card(need)["fits"]
        cells = [
            f"`{name}`, {prior.facts.size}", f"{numbers:.1f} M", *(
                f"{figure:.2f}" for figure in (
                    need.denoiser / GIB, need.texts / GIB, need.row.flops / 1e12, need.row.peak / GIB,
                    need.encoder / GIB, need.back.flops / 1e12, need.view.kept / GIB,
                )
            ),
            *(f"{size / GIB + CONTEXT:.1f}" for size in (reading, distilling, at_512)),
            f"{fits[0]} GB" if fits else "none",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
