"""With `sample_ids`, the mask of a sample follows from its id: an extension of the mask law."""

from __future__ import annotations

import copy
import json
import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import normdrop
from normdrop import MaskStream, _backend, _reference, functional

pytestmark = pytest.mark.kinds

HERE = Path(__file__).parents[1]
LAW = runpy.run_path(str(HERE / "make_golden_masks.py"))  # plain integers, the text of the law
GOLDEN = json.loads((HERE / "data" / "golden_sample_masks.json").read_text(encoding="utf-8"))
KEY, CALL = (0x243F6A88, 0x85A308D3), 2**40 + 7
# Lengths of samples around runs, groups, pairs of groups and the tasks of threads.
SHAPES = [(5, 1), (4, 15), (3, 16), (3, 17), (2, 255), (2, 256), (3, 257), (300, 3), (3, 6, 50), (2, 3, 4, 30), (7,)]


def stream():
    return MaskStream.from_key(KEY, CALL)


def some_ids(n, seed=0):
    """Ids of every size, some twice."""
    ids = np.random.default_rng(seed).integers(-(2**63), 2**63, n, endpoint=False)
    ids[: n // 3] %= 10
    return ids


def drawn(x, ids, **options):
    """Y, context and mask under the stream of these tests."""
    return functional.dropout(x, 0.3, rng=stream(), sample_ids=ids, return_mask=True, **options)


def alone(s, shape, **options):
    """Mask of one sample by the plain law, under the key that the text of the extension gives it."""
    own = MaskStream.from_key(LAW["key_of_sample"](int(s), KEY), CALL)
    return functional.dropout(np.ones(shape), 0.3, rng=own, return_mask=True, **options)[2]


def test_the_golden_vectors_of_samples_follow_from_the_law_in_plain_integers():
    as_tuples = [row | {name: tuple(row[name]) for name in ("key", "sample_key")} for row in GOLDEN]
    assert as_tuples == LAW["sample_rows"]()


@pytest.mark.simulated
def test_every_backend_draws_the_golden_masks_of_samples(backend):
    groups = {}
    for row in GOLDEN:
        groups.setdefault((tuple(row["key"]), row["call"], row["T"], row["n"]), []).append(row)
    assert len(groups) > 3
    for (key, call, threshold, n), rows in groups.items():
        ids = np.array([row["id"] % 2**64 for row in rows], np.uint64).astype(np.int64)
        mask = np.zeros((len(rows), n), np.bool_)
        backend.keep_samples(mask, ids, key, call, threshold)
        assert mask.tolist() == [[bool(int(row["kept"], 16) >> j & 1) for j in range(n)] for row in rows]


@pytest.mark.simulated
@given(
    key=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    call=st.integers(0, 2**63 - 2),
    threshold=st.integers(1, 2**32 - 1),
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    length=st.integers(1, 600),
)
def test_masks_of_any_samples_are_those_of_the_plain_law(backend, key, call, threshold, ids, length):
    mask = np.zeros((len(ids), length), np.bool_)
    backend.keep_samples(mask, np.array(ids, np.int64), key, call, threshold)
    expected = np.empty(length, np.bool_)
    for row, s in zip(mask, ids, strict=True):
        _reference.keep_mask(expected, LAW["key_of_sample"](s, key), call, threshold)
        assert np.array_equal(row, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_mask_of_a_sample_is_that_of_the_sample_alone_under_its_key(backend, shape):
    ids = some_ids(shape[0])
    y, context, mask = drawn(np.ones(shape), ids)
    assert np.array_equal(y != 0, mask)
    assert np.array_equal(functional.dropout_backward(np.ones(shape), context), y)
    for s, kept in zip(ids[:9], mask, strict=False):
        assert np.array_equal(kept, alone(s, shape[1:]))


def test_a_sample_has_the_same_mask_alone_in_any_batch_and_at_any_position(backend):
    rng = np.random.default_rng(3)
    x, ids = rng.normal(size=(40, 3, 50)), rng.permutation(40) - 20
    y = drawn(x, ids)[0]
    for n in (0, 7, 39):
        assert np.array_equal(drawn(x[n : n + 1], ids[n : n + 1])[0], y[n : n + 1])
    order = rng.permutation(40)
    assert np.array_equal(drawn(x[order], ids[order])[0], y[order])
    assert np.array_equal(drawn(x[5:12], ids[5:12])[0], y[5:12])


def test_samples_with_one_id_have_one_mask_and_others_have_their_own(backend):
    mask = drawn(np.ones((4, 200)), np.array([5, 6, 5, 6 + 2**32]))[2]
    assert np.array_equal(mask[0], mask[2])
    assert not np.array_equal(mask[0], mask[1])
    assert not np.array_equal(mask[1], mask[3])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.dtype(">i4")], ids=str)
def test_ids_of_any_integer_dtype_count_modulo_two_to_the_64(dtype):
    ids = np.array([3, 100, 0], dtype)
    expected = drawn(np.ones((3, 80)), ids.astype(np.int64))[2]
    assert np.array_equal(drawn(np.ones((3, 80)), ids)[2], expected)
    negative, large = np.array([-1]), np.array([2**64 - 1], np.uint64)
    assert np.array_equal(drawn(np.ones((1, 80)), negative)[2], drawn(np.ones((1, 80)), large)[2])


@pytest.mark.parametrize("layout", ["Fortran", "exchanged", "sliced", "reversed"])
@pytest.mark.parametrize("shared_axes", [(), (2,), (1, 2), -1])
def test_masks_of_samples_do_not_depend_on_the_memory_layout(backend, layout, shared_axes):
    shape = (6, 7, 20)
    x = {
        "Fortran": np.asfortranarray(np.ones(shape)),
        "exchanged": np.ones((6, 20, 7)).swapaxes(1, 2),
        "sliced": np.ones((12, 7, 40))[::2, :, ::2],
        "reversed": np.ones(shape)[::-1, :, ::-1],
    }[layout]
    ids = some_ids(6)
    y, context, mask = drawn(x, ids, shared_axes=shared_axes)
    axes = np.atleast_1d(np.array(shared_axes, int)) % 3 - 1
    for s, kept in zip(ids, mask, strict=True):
        assert np.array_equal(kept, alone(s, shape[1:], shared_axes=tuple(axes.tolist())))
    assert np.array_equal(y != 0, np.broadcast_to(mask, shape))
    assert np.array_equal(functional.dropout_backward(x, context), y)


@pytest.mark.once
def test_masks_of_samples_do_not_depend_on_the_dtype():
    expected = drawn(np.ones((3, 300)), np.arange(3))[2]
    for dtype in (np.float16, np.float32):
        y, _, mask = drawn(np.ones((3, 300), dtype), np.arange(3))
        assert np.array_equal(mask, expected)
        assert np.array_equal(y != 0, expected)


@pytest.mark.jit
@pytest.mark.once
def test_any_number_of_threads_draws_the_same_masks_of_samples():
    import numba

    from normdrop import _cpu
    from normdrop._cpu.kernels import sample_masks

    for shape in ((3, 70_000), (9000, 30), (1500, 257)):
        ids = some_ids(shape[0])
        expected = np.empty(shape, np.bool_)
        _reference.keep_samples(expected, ids, KEY, CALL, 1 << 30)
        for n_threads in {1, numba.config.NUMBA_NUM_THREADS}:
            mask = np.zeros(shape, np.bool_)
            before = numba.get_num_threads()
            numba.set_num_threads(n_threads)
            try:
                _cpu.keep_samples(mask, ids, KEY, CALL, 1 << 30)
            finally:
                numba.set_num_threads(before)
            assert np.array_equal(mask, expected)
        for parallel in (False, True):
            run = sample_masks.keep_samples.compile(np.dtype(np.bool_), parallel=parallel)
            mask = np.zeros(shape, np.bool_)
            run(mask.reshape(-1), ids, shape[1], *KEY, CALL, 1 << 30)
            assert np.array_equal(mask, expected)


@pytest.mark.simulated
def test_keep_samples_writes_its_own_elements_only(backend):
    for n, length in ((1, 1), (3, 15), (2, 33), (2, 255), (2, 257)):
        buffer = np.full(n * length + 64, 7, np.uint8)
        backend.keep_samples(buffer[32:-32].view(np.bool_).reshape(n, length), np.arange(n), KEY, CALL, 2**31)
        assert np.all(buffer[:32] == 7)
        assert np.all(buffer[-32:] == 7)
        assert np.all(buffer[32:-32] <= 1)


def test_elements_of_many_samples_are_kept_with_probability_1_minus_p_and_independently():
    """Counts and correlations between neighboring ids, elements and calls, each within 5 standard deviations."""
    n, length = 1000, 64
    first, second = (
        functional.dropout(np.ones((n, length)), 0.5, rng=MaskStream.from_key(KEY, call), sample_ids=np.arange(n),
                           return_mask=True)[2] * 2.0 - 1.0
        for call in (0, 1)
    )  # fmt: skip
    plain = functional.dropout(np.ones((n, length)), 0.5, rng=MaskStream.from_key(KEY), return_mask=True)[2] * 2.0 - 1
    bound = 5 / np.sqrt(n * (length - 1))
    assert abs(first.mean()) < bound
    assert abs((first[1:] * first[:-1]).mean()) < bound
    assert abs((first[:, 1:] * first[:, :-1]).mean()) < bound
    assert abs((first * second).mean()) < bound
    assert abs((first * plain).mean()) < bound
    assert np.abs(first.mean(axis=0)).max() < 5 / np.sqrt(n)


def test_no_element_of_the_plain_law_has_the_counter_of_a_samples_key():
    largest = 2**63 - 1
    b = 16 * (largest // 128) + 15
    assert b >> 32 < 2**28 < LAW["WORD"]


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_p_of_0_or_1_keeps_or_drops_every_sample(p):
    y, context, mask = functional.dropout(np.ones((3, 5)), p, rng=stream(), sample_ids=np.arange(3), return_mask=True)
    assert np.all(mask == (p == 0))
    assert np.array_equal(functional.dropout_backward(np.ones((3, 5)), context), y)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_an_empty_batch_takes_no_call(shape):
    own = stream()
    y, context, mask = functional.dropout(
        np.ones(shape), 0.5, rng=own, sample_ids=np.arange(shape[0]), return_mask=True
    )
    assert y.shape == mask.shape == shape
    assert functional.dropout_backward(np.ones(shape), context).shape == shape
    assert own == stream()


def test_the_context_holds_a_copy_of_the_ids_and_can_be_pickled():
    ids, x = np.arange(4), np.ones((4, 90))
    y, context = functional.dropout(x, 0.5, rng=stream(), sample_ids=ids)
    ids[...] = 99
    for used in (context, pickle.loads(pickle.dumps(context)), copy.deepcopy(context)):
        assert np.array_equal(functional.dropout_backward(x, used), y)


def test_a_layer_takes_one_call_for_each_pass_and_gives_backward_the_same_masks():
    layer, x = normdrop.Dropout(0.5, rng=stream()), np.ones((3, 100))
    first, second = (layer(x, sample_ids=np.array([1, 2, 3])) for _ in range(2))
    assert layer.stream.call == CALL + 2
    assert not np.array_equal(first, second)
    layer.forget()
    layer.stream.call = CALL
    assert np.array_equal(layer(x[:1], sample_ids=np.array([3]))[0], first[2])
    assert np.array_equal(layer.backward(x[:1])[0], first[2])
    assert np.array_equal(layer.eval()(x, sample_ids=np.array([1, 2, 3])), x)


def test_channel_dropout_drops_whole_channels_of_each_sample_by_its_id():
    layer, x = normdrop.Dropout2d(0.5, rng=stream()), np.ones((3, 16, 4, 5))
    y = layer(x, sample_ids=np.array([8, 9, 8]))
    assert np.array_equal(y, y[:, :, :1, :1] * x)
    assert np.array_equal(y[0], y[2])
    assert not np.array_equal(y[0], y[1])


@pytest.mark.parametrize(
    ("ids", "options", "error", "words"),
    [
        (np.arange(2), {}, ValueError, ("sample_ids", "(3,)", "(2,)")),
        (np.ones((3, 1), int), {}, ValueError, ("sample_ids", "(3,)", "(3, 1)")),
        (np.arange(3.0), {}, TypeError, ("sample_ids", "float64", "np.int64")),
        (np.ones(3, bool), {}, TypeError, ("sample_ids", "bool")),
        ([1, 2, 3], {}, TypeError, ("sample_ids", "list", "np.asarray")),
        (np.ma.array([1, 2, 3]), {}, TypeError, ("sample_ids", "MaskedArray")),
        (np.arange(3), {"shared_axes": (0, 1)}, ValueError, ("sample_ids", "shared_axes", "take axis 0 out")),
        (np.arange(3), {"shared_axes": -2}, ValueError, ("sample_ids", "shared_axes")),
    ],
)
def test_ids_that_do_not_fit_are_refused_and_change_nothing(refused, ids, options, error, words):
    things = SimpleNamespace(x=np.ones((3, 4)), stream=stream(), ids=ids, layer=normdrop.Dropout(0.5, rng=1, **options))
    refused(
        things,
        lambda t: functional.dropout(t.x, 0.5, rng=t.stream, sample_ids=t.ids, out=t.x, **options),
        error,
        *words,
    )
    refused(things, lambda t: t.layer(t.x, sample_ids=t.ids), error, *words)


def test_ids_with_a_mask_or_without_an_axis_or_along_channels_are_refused(refused):
    things = SimpleNamespace(x=np.ones((3, 4)), stream=stream(), mask=np.ones((3, 4), bool), ids=np.arange(3))
    refused(
        things,
        lambda t: functional.dropout(t.x, 0.5, mask=t.mask, sample_ids=t.ids),
        ValueError, "mask and sample_ids", "leave out sample_ids",
    )  # fmt: skip
    refused(
        things,
        lambda t: functional.dropout(np.ones(()), 0.5, rng=t.stream, sample_ids=t.ids),
        ValueError, "sample_ids", "np.newaxis",
    )  # fmt: skip
    layer = normdrop.Dropout1d(0.5, channel_axis=0, rng=1)
    refused(
        SimpleNamespace(layer=layer),
        lambda t: t.layer(np.ones((3, 3, 4)), sample_ids=np.arange(3)),
        ValueError, "channel_axis=0",
    )  # fmt: skip


def test_a_pass_that_fails_gives_the_call_back(monkeypatch):
    own, layer = stream(), normdrop.Dropout(0.5, rng=stream())

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("normdrop._backend.keep_samples", fail)
    for call in (
        lambda: functional.dropout(np.ones((3, 4)), 0.5, rng=own, sample_ids=np.arange(3)),
        lambda: layer(np.ones((3, 4)), sample_ids=np.arange(3)),
    ):
        with pytest.raises(MemoryError):
            call()
    assert own == layer.stream == stream()


def test_fused_passes_heed_the_ids_in_a_context(monkeypatch):
    """They give none, but a context may come from anywhere."""
    monkeypatch.setattr(_backend.contracts, "select", lambda x: _reference)  # whose kernels are not compiled
    x, ids = np.ones((3, 40)), np.array([4, 5, 6])
    _, context, mask = drawn(x, ids)
    _, fused = functional.act_dropout(x, activation="identity", p=0.3, rng=stream())
    dx = functional.act_dropout_backward(x, fused._replace(dropout=context))
    assert np.array_equal(dx != 0, mask)


@pytest.mark.simulated
@pytest.mark.cuda
def test_cuda_arrays_of_ids_and_masks_agree_with_those_on_the_host():
    from normdrop import _device

    x, ids = np.random.default_rng(0).normal(size=(5, 70)), some_ids(5)
    y, context, mask = drawn(x, ids)
    for given_ids in (ids, _device.to_device(ids)):
        d_y, d_context, d_mask = drawn(_device.to_device(x), given_ids)
        assert np.array_equal(_device.to_host(d_y), y)
        assert np.array_equal(_device.to_host(d_mask), mask)
        dx = functional.dropout_backward(_device.to_device(x), d_context)
        assert np.array_equal(_device.to_host(dx), functional.dropout_backward(x, context))
