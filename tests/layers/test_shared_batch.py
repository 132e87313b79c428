"""One batch in several processes: a layer with `reduce` computes what one process computes on the joined array.

The processes are threads here, whose `reduce` waits for all of them; `tests/doors` has real ones.
"""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from normdrop import BatchNorm, ChannelStatistics, functional

SHARDS = {"equal": [4, 4], "unequal": [1, 5, 3], "empty": [0, 6, 0], "one value each": [1, 1]}
SHAPES = {"rows": (3,), "planes": (3, 40), "images": (3, 2, 3)}


class Team:
    """What adds over n threads, in the order of their ranks."""

    def __init__(self, n):
        self.n, self.parts = n, [None] * n
        self.barrier = threading.Barrier(n, timeout=60)

    def reduce_of(self, rank):
        def reduce(part):
            self.parts[rank] = part
            self.barrier.wait()
            whole = sum(self.parts[1:], start=self.parts[0])
            self.barrier.wait()
            return whole

        return reduce

    def run(self, work):
        """Return what work(rank, reduce) returns on each rank."""
        with ThreadPoolExecutor(self.n) as pool:
            return list(pool.map(lambda rank: work(rank, self.reduce_of(rank)), range(self.n)))


def data(sizes, shape):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(300.0, 0.1, (sum(sizes), *shape)), rng.normal(size=(sum(sizes), *shape))
    x[:1] += 1.0  # shards whose means differ
    return x, dy


def layer_of(**options):
    layer = BatchNorm(3, dtype=np.float64, **options)
    layer.gamma[:], layer.beta[:] = [1.0, 2.0, -3.0], [0.0, 1.0, 2.0]
    return layer


def close(a, b, bound=1e-12):
    scale = np.max(np.abs(b), initial=0.0)
    return a.shape == b.shape and bool(np.max(np.abs(a - b), initial=0.0) <= bound * max(scale, 1.0))


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS)
def test_shards_have_the_results_of_one_process_on_the_joined_array(sizes, shape, channel_axis):
    x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, channel_axis)) for a in data(sizes, shape))
    whole = layer_of(channel_axis=channel_axis)
    y, dx = whole(x), whole.backward(dy)
    cuts = np.cumsum(sizes)[:-1]
    xs, dys = np.split(x, cuts), np.split(dy, cuts)

    def work(rank, reduce):
        layer = layer_of(channel_axis=channel_axis, reduce=reduce)
        return layer(xs[rank]), layer.backward(dys[rank]), layer

    results = Team(len(sizes)).run(work)
    assert close(np.concatenate([r[0] for r in results]), y, 1e-10)  # the mean is far from zero
    assert close(np.concatenate([r[1] for r in results]), dx, 1e-10)
    for _, _, layer in results:
        assert close(layer.running_mean, whole.running_mean)
        assert np.allclose(layer.running_var, whole.running_var, rtol=1e-12, atol=0)
        assert (layer.num_batches, layer.num_values) == (whole.num_batches, whole.num_values)
        assert close(layer.dbeta, whole.dbeta)
        assert close(layer.dgamma, whole.dgamma, 1e-10)
        assert layer.state_dict()["running_var"].tobytes() == results[0][2].running_var.tobytes()


@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS)
def test_gradients_of_ordinary_data_are_those_of_one_process_to_1e_12(sizes):
    rng = np.random.default_rng(1)
    x, dy = rng.normal(0.5, 2.0, (2, sum(sizes), 3, 5))
    whole = layer_of()
    y, dx = whole(x), whole.backward(dy)
    cuts = np.cumsum(sizes)[:-1]
    xs, dys = np.split(x, cuts), np.split(dy, cuts)

    def work(rank, reduce):
        layer = layer_of(reduce=reduce)
        return layer(xs[rank]), layer.backward(dys[rank]), layer.dgamma, layer.dbeta

    results = Team(len(sizes)).run(work)
    assert close(np.concatenate([r[0] for r in results]), y)
    assert close(np.concatenate([r[1] for r in results]), dx)
    assert all(close(r[2], whole.dgamma) and close(r[3], whole.dbeta) for r in results)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_dtypes_are_rounded_once(dtype):
    x, dy = (a.astype(dtype) for a in np.random.default_rng(1).normal(0.5, 2.0, (2, 9, 3, 5)))
    y, context = functional.batch_norm(x)
    dx, _, _ = functional.batch_norm_backward(dy, context)

    def work(rank, reduce):
        part = slice(0, 2) if rank == 0 else slice(2, None)
        y, context = functional.batch_norm(x[part], reduce=reduce)
        return y, functional.batch_norm_backward(dy[part], context, reduce=reduce)[0]

    results = Team(2).run(work)
    for k, expected in enumerate((y, dx)):
        computed = np.concatenate([r[k] for r in results])
        assert computed.dtype == dtype
        assert np.allclose(computed.astype(np.float64), expected.astype(np.float64), rtol=float(np.finfo(dtype).eps))


def test_a_constant_channel_gives_exactly_beta():
    x = np.full((7, 3), 0.1)

    def work(rank, reduce):
        return layer_of(reduce=reduce)(x[:2] if rank else x[2:])

    for y in Team(2).run(work):
        assert np.array_equal(y, np.broadcast_to([0.0, 1.0, 2.0], y.shape))


def test_results_may_be_written_in_place():
    x, dy = np.random.default_rng(1).normal(0.5, 2.0, (2, 9, 3, 5))
    whole = layer_of()
    y, dx = whole(x), whole.backward(dy)

    def work(rank, reduce):
        part = slice(0, 2) if rank == 0 else slice(2, None)
        layer, a, b = layer_of(reduce=reduce), x[part].copy(), dy[part].copy()
        return layer(a, out=a), layer.backward(b, out=b)

    results = Team(2).run(work)
    assert close(np.concatenate([r[0] for r in results]), y)
    assert close(np.concatenate([r[1] for r in results]), dx)


def test_inference_and_layers_alone_reduce_nothing():
    layer = layer_of(reduce=lambda part: pytest.fail("called"))
    layer.eval()(np.ones((4, 3)))
    layer.train().reduce = None
    layer(np.random.default_rng(0).normal(size=(4, 3)))
    assert layer.num_values == 4
    alone, plain = layer_of(reduce=lambda part: part), layer_of()
    x, dy = np.random.default_rng(1).normal(0.5, 2.0, (2, 9, 3, 5))
    assert close(alone(x), plain(x))
    assert close(alone.backward(dy), plain.backward(dy))


def _fails(part):
    raise ConnectionError("a worker is gone")


X = np.random.default_rng(0).normal(size=(4, 3))
FORWARD = {
    "raises": (_fails, ConnectionError, "a worker is gone"),
    "nothing": (lambda part: None, TypeError, "reduce must return the ChannelStatistics of all processes; got None"),
    "other channels": (lambda part: ChannelStatistics(2), ValueError, "same number of channels"),
    "too few": (lambda part: ChannelStatistics.of(X[:2]), ValueError, "the sum over all processes"),
}
BACKWARD = {
    "raises": (_fails, ConnectionError, "a worker is gone"),
    "nothing": (lambda part: None, TypeError, "reduce must return the float64 array"),
    "other dtype": (lambda part: part.astype(np.float32), TypeError, "got float32"),
    "other shape": (lambda part: part[:2], ValueError, "got shape (2, 3)"),
    "out of step": (lambda part: 2 * part, ValueError, "of 4 values per channel as in the forward pass; got 8.0"),
}


@pytest.mark.parametrize(("reduce", "error", "words"), FORWARD.values(), ids=FORWARD)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_forward_pass_whose_reduce_fails_leaves_the_layer_as_it_was(refused, reduce, error, words, in_place):
    layer = layer_of(reduce=lambda part: part)
    layer(X)
    layer.reduce = reduce
    things = SimpleNamespace(layer=layer, x=X.copy())
    refused(things, lambda t: t.layer(t.x, out=t.x if in_place else None), error, words)


@pytest.mark.parametrize(("reduce", "error", "words"), BACKWARD.values(), ids=BACKWARD)
def test_a_backward_pass_whose_reduce_fails_leaves_the_layer_as_it_was(refused, reduce, error, words):
    layer = layer_of(reduce=lambda part: part)
    layer(X)
    layer.reduce = reduce
    things = SimpleNamespace(layer=layer, dy=X.copy())
    refused(things, lambda t: t.layer.backward(t.dy, out=t.dy), error, words)
    layer.reduce = lambda part: part
    layer.backward(X)  # the pass still waits


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(TypeError, match="reduce must be callable"):
        BatchNorm(3, reduce=3)
    with pytest.raises(TypeError, match="reduce must be callable"):
        functional.batch_norm(X, reduce="sum")
    with pytest.raises(ValueError, match="one value per channel in all processes together"):
        functional.batch_norm(X[:1], reduce=lambda part: part)
    _, shared = functional.batch_norm(X, reduce=lambda part: part)
    _, plain = functional.batch_norm(X)
    with pytest.raises(ValueError, match="had a reduce"):
        functional.batch_norm_backward(X, shared)
    with pytest.raises(ValueError, match="had no reduce"):
        functional.batch_norm_backward(X, plain, reduce=lambda part: part)


def test_no_values_anywhere_change_nothing():
    layer = layer_of(reduce=lambda part: part)
    before = layer.state_dict()
    assert layer(X[:0]).shape == (0, 3)
    assert layer.backward(X[:0]).shape == (0, 3)
    assert all(np.array_equal(layer.state_dict()[name], values) for name, values in before.items())


def twice(part):
    return part


def test_copies_and_pickles_keep_reduce_and_older_pickles_have_none():
    layer = layer_of(reduce=twice)
    assert copy.deepcopy(layer).reduce is pickle.loads(pickle.dumps(layer)).reduce is twice
    assert "reduce=..." in repr(layer)
    state = layer.__getstate__()
    del state["reduce"]
    old = BatchNorm.__new__(BatchNorm)
    old.__setstate__(state)
    assert old.reduce is None
    assert "reduce" not in repr(old)


def test_running_statistics_without_a_layer_take_the_whole_batch():
    mean, var = np.zeros(3), np.ones(3)
    _, context = functional.batch_norm(X, reduce=lambda part: part + ChannelStatistics.of(X + 7.0))
    assert context.n == 8
    assert functional.update_running(mean, var, context, momentum=0.0)
    assert np.allclose(var, np.concatenate([X, X + 7.0]).var(axis=0, ddof=1), rtol=1e-13)
