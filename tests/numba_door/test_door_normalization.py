"""Batch normalization in the user's own compiled functions, beside `functional`."""

from __future__ import annotations

import numpy as np
import pytest

import normdrop.numba as door
from normdrop import functional

pytestmark = [pytest.mark.once, pytest.mark.jit]

# By rows: narrow, joined, wide, in several blocks; by planes: short and long ones, in several blocks. Each number of
# axes and dtype is compiled by itself.
CASES = [((50, 3), 1), ((3, 1100), -1), ((3000, 20), 1), ((20, 3), 0)]
CASES += [((6, 5, 3, 11), 1), ((6, 11, 3, 5), -1), ((33, 2, 3, 5), 0), ((2, 1, 130, 130), 1)]


def data(shape, axis, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(300.0, 0.1, shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    return x, dy, *rng.normal(size=(2, shape[axis])).astype(dtype)


@pytest.mark.parametrize(("shape", "axis"), CASES, ids=str)
def test_all_passes_have_the_bits_of_functional(user, shape, axis):
    x, dy, gamma, beta = data(shape, axis, np.float32 if len(shape) == 2 else np.float64)
    wanted, context = functional.batch_norm(x, gamma, beta, eps=1e-3, channel_axis=axis)
    y, statistics = np.empty_like(x), np.empty((3, shape[axis]))
    user.norm_into(y, statistics, x, gamma, beta, 1e-3, axis)
    assert y.tobytes() == wanted.tobytes()
    assert statistics.tobytes() == context.statistics.tobytes()
    mean, var = user.moments(x, axis)
    assert mean.tobytes() + var.tobytes() == context.statistics[:2].tobytes()

    dx, dgamma, dbeta = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    user.backward_into(dx, dgamma, dbeta, dy, x, statistics, gamma, axis)
    gradients = functional.batch_norm_backward(dy, context)
    assert [g.tobytes() for g in (dx, dgamma, dbeta)] == [g.tobytes() for g in gradients]

    user.normalize_into(y, x, mean, var, gamma, beta, 1e-3, axis)
    inference, _ = functional.batch_norm_inference(x, mean, var, gamma, beta, eps=1e-3, channel_axis=axis)
    assert y.tobytes() == inference.tobytes()

    user.backward_into(dy, dgamma, dbeta, dy, x, statistics, gamma, axis)
    user.norm_into(x, statistics, x, gamma, beta, 1e-3, axis)
    assert dy.tobytes() == dx.tobytes()
    assert x.tobytes() == wanted.tobytes()
    assert statistics.tobytes() == context.statistics.tobytes()


def test_parameters_may_be_missing_or_of_another_dtype_and_options_left_out(user):
    x, _, gamma, beta = data((20, 3), 1, np.float32)
    for scale, shift in ((None, None), (gamma.astype(np.float64), beta)):
        y, statistics = user.norm(x, scale, shift)
        wanted, context = functional.batch_norm(x, scale, shift)
        assert y.tobytes() + statistics.tobytes() == wanted.tobytes() + context.statistics.tobytes()


def test_functions_called_from_python_give_what_compiled_code_does(user):
    x, dy, gamma, beta = data((20, 3), 1, np.float32)
    y, statistics = door.batch_norm(x, gamma, beta)
    into, table = np.empty_like(x), np.empty((3, 3))
    door.batch_norm_into(into, table, x, gamma, beta)
    results = [(into, table), (np.empty_like(x), np.empty((3, 3)))]
    user.norm_into(*results[1], x, gamma, beta, 1e-5, 1)
    for result, numbers in results:
        assert result.tobytes() + numbers.tobytes() == y.tobytes() + statistics.tobytes()
    assert np.stack(door.moments(x)).tobytes() == np.stack(user.moments(x, 1)).tobytes()
    results = []
    for backward, normalize in (
        (door.batch_norm_backward_into, door.normalize_into),
        (user.backward_into, user.normalize_into),
    ):
        dx, dgamma, dbeta = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        backward(dx, dgamma, dbeta, dy, x, statistics, gamma, 1)
        normalize(into, x, *statistics[:2], gamma, beta, 1e-5, 1)
        results.append([a.tobytes() for a in (dx, dgamma, dbeta, into)])
    assert results[0] == results[1]


def test_an_empty_batch_has_no_statistics(user):
    x = np.empty((0, 3), np.float32)
    y, statistics = user.norm(x, None, None)
    assert y.shape == (0, 3)
    assert np.isnan(statistics).all()
    assert np.isnan(user.moments(x, 1)).all()
    assert np.isnan(door.moments(x)).all()
    dgamma, dbeta, gamma = np.ones((3, 3), np.float32)
    user.backward_into(x, dgamma, dbeta, x, x, statistics, gamma, 1)
    assert dgamma.tolist() == dbeta.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": np.ones((20, 4), np.float32)}, "must have the shape of x"),
        ({"statistics": np.ones((2, 3))}, "statistics must"),
        ({"statistics": np.ones((3, 4))}, "statistics must"),
        ({"gamma": np.ones(4, np.float32)}, "gamma"),
        ({"beta": np.ones(2, np.float32)}, "beta"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"eps": np.nan}, "eps must be"),
        ({"channel_axis": 2}, "channel_axis must be an axis of x"),
        ({"channel_axis": -3}, "channel_axis must be an axis of x"),
        ({"y": np.ones((1, 3), np.float32), "x": np.ones((1, 3), np.float32)}, "one value per channel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(user, change, words):
    arguments = {"y": np.ones((20, 3), np.float32), "statistics": np.ones((3, 3)), "x": np.zeros((20, 3), np.float32)}
    arguments |= {"gamma": np.ones(3, np.float32), "beta": np.ones(3, np.float32), "eps": 1e-5, "channel_axis": 1}
    arguments |= change
    for function, match in ((user.norm_into, words), (door.batch_norm_into, None)):
        with pytest.raises(ValueError, match=match):
            function(*arguments.values())
        assert (arguments["y"] == 1).all()
        assert (arguments["statistics"] == 1).all()


def test_gradients_and_inference_refuse_what_does_not_fit(user):
    x, vector, statistics = np.zeros((20, 3), np.float32), np.ones(3, np.float32), np.ones((3, 3))
    short = np.ones(2, np.float32)
    for place, bad in ((0, x[1:]), (1, short), (2, short), (3, x[1:]), (5, np.ones((3, 4))), (6, short)):
        arguments = [x.copy(), vector.copy(), vector.copy(), x, x, statistics, vector, 1]
        arguments[place] = bad
        with pytest.raises(ValueError, match="must"):
            user.backward_into(*arguments)
    wide, narrow = np.ones(3), np.ones(2)
    for place, bad in ((0, x[1:]), (2, narrow), (3, narrow), (3, -wide), (4, short), (5, short)):
        arguments = [x.copy(), x, wide, wide, vector, vector, 1e-5, 1]
        arguments[place] = bad
        with pytest.raises(ValueError, match="must"):
            user.normalize_into(*arguments)


def test_memory_that_overlaps_partly_is_refused(user):
    memory, vector = np.arange(70, dtype=np.float32), np.ones(3, np.float32)
    x, y = memory[:60].reshape(20, 3), memory[3:63].reshape(20, 3)
    before = memory.copy()
    with pytest.raises(ValueError, match="overlaps x"):
        user.norm_into(y, np.empty((3, 3)), x, vector, vector, 1e-5, 1)
    with pytest.raises(ValueError, match="overlaps gamma or beta"):
        user.norm_into(x, np.empty((3, 3)), x, memory[:3], vector, 1e-5, 1)
    with pytest.raises(ValueError, match="overlaps x"):
        user.backward_into(y, vector.copy(), vector.copy(), x, x, np.ones((3, 3)), vector, 1)
    assert np.array_equal(memory, before)
