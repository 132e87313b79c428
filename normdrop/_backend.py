"""Where arrays meet a launcher: the only device decision, and the only check that a launcher's arguments fit together.

The launchers have the names and signatures of `normdrop._reference`, which documents them. A backend believes what it
is given: an array that is shorter than another says would be read or written beyond its end. So each launcher's
contract is checked here, whatever the passes above know, for an array may have been changed since the forward pass and
a context may come from anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from normdrop import _device, _exact, _process
from normdrop._activations import ACTIVATIONS
from normdrop._concrete import Relaxation
from normdrop._positions import OTHERS, SPARE, Positions
from normdrop._steps import Steps

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float64]

_FLOAT32, _FLOAT64, _INT64, _BOOL = (np.dtype(kind) for kind in (np.float32, np.float64, np.int64, np.bool_))
_WORD, _MAX_CALL = 2**32, 2**63

_serving: dict[type, Any] = {}


def select(x: Array) -> Any:
    """Return the backend for `x`; Numba is imported here, on the first call, and nowhere earlier."""
    backend = _serving.get(type(x))
    if backend is None:
        backend = _process.load("normdrop._cpu") if _device.on_host(x) else _device.backend()
        _serving[type(x)] = backend
    return backend


def keep_mask(mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """Fill a mask by the mask law."""
    _result("mask", mask, (mask.size,), _BOOL, mask)
    _law(key, call, threshold)
    select(mask).keep_mask(mask, key, call, threshold, first)


def keep_samples(mask: Mask, ids: Integers, key: tuple[int, int], call: int, threshold: int) -> None:
    """Fill masks of samples by the mask law, each under the key of its id."""
    _result("mask", mask, mask.shape if mask.ndim == 2 else (mask.size, 1), _BOOL, mask)
    _input("sample_ids", ids, (mask.shape[0],), _INT64, mask)
    _law(key, call, threshold)
    select(mask).keep_samples(mask, ids, key, call, threshold)


def enumerate_masks(masks: Mask, weights: Vector, p: Vector, first: int) -> None:
    """Masks number first and so on, and their probabilities."""
    _result("masks", masks, (weights.size, p.size), _BOOL, masks)
    _result("weights", weights, (weights.size,), _FLOAT64, masks)
    _input("p", p, (p.size,), _FLOAT64, masks)
    select(masks).enumerate_masks(masks, weights, p, first)


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """y = scale * x where the mask law keeps, flat."""
    _input("x", x, (x.size,), x.dtype, x)
    _result("y", y, x.shape, x.dtype, x)
    _law(key, call, threshold)
    select(x).dropout(y, x, key, call, threshold, scale)


def dropout_transposed(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """The same with elements counted in another order of axes."""
    _batch(x)
    _result("y", y, x.shape, x.dtype, x)
    _law(key, call, threshold)
    select(x).dropout_transposed(y, x, key, call, threshold, scale)


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """y = scale * x where a given mask keeps."""
    _batch(x)
    _result("y", y, x.shape, x.dtype, x)
    _input("mask", mask, (x.shape[0], x.shape[2]), _BOOL, x)
    select(x).apply_mask(y, x, mask, scale)


def moments(statistics: Vectors, x: Array) -> None:
    """Mean and biased variance of each channel."""
    _batch(x)
    _result("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    select(x).moments(statistics, x)


def exact_sums(sums: Integers, x: Array) -> None:
    """Sums of values and squares of each channel, without rounding."""
    _batch(x)
    _result("sums", sums, (x.shape[1], _exact.grid_of(x.dtype).n_columns), _INT64, x)
    select(x).exact_sums(sums, x)


def normalize(y: Array, x: Array, vectors: Vectors) -> None:
    """y = (x - mean) * scale + shift."""
    _batch(x)
    _result("y", y, x.shape, x.dtype, x)
    _input("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), _FLOAT64, x)
    select(x).normalize(y, x, vectors)


def batch_norm(y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float) -> None:
    """Statistics of the batch, and y = gamma * (x - mean) * inv_std + beta."""
    _batch(x)
    _result("y", y, x.shape, x.dtype, x)
    _result("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _parameter("gamma", gamma, x)
    _input("beta", beta, gamma.shape, gamma.dtype, x)
    select(x).batch_norm(y, x, statistics, gamma, beta, eps)


def inference_vectors(vectors: Vectors, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> None:
    """vectors = [mean, gamma * inv_std, beta, inv_std]."""
    n_channels = vectors.shape[-1]
    _result("vectors", vectors, (4, n_channels), _FLOAT64, vectors)
    _input("mean", mean, (n_channels,), _FLOAT64, vectors)
    _input("var", var, (n_channels,), _FLOAT64, vectors)
    _input("gamma", gamma, (n_channels,), _FLOAT64 if gamma.dtype != _FLOAT32 else _FLOAT32, vectors)
    _input("beta", beta, (n_channels,), gamma.dtype, vectors)
    select(vectors).inference_vectors(vectors, mean, var, gamma, beta, eps)


def parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None:
    """sums = [dgamma, dbeta]."""
    _batch(x)
    _result("sums", sums, (2, x.shape[1]), _FLOAT64, x)
    _input("dy", dy, x.shape, x.dtype, x)
    _input("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    select(x).parameter_gradients(sums, dy, x, statistics)


def batch_norm_backward(dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array) -> None:
    """sums = [dgamma, dbeta], and dx."""
    _batch(x)
    _result("dx", dx, x.shape, x.dtype, x)
    _input("dy", dy, x.shape, x.dtype, x)
    _result("sums", sums, (2, x.shape[1]), _FLOAT64, x)
    _input("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _parameter("gamma", gamma, x)
    select(x).batch_norm_backward(dx, dy, x, sums, statistics, gamma)


def input_gradient(dx: Array, dy: Array, x: Array, vectors: Vectors) -> None:
    """dx by given sums."""
    _batch(x)
    _result("dx", dx, x.shape, x.dtype, x)
    _input("dy", dy, x.shape, x.dtype, x)
    _input("vectors", vectors, (4, x.shape[1]), _FLOAT64, x)
    select(x).input_gradient(dx, dy, x, vectors)


def masked_moments(statistics: Vectors, x: Array, positions: Positions) -> None:
    """Mean and biased variance of each channel over what counts."""
    _batch(x)
    _result("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _counted(positions, x)
    select(x).masked_moments(statistics, x, positions)


def masked_normalize(y: Array, x: Array, vectors: Vectors, positions: Positions) -> None:
    """y = (x - mean) * scale + shift where it counts."""
    _batch(x)
    _result("y", y, x.shape, x.dtype, x)
    _input("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), _FLOAT64, x)
    _counted(positions, x)
    select(x).masked_normalize(y, x, vectors, positions)


def masked_batch_norm(
    y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float, positions: Positions
) -> None:
    """Statistics of what counts, and y."""
    _batch(x)
    _result("y", y, x.shape, x.dtype, x)
    _result("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _parameter("gamma", gamma, x)
    _input("beta", beta, gamma.shape, gamma.dtype, x)
    _counted(positions, x)
    select(x).masked_batch_norm(y, x, statistics, gamma, beta, eps, positions)


def masked_parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors, positions: Positions) -> None:
    """sums = [dgamma, dbeta] over what is normalized."""
    _batch(x)
    _input("dy", dy, x.shape, x.dtype, x)
    _result("sums", sums, (2, x.shape[1]), _FLOAT64, x)
    _input("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _counted(positions, x)
    select(x).masked_parameter_gradients(sums, dy, x, statistics, positions)


def masked_batch_norm_backward(
    dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array, positions: Positions
) -> None:
    """Sums over what is normalized, and dx."""
    _batch(x)
    _result("dx", dx, x.shape, x.dtype, x)
    _input("dy", dy, x.shape, x.dtype, x)
    _result("sums", sums, (2, x.shape[1]), _FLOAT64, x)
    _input("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _parameter("gamma", gamma, x)
    _counted(positions, x)
    select(x).masked_batch_norm_backward(dx, dy, x, sums, statistics, gamma, positions)


def update_running(mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float) -> None:
    """running = momentum * running + (1 - momentum) * batch."""
    _result("running_mean", mean, (mean.size,), _FLOAT64, mean)
    _result("running_var", var, mean.shape, _FLOAT64, mean)
    _input("statistics", statistics, (3, mean.size), _FLOAT64, mean)
    select(mean).update_running(mean, var, statistics, momentum, correction)


def batch_norm_act(
    y: Array,
    inputs: tuple[Array, Array | None],
    statistics: Vectors,
    affine: tuple[Array, Array],
    eps: float,
    steps: Steps,
) -> None:
    """Statistics of the batch, and y = dropout(activation(batch norm of x + residual))."""
    x, gamma, beta = inputs[0], *affine
    _batch(x)
    _fused("y", y, inputs, steps)
    _result("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _parameter("gamma", gamma, x)
    _input("beta", beta, gamma.shape, gamma.dtype, x)
    select(x).batch_norm_act(y, inputs, statistics, affine, eps, steps)


def normalize_act(y: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """y = dropout(activation((x - mean) * scale + shift + residual))."""
    x = inputs[0]
    _batch(x)
    _fused("y", y, inputs, steps)
    _input("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), _FLOAT64, x)
    select(x).normalize_act(y, inputs, vectors, steps)


def act_gradient(du: Array, dy: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """Gradient of what the activation takes in `normalize_act`."""
    x = inputs[0]
    _batch(x)
    _fused("du", du, inputs, steps)
    _input("dy", dy, x.shape, x.dtype, x)
    _input("vectors", vectors, (max(3, vectors.shape[0]), x.shape[1]), _FLOAT64, x)
    select(x).act_gradient(du, dy, inputs, vectors, steps)


def batch_norm_act_backward(
    results: tuple[Array, Array],
    inputs: tuple[Array, Array, Array | None],
    sums: Vectors,
    statistics: Vectors,
    affine: tuple[Array, Array],
    steps: Steps,
) -> None:
    """Results = (dx, du), and sums = [dgamma, dbeta]; inputs = (dy, x, residual)."""
    (dx, du), (dy, x, residual), (gamma, beta) = results, inputs, affine
    _batch(x)
    _fused("dx", dx, (x, residual), steps)
    _result("du", du, x.shape, x.dtype, x)
    _input("dy", dy, x.shape, x.dtype, x)
    _result("sums", sums, (2, x.shape[1]), _FLOAT64, x)
    _input("statistics", statistics, (3, x.shape[1]), _FLOAT64, x)
    _parameter("gamma", gamma, x)
    _input("beta", beta, gamma.shape, gamma.dtype, x)
    select(x).batch_norm_act_backward(results, inputs, sums, statistics, affine, steps)


def act_dropout(y: Array, inputs: tuple[Array, Array | None], steps: Steps) -> None:
    """y = dropout(activation(x)) + residual, flat."""
    x = inputs[0]
    _input("x", x, (x.size,), x.dtype, x)
    _fused("y", y, inputs, steps)
    select(x).act_dropout(y, inputs, steps)


def act_dropout_backward(dx: Array, dy: Array, x: Array, steps: Steps) -> None:
    """Gradient of `act_dropout`, flat."""
    _input("x", x, (x.size,), x.dtype, x)
    _fused("dx", dx, (x, None), steps)
    _input("dy", dy, x.shape, x.dtype, x)
    select(x).act_dropout_backward(dx, dy, x, steps)


def concrete_dropout(y: Array, x: Array, relaxation: Relaxation) -> None:
    """y = x * (1 - z) / (1 - p), flat."""
    _input("x", x, (x.size,), x.dtype, x)
    _result("y", y, x.shape, x.dtype, x)
    _law(relaxation.key, relaxation.call, 0)
    select(x).concrete_dropout(y, x, relaxation)


def concrete_dropout_backward(dx: Array, dlogit: Vectors, dy: Array, x: Array, relaxation: Relaxation) -> None:
    """dx, flat, and dlogit[0], the gradient of the logit."""
    _input("x", x, (x.size,), x.dtype, x)
    _result("dx", dx, x.shape, x.dtype, x)
    _input("dy", dy, x.shape, x.dtype, x)
    _result("dlogit", dlogit, (1,), _FLOAT64, x)
    _law(relaxation.key, relaxation.call, 0)
    select(x).concrete_dropout_backward(dx, dlogit, dy, x, relaxation)


def _fused(name: str, y: Array, inputs: tuple[Array, Array | None], steps: Steps) -> None:
    """Check the result, the inputs and the steps of a fused pass."""
    x, residual = inputs
    _result(name, y, x.shape, x.dtype, x)
    if residual is not None:
        _input("residual", residual, x.shape, x.dtype, x)
    if steps.activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {steps.activation!r}")
    _law(steps.key, steps.call, steps.threshold)
    if steps.mask is not None:
        n_shared, length = steps.fold
        if n_shared < 1 or length < 1 or x.size % (n_shared * length):
            raise ValueError(
                f"fold must be two numbers from 1 on whose product divides the size of x, {x.size}; got {steps.fold}. "
                "Pass the context as the forward pass returned it."
            )
        _input("mask", steps.mask, (x.size // (n_shared * length), length), _BOOL, x)


def _batch(x: Array) -> None:
    """Check x of shape (outer, C, inner)."""
    _input("x", x, x.shape if x.ndim == 3 else (x.size, 1, 1), x.dtype, x)


def _parameter(name: str, values: Array, x: Array) -> None:
    """Check a vector per channel in float32 or float64; the latter if `x` has that."""
    narrow = values.dtype == _FLOAT32 and x.dtype != _FLOAT64
    _input(name, values, (x.shape[1],), _FLOAT32 if narrow else _FLOAT64, x)


def _input(name: str, a: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    """Check an array that is read beside `x`."""
    flags = a.flags
    if not (flags.carray or (flags.c_contiguous and flags.aligned)) or a.shape != shape or type(a) is not type(x):
        _refuse(name, a, shape, dtype, x)
    if a.dtype is not dtype and a.dtype != dtype:  # most are the same object
        _refuse(name, a, shape, dtype, x)


def _result(name: str, a: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    """Check an array that is written beside `x`."""
    if not a.flags.carray or a.shape != shape or type(a) is not type(x):
        _refuse(name, a, shape, dtype, x)
    if a.dtype is not dtype and a.dtype != dtype:
        _refuse(name, a, shape, dtype, x)


def _counted(positions: Positions, x: Array) -> None:
    """Check which positions count: some do, on the host at least."""
    mask, weights, _, first, total, others = positions
    places = (x.shape[0] * x.shape[2] + SPARE,)
    _input("context.positions.mask", mask, places, _BOOL, x)
    _input("context.positions.weights", weights, places if weights.size else (0,), _FLOAT32, x)
    if (
        not 0 <= first < mask.size - SPARE
        or others not in OTHERS
        or not total > 0.0
        or (_device.on_host(mask) and not mask[:-SPARE].any())
    ):
        raise ValueError(
            f"context.positions do not fit the pass: some must count, with a positive total, and others be one of "
            f"{', '.join(OTHERS)}; got {total} and {others!r}. Pass the context as the forward pass returned it."
        )


def _law(key: tuple[int, int], call: int, threshold: int) -> None:
    """Check the numbers of the mask law."""
    first, second = key
    if not (0 <= first < _WORD and 0 <= second < _WORD and 0 <= call < _MAX_CALL and 0 <= threshold < _WORD):
        raise ValueError(
            f"key must be two words below 2**32, call a number below 2**63 and threshold one below 2**32; got {key}, "
            f"{call} and {threshold}. Pass the context as the forward pass returned it."
        )


def _refuse(name: str, a: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    flags = a.flags
    holds = {"contiguous": flags.c_contiguous, "aligned": flags.aligned, "writable": flags.writeable}
    lacks = "".join(f", not {word}" for word, is_so in holds.items() if not is_so)
    text = (
        f"{name} does not fit the pass: it must be {dtype} of shape {shape} {_device.place(x)}, contiguous, aligned "
        f"and, if it is written, writable; got {a.dtype} of shape {a.shape} {_device.place(a)}{lacks}. Pass the "
        "context as its forward pass returned it, and change no array that it holds before the last backward."
    )
    raise (ValueError if a.dtype == dtype and type(a) is type(x) else TypeError)(text)
