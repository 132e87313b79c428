"""Saved state, a mapping of names to arrays: checks of its entries, and taking over all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device

Array: TypeAlias = npt.NDArray[Any]

MOST = 2**63 - 1  # what a saved count can be: it is an int64


def rounded(values: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Return `values` in another float dtype; a finite value that becomes infinite is refused."""
    with np.errstate(over="ignore"):
        result = values.astype(dtype)
    if (np.isinf(result) & np.isfinite(values)).any():
        raise ValueError(
            f"{name} has values beyond {dtype}; got {values[np.isfinite(values)].max()}. Use a wider dtype."
        )
    return result


def check_keys(state: object, names: Sequence[str]) -> None:
    """Check that a state dict has exactly the named entries."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping as state_dict() returns it; got {_checks.kind(state)}")
    missing = [name for name in names if name not in state]
    extra = [str(name) for name in state if name not in names]
    if missing or extra:
        raise ValueError(
            f"state must have exactly the entries {list(names)}; missing: {missing or 'none'}, extra: {extra or 'none'}"
        )


def entry(state: Mapping[str, Any], name: str, shape: tuple[int, ...], kinds: str) -> Array:
    """Return one entry of a state dict as an array of this shape and one of these dtype kinds."""
    try:
        values = np.asarray(state[name])
    except (TypeError, ValueError) as error:
        raise TypeError(f"state[{name!r}] must be an array; got {_checks.kind(state[name])}") from error
    if values.dtype.kind not in kinds:
        wanted = "integer" if "i" in kinds else "floating"
        raise TypeError(f"state[{name!r}] must have {wanted} dtype; got {values.dtype}")
    if values.shape != shape:
        raise ValueError(f"state[{name!r}] must have shape {shape}; got {values.shape}")
    if values.dtype.kind == "u" and values.size and values.max() > MOST:
        raise ValueError(f"state[{name!r}] must be from 0 to {MOST}; got {values.max()}")
    return values


def assign(
    arrays: Mapping[str, Array],
    values: Mapping[str, Array],
    layer: object,
    counts: Mapping[str, int],
    stream: tuple[Any, Mapping[str, Any]] | None = None,
) -> None:
    """Set a layer's arrays, wherever they are, its stream, if there is one, and its counts, which are last.

    If that fails or is interrupted, nothing has changed.
    """
    before = {name: _device.to_host(array) for name, array in arrays.items()}
    call = None if stream is None else stream[0].state_dict()
    try:
        for name, array in arrays.items():
            _device.assign(array, values[name])
        if stream is not None:
            stream[0].load_state_dict(stream[1])
        vars(layer).update(counts)
    except BaseException:  # an interrupt, or an array that the caller made read-only
        for name, array in arrays.items():
            if not _device.on_host(array) or array.flags.writeable:
                _device.assign(array, before[name])
        if stream is not None:
            stream[0].load_state_dict(call)
        raise
