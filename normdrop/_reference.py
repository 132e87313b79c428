"""The backend in plain NumPy: specification and oracle of the compiled ones.

Every backend has these launchers, with these signatures. They fill the arrays they are given and return nothing.
`x`, `y`, `dx`, `dy` are C-contiguous float32 or float64; flat for dropout, (outer, C, inner) for batch norm, (A, S,
B) for `apply_mask`. Per-channel vectors are float64 of shape (C,). Outputs come first and may be the input itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
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


def keep_mask(mask: Mask, key: tuple[int, int], call: int, threshold: int, first: int = 0) -> None:
    """Set mask[j] = whether element first + j is kept, by the mask law, version 1; flat, threshold = T < 2**32."""
    i = np.arange(mask.size, dtype=np.uint64) + np.uint64(first)
    g, e = i // np.uint64(128), i % np.uint64(128)
    r, h, t = e // np.uint64(32), (e // np.uint64(16)) % np.uint64(2), e % np.uint64(16)
    b = np.uint64(16) * g + t
    call_words = [np.full_like(i, call & 0xFFFFFFFF), np.full_like(i, call >> 32)]

    def half_word(flip: int) -> Words:
        counter = [b & _LOW, b >> _HALF, call_words[0], call_words[1] ^ np.uint64(flip)]
        word = np.choose(r.astype(np.intp), philox(counter, key))
        return (word >> (np.uint64(16) * h)) & np.uint64(0xFFFF)

    high, low = threshold >> 16, threshold & 0xFFFF
    u_high, u_low = half_word(0), half_word(1 << 31)
    mask[...] = np.where(u_high == high, u_low >= low, u_high > high)


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """Set y[i] = scale * x[i] where kept, +0 where dropped."""
    mask = np.empty(x.size, np.bool_)
    keep_mask(mask, key, call, threshold)
    y[...] = np.where(mask, x * x.dtype.type(scale), x.dtype.type(0))


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """Set y[a, s, b] = scale * x[a, s, b] where mask[a, b], else +0."""
    y[...] = np.where(mask[:, None, :], x * x.dtype.type(scale), x.dtype.type(0))


def _wide(x: Array) -> Array:
    return x.astype(np.float64)


def _column(vector: Vector) -> Array:
    return vector[:, None]


def moments(mean: Vector, var: Vector, x: Array) -> None:
    """Mean and biased variance of each channel, from float64 sums of values shifted by the channel's first."""
    shift = _wide(x[:1, :, :1])
    shifted = _wide(x) - shift
    offset = shifted.mean(axis=(0, 2), keepdims=True)
    mean[...] = (shift + offset)[0, :, 0]
    var[...] = np.square(shifted - offset).mean(axis=(0, 2))


def normalize(y: Array, x: Array, mean: Vector, scale: Vector, shift: Vector) -> None:
    """Set y = (x - mean) * scale + shift per channel, in float64, rounded once."""
    y[...] = (_wide(x) - _column(mean)) * _column(scale) + _column(shift)


def batch_norm(y: Array, x: Array, mean: Vector, var: Vector, gamma: Vector, beta: Vector, eps: float) -> None:
    """Fill mean and var from the batch, and y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    moments(mean, var, x)
    normalize(y, x, mean, gamma * (1.0 / np.sqrt(var + eps)), beta)


def parameter_gradients(dgamma: Vector, dbeta: Vector, dy: Array, x: Array, mean: Vector, inv_std: Vector) -> None:
    """Set dbeta = sum dy, dgamma = sum dy * (x - mean) * inv_std per channel."""
    dbeta[...] = _wide(dy).sum(axis=(0, 2))
    dgamma[...] = (_wide(dy) * (_wide(x) - _column(mean))).sum(axis=(0, 2)) * inv_std


def batch_norm_backward(
    dx: Array, dgamma: Vector, dbeta: Vector, dy: Array, x: Array, mean: Vector, inv_std: Vector, gamma: Vector
) -> None:
    """Fill dgamma and dbeta, and dx = gamma * inv_std * (dy - dbeta/n - x_hat * dgamma/n), n values per channel."""
    parameter_gradients(dgamma, dbeta, dy, x, mean, inv_std)
    n = x.shape[0] * x.shape[2]
    centered = _wide(x) - _column(mean)
    residual = _wide(dy) - _column(dbeta / n) - centered * _column(inv_std * dgamma / n)
    dx[...] = residual * _column(gamma * inv_std)
