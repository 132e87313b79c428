"""The mask law in vectors: the draws of 256 elements from two vectors of 16 Philox counters at once."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from normdrop import _philox
from normdrop._cpu.lanes.bits import load_bits
from normdrop._cpu.lanes.simd import LANES, broadcast, compiled_as, keep_vectors_whole, pieces
from normdrop._cpu.toolchain import target

GROUP = 128  # elements whose bits come from one vector of counters: 16 lanes, 4 words, 2 halves
PAIR = 2 * GROUP  # elements drawn at once: rounds of one group wait for each other and leave units idle

_I16, _I32, _I64 = (ir.IntType(n) for n in (16, 32, 64))
_WIDE = ir.VectorType(_I64, LANES // 2)  # 8 words, each in the low half of 64 bits; the high half is arbitrary
_WORDS = ir.VectorType(_I32, LANES)
_HALVES = ir.VectorType(_I16, 2 * LANES)
_HALF, _SHIFTS = np.uint64(0xFFFF), (np.uint64(0), np.uint64(16))


def _constant(vector: ir.VectorType, value: int | list[int]) -> ir.Constant:
    values = value if isinstance(value, list) else [value] * vector.count
    return ir.Constant(vector, [ir.Constant(vector.element, v) for v in values])


def _places(places: Iterable[int]) -> ir.Constant:
    """Where the lanes of a shuffled vector come from."""
    lanes = list(places)
    return _constant(ir.VectorType(_I32, len(lanes)), lanes)


class _DrawsType(types.Type):
    """The draws of 32 elements, one word of each of 16 counters: elements 0 ... 15 in the low halves, then the high.

    A draw is u_hi of the mask law; where that is T_hi, it is 0xFFFF if the element is kept and 0 if it is dropped.
    """

    def __init__(self) -> None:
        super().__init__(name="Draws")


_DRAWS = _DrawsType()


@register_model(_DrawsType)
class _DrawsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, draws: _DrawsType) -> None:
        super().__init__(manager, draws, _WORDS)


class _Philox:
    """Code of Philox4x32-10 for the 32 counters of a pair of groups.

    Eight words lie in eight 64-bit lanes, so that a product of two words fits its lane (one vpmuludq); even and odd
    lanes of a group are two such vectors. The words' high halves are left to chance and masked away before each
    product.
    """

    vector = _WIDE
    offsets = tuple(list(range(start, start + LANES, 2)) for start in (0, 1, LANES, LANES + 1))  # of the counters
    at_once = 1  # vectors of narrow registers whose rounds go side by side

    def __init__(self, builder: Any, pair: Any, call: Any, keys: list[Any]) -> None:
        self.builder = builder
        low = ir.Constant(_I64, 0xFFFFFFFF)
        first = builder.shl(pair, ir.Constant(_I64, 5))
        shift = ir.Constant(_I64, 32)
        self.uniform = [
            self.same(word) for word in (builder.lshr(first, shift), builder.and_(call, low), builder.lshr(call, shift))
        ]
        base = self.same(builder.and_(first, low))
        self.counters = [builder.add(base, _constant(self.vector, offsets)) for offsets in self.offsets]
        weyl = (_philox.WEYL_0, _philox.WEYL_1)
        self.keys = [
            [builder.add(key, ir.Constant(_I64, step * r)) for key, step in zip(keys, weyl, strict=True)]
            for r in range(_philox.ROUNDS)
        ]

    def same(self, word: Any) -> Any:
        """A 64-bit number in every lane."""
        return broadcast(self.builder, word, self.vector.count)

    def words(self, flip: int) -> list[Any]:
        """The four words of the first group's counters, then of the second's; `flip` is xor-ed to the fourth of each.

        A round waits for the one before, so that all vectors take it before the next where registers hold them all.
        """
        c1, c2, c3 = self.uniform
        c3 = self.builder.xor(c3, _constant(self.vector, flip))
        states = [(counter, c1, c2, c3) for counter in self.counters]
        n = len(states) if target.vector_width() >= 512 else self.at_once
        return self.joined([done for i in range(0, len(states), n) for done in self._rounds(states[i : i + n])])

    def joined(self, states: list[tuple[Any, ...]]) -> list[Any]:
        """The words in the order of the counters."""
        parts = [[self.builder.bitcast(word, _WORDS) for word in state] for state in states]
        places = _constant(_WORDS, [lane // 2 * 2 + lane % 2 * LANES for lane in range(LANES)])
        groups = [zip(*parts[i : i + 2], strict=True) for i in range(0, len(parts), 2)]
        return [self.builder.shuffle_vector(even, odd, places) for group in groups for even, odd in group]

    def _rounds(self, states: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        for keys in self.keys:
            k0, k1 = (self.same(key) for key in keys)
            states = [self._round(state, k0, k1) for state in states]
        return states

    def _round(self, state: tuple[Any, ...], k0: Any, k1: Any) -> tuple[Any, ...]:
        c0, c1, c2, c3 = state
        p0, p1 = self.product(c0, _philox.MULTIPLIER_0), self.product(c2, _philox.MULTIPLIER_1)
        mixed = [
            self.builder.xor(self.builder.xor(self.high(product), word), key)
            for product, word, key in ((p1, c1, k0), (p0, c3, k1))
        ]
        return mixed[0], self.low(p1), mixed[1], self.low(p0)

    def product(self, word: Any, multiplier: int) -> Any:
        """Products in 64-bit lanes."""
        low = self.builder.and_(word, _constant(_WIDE, 0xFFFFFFFF))
        return self.builder.mul(low, _constant(_WIDE, multiplier))

    def high(self, product: Any) -> Any:
        """The products' high words."""
        return self.builder.lshr(product, _constant(product.type, 32))

    def low(self, product: Any) -> Any:
        """The products' low words."""
        return product


class _NeonPhilox(_Philox):
    """As `_Philox`, four words in 32-bit lanes.

    NEON multiplies two or the other two to 64-bit lanes (umull, umull2), and takes all low or all high words of both
    products in one step (uzp1, uzp2): fewer steps than to narrow before each product, and half as many for the others.
    """

    vector = ir.VectorType(_I32, 4)
    offsets = tuple(list(range(start, start + 4)) for start in range(0, 2 * LANES, 4))
    at_once = 4

    def same(self, word: Any) -> Any:
        return super().same(self.builder.trunc(word, _I32))

    def joined(self, states: list[tuple[Any, ...]]) -> list[Any]:
        groups = [zip(*states[i : i + 4], strict=True) for i in range(0, len(states), 4)]
        return [functools.reduce(self._concatenated, parts) for group in groups for parts in group]

    def _concatenated(self, a: Any, b: Any) -> Any:
        n = a.type.count
        b = b if b.type == a.type else self.builder.shuffle_vector(b, b, _places([*range(4), *[0] * (n - 4)]))
        return self.builder.shuffle_vector(a, b, _places(range(n + 4)))

    def product(self, word: Any, multiplier: int) -> Any:
        wide = ir.VectorType(_I64, 2)
        halves = [self.builder.zext(half, wide) for half in pieces(self.builder, word, 2)]
        return [
            self.builder.bitcast(self.builder.mul(half, _constant(wide, multiplier)), self.vector) for half in halves
        ]

    def high(self, product: Any) -> Any:
        return self.builder.shuffle_vector(*product, _places([1, 3, 5, 7]))

    def low(self, product: Any) -> Any:
        return self.builder.shuffle_vector(*product, _places([0, 2, 4, 6]))


def philox_code(builder: Any, pair: Any, call: Any, keys: list[Any]) -> _Philox:
    """Return the code of Philox for a pair of groups, as the processor at hand takes it."""
    keep_vectors_whole(builder)
    return (_NeonPhilox if target.is_arm() else _Philox)(builder, pair, call, keys)


def _draw_typing(_context: Any, pair: Any, call: Any, key0: Any, key1: Any, threshold: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair, call, key0, key1, threshold = args
        philox = philox_code(builder, pair, call, [key0, key1])
        t_high, t_low = (
            broadcast(builder, builder.trunc(builder.lshr(threshold, ir.Constant(_I64, shift)), _I16), _HALVES.count)
            for shift in (16, 0)
        )
        words = [builder.bitcast(word, _HALVES) for word in philox.words(0)]
        ties = [builder.icmp_unsigned("==", word, t_high) for word in words]
        any_tie = builder.bitcast(functools.reduce(builder.or_, ties), _I32)

        before = builder.block
        with builder.if_then(builder.icmp_unsigned("!=", any_tie, ir.Constant(_I32, 0)), likely=False):
            resolved = []
            for word, tie, second in zip(words, ties, philox.words(1 << 31), strict=True):
                stays = builder.icmp_unsigned(">=", builder.bitcast(second, _HALVES), t_low)
                resolved.append(builder.select(tie, builder.sext(stays, _HALVES), word))
            inside = builder.block
        draws = [builder.phi(_HALVES) for _ in words]
        for merged, word, other in zip(draws, words, resolved, strict=True):
            merged.add_incoming(word, before)
            merged.add_incoming(other, inside)
        return cgutils.pack_array(builder, [builder.bitcast(merged, _WORDS) for merged in draws])

    draws = types.UniTuple(_DRAWS, PAIR // (2 * LANES))
    return draws(types.uint64, types.uint64, types.uint64, types.uint64, types.uint64), codegen


@compiled_as(_draw_typing)
def draw(pair: Any, call: Any, key0: Any, key1: Any, threshold: Any) -> Any:
    """Return the draws of elements 256 * pair + (0 ... 255), eight times 32.

    `threshold` is T of the mask law, below 2**32.
    """
    first, call, threshold = 2 * LANES * int(pair), int(call), np.uint64(threshold)
    counter = np.arange(2 * LANES, dtype=np.uint64) + np.uint64(first & 0xFFFFFFFF)
    block_high, call_low = (np.full_like(counter, word) for word in (first >> 32, call & 0xFFFFFFFF))
    lasts = [np.full_like(counter, (call >> 32) ^ flip) for flip in (0, 1 << 31)]
    keys = np.uint64(key0), np.uint64(key1)
    words = [_philox.philox4x32(counter, block_high, call_low, last, *keys) for last in lasts]
    draws = []
    for word, second in zip(*words, strict=True):
        decided = np.zeros_like(word)
        for shift in _SHIFTS:
            high, low = (word >> shift) & _HALF, (second >> shift) & _HALF
            stays = _philox.keeps(high, low, threshold)
            decided |= np.where(high == threshold >> np.uint64(16), stays * _HALF, high) << shift
        draws.append(decided)
    return tuple(word[:LANES] for word in draws) + tuple(word[LANES:] for word in draws)


def _kept_typing(_context: Any, draws: Any, threshold: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word, threshold = args
        t_high = builder.trunc(builder.lshr(threshold, ir.Constant(_I64, 16)), _I32)
        most = ir.Constant(_I32, 0xFFFE)
        most = builder.select(builder.icmp_unsigned("<", t_high, most), t_high, most)
        bound = builder.shl(most, ir.Constant(_I32, 16))
        above = builder.or_(bound, ir.Constant(_I32, 0xFFFF))  # below a high half anything may be
        bits = [
            builder.icmp_unsigned(">", half, broadcast(builder, limit, LANES))
            for half, limit in ((builder.shl(word, _constant(_WORDS, 16)), bound), (word, above))
        ]
        return cgutils.pack_array(builder, [builder.bitcast(b, _I16) for b in bits])

    return types.UniTuple(types.uint16, 2)(draws, types.uint64), codegen


@compiled_as(_kept_typing)
def kept(draws: Any, threshold: Any) -> Any:
    """Return which of 32 elements are kept, as two times 16 bits, the first lowest.

    That is where a draw is above T_hi, or above 0xFFFE if T_hi is 0xFFFF: a tie that is kept must be above, too. Ask
    where the bits are used, for registers of bits are few.
    """
    bound = min(int(threshold) >> 16, 0xFFFE)
    above = [((draws >> shift) & _HALF) > bound for shift in _SHIFTS]
    return tuple(load_bits(half, 0) for half in above)
