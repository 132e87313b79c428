"""Arrays on a GPU in, the same kind out: on the host's laws, without copies, and never mixed with host arrays."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _device, functional

pytestmark = [pytest.mark.cuda, pytest.mark.simulated]


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def on_gpu(x):
    """A Numba device array of the same values and memory order."""
    from numba import cuda

    order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    lying = cuda.to_device(np.ascontiguousarray(x.transpose(order)))
    back = np.argsort(order)
    view = _device.view(lying).transpose(back)
    if list(order) == list(range(x.ndim)):
        return lying
    return Foreign(view, lying)


class Foreign:
    """An array of a library that is not known: it has nothing but `__cuda_array_interface__`."""

    def __init__(self, view, owner):
        self.owner = owner
        self.__cuda_array_interface__ = {
            "shape": view.shape,
            "strides": view.strides,
            "typestr": view.dtype.str,
            "data": (view.address, view.readonly),
            "version": 3,
        }


def foreign(x):
    lying = _device.to_device(x)
    return Foreign(_device.view(lying), lying)


class ByDLPack:
    """An array that offers DLPack alone; only in the simulator is the host's memory that of a GPU."""

    def __init__(self, x):
        self.x = x

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream=None):
        return self.x.__dlpack__()


def values(x):
    return _device.to_host(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shared_axes", [(), (2,), (0, 2), (1,)])
def test_dropout_of_device_arrays_is_that_of_host_arrays(shared_axes, dtype):
    x, options = normal(4, 5, 7, dtype=dtype), {"shared_axes": shared_axes}
    y, context, mask = functional.dropout(x, 0.4, rng=1, return_mask=True, **options)
    dx = functional.dropout_backward(x, context)
    d = on_gpu(x)
    d_y, d_context, d_mask = functional.dropout(d, 0.4, rng=1, return_mask=True, **options)
    assert type(d_y) is type(d_mask) is type(d)
    assert d_context == context
    assert values(d_mask).tobytes() == mask.tobytes()
    assert values(d_y).tobytes() == y.tobytes()
    assert values(functional.dropout_backward(d, d_context)).tobytes() == dx.tobytes()
    by_mask, by_context = functional.dropout(d, 0.4, mask=d_mask, **options)
    assert by_context.mask is d_mask
    assert values(by_mask).tobytes() == y.tobytes()
    assert values(functional.dropout_backward(d, by_context)).tobytes() == dx.tobytes()
    assert values(d).tobytes() == x.tobytes()


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("scaling", ["inverted", "original"])
def test_dropout_of_nothing_and_of_everything_and_inference(scaling, p):
    x = normal(3, 5)
    layer, host = (normdrop.Dropout(p, scaling=scaling, rng=0) for _ in range(2))
    for _ in range(2):
        assert values(layer(on_gpu(x))).tobytes() == host(x).tobytes()
        assert values(layer.backward(on_gpu(x))).tobytes() == host.backward(x).tobytes()
        layer.eval()
        host.eval()


LAYOUTS = {
    "C order": lambda x: x,
    "Fortran order": np.asfortranarray,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_order_is_kept_and_changes_no_mask(layout):
    x = LAYOUTS[layout](normal(2, 6, 4, 5))
    y = functional.dropout(x, 0.5, rng=3)[0]
    d_y = functional.dropout(on_gpu(x), 0.5, rng=3)[0]
    assert values(d_y).tobytes() == y.tobytes()
    assert d_y.strides == y.strides


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_of_device_arrays_is_that_of_host_arrays(layout, dtype):
    x, dy = (LAYOUTS[layout](normal(2, 3, 4, 5, dtype=dtype, seed=seed)) for seed in (0, 1))
    bound = {np.float16: 2.0**-10, np.float32: 1e-6, np.float64: 1e-12}[dtype]
    layer, host = normdrop.BatchNorm(3, gamma_init="uniform", rng=0).to_device(), None
    host = normdrop.BatchNorm(3, gamma_init="uniform", rng=0)

    def same(computed, expected, bound=bound):
        np.testing.assert_allclose(values(computed), expected, rtol=bound, atol=bound)
        assert values(computed).dtype == expected.dtype

    for options in ({}, {"keep_x": True}, {}):
        d = on_gpu(x)
        y, d_y = host(x, **options), layer(d, **options)
        same(d_y, y)
        assert d_y.strides == y.strides
        same(layer.backward(on_gpu(dy)), host.backward(dy))
        if host.dgamma is not None:
            same(layer.dgamma, host.dgamma, 1e-6)
            same(layer.dbeta, host.dbeta, 1e-6)
        same(layer.running_mean, host.running_mean, 1e-6)
        same(layer.running_var, host.running_var, 1e-6)
        layer.eval()
        host.eval()
    assert layer.dgamma is host.dgamma is None
    assert (layer.num_batches, layer.num_values) == (host.num_batches, host.num_values) == (1, 40)


def test_out_is_written_and_may_be_x():
    x = normal(3, 4, 5)
    expected = functional.dropout(x, 0.5, rng=1)[0]
    out, d = on_gpu(np.empty_like(x)), on_gpu(x)
    assert functional.dropout(d, 0.5, rng=1, out=out)[0] is out
    assert values(out).tobytes() == expected.tobytes()
    other = foreign(np.empty((5, 4, 3), np.float32))
    fortran = Foreign(_device.view(other).transpose((2, 1, 0)), other)
    assert functional.dropout(d, 0.5, rng=1, out=fortran)[0] is fortran
    assert values(fortran).tobytes() == expected.tobytes()
    assert functional.dropout(d, 0.5, rng=1, out=d)[0] is d
    assert values(d).tobytes() == expected.tobytes()
    d = on_gpu(x)
    y, context = functional.batch_norm(d, out=d)
    assert y is d
    np.testing.assert_allclose(values(y), functional.batch_norm(x)[0], rtol=1e-6, atol=1e-6)
    assert values(context.x).tobytes() == x.tobytes()
    np.testing.assert_allclose(
        values(functional.batch_norm_backward(on_gpu(x), context)[0]),
        functional.batch_norm_backward(x, functional.batch_norm(x)[1])[0],
        rtol=1e-6,
        atol=1e-6,
    )


def test_an_array_with_nothing_but_the_interface_is_taken_with_any_strides():
    from numba import cuda

    x = normal(6, 8)
    whole = foreign(x)
    part = Foreign(_device.view(whole), whole)
    part.__cuda_array_interface__ |= {"shape": (3, 4), "strides": (64, 8)}
    y, _ = functional.dropout(part, 0.5, rng=1)
    assert type(y) is type(cuda.device_array(1))
    assert values(y).tobytes() == functional.dropout(x[::2, ::2], 0.5, rng=1)[0].tobytes()
    y, context = functional.batch_norm(part)
    np.testing.assert_allclose(values(y), functional.batch_norm(x[::2, ::2])[0], rtol=1e-6, atol=1e-6)
    assert context.n == 3


def test_misaligned_memory_gives_the_same_bits():
    x = normal(2, 4, 64)
    flat = foreign(np.concatenate([[0], x.ravel()]).astype(np.float32))
    odd = Foreign(_device.view(flat), flat)
    address = odd.__cuda_array_interface__["data"][0] + 4
    odd.__cuda_array_interface__ |= {"shape": x.shape, "strides": x.strides, "data": (address, False)}
    assert _device.view(on_gpu(x)).is_aligned
    assert not _device.view(odd).is_aligned
    for pass_ in (lambda a: functional.dropout(a, 0.5, rng=1)[0], lambda a: functional.batch_norm(a)[0]):
        assert values(pass_(odd)).tobytes() == values(pass_(on_gpu(x))).tobytes()


def test_host_and_device_arrays_do_not_mix_and_the_error_says_which_is_where(refused):
    from types import SimpleNamespace

    x, d = normal(3, 2, 4), on_gpu(normal(3, 2, 4))
    stream, things = MaskStream(0), SimpleNamespace(x=x)
    things.stream, things.layer = stream, normdrop.BatchNorm(2)
    there = "is on GPU 0"
    refused(things, lambda t: functional.dropout(d, 0.5, rng=t.stream, out=t.x), TypeError, "out is on the host", there)
    refused(things, lambda t: functional.dropout(t.x, 0.5, rng=t.stream, out=d), TypeError, "out is on GPU", "host")
    mask = np.ones((3, 2, 4), np.bool_)
    refused(things, lambda t: functional.dropout(d, 0.5, mask=mask), TypeError, "mask is on the host", there)
    refused(things, lambda t: functional.batch_norm(d, np.ones(2)), TypeError, "gamma is on the host", there)
    refused(things, lambda t: t.layer(d), TypeError, "the layer is on the host", there, "to_device()")
    context = functional.batch_norm(d)[1]
    refused(things, lambda t: functional.batch_norm_backward(t.x, context), TypeError, "dy is on the host", there)
    moved = normdrop.BatchNorm(2, affine=False).to_device()
    refused(things, lambda t: moved(t.x), TypeError, "the layer is on GPU 0", "x is on the host")


def test_a_dtype_that_is_not_taken_is_named():
    with pytest.raises(TypeError, match=r"x must have dtype float32.*int64"):
        functional.dropout(on_gpu(np.arange(4)), 0.5)


def test_layers_move_there_and_back_with_their_state(tmp_path):
    x = normal(4, 3)
    layer, host = normdrop.BatchNorm(3), normdrop.BatchNorm(3)
    assert layer.to_device() is layer
    layer(on_gpu(x))
    layer.backward(on_gpu(x))
    host(x)
    host.backward(x)
    state = layer.state_dict()
    assert all(type(entry) is np.ndarray for entry in state.values())
    layer.save(tmp_path / "layer.npz")
    other = normdrop.BatchNorm(3).to_device()
    other.load(tmp_path / "layer.npz")
    assert values(other.running_var).tobytes() == values(layer.running_var).tobytes()
    assert not isinstance(other.running_var, np.ndarray)
    layer(on_gpu(x))
    assert layer.to_host() is layer
    host(x)
    for name in ("gamma", "beta", "dgamma", "dbeta", "running_mean", "running_var"):
        assert type(getattr(layer, name)) is np.ndarray
        np.testing.assert_allclose(getattr(layer, name), getattr(host, name), rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(x)
    layer(x)
    drop = normdrop.Dropout(0.5, rng=0)
    assert drop.to_device().to_host() is drop


def test_an_empty_array_gives_an_empty_array():
    d = on_gpu(np.empty((0, 3), np.float32))
    layer = normdrop.BatchNorm(3).to_device()
    for y in (functional.dropout(d, 0.5, rng=0)[0], layer(d), functional.dropout(d, 1.0, rng=0)[0]):
        assert tuple(y.shape) == (0, 3)
    assert values(layer.backward(d)).shape == (0, 3)
    assert values(layer.dgamma).tolist() == [0, 0, 0]
    assert layer.num_batches == 0


def test_more_axes_than_a_copying_kernel_has():
    x = normal(2, 3, 2, 1, 4, 3, 2, 2)[::-1]
    axes = (1, 0, 3, 2, 5, 4, 7, 6)
    target = _device.view(_device.to_device(np.empty(x.transpose(axes).shape, np.float64)))
    target[...] = _device.view(_device.to_device(np.ascontiguousarray(x))).transpose(axes)
    assert np.array_equal(target.to_host(), x.transpose(axes))


def simulated():
    from normdrop._cuda import launch

    return launch.SIMULATED


def test_dlpack_alone_is_enough():
    if not simulated():
        pytest.skip("host memory stands in for a GPU's")
    x = normal(4, 6)[:, ::-1]
    y = functional.dropout(ByDLPack(x), 0.5, rng=1)[0]
    assert values(y).tobytes() == functional.dropout(x, 0.5, rng=1)[0].tobytes()
    with pytest.raises(TypeError, match="DLPack"):
        functional.dropout(ByDLPack(np.arange(3)), 0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_of_pytorch_come_back_as_tensors(dtype):
    torch = pytest.importorskip("torch")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from normdrop._cuda.kinds import TorchKind

    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    x = x.to(memory_format=torch.channels_last)
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    host = x.double().numpy().astype(numpy_dtype)
    given = TorchKind(x).view(x) if simulated() else x.cuda()
    for computed, expected in (
        (functional.dropout(given, 0.5, rng=1)[0], functional.dropout(host, 0.5, rng=1)[0]),
        (functional.batch_norm(given)[0], functional.batch_norm(host)[0]),
    ):
        assert type(computed) is torch.Tensor
        assert (computed.dtype, computed.stride()) == (x.dtype, x.stride())
        wide = computed.double().cpu().numpy()
        np.testing.assert_allclose(wide, expected.astype(np.float64), rtol=1e-6, atol=1e-6)


def test_a_context_that_does_not_fit_is_refused_before_a_kernel_reads_it():
    x = normal(4, 3)
    d, dy = on_gpu(x), on_gpu(normal(4, 3, seed=1))
    _, context = functional.batch_norm(d)
    _, inferred = functional.batch_norm_inference(d, on_gpu(np.zeros(3)), on_gpu(np.ones(3)), keep_x=True)
    short, host = on_gpu(np.ones((3, 2))), np.ones((3, 3))
    for changes in ({"channel_axis": 0}, {"statistics": short}, {"gamma": on_gpu(np.ones(1, np.float32))}):
        with pytest.raises(ValueError, match="must"):
            functional.batch_norm_backward(dy, context._replace(**changes))
    with pytest.raises(TypeError, match="statistics"):
        functional.batch_norm_backward(dy, context._replace(statistics=host))
    for changes in ({"channel_axis": 0}, {"statistics": short}, {"scale": on_gpu(np.ones(1))}):
        with pytest.raises(ValueError, match="must"):
            functional.batch_norm_inference_backward(dy, inferred._replace(**changes))


def test_copies_and_children_of_a_layer_on_a_gpu_are_there_and_its_pickles_on_the_host():
    x = on_gpu(normal(4, 3))
    layer = normdrop.BatchNorm(3).to_device()
    layer(x)
    layer.backward(x)
    twin, (child,) = copy.deepcopy(layer), layer.spawn(1)
    loaded = pickle.loads(pickle.dumps(layer))
    for each in (twin, child):
        assert type(each.gamma) is type(layer.gamma)
        assert values(each(x)).tobytes() == values(layer(x)).tobytes()
    assert isinstance(loaded.gamma, np.ndarray)
    assert loaded(normal(4, 3)).shape == (4, 3)
    assert loaded.num_batches == 2


def test_running_statistics_on_a_gpu_are_updated_as_on_the_host():
    x = normal(5, 3)
    mean, var, d_mean, d_var = np.zeros(3), np.ones(3), on_gpu(np.zeros(3)), on_gpu(np.ones(3))
    assert functional.update_running(mean, var, functional.batch_norm(x)[1])
    assert functional.update_running(d_mean, d_var, functional.batch_norm(on_gpu(x))[1])
    np.testing.assert_allclose([values(d_mean), values(d_var)], [mean, var], rtol=1e-12)
    with pytest.raises(TypeError, match="running_mean"):
        functional.update_running(mean, var, functional.batch_norm(on_gpu(x))[1])
