"""Layers of Keras, Flax and ONNX as objects: the same output, the same training, and back as they were."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

import normdrop
from normdrop import BatchNorm
from normdrop.convert import from_keras, from_onnx, to_keras, to_onnx

pytestmark = [
    pytest.mark.once,
    pytest.mark.same,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),  # Keras's
]

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def keras():
    """Keras on PyTorch; on NumPy, it needs JAX."""
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
        return pytest.importorskip("keras")


def fill(arrays):
    """Fill vectors with numbers that are all different, the last ones, variances, above 0."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.5, 2, len(values)).astype(np.float32) for values in arrays]


def batch(ndim, axis=1):
    shape = [4, *range(5, 3 + ndim), 3] if axis == -1 else [4, 3, *range(5, 3 + ndim)]
    return np.random.default_rng(1).normal(2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}, {"axis": 1, "momentum": 0.9}], ids=str)
@pytest.mark.parametrize("ndim", [2, 4])
def test_a_norm_of_keras_computes_and_trains_as_before_and_comes_back(keras, ndim, options):
    norm, axis = keras.layers.BatchNormalization(**options), options.get("axis", -1)
    x = batch(ndim, axis)
    norm.build(x.shape)
    norm.set_weights(fill(norm.get_weights()))
    layer = from_keras(norm)
    assert (layer.channel_axis, layer.momentum, layer.eps) == (axis, norm.momentum, norm.epsilon)
    expected = keras.ops.convert_to_numpy(norm(x, training=False))
    assert np.allclose(layer.eval()(x), expected, **CLOSE)
    back = to_keras(layer, ndim=ndim)
    assert all(map(np.array_equal, back.get_weights(), norm.get_weights()))
    same = "axis", "momentum", "epsilon", "center", "scale"
    assert [back.get_config()[name] for name in same] == [norm.get_config()[name] for name in same]
    layer.train()(x)
    norm(x, training=True)
    assert np.allclose(layer.running_mean, keras.ops.convert_to_numpy(norm.moving_mean), rtol=1e-5)
    assert np.allclose(layer.running_var, keras.ops.convert_to_numpy(norm.moving_variance), rtol=1e-5)


def test_a_norm_of_keras_of_half_numbers_or_double_ones_is_taken(keras):
    if keras.backend.backend() != "torch":
        pytest.skip("by way of JAX, float64 is float32")
    for dtype, ours in (("float64", np.float64), ("bfloat16", np.float32)):
        norm = keras.layers.BatchNormalization(dtype=dtype, gamma_initializer=keras.initializers.Constant(0.3))
        norm.build((None, 3))
        layer = from_keras(norm)
        assert layer.dtype == ours
        assert np.array_equal(layer.gamma, keras.ops.convert_to_numpy(keras.ops.cast(norm.gamma, "float64")))
    assert to_keras(BatchNorm(3, dtype=np.float64), ndim=2).get_weights()[0].dtype == np.float64


def test_a_frozen_norm_of_keras_comes_in_inference_mode_and_one_of_a_known_rank_goes_without_it_said(keras):
    norm = to_keras(normdrop.BatchNorm2d(3))
    assert norm.input_spec.ndim == 4
    assert from_keras(norm).training
    norm.trainable = False
    assert not from_keras(norm).training


RENORM = {"renorm": True, "momentum": 0.9, "renorm_momentum": 0.9}
BOUNDS = [{}, {"rmax": 1.5, "rmin": 1 / 1.5, "dmax": 0.5}, {"dmax": 0.0}]


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_a_layer_of_keras_that_renormalizes_computes_as_before_and_comes_back(keras, bounds):
    norm = keras.layers.BatchNormalization(renorm_clipping=bounds, **RENORM)
    norm.build((None, 5, 3))
    for _ in range(3):
        norm(batch(3, -1) + 1.0, training=True)
    layer, x = from_keras(norm), batch(3, -1)
    assert (type(layer), layer.r_max) == (normdrop.BatchRenorm, bounds.get("rmax", math.inf))
    assert np.allclose(layer.eval()(x), keras.ops.convert_to_numpy(norm(x, training=False)), **CLOSE)
    back = to_keras(layer, ndim=3)
    assert all(map(np.allclose, back.get_weights(), norm.get_weights()))
    same = "momentum", "renorm", "renorm_clipping", "renorm_momentum"
    assert [back.get_config()[name] for name in same] == [norm.get_config()[name] for name in same]
    options, weights = to_keras(layer, arrays=True)
    assert repr(from_keras(list(weights.values()), **options)) == repr(from_keras(weights, **options))
    y = layer.train()(x)
    assert np.allclose(y, keras.ops.convert_to_numpy(norm(x, training=True)), **CLOSE)
    assert np.allclose(layer.running_mean, keras.ops.convert_to_numpy(norm.moving_mean), rtol=1e-5)


def test_renormalization_by_two_averages_or_that_the_installed_keras_lacks_is_refused(keras, monkeypatch):
    def of(**options):
        norm = keras.layers.BatchNormalization(**RENORM | options)
        norm.build((None, 3))
        return norm

    other = of()
    other.renorm_mean.assign([0.0, 0.0, 5.0])
    for source, words in [
        (of(renorm_clipping={"rmax": 3.0}), "rmin = 1 / rmax"),
        (of(renorm_momentum=0.5), "renorm_momentum must be momentum, 0.9"),
        (other, "renorm_mean must be"),
    ]:
        with pytest.raises(ValueError, match=words):
            from_keras(source)
    with pytest.raises(ValueError, match=r"layer.d_max must be a number"):
        to_keras(normdrop.BatchRenorm(3, d_max=float), ndim=2)
    monkeypatch.setattr(keras.layers, "BatchNormalization", lambda *, axis: None)
    with pytest.raises(ValueError, match="cannot renormalize; got a BatchRenorm"):
        to_keras(normdrop.BatchRenorm(3), ndim=2)


def test_a_layer_of_keras_without_weights_or_of_another_kind_is_refused(keras):
    with pytest.raises(ValueError, match="must have been built"):
        from_keras(keras.layers.BatchNormalization())
    with pytest.raises(TypeError, match="must be a layer of batch normalization or dropout of Keras"):
        from_keras(keras.layers.LayerNormalization())


def test_dropout_of_keras_keeps_the_axes_of_its_noise(keras):
    layers = keras.layers
    for source, axes in [
        (layers.Dropout(0.3), ()),
        (layers.Dropout(0.3, noise_shape=(None, 1, 8)), (1,)),
        (layers.SpatialDropout1D(0.3), (1,)),
        (layers.SpatialDropout2D(0.3), (1, 2)),
        (layers.SpatialDropout2D(0.3, data_format="channels_first"), (2, 3)),
        (layers.SpatialDropout3D(0.3), (1, 2, 3)),
    ]:
        layer = from_keras(source)
        assert (layer.p, layer.shared_axes) == (0.3, axes)
    back = to_keras(from_keras(layers.Dropout(0.5, noise_shape=(None, 1, 8))), ndim=3)
    y = keras.ops.convert_to_numpy(back(np.ones((4, 5, 8), np.float32), training=True))
    assert (y == y[:, :1]).all()
    assert set(np.unique(y)) == {0, 2}


def model_of(onnx, node, inputs, shape):
    helper, tensors = onnx.helper, [onnx.numpy_helper.from_array(values, name) for name, values in inputs.items()]
    x, outputs = (
        helper.make_tensor_value_info("x", 1, shape),
        [helper.make_empty_tensor_value_info(o) for o in node.output],
    )
    graph = helper.make_graph([node], "graph", [x], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])


@pytest.mark.parametrize("ndim", [2, 4])
def test_a_node_of_onnx_computes_and_trains_as_before_and_comes_back(ndim):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    layer = BatchNorm(3, momentum=0.8, eps=1e-3, unbiased=False).eval()
    for values, numbers in zip(layer._arrays().values(), fill(layer._arrays().values()), strict=True):
        values[...] = numbers
    attributes, inputs = to_onnx(layer)
    inputs = {name: values.astype(np.float32) for name, values in inputs.items()}
    x, name = batch(ndim), "BatchNormalization"
    node = onnx.helper.make_node(name, ["x", *inputs], ["y"], **attributes)
    model = model_of(onnx, node, inputs, x.shape)
    assert np.allclose(layer(x), ReferenceEvaluator(model).run(None, {"x": x})[0], **CLOSE)
    for initializers in (model, model.graph, inputs, {t.name: t for t in model.graph.initializer}):
        twin = from_onnx(node, initializers)
        assert (twin.eps, twin.momentum, twin.training, twin.unbiased) == (1e-3, 0.8, False, False)
        assert np.array_equal(twin(x), layer(x))
    again, same = to_onnx(twin)
    assert again == attributes
    assert all(np.array_equal(same[key], inputs[key]) for key in inputs)

    node = onnx.helper.make_node(name, ["x", *inputs], ["y", "m", "v"], training_mode=1, **attributes)
    twin = from_onnx(node, inputs)
    assert twin.training
    _, mean, var = ReferenceEvaluator(model_of(onnx, node, inputs, x.shape)).run(None, {"x": x})
    twin(x)
    assert np.allclose(twin.running_mean, mean, rtol=1e-5)
    assert np.allclose(twin.running_var, var, rtol=1e-5)


def test_dropout_of_onnx_has_its_ratio_as_an_attribute_an_input_or_not_at_all():
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node
    assert from_onnx(node("Dropout", ["x"], ["y"])).p == 0.5
    assert from_onnx(node("Dropout", ["x"], ["y"], ratio=0.3)).p == 0.3
    assert from_onnx(node("Dropout", ["x", "ratio"], ["y"]), to_onnx(normdrop.Dropout(0.3)).arrays).p == 0.3
    given = {"mode": np.array(True)}
    assert [from_onnx(node("Dropout", ["x", "", name], ["y"]), given).training for name in ("mode", "")] == [
        True,
        False,
    ]


def test_nodes_of_onnx_that_are_others_or_have_inputs_that_are_computed_are_refused():
    onnx = pytest.importorskip("onnx")
    node, inputs = onnx.helper.make_node, to_onnx(BatchNorm(3)).arrays
    with pytest.raises(TypeError, match="got Relu"):
        from_onnx(node("Relu", ["x"], ["y"]))
    with pytest.raises(ValueError, match="initializers must have the input_var of source, 'computed'"):
        from_onnx(node("BatchNormalization", ["x", "scale", "B", "input_mean", "computed"], ["y"]), inputs)
    with pytest.raises(ValueError, match="must have an input B"):
        from_onnx(node("BatchNormalization", ["x", "scale"], ["y"]), inputs)
    with pytest.raises(ValueError, match="spatial=0"):
        from_onnx(node("BatchNormalization", ["x", *inputs], ["y"], spatial=0), inputs)


def test_layers_of_flax_compute_and_train_as_before_and_come_back(in_subprocess):
    """In a process of its own: JAX starts threads, and warns of every fork from then on."""
    pytest.importorskip("flax")
    code = """
    import jax, numpy as np
    import flax.linen as nn
    from flax import nnx
    from normdrop.convert import from_flax, to_flax

    x = np.random.default_rng(0).normal(2, 3, (6, 5, 3)).astype(np.float32)
    for form in ({}, {"use_scale": False}, {"use_bias": False}, {"axis": -1, "momentum": 0.9, "epsilon": 1e-3}):
        norm = nn.BatchNorm(use_running_average=False, **form)
        variables = norm.init(jax.random.key(0), x)
        for seed in range(3):
            _, changed = norm.apply(variables, x + seed, mutable=["batch_stats"])
            variables = variables | changed
        options = {name: value for name, value in form.items()}
        layer = from_flax(variables, **options)
        back, same = to_flax(layer)
        jax.tree.map(np.testing.assert_array_equal, dict(variables), {k: v for k, v in same.items() if v})
        expected = nn.BatchNorm(use_running_average=True, **back).apply(same, x)
        np.testing.assert_allclose(layer.eval()(x), expected, rtol=1e-5, atol=1e-5)
        _, changed = norm.apply(variables, x, mutable=["batch_stats"])
        layer.train()(x)
        np.testing.assert_allclose(layer.running_mean, changed["batch_stats"]["mean"], rtol=1e-5)
        np.testing.assert_allclose(layer.running_var, changed["batch_stats"]["var"], rtol=1e-4)

        own = nnx.BatchNorm(3, rngs=nnx.Rngs(0), **form)
        own(x)
        own.eval()
        layer = from_flax(own)
        assert not layer.training
        np.testing.assert_allclose(layer(x), own(x), rtol=1e-5, atol=1e-5)
    for dropout in (nn.Dropout(0.3, broadcast_dims=(1,)), nnx.Dropout(0.3, broadcast_dims=(1,), rngs=nnx.Rngs(0))):
        layer = from_flax(dropout)
        assert (layer.p, layer.shared_axes) == (0.3, (1,)) and layer.training
    try:
        from_flax(nn.BatchNorm())
    except TypeError as error:
        print("pass those" in str(error))
    """
    assert in_subprocess(code, JAX_PLATFORMS="cpu").split() == ["True"]
