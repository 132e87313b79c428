"""Any strides in; the same shape, dtype and memory order out; inputs unchanged and never aliased (law 2.7)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import normdrop
from normdrop import MaskStream, _backend, _layout, _reference, functional

LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "channels last": lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, 3, 1, 2),
    "sliced": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "sliced inside": lambda x: np.repeat(x, 3, axis=3)[..., 1::3],
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1],
    "reversed Fortran": lambda x: np.asfortranarray(x[:, ::-1])[:, ::-1],
    "misaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "memory-mapped": None,
}


@pytest.fixture(params=list(LAYOUTS))
def x(request, tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 3, 5, 6)).astype(np.float32)
    if request.param == "memory-mapped":
        values.tofile(tmp_path / "x.bin")
        return np.memmap(tmp_path / "x.bin", np.float32, "r", shape=values.shape)
    return LAYOUTS[request.param](values)


def layers():
    for scaling in ("inverted", "original"):
        for p in (0.0, 0.5, 1.0):
            for training in (True, False):
                for make in (normdrop.Dropout, normdrop.Dropout2d):
                    layer = make(p, scaling=scaling, rng=0)
                    yield layer if training else layer.eval()


def test_output_has_shape_dtype_and_memory_order_of_the_input(backend, x):
    for layer in layers():
        for result in (layer(x), layer.backward(x)):
            assert type(result) is np.ndarray
            assert (result.shape, result.dtype, result.strides) == (x.shape, x.dtype, np.empty_like(x).strides)
            assert result.flags.writeable
            assert result.flags.aligned


def test_inputs_are_not_modified_and_not_aliased(backend, x):
    before = x.tobytes()
    mask = np.random.default_rng(1).random(x.shape) < 0.5
    mask_before = mask.copy()
    for layer in layers():
        for result in (layer(x), layer.backward(x)):
            assert not np.shares_memory(result, x)
            result[...] = 7
            assert x.tobytes() == before
    y, context, returned = functional.dropout(x, 0.5, mask=mask, return_mask=True)
    for result in (y, functional.dropout_backward(x, context)):
        assert not np.shares_memory(result, x)
        assert not np.shares_memory(result, mask)
    assert np.array_equal(mask, mask_before)
    assert np.array_equal(returned, mask)


def test_the_context_does_not_keep_x_alive(backend, x):
    layer = normdrop.Dropout(0.5, rng=0)
    values = np.array(x)
    y, context = layer.forward(values, return_context=True)
    dy = values.copy()
    values[...] = np.nan
    assert np.array_equal(layer.backward(dy, context=context), y)
    assert not any(isinstance(item, np.ndarray) for item in context)


@pytest.mark.parametrize("launcher", ["dropout", "dropout_transposed", "keep_mask", "apply_mask"])
def test_dropout_that_fails_gives_its_call_back(backend, monkeypatch, launcher):
    def fail(*_):
        raise MemoryError(launcher)

    broken = SimpleNamespace(**{name: getattr(backend, name) for name in vars(_reference) if hasattr(backend, name)})
    monkeypatch.setattr(broken, launcher, fail)
    monkeypatch.setattr(_backend.contracts, "select", lambda x: broken)
    shared = 1 if launcher in ("keep_mask", "apply_mask") else ()
    x = np.ones((6, 8), np.float32, order="F" if launcher == "dropout_transposed" else "C")
    stream = MaskStream.from_key((1, 2), 3)
    layer = normdrop.Dropout(0.5, shared_axes=shared, rng=stream)
    for call in (lambda: layer(x), lambda: functional.dropout(x, 0.5, shared_axes=shared, rng=stream)):
        with pytest.raises(MemoryError, match=launcher):
            call()
        assert stream == MaskStream.from_key((1, 2), 3)


OUTPUTS = {name: make for name, make in LAYOUTS.items() if make and name != "read-only"}


@pytest.mark.parametrize("order", list(OUTPUTS))
def test_out_of_any_layout_takes_the_result_and_is_returned(backend, x, order):
    out = OUTPUTS[order](np.zeros(x.shape, np.float32))
    if not out.flags.writeable:
        out = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    surrounding = out.base.size if isinstance(out.base, np.ndarray) else out.size
    for layer, twin in zip(layers(), layers(), strict=True):
        out[...] = np.nan
        assert layer(x, out=out) is out
        assert np.array_equal(out, twin(x))
        out[...] = np.nan
        assert layer.backward(x, out=out) is out
        assert np.array_equal(out, twin.backward(x))
    assert surrounding == (out.base.size if isinstance(out.base, np.ndarray) else out.size)


def test_out_writes_between_the_elements_of_a_slice_nothing(backend):
    whole = np.full((6, 10), 7.0)
    x = np.ones((3, 5))
    normdrop.Dropout(0.5, rng=0)(x, out=whole[::2, ::2])
    inside = np.zeros(whole.shape, bool)
    inside[::2, ::2] = True
    assert np.all(whole[~inside] == 7)
    assert set(np.unique(whole[inside])) == {0.0, 2.0}


def test_out_may_be_x_itself_forward_and_backward(backend, x):
    for layer, twin in zip(layers(), layers(), strict=True):
        place = np.copy(x, order="K") if x.flags.writeable else np.array(x)
        expected = twin(x)
        assert layer(place, out=place) is place
        assert np.array_equal(place, expected)
        dy = np.array(x)
        expected = twin.backward(x)
        assert layer.backward(dy, out=dy) is dy
        assert np.array_equal(dy, expected)


def test_in_place_works_on_slices_and_reversed_views(backend):
    for view in (np.s_[::2], np.s_[::-1], np.s_[:, ::3], np.s_[1:, 1:], np.s_[:, ::-2]):
        for shared_axes in ((), (0,), (1,)):
            whole = np.random.default_rng(0).normal(size=(8, 12))
            x = whole[view]
            expected = functional.dropout(x.copy(), 0.5, shared_axes=shared_axes, rng=0)[0]
            rest = whole.copy()
            rest[view] = 0
            y, _ = functional.dropout(x, 0.5, shared_axes=shared_axes, rng=0, out=x)
            assert y is x
            assert np.array_equal(x, expected)
            whole[view] = 0
            assert np.array_equal(whole, rest)


def test_in_place_takes_another_view_of_the_same_elements(backend):
    x = np.arange(1.0, 25.0).reshape(4, 6)
    expected = functional.dropout(x, 0.5, rng=0)[0]
    functional.dropout(x, 0.5, rng=0, out=x[:])
    assert np.array_equal(x, expected)


def test_out_beside_x_in_the_same_memory_is_no_overlap(backend):
    whole = np.arange(1.0, 41.0).reshape(4, 10)
    for x, out in ((whole[:, ::2], whole[:, 1::2]), (whole[:2], whole[2:])):
        expected = functional.dropout(x.copy(), 0.5, rng=0)[0]
        before = x.copy()
        assert functional.dropout(x, 0.5, rng=0, out=out)[0] is out
        assert np.array_equal(out, expected)
        assert np.array_equal(x, before)


def test_kernels_are_given_aligned_contiguous_arrays_only(monkeypatch, x):
    calls = []

    def checked(name):
        def launch(*arguments):
            calls.append(name)
            arrays = [a for a in arguments if isinstance(a, np.ndarray)]
            assert all(a.flags.aligned and a.flags.c_contiguous and a.size for a in arrays)
            getattr(_reference, name)(*arguments)

        return launch

    names = ("dropout", "dropout_transposed", "keep_mask", "apply_mask")
    spy = SimpleNamespace(**{name: checked(name) for name in names})
    monkeypatch.setattr(normdrop._backend.contracts, "select", lambda x: spy)
    place = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    for out in (None, place, np.zeros((4, 3, 5, 12), np.float32)[..., ::2]):
        for layer in layers():
            layer(x, out=out)
            layer.backward(x, out=out)
    assert {"keep_mask", "apply_mask"} <= set(calls)


def test_a_contiguous_array_is_never_copied_by_the_layout():
    values = np.zeros((3, 4, 5), np.float32)
    for view in (values, values.T, values.transpose(1, 0, 2), values[:, :1], values[1:]):
        if view.flags.c_contiguous or view.T.flags.c_contiguous or view.transpose(1, 0, 2).flags.c_contiguous:
            assert _layout.dense(view)[0] is view


def test_subclasses_give_plain_arrays(backend):
    x = np.ones((3, 4)).view(np.recarray)
    y = normdrop.Dropout(0.5, rng=0)(x)
    assert type(y) is np.ndarray
    assert np.array_equal(y, normdrop.Dropout(0.5, rng=0)(np.ones((3, 4))))


@st.composite
def views(draw):
    """Any strided view: axes in any order, steps of either sign, offsets, repeated axes."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=9))
    base = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape).astype(dtype)
    view = base[draw(hnp.basic_indices(shape, allow_newaxis=True, max_dims=6))]
    view = np.asarray(view)
    view = view.transpose(draw(st.permutations(range(view.ndim))))
    if draw(st.integers(0, 9)) == 0:
        view = np.broadcast_to(view, (draw(st.integers(1, 3)), *view.shape))
    return view


@given(data=st.data(), x=views(), p=st.floats(0, 1), call=st.integers(0, 2**40))
def test_any_view_with_any_shared_axes_gives_what_broadcasting_gives(backend, data, x, p, call):
    shared_axes = data.draw(st.sets(st.integers(0, x.ndim - 1))) if x.ndim else ()
    scaling = data.draw(st.sampled_from(["inverted", "original"]))
    threshold = round(p * 2**32)
    mask_shape = tuple(1 if axis in shared_axes else n for axis, n in enumerate(x.shape))
    mask = np.empty(int(np.prod(mask_shape)), np.bool_)
    _reference.keep_mask(mask, (3, 4), call, threshold)
    mask = mask.reshape(mask_shape)
    scale = 1.0 if scaling == "original" or threshold == 2**32 else 1 / (1 - threshold / 2**32)
    before = x.tobytes()
    y, context = functional.dropout(
        x, p, shared_axes=tuple(shared_axes), scaling=scaling, rng=MaskStream.from_key((3, 4), call)
    )
    with np.errstate(over="ignore"):
        expected = np.where(mask, x * x.dtype.type(scale), x.dtype.type(0))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert np.array_equal(y, expected)
    assert not np.signbit(y[~np.broadcast_to(mask, x.shape)]).any()
    assert np.array_equal(functional.dropout_backward(x, context), expected)
    assert x.tobytes() == before
    assert not np.shares_memory(x, y)
    if 0 not in x.strides:
        model = np.empty_like(x)  # the stride of an axis of length 1 means nothing
        assert [s for s, n in zip(y.strides, y.shape, strict=True) if n > 1] == [
            s for s, n in zip(model.strides, model.shape, strict=True) if n > 1
        ]
