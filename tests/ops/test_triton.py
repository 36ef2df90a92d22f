"""Our Triton kernels against the torch twins: compiled where there is a GPU, else in Triton's interpreter."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from threedistill import ops
from threedistill.ops.composite import composite_reference
from threedistill.ops.hash_encode import HashLayout, hash_encode_reference
from threedistill.ops.march import Samples

pytest.importorskip("triton", reason="Triton has no wheel for this platform, or is not installed")
pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def kernels(name):
    """The module as it is: the hook that checks shapes would wrap the functions that Triton reads the source of."""
    path = Path(ops.__file__).parent / "triton" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"kernels_of_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


composite_op, hash_op = kernels("composite"), kernels("hash_encode")


def gradients(outputs, inputs):
    generator = torch.Generator().manual_seed(5)
    seeds = [torch.randn(part.shape, generator=generator).to(DEVICE) for part in outputs]
    return torch.autograd.grad(outputs, inputs, seeds)


@pytest.mark.parametrize("thickest", [2.0, 4000.0])
def test_compositing_equals_its_twin(agree, thickest):
    """Rays of none, one, a block less and more one, several blocks; the last samples behind opaque ones."""
    counts = torch.tensor([3, 0, 1, 31, 32, 33, 70, 0])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(DEVICE)
    generator = torch.Generator().manual_seed(0)
    density, step, start = (torch.rand(170, generator=generator).to(DEVICE) for _ in range(3))
    density = (thickest * density**4).requires_grad_()
    rgb = torch.rand(170, 3, generator=generator).to(DEVICE).requires_grad_()
    start, end = 1 + start, 1 + start + 0.01 + 0.1 * step
    found = composite_op.composite(density, rgb, start, end, offsets)
    twin = composite_reference(density, rgb, Samples(offsets, start, end, offsets))
    for a, b in zip(found, twin):
        agree(a, b)
    for a, b in zip(gradients(found, (density, rgb)), gradients(twin, (density, rgb))):
        agree(a, b)


@pytest.mark.parametrize(("features", "active"), [(2, 0), (4, 2), (1, 4), (2, 4)])
def test_hash_encoding_equals_its_twin(agree, features, active):
    """Dense and hashed levels, points outside the cube and on its faces, levels that are off."""
    layout = HashLayout(4, features, 8, 4, 40)
    assert [layout.hashed(level) for level in range(4)] == [False, True, True, True]
    generator = torch.Generator().manual_seed(1)
    x = 1.2 * torch.rand(140, 3, generator=generator) - 0.1
    x[0], x[1] = 0, 1
    x = x.to(DEVICE).requires_grad_()
    table = torch.randn(layout.entries, features, generator=generator).to(DEVICE).requires_grad_()
    found = hash_op.hash_encode(x, table, layout, active)
    twin = hash_encode_reference(x, table, layout, active)
    agree(found, twin)
    if active == 0:
        assert not found.any()
        return
    grad_x, grad_table = gradients([found], (x, table))
    want_x, want_table = gradients([twin], (x, table))
    agree(grad_table, want_table)
    torch.testing.assert_close(grad_x, want_x, rtol=1e-4, atol=1e-3)  # slopes up to 40 x the table's values


def test_a_point_that_is_no_number_reads_inside_the_table():
    layout = HashLayout(2, 2, 8, 4, 40)
    table = torch.ones(layout.entries, 2, device=DEVICE)
    x = torch.tensor([[torch.nan, 0.5, 0.5], [0.5, 0.5, 0.5]], device=DEVICE)
    found = hash_op.hash_encode(x, table, layout, 2)
    assert found[0].isnan().all() and torch.allclose(found[1], torch.ones_like(found[1]))
