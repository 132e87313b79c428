"""The backend in plain NumPy: specification and oracle of the compiled ones.

Every backend has these launchers, with these signatures. They fill the arrays they are given and return nothing.
`x`, `y`, `dx`, `dy` are C-contiguous; flat for dropout, (outer, C, inner) for batch norm, (A, S, B) for `apply_mask`.
They are float16, bfloat16, float32 or float64; the first two are computed in float32 and rounded. Outputs come first
and may be the input itself.

Numbers per channel are float64, in rows of shape (C,): `statistics` = [mean, variance, 1 / sqrt(variance + eps)],
`sums` = [dgamma, dbeta]; `normalize` reads the first three rows of its `vectors`. `gamma` and `beta` have shape (C,)
and one dtype, float32 or float64; float64 if `x` has that. Given and running statistics, `mean` and `var`, are float64.

Fused passes take `Steps`, residuals of the shape and dtype of x, or None, and affine = (gamma, beta); each step is
rounded as if it were a pass of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from normdrop import _concrete, _exact
from normdrop._activations import ACTIVATIONS
from normdrop._concrete import Relaxation
from normdrop._positions import SPARE, Positions
from normdrop._steps import Steps

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: list[Words], key: tuple[int, int]) -> list[Words]:
    """Philox4x32-10 of Salmon et al. 2011, on arrays of 32-bit words held in uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        low_product = np.uint64(0xD2511F53) * c0
        high_product = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (high_product >> _HALF) ^ c1 ^ np.uint64(k0),
            high_product & _LOW,
            (low_product >> _HALF) ^ c3 ^ np.uint64(k1),
            low_product & _LOW,
        )
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def _halves(size: int, key: tuple[int, int], call: int, first: int) -> tuple[Words, Words]:
    """u_hi and u_lo of the mask law, version 1, of elements first, first + 1, ...; all that are asked for are drawn."""
    i = np.arange(size, dtype=np.uint64) + np.uint64(first)
    g, e = i // np.uint64(128), i % np.uint64(128)
    r, h, t = e // np.uint64(32), (e // np.uint64(16)) % np.uint64(2), e % np.uint64(16)
    b = np.uint64(16) * g + t
    call_words = [np.full_like(i, call & 0xFFFFFFFF), np.full_like(i, call >> 32)]

    def half_word(flip: int) -> Words:
        counter = [b & _LOW, b >> _HALF, call_words[0], call_words[1] ^ np.uint64(flip)]
        word = np.choose(r.astype(np.intp), philox(counter, key))
        return (word >> (np.uint64(16) * h)) & np.uint64(0xFFFF)

    return half_word(0), half_word(1 << 31)


def keep_mask(mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """Set mask[j] = whether element first + j is kept, by the mask law, version 1; flat, threshold = T < 2**32."""
    u_high, u_low = _halves(mask.size, key, call, first)
    high, low = threshold >> 16, threshold & 0xFFFF
    mask[...] = np.where(u_high == high, u_low >= low, u_high > high)


def keep_samples(mask: Mask, ids: Integers, key: tuple[int, int], call: int, threshold: int) -> None:
    """Set mask[n, j] = whether element j is kept under the key that sample ids[n] has; shape (N, L), T < 2**32."""
    s = ids.astype(np.uint64)  # modulo 2**64
    words = philox([np.zeros_like(s), np.full_like(s, _LOW), s & _LOW, s >> _HALF], key)
    for row, first, second in zip(mask, words[0].tolist(), words[1].tolist(), strict=True):
        keep_mask(row, (first, second), call, threshold)


def enumerate_masks(masks: Mask, weights: Vector, p: Vector, first: int) -> None:
    """Set masks[r, j] = bit j of first + r, and weights[r] = its probability; unit j is dropped with p[j]."""
    numbers = np.arange(first, first + weights.size)
    weights.fill(1.0)
    for j, dropped in enumerate(p):
        masks[:, j] = numbers >> j & 1
        weights *= np.where(masks[:, j], 1.0 - dropped, dropped)


def numbers(size: int, key: tuple[int, int], call: int) -> Vector:
    """Return n + 1/2 of each element, n the 32-bit number that the mask law compares with T."""
    u_high, u_low = _halves(size, key, call, 0)
    return ((u_high << np.uint64(16)) | u_low).astype(np.float64) + 0.5


def _scaled(x: Array, scale: float) -> Array:
    values = x.astype(np.float32) if x.itemsize == 2 else x
    return values * values.dtype.type(scale)


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """Set y[i] = scale * x[i] where kept, +0 where dropped."""
    mask = np.empty(x.size, np.bool_)
    keep_mask(mask, key, call, threshold)
    y[...] = np.where(mask, _scaled(x, scale), 0)


def dropout_transposed(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """Set y[a, p, q] = scale * x[a, p, q] where element (a, q, p) of an array (A, Q, P) is kept, else +0."""
    transposed = np.empty((x.shape[0], x.shape[2], x.shape[1]), y.dtype)
    dropout(transposed.reshape(-1), x.transpose(0, 2, 1).reshape(-1), key, call, threshold, scale)
    y[...] = transposed.transpose(0, 2, 1)


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """Set y[a, s, b] = scale * x[a, s, b] where mask[a, b], else +0."""
    y[...] = np.where(mask[:, None, :], _scaled(x, scale), 0)


def _wide(x: Array) -> Array:
    return x.astype(np.float64)


def _rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, in silence as in compiled code
        return x.astype(np.float32).astype(dtype) if dtype.itemsize == 2 else x.astype(dtype)


def _column(vector: Vector) -> Array:
    return vector[:, None]


def moments(statistics: Vectors, x: Array) -> None:
    """Mean and biased variance of each channel, from float64 sums of values shifted by the channel's first."""
    shift = _wide(x[:1, :, :1])
    shifted = _wide(x) - shift
    offset = shifted.mean(axis=(0, 2), keepdims=True)
    statistics[0] = (shift + offset)[0, :, 0]
    statistics[1] = np.square(shifted - offset).mean(axis=(0, 2))


def exact_sums(sums: Integers, x: Array) -> None:
    """Set sums[c] = limbs of sum(x), those of sum(x * x), counts of NaN, +inf, -inf, as `normdrop._exact` lays out."""
    unit, n, n_squares = _exact.grid_of(x.dtype)
    for c, values in enumerate(_wide(x).swapaxes(0, 1)):
        finite = [value.as_integer_ratio() for value in values[np.isfinite(values)].tolist()]
        s = sum((a << unit) // b for a, b in finite)  # b is a power of two, and divides
        t = sum((a * a << 2 * unit) // (b * b) for a, b in finite)
        sums[c, :-3] = _exact.limbs(s, n) + _exact.limbs(t, n_squares)
        sums[c, -3:] = [np.count_nonzero(kind) for kind in (np.isnan(values), values == np.inf, values == -np.inf)]


def normalize(y: Array, x: Array, vectors: Vectors) -> None:
    """Set y = (x - mean) * scale + shift per channel in float64, rounded; vectors = [mean, scale, shift]."""
    mean, scale, shift = vectors[:3]
    y[...] = _rounded((_wide(x) - _column(mean)) * _column(scale) + _column(shift), y.dtype)


def batch_norm(y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float) -> None:
    """Fill the statistics from the batch, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    moments(statistics, x)
    statistics[2] = 1.0 / np.sqrt(statistics[1] + eps)
    normalize(y, x, np.stack([statistics[0], gamma * statistics[2], beta]))


def inference_vectors(vectors: Vectors, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> None:
    """Fill in vectors = [mean, gamma / sqrt(var + eps), beta, 1 / sqrt(var + eps)]."""
    inv_std = 1.0 / np.sqrt(var + eps)
    vectors[...] = mean, gamma * inv_std, beta, inv_std


def parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors) -> None:
    """Set dgamma = sum dy * (x - mean) * inv_std and dbeta = sum dy per channel."""
    sums[0] = (_wide(dy) * (_wide(x) - _column(statistics[0]))).sum(axis=(0, 2)) * statistics[2]
    sums[1] = _wide(dy).sum(axis=(0, 2))


def batch_norm_backward(dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array) -> None:
    """Fill dgamma and dbeta, and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n), n values per channel."""
    parameter_gradients(sums, dy, x, statistics)
    mean, _, inv_std = statistics
    n = x.shape[0] * x.shape[2]
    residual = _wide(dy) - _column(sums[1] / n) - (_wide(x) - _column(mean)) * _column(inv_std * sums[0] / n)
    dx[...] = _rounded(residual * _column(gamma * inv_std), dx.dtype)


def input_gradient(dx: Array, dy: Array, x: Array, vectors: Vectors) -> None:
    """Set dx = (dy - mean_dy - (x - mean) * slope) * scale per channel; vectors = [mean, mean_dy, slope, scale]."""
    mean, mean_dy, slope, scale = map(_column, vectors)
    dx[...] = _rounded((_wide(dy) - mean_dy - (_wide(x) - mean) * slope) * scale, dx.dtype)


def _where(x: Array, positions: Positions) -> tuple[Mask, Vectors]:
    """Where x, (outer, C, inner), counts and how often, for all channels at once."""
    shape = x.shape[0], 1, x.shape[2]
    mask = positions.mask[:-SPARE].reshape(shape)
    return mask, _wide(positions.weights[:-SPARE].reshape(shape) if positions.weights.size else mask)


@np.errstate(all="ignore")
def masked_moments(statistics: Vectors, x: Array, positions: Positions) -> None:
    """Mean and biased variance of each channel over what counts, by weights."""
    mask, w = _where(x, positions)
    shift = _wide(x[np.nonzero(mask)[0][:1], :, np.nonzero(mask)[2][:1]])[:, :, None]
    shifted = np.where(mask, _wide(x) - shift, 0)
    offset = (w * shifted).sum(axis=(0, 2), keepdims=True) / w.sum()
    statistics[0] = (shift + offset)[0, :, 0]
    statistics[1] = (w * np.square(np.where(mask, shifted - offset, 0))).sum(axis=(0, 2)) / w.sum()


@np.errstate(all="ignore")
def masked_normalize(y: Array, x: Array, vectors: Vectors, positions: Positions) -> None:
    """Set y as `normalize` where it counts; elsewhere y is 0, normalized or x, as `positions` say."""
    values = x.copy()
    normalize(y, values, vectors)
    if positions.others != "normalize":
        y[...] = np.where(_where(x, positions)[0], y, values if positions.others == "keep" else 0)


def masked_batch_norm(
    y: Array, x: Array, statistics: Vectors, gamma: Array, beta: Array, eps: float, positions: Positions
) -> None:
    """Fill the statistics from what counts, and y as `masked_normalize`."""
    masked_moments(statistics, x, positions)
    statistics[2] = 1.0 / np.sqrt(statistics[1] + eps)
    masked_normalize(y, x, np.stack([statistics[0], gamma * statistics[2], beta]), positions)


@np.errstate(all="ignore")
def masked_parameter_gradients(sums: Vectors, dy: Array, x: Array, statistics: Vectors, positions: Positions) -> None:
    """Set dgamma = sum dy * (x - mean) * inv_std and dbeta = sum dy per channel, over what is normalized."""
    taken = positions.others == "normalize" or _where(x, positions)[0]
    parameter_gradients(sums, np.where(taken, dy, 0), np.where(taken, x, 0), statistics)


@np.errstate(all="ignore")
def masked_batch_norm_backward(
    dx: Array, dy: Array, x: Array, sums: Vectors, statistics: Vectors, gamma: Array, positions: Positions
) -> None:
    """Fill the sums of `masked_parameter_gradients`, and dx, by the sum of all weights instead of n."""
    masked_parameter_gradients(sums, dy, x, statistics, positions)
    mask, w = _where(x, positions)
    mean, _, inv_std = statistics
    centered = np.where(mask, _wide(x) - _column(mean), 0)
    residual = w * (_column(sums[1]) + centered * _column(inv_std * sums[0])) / positions.total
    values = _rounded((_wide(dy) - residual) * _column(gamma * inv_std), dx.dtype)
    if positions.others != "normalize":
        values = np.where(mask, values, dy if positions.others == "keep" else 0)
    dx[...] = values


def update_running(mean: Array, var: Array, statistics: Vectors, momentum: float, correction: float) -> None:
    """Set running = momentum * running + (1 - momentum) * batch, the variance times `correction`.

    What has no weight counts not even as a NaN.
    """
    new = 1.0 - momentum
    for running, batch in ((mean, new * statistics[0]), (var, new * correction * statistics[1])):
        if momentum < 1.0:
            running[...] = batch + momentum * running if momentum > 0.0 else batch


def _drop(values: Array, steps: Steps) -> Array:
    """Dropout by the steps' mask."""
    y = values.copy()
    if steps.mask is not None:
        n_shared, length = steps.fold
        folded = values.reshape(-1, n_shared, length)
        apply_mask(y.reshape(folded.shape), folded, steps.mask.reshape(-1, length), steps.scale)
    elif steps.threshold > 0:
        dropout(y.reshape(-1), values.reshape(-1), steps.key, steps.call, steps.threshold, steps.scale)
    return y


def _plus(values: Array, residual: Array | None) -> Array:
    return values if residual is None else _rounded(_wide(values) + _wide(residual), values.dtype)


def _activated(u: Array, steps: Steps) -> Array:
    with np.errstate(all="ignore"):
        return _rounded(ACTIVATIONS[steps.activation].value(_wide(u), np.float64(steps.parameter)), u.dtype)


def _gradient(dy: Array, u: Array, steps: Steps) -> Array:
    with np.errstate(all="ignore"):
        slope = ACTIVATIONS[steps.activation].derivative(_wide(u), np.float64(steps.parameter))
        gone = (slope == 0) | (_drop(np.ones_like(dy), steps) == 0)  # selected to +0: 0 * slope may be -0 or NaN
        return _rounded(np.where(gone, 0.0, _wide(_drop(dy, steps)) * slope), u.dtype)


def batch_norm_act(
    y: Array,
    inputs: tuple[Array, Array | None],
    statistics: Vectors,
    affine: tuple[Array, Array],
    eps: float,
    steps: Steps,
) -> None:
    """Fill the statistics, and y = dropout(activation(batch norm of x + residual)); inputs = (x, residual)."""
    x, residual = inputs
    u = np.empty_like(x)
    batch_norm(u, x, statistics, *affine, eps)
    y[...] = _drop(_activated(_plus(u, residual), steps), steps)


def normalize_act(y: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """Set y = dropout(activation((x - mean) * scale + shift + residual)); vectors = [mean, scale, shift]."""
    u = np.empty_like(y)
    normalize(u, inputs[0], vectors)
    y[...] = _drop(_activated(_plus(u, inputs[1]), steps), steps)


def act_gradient(du: Array, dy: Array, inputs: tuple[Array, Array | None], vectors: Vectors, steps: Steps) -> None:
    """Set du = gradient of what the activation takes in `normalize_act`; +0 where dropped or the derivative is 0."""
    u = np.empty_like(du)
    normalize(u, inputs[0], vectors)
    du[...] = _gradient(dy, _plus(u, inputs[1]), steps)


def batch_norm_act_backward(
    results: tuple[Array, Array],
    inputs: tuple[Array, Array, Array | None],
    sums: Vectors,
    statistics: Vectors,
    affine: tuple[Array, Array],
    steps: Steps,
) -> None:
    """Fill results = (dx, du), du as of `act_gradient`, and sums = [dgamma, dbeta]; inputs = (dy, x, residual).

    du may be dx.
    """
    (dx, du), (dy, x, residual), (gamma, beta) = results, inputs, affine
    vectors = np.stack([statistics[0], _wide(gamma) * statistics[2], beta])
    act_gradient(du, dy, (x, residual), vectors, steps)
    batch_norm_backward(dx, du, x, sums, statistics, gamma)


def act_dropout(y: Array, inputs: tuple[Array, Array | None], steps: Steps) -> None:
    """Set y = dropout(activation(x)) + residual, flat; inputs = (x, residual)."""
    y[...] = _plus(_drop(_activated(inputs[0], steps), steps), inputs[1])


def act_dropout_backward(dx: Array, dy: Array, x: Array, steps: Steps) -> None:
    """Set dx = gradient of `act_dropout`, flat; +0 where dropped or the activation's derivative is 0."""
    dx[...] = _gradient(dy, x, steps)


def concrete_dropout(y: Array, x: Array, relaxation: Relaxation) -> None:
    """Set y = x * (1 - z) / (1 - p), flat, in float64 and rounded; +0 where 1 - z is 0."""
    a = numbers(x.size, relaxation.key, relaxation.call)
    with np.errstate(all="ignore"):
        y[...] = _rounded(_concrete.value(_wide(x), a, *relaxation.constants()[:3]), y.dtype)


def concrete_dropout_backward(dx: Array, dlogit: Vectors, dy: Array, x: Array, relaxation: Relaxation) -> None:
    """Set dx, flat, and dlogit[0], the gradient of the logit, a sum as in `_concrete.summed`."""
    a = numbers(x.size, relaxation.key, relaxation.call)
    with np.errstate(all="ignore"):
        gradient, share = _concrete.gradients(_wide(dy), _wide(x), a, *relaxation.constants())
        dx[...] = _rounded(gradient, dx.dtype)
        dlogit[0] = _concrete.summed(share)
