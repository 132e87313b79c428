"""The batch norm layer: modes, running statistics by the momentum law, parameters and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import functional

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.simulated]

Array = np.ndarray[Any, np.dtype[Any]]


def _x(n: int = 8, n_channels: int = 3, seed: int = 0, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(seed).normal(2.0, 3.0, (n, n_channels)).astype(dtype)


def test_new_layer_is_the_identity_of_inference_up_to_eps() -> None:
    layer = normdrop.BatchNorm(3)
    assert layer.training
    assert layer.momentum == 0.9
    assert layer.eps == 1e-5
    np.testing.assert_array_equal([layer.running_mean, layer.running_var], [np.zeros(3), np.ones(3)])
    np.testing.assert_array_equal([layer.gamma, layer.beta], [np.ones(3), np.zeros(3)])
    assert (layer.num_batches, layer.num_values) == (0, 0)
    x = _x(dtype=np.float32)
    np.testing.assert_allclose(layer.eval()(x), x / np.sqrt(1 + 1e-5), rtol=1e-6)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_momentum_weighs_the_old_value(momentum: float, unbiased: bool) -> None:
    layer = normdrop.BatchNorm(3, momentum=momentum, unbiased=unbiased, dtype=np.float64)
    mean, var = np.zeros(3), np.ones(3)
    for step in range(4):
        x = _x(seed=step)
        layer(x)
        mean = momentum * mean + (1 - momentum) * x.mean(axis=0)
        var = momentum * var + (1 - momentum) * x.var(axis=0, ddof=int(unbiased))
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
        np.testing.assert_allclose(layer.running_var, var, rtol=1e-12)


def test_default_momentum_keeps_nine_tenths_of_the_old_value() -> None:
    layer = normdrop.BatchNorm(1, dtype=np.float64)
    layer(np.array([[9.0], [11.0]]))
    assert layer.running_mean[0] == pytest.approx(1.0, rel=1e-14)
    assert layer.running_var[0] == pytest.approx(0.9 + 0.1 * 2.0, rel=1e-14)


def test_momentum_one_never_learns_and_momentum_zero_forgets_at_once() -> None:
    never, at_once = (normdrop.BatchNorm(3, momentum=momentum, dtype=np.float64) for momentum in (1.0, 0.0))
    for seed in range(3):
        never(_x(seed=seed))
        at_once(_x(seed=seed))
    np.testing.assert_array_equal([never.running_mean, never.running_var], [np.zeros(3), np.ones(3)])
    np.testing.assert_allclose(at_once.running_mean, _x(seed=2).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(at_once.running_var, _x(seed=2).var(axis=0, ddof=1), rtol=1e-13)


def test_momentum_zero_forgets_even_a_nan_and_momentum_one_ignores_one() -> None:
    layer = normdrop.BatchNorm(3, momentum=0.0, dtype=np.float64)
    layer.running_mean[...] = layer.running_var[...] = np.nan
    layer(_x())
    np.testing.assert_allclose(layer.running_mean, _x().mean(axis=0), rtol=1e-13)
    assert np.all(np.isfinite(layer.running_var))
    layer = normdrop.BatchNorm(3, momentum=1.0, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        layer(np.full((4, 3), np.nan))
    np.testing.assert_array_equal([layer.running_mean, layer.running_var], [np.zeros(3), np.ones(3)])


def test_cumulative_average_weighs_batches_by_their_values() -> None:
    layer = normdrop.BatchNorm(1, momentum=None, dtype=np.float64)
    layer(np.zeros((1000, 1)))
    layer(np.full((2, 1), 10.0))
    assert layer.running_mean[0] == pytest.approx(20 / 1002, rel=1e-14)
    assert layer.num_values == 1002
    assert layer.num_batches == 2


@pytest.mark.parametrize("unbiased", [True, False])
def test_cumulative_average_of_the_variance_is_weighted_too(unbiased: bool) -> None:
    layer = normdrop.BatchNorm(2, momentum=None, unbiased=unbiased, dtype=np.float64)
    batches = [_x(n, 2, seed) for seed, n in enumerate((5, 17, 3))]
    for x in batches:
        layer(x)
    expected = sum(x.shape[0] * x.var(axis=0, ddof=int(unbiased)) for x in batches) / 25
    np.testing.assert_allclose(layer.running_var, expected, rtol=1e-13)
    np.testing.assert_allclose(layer.running_mean, np.concatenate(batches).mean(axis=0), rtol=1e-13)


def test_cumulative_average_counts_values_not_samples() -> None:
    layer = normdrop.BatchNorm(2, momentum=None, dtype=np.float64)
    layer(np.zeros((1, 2, 50)))
    layer(np.ones((50, 2)))
    assert layer.num_values == 100
    np.testing.assert_allclose(layer.running_mean, 0.5, rtol=1e-14)


def test_momentum_may_change_between_batches_and_none_goes_on_from_all_values() -> None:
    layer = normdrop.BatchNorm(1, momentum=0.5, dtype=np.float64)
    layer(np.full((4, 1), 8.0))
    layer.momentum = None
    layer(np.full((4, 1), 0.0))
    assert layer.running_mean[0] == pytest.approx(2.0, rel=1e-14)


def test_variance_is_unbiased_by_default_and_output_never() -> None:
    layer = normdrop.BatchNorm(1, momentum=0.0, eps=1e-12, dtype=np.float64)
    y = layer(np.array([[-1.0], [1.0]]))
    assert layer.running_var[0] == 2.0
    np.testing.assert_allclose(y, [[-1.0], [1.0]], rtol=1e-9)


def test_inference_uses_the_running_statistics_and_moves_nothing() -> None:
    layer = normdrop.BatchNorm(3, gamma_init="uniform", dtype=np.float64, rng=1)
    layer(_x())
    layer.forget()
    before = layer.state_dict()
    x = _x(seed=1)
    y = layer.eval()(x)
    expected = (x - layer.running_mean) / np.sqrt(layer.running_var + 1e-5) * layer.gamma + layer.beta
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    layer.backward(y)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    layer(np.ones((1, 3)))  # one value per channel is a batch of inference


def test_modes_return_the_layer_and_say_which_it_is() -> None:
    layer = normdrop.BatchNorm(3)
    assert layer.eval() is layer
    assert not layer.training
    assert layer.train() is layer
    assert layer.training


def test_mode_of_the_forward_pass_decides_the_backward_pass() -> None:
    layer = normdrop.BatchNorm(3, dtype=np.float64)
    layer(_x())
    layer.forget()
    dy = _x(seed=3)
    layer.eval()(_x(seed=1))
    layer.train()
    np.testing.assert_allclose(layer.backward(dy), dy / np.sqrt(layer.running_var + 1e-5), rtol=1e-12)
    layer(_x(seed=1))
    layer.eval()
    _, context = functional.batch_norm(_x(seed=1), layer.gamma, layer.beta)
    np.testing.assert_array_equal(layer.backward(dy), functional.batch_norm_backward(dy, context)[0])


def test_without_running_statistics_inference_uses_the_batch() -> None:
    layer = normdrop.BatchNorm(3, track_running_stats=False, dtype=np.float64)
    assert layer.running_mean is None
    assert layer.running_var is None
    trained = layer(_x())
    np.testing.assert_array_equal(layer.eval()(_x()), trained)
    assert (layer.num_batches, layer.num_values) == (0, 0)
    assert set(layer.state_dict()) == {"gamma", "beta", "num_batches", "num_values"}


def test_layer_without_affine_has_no_parameters() -> None:
    layer = normdrop.BatchNorm(3, affine=False, dtype=np.float64)
    assert layer.gamma is None
    assert layer.beta is None
    assert list(layer.parameters()) == []
    np.testing.assert_array_equal(layer(_x()), functional.batch_norm(_x())[0])
    layer.backward(_x(seed=1))
    assert layer.dgamma is None
    assert layer.dbeta is None
    assert set(layer.state_dict()) == {"running_mean", "running_var", "num_batches", "num_values"}


def test_uniform_gamma_is_drawn_from_zero_to_one_by_rng() -> None:
    first, same, other = (
        normdrop.BatchNorm(1000, gamma_init="uniform", rng=seed, dtype=np.float64).gamma for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert np.all((first >= 0) & (first < 1))
    assert abs(first.mean() - 0.5) < 0.05
    assert abs(first.var() - 1 / 12) < 0.02
    generator = np.random.default_rng(5)
    expected = np.random.default_rng(5).random(4)
    np.testing.assert_array_equal(
        normdrop.BatchNorm(4, gamma_init="uniform", rng=generator, dtype=np.float64).gamma, expected
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x_dtype", [np.float32, np.float64])
def test_parameters_have_the_dtype_of_the_layer_and_output_that_of_the_input(dtype: type, x_dtype: type) -> None:
    layer = normdrop.BatchNorm(3, dtype=dtype)
    y = layer(_x(dtype=x_dtype))
    dx = layer.backward(_x(dtype=x_dtype))
    assert y.dtype == dx.dtype == x_dtype
    for name in ("gamma", "beta", "dgamma", "dbeta"):
        assert getattr(layer, name).dtype == dtype, name
    assert layer.running_mean.dtype == layer.running_var.dtype == np.float64


def test_gradients_are_set_not_added_and_belong_to_the_parameters() -> None:
    layer = normdrop.BatchNorm(3, dtype=np.float64)
    assert [gradient for _, _, gradient in layer.parameters()] == [None, None]
    for seed in (1, 2):
        layer(_x())
        layer.backward(_x(seed=seed))
    _, context = functional.batch_norm(_x(), layer.gamma, layer.beta)
    _, dgamma, dbeta = functional.batch_norm_backward(_x(seed=2), context)
    (name, gamma, got_dgamma), (other_name, beta, got_dbeta) = layer.parameters()
    assert (name, other_name) == ("gamma", "beta")
    assert gamma is layer.gamma
    assert beta is layer.beta
    np.testing.assert_array_equal(got_dgamma, dgamma)
    np.testing.assert_array_equal(got_dbeta, dbeta)


def test_inference_gives_parameter_gradients_only_with_keep_x() -> None:
    layer = normdrop.BatchNorm(3, dtype=np.float64)
    layer(_x())
    layer.backward(_x())
    layer.eval()(_x())
    layer.backward(_x())
    assert layer.dgamma is None
    assert layer.dbeta is None
    layer(_x(), keep_x=True)
    layer.backward(_x(seed=1))
    x_hat = (_x() - layer.running_mean) / np.sqrt(layer.running_var + 1e-5)
    np.testing.assert_allclose(layer.dgamma, (_x(seed=1) * x_hat).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.dbeta, _x(seed=1).sum(axis=0), rtol=1e-12)


def test_out_and_in_place_pass_through_the_layer() -> None:
    layer = normdrop.BatchNorm(3, dtype=np.float64)
    y = layer(_x())
    dx = layer.backward(_x(seed=1))
    x, dy = _x(), _x(seed=1)
    assert layer(x, out=x) is x
    assert layer.backward(dy, out=dy) is dy
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(dy, dx)


def test_optimizer_changes_the_layer_in_place() -> None:
    layer = normdrop.BatchNorm(3, dtype=np.float64)
    layer(_x())
    layer.backward(_x(seed=1))
    for _, value, gradient in layer.parameters():
        value -= 0.5 * gradient
    np.testing.assert_array_equal(layer.beta, -0.5 * layer.dbeta)
    np.testing.assert_array_equal(layer(_x()), functional.batch_norm(_x(), layer.gamma, layer.beta)[0])


@pytest.mark.parametrize(
    ("make", "taken", "refused"),
    [
        (normdrop.BatchNorm, [(4, 3), (4, 3, 2), (4, 3, 2, 2), (2, 3, 2, 2, 2), (2, 3, 1, 1, 2, 2)], [(3,)]),
        (normdrop.BatchNorm1d, [(4, 3), (4, 3, 2)], [(3,), (4, 3, 2, 2)]),
        (normdrop.BatchNorm2d, [(4, 3, 2, 2)], [(4, 3), (3, 2, 2), (4, 3, 2, 2, 2)]),
        (normdrop.BatchNorm3d, [(4, 3, 2, 2, 2)], [(4, 3), (4, 3, 2, 2)]),
    ],
)
def test_layers_of_a_rank_take_that_rank_alone(make: Any, taken: list[Any], refused: list[Any]) -> None:
    layer = make(3)
    for shape in taken:
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(layer(x), functional.batch_norm(x)[0])
    n_batches = layer.num_batches
    for shape in refused:
        with pytest.raises(ValueError, match="x must have"):
            layer(np.ones(shape, np.float32))
    assert layer.num_batches == n_batches


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_of_another_shape_are_refused_and_nothing_changes(name: str, n: int) -> None:
    layer, x = normdrop.BatchNorm(3), _x(dtype=np.float32)
    with pytest.raises(ValueError, match=rf"{name} must have shape \(3,\)"):
        setattr(layer, name, np.ones(n))
    getattr(layer, name).resize(n, refcheck=False)  # behind the layer's back
    given = x.copy()
    with pytest.raises(ValueError, match=rf"{name} must have shape \(3,\)"):
        layer(x, out=x)
    np.testing.assert_array_equal(x, given)
    assert (layer.num_batches, layer.num_values) == (0, 0)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_are_read_only_are_refused_and_nothing_changes(name: str) -> None:
    layer, x = normdrop.BatchNorm(3), _x(dtype=np.float32)
    given = x.copy()
    getattr(layer, name).flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        layer(x, out=x)
    np.testing.assert_array_equal(x, given)
    np.testing.assert_array_equal([layer.running_mean, layer.running_var], [np.zeros(3), np.ones(3)])
    assert (layer.num_batches, layer.num_values, layer._passes.waiting) == (0, 0, (None, 0, False))


def test_a_subclass_is_called_as_it_says() -> None:
    class Twice(normdrop.BatchNorm):
        def forward(self, x, **options):
            return 2 * super().forward(x, **options)

    class Mixin:
        def forward(self, x, **options):
            return super().forward(x, **options) + 1

    class Both(Mixin, Twice):
        pass

    x = _x()
    y = normdrop.BatchNorm(3)(x)
    np.testing.assert_array_equal(Twice(3)(x), 2 * y)
    np.testing.assert_array_equal(Both(3)(x), 2 * y + 1)
