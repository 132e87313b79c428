"""Dropout and the mask law in the user's own compiled functions, beside `functional.dropout`."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import normdrop.numba as door
from normdrop import MaskStream, functional

pytestmark = [pytest.mark.once, pytest.mark.jit]

KEY, CALL = (0xFFFFFFFF, 5678), 2**62 + 9
PS = [0.0, 2.0**-32, 0.3, 0.5, 1.0 - 2.0**-32, 1.0]
CASES = [((n,), np.float32) for n in (0, 1, 15, 700)] + [((3, 0), np.float32), ((7, 100), np.float32)]
CASES += [((2, 3, 5, 7), np.float32), ((700,), np.float64), ((4, 3, 33), np.float64)]


def data(shape, dtype=np.float32):
    x = np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)
    if x.size > 2:
        x.reshape(-1)[:2] = np.nan, -0.0
    return x


def expected(x, p, key=KEY, call=CALL):
    return functional.dropout(x, p, rng=MaskStream.from_key(key, call))[0]


@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_dropout_has_the_bits_of_functional_dropout_forward_and_backward_and_in_place(user, shape, dtype):
    x = data(shape, dtype)
    for p in PS:
        y, dx, in_place = np.full_like(x, 3.0), np.full_like(x, 3.0), x.copy()
        result = user.drop_all(y, dx, x, p, KEY, CALL)
        user.drop_all(in_place, dx, in_place, p, KEY, CALL)
        wanted = expected(x, p).tobytes()
        assert (result.shape, result.dtype) == (x.shape, x.dtype)
        assert result.tobytes() == y.tobytes() == in_place.tobytes() == wanted, p
        user.drop_all(y, dx, x, p, KEY, CALL)
        assert dx.tobytes() == wanted, p


def test_keep_and_bits_are_the_mask_law_of_every_element(user):
    for p in PS:
        _, _, mask = functional.dropout(np.ones(700), p, rng=MaskStream.from_key(KEY, CALL), return_mask=True)
        assert np.array_equal(user.keep_all(700, KEY, CALL, p), mask)
        assert np.array_equal(user.all_bits(700, KEY, CALL) >= np.uint64(round(p * 2.0**32)), mask)


def test_ties_of_the_upper_half_are_decided_by_the_lower(user):
    """At p = the number of an element, the next smaller number, and the next larger one."""
    words = user.all_bits(200, KEY, CALL)
    for i in range(0, 200, 7):
        for delta in (-1, 0, 1):
            p = (int(words[i]) + delta) / 2.0**32
            assert user.keep_all(i + 1, KEY, CALL, p)[i] == (delta <= 0)
            assert (user.drop_all(*np.ones((3, 200)), p, KEY, CALL) != 0)[i] == (delta <= 0)


def test_elements_beyond_the_32nd_bit_of_an_index_are_those_of_the_law(user):
    from numba import njit

    @njit
    def one(key, call, index):
        return door.bits(key, call, index)

    for index in (0, 2**31, 2**35 + 77, 2**62 + 5):
        compiled = one(KEY, CALL, index)
        assert compiled == door.bits(KEY, CALL, index)
    assert one(KEY, CALL, np.uint64(12)) == one(KEY, CALL, 12)


def test_functions_called_from_python_give_what_compiled_code_does(user):
    x, y, dx = data((7, 100)), np.empty((7, 100), np.float32), np.empty((7, 100), np.float32)
    assert [door.keep(KEY, CALL, i, 0.3) for i in range(99)] == user.keep_all(99, KEY, CALL, 0.3).tolist()
    assert [int(door.bits(KEY, CALL, i)) for i in range(99)] == user.all_bits(99, KEY, CALL).tolist()
    door.dropout_into(y, x, 0.3, KEY, CALL)
    door.dropout_backward_into(dx, x, 0.3, KEY, CALL)
    wanted = user.drop_all(x.copy(), x.copy(), x, 0.3, KEY, CALL).tobytes()
    assert wanted == y.tobytes() == dx.tobytes() == door.dropout(x, 0.3, KEY, CALL).tobytes()


def test_in_a_parallel_loop_of_the_user_every_row_is_that_of_its_call(user):
    x = data((65, 333))
    y = np.empty_like(x)
    user.drop_rows(y, x, 0.5, (1, 2), 10)
    assert y.tobytes() == b"".join(expected(row, 0.5, (1, 2), 10 + i).tobytes() for i, row in enumerate(x))


def test_threads_that_run_a_function_without_the_lock_disturb_none(user):
    """Serially compiled; a parallel loop from several threads would be Numba's to allow."""
    from numba import njit

    @njit(nogil=True)
    def many(y, x, calls):
        for call in range(calls):
            door.dropout_into(y, x, 0.5, (1, 2), call)

    x = data((1000,))
    results = [np.empty_like(x) for _ in range(4)]
    threads = [threading.Thread(target=many, args=(y, x, 50 + i)) for i, y in enumerate(results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [y.tobytes() for y in results] == [expected(x, 0.5, (1, 2), 49 + i).tobytes() for i in range(4)]


def test_in_universal_functions_of_the_user_elements_are_those_of_the_law():
    from numba import guvectorize, vectorize

    @vectorize(["float32(float32, int64)"])
    def masked(value, index):
        return value if door.keep((1, 2), 3, index, 0.5) else np.float32(0)

    @guvectorize(["(float32[::1], int64[:], float32[::1])"], "(n),()->(n)")
    def rows(x, call, y):
        door.dropout_into(y, x, 0.5, (1, 2), call[0])

    x = data((700,))
    assert (2 * masked(x, np.arange(700))).tobytes() == expected(x, 0.5, (1, 2), 3).tobytes()
    table = data((3, 700))
    wanted = [expected(row, 0.5, (1, 2), i).tobytes() for i, row in enumerate(table)]
    assert [row.tobytes() for row in rows(table, np.arange(3))] == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p": 1.5}, "p must be the probability"),
        ({"p": np.nan}, "p must be the probability"),
        ({"p": -1e-300}, "p must be the probability"),
        ({"key": (1, -2)}, "key must be two words"),
        ({"key": (2**32, 0)}, "key must be two words"),
        ({"call": -1}, "call must be a number"),
        ({"y": np.ones((7, 99), np.float32)}, "must have the shape"),
        ({"y": np.ones((7, 100), np.float32).T.copy().reshape(100, 7)}, "must have the shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_value_beyond_its_range_is_refused_and_nothing_is_written(user, change, words):
    arguments = {"y": np.ones((7, 100), np.float32), "x": data((7, 100)), "p": 0.5, "key": (1, 2), "call": 3} | change
    with pytest.raises(ValueError, match=words):
        user.drop_all(arguments["y"], data((7, 100)), *list(arguments.values())[1:])
    assert (arguments["y"] == 1).all()
    with pytest.raises(ValueError, match="must"):
        door.dropout_into(**arguments)
    assert (arguments["y"] == 1).all()
    if "y" not in change:
        with pytest.raises(ValueError, match=words):
            user.keep_all(3, *(arguments[name] for name in ("key", "call", "p")))


def test_a_result_that_overlaps_its_input_partly_is_refused(user):
    memory = np.ones(101, np.float32)
    for y, x in ((memory[1:], memory[:-1]), (memory[:-1], memory[1:])):
        with pytest.raises(ValueError, match="overlaps"):
            user.drop_all(y, x.copy(), x, 0.5, (1, 2), 3)
        with pytest.raises(ValueError, match="overlaps"):
            door.dropout_into(y, x, 0.5, (1, 2), 3)
    assert (memory == 1).all()
    user.drop_all(memory[:50], np.ones(50, np.float32), memory[50:100], 0.5, (1, 2), 3)
    assert memory[:50].tobytes() == expected(np.ones(50, np.float32), 0.5, (1, 2), 3).tobytes()


def test_a_negative_index_is_refused(user):
    from numba import njit

    @njit
    def one(index):
        return door.keep((1, 2), 3, index, 0.5)

    with pytest.raises(ValueError, match="index must not be negative"):
        one(-1)
    with pytest.raises(ValueError, match="index must be"):
        door.keep((1, 2), 3, -1, 0.5)
