"""Names for what kernels and their helpers take: to Python all are Any, because Numba types a function by its call.

With the JIT off they are NumPy's arrays and Python's numbers.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Memory: TypeAlias = Any  # a contiguous array, or a pointer to one of its elements
Inputs: TypeAlias = Any  # a tuple of `Memory`
Lanes: TypeAlias = Any  # a vector of 16 values
Index: TypeAlias = Any  # an int64: a place, or how many
Flag: TypeAlias = Any  # a boolean
Real: TypeAlias = Any  # a float64
Shape: TypeAlias = Any  # (outer, C, inner)
Grid: TypeAlias = Any  # how a channel is divided into blocks: the tuple that `geometry` returns
Table: TypeAlias = Any  # a float64 array of two axes, with a row for each kind of number: statistics, sums
Workspace: TypeAlias = Any  # a float64 array of two axes, scratch memory
Operation: TypeAlias = Any  # a helper of `normdrop._cpu.kernels.operations`
