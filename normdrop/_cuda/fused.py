"""Launchers of fused passes on a GPU: the sums of batch norm are kernels of their own, all else is one more.

That one normalizes, adds a residual, applies an activation and drops, each step rounded to the dtype of the arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normdrop._cuda import launchers
from normdrop._cuda.activations import activation
from normdrop._cuda.arrays import DeviceArray
from normdrop._cuda.launch import THREADS, Kernel, cuda, helper, kernel, n_blocks
from normdrop._cuda.mask_law import GROUP, RUN, RUNS, kept_bits
from normdrop._cuda.memory import as_stored, as_value, load, store
from normdrop._cuda.normalization import normalized
from normdrop._cuda.scratch import scratch
from normdrop._cuda.tiles import least
from normdrop._steps import Steps

Inputs = tuple[DeviceArray, "DeviceArray | None"]  # x and residual

_FLOAT64 = np.dtype(np.float64)
_kernels: dict[tuple[str, bool, bool], Kernel] = {}
_NORM, _BEFORE, _AFTER, _DROPS = 1, 2, 4, 8  # what there is; the residual comes before the activation or after dropout


@helper
def _drawn(bits: Any, mask: Any, i: Any, n_shared: Any, length: Any) -> Any:
    """Whether element i is kept, by the bits of `kept_bits`."""
    return bits & 1


@helper
def _given(bits: Any, mask: Any, i: Any, n_shared: Any, length: Any) -> Any:
    """The same by element (a, b) of a mask (A, B), i being element (a, s, b) of the array."""
    return mask[i // (n_shared * length) * length + i % length]


@helper
def _taken(to: Any, x: Any, r: Any, c: Any, vectors: Any, n_channels: Any, kind: Any) -> Any:
    """What the activation takes, from x in channel c and the residual."""
    if kind & _NORM:
        x = as_stored(to, normalized(x, vectors[c], vectors[n_channels + c], vectors[2 * n_channels + c]))
    if kind & _BEFORE:
        x = as_stored(to, np.float64(x) + np.float64(r))
    return x


def _forward(value: Any, derivative: Any) -> Any:
    @helper
    def one(to: Any, dy: Any, u: Any, r: Any, kept: Any, parameter: Any, factor: Any, kind: Any) -> Any:
        y = as_stored(to, value(np.float64(u), parameter))
        if kind & _DROPS:
            y = as_stored(to, y * factor) if kept else as_value(to, 0.0)
        if kind & _AFTER:
            y = as_stored(to, np.float64(y) + np.float64(r))
        return y

    return one


def _backward(value: Any, derivative: Any) -> Any:
    @helper
    def one(to: Any, dy: Any, u: Any, r: Any, kept: Any, parameter: Any, factor: Any, kind: Any) -> Any:
        if kind & _DROPS:
            dy = as_stored(to, dy * factor)
        slope = derivative(np.float64(u), parameter)
        return as_stored(to, np.float64(dy) * slope) if kept and slope != 0.0 else as_value(to, 0.0)

    return one


def fused(name: str, *, backward: bool, given: bool) -> Kernel:
    """Return the kernel of an activation: forward or backward, with a mask that is given or drawn on the way.

    Where there is no dy, residual or given mask, x stands for it and is not read.
    """
    found = _kernels.get((name, backward, given))
    if found is not None:
        return found
    one = (_backward if backward else _forward)(*activation(name))
    is_kept = _given if given else _drawn

    def transform(
        y: Any, dy: Any, x: Any, r: Any, mask: Any, vectors: Any, key: Any, call: Any, threshold: Any, n_shared: Any,
        length: Any, n_channels: Any, inner: Any, parameter: Any, scale: Any, kind: Any,
    ) -> None:  # fmt: skip
        """y = what is fused, or du from dy. A thread has one element in each run of a group."""
        n = x.size
        zero, factor = as_value(x, 0.0), as_value(x, scale)
        for place in range(cuda.grid(1), (n + GROUP - 1) // GROUP * RUN, cuda.gridsize(1)):
            bits = kept_bits(np.uint64(place), key, call, threshold) if threshold > 0 else 0
            first = place // RUN * GROUP + place % RUN
            for i in range(first, least(n, first + GROUP), RUN):
                residual = load(r, i) if kind & (_BEFORE | _AFTER) else zero
                u = _taken(x, load(x, i), residual, i // inner % n_channels, vectors, n_channels, kind)
                kept = is_kept(bits, mask, i, n_shared, length) if kind & _DROPS else 1
                gradient = load(dy, i) if backward else zero
                store(y, i, one(x, gradient, u, residual, kept, parameter, factor, kind))
                bits >>= 1

    transform.__name__ = "_".join(filter(None, ["fused", name, "backward" * backward, "given" * given]))
    made = kernel("xxxx" + ("b" if given else "x") + "duuunnnnffn")(transform)
    return _kernels.setdefault((name, backward, given), made)  # of two threads that come at once, the first one's


@kernel("ddddn")
def affine_vectors(vectors: Any, statistics: Any, gamma: Any, beta: Any, n_channels: Any) -> None:
    """vectors = [mean, gamma * inv_std, beta]. A thread per channel."""
    for c in range(cuda.grid(1), n_channels, cuda.gridsize(1)):
        vectors[c], vectors[n_channels + c] = statistics[c], gamma[c] * statistics[2 * n_channels + c]
        vectors[2 * n_channels + c] = beta[c]


def _transform(
    y: DeviceArray, dy: DeviceArray | None, inputs: Inputs, vectors: DeviceArray, kind: int, steps: Steps
) -> None:
    """Set y = what is fused, or du from dy; vectors = [mean, scale, shift], if kind says that x is normalized."""
    x, residual = inputs
    dy_, r = (x if a is None else a for a in (dy, residual))
    mask = x if steps.mask is None else steps.mask
    threshold = steps.threshold if steps.mask is None else 0
    n_channels, inner = x.shape[1:] if kind & _NORM else (1, 1)
    if residual is None:
        kind &= ~(_BEFORE | _AFTER)
    fused(steps.activation, backward=dy is not None, given=steps.mask is not None)(
        x.dtype, n_blocks(x.size, THREADS * RUNS), y, dy_, x, r, mask, vectors, launchers.key_word(steps.key),
        steps.call, threshold, *steps.fold, n_channels, inner, steps.parameter, steps.scale,
        kind | _DROPS * steps.drops,
    )  # fmt: skip


def batch_norm_act(
    y: DeviceArray,
    inputs: Inputs,
    statistics: DeviceArray,
    affine: tuple[DeviceArray, DeviceArray],
    eps: float,
    steps: Steps,
) -> None:
    """Fill the statistics, and y = dropout(activation(batch norm of x + residual)): three kernels."""
    x = inputs[0]
    vectors = scratch(x, 3 * x.shape[1], 1)
    launchers.merged_moments(statistics, x, vectors, launchers.as_rows(x, *affine), eps)
    _transform(y, None, inputs, vectors, _NORM | _BEFORE, steps)


def normalize_act(y: DeviceArray, inputs: Inputs, vectors: DeviceArray, steps: Steps) -> None:
    """y = dropout(activation((x - mean) * scale + shift + residual)); vectors = [mean, scale, shift]."""
    _transform(y, None, inputs, vectors, _NORM | _BEFORE, steps)


def act_gradient(du: DeviceArray, dy: DeviceArray, inputs: Inputs, vectors: DeviceArray, steps: Steps) -> None:
    """du = gradient of what the activation takes in `normalize_act`."""
    _transform(du, dy, inputs, vectors, _NORM | _BEFORE, steps)


def batch_norm_act_backward(
    results: tuple[DeviceArray, DeviceArray],
    inputs: tuple[DeviceArray, DeviceArray, DeviceArray | None],
    sums: DeviceArray,
    statistics: DeviceArray,
    affine: tuple[DeviceArray, DeviceArray],
    steps: Steps,
) -> None:
    """Fill results = (dx, du) and sums = [dgamma, dbeta]; inputs = (dy, x, residual): one kernel and batch norm's."""
    (dx, du), (dy, x, residual), (gamma, beta) = results, inputs, affine
    n_channels = x.shape[1]
    vectors = scratch(x, 3 * n_channels, 1)
    parameters = gamma.astype(_FLOAT64), beta.astype(_FLOAT64)
    affine_vectors(_FLOAT64, n_blocks(n_channels, THREADS), vectors, statistics, *parameters, n_channels)
    _transform(du, dy, (x, residual), vectors, _NORM | _BEFORE, steps)
    launchers.batch_norm_backward(dx, du, x, sums, statistics, gamma)


def act_dropout(y: DeviceArray, inputs: Inputs, steps: Steps) -> None:
    """y = dropout(activation(x)) + residual, flat; inputs = (x, residual)."""
    _transform(y, None, inputs, scratch(y, 0, 1), _AFTER, steps)


def act_dropout_backward(dx: DeviceArray, dy: DeviceArray, x: DeviceArray, steps: Steps) -> None:
    """dx = gradient of `act_dropout`, flat."""
    _transform(dx, dy, (x, None), scratch(x, 0, 1), 0, steps)
