"""The hash encoding against its definition, its twin, gradients by differences, and tiny-cuda-nn's layout."""

from __future__ import annotations

import pytest
import torch

from tests.oracles.hash_encode import encode, level_table
from threedistill.ops.hash_encode import (
    HashLayout,
    _fields,
    _hash_encode,
    _hash_encode_backward,
    _reference_backward,
    hash_encode,
    hash_encode_reference,
)

SMALL = HashLayout(levels=4, features=2, log2_entries=8, base_resolution=3, finest_resolution=21)


def inputs(layout=SMALL, points=150, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, 3, generator=generator, dtype=dtype)
    table = torch.randn(layout.entries, layout.features, generator=generator, dtype=dtype)
    return x, table


def test_layout_is_that_of_tiny_cuda_nn():
    layout = HashLayout(levels=16, features=2, log2_entries=19, base_resolution=16, finest_resolution=2048)
    # 16 x 1.3819^l: the dense levels hold 16^3, 23^3 -> next 8, 31^3, ..., the others 2^19.
    assert layout.resolutions[:5] == (16, 23, 31, 43, 59) and layout.resolutions[-1] == 2048
    sizes = [b - a for a, b in zip(layout.offsets, layout.offsets[1:])]
    assert sizes[:5] == [4096, 12168, 29792, 79512, 205384] and set(sizes[5:]) == {2**19}
    assert layout.entries == 330_952 + 11 * 2**19
    assert [layout.hashed(level) for level in (4, 5)] == [False, True]


@pytest.mark.parametrize(
    "layout",
    [SMALL, HashLayout(1, 1, 6, 4, 4), HashLayout(3, 4, 10, 2, 40), HashLayout(2, 8, 5, 2, 7)],
    ids=["2", "1", "4", "8"],
)
def test_equals_the_definition(layout):
    x, table = inputs(layout, points=40)
    x[0], x[1], x[2] = 0, 1, torch.tensor([-0.3, 0.5, 1.7])
    fields = (layout.levels, layout.features, *_fields(layout)[2:])
    expected = torch.tensor(encode(x.tolist(), table.tolist(), *fields), dtype=torch.float64)
    assert [layout.resolutions[level] for level in range(layout.levels)] == [
        row[1] for row in level_table(fields[0], *fields[2:])
    ]
    torch.testing.assert_close(hash_encode(x, table, layout), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("points", [1, 63, 64, 2049])
def test_equals_its_twin(features, points, dtype, agree):
    layout = HashLayout(5, features, 9, 4, 50)
    x, table = (t.requires_grad_() for t in inputs(layout, points, dtype))
    grad = torch.randn(points, layout.width, dtype=dtype, generator=torch.Generator().manual_seed(2))
    out, twin = hash_encode(x, table, layout, 4), hash_encode_reference(x, table, layout, 4)
    agree(out, twin)
    expected = torch.autograd.grad(twin, (x, table), grad)
    for got, want in zip(torch.autograd.grad(out, (x, table), grad), expected):
        agree(got / (1 + want.abs().max()), want / (1 + want.abs().max()))
    fallback = _reference_backward(grad, x.detach(), table.detach(), layout, 4, True, True)
    for got, want in zip(fallback, expected):
        agree(got / (1 + want.abs().max()), want / (1 + want.abs().max()))


def test_more_points_than_are_held_at_a_time():
    x, table = (t.requires_grad_() for t in inputs(points=140_000))
    grad = torch.randn(140_000, SMALL.width, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    out = hash_encode(x, table, SMALL, 3)
    to_x, to_table = torch.autograd.grad(out, (x, table), grad)
    parts = [slice(0, 70_000), slice(70_000, None)]
    split = [hash_encode(x[part], table, SMALL, 3) for part in parts]
    grads = [torch.autograd.grad(half, (x, table), grad[part]) for half, part in zip(split, parts)]
    expected = [torch.cat(split), *(first + second for first, second in zip(*grads))]
    for got, want in zip((out, to_x, to_table), expected):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_gradients_by_differences():
    x, table = inputs(points=5, seed=7)
    x = 0.05 + 0.9 * x
    cell = x[:, None] * torch.tensor(SMALL.scales)[None, :, None] + 0.5
    assert ((cell - cell.round()).abs() > 1e-4).all()  # the differences do not step across a cell
    assert torch.autograd.gradcheck(
        lambda x, table: hash_encode(x, table, SMALL, 3),
        (x.requires_grad_(), table.requires_grad_()),
        fast_mode=True,
    )
    assert torch.autograd.gradcheck(lambda x: hash_encode(x, table.detach(), SMALL), (x,))


def test_inactive_levels_are_zero_and_get_no_gradient():
    x, table = inputs()
    table.requires_grad_()
    out = hash_encode(x, table, SMALL, active_levels=2)
    assert torch.equal(out[:, :4], hash_encode(x, table, SMALL)[:, :4])
    assert (out[:, 4:] == 0).all()
    out.sum().backward()
    assert table.grad is not None and (table.grad[SMALL.offsets[2] :] == 0).all()
    nothing = hash_encode(x, table, SMALL, 0)
    assert (nothing == 0).all()
    assert (torch.autograd.grad(nothing.sum(), table)[0] == 0).all()


def test_reproduces_a_linear_function_on_dense_levels():
    layout = HashLayout(1, 1, 12, 9, 9)
    vertex = torch.arange(9**3)
    place = torch.stack([vertex % 9, vertex // 9 % 9, vertex // 81], 1).double()
    table = torch.zeros(layout.entries, 1, dtype=torch.float64)
    table[: 9**3, 0] = place @ torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    x = (torch.rand(50, 3, dtype=torch.float64) * 7.4 / 8).requires_grad_()
    out = hash_encode(x, table, layout)
    expected = ((x * 8 + 0.5) @ torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))[:, None]
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([8.0, 80.0, 800.0], dtype=torch.float64).expand(50, 3))


def test_weights_of_a_point_sum_to_one():
    x, _ = inputs(points=500)
    x[:8] = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], dtype=torch.float64)
    out = hash_encode(x, torch.ones(SMALL.entries, 2, dtype=torch.float64), SMALL)
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=1e-12)


def test_clamped_points_get_no_gradient_where_clamped():
    x = torch.tensor([[-0.5, 0.3, 1.5], [0.0, 0.4, 1.0]], dtype=torch.float64, requires_grad=True)
    _, table = inputs()
    hash_encode(x, table, SMALL).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, torch.tensor([[True, False, True], [False, False, False]]))


def test_no_points(dtype):
    x, table = inputs(points=0, dtype=dtype)
    out = hash_encode(x.requires_grad_(), table.requires_grad_(), SMALL)
    assert out.shape == (0, SMALL.width)
    out.sum().backward()
    assert x.grad is not None and x.grad.shape == (0, 3)
    assert table.grad is not None and (table.grad == 0).all()


def test_not_a_number_stays_visible():
    x, table = inputs(points=3)
    x[1, 2] = torch.nan
    out = hash_encode(x, table, SMALL)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


def test_strided_inputs():
    x, table = inputs(points=70)
    wide = torch.cat([x, x], 1)[:, 3:]
    assert not wide.is_contiguous()
    assert torch.equal(hash_encode(wide, table.T.contiguous().T, SMALL), hash_encode(x, table, SMALL))


def test_thread_count_does_not_matter(on_threads):
    x, table = inputs(points=5000, dtype=torch.float32)

    def run():
        a, b = x.clone().requires_grad_(), table.clone().requires_grad_()
        out = hash_encode(a, b, SMALL)
        return out.detach(), *torch.autograd.grad(out.square().sum(), (a, b))

    on_threads(run)


def test_opcheck():
    x, table = (t.requires_grad_() for t in inputs(points=9))
    torch.library.opcheck(_hash_encode, (x, table, *_fields(SMALL), 3))
    grad = torch.ones(9, SMALL.width, dtype=torch.float64)
    for needs in [(True, True), (False, True), (True, False)]:
        torch.library.opcheck(
            _hash_encode_backward, (grad, x.detach(), table.detach(), *_fields(SMALL), 3, *needs)
        )


@pytest.mark.misuse
def test_errors():
    x, table = inputs()
    with pytest.raises(ValueError, match=r"hash_encode: x must be \(N, 3\) floating point, got \(150, 2\)"):
        hash_encode(x[:, :2], table, SMALL)
    with pytest.raises(
        ValueError, match=rf"table must be \({SMALL.entries}, 2\) torch.float64, got \(5, 2\)"
    ):
        hash_encode(x, table[:5], SMALL)
    with pytest.raises(ValueError, match=r"table must be .* torch.float64, got .* torch.float32"):
        hash_encode(x, table.float(), SMALL)
    with pytest.raises(ValueError, match=r"active_levels must be 0..4, got 5"):
        hash_encode(x, table, SMALL, 5)
    for wrong, text in [
        ({"levels": 0}, "levels must be at least 1"),
        ({"features": 3}, "features must be 1, 2, 4 or 8"),
        ({"log2_entries": 40}, "log2_entries must be 3..28"),
        ({"base_resolution": 1}, "base_resolution must be at least 2"),
        ({"finest_resolution": 4}, "finest_resolution must be base_resolution"),
    ]:
        with pytest.raises(ValueError, match=text):
            HashLayout(**wrong)
