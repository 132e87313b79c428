"""A p for each channel, sample or element is the mask law with a T of its own: golden bits, rates, means, threads."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from normdrop import MaskStream, _reference, functional
from normdrop.functional import _varied

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_vary.json").read_text())
KEY, CALL = (0x243F6A88, 0x85A308D3), 2**33 + 7
SURE = 1e-4  # a wrong law fails by far more; whether a right one passes was settled when the key was chosen


def stream() -> MaskStream:
    return MaskStream.from_key(KEY, CALL)


@pytest.mark.simulated
@pytest.mark.parametrize("row", GOLDEN, ids=[f"{row['name']}-{row['dtype']}-{row['scaling']}" for row in GOLDEN])
def test_a_p_of_each_has_the_golden_bits_forward_and_backward(backend: Any, row: dict[str, Any]) -> None:
    size, dtype = np.prod(row["shape"]), np.dtype(row["dtype"]).newbyteorder("<")
    expected = np.frombuffer(bytes.fromhex(row["y"]), dtype).reshape(row["shape"])
    x = (np.arange(size) * 2654435761 + 12345) % 2**24 - 2**23
    x = (x / 2.0**21).astype(row["dtype"]).reshape(row["shape"])
    x[(expected == 0) & (np.arange(size) % 3 == 0).reshape(row["shape"])] = np.nan  # what is dropped does not matter
    ids = None if row["sample_ids"] is None else np.array(row["sample_ids"])
    p, rng = np.array(row["p"]).reshape(row["p_shape"]), MaskStream.from_key(tuple(row["key"]), row["call"])
    given = {"scaling": row["scaling"], "shared_axes": row["shared_axes"], "sample_ids": ids, "rng": rng}
    y, context = functional.dropout(x, p, **given)
    assert y.astype(dtype).tobytes() == expected.tobytes()
    assert functional.dropout_backward(x, context).astype(dtype).tobytes() == expected.tobytes()


@pytest.mark.once
@pytest.mark.jit
@pytest.mark.parametrize("shape", [(64, 50, 1300), (80_000, 50)], ids=str)
def test_each_channel_drops_elements_at_its_own_rate(shape: Any) -> None:
    rates = np.concatenate([[2.0**-12, 1 - 2.0**-12], np.linspace(0.01, 0.99, 48)])
    p = rates[:, None] if len(shape) == 3 else rates
    y, _ = functional.dropout(np.ones(shape, np.float32), p, rng=stream())
    others = tuple(axis for axis in range(len(shape)) if axis != 1)
    dropped, n = np.count_nonzero(y == 0, axis=others), y.size // len(rates)
    z = (dropped - n * rates) / np.sqrt(n * rates * (1 - rates))
    assert SURE < stats.chi2.sf(np.sum(z**2), z.size) < 1 - SURE
    assert np.abs(z).max() < stats.norm.isf(SURE / z.size)


@pytest.mark.parametrize(
    ("dtype", "unit"), [(np.float32, 2.0**-24), (np.float64, 2.0**-53)], ids=["float32", "float64"]
)
def test_the_factor_of_each_is_one_over_its_own_probability_of_being_kept(
    backend: Any, dtype: Any, unit: float
) -> None:
    """So that the mean over all masks is x, to the roundings of a factor and a product."""
    rng = np.random.default_rng(3)
    p = np.concatenate([rng.uniform(0, 1, 700), 1 - 2.0 ** -rng.uniform(1, 32, 300), [0.0, 2.0**-32, 1 - 2.0**-32]])
    x = rng.normal(size=p.size).astype(dtype)
    keep_prob = 1 - np.rint(p * 2.0**32) / 2.0**32
    y, _ = functional.dropout(x, p, mask=np.ones(p.size, np.bool_))
    assert np.abs(y * keep_prob / x - 1).max() <= 2.01 * unit + 2.0**-52
    drawn, _, mask = functional.dropout(x, p, rng=stream(), return_mask=True)
    np.testing.assert_array_equal(drawn, np.where(mask, y, 0))
    y, _ = functional.dropout_inference(x, p, scaling="original")
    assert np.abs(y / keep_prob / x - 1).max() <= 2.01 * unit + 2.0**-52


@pytest.mark.jit
@pytest.mark.parametrize("shape", [(256, 8), (256, 1), (8,)], ids=["elements", "samples", "channels"])
def test_the_mean_of_y_over_many_masks_is_x(shape: Any) -> None:
    n_calls, rng = 400, stream()
    x, p = np.random.default_rng(0).normal(size=(256, 8)), np.random.default_rng(1).uniform(0.05, 0.8, shape)
    total = sum(functional.dropout(x, p, rng=rng)[0] for _ in range(n_calls))
    z = (total / n_calls / x - 1) * np.sqrt(n_calls * (1 - p) / p)
    assert SURE < stats.chi2.sf(np.sum(z**2), z.size) < 1 - SURE
    assert abs(z.mean()) * np.sqrt(z.size) < stats.norm.isf(SURE)


def p_of(*shape: int) -> Any:
    return np.random.default_rng(2).choice([0.0, 2.0**-20, 0.25, 0.5, 0.9, 1.0], shape)


def law_of(shape: Any, p: Any, ids: Any = None) -> Any:
    """The mask of this shape, by the law."""
    thresholds = np.broadcast_to(np.rint(p * 2.0**32), shape)
    mask = np.empty(shape, np.bool_)
    if ids is None:
        mask.reshape(-1)[...] = _reference.numbers(mask.size, KEY, CALL) > thresholds.reshape(-1)
        return mask
    for n, key in enumerate(_varied.keys_of(KEY, ids).tolist()):
        numbers = _reference.numbers(mask[n].size, tuple(key), CALL).reshape(mask[n].shape)
        mask[n] = numbers > thresholds[n]
    return mask


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_what_shares_a_mask_element_shares_its_p(backend: Any, axes: Any, order: Any) -> None:
    x = np.asarray(np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32), order=order)
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    p = p_of(*shape)
    y, context, mask = functional.dropout(x, p, shared_axes=axes, rng=stream(), return_mask=True)
    np.testing.assert_array_equal(mask, law_of(shape, p))
    with np.errstate(divide="ignore", invalid="ignore"):
        np.testing.assert_array_equal(y, np.where(mask, x * np.float32(1 / (1 - np.rint(p * 2**32) / 2**32)), 0))
    assert y.strides == x.strides
    np.testing.assert_array_equal(functional.dropout_backward(x, context), y)
    np.testing.assert_array_equal(functional.dropout(x, p, shared_axes=axes, mask=mask)[0], y)


@pytest.mark.parametrize("p", [p_of(6, 1, 1), p_of(5, 1), p_of(6, 5, 70)], ids=["samples", "channels", "elements"])
def test_with_ids_a_sample_has_the_mask_of_its_own_p_wherever_it_is(backend: Any, p: Any) -> None:
    x, ids = np.random.default_rng(0).normal(size=(6, 5, 70)), np.array([3, -1, 2**62, 0, 3, 7])
    each = np.broadcast_to(p, x.shape)
    y, context, mask = functional.dropout(x, p, rng=stream(), sample_ids=ids, return_mask=True)
    np.testing.assert_array_equal(mask, law_of(x.shape, p, ids))
    np.testing.assert_array_equal(functional.dropout_backward(x, context), y)
    turned = functional.dropout(x[::-1], each[::-1], rng=stream(), sample_ids=ids[::-1])[0]
    np.testing.assert_array_equal(turned[::-1], y)
    for n in (1, 4):
        alone = functional.dropout(x[n : n + 1], each[n : n + 1], rng=stream(), sample_ids=ids[n : n + 1])[0]
        np.testing.assert_array_equal(alone, y[n : n + 1])


# (outer, C, inner): runs around a pair of groups of the law, channels side by side, few and many of them.
FOLDED = [
    (1, 255, 1), (1, 256, 1), (1, 1000, 1), (9, 3, 1), (70, 17, 1), (2, 2100, 1), (60, 40, 3), (12, 2, 16), (3, 5, 255),
    (3, 3, 256), (4, 3, 257), (2, 2100, 2), (9, 5, 30), (1, 2, 1300), (5, 1, 100),
]  # fmt: skip


@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_wherever_channels_lie_each_element_has_the_p_of_its_own(backend: Any, scaling: Any) -> None:
    for shape in FOLDED:
        x, p = np.random.default_rng(0).normal(size=shape).astype(np.float32), p_of(shape[1], 1)
        y, context = functional.dropout(x, p, rng=stream(), scaling=scaling)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.float32(1 / (1 - np.rint(p * 2.0**32) / 2.0**32)) if scaling == "inverted" else np.float32(1)
            expected = np.where(law_of(shape, p), x * factor, np.float32(0))
        assert y.tobytes() == expected.tobytes(), shape
        assert functional.dropout_backward(x, context).tobytes() == expected.tobytes(), shape


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_p_of_another_dtype_counts_as_the_number_that_it_is(backend: Any, kind: Any) -> None:
    x, p = np.ones((40, 50)), np.random.default_rng(0).uniform(0, 1, (40, 50)).astype(kind)
    p[0, :3] = 0.0, -0.0, 1.0
    for given in ({}, {"sample_ids": np.arange(40)}):
        y = functional.dropout(x, p, rng=stream(), **given)[0]
        np.testing.assert_array_equal(y, functional.dropout(x, p.astype(np.float64), rng=stream(), **given)[0])
    y = functional.dropout_inference(x, p, scaling="original")[0]
    np.testing.assert_array_equal(y, functional.dropout_inference(x, p.astype(np.float64), scaling="original")[0])


@pytest.mark.parametrize("n", [50, 3000])
@pytest.mark.parametrize("read_only", [False, True])
def test_what_becomes_of_the_array_after_the_pass_does_not_matter(backend: Any, n: int, read_only: bool) -> None:
    x, p = np.ones(n), p_of(n)
    given = p.view()
    given.flags.writeable = not read_only
    y, context = functional.dropout(x, given, rng=stream())
    saved = pickle.dumps(context)
    p[...] = 1.0
    for _ in range(3):
        functional.dropout(x, p, rng=1)  # takes memory that nobody has
    np.testing.assert_array_equal(functional.dropout_backward(x, context), y)
    np.testing.assert_array_equal(functional.dropout_backward(x, pickle.loads(saved)), y)


# Name: shape of x, shape of p, shared axes, whether samples have ids. Large enough for threads.
LARGE = {
    "short runs": ((37, 50, 71), (50, 1), (), False),
    "long runs": ((3, 4, 11_003), (4, 1), (), False),
    "side by side": ((2100, 64), (64,), (), False),
    "samples": ((130, 1009), (130, 1), (), False),
    "elements": ((131_077,), (131_077,), (), False),
    "shared axes": ((37, 50, 71), (50, 71), (0,), False),
    "ids": ((300, 301), (301,), (), True),
}
THREADS = """
import hashlib, sys
import numba, numpy as np
from normdrop import MaskStream, functional
from normdrop._cpu.toolchain import launch

def run(x, p, axes, ids):
    rng = MaskStream.from_key({key}, {call})
    y, context, mask = functional.dropout(x, p, shared_axes=axes, sample_ids=ids, rng=rng, return_mask=True)
    for result in (y, mask, functional.dropout_backward(x, context)):
        print(hashlib.sha256(result.tobytes()).hexdigest())

for n_threads in (0, 1, 2, 4):
    numba.set_num_threads(max(n_threads, 1))
    launch.PARALLEL_SIZE = 1 << (16 if n_threads else 60)
    for shape, p_shape, axes, has_ids in {large}:
        x = np.sin(np.arange(np.prod(shape)) + 0.5).astype(np.float32).reshape(shape)
        p = np.random.default_rng(2).choice([0.0, 2.0**-20, 0.25, 0.5, 0.9, 1.0], p_shape)
        run(x, p, axes, np.arange(shape[0]) * 3 if has_ids else None)
"""


@pytest.mark.once
@pytest.mark.jit
def test_any_number_of_threads_gives_the_bits_of_one_and_of_the_reference(in_subprocess: Any) -> None:
    expected = []
    for shape, p_shape, axes, has_ids in LARGE.values():
        x = np.sin(np.arange(np.prod(shape)) + 0.5).astype(np.float32).reshape(shape)
        p, ids = p_of(*p_shape), np.arange(shape[0]) * 3 if has_ids else None
        mask = law_of(tuple(1 if axis in axes else n for axis, n in enumerate(shape)), p, ids)
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.where(mask, x * np.float32(1 / (1 - np.rint(p * 2**32) / 2**32)), np.float32(0))
        expected += [hashlib.sha256(result.tobytes()).hexdigest() for result in (y, mask, y)]
    code = THREADS.format(key=KEY, call=CALL, large=list(LARGE.values()))
    found = in_subprocess(code, NUMBA_NUM_THREADS="4").split()
    assert len(found) == 4 * len(expected)
    for k in range(4):
        assert found[k * len(expected) : (k + 1) * len(expected)] == expected, ("serial", "1", "2", "4")[k]
