"""The reference of masks and dropout."""

from __future__ import annotations

import numpy as np

from normdrop._reference.rounding import Array, Integers, Mask, Vector, Words, scaled

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


def dropout(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """Set y[i] = scale * x[i] where kept, +0 where dropped."""
    mask = np.empty(x.size, np.bool_)
    keep_mask(mask, key, call, threshold)
    y[...] = np.where(mask, scaled(x, scale), 0)


def dropout_transposed(y: Array, x: Array, key: tuple[int, int], call: int, threshold: int, scale: float) -> None:
    """Set y[a, p, q] = scale * x[a, p, q] where element (a, q, p) of an array (A, Q, P) is kept, else +0."""
    transposed = np.empty((x.shape[0], x.shape[2], x.shape[1]), y.dtype)
    dropout(transposed.reshape(-1), x.transpose(0, 2, 1).reshape(-1), key, call, threshold, scale)
    y[...] = transposed.transpose(0, 2, 1)


def apply_mask(y: Array, x: Array, mask: Mask, scale: float) -> None:
    """Set y[a, s, b] = scale * x[a, s, b] where mask[a, b], else +0."""
    y[...] = np.where(mask[:, None, :], scaled(x, scale), 0)
