"""What a picture costs the 128-pixel prior, in training and asked: processor time of one thread per picture.

    python benchmarks/teacher.py [--batch 16] [--repeats 3] [--unet] [--compile]

Prints parameters, forward GFLOP (products only, 2 per multiply-add), milliseconds of processor time per picture of a
training step in bfloat16 and float32 and of an answer in both, for the trunk as it is and for other divisions of its
blocks; then the sketch's, and what drawing and colouring training pictures costs. ``--unet`` adds the 64-pixel prior,
``--compile`` the trunk's training step through ``torch.compile``, as ``threedistill toybox train --compile`` takes it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

#: Divisions of about the same cost: (blocks at 16 x 16 before and after, blocks at 8 x 8).
TRUNKS = {"1 + 3 + 1": (1, 3), "0 + 5 + 0": (0, 5), "1 + 4 + 1": (1, 4), "3 + 0 + 3": (3, 0)}


def spent(work: Callable[[], object], repeats: int) -> float:
    """Least processor time of some calls, seconds, after one that warms up."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def cost(network: torch.nn.Module, inputs: dict[str, torch.Tensor], batch: int, repeats: int) -> str:
    """One line about one network."""
    torch.nn.Module.to(network, memory_format=torch.channels_last)
    parameters = dict(network.named_parameters())

    def ask(dtype: torch.dtype):
        return functional_call(network, {k: p.to(dtype) for k, p in parameters.items()}, kwargs=inputs)[0]

    def train(dtype: torch.dtype) -> None:
        ask(dtype).float().square().mean().backward()

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ask(torch.float32)
    out = [f"{sum(p.numel() for p in parameters.values()) / 1e6:6.2f} M"]
    out.append(f"{counter.get_total_flops() / batch / 1e9:6.2f} GFLOP")
    for dtype in (torch.bfloat16, torch.float32):
        out.append(f"{1e3 * spent(lambda d=dtype: train(d), repeats) / batch:7.1f}")
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float32):
            out.append(f"{1e3 * spent(lambda d=dtype: ask(d), repeats) / batch:7.1f}")
    return " ".join(out)


def compiled(network: torch.nn.Module, inputs: dict[str, torch.Tensor], batch: int, repeats: int) -> float:
    """Milliseconds a picture of a training step in bfloat16 through ``torch.compile``."""
    torch.nn.Module.to(network, memory_format=torch.channels_last)
    parameters = dict(network.named_parameters())

    @torch.compile(dynamic=False)
    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        half = {k: p.to(torch.bfloat16) for k, p in weights.items()}
        return functional_call(network, half, kwargs=inputs)[0].float().square().mean()

    return 1e3 * spent(lambda: loss(parameters).backward(), repeats) / batch


def main() -> None:
    """Print the table."""
    from threedistill.cameras import camera_vectors, orbit
    from threedistill.toybox.coloured_world import ColouredWorld
    from threedistill.toybox.dataset import DrawSettings
    from threedistill.toybox.gbuffers import BufferSettings
    from threedistill.toybox.sketch import SplatSketch
    from threedistill.toybox.trunk import ToyboxTransformer

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--unet", action="store_true")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = given.batch
    print(f"{'':14s}{'weights':>8s} {'forward':>12s}   ms a picture: train bf16, fp32; ask bf16, fp32")
    inputs = {
        "sample": torch.randn(size, 48, 32, 32), "timestep": torch.rand(size) * 999,
        "encoder_hidden_states": torch.randn(size, 24, 128), "class_labels": torch.randn(size, 1042),
        "sketch": torch.randn(size, 16, 32, 32),
    }  # fmt: skip
    for name, (outer, depth) in TRUNKS.items():
        network = ToyboxTransformer(outer=outer, depth=depth)
        print(f"{name:14s}{cost(network, inputs, size, given.repeats)}", flush=True)
    if given.compile:
        print(
            f"the trunk's training step, compiled: {compiled(ToyboxTransformer(), inputs, size, given.repeats):.1f} ms"
        )
    if given.unet:
        from threedistill.toybox.model import ToyboxPipeline

        unet = ToyboxPipeline.create().unet
        asked = {
            "sample": torch.randn(size, 48, 16, 16), "timestep": torch.randint(0, 1000, (size,)),
            "encoder_hidden_states": torch.randn(size, 22, 128), "class_labels": torch.randn(size, 146),
            "sketch": torch.randn(size, 64, 16, 16),
        }  # fmt: skip
        print(f"{'64-pixel UNet':14s}{cost(unet, asked, size, given.repeats)}", flush=True)
    sketch, many = SplatSketch(), 64
    parameters = dict(sketch.named_parameters())
    told, camera = torch.randn(many, 1024), camera_vectors(orbit(many), many)

    def step() -> None:
        half = {k: p.to(torch.bfloat16) for k, p in parameters.items()}
        functional_call(sketch, half, (told.bfloat16(), camera)).square().mean().backward()

    print(f"sketch, training without its reader: {1e3 * spent(step, given.repeats) / many:.1f} ms a picture")
    with tempfile.TemporaryDirectory() as folder:
        settings = BufferSettings(shards=1, scenes=16)
        world = ColouredWorld(folder, settings)
        start = time.process_time()
        world.need(1)
        drawn = (time.process_time() - start) / (settings.scenes * settings.views)
        print(f"G-buffers: {1e3 * drawn:.1f} ms a picture, drawn once")
        for name, more in (
            ("128 pixels", {}),
            ("64 pixels", {"pixels": 64}),
            ("with two views", {"references": 2}),
        ):
            taken = spent(lambda more=more: world.batch(32, DrawSettings(), 0, 1, 1, **more), given.repeats)
            print(f"coloured, {name}: {1e3 * taken / 32:.1f} ms a picture")


if __name__ == "__main__":
    main()
