"""Statistics of Dask arrays beside those of the array in one piece, in threads and in worker processes."""

from __future__ import annotations

import contextlib
import doctest
import os
import signal
import warnings

import numpy as np
import pytest

import normdrop.dask as door
from normdrop import ChannelStatistics, functional

da = pytest.importorskip("dask.array")

pytestmark = [pytest.mark.once, pytest.mark.same]

CHUNKS = [(-1, -1, -1), (1, -1, -1), (7, 2, 3), (5, 1, -1), (20, 3, 1)]


def data(dtype=np.float64):
    x = np.random.default_rng(0).normal(300.0, 0.1, (20, 3, 6)).astype(dtype)
    x[:7] += 1.0
    return x


def test_examples_of_the_door_run():
    result = doctest.testmod(door, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("axis", [1, -1, 0])
def test_chunks_along_any_axes_have_the_statistics_of_the_whole(chunks, axis):
    x = data()
    lazy = door.statistics(da.from_array(x, chunks), axis)
    assert not isinstance(lazy, ChannelStatistics)
    computed, whole = lazy.compute(scheduler="synchronous"), ChannelStatistics.of(x, axis)
    assert np.array_equal(computed.n, whole.n)
    assert np.allclose(computed.mean, whole.mean, rtol=1e-15, atol=0)
    assert np.allclose(computed.var(), whole.var(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_statistics_do_not_depend_on_chunks(chunks, dtype):
    x = data(dtype)
    computed = door.statistics(da.from_array(x, chunks), exact=True).compute(scheduler="threads")
    assert computed.to_array().tobytes() == ChannelStatistics.of(x, exact=True).to_array().tobytes()


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_an_array_is_normalized_by_the_statistics_of_all_chunks(chunks, axis):
    x = data(np.float32)
    gamma, beta = np.linspace(-1, 2, x.shape[axis]), np.linspace(0, 3, x.shape[axis])
    y = door.batch_norm(da.from_array(x, chunks), gamma, beta, channel_axis=axis)
    expected, _ = functional.batch_norm(x, gamma, beta, channel_axis=axis)
    assert (y.shape, y.dtype, y.chunks) == (x.shape, x.dtype, da.from_array(x, chunks).chunks)
    assert np.allclose(y.compute(scheduler="synchronous"), expected, rtol=1e-6, atol=1e-6)
    other = door.batch_norm(da.from_array(x, chunks), channel_axis=axis, whole=ChannelStatistics.of(x, axis))
    plain, _ = functional.batch_norm(x, channel_axis=axis)
    assert np.allclose(other.compute(scheduler="synchronous"), plain, rtol=1e-6, atol=1e-6)


def test_a_tree_of_many_chunks_merges_a_few_at_a_time():
    x = np.random.default_rng(0).normal(size=(200, 2))
    lazy = door.statistics(da.from_array(x, (1, 2)), exact=True)
    assert max(len(task.dependencies) for task in lazy.__dask_graph__().values() if hasattr(task, "dependencies")) <= 8
    assert lazy.compute(scheduler="threads") == ChannelStatistics.of(x, exact=True)


@contextlib.contextmanager
def worker_processes(n):
    """Start a cluster of this machine; give its client."""
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cluster's own
        with (
            distributed.LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            assert len(client.scheduler_info()["workers"]) == n
            yield client


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_worker_processes_give_the_statistics_of_the_whole(n):
    x = data()
    with worker_processes(n) as client:
        array = da.from_array(x, (3, 2, 2))
        rounded, exact, y = client.gather(
            client.compute([door.statistics(array), door.statistics(array, exact=True), door.batch_norm(array)])
        )
    assert exact == ChannelStatistics.of(x, exact=True)
    assert np.allclose(rounded.var(), exact.var(), rtol=1e-12, atol=0)
    assert rounded == door.statistics(array).compute(scheduler="synchronous")
    assert np.allclose(y, functional.batch_norm(x)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_worker_process_that_is_killed_in_the_middle_changes_no_result(tmp_path):
    x, marker = data(), tmp_path / "killed"

    def deadly(chunk, block_info=None):  # the eleventh of 14 chunks, once
        if block_info[0]["chunk-location"] == (5, 1, 0) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return chunk

    array = da.from_array(x, (3, 2, 6)).map_blocks(deadly, dtype=x.dtype)
    with worker_processes(2) as client:
        lazy = [door.statistics(array), door.statistics(array, exact=True), door.batch_norm(array)]
        rounded, exact, y = client.gather(client.compute(lazy))
    assert marker.exists()
    assert exact == ChannelStatistics.of(x, exact=True)
    assert rounded == door.statistics(da.from_array(x, (3, 2, 6))).compute(scheduler="synchronous")
    assert np.allclose(y, functional.batch_norm(x)[0], rtol=1e-9, atol=1e-9)


REFUSED = [
    (lambda: door.statistics(np.ones((3, 2))), TypeError, "array must be a Dask array"),
    (lambda: door.statistics(da.ones(3)), ValueError, "at least two axes"),
    (lambda: door.statistics(da.ones((3, 2)), 2), ValueError, "channel_axis must be an axis"),
    (lambda: door.statistics(da.ones((3, 2), dtype=int)), TypeError, "array.dtype must be"),
    (lambda: door.batch_norm(da.ones((3, 2)), eps=0.0), ValueError, "eps must be positive"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_what_is_wrong_is_refused_by_name(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_without_dask_one_line_names_the_extra(in_subprocess):
    code = """
    import sys
    sys.modules["dask"] = None
    import normdrop.dask
    try:
        normdrop.dask.statistics(None)
    except ImportError as error:
        print(error)
    """
    (line,) = in_subprocess(code).splitlines()
    assert "pip install 'normdrop[dask]'" in line
