"""The same load from each of a tuple of arrays or pointers, all at one index: the tuple of the vectors.

How many there are is known when a kernel is compiled, so that one loop serves operations on any number of arrays. With
the JIT off, each function is its plain twin, as in `normdrop._cpu.lanes.simd`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from normdrop._cpu.lanes.bits import load_bits, load_bits_typing
from normdrop._cpu.lanes.memory import element, element_typing, load, load_part, load_part_typing, load_typing
from normdrop._cpu.lanes.simd import FLOAT64, LANES, broadcast, compiled_as, splat


def _of_each(typing: Callable[..., Any], context: Any, xs: Any, *places: Any) -> Any:
    """(signature, codegen) for a tuple, from the `typing` of the intrinsic for one array."""
    loads = [typing(context, x, *places) for x in xs]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(loads, cgutils.unpack_tuple(builder, args[0]), strict=True)
        lanes = [code(context, builder, one, (x, *args[1:])) for (one, code), x in pairs]
        return context.make_tuple(builder, vectors, lanes)

    vectors = types.BaseTuple.from_types([one.return_type for one, _ in loads])
    return vectors(xs, *loads[0][0].args[1:]), codegen


def _load_typing(context: Any, x: Any, i: Any) -> Any:
    return load_bits_typing(context, x, i) if x.dtype == types.boolean else load_typing(context, x, i)


@compiled_as(lambda context, xs, i: _of_each(_load_typing, context, xs, i))
def load_each(xs: Any, i: Any) -> Any:
    """Return the vectors x[i : i + 16], of a mask as bits."""
    return tuple(load_bits(x, i) if x.dtype == np.bool_ else load(x, i) for x in xs)


@compiled_as(lambda context, xs, start, stop: _of_each(_load_first_typing, context, xs, start, stop))
def load_first_each(xs: Any, start: Any, stop: Any) -> Any:
    """Return the vectors x[start : start + 16], with zeros for what lies from `stop` on and is not read.

    Of a mask, whose memory goes on, all 16 are read.
    """
    return tuple(load_bits(x, start) if x.dtype == np.bool_ else load_part(x, start, start, stop) for x in xs)


def _load_first_typing(context: Any, x: Any, start: Any, stop: Any) -> Any:
    if x.dtype == types.boolean:
        loaded, load_code = load_bits_typing(context, x, start)

        def codegen_bits(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return load_code(context, builder, loaded, args[:2])

        return loaded.return_type(x, types.int64, types.int64), codegen_bits
    loaded, load_code = load_part_typing(context, x, start, start, stop)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, start, stop = args
        return load_code(context, builder, loaded, (x, start, start, stop))

    return loaded.return_type(x, types.int64, types.int64), codegen


def _splat_typing(context: Any, x: Any, i: Any) -> Any:
    number, element_code = element_typing(context, x, i)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, element_code(context, builder, number, args), LANES)

    return FLOAT64(x, types.uint64), codegen


@compiled_as(lambda context, xs, i: _of_each(_splat_typing, context, xs, i))
def splat_each(xs: Any, i: Any) -> Any:
    """Return vectors with x[i] in every lane."""
    return tuple(splat(element(x, i)) for x in xs)
