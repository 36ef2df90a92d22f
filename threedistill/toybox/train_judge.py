"""Training the judge, and measuring it on ground truth it has never seen.

    python -m threedistill.toybox.train_judge --work DIR [--world CACHE]   train (resumes by itself), then measure
    python -m threedistill.toybox.train_judge --work DIR --evaluate        measure only

Deterministic for one thread count: pools, batches and augmentations come from streams named by seed and step.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from threedistill.cameras import BACK_LIMIT, FRONT_LIMIT, OVERHEAD_LIMIT
from threedistill.resources import assets_dir
from threedistill.rng import Streams
from threedistill.toybox.dataset import RenderedWorld, WorldSettings
from threedistill.toybox.judge import VIEWS, Judge, JudgeNetwork, Vocabulary
from threedistill.toybox.judge_data import (
    IGNORE,
    SPOILS,
    Pool,
    augment,
    composite,
    load_or_render,
    pool_of_world,
    render_pool,
    spoil,
)  # fmt: skip
from threedistill.toybox.lexicon import ACCESSORIES, COLORS, KINDS, PATTERNS
from threedistill.toybox.visible import SHOWN

__all__ = [
    "PARTS_WEIGHT", "VERSION", "WEIGHTS", "JudgeTraining", "batch_of", "calibrate", "grown", "loss_of", "main",
    "measure", "pools", "rate_at", "train", "vocabulary",
]  # fmt: skip

VERSION = "judge-3"
WEIGHTS = {
    "kind": 1.0, "color": 1.0, "pattern": 0.5, "accessory": 0.5, "second_kind": 0.5, "second_color": 0.5,
    "view": 1.0, "clean": 1.0,
}  # fmt: skip
#: Of the cross entropy per part; most parts are absent from most pictures.
PARTS_WEIGHT = 6.0


@dataclass(frozen=True)
class JudgeTraining:
    """How the judge is trained.

    Arguments:
        steps: optimizer steps.
        batch: pictures per step, of which an eighth have too many faces and a quarter are spoilt.
        lr: peak learning rate (AdamW; warm-up, then half a cosine).
        objects: objects in the pool, four views each, a third of them patterned, dressed or in pairs.
        intricate: further objects, nearly all of them patterned, dressed or in pairs.
        faced: objects with too many faces, four views each.
        test_objects: objects of each test pool.
        widths: channels of the network's four resolutions.
        seed: of everything.
    """

    steps: int = 14000
    batch: int = 48
    lr: float = 2e-3
    objects: int = 3000
    intricate: int = 1500
    faced: int = 1500
    test_objects: int = 600
    widths: tuple[int, int, int, int] = (24, 48, 96, 160)
    seed: int = 1


def vocabulary() -> Vocabulary:
    """The judge's classes, from the grammar."""
    return Vocabulary(tuple(KINDS), tuple(COLORS), tuple(PATTERNS), tuple(ACCESSORIES), tuple(SHOWN))


def pools(setting: JudgeTraining, work: Path, say=print, world: Path | None = None) -> dict[str, Pool]:
    """Training and test pools, rendered once into ``work`` in parts (an interrupted rendering goes on).

    ``world`` is the prior's rendered world, if there is one: its objects join the training pool.
    """
    words = vocabulary()
    chunk = 500

    def pool(name: str, objects: int, seed: int, **options) -> Pool:
        parts = []
        for first in range(0, objects, chunk):
            count = min(chunk, objects - first)
            parts.append(
                load_or_render(
                    work / f"{name}-{seed}-{first}.pt",
                    lambda first=first, count=count: render_pool(count, words, seed, first=first, **options),
                )
            )
            say(f"{name}: {first + count}/{objects} objects")
        return Pool.concatenated(parts)

    seed = setting.seed
    shown = [pool("train", setting.objects, seed)]
    shown.append(pool("intricate", setting.intricate, seed + 5000, tier_two=0.8))
    if world is not None:
        shown.append(pool_of_world(RenderedWorld(world, WorldSettings()), words))
    return {
        "train": Pool.concatenated(shown),
        "faced": pool("faced", setting.faced, seed + 1000, faces=True),
        "test": pool("test", setting.test_objects, seed + 2000),
        "test_held_out": pool("test_held_out", setting.test_objects, seed + 3000, held_out=True),
        "test_faced": pool("test_faced", setting.test_objects // 2, seed + 4000, faces=True),
    }


def batch_of(data: dict[str, Pool], size: int, streams: Streams) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """One training batch: pictures (B, 3, 64, 64) in [0, 1], labels, and poses."""
    rng = streams.generator("batch")
    faced, spoilt = size // 8, size // 4
    plain = data["train"][torch.randint(len(data["train"]), (size - faced,), generator=rng)]
    many = data["faced"][torch.randint(len(data["faced"]), (faced,), generator=rng)]
    both = Pool.concatenated([plain, many])
    both = both[torch.randperm(size, generator=rng)]  # every sort of picture is as often distorted as not
    images, labels, pose = augment(both.rgba, rng), both.labels, both.pose
    first = size // 2 - spoilt // 2  # half of them plain, half distorted
    for part in range(first, first + spoilt, 4):  # four pictures to a sort keeps every sort frequent
        rows = slice(part, min(part + 4, first + spoilt))
        images[rows] = spoil(images[rows], int(torch.randint(SPOILS, (), generator=rng)), rng)
        for key in labels:
            labels[key][rows] = 0 if key == "clean" else IGNORE
        pose[rows] = math.nan
    return images, labels, pose


def loss_of(out: dict[str, Tensor], labels: dict[str, Tensor], pose: Tensor) -> Tensor:
    """Weighted sum of the heads' cross entropies (rows without a label left out) and the camera's squared error."""
    total = out["pose"].new_zeros(())
    for name, weight in WEIGHTS.items():
        if (labels[name] != IGNORE).any():
            # Bad pictures are rarer than good ones in a batch; they count double.
            balance = out[name].new_tensor([2.0, 1.0]) if name == "clean" else None
            loss = F.cross_entropy(out[name], labels[name], balance, ignore_index=IGNORE)
            total = total + weight * loss
    if (parts := labels["parts"] != IGNORE).any():
        total = total + PARTS_WEIGHT * F.binary_cross_entropy_with_logits(
            out["parts"][parts], labels["parts"][parts].float()
        )
    known = ~pose.isnan().any(1)
    return total + (3 * F.mse_loss(out["pose"][known], pose[known]) if known.any() else 0.0)


def rate_at(step: int, steps: int, warm: int = 250) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to zero."""
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def grown(judge: Judge, words: Vocabulary) -> JudgeNetwork:
    """A network with the heads of ``words`` that starts as a trained judge where both know a word."""
    network = JudgeNetwork(words.head_sizes(), _widths(judge.network))
    mine, theirs = network.state_dict(), judge.network.state_dict()
    same = {k: v for k, v in theirs.items() if mine[k].shape == v.shape}
    old, new = _classes(judge.vocabulary), _classes(words)
    for head in network.heads:
        if head not in judge.network.heads:
            continue
        for index, name in enumerate(new[head]):
            if name in old[head]:
                for part in ("weight", "bias"):
                    mine[f"heads.{head}.{part}"][index] = theirs[f"heads.{head}.{part}"][
                        old[head].index(name)
                    ]
    network.load_state_dict(mine | same)
    return network


def _widths(network: JudgeNetwork) -> tuple[int, int, int, int]:
    found = [m.out_channels for m in network.trunk if isinstance(m, torch.nn.Conv2d)]
    return found[0], found[1], found[2], found[3]


def _classes(words: Vocabulary) -> dict[str, tuple[str, ...]]:
    """The name of every class of every head."""
    return {
        "kind": words.kinds, "color": words.colors, "pattern": ("", *words.patterns),
        "accessory": ("", *words.accessories), "second_kind": ("", *words.kinds), "second_color": ("", *words.colors),
        "view": VIEWS, "clean": ("0", "1"), "parts": words.parts,
    }  # fmt: skip


def train(
    setting: JudgeTraining, work: Path, say=print, world: Path | None = None, start: Judge | None = None
) -> JudgeNetwork:
    """Train to the end (from ``work/last.pt`` if it is there) and return the averaged network.

    Arguments:
        setting: the training.
        work: pools and checkpoints.
        say: told about progress.
        world: see :func:`pools`.
        start: a judge to grow from, whose widths count instead of the setting's; None = from nothing.
    """
    torch.manual_seed(setting.seed)
    data = pools(setting, work, say, world)
    words = vocabulary()
    network = grown(start, words) if start else JudgeNetwork(words.head_sizes(), setting.widths)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=setting.lr, weight_decay=0.02)
    last, step = work / "last.pt", 0
    if last.exists():
        saved = torch.load(last, weights_only=True)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step = int(saved["step"])
        say(f"going on from step {step}")
    network.train()
    begun, first = time.monotonic(), step
    while step < setting.steps:
        images, labels, pose = batch_of(data, setting.batch, Streams(setting.seed, 0, step))
        out = network((images * 2 - 1).contiguous(memory_format=torch.channels_last))
        loss = loss_of(out, labels, pose)
        for group in optimizer.param_groups:
            group["lr"] = setting.lr * rate_at(step, setting.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        step += 1
        keep = min(0.995, step / (step + 10))
        with torch.no_grad():
            for a, b in zip(average.state_dict().values(), network.state_dict().values()):
                a.lerp_(b, 1 - keep) if a.is_floating_point() else a.copy_(b)
        if step % 100 == 0:
            rate = (step - first) * setting.batch / (time.monotonic() - begun)
            say(f"step {step}/{setting.steps} loss {float(loss.detach()):.3f} {rate:.0f} images/s")
        if step % 500 == 0 or step == setting.steps:
            state = {
                "network": network.state_dict(), "average": average.state_dict(), "step": step,
                "optimizer": optimizer.state_dict(),
            }  # fmt: skip
            torch.save(state, last.with_suffix(".part"))
            last.with_suffix(".part").replace(last)
    return average


@torch.no_grad()
def _outputs(network: JudgeNetwork, images: Tensor) -> dict[str, Tensor]:
    network.eval()
    parts = [network((x * 2 - 1).contiguous(memory_format=torch.channels_last)) for x in images.split(128)]
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def calibrate(network: JudgeNetwork, pool: Pool, faced: Pool, seed: int) -> dict[str, float]:
    """One temperature per head, the one that makes augmented unseen pictures most likely (never below 1)."""
    rng = Streams(seed).generator("calibrate")
    both = Pool.concatenated([pool, faced])
    both = both[torch.randperm(len(both), generator=rng)]
    logits = _outputs(network, augment(both.rgba, rng))
    found = {}
    for name in WEIGHTS:
        label = both.labels[name]
        known = label != IGNORE
        grid = torch.logspace(0, 0.7, 29)
        losses = [float(F.cross_entropy(logits[name][known] / t, label[known])) for t in grid]
        found[name] = round(float(grid[min(range(len(grid)), key=losses.__getitem__)]), 3)
    return found


def measure(judge: Judge, data: dict[str, Pool], seed: int) -> dict[str, float | int]:
    """Accuracy on unseen ground truth: new objects of trained combinations, and of combinations never trained on."""
    figures: dict[str, float | int] = {}
    rng = Streams(seed).generator("measure")
    for name in ("test", "test_held_out"):
        pool = data[name]
        out = _outputs(judge.network, composite(pool.rgba, torch.ones(len(pool), 3)))
        absent = {h: pool.labels[h] == 0 for h in ("pattern", "accessory", "second_kind")}
        plain = absent["pattern"] & absent["accessory"] & absent["second_kind"]
        # In "A next to B" seen from behind nobody can say which is the first: pairs are not in the main figures.
        asked = {"": absent["second_kind"], "plain/": plain, "pairs/": ~absent["second_kind"]}
        asked |= {"patterned/": ~absent["pattern"], "dressed/": ~absent["accessory"]}
        for group, rows in asked.items():
            for head in WEIGHTS:
                known = rows & (pool.labels[head] != IGNORE)
                if known.any():
                    right = (out[head].argmax(1) == pool.labels[head])[known].float()
                    figures[f"{name}/{group}{head}"] = round(float(right.mean()), 4)
        view = pool.labels["view"]
        azimuth = torch.atan2(pool.pose[:, 0], pool.pose[:, 1])
        above = (pool.pose[:, 2] - OVERHEAD_LIMIT).abs()
        edge = torch.minimum((azimuth.abs() - FRONT_LIMIT).abs(), (azimuth.abs() - BACK_LIMIT).abs())
        edge = torch.where(view == VIEWS.index("overhead"), above, torch.minimum(edge, above))
        inner = (view != IGNORE) & (edge > math.radians(5))
        right = (out["view"].argmax(1) == view)[inner].float()
        figures[f"{name}/view_5_deg_off_borders"] = round(float(right.mean()), 4)
        error = (torch.atan2(out["pose"][:, 0], out["pose"][:, 1]) - azimuth + math.pi) % (
            2 * math.pi
        ) - math.pi
        error = error[~pool.pose.isnan().any(1)].abs()
        figures[f"{name}/azimuth_median_error_deg"] = round(math.degrees(float(error.median())), 2)
        figures[f"{name}/azimuth_within_30_deg"] = round(float((error < math.radians(30)).float().mean()), 4)
        figures[f"{name}/pictures"] = len(pool)
        shown, told = pool.labels["parts"], out["parts"] > 0
        for index, part in enumerate(judge.vocabulary.parts):
            there, absent_ = shown[:, index] == 1, shown[:, index] == 0
            if there.any():
                figures[f"{name}/parts/{part}/seen"] = round(float(told[there, index].float().mean()), 4)
                figures[f"{name}/parts/{part}/invented"] = round(
                    float(told[absent_, index].float().mean()), 4
                )
    some = data["test"][torch.randperm(len(data["test"]), generator=rng)[:400]]
    clean = composite(some.rgba, torch.ones(len(some), 3))
    rejected = []
    for sort in range(SPOILS):
        out = _outputs(judge.network, torch.cat([spoil(x, sort, rng) for x in clean.split(4)]))
        rejected.append((out["clean"].argmax(1) == 0).float())
        figures[f"rejects/spoilt_{sort}"] = round(float(rejected[-1].mean()), 4)
    figures["rejects/spoilt"] = round(float(torch.cat(rejected).mean()), 4)
    faced = data["test_faced"]
    out = _outputs(judge.network, composite(faced.rgba, torch.ones(len(faced), 3)))
    known = faced.labels["clean"] == 0
    figures["rejects/many_faces"] = round(float((out["clean"].argmax(1) == 0)[known].float().mean()), 4)
    second = faced.labels["view"] == VIEWS.index("front")
    figures["many_faces/front_seen"] = round(float((out["view"].argmax(1) == 0)[second].float().mean()), 4)
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(prog="python -m threedistill.toybox.train_judge", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for pools and checkpoints")
    parser.add_argument(
        "--out", type=Path, default=assets_dir() / "toybox" / "judge", help="where the judge is"
    )
    parser.add_argument("--world", type=Path, help="the prior's rendered world, to learn from as well")
    parser.add_argument("--evaluate", action="store_true", help="measure the judge in --out, train nothing")
    parser.add_argument(
        "--start", type=Path, help="a judge to grow from: a head start where both know a word"
    )
    parser.add_argument("--lr", type=float, default=JudgeTraining.lr)
    parser.add_argument("--steps", type=int, default=JudgeTraining.steps)
    parser.add_argument("--objects", type=int, default=JudgeTraining.objects)
    parser.add_argument("--intricate", type=int, default=JudgeTraining.intricate)
    parser.add_argument("--faced", type=int, default=JudgeTraining.faced)
    parser.add_argument("--seed", type=int, default=JudgeTraining.seed)
    given = parser.parse_args(arguments)
    setting = JudgeTraining(
        steps=given.steps,
        objects=given.objects,
        intricate=given.intricate,
        faced=given.faced,
        seed=given.seed,
        lr=given.lr,
    )
    given.work.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        print(line, flush=True)

    if given.evaluate:
        print(
            json.dumps(
                measure(Judge.load(given.out), pools(setting, given.work, say), setting.seed), indent=1
            )
        )
        return
    start = Judge.load(given.start) if given.start else None
    network = train(setting, given.work, say, given.world, start)
    data = pools(setting, given.work, lambda line: None)
    judge = Judge(network, vocabulary(), {}, VERSION)
    judge.save(given.out)
    judge = Judge.load(given.out)  # float16 and back: what is measured is what is shipped
    judge.temperatures = calibrate(judge.network, data["test"], data["test_faced"], setting.seed)
    figures = measure(judge, data, setting.seed)
    facts = asdict(setting) | {
        "world": asdict(WorldSettings()) if given.world else None,
        "grown_from": start.version if start else None,
    }
    judge.save(given.out, {"training": facts, "figures": figures})
    print(json.dumps({"temperatures": judge.temperatures, **figures}, indent=1))


if __name__ == "__main__":
    main()
