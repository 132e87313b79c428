"""Layers from and to other libraries: the same output, the same training, and back as they were."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from normdrop import (
    BatchNorm,
    BatchNorm1d,
    BatchNormAct,
    BatchRenorm,
    Dropout,
    Dropout1d,
    Dropout2d,
    GhostBatchNorm,
    fold,
)  # fmt: skip
from normdrop.convert import (
    from_flax,
    from_keras,
    from_onnx,
    from_torch,
    to_flax,
    to_keras,
    to_onnx,
    to_torch,
)

pytestmark = [pytest.mark.once, pytest.mark.same]

FORMS = [{}, {"scale": False}, {"shift": False}, {"affine": False}]


def trained(n=3, cls=BatchNorm, **options):
    """A layer whose parameters and statistics all matter."""
    rng, norm = np.random.default_rng(0), cls(n, **options)
    for name, values in norm.state_dict().items():
        if values.shape:
            getattr(norm, name)[...] = rng.uniform(0.5, 2, n)
    if norm.track_running_stats:
        norm.num_batches, norm.num_values = 7, 70
    return norm


def batch(ndim, axis=1, dtype=np.float32):
    shape = [4, *range(5, 3 + ndim), 3] if axis == -1 else [4, 3, *range(5, 3 + ndim)]
    return np.random.default_rng(1).normal(2, 3, shape).astype(dtype)


def same_state(one, other):
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


EXPORTS = {
    "torch": (lambda layer, **how: to_torch(layer, arrays=True, **how), from_torch),
    "keras": (lambda layer, **how: to_keras(layer, arrays=True, **how), from_keras),
    "flax": (to_flax, from_flax),
    "onnx": (to_onnx, from_onnx),
}


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", EXPORTS)
def test_arrays_come_back_as_they_went(library, dtype, form):
    export, back = EXPORTS[library]
    layer = trained(eps=1e-4, momentum=0.97, dtype=dtype, unbiased=library == "torch", **form)
    options, arrays = export(layer)
    twin = back(arrays, **options)
    state, expected = twin.state_dict(), layer.state_dict()
    assert all(np.array_equal(state[name], expected[name]) for name in expected if name[:4] != "num_")
    assert (twin.eps, twin.momentum, twin.unbiased) == (layer.eps, layer.momentum, layer.unbiased)
    assert twin.channel_axis == layer.channel_axis
    x = batch(4)
    assert np.array_equal(twin.eval()(x), layer.eval()(x))
    if library == "torch":
        assert twin.num_batches == 7
    for values in (arrays | arrays.get("params", {}) | arrays.get("batch_stats", {})).values():
        assert isinstance(values, dict) or not any(np.shares_memory(values, own) for own in layer._arrays().values())


@pytest.mark.parametrize("library", EXPORTS)
def test_the_variance_is_converted_where_n_says_how(library):
    export, back = EXPORTS[library]
    theirs, n = library == "torch", 10
    layer = trained(unbiased=not theirs)
    kept, moved = (back(*export(layer, **how)[1:], **export(layer)[0]) for how in ({}, {"n": n}))
    factor = n / (n - 1) if theirs else (n - 1) / n
    assert kept.unbiased == moved.unbiased == theirs
    assert np.array_equal(kept.running_var, layer.running_var)
    assert np.allclose(moved.running_var, layer.running_var * factor, rtol=1e-15)
    options, arrays = export(moved)
    again = back(arrays, n=n, unbiased=not theirs, **options)
    assert again.unbiased is not theirs
    assert np.allclose(again.running_var, layer.running_var, rtol=1e-15)
    unscaled = back(arrays, unbiased=not theirs, **options)
    assert np.array_equal(unscaled.running_var, moved.running_var)


def test_a_converted_average_of_variances_is_the_one_of_the_other_kind():
    rng, layers = (
        np.random.default_rng(0),
        [BatchNorm(3, momentum=0.5, unbiased=unbiased) for unbiased in (True, False)],
    )
    for _ in range(60):  # until the 1 that it began with is forgotten
        x = rng.normal(2, 3, (10, 3))
        for layer in layers:
            layer(x)
    options, arrays = to_keras(layers[0], n=10, arrays=True)
    assert np.allclose(from_keras(arrays, **options).running_var, layers[1].running_var, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, 0.9, 0.99, 0.001, 0.0, 1.0, 1e-7, 0.3, 1 / 3, 0.123456789])
def test_momentum_comes_back_from_pytorch_as_it_went(momentum):
    layer = BatchNorm(1, momentum=momentum)
    options, state = to_torch(layer, arrays=True)
    assert abs(options["momentum"] + momentum - 1) < 1e-15
    assert from_torch(state, **options).momentum == momentum
    assert from_torch(state, momentum=0.1).momentum == 0.9


def test_a_layer_in_the_state_of_a_model_is_found_by_its_prefix():
    state = {f"features.1.{name}": values for name, values in to_torch(trained(), arrays=True).arrays.items()}
    state["features.0.weight"] = np.ones((3, 3))
    assert np.array_equal(from_torch(state, prefix="features.1.").running_mean, trained().running_mean)
    with pytest.raises(ValueError, match=r"prefix must be .* 'features\.1\.'; got ''"):
        from_torch(state)


def test_without_counts_and_without_parameters_a_state_is_enough():
    layer = from_torch({"running_mean": np.ones(2, np.float16), "running_var": np.ones(2, np.float16)})
    assert (layer.affine, layer.num_batches, layer.running_mean.dtype) == (False, 0, np.float64)
    half = {"weight": np.full(2, 0.3, ml_dtypes.bfloat16), "bias": np.zeros(2, ml_dtypes.bfloat16)}
    layer = from_torch(half)
    assert (layer.track_running_stats, layer.dtype) == (False, np.float32)
    assert np.array_equal(layer.gamma, half["weight"].astype(np.float32))


def test_the_weights_of_keras_are_taken_as_their_list():
    gamma, beta, mean, var = np.random.default_rng(0).uniform(1, 2, (4, 3))
    layer = from_keras([gamma, beta, mean, var])
    assert np.array_equal([layer.gamma, layer.beta, layer.running_mean, layer.running_var], [gamma, beta, mean, var])
    assert (layer.channel_axis, layer.momentum, layer.eps, layer.unbiased) == (-1, 0.99, 1e-3, False)
    layer = from_keras([beta, mean, var], scale=False, axis=[3], momentum=0.9, epsilon=1e-4)
    assert (layer.gamma, layer.channel_axis, layer.momentum, layer.eps) == (None, 3, 0.9, 1e-4)
    assert np.array_equal(layer.beta, beta)


def test_flax_has_its_variables_flat_or_in_collections_and_below_names():
    flat = dict(zip(("scale", "bias", "mean", "var"), np.random.default_rng(0).uniform(1, 2, (4, 3)), strict=True))
    nested = {
        "params": {"a": {"b": {name: flat[name] for name in ("scale", "bias")}}},
        "batch_stats": {"a": {"b": {name: flat[name] for name in ("mean", "var")}}},
    }
    layer = from_flax(flat)
    assert same_state(layer, from_flax(nested, name="a/b"))
    assert (layer.channel_axis, layer.momentum, layer.eps, layer.unbiased) == (-1, 0.99, 1e-5, False)


def test_onnx_has_ones_and_zeros_where_a_layer_has_no_parameters():
    _, inputs = to_onnx(trained(affine=False))
    assert inputs["scale"].tolist() == [1, 1, 1]
    assert inputs["B"].tolist() == [0, 0, 0]
    assert not from_onnx(inputs).training
    assert from_onnx(inputs, training_mode=1).training


@pytest.mark.parametrize(("layer", "torch", "keras", "flax"), [
    (Dropout(0.3), {"p": 0.3}, {"rate": 0.3, "noise_shape": None}, {"rate": 0.3, "broadcast_dims": ()}),
    (Dropout1d(0.3, channel_axis=-1), {"p": 0.3}, {"rate": 0.3, "noise_shape": (None, 1, None)},
     {"rate": 0.3, "broadcast_dims": (1,)}),
    (Dropout2d(0.3), {"p": 0.3}, {"rate": 0.3, "noise_shape": (None, None, 1, 1)},
     {"rate": 0.3, "broadcast_dims": (2, 3)}),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_dropout_is_exported_with_its_shared_axes(layer, torch, keras, flax):
    assert to_torch(layer, arrays=True) == (torch, {})
    assert to_keras(layer, arrays=True) == (keras, {})
    assert to_flax(layer) == (flax, {})


def test_dropout_of_onnx_has_its_probability_as_an_input():
    attributes, inputs = to_onnx(Dropout(0.25))
    assert (attributes, list(inputs), inputs["ratio"].dtype) == ({}, ["ratio"], np.float32)
    assert inputs["ratio"] == 0.25


STATE = dict(zip(("weight", "bias", "running_mean", "running_var"), np.ones((4, 3)), strict=True))
INPUTS = dict(zip(("scale", "B", "input_mean", "input_var"), np.ones((4, 3)), strict=True))
TENSOR = SimpleNamespace(op_type="Relu")
COUNTED = {"num_batches_tracked": np.array(3)}
REFUSED = {
    "no source": (lambda: from_torch(3), TypeError, ["source must be a layer", "PyTorch", "int"]),
    "no source of Keras": (lambda: from_keras("norm"), TypeError, ["source must be a layer", "Keras", "str"]),
    "no source of Flax": (lambda: from_flax(3), TypeError, ["variables", "int"]),
    "no source of ONNX": (lambda: from_onnx(3), TypeError, ["node", "int"]),
    "another node": (lambda: from_onnx(TENSOR), TypeError, ["BatchNormalization or Dropout", "Relu"]),
    "nothing": (lambda: from_torch({}), ValueError, ["'running_var'", "got none"]),
    "other names": (lambda: from_torch(INPUTS), ValueError, ["'weight'", "no others", "'input_mean'"]),
    "a matrix": (lambda: from_torch(STATE | {"bias": np.ones((3, 3))}), ValueError, ["bias must have shape (3,)"]),
    "other lengths": (lambda: from_torch(STATE | {"bias": np.ones(2)}), ValueError, ["bias", "(3,)", "got (2,)"]),
    "integers": (lambda: from_torch(STATE | {"bias": np.ones(3, int)}), TypeError, ["bias", "floats", "int64"]),
    "a mean alone": (lambda: from_torch({"running_mean": np.ones(3)}), ValueError, ["both", "'running_var'"]),
    "a negative variance": (lambda: from_torch(STATE | {"running_var": -np.ones(3)}), ValueError,
                            ["running_var must not be negative"]),
    "an unknown option": (lambda: from_torch(STATE, epsilon=1e-3), TypeError, ["'eps'", "got 'epsilon'"]),
    "an option that arrays contradict": (lambda: from_torch(STATE, num_features=4), ValueError,
                                         ["num_features must be 3", "got 4"]),
    "PyTorch's momentum": (lambda: from_torch(STATE, momentum=2.0), ValueError, ["PyTorch's momentum m is 1 - m"]),
    "an average of all values": (lambda: from_torch(STATE | COUNTED, momentum=None), ValueError, ["n, the number of"]),
    "batches of one value": (lambda: from_torch(STATE, unbiased=False, n=1), ValueError, ["n must be at least 2"]),
    "weights too few": (lambda: from_keras([np.ones(3)] * 3), ValueError, ["moving_variance", "got 3", "scale=False"]),
    "no statistics": (lambda: from_keras({"gamma": np.ones(3)}), ValueError, ["moving_mean"]),
    "no statistics of Flax": (lambda: from_flax({"scale": np.ones(3)}), ValueError, ["batch_stats"]),
    "a name that is not there": (lambda: from_flax({"params": {"norm": {}}}, name="a"), ValueError, ["name", "'a'"]),
    "a name that is not said": (lambda: from_flax({"params": {"norm": {}}}), ValueError, ["name", "in it, 'norm'"]),
    "a name of an array": (lambda: from_flax({"params": {"norm": STATE}}, name="norm/bias/a"), ValueError, ["name"]),
    "several axes": (lambda: from_flax({"mean": np.ones(3), "var": np.ones(3)}, axis=(1, 2)), ValueError, ["(1, 2)"]),
    "an input too few": (lambda: from_onnx({"scale": np.ones(3)}), ValueError, ["input_var", "got scale"]),
    "a frozen layer": (lambda: to_torch(BatchNorm(3).freeze()), ValueError, ["layer.frozen", "unfreeze()"]),
    "a debiased average": (lambda: to_keras(BatchNorm(3, debias=True)), ValueError, ["layer.debias", "Keras"]),
    "a population": (lambda: to_torch(BatchNorm(3, momentum="population")), ValueError, ["'population'", "a number"]),
    "channel axes": (lambda: to_flax(BatchNorm(6, channel_axis=(1, 2))), ValueError, ["channel_axis", "(1, 2)"]),
    "renormalization": (lambda: to_torch(BatchRenorm(3)), TypeError, ["plain BatchNorm", "load_state_dict"]),
    "ghost batches": (lambda: to_onnx(GhostBatchNorm(3, 2)), TypeError, ["plain BatchNorm", "GhostBatchNorm"]),
    "a fused layer": (lambda: to_torch(BatchNormAct(3)), TypeError, ["fused", "PyTorch"]),
    "no layer": (lambda: to_keras(3), TypeError, ["BatchNorm or a Dropout", "int"]),
    "scaling of 2014": (lambda: to_flax(Dropout(scaling="original")), ValueError, ["scaling='inverted'", "Flax"]),
    "an average of Keras": (lambda: to_keras(BatchNorm(3, momentum=None), arrays=True), ValueError, ["Keras", "None"]),
    "an average of Flax": (lambda: to_flax(BatchNorm(3, momentum=None)), ValueError, ["Flax", "None"]),
    "an average of ONNX": (lambda: to_onnx(BatchNorm(3, momentum=None)), ValueError, ["ONNX", "None"]),
    "channels elsewhere": (lambda: to_onnx(BatchNorm(3, channel_axis=-1)), ValueError, ["axis 1", "got -1"]),
    "an untracked layer": (lambda: to_onnx(BatchNorm(3, track_running_stats=False)), ValueError, ["running stat"]),
    "untracked to Keras": (lambda: to_keras(BatchNorm(3, track_running_stats=False)), ValueError, ["running stat"]),
    "untracked to Flax": (lambda: to_flax(BatchNorm(3, track_running_stats=False)), ValueError, ["running stat"]),
    "a rank that is not said": (lambda: to_torch(BatchNorm(3)), ValueError, ["ndim must be given", "None"]),
    "a rank that Keras needs": (lambda: to_keras(BatchNorm1d(3)), ValueError, ["ndim must be given", "BatchNorm1d"]),
    "shared axes": (lambda: to_torch(Dropout(shared_axes=1)), ValueError, ["Dropout1d", "shared_axes=(1,)"]),
    "shared axes of any rank": (lambda: to_keras(Dropout(shared_axes=1)), ValueError, ["ndim must be given"]),
    "shared axes of ONNX": (lambda: to_onnx(Dropout2d()), ValueError, ["elements", "(2, 3)"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_there_is_no_layer_for_is_refused(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        call()
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_with_arrays_no_library_is_imported(in_subprocess):
    code = """
    import sys
    import numpy as np
    from normdrop import BatchNorm, Dropout2d
    from normdrop.convert import *

    for layer in (BatchNorm(3), Dropout2d()):
        to_torch(layer, arrays=True), to_keras(layer, arrays=True), to_flax(layer)
    to_onnx(BatchNorm(3))
    from_torch(to_torch(BatchNorm(3), arrays=True).arrays)
    from_keras([np.ones(3)] * 4)
    from_flax(to_flax(BatchNorm(3)).arrays)
    from_onnx(to_onnx(BatchNorm(3)).arrays)
    print([name for name in ("torch", "keras", "tensorflow", "flax", "jax", "onnx") if name in sys.modules])
    """
    assert in_subprocess(code).split() == ["[]"]


def test_a_converted_layer_of_keras_can_be_folded():
    layer = from_keras([np.full(3, 2.0), np.ones(3), np.ones(3), np.full(3, 3.999)])
    folded = fold(np.eye(3), None, layer, -1)
    assert np.allclose(folded.weight, np.eye(3))
    assert np.allclose(folded.bias, 0)
