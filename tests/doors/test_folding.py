"""Folding batch normalization into the weight beside it: right in every layout, rounded once, refused where wrong."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from normdrop import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNormAct, _linear_map, fold

pytestmark = [pytest.mark.once, pytest.mark.same]

LAYERS = {
    "linear": (2, {}, False),
    "conv1d": (3, {"stride": 2, "padding": 1}, False),
    "conv2d": (4, {"padding": 2, "dilation": 2}, False),
    "conv2d of groups": (4, {"groups": 2, "padding": 1}, False),
    "conv3d of depth": (5, {"groups": 4}, False),
    "transposed": (4, {"stride": 2, "padding": 1}, True),
    "transposed of groups": (4, {"stride": 2, "groups": 2}, True),
}


def trained(n, cls=BatchNorm, seed=1, **options):
    """A layer in inference with parameters and statistics that all matter."""
    rng = np.random.default_rng(seed)
    norm = cls(n, **options).eval()
    if norm.gamma is not None:
        norm.gamma[...] = rng.normal(1, 0.5, n)
    if norm.beta is not None:
        norm.beta[...] = rng.normal(0, 2, n)
    norm.running_mean[...], norm.running_var[...], norm.num_batches = rng.normal(1, 3, n), rng.uniform(0.1, 4, n), 1
    return norm


def arrays(ndim, options, transposed, dtype=np.float64):
    """A weight as PyTorch lays it out, for 4 inputs and 8 outputs, a bias and inputs."""
    rng, groups = np.random.default_rng(0), options.get("groups", 1)
    shape = (4, 8 // groups) if transposed else (8, 4 // groups)
    weight = rng.normal(size=shape + (3,) * (ndim - 2)).astype(dtype)
    return weight, rng.normal(size=8).astype(dtype), rng.normal(1, 2, (5, 4) + (9,) * (ndim - 2)).astype(dtype)


def layer(x, weight, bias, options, transposed):
    """PyTorch's linear layer or convolution."""
    torch = pytest.importorskip("torch")
    functions = torch.nn.functional
    if weight.ndim == 2:
        apply = functions.linear
    else:
        apply = getattr(functions, f"conv{'_transpose' if transposed else ''}{weight.ndim - 2}d")
    given = (None if values is None else torch.from_numpy(values) for values in (x, weight, bias))
    return apply(*given, **options).numpy()


@pytest.mark.parametrize("norm", [{}, {"scale": False}, {"shift": False}, {"affine": False}], ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_after_a_layer_is_folded_into_it(name, biased, norm):
    ndim, options, transposed = LAYERS[name]
    weight, bias, x = arrays(ndim, options, transposed)
    norm, bias = trained(8, dtype=np.float64, **norm), bias if biased else None
    expected = norm(layer(x, weight, bias, options, transposed))
    folded = fold(weight, bias, norm, 1 if transposed else 0, groups=options.get("groups", 1))
    assert folded.weight.shape == weight.shape
    assert np.abs(layer(x, folded.weight, folded.bias, options, transposed) - expected).max() < 1e-12
    assert 0 < folded.max_difference < 1e-12


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", [name for name, (_, _, transposed) in LAYERS.items() if not transposed])
def test_a_norm_before_a_layer_without_padding_is_folded_into_it(name, biased):
    ndim, options, _ = LAYERS[name]
    options = {name: value for name, value in options.items() if name != "padding"}
    weight, bias, x = arrays(ndim, options, False)
    norm, bias = trained(4, dtype=np.float64), bias if biased else None
    expected = layer(norm(x), weight, bias, options, False)
    folded = fold(weight, bias, norm, before=True, padding=0, groups=options.get("groups", 1))
    assert np.abs(layer(x, folded.weight, folded.bias, options, False) - expected).max() < 1e-11


@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_that_does_not_shift_is_folded_into_what_comes_after_it_with_any_padding(name):
    ndim, options, transposed = LAYERS[name]
    weight, bias, x = arrays(ndim, options, transposed)
    norm = trained(4, dtype=np.float64, shift=False)
    norm.running_mean[...] = 0
    expected = layer(norm(x), weight, bias, options, transposed)
    folded = fold(weight, bias, norm, 1 if transposed else 0, before=True, groups=options.get("groups", 1))
    assert np.abs(layer(x, folded.weight, folded.bias, options, transposed) - expected).max() < 1e-12


def test_with_padding_by_its_own_values_a_norm_before_a_convolution_is_folded():
    weight, bias, x = arrays(4, {}, False)
    norm = trained(4, dtype=np.float64)

    def padded(values):
        return np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")

    folded = fold(weight, bias, norm, before=True, padding="reflect")
    expected = layer(padded(norm(x)), weight, bias, {}, False)
    assert np.abs(layer(padded(x), folded.weight, folded.bias, {}, False) - expected).max() < 1e-12


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("ndim", "axis", "order"), [
    (2, 1, (1, 0)), (2, -1, (1, 0)), (2, -2, (0, 1)), (4, -1, (2, 3, 1, 0)), (4, 3, (2, 3, 1, 0)), (3, 2, (2, 1, 0)),
])  # fmt: skip
def test_the_axis_of_outputs_says_the_layout(ndim, axis, order, before):
    weight, bias, _ = arrays(ndim, {}, False)
    norm = trained(4 if before else 8)
    plain = fold(weight, bias, norm, before=before, padding=0)
    moved = fold(weight.transpose(order), bias, norm, axis, before=before, padding=0)
    assert moved.weight.tobytes() == plain.weight.transpose(order).tobytes()
    assert np.allclose(moved.bias, plain.bias, rtol=1e-14)


def test_a_norm_after_a_transposed_kernel_of_keras_is_folded_along_its_last_but_one_axis():
    weight, bias, _ = arrays(4, {}, True)
    plain = fold(weight, bias, trained(8), 1)
    moved = fold(weight.transpose(2, 3, 1, 0), bias, trained(8), -2)
    assert moved.weight.tobytes() == plain.weight.transpose(2, 3, 1, 0).tobytes()


@pytest.mark.parametrize("before", [False, True])
def test_a_depthwise_kernel_of_keras_is_one_of_as_many_groups(before):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 2))  # place, place, input, multiplier
    norm, weight = trained(4 if before else 8), kernel.reshape(3, 3, 1, 8)
    folded = fold(weight, None, norm, -1, before=before, groups=4, padding=0)
    scale = norm.gamma / np.sqrt(norm.running_var + norm.eps)
    factors = scale[:, np.newaxis] if before else scale.reshape(4, 2)
    assert np.allclose(folded.weight.reshape(kernel.shape), kernel * factors, rtol=1e-14)
    shift = norm.beta - norm.running_mean * scale
    expected = (kernel * shift[:, np.newaxis]).sum((0, 1)).reshape(8) if before else shift
    assert np.allclose(folded.bias, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("before", [False, True])
def test_weight_and_bias_are_rounded_once_to_their_own_dtypes(dtype, before):
    weight, bias, _ = arrays(2, {}, False, dtype)
    norm = trained(4 if before else 8)
    for given in (bias, bias.astype(np.float32), None):
        folded = fold(weight, given, norm, before=before)
        scale = norm.gamma / np.sqrt(norm.running_var + norm.eps)
        exact = weight.astype(np.float64) * (scale if before else scale[:, np.newaxis])
        assert folded.weight.dtype == dtype
        assert folded.bias.dtype == (dtype if given is None else given.dtype)
        neighbors = np.nextafter(folded.weight, dtype(-100)), np.nextafter(folded.weight, dtype(100))
        error = np.abs(folded.weight.astype(np.float64) - exact)
        assert all((error <= np.abs(other.astype(np.float64) - exact)).all() for other in neighbors)


def test_bfloat16_is_not_rounded_by_way_of_float32():
    norm = BatchNorm(1, eps=0.25, dtype=np.float64)
    norm.running_var[...], norm.running_mean[...] = 0.75, 1
    norm.gamma[...] = 1 + 2.0**-8 + 2.0**-40  # float32 loses the last bit, and then half a unit is a tie
    folded = fold(np.ones((1, 1), ml_dtypes.bfloat16), None, norm)
    assert folded.weight == ml_dtypes.bfloat16(1 + 2.0**-7)


def test_nothing_given_is_changed_or_shared_and_the_mode_does_not_matter():
    weight, bias, _ = arrays(2, {}, False)
    norm = trained(8)
    before = weight.copy(), bias.copy(), norm.state_dict()
    folded = fold(weight, bias, norm)
    trains = fold(weight, bias, norm.train())
    assert all(map(np.array_equal, folded, trains))
    assert not np.shares_memory(folded.weight, weight)
    assert not np.shares_memory(folded.bias, bias)
    assert np.array_equal(weight, before[0])
    assert np.array_equal(bias, before[1])
    assert all(np.array_equal(values, before[2][name]) for name, values in norm.state_dict().items())


def test_a_fused_layer_whose_activation_is_the_identity_is_folded():
    weight, bias, _ = arrays(2, {}, False)
    fused = trained(8, BatchNormAct, activation="identity", p=0.5)
    assert np.array_equal(fold(weight, bias, fused).weight, fold(weight, bias, trained(8)).weight)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_result_that_its_rounding_does_not_explain_is_an_error(monkeypatch, part, before, dtype):
    weight, bias, _ = arrays(2, {}, False, dtype)
    fold(weight, bias, trained(4 if before else 8), before=before)
    rounded = _linear_map.rounded

    def wrong(values, dtype, name):
        result = rounded(values, dtype, name)
        if name == part:
            result.flat[3] += 100 * np.finfo(dtype).eps * np.abs(result).max()
        return result

    monkeypatch.setattr(_linear_map, "rounded", wrong)
    with pytest.raises(ArithmeticError, match="differs from the two by"):
        fold(weight, bias, trained(4 if before else 8), before=before)


def things(**others):
    weight, bias, _ = arrays(4, {}, False)
    return SimpleNamespace(**{"weight": weight, "bias": bias, "norm": trained(8), "entry": trained(4)} | others)


REFUSED = {
    "no running statistics": (lambda t: fold(t.weight, t.bias, t.norm), ValueError, ["norm must have running"],
                              {"norm": BatchNorm(8, track_running_stats=False)}),
    "no batch seen": (lambda t: fold(t.weight, t.bias, t.norm), ValueError, ["must have seen a batch"],
                      {"norm": BatchNorm(8)}),
    "not finite": (lambda t: fold(t.weight, t.bias, t.norm), ValueError, ["finite", "[2]"], {"norm": "nan"}),
    "an activation": (lambda t: fold(t.weight, t.bias, t.norm), ValueError, ["applies 'relu'", "fold a BatchNorm"],
                      {"norm": trained(8, BatchNormAct)}),
    "no norm": (lambda t: fold(t.weight, t.bias, t.norm), TypeError, ["norm must be a normdrop.BatchNorm", "convert"],
                {"norm": "a norm"}),
    "other channels": (lambda t: fold(t.weight, t.bias, t.entry), ValueError, ["8 channels", "outputs on axis 0", "4"],
                       {}),
    "other inputs": (lambda t: fold(t.weight, t.bias, t.norm, before=True, padding=0), ValueError,
                     ["4 channels", "inputs on axis 1", "got 8"], {}),
    "padding not said": (lambda t: fold(t.weight, t.bias, t.entry, before=True), ValueError, ["pass padding=0"], {}),
    "zero padding": (lambda t: fold(t.weight, t.bias, t.entry, before=True, padding=(0, 1)), ValueError,
                     ["got (0, 1)", "zeros that were not normalized"], {}),
    "same padding": (lambda t: fold(t.weight, t.bias, t.entry, before=True, padding="same"), ValueError, ["'same'"],
                     {}),
    "before a transposed one": (
        lambda t: fold(np.ones((8, 4, 3)), None, t.norm, 1, before=True, padding=0), ValueError, ["transposed"], {}),
    "an axis between": (lambda t: fold(np.ones((2, 2, 3, 2, 2)), None, BatchNorm(3), 2), ValueError,
                        ["axis must be", "got 2", "np.moveaxis"], {}),
    "an axis beyond": (lambda t: fold(t.weight, t.bias, t.norm, 4), ValueError, ["axis must be", "got 4"], {}),
    "a vector": (lambda t: fold(np.ones(8), None, t.norm), ValueError, ["at least two axes", "(8,)"], {}),
    "integers": (lambda t: fold(np.ones((8, 4), np.int32), None, t.norm), TypeError, ["weight", "int32"], {}),
    "a bias of integers": (lambda t: fold(t.weight, np.ones(8, int), t.norm), TypeError, ["bias", "int64"], {}),
    "a bias of another length": (lambda t: fold(t.weight, t.bias[:4], t.norm), ValueError, ["(8,)", "got (4,)"], {}),
    "groups that do not divide": (lambda t: fold(t.weight, t.bias, t.norm, groups=3), ValueError, ["8 outputs", "3"],
                                  {}),
    "a weight that is not finite": (lambda t: fold(t.weight * np.inf, t.bias, t.norm), ValueError,
                                    ["weight must be finite"], {}),
    "a linear layer beside a norm of planes": (
        lambda t: fold(np.ones((8, 4)), None, trained(8, BatchNorm2d)), ValueError, ["two axes", "channel_axis=1"], {}),
    "a convolution of another rank": (lambda t: fold(t.weight, t.bias, trained(8, BatchNorm1d)), ValueError,
                                      ["over 2", "BatchNorm1d", "(N, C, L)"], {}),
    "a flag of another type": (lambda t: fold(t.weight, t.bias, t.norm, before=1), TypeError, ["before"], {}),
    "beyond float16": (lambda t: fold(np.full((8, 4), 6e4, np.float16), None, t.norm), ValueError,
                       ["weight would get values beyond float16", "wider"], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_with_the_reason(case, refused):
    call, error, words, others = REFUSED[case]
    given = things(**others)
    if given.norm == "nan":
        given.norm = trained(8)
        given.norm.running_var[2] = np.nan
    refused(given, call, error, *words)


def test_a_linear_layer_beside_a_norm_over_the_last_axis_is_folded_whatever_its_rank():
    weight, bias, _ = arrays(2, {}, False)
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    norm = trained(8, BatchNorm2d, channel_axis=-1, dtype=np.float64)
    folded = fold(weight, bias, norm)
    assert np.allclose(x @ folded.weight.T + folded.bias, norm(x @ weight.T + bias), rtol=1e-10)
