"""Random streams: where the key and the call number of a dropout mask come from.

A mask is a pure function of (key, call, element index, p): the mask law, version 1. It depends on nothing else: not on
threads, block sizes, dtype, memory layout or device.

- ``i`` is the C-order index of the element in the mask.
- ``g = i // 128``, ``e = i % 128``; word ``r = e // 32``, half ``h = (e // 16) % 2``, lane ``t = e % 16``;
  ``b = 16 * g + t``.
- ``W = Philox4x32-10(counter=(b lo, b hi, call lo, call hi), key)`` in 32-bit words; ``u_hi`` is the low (``h = 0``) or
  high (``h = 1``) half of ``W[r]``.
- ``T = round(p * 2**32)``, ``T_hi = T >> 16``, ``T_lo = T & 0xffff``.
- If ``u_hi != T_hi``, the element is kept iff ``u_hi > T_hi``. Otherwise ``u_lo`` is the same half of the same word of
  Philox with the top bit of the fourth counter word flipped, and the element is kept iff ``u_lo >= T_lo``.

With ``sample_ids``, the mask of a sample with id ``s``, modulo 2**64, is that of the sample alone, without its batch
axis, under the key ``Philox4x32-10(counter=(0, 2**32 - 1, s lo, s hi), key)[:2]``.

So an element is kept iff a 32-bit uniform number is at least ``T``: P(drop) is ``T / 2**32`` exactly. Kept elements are
scaled by ``1 / (1 - T / 2**32)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from normdrop import _checks, _seeding
from normdrop._seeding import seed
from normdrop._streams import RNG, Key, MaskStream

if TYPE_CHECKING:
    from numpy.random import Generator

T = TypeVar("T")

__all__ = ["RNG", "Key", "MaskStream", "seed"]


def check_rng(rng: object) -> None:
    """Refuse what is none of the kinds of `rng`; nothing is drawn."""
    if not isinstance(rng, MaskStream):
        _seeding.check(rng)


def as_generator(rng: RNG) -> Generator:
    """Return the NumPy generator that `rng` stands for (SPEC 7), for drawing initial parameters."""
    check_rng(rng)
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, MaskStream):
        call = rng.take()
        return np.random.default_rng([*rng.key, call])
    return np.random.default_rng(_seeding.sequence(rng))


def with_call(rng: RNG, run: Callable[[Key, int], T]) -> T:
    """Return what `run` makes of a key and a call of the stream, which gets the call back if that fails."""
    stream, call = as_stream(rng), None
    try:
        call = stream.take()
        return run(stream.key, call)
    except BaseException:  # an interrupt, too
        if call is not None:
            stream.give_back(call)
        raise


def as_stream(rng: RNG) -> MaskStream:
    """Return `rng` itself if it is a stream, so that it can be shared, else a new stream made from it."""
    return rng if isinstance(rng, MaskStream) else MaskStream(rng)


def check_stream(value: object) -> MaskStream:
    """Return a layer's stream."""
    if not isinstance(value, MaskStream):
        raise TypeError(f"stream must be a MaskStream; got {_checks.kind(value)}. Use MaskStream(...) to make one.")
    return value
