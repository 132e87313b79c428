"""A float64 as the bits that it is. With the JIT off, each function is its plain twin."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from normdrop._cpu.lanes.simd import compiled_as


def _word_typing(_typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@compiled_as(_word_typing)
def word(value: Any) -> Any:
    """Return the bits of a float64 as an int64."""
    return int(np.float64(value).view(np.int64))
