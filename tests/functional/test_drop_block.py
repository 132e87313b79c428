"""DropBlock: blocks by the mask law, the rate that was asked for, right scales, one set of bits, right gradients."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normdrop import MaskStream, _reference, functional
from normdrop.functional._drop_block_rate import seeds_of

from ..conftest import WITHOUT_JIT
from ..gradcheck import check_pass

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_drop_block.json").read_text())
KEY, CALL = (3, 4), 5
SHAPES = [
    ((3, 4, 20), 6, 1),
    ((2, 3, 9, 11), (3, 4), 1),
    ((2, 9, 11, 3), (3, 4), -1),
    ((3, 2, 9, 11), 4, 0),
    ((2, 3, 4, 6, 5), (2, 3, 1), 1),
    ((2, 4, 6, 5, 3), (2, 1, 3), -1),
    ((2, 3, 5, 6), 1, 1),
    ((5, 2, 4, 3), 9, 1),
]


# As launchers see them: shape (outer, three sides of a map, inner), blocks.
LARGE: Any = [((300, 1, 8, 8, 1), (1, 7, 8)), ((40, 12, 7, 1, 33), (5, 3, 1)), ((2, 3, 90, 70, 1), (2, 9, 8))]
DIVIDED: Any = [((3, 40, 23, 26, 1), (2, 3, 4)), ((350, 1, 14, 14, 1), (1, 7, 7)), ((2, 300, 40, 1, 3), (5, 7, 1))]


def stream(call: int = CALL) -> MaskStream:
    return MaskStream.from_key(KEY, call)


def normal(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.5, 2.0, shape).astype(dtype)


def mask_by(backend: Any, shape: Any, blocks: Any, threshold: int, call: int = CALL) -> tuple[bytes, int]:
    mask, n_kept = np.empty(shape, np.bool_), np.full(1, -1)
    backend.keep_blocks(mask, n_kept, blocks, KEY, call, threshold)
    assert n_kept[0] == np.count_nonzero(mask)
    return mask.tobytes(), int(n_kept[0])


def assert_drops(
    backend: Any, x: Any, blocks: Any, threshold: int, scale: float | None = None, oracle: Any = _reference
) -> None:
    mask, n_kept, y, expected = np.empty(x.shape, np.bool_), np.full(1, -1), np.empty_like(x), np.empty_like(x)
    oracle.keep_blocks(mask, n_kept, blocks, KEY, CALL, threshold)
    n = int(n_kept[0])
    factor = scale or (x.size / n if n else 0.0)
    _reference.apply_mask(expected.reshape(1, 1, -1), x.reshape(1, 1, -1), mask.reshape(1, -1), factor)
    n_kept.fill(-1)
    backend.drop_blocks(y, x, n_kept, blocks, KEY, CALL, threshold, scale)
    assert n_kept[0] == n
    np.testing.assert_array_equal(y, expected)
    assert not np.signbit(y[~mask]).any()


@pytest.mark.kinds
@pytest.mark.simulated
@pytest.mark.parametrize("row", range(len(GOLDEN["masks"])))
def test_masks_are_those_of_the_law_in_plain_integers(backend: Any, row: int) -> None:
    golden = GOLDEN["masks"][row]
    mask, n_kept = np.empty(golden["shape"], np.bool_), np.zeros(1, np.int64)
    backend.keep_blocks(mask, n_kept, tuple(golden["blocks"]), tuple(golden["key"]), golden["call"], golden["T"])
    kept = int(golden["kept"], 16)
    np.testing.assert_array_equal(mask.ravel(), [kept >> i & 1 for i in range(mask.size)])
    assert n_kept[0] == kept.bit_count()


@pytest.mark.parametrize("row", range(len(GOLDEN["rates"])))
def test_rates_are_those_of_fractions(row: int) -> None:
    golden = GOLDEN["rates"][row]
    for rate in ("exact", "paper"):
        threshold, share = golden[rate]
        found = functional.drop_block_rate(tuple(golden["sides"]), golden["p"], tuple(golden["blocks"]), rate=rate)
        assert found.gamma == threshold / 2.0**32
        assert found.realized_p == pytest.approx(share, abs=1e-15)


def test_the_exact_rate_is_the_mean_over_all_masks_of_a_small_map() -> None:
    gamma, realized = functional.drop_block_rate((4, 3), 0.4, (2, 2))
    mean = 0.0
    for number in range(2**6):
        seeds = (number >> np.arange(6) & 1).astype(bool).reshape(3, 2)
        covered = np.zeros((4, 3), bool)
        for i, j in np.argwhere(seeds):
            covered[i : i + 2, j : j + 2] = True
        mean += gamma ** seeds.sum() * (1 - gamma) ** (6 - seeds.sum()) * covered.mean()
    assert mean == pytest.approx(realized, abs=1e-12)
    assert realized == pytest.approx(0.4, abs=1e-8)


@pytest.mark.parametrize(("rate", "share"), [("exact", 0.5), ("paper", 0.3581843788711039)])
def test_as_much_is_dropped_as_the_rate_says(rate: Any, share: float) -> None:
    n = 40 if WITHOUT_JIT else 4000
    y, context = functional.drop_block(np.ones((n, 1, 14, 14), np.float32), 0.5, 7, rate=rate, rng=stream())
    assert context.realized_p == pytest.approx(share, abs=1e-8)
    dropped = np.mean(y == 0, axis=(1, 2, 3))
    assert abs(dropped.mean() - share) < 4 * dropped.std() / math.sqrt(n)


def test_the_rate_does_not_depend_on_batch_channels_and_axes_of_blocks_of_one_element() -> None:
    for p in np.random.default_rng(0).uniform(0, 1, 30).tolist():
        expected = seeds_of((13, 9), (3, 4), p, "exact")
        assert seeds_of((7, 3, 13, 9), (1, 1, 3, 4), p, "exact") == expected
        assert seeds_of((13, 9, 11), (3, 4, 1), p, "exact") == expected
        assert functional.drop_block_rate((9, 5), p, 1, rate="paper").gamma == round(p * 2**32) / 2**32


@pytest.mark.parametrize("p", [0.0, 2.0**-33, 1.0])
def test_of_nothing_nothing_is_dropped_and_of_all_everything(backend: Any, p: float) -> None:
    x = np.full((2, 3, 6, 5), np.nan if p == 1 else 3.0)
    for scaling in ("counted", "expected"):
        rng = stream()
        y, context, mask = functional.drop_block(x, p, 3, scaling=scaling, rng=rng, return_mask=True)
        assert rng.call == CALL + 1
        assert mask.all() == (p < 1)
        np.testing.assert_array_equal(y, 0.0 if p == 1 else x)
        np.testing.assert_array_equal(functional.drop_block_backward(x, context), y)
        assert not np.shares_memory(y, x)


@pytest.mark.simulated
@pytest.mark.parametrize(("shape", "block_size", "axis"), SHAPES, ids=[str(k) for k in range(len(SHAPES))])
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_kept_is_scaled_by_the_count_and_the_rest_is_zero(
    backend: Any, shape: Any, block_size: Any, axis: int, shared: bool
) -> None:
    x = normal(*shape)
    rng = stream()
    y, context, mask = functional.drop_block(
        x, 0.4, block_size, channel_axis=axis, shared_channels=shared, rng=rng, return_mask=True
    )
    assert rng.call == CALL + 1
    expected_shape = list(shape)
    if shared:
        expected_shape[axis] = 1
    assert mask.shape == context.mask_shape == tuple(expected_shape)
    assert 0 < np.count_nonzero(mask) < mask.size
    np.testing.assert_array_equal(y, np.where(mask, x * (mask.size / np.count_nonzero(mask)), 0.0))
    np.testing.assert_array_equal(functional.drop_block_backward(x, context), y)
    y, context = functional.drop_block(
        x, 0.4, block_size, channel_axis=axis, shared_channels=shared, scaling="expected", rng=stream()
    )
    np.testing.assert_array_equal(y, np.where(mask, x * (1 / (1 - context.realized_p)), 0.0))


def test_a_block_as_large_as_the_map_drops_whole_maps_and_a_larger_one_counts_as_that() -> None:
    x = np.ones((40, 5, 4, 3))
    y, context = functional.drop_block(x, 0.5, (4, 3), rng=stream())
    assert np.all((y == 0) == (y[:, :, :1, :1] == 0))
    assert context.threshold == 2**31
    np.testing.assert_array_equal(functional.drop_block(x, 0.5, (9, 3), rng=stream())[0], y)


def test_blocks_of_one_element_are_plain_dropout() -> None:
    x = normal(3, 4, 5, 6)
    y, context = functional.drop_block(x, 0.3, 1, scaling="expected", rng=stream())
    np.testing.assert_array_equal(y, functional.dropout(x, 0.3, rng=stream())[0])
    assert context.realized_p == context.threshold / 2**32


@pytest.mark.parametrize("size", [3, 5, 7])
def test_pytorch_makes_the_same_mask_of_the_same_seeds(size: int) -> None:
    torch = pytest.importorskip("torch")
    x = np.ones((4, 3, 15, 13), np.float32)
    y, context, mask = functional.drop_block(x, 0.4, size, rng=stream(), return_mask=True)
    seeds = np.empty((4, 3, 16 - size, 14 - size), np.bool_)
    _reference.keep_mask(seeds.reshape(-1), KEY, CALL, context.threshold)
    padded = torch.nn.functional.pad(torch.from_numpy(~seeds).float(), [size // 2] * 4)
    pooled = 1 - torch.nn.functional.max_pool2d(padded, (size, size), (1, 1), size // 2)
    np.testing.assert_array_equal(mask, pooled.numpy() == 1)
    np.testing.assert_allclose(y, (pooled * pooled.numel() / pooled.sum()).numpy(), rtol=1e-6)


LARGE: Any = [((300, 1, 8, 8, 1), (1, 7, 8)), ((40, 12, 7, 1, 33), (5, 3, 1)), ((2, 3, 90, 70, 1), (2, 9, 8))]
DIVIDED: Any = [((3, 40, 23, 26, 1), (2, 3, 4)), ((350, 1, 14, 14, 1), (1, 7, 7)), ((2, 300, 40, 1, 3), (5, 7, 1))]


@pytest.mark.kinds
@pytest.mark.simulated
def test_kernels_make_the_masks_of_the_reference_whatever_the_shape(backend: Any) -> None:
    few = WITHOUT_JIT or backend.__name__ == "cuda_on_host"
    for shape, blocks in [
        ((1, 1, 1, 1, 1), (1, 1, 1)),
        ((5, 1, 1, 17, 1), (1, 1, 16)),
        ((4, 3, 5, 4, 2), (3, 2, 4)),
        *([] if few else LARGE),
    ]:
        for threshold in (1, 2**27, 2**32 - 1):
            assert mask_by(backend, shape, blocks, threshold) == mask_by(_reference, shape, blocks, threshold)


@pytest.mark.kinds
@pytest.mark.simulated
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.jit), "float16"])
def test_what_is_dropped_is_what_the_mask_says_whatever_the_shape(backend: Any, dtype: str) -> None:
    few = WITHOUT_JIT or backend.__name__ == "cuda_on_host"
    for shape, blocks in [((1, 1, 1, 1, 1), (1, 1, 1)), ((5, 1, 7, 19, 1), (1, 3, 16)), *([] if few else LARGE)]:
        for threshold, scale in ((2**22, None), (2**27, 1.5), (2**32 - 1, None)):
            assert_drops(backend, normal(*shape, dtype=dtype), blocks, threshold, scale)


@pytest.mark.jit
@pytest.mark.same
@pytest.mark.parametrize("piece", [100, 5000, 1 << 15])
def test_any_number_of_workers_and_pieces_gives_the_mask_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    from normdrop import _cpu
    from normdrop._cpu import drop_block

    monkeypatch.setattr(drop_block, "BLOCKS_PIECE", piece)
    for shape, blocks in DIVIDED:
        x = normal(*shape, dtype=np.float32)
        for threshold in (2**22, 2**26):
            expected = mask_by(_reference, shape, blocks, threshold, 2**40)
            for n_workers in (1, 3, 64):
                monkeypatch.setattr(drop_block, "workers", lambda size, n=n_workers: n)
                assert mask_by(_cpu, shape, blocks, threshold, 2**40) == expected
                assert_drops(_cpu, x, blocks, threshold)


@pytest.mark.jit
@pytest.mark.same
@pytest.mark.parametrize("few", [0, 1 << 30], ids=["one by one", "by rows"])
def test_seeds_are_placed_alike_one_by_one_and_by_rows(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    from normdrop import _cpu
    from normdrop._cpu import drop_block

    monkeypatch.setattr(drop_block, "_FEW", few)
    for shape, blocks in [*DIVIDED, *LARGE]:
        for threshold in (2**22, 2**28):
            assert mask_by(_cpu, shape, blocks, threshold) == mask_by(_reference, shape, blocks, threshold)


@pytest.mark.jit
@pytest.mark.once
@pytest.mark.parametrize("start", [0, 7])
def test_a_large_array_drops_what_the_mask_says_wherever_it_begins(start: int) -> None:
    from normdrop import _cpu

    shape = (300, 1, 120, 123, 1)
    memory = np.zeros(math.prod(shape) + start, np.float32)
    x = memory[start:].reshape(shape)
    x[...] = np.arange(x.size).reshape(shape) % 1021
    assert_drops(_cpu, x, (1, 7, 7), 2**23, oracle=_cpu)


LAYOUTS = {
    "C order": lambda x: x,
    "channels last in memory": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "Fortran order": np.asfortranarray,
    "with gaps": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("target", ["new", "out", "in place"])
def test_any_layout_and_target_gives_the_same_numbers(backend: Any, layout: str, target: str, shared: bool) -> None:
    options: Any = {"block_size": 3, "shared_channels": shared}
    plain, dy = normal(4, 3, 7, 6, dtype=np.float32), normal(4, 3, 7, 6, dtype=np.float32, seed=1)
    expected, context = functional.drop_block(plain, 0.3, **options, rng=stream())
    expected_dx = functional.drop_block_backward(dy, context)
    x = LAYOUTS[layout](plain.copy())
    given = x.copy()
    out = {"new": None, "out": np.full((6, 7, 3, 4), np.nan, np.float32).T, "in place": x}[target]
    y, context = functional.drop_block(x, 0.3, **options, rng=stream(), out=out)
    np.testing.assert_array_equal(y, expected)
    assert out is None or y is out or np.shares_memory(y, out)
    np.testing.assert_array_equal(x, expected if target == "in place" else given)
    other = LAYOUTS[layout](dy.copy())
    dx = functional.drop_block_backward(other, context, out=other if target == "in place" else None)
    np.testing.assert_array_equal(dx, expected_dx)
    if layout in ("C order", "channels last in memory", "Fortran order") and target == "new":
        assert y.strides == x.strides


@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.once)])
def test_the_mask_does_not_depend_on_the_dtype(dtype: str) -> None:
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    x = np.ones((3, 2, 8, 9))
    expected = functional.drop_block(x, 0.4, 3, rng=stream(), return_mask=True)[2]
    y, context, mask = functional.drop_block(x.astype(kind), 0.4, 3, rng=stream(), return_mask=True)
    np.testing.assert_array_equal(mask, expected)
    assert y.dtype == kind
    np.testing.assert_array_equal(y, np.where(mask, np.float32(context.scale), 0).astype(kind))


@pytest.mark.parametrize("scaling", ["counted", "expected"])
def test_gradients_are_the_derivatives(backend: Any, scaling: Any) -> None:
    def run(inputs: Any) -> Any:
        y, context = functional.drop_block(inputs["x"], 0.4, 2, scaling=scaling, rng=stream())
        return y, lambda dy: {"x": functional.drop_block_backward(dy, context)}

    check_pass(run, {"x": normal(2, 2, 4, 3)})


def test_a_nan_in_a_dropped_block_disappears_forward_and_backward() -> None:
    x = normal(2, 3, 8, 8)
    y, _, mask = functional.drop_block(x, 0.4, 3, rng=stream(), return_mask=True)
    bad = np.where(mask, x, np.nan)
    again, context = functional.drop_block(bad, 0.4, 3, rng=stream())
    assert again.tobytes() == y.tobytes()
    assert functional.drop_block_backward(bad, context).tobytes() == y.tobytes()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_an_empty_array_takes_no_call(shape: Any) -> None:
    rng = stream()
    y, context, mask = functional.drop_block(np.empty(shape), 0.5, 3, rng=rng, return_mask=True)
    assert y.shape == mask.shape == shape
    assert rng == stream()
    assert functional.drop_block_backward(np.empty(shape), context).shape == shape
