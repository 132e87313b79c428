"""Float16 and bfloat16: read exactly, computed as float32 is, and rounded once more, to nearest (law 2.7)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

pytestmark = pytest.mark.once

ALL = np.arange(1 << 16, dtype=np.uint16)

EXPECTED = """
import numpy as np

def same(computed, expected):
    \"\"\"Check that the bits agree; of NaNs, that they are NaNs of the same sign.\"\"\"
    assert (computed.dtype, computed.shape) == (expected.dtype, expected.shape)
    bits = np.dtype(f"u{computed.itemsize}")
    a, b = computed.view(bits), expected.view(bits)
    with np.errstate(invalid="ignore"):  # NumPy warns of signaling NaNs
        nan = np.isnan(expected)
        assert np.array_equal(np.isnan(computed), nan)
    where = np.flatnonzero(np.where(nan, np.signbit(computed) != np.signbit(expected), a != b))
    assert where.size == 0, [(hex(a[i]), hex(b[i]), float(expected[i])) for i in where[:5]]
"""

CONVERSIONS = (
    EXPECTED
    + """
from normdrop._cpu.lanes.half import stored
from numba import njit
from normdrop._cpu.lanes.memory import element, load, load_part, store, store_part, stream
from normdrop._cpu.lanes.simd import widen

try:
    import ml_dtypes
except ImportError:
    DTYPES = [np.dtype(np.float16)]
else:
    DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]

@njit
def copy(y, x):
    for i in range(0, x.size, 16):
        store(y, np.uint64(i), load(x, np.uint64(i)))

@njit
def copy_wide(y, x):
    for i in range(0, x.size, 16):
        store(y, np.uint64(i), widen(load(x, np.uint64(i))))

@njit
def copy_parts(y, x):
    for i in range(0, x.size, 16):
        store_part(y, i, load_part(x, i, i, i + 5), i, i + 5)
        store_part(y, i, load_part(x, i, i + 5, i + 16), i + 5, i + 16)

@njit
def copy_past_caches(y, x):
    for i in range(0, x.size, 16):
        stream(y, np.uint64(i), load(x, np.uint64(i)))

@njit
def copy_elements(y, x):
    for i in range(x.size):
        y[i] = element(x, np.uint64(i))

def converted(how, x, dtype):
    n = x.size
    padded = np.zeros((n + 15) // 16 * 16, x.dtype)
    padded[:n] = x
    y = np.empty(padded.size, dtype)
    how(stored(y), stored(padded))
    return y[:n]

def around(dtype):
    \"\"\"Float32 at every value of a dtype, at every tie between two, and beside both; and random bits.\"\"\"
    bits = np.arange(1 << 16, dtype=np.uint16)
    if dtype == np.float16:
        values = bits[:0x7C00].view(dtype).astype(np.float64)
        values = np.append(values, 2.0**16)  # the tie with it is where overflow begins
        middles = (values[1:] + values[:-1]) / 2
        centers = np.concatenate([values, middles]).astype(np.float32)
        nan = np.array([0x7F800001, 0x7F801FFF, 0x7FC00000, 0x7FFFFFFF, 0x7FBFFFFF], np.uint32).view(np.float32)
        rest = np.array([2.0**-149, 2.0**-126, 2.0**-26, 3e38, np.inf], np.float32)
        centers = np.concatenate([centers, rest])
        beside = [np.nextafter(centers, np.float32(end)) for end in (np.inf, -np.inf)]
        positive = np.concatenate([centers, *beside, nan])
        found = np.concatenate([positive, np.negative(positive)])
    else:
        ends = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
        found = ((bits.astype(np.uint32) << np.uint32(16))[:, None] | ends).ravel().view(np.float32)
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, np.uint32).view(np.float32)
    return np.concatenate([found, random])

@np.errstate(invalid="ignore", over="ignore")
def check(n):
    \"\"\"Read and write with every n-th pattern.\"\"\"
    for dtype in DTYPES:
        patterns = np.arange(1 << 16, dtype=np.uint16)[::n].view(dtype)
        exact = patterns.astype(np.float32)
        for how in (copy, copy_parts, copy_past_caches):
            same(converted(how, patterns, np.float32), exact)
            same(converted(how, patterns, dtype), patterns)
        for how in (copy_wide, copy_elements):
            same(converted(how, patterns, np.float64), exact.astype(np.float64))
        values = around(dtype)[::n]
        for how in (copy, copy_wide, copy_parts, copy_past_caches):
            same(converted(how, values, dtype), values.astype(dtype))
        wide = values[np.isfinite(values)].astype(np.float64)
        for doubles in (wide, wide * (1 + 2.0**-40), wide * (1 - 2.0**-40)):
            same(converted(copy, doubles, dtype), doubles.astype(np.float32).astype(dtype))
"""
)
"""What every interpreter runs: with and without the JIT, and with and without instructions for float16."""

_made: dict[str, Any] = {}
exec(EXPECTED, _made)
same = _made["same"]


def half(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(name)


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> np.dtype[Any]:
    return half(request.param)


def test_every_value_is_read_exactly_and_every_float32_rounded_to_the_nearest_even() -> None:
    made: dict[str, Any] = {}
    exec(CONVERSIONS, made)
    made["check"](101 if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0") else 1)


@pytest.mark.jit
def test_conversions_are_the_same_without_instructions_for_float16(in_subprocess) -> None:
    code = "from normdrop._cpu.lanes import half\nassert not half.target.has_half_instructions()\ncheck(1)\n"
    in_subprocess(CONVERSIONS + code, NUMBA_CPU_NAME="generic")


@pytest.mark.jit
def test_conversions_are_the_same_as_plain_python(in_subprocess) -> None:
    in_subprocess(CONVERSIONS + "check(23)\n", NUMBA_DISABLE_JIT="1")


@np.errstate(invalid="ignore")  # NumPy warns of signaling NaNs
def test_the_identity_returns_every_value_as_it_is(backend, dtype) -> None:
    x = ALL.view(dtype)
    for p, scaling in ((0.5, "inverted"), (0.0, "original")):
        same(functional.dropout_inference(x, p, scaling=scaling)[0], x)
        same(functional.dropout(x, 0.0, rng=1, scaling=scaling)[0], x)
    y, context = functional.batch_norm_inference(x[:, None], np.zeros(1), np.full(1, 0.75), eps=0.25)
    # +0 is added last, which takes the sign of -0.
    expected = np.where(x == 0, x.dtype.type(0), x)
    same(y[:, 0], expected)
    same(functional.batch_norm_inference_backward(x[:, None], context)[0][:, 0], expected)


@np.errstate(invalid="ignore")
def test_every_value_halved_is_rounded_as_numpy_rounds_float32(backend, dtype) -> None:
    x = ALL.view(dtype)
    for p in (0.5, 0.3):
        y, context = functional.dropout_inference(x, p, scaling="original")
        expected = (x.astype(np.float32) * np.float32(context.scale)).astype(dtype)
        same(y, expected)
        same(functional.dropout_backward(x, context), expected)


LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "channels last": lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, 3, 1, 2),
    "exchanged": lambda x: np.ascontiguousarray(x.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1),
    "sliced": lambda x: np.repeat(np.repeat(x, 2, axis=1), 3, axis=3)[:, ::2, :, 1::3],
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1],
    "misaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "an element later": lambda x: np.concatenate([x.ravel()[:1], x.ravel()])[1:].reshape(x.shape),
}
SHAPES = [(4, 3, 5, 6), (2, 17, 1, 1), (1, 2, 7, 31), (6, 1, 2, 8)]
LARGE = [(3, 5, 83, 79), (40_003, 3, 1, 1), (2, 1, 300, 301)]


def layers() -> Any:
    """Name and maker of each layer; makers, because two of each are needed."""
    for scaling in ("inverted", "original"):
        yield f"Dropout {scaling}", lambda n, s=scaling: normdrop.Dropout(0.3, scaling=s, rng=5)
        yield f"Dropout2d {scaling}", lambda n, s=scaling: normdrop.Dropout2d(0.3, scaling=s, rng=5)
    yield "BatchNorm", lambda n: normdrop.BatchNorm(n, gamma_init="uniform", rng=3)
    yield "BatchNorm, float64", lambda n: normdrop.BatchNorm(n, gamma_init="uniform", rng=3, dtype=np.float64)
    yield "BatchNorm, plain", lambda n: normdrop.BatchNorm(n, affine=False, track_running_stats=False)


def _drive(layer: Any, x: Any, dy: Any) -> list[Any]:
    """All that a training step, a step in inference, and a second training step in place return."""
    results = []
    for options in ({}, {"keep_x": True} if isinstance(layer, normdrop.BatchNorm) else {}):
        results += [layer(x, **options), layer.backward(dy)]
        layer.eval()
    layer.train()
    place, gradient = np.copy(x, order="K"), np.copy(dy, order="K")
    results += [layer(place, out=place), layer.backward(gradient, out=gradient)]
    return results


def _state(layer: Any) -> dict[str, Any]:
    names = ("gamma", "beta", "dgamma", "dbeta", "running_mean", "running_var", "num_batches", "num_values")
    return {name: getattr(layer, name, None) for name in names}


def _check_layers(x: Any, dy: Any, dtype: np.dtype[Any]) -> None:
    for name, make in layers():
        layer, twin = make(x.shape[1]), make(x.shape[1])
        computed = _drive(layer, x, dy)
        expected = _drive(twin, x.astype(np.float32), dy.astype(np.float32))
        for result, float32 in zip(computed, expected, strict=True):
            assert float32.dtype == np.float32
            assert result.dtype == dtype
            assert result.tobytes() == float32.astype(dtype).tobytes(), name
            long = [axis for axis, n in enumerate(x.shape) if n > 1]
            assert [result.strides[axis] * 2 for axis in long] == [float32.strides[axis] for axis in long]
        for (attribute, values), wanted in zip(_state(layer).items(), _state(twin).values(), strict=True):
            assert np.asarray(values).dtype == np.asarray(wanted).dtype, attribute
            assert np.asarray(values).tobytes() == np.asarray(wanted).tobytes(), (name, attribute)


def _pair(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    rng = np.random.default_rng(sum(shape))
    x = rng.normal(3.0, 2.0, shape).astype(dtype)
    return x, rng.normal(size=shape).astype(dtype)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layers_give_the_float32_results_rounded_in_every_layout(backend, dtype, shape, layout) -> None:
    x, dy = _pair(shape, dtype)
    _check_layers(LAYOUTS[layout](x), LAYOUTS[layout](dy), dtype)


@pytest.mark.jit
@pytest.mark.parametrize("layout", ["C", "channels last", "exchanged", "an element later"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("name", ["float16", pytest.param("bfloat16", marks=pytest.mark.cold)])
def test_layers_give_the_float32_results_rounded_on_threads(name, shape, layout) -> None:
    dtype = half(name)
    x, dy = _pair(shape, dtype)
    _check_layers(LAYOUTS[layout](x), LAYOUTS[layout](dy), dtype)


@pytest.mark.parametrize("channel_axis", [0, 1, 2, -1])
def test_batch_norm_gives_the_float32_results_rounded_on_every_channel_axis(backend, dtype, channel_axis) -> None:
    x, dy = _pair((4, 3, 5, 18), dtype)
    x32, dy32 = x.astype(np.float32), dy.astype(np.float32)
    y, context = functional.batch_norm(x, channel_axis=channel_axis)
    expected, twin = functional.batch_norm(x32, channel_axis=channel_axis)
    assert y.tobytes() == expected.astype(dtype).tobytes()
    dx, *parameters = functional.batch_norm_backward(dy, context)
    expected, *wanted = functional.batch_norm_backward(dy32, twin)
    assert dx.tobytes() == expected.astype(dtype).tobytes()
    for gradient, float32 in zip(parameters, wanted, strict=True):
        assert gradient.dtype == np.float32
        assert gradient.tobytes() == float32.tobytes()


def test_statistics_are_those_of_the_values_in_float32_to_the_bit(backend, dtype) -> None:
    for shape in ((37, 5), (2, 3, 40), (1, 1, 300), (4, 3, 7), (3, 70)):
        x = np.random.default_rng(0).normal(300.0, 2.0, shape).astype(dtype)
        context, twin = functional.batch_norm(x)[1], functional.batch_norm(x.astype(np.float32))[1]
        assert context.statistics.dtype == np.float64
        assert context.statistics.tobytes() == twin.statistics.tobytes()


def test_masks_are_those_of_float32(backend, dtype) -> None:
    for shape in ((1000,), (9, 130), (3, 5, 17)):
        for shared_axes in ((), (0,)):
            for order in "CF":
                x = np.ones(shape, dtype, order=order)
                y, _, mask = functional.dropout(x, 0.3, shared_axes=shared_axes, rng=11, return_mask=True)
                wide = np.ones(shape, np.float32)
                expected = functional.dropout(wide, 0.3, shared_axes=shared_axes, rng=11, return_mask=True)[2]
                assert np.array_equal(mask, expected)
                assert np.array_equal(y != 0, np.broadcast_to(mask, shape))
    given = np.arange(130) % 3 > 0
    assert np.array_equal(functional.dropout(np.ones(130, dtype), 0.3, mask=given)[0] != 0, given)


def test_what_is_dropped_is_plus_zero_even_where_x_is_not_finite(backend, dtype) -> None:
    for value in (np.nan, np.inf, -np.inf, -1.0, -0.0):
        for order in "CF":
            x = np.full((20, 33), value, dtype, order=order)
            y, _, mask = functional.dropout(x, 0.5, rng=1, return_mask=True)
            assert not np.asarray(y)[~mask].view(np.uint16).any()
            with np.errstate(invalid="ignore"):
                assert np.array_equal(np.isnan(y), mask & np.isnan(value))


@np.errstate(over="ignore")
def test_what_is_beyond_the_largest_value_becomes_infinite(dtype) -> None:
    largest = 0x7BFF if dtype == np.float16 else 0x7F7F
    x = np.full(300, largest, np.uint16).view(dtype) * np.where(np.arange(300) % 2, -1, 1).astype(dtype)
    y, _, mask = functional.dropout(x, 0.5, rng=1, return_mask=True)
    assert np.array_equal(y.astype(np.float32), np.where(mask, np.copysign(np.inf, x.astype(np.float32)), 0))


def test_parameters_and_statistics_of_any_float_type_are_taken_for_any_x(backend, dtype) -> None:
    rng = np.random.default_rng(0)
    gamma, beta, mean, var = rng.uniform(0.5, 2.0, (4, 6)).astype(dtype)
    wide = [vector.astype(np.float64) for vector in (gamma, beta, mean, var)]
    for x_dtype in (np.dtype(np.float32), np.dtype(np.float64), dtype):
        x, dy = rng.normal(size=(2, 9, 6)).astype(x_dtype)
        y, context = functional.batch_norm(x, gamma, beta)
        expected, twin = functional.batch_norm(x, *wide[:2])
        assert y.tobytes() == expected.tobytes()
        dx, *parameters = functional.batch_norm_backward(dy, context)
        expected, *wanted = functional.batch_norm_backward(dy, twin)
        assert dx.tobytes() == expected.tobytes()
        frozen, context = functional.batch_norm_inference(x, mean, var, gamma, beta, keep_x=True)
        expected, twin = functional.batch_norm_inference(x, *wide[2:], *wide[:2], keep_x=True)
        assert frozen.tobytes() == expected.tobytes()
        dx, *more = functional.batch_norm_inference_backward(dy, context)
        expected, *more_wanted = functional.batch_norm_inference_backward(dy, twin)
        assert dx.tobytes() == expected.tobytes()
        for gradient, exact in zip([*parameters, *more], [*wanted, *more_wanted], strict=True):
            assert gradient.dtype == dtype
            assert exact.dtype == np.float64
            assert gradient.tobytes() == exact.astype(dtype).tobytes()


def test_out_of_another_memory_order_takes_the_result(backend, dtype) -> None:
    x, dy = _pair((4, 3, 5, 6), dtype)
    for make in (lambda: normdrop.Dropout(0.5, rng=1), lambda: normdrop.BatchNorm(3)):
        layer, twin = make(), make()
        for call, expected in ((layer, twin), (layer.backward, twin.backward)):
            values = x if call is layer else dy
            out = np.full((6, 5, 3, 4), np.nan, dtype).T.transpose(0, 1, 2, 3)
            assert call(values, out=out) is out
            assert np.array_equal(out, expected(values))


def test_a_gradient_or_an_out_of_another_float_type_is_refused(dtype) -> None:
    x = np.ones((4, 3), dtype)
    layer = normdrop.Dropout(0.5, rng=1)
    layer(x)
    with pytest.raises(TypeError, match=f"dy must have the dtype of the forward pass's x, {dtype}; got float32"):
        layer.backward(x.astype(np.float32))
    with pytest.raises(TypeError, match="out must have the dtype"):
        layer.backward(x, out=np.empty(x.shape, np.float32))
    context = functional.batch_norm(x.astype(np.float32))[1]
    with pytest.raises(TypeError, match="dy must have the dtype"):
        functional.batch_norm_backward(x, context)


def test_the_two_types_of_two_bytes_are_not_taken_for_each_other() -> None:
    other = half("bfloat16")
    x = np.ones((4, 3), np.float16)
    for first, second in ((x, x.astype(other)), (x.astype(other), x)):
        context = functional.dropout(first, 0.5, rng=1)[1]
        with pytest.raises(TypeError, match="dy must have the dtype"):
            functional.dropout_backward(second, context)
        with pytest.raises(TypeError, match="out must have the dtype"):
            functional.dropout(first, 0.5, rng=1, out=second)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int4"])
def test_other_types_of_ml_dtypes_are_refused(name) -> None:
    x = np.ones((4, 3), getattr(pytest.importorskip("ml_dtypes"), name))
    for call in (lambda: functional.dropout(x, 0.5), lambda: functional.batch_norm(x)):
        with pytest.raises(TypeError, match=f"x must have dtype .*bfloat16; got {name}"):
            call()


def test_parameters_of_layers_are_float32_or_float64(dtype) -> None:
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        normdrop.BatchNorm(3, dtype=dtype)


def test_float16_does_not_import_ml_dtypes(in_subprocess) -> None:
    in_subprocess(
        """
        import sys
        sys.modules["ml_dtypes"] = None  # importing it would fail
        import numpy as np
        import normdrop
        x = np.arange(60, dtype=np.float16).reshape(4, 3, 5)
        for layer in (normdrop.Dropout(0.5, rng=1), normdrop.BatchNorm(3)):
            for layer in (layer.train(), layer.eval()):
                layer(x)
                assert layer.backward(x).dtype == np.float16
        assert sys.modules["ml_dtypes"] is None
        """
    )


DIGEST = """
import hashlib
import numpy as np
import normdrop

def digests():
    dtypes = [np.dtype(np.float16)]
    try:
        import ml_dtypes
        dtypes.append(np.dtype(ml_dtypes.bfloat16))
    except ImportError:
        pass
    for shape in [(37, 5), (3, 5, 7), (2, 3, 37), (2, 2, 5, 8)]:
        for dtype in dtypes:
            rng = np.random.default_rng(sum(shape))
            x, dy = rng.normal(30.0, 2.0, shape).astype(dtype), rng.normal(size=shape).astype(dtype)
            results = []
            for layer in (normdrop.Dropout(0.3, rng=1), normdrop.BatchNorm(shape[1], dtype=np.float64)):
                for values, gradient in ((x, dy), (np.asfortranarray(x), np.asfortranarray(dy))):
                    results += [layer.train()(values), layer.backward(gradient)]
                    results += [layer.eval()(values), layer.backward(gradient)]
            yield hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()[:16]
"""


@pytest.mark.jit
@pytest.mark.cold
@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [{"NUMBA_DISABLE_JIT": "1"}, pytest.param({"NUMBA_CPU_NAME": "generic"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_bits_do_not_depend_on_the_compiler_or_the_cpu(in_subprocess, setting) -> None:
    made: dict[str, Any] = {}
    exec(DIGEST, made)
    expected = list(made["digests"]())
    assert in_subprocess(DIGEST + "\nprint(*digests())", **setting).split() == expected
