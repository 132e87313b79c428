"""Vectors in compiled code: what they compute is the same, however the processor is made to do it."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytestmark = [pytest.mark.jit, pytest.mark.kinds]

HARD = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-320,
    -1e-320,
    1e308,
    -1e308,
    1 + 2**-52,
    2**53,
    2**-53,
    0.1,
    np.inf,
    -np.inf,
    np.nan,
    3.0,
]


@pytest.mark.parametrize("width", [128, 512])
def test_sums_by_either_kind_of_units_have_the_same_bits(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from numba import njit

    from normdrop._cpu.lanes import simd
    from normdrop._cpu.lanes.memory import load, store

    monkeypatch.setattr(simd.target, "vector_width", lambda: width)

    @njit(["void(float64[::1], float64[::1], float64[::1])"], error_model="numpy")
    def compiled(total, a, b):  # type: ignore[no-untyped-def]
        store(total, 0, load(a, 0) + load(b, 0))

    products = re.search("llvm.fmuladd", next(iter(compiled.inspect_llvm().values())))
    assert bool(products) == (width == 512)  # so the same sums were done in two ways
    values = np.array(HARD)
    for turn in range(values.size):
        a, b, total = values, np.roll(values, turn), np.empty(values.size)
        compiled(total, a, b)
        with np.errstate(all="ignore"):
            expected = a + b
        known = ~np.isnan(expected)  # the sign of a NaN is not promised
        assert np.array_equal(np.isnan(total), ~known)
        assert total[known].tobytes() == expected[known].tobytes(), turn
