"""Who computes: the rule, the dispatcher, and the CUDA libraries' adapters against stand-ins with their interfaces."""

import contextlib
import importlib
import types

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from threedistill.cameras import orbit
from threedistill.ops import _cuda
from threedistill.ops.composite import composite
from threedistill.ops.hash_encode import HashLayout, hash_encode
from threedistill.ops.march import Samples, march
from threedistill.ops.splat import splat

hash_op, composite_op, march_op, splat_op = (
    importlib.import_module(f"threedistill.ops.{name}")
    for name in ("hash_encode", "composite", "march", "splat")
)

LAYOUT = HashLayout(levels=4, features=2, log2_entries=8, base_resolution=4, finest_resolution=16)


class Encoding(nn.Module):
    """tinycudann.Encoding: owns one flat parameter vector, takes (N, 3), returns (N, L F)."""

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        assert n_input_dims == 3 and dtype == torch.float32
        self.config = encoding_config
        self.params = nn.Parameter(torch.zeros(LAYOUT.entries * LAYOUT.features))

    def forward(self, x):
        return hash_encode(x, self.params.view(-1, 2), LAYOUT)


def traverse_grids(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle):
    """nerfacc.grid.traverse_grids for one level: steps on a lattice that begins at each ray's near plane."""
    assert binaries.shape[0] == aabbs.shape[0] == 1 and cone_angle == 0.0
    size, bound = binaries.shape[1], float(aabbs[0, 3])
    starts, rays, counts = [], [], []
    for r in range(len(rays_o)):
        t = near_planes[r] + torch.arange(0, 400) * step_size
        p = rays_o[r] + rays_d[r] * (t + step_size / 2)[:, None]
        cell = ((p + bound) / (2 * bound) * size).long()
        inside = ((cell >= 0) & (cell < size)).all(-1)
        cell = cell.clamp(0, size - 1)
        hit = inside & binaries[0][cell[:, 0], cell[:, 1], cell[:, 2]] & (p.abs() <= bound).all(-1)
        starts.append(t[hit])
        rays += [r] * int(hit.sum())
        counts.append(int(hit.sum()))
    start = torch.cat(starts)
    # Intervals list both ends of every segment, as nerfacc does where segments do not touch.
    intervals = types.SimpleNamespace(
        vals=torch.stack([start, start + step_size], 1).flatten(),
        is_left=torch.tensor([True, False]).repeat(len(start)),
        is_right=torch.tensor([False, True]).repeat(len(start)),
    )
    counted = torch.tensor(counts)
    packed = torch.stack([counted.cumsum(0) - counted, counted], 1)
    return intervals, types.SimpleNamespace(ray_indices=torch.tensor(rays), packed_info=packed), None


def render_weight_from_density(t_starts, t_ends, sigmas, packed_info=None, ray_indices=None, n_rays=None):
    weights, through = [], {}
    for s, e, sigma, r in zip(t_starts, t_ends, sigmas, ray_indices.tolist()):
        alpha = 1 - torch.exp(-sigma * (e - s))
        weights.append(through.get(r, 1.0) * alpha)
        through[r] = through.get(r, 1.0) * (1 - alpha)
    return torch.stack(weights), None, None


def accumulate_along_rays(weights, values=None, ray_indices=None, n_rays=None):
    source = weights[:, None] if values is None else weights[:, None] * values
    return source.new_zeros(n_rays, source.shape[1]).index_add(0, ray_indices, source)


NERFACC = types.SimpleNamespace(
    grid=types.SimpleNamespace(traverse_grids=traverse_grids),
    render_weight_from_density=render_weight_from_density,
    accumulate_along_rays=accumulate_along_rays,
)


@pytest.fixture
def libraries(monkeypatch):
    """Both libraries "installed", for CPU tensors that are handed to the adapters."""
    for module in (composite_op, march_op):
        monkeypatch.setattr(module, "cuda_library", lambda name, tensor: NERFACC)
    monkeypatch.setattr(hash_op, "cuda_library", lambda name, tensor: object())
    monkeypatch.setattr(hash_op, "_tinycudann", lambda layout, device: Encoding(3, {}, dtype=torch.float32))


def rays():
    origins, directions = orbit(1, elevation=17, size=8).rays()
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def test_the_cpu_never_asks_for_cuda_libraries(monkeypatch):
    def refuse(name):
        raise AssertionError(name)

    monkeypatch.setattr(_cuda, "_importable", refuse)
    table = torch.randn(LAYOUT.entries, 2)
    hash_encode(torch.rand(5, 3), table, LAYOUT)
    march(*rays(), torch.ones(4, 4, 4, dtype=torch.bool), 1.0, 0.1, None)


def test_the_rule_asks_device_type_environment_and_presence(monkeypatch):
    asked = []
    monkeypatch.setattr(_cuda, "_importable", lambda name: asked.append(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("THREEDISTILL_OPS", raising=False)
    single = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    double = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float64)
    assert _cuda.cuda_library("nerfacc", single) is None and asked == ["nerfacc"]
    assert _cuda.cuda_library("nerfacc", double) is None and asked == ["nerfacc"]
    monkeypatch.setenv("THREEDISTILL_OPS", "reference")
    assert _cuda.cuda_library("nerfacc", single) is None and asked == ["nerfacc"]


class Reached(Exception):
    """An adapter asked for this library."""


def test_cuda_tensors_reach_the_adapter_of_every_operator_through_the_dispatcher(monkeypatch):
    """On tensors that only say that they are on a GPU, from the public functions."""

    def library(name, tensor):
        raise Reached(name, tensor.device.type)

    for module in (hash_op, composite_op, march_op, splat_op):
        monkeypatch.setattr(module, "cuda_library", library)

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="cuda")

    with FakeTensorMode():
        rows, one, table = empty(6, 3), empty(6), empty(LAYOUT.entries, 2)
        pairs, triples, singles = empty(2, 6, 2), empty(2, 6, 3), empty(2, 6)
        offsets, occupied = empty(3, dtype=torch.int64), empty(4, 4, 4, dtype=torch.bool)
        for name, call in {
            "tinycudann": lambda: hash_encode(rows, table, LAYOUT),
            "nerfacc": lambda: march(rows, rows, occupied, 1.0, 0.1),
            "nerfacc ": lambda: composite(one, rows, Samples(offsets, one, one, offsets)),
            "gsplat": lambda: splat(pairs, triples, singles, triples, singles, 8, 9),
        }.items():
            with pytest.raises(Reached) as reached:
                call()
            assert reached.value.args == (name.strip(), "cuda")

        def triton_only(name, tensor):
            return library(name, tensor) if "triton" in name else None

        for module in (hash_op, composite_op):
            monkeypatch.setattr(module, "cuda_library", triton_only)
        for name, call in {
            "hash_encode": lambda: hash_encode(rows, table, LAYOUT),
            "composite": lambda: composite(one, rows, Samples(offsets, one, one, offsets)),
        }.items():
            with pytest.raises(Reached) as reached:
                call()
            assert reached.value.args == (f"threedistill.ops.triton.{name}", "cuda")


def test_the_library_trains_the_fields_own_table(libraries):
    x = torch.rand(50, 3)
    ours = torch.randn(LAYOUT.entries, 2, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    for levels in (None, 2):
        expected = hash_encode(x, ours, LAYOUT, levels)
        active = LAYOUT.levels if levels is None else levels
        found = hash_op._on_cuda(x, theirs, *hash_op._fields(LAYOUT), active)
        assert torch.allclose(expected, found, atol=1e-6)
        (expected**2).sum().backward()
        (found**2).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)


def test_the_librarys_configuration_gives_our_level_sizes(monkeypatch):
    made = {}

    def encoding(n, config, dtype):
        made.update(config)
        return nn.Identity()

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(
        hash_op.importlib, "import_module", lambda name: types.SimpleNamespace(Encoding=encoding)
    )
    hash_op._tinycudann.__wrapped__(LAYOUT, torch.device("cpu"))
    for level, resolution in enumerate(LAYOUT.resolutions):
        scale = made["base_resolution"] * made["per_level_scale"] ** level - 1
        assert -1e-4 < resolution - 1 - scale < 1
    assert made["n_levels"] == 4 and made["n_features_per_level"] == 2 and made["log2_hashmap_size"] == 8


def test_nerfacc_marches_the_same_space_and_composites_the_same_image(libraries, monkeypatch):
    origins, directions = rays()
    occupied = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.6
    jitter = torch.rand(len(origins), generator=torch.Generator().manual_seed(1))
    ours = march(origins, directions, occupied, 1.0, 0.05, jitter)
    theirs = Samples(*march_op._on_cuda(origins, directions, occupied, jitter, 1.0, 0.05, 0.0, None))
    assert int(theirs.offsets[-1]) == len(theirs.ray) and bool((theirs.ray.diff() >= 0).all())
    # The lattices start elsewhere (box entry, near plane), so lengths agree up to a step per crossing.
    lengths = [torch.zeros(len(origins)).index_add(0, s.ray, s.end - s.start) for s in (ours, theirs)]
    assert float((lengths[0] - lengths[1]).abs().mean()) < 0.05

    density = torch.rand(len(theirs.ray)) * 5
    rgb = torch.rand(len(theirs.ray), 3)
    found = composite_op._on_cuda(density, rgb, theirs.start, theirs.end, theirs.offsets)
    for a, b in zip(found, composite(density, rgb, theirs)):
        assert torch.allclose(a, b, atol=1e-5)
