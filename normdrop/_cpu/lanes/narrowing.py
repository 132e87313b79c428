"""Float64 lanes in the dtype in which the values of an array are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from normdrop._cpu.lanes import half
from normdrop._cpu.lanes.simd import LANES, VectorType, compiled_as


def _as_values_of_typing(_typing_context: Any, x: Any, value: Any) -> Any:
    kind = half.value_type(x.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if kind == types.float64:
            return args[1]
        return builder.fptrunc(args[1], ir.VectorType(ir.FloatType(), LANES))

    return VectorType(kind)(x, value), codegen


@compiled_as(_as_values_of_typing)
def as_values_of(x: Any, value: Any) -> Any:
    """Return a float64 vector rounded to the dtype in which x's values are computed, as `splat_for` rounds a number."""
    with np.errstate(over="ignore"):
        return value.astype(half.value_dtype(x.dtype))
