"""The mask law in vectors: the keep decisions of 128 elements from 16 Philox counters at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from normdrop import _philox
from normdrop._cpu.launch import helper
from normdrop._cpu.simd import LANES, broadcast, compiled_as, keep_vectors_whole

GROUP = 128  # elements whose bits come from one vector of counters: 16 lanes, 4 words, 2 halves

_I1, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 16, 32, 64))
_PAIRS = ir.VectorType(_I64, LANES // 2)  # 8 words, each in the low half of 64 bits; the high half is arbitrary
_WORDS = ir.VectorType(_I32, LANES)
_HALVES = ir.VectorType(_I16, 2 * LANES)


def _constant(vector: ir.VectorType, value: int | list[int]) -> ir.Constant:
    values = value if isinstance(value, list) else [value] * vector.count
    return ir.Constant(vector, [ir.Constant(vector.element, v) for v in values])


class _Philox:
    """Code of Philox4x32-10 for the 16 counters of a group.

    Eight words lie in eight 64-bit lanes, so that a product of two words fits its lane (one vpmuludq); even and odd
    lanes are two such vectors. The words' high halves are left to chance and masked away before each product.
    """

    def __init__(self, builder: Any, group: Any, call: Any, keys: list[Any]) -> None:
        self.builder = builder
        low = ir.Constant(_I64, 0xFFFFFFFF)
        first = builder.shl(group, ir.Constant(_I64, 4))
        shift = ir.Constant(_I64, 32)
        uniform = [builder.lshr(first, shift), builder.and_(call, low), builder.lshr(call, shift)]
        self.uniform = [broadcast(builder, word, _PAIRS.count) for word in uniform]
        base = broadcast(builder, builder.and_(first, low), _PAIRS.count)
        self.counters = [builder.add(base, _constant(_PAIRS, list(range(odd, LANES, 2)))) for odd in (0, 1)]
        weyl = (_philox.WEYL_0, _philox.WEYL_1)
        self.keys = [
            [builder.add(key, ir.Constant(_I64, step * r)) for key, step in zip(keys, weyl, strict=True)]
            for r in range(_philox.ROUNDS)
        ]

    def words(self, flip: int) -> list[Any]:
        """The four words of all 16 counters, with `flip` xor-ed to the fourth counter word.

        The even and the odd counters take each round together: a round waits for the one before, not for its neighbor.
        """
        c1, c2, c3 = self.uniform
        c3 = self.builder.xor(c3, _constant(_PAIRS, flip))
        states = [(counter, c1, c2, c3) for counter in self.counters]
        for keys in self.keys:
            k0, k1 = (broadcast(self.builder, key, _PAIRS.count) for key in keys)
            p0 = [self._product(state[0], _philox.MULTIPLIER_0) for state in states]
            p1 = [self._product(state[2], _philox.MULTIPLIER_1) for state in states]
            c0 = [self._mixed(product, state[1], k0) for product, state in zip(p1, states, strict=True)]
            c2 = [self._mixed(product, state[3], k1) for product, state in zip(p0, states, strict=True)]
            states = list(zip(c0, p1, c2, p0, strict=True))
        places = [lane // 2 * 2 + lane % 2 * LANES for lane in range(LANES)]
        both = ir.Constant(_WORDS, [ir.Constant(_I32, place) for place in places])
        halves = [[self.builder.bitcast(pairs, _WORDS) for pairs in state] for state in states]
        return [self.builder.shuffle_vector(even, odd, both) for even, odd in zip(*halves, strict=True)]

    def _product(self, word: Any, multiplier: int) -> Any:
        low = self.builder.and_(word, _constant(_PAIRS, 0xFFFFFFFF))
        return self.builder.mul(low, _constant(_PAIRS, multiplier))

    def _mixed(self, product: Any, word: Any, key: Any) -> Any:
        high = self.builder.lshr(product, _constant(_PAIRS, 32))
        return self.builder.xor(self.builder.xor(high, word), key)


def _split(builder: Any, words: list[Any]) -> list[Any]:
    """The eight vectors of 16-bit halves in the order of the elements, each the upper half of a 32-bit lane.

    The lower half of the lane is arbitrary.
    """
    return [half for word in words for half in (builder.shl(word, _constant(_WORDS, 16)), word)]


def _keep_group_typing(_context: Any, group: Any, call: Any, key0: Any, key1: Any, threshold: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        keep_vectors_whole(builder)
        group, call, key0, key1, threshold = args
        philox = _Philox(builder, group, call, [key0, key1])
        threshold = builder.trunc(threshold, _I32)
        high = builder.and_(threshold, ir.Constant(_I32, 0xFFFF0000))
        low = builder.shl(threshold, ir.Constant(_I32, 16))
        at_high, at_low = broadcast(builder, high, _WORDS.count), broadcast(builder, low, _WORDS.count)
        above = broadcast(builder, builder.or_(high, ir.Constant(_I32, 0xFFFF)), _WORDS.count)

        words = philox.words(0)
        halves = _split(builder, words)
        bounds = [at_high, above] * len(words)  # below a low half there are zeros
        kept = [builder.icmp_unsigned(">", half, bound) for half, bound in zip(halves, bounds, strict=True)]
        t_high = broadcast(builder, builder.trunc(builder.lshr(high, ir.Constant(_I32, 16)), _I16), _HALVES.count)
        ties = [builder.icmp_unsigned("==", builder.bitcast(word, _HALVES), t_high) for word in words]
        any_tie = builder.or_(builder.or_(ties[0], ties[1]), builder.or_(ties[2], ties[3]))
        any_tie = builder.icmp_unsigned("!=", builder.bitcast(any_tie, _I32), ir.Constant(_I32, 0))

        before = builder.block
        with builder.if_then(any_tie, likely=False):
            resolved = []
            for keep, half, second in zip(kept, halves, _split(builder, philox.words(1 << 31)), strict=True):
                tie = builder.icmp_unsigned("==", builder.and_(half, _constant(_WORDS, 0xFFFF0000)), at_high)
                resolved.append(builder.or_(keep, builder.and_(tie, builder.icmp_unsigned(">=", second, at_low))))
            inside = builder.block
        bits = []
        for plain, tied in zip(kept, resolved, strict=True):
            merged = builder.phi(plain.type)
            merged.add_incoming(plain, before)
            merged.add_incoming(tied, inside)
            bits.append(merged)
        bits = [builder.bitcast(b, _I16) for b in bits]
        return cgutils.pack_array(builder, bits)

    words = types.UniTuple(types.uint16, 8)
    return words(types.uint64, types.uint64, types.uint64, types.uint64, types.uint64), codegen


@compiled_as(_keep_group_typing)
def keep_group(group: Any, call: Any, key0: Any, key1: Any, threshold: Any) -> Any:
    """Return which elements 128 * group + (0 ... 127) are kept, as eight times 16 bits, the first lowest.

    All arguments are uint64; `threshold` is T of the mask law, below 2**32.
    """
    first, call = 16 * int(group), int(call)
    lanes = np.arange(LANES, dtype=np.uint64)
    block_high, call_low = (np.full_like(lanes, word) for word in (first >> 32, call & 0xFFFFFFFF))
    draws = []
    for flip in (0, 1 << 31):
        last = np.full_like(lanes, (call >> 32) ^ flip)
        counter = lanes + np.uint64(first & 0xFFFFFFFF)
        words = _philox.philox4x32(counter, block_high, call_low, last, np.uint64(key0), np.uint64(key1))
        draws.append([(word >> np.uint64(16 * h)) & np.uint64(0xFFFF) for word in words for h in (0, 1)])
    bits = []
    for high_half, low_half in zip(*draws, strict=True):
        kept = _philox.keeps(high_half, low_half, np.uint64(threshold))
        bits.append(np.uint16(sum(1 << lane for lane in range(LANES) if kept[lane])))
    return tuple(bits)


@helper
def group_bits(group: Any, key0: Any, key1: Any, call: Any, threshold: Any) -> Any:
    """`keep_group` of signed numbers."""
    return keep_group(np.uint64(group), np.uint64(call), np.uint64(key0), np.uint64(key1), np.uint64(threshold))


@helper
def is_kept(bits: Any, e: Any) -> Any:
    """Bit e of the 128 bits of a group."""
    return (bits[e // LANES] >> (e % LANES)) & 1 != 0
