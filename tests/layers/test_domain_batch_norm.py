"""Several domains in one layer: statistics of their own, scale and shift shared or not."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import BatchNorm, DomainBatchNorm

pytestmark = pytest.mark.same

RNG = np.random.default_rng(0)
X = {"a": RNG.normal(2.0, 3.0, (6, 3)), "b": RNG.normal(-50.0, 0.1, (4, 3))}
DY = {"a": RNG.normal(size=(6, 3)), "b": RNG.normal(size=(4, 3))}


def layer_of(shared: bool = True, **options: Any) -> DomainBatchNorm:
    return DomainBatchNorm(3, ["a", "b"], shared_affine=shared, dtype=np.float64, **options)


@pytest.mark.parametrize("shared", [True, False])
def test_each_domain_has_the_outputs_and_statistics_of_a_layer_of_its_own(shared: bool) -> None:
    layer, alone = layer_of(shared), {name: BatchNorm(3, dtype=np.float64) for name in "ab"}
    for training in (True, True, False):
        layer.training = training
        for name, norm in alone.items():
            norm.training = training
            np.testing.assert_array_equal(layer(X[name], domain=name), norm(X[name]))
            assert layer.norms[name].running_var.tobytes() == norm.running_var.tobytes()
            if training:
                np.testing.assert_array_equal(layer.backward(DY[name]), norm.backward(DY[name]))
    assert (layer.norms["a"].num_values, layer.norms["b"].num_values) == (12, 8)


def test_shared_scale_and_shift_are_one_parameter_whose_gradients_add_up_over_the_domains() -> None:
    layer, alone = layer_of(), [BatchNorm(3, dtype=np.float64) for _ in range(2)]
    for accumulate, name, norm in zip((False, True), "ab", alone, strict=True):
        layer(X[name], domain=name)
        layer.backward(DY[name], accumulate=accumulate)
        norm(X[name])
        norm.backward(DY[name])
    ((gamma_name, gamma, dgamma), (beta_name, beta, dbeta)) = layer.parameters()
    assert (gamma_name, beta_name) == ("gamma", "beta")
    np.testing.assert_allclose(dgamma, alone[0].dgamma + alone[1].dgamma, rtol=1e-14)
    np.testing.assert_allclose(dbeta, alone[0].dbeta + alone[1].dbeta, rtol=1e-14)
    assert dgamma is layer.dgamma
    gamma *= 2.0
    beta += 1.0
    for name, norm in zip("ab", alone, strict=True):
        np.testing.assert_allclose(layer(X[name], domain=name), 2.0 * norm(X[name]) + 1.0, rtol=1e-12)
    _, context = layer.forward(X["a"], domain="a", return_context=True)
    layer.backward(DY["a"], context=context)
    np.testing.assert_array_equal(layer.dbeta, DY["a"].sum(axis=0))
    layer.backward(DY["b"], domain="b")
    alone[1].backward(DY["b"])
    np.testing.assert_allclose(layer.dgamma, alone[1].dgamma, rtol=1e-12)  # set anew, whichever domain was before


def test_scales_and_shifts_of_their_own_are_as_many_parameters() -> None:
    layer = layer_of(False)
    layer.norms["b"].gamma[:] = 5.0
    assert [name for name, _, _ in layer.parameters()] == ["a.gamma", "a.beta", "b.gamma", "b.beta"]
    assert layer.norms["a"].gamma.tolist() == [1.0] * 3
    with pytest.raises(AttributeError, match=r"layer.norms\[domain\].gamma"):
        layer.gamma  # noqa: B018
    _, context = layer.forward(X["b"], domain="b", return_context=True)
    with pytest.raises(ValueError, match="domain must be given with a context"):
        layer.backward(DY["b"], context=context)
    layer.backward(DY["b"], context=context, domain="b")
    assert layer.norms["a"].dgamma is None
    assert layer.norms["b"].dgamma is not None


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_state_has_the_names_of_the_domains_and_goes_into_files_and_back(
    tmp_path: Path, shared: bool, suffix: str
) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    layer, other = layer_of(shared), layer_of(shared)
    for name in "ab":
        layer(X[name], domain=name)
        next(layer.parameters())[1][:] = 7.0
    state = layer.state_dict()
    of_each = {"running_mean", "running_var", "num_batches", "num_values"} | (set() if shared else {"gamma", "beta"})
    names = {f"{domain}.{name}" for domain in "ab" for name in of_each} | ({"gamma", "beta"} if shared else set())
    assert set(state) == names
    layer.save(tmp_path / f"layer{suffix}")
    other.load(tmp_path / f"layer{suffix}")
    assert all(np.array_equal(other.state_dict()[name], values) for name, values in state.items())


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("shared", [True, False])
def test_copies_and_pickles_share_among_domains_what_the_layer_did_and_nothing_with_it(
    again: Any, shared: bool
) -> None:
    layer = layer_of(shared).eval()
    twin = again(layer)
    next(twin.parameters())[1][:] = 3.0
    assert (twin.norms["b"].gamma[0], next(layer.parameters())[1][0]) == (3.0 if shared else 1.0, 1.0)
    assert not twin.training
    assert not twin.norms["b"].training
    twin.train()(X["b"], domain="b")
    twin.backward(DY["b"])
    assert (next(twin.parameters())[2] is not None) == shared
    assert next(layer.parameters())[2] is None
    assert layer.norms["b"].num_batches == 0
    assert repr(twin).startswith(f"DomainBatchNorm(3, ['a', 'b'], shared_affine={shared}, eps=1e-05")


def test_a_shared_parameter_that_is_set_is_set_for_all() -> None:
    layer = layer_of()
    layer.gamma = np.full(3, 4.0)
    layer.dbeta = None
    assert layer.norms["b"].gamma is layer.gamma
    with pytest.raises(TypeError, match="gamma must have the layer's dtype"):
        layer.gamma = np.ones(3, np.float32)
    assert layer.norms["b"].gamma is layer.gamma


def test_the_pass_that_waits_is_found_and_several_are_told_apart_by_their_domain() -> None:
    layer = layer_of()
    with pytest.raises(RuntimeError, match="forward pass before it"):
        layer.backward(DY["a"])
    layer(X["b"], domain="b")
    assert layer.backward(DY["b"]).shape == (4, 3)
    for name in "ab":
        layer(X[name], domain=name)
    with pytest.raises(RuntimeError, match=r"\['a', 'b'\], wait"):
        layer.backward(DY["a"])
    layer.backward(DY["a"], domain="a")
    layer.backward(DY["b"])
    for name in "ab":
        layer(X[name], domain=name)
    layer.forget()
    with pytest.raises(RuntimeError, match="forward pass before it"):
        layer.backward(DY["a"])


def test_one_domain_is_frozen_and_fitted_apart() -> None:
    layer = layer_of()
    layer.norms["a"].fit([X["a"]]).freeze()
    layer(X["a"] + 1, domain="a")
    layer(X["b"], domain="b")
    assert (layer.norms["a"].num_batches, layer.norms["b"].num_batches) == (1, 1)
    np.testing.assert_allclose(layer.norms["a"].running_mean, X["a"].mean(axis=0), rtol=1e-13)


BAD = layer_of().state_dict()
CALLS = [
    (lambda layer: layer(X["a"], domain="c"), ValueError, ["domain must be one of ['a', 'b']; got 'c'"]),
    (lambda layer: layer(X["a"], domain=0), TypeError, ["domain must be a name"]),
    (lambda layer: layer(X["a"][:, :2], domain="a"), ValueError, ["num_features = 3"]),
    (lambda layer: layer(X["a"] * np.nan, domain="b"), FloatingPointError, ["no finite mean"]),
    (lambda layer: layer.backward(DY["a"], domain="c"), ValueError, ["domain must be one of"]),
    (lambda layer: layer.load_state_dict({}), ValueError, ["missing", "b.running_mean"]),
    (lambda layer: layer.load_state_dict(BAD | {"b.running_var": -np.ones(3), "gamma": np.zeros(3)}), ValueError,
     ["domain 'b'", "not be negative"]),
    (lambda layer: setattr(layer, "training", 1), TypeError, ["training must be"]),
    (lambda layer: setattr(layer, "norms", {}), AttributeError, ["norms is fixed"]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_a_call_that_fails_changes_nothing(refused: Any, call: Any, error: Any, words: Any) -> None:
    layer = layer_of(on_nonfinite="raise")
    for name in "ab":
        layer(X[name], domain=name)
    things = SimpleNamespace(a=layer.norms["a"], b=layer.norms["b"], layer=layer)
    refused(things, lambda s: call(s.layer), error, *words)
    assert layer.training


@pytest.mark.parametrize(
    ("domains", "error"), [("ab", TypeError), (3, TypeError), ([], ValueError), (["a", "a"], ValueError),
                           (["a.b"], ValueError), ([""], ValueError), ([1], TypeError)],
)  # fmt: skip
def test_names_that_cannot_be_told_apart_are_refused(domains: Any, error: Any) -> None:
    with pytest.raises(error, match="domains must be"):
        DomainBatchNorm(3, domains)
