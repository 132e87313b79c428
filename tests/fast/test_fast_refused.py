"""What fast dropout refuses, says so and changes nothing; and what importing it loads."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from normdrop import fast

pytestmark = pytest.mark.same


def things():
    rng = np.random.default_rng(0)
    moments = fast.Moments(rng.normal(size=(4, 3)), rng.uniform(size=(4, 3)))
    weight = rng.normal(size=(3, 2))
    return SimpleNamespace(
        moments=moments,
        weight=weight,
        linear=fast.linear(moments, weight, p=0.5)[1],
        activation=fast.activation(moments)[1],
        labels=np.array([0, 1, 2, 0]),
        wrong=rng.normal(size=(4, 5)),
    )


CALLS = {
    "no moments": (lambda t: fast.activation(t.weight), TypeError, "moments must be fast.Moments", "fast.Moments(x)"),
    "a list": (lambda t: fast.activation(([1.0], None)), TypeError, "moments.mean must be a NumPy array"),
    "integers": (lambda t: fast.activation(fast.Moments(np.arange(3))), TypeError, "moments.mean", "int64"),
    "float16": (lambda t: fast.activation(fast.Moments(np.ones(3, np.float16))), TypeError, "float16", "astype"),
    "shapes": (
        lambda t: fast.activation(fast.Moments(t.wrong, t.weight)),
        ValueError,
        "moments.var",
        "(4, 5)",
        "(3, 2)",
    ),
    "dtypes": (
        lambda t: fast.activation(fast.Moments(np.ones(3), np.ones(3, np.float32))),
        TypeError,
        "moments.var must have the dtype of moments.mean, float64; got float32",
    ),
    "negative": (lambda t: fast.activation(fast.Moments(np.ones(2), -np.ones(2))), ValueError, "moments.var", "-1.0"),
    "weight": (lambda t: fast.linear(t.moments, t.wrong), ValueError, "weight (4, 5) and moments (4, 3)"),
    "bias": (lambda t: fast.linear(t.moments, t.weight, np.ones(3)), ValueError, "bias", "(2,)", "(3,)"),
    "p": (lambda t: fast.linear(t.moments, t.weight, p=1.5), ValueError, "p must be", "1.5"),
    "name": (lambda t: fast.activation(t.moments, "gelu"), ValueError, "'relu'", "'gelu'"),
    "slope": (
        lambda t: fast.activation(t.moments, "leaky_relu", negative_slope=-1),
        ValueError,
        "negative_slope must be from 0 to 1; got -1",
    ),
    "context": (
        lambda t: fast.linear_backward(None, None, t.activation),
        TypeError,
        "context must be what fast.linear() returned; got ActivationContext",
    ),
    "gradient": (lambda t: fast.linear_backward(t.wrong, None, t.linear), ValueError, "d_mean", "(4, 2)", "(4, 5)"),
    "statistics": (
        lambda t: fast.batch_norm_inference(t.moments, np.zeros(3), -np.ones(3)),
        ValueError,
        "var must not be negative",
    ),
    "channels": (
        lambda t: fast.batch_norm_inference(t.moments, np.zeros(2), np.ones(3)),
        ValueError,
        "mean must have shape (3,)",
    ),
    "logits": (lambda t: fast.softmax(fast.Moments(np.ones(3))), ValueError, "(N, K)", "(3,)"),
    "labels": (lambda t: fast.cross_entropy(t.moments, [0, 1, 2, 0]), TypeError, "labels", "list", "np.asarray"),
    "floats": (lambda t: fast.cross_entropy(t.moments, np.ones(4)), TypeError, "labels", "float64"),
    "too many": (lambda t: fast.cross_entropy(t.moments, np.zeros(5, int)), ValueError, "labels", "(4,)", "(5,)"),
    "no class": (lambda t: fast.cross_entropy(t.moments, t.labels + 1), ValueError, "labels", "from 0 to 2", "1 to 3"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_named_and_nothing_has_changed(name, refused):
    call, error, *words = CALLS[name]
    refused(things(), call, error, *words)


def test_an_array_on_a_gpu_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("normdrop._device.on_host", lambda x: False)
    with pytest.raises(TypeError, match=r"moments\.mean must be a NumPy array; got one on a GPU"):
        fast.activation(fast.Moments(np.ones(3)))


def test_contexts_and_moments_can_be_pickled():
    t = things()
    for value in (t.moments, t.linear, t.activation):
        again = pickle.loads(pickle.dumps(value))
        assert type(again) is type(value)
    assert fast.linear_backward(np.ones((4, 2)), None, pickle.loads(pickle.dumps(t.linear))).weight.shape == (3, 2)


@pytest.mark.parametrize("name", fast.__all__)
def test_every_public_name_says_where_it_is_and_has_a_docstring(name):
    thing = getattr(fast, name)
    assert thing.__doc__
    assert thing.__module__.startswith("normdrop.fast")


def test_importing_loads_neither_scipy_nor_a_compiler(in_subprocess):
    code = """
    import sys
    from normdrop import fast
    print(sorted({name.split(".")[0] for name in sys.modules} & {"scipy", "numba"}))
    import numpy as np
    fast.linear(fast.Moments(np.ones((1, 2))), np.ones((2, 1)), p=0.5)
    print("scipy" in sys.modules)
    fast.activation(fast.Moments(np.ones(1), np.ones(1)))
    print("scipy.special" in sys.modules, "scipy.stats" in sys.modules, "numba" in sys.modules)
    """
    assert in_subprocess(code).split("\n")[:3] == ["[]", "False", "True False False"]


def test_arrays_in_any_layout_are_taken():
    rng = np.random.default_rng(1)
    mean, var = rng.normal(size=(6, 8)), rng.uniform(size=(6, 8))
    plain, _ = fast.activation(fast.Moments(mean, var))
    strange = fast.Moments(np.asfortranarray(mean)[::-1, ::2], np.repeat(var, 2, axis=1)[::-1, ::4])
    strange.mean.flags.writeable = strange.var.flags.writeable = False
    result, _ = fast.activation(strange)
    np.testing.assert_array_equal(result.mean, plain.mean[::-1, ::2])
    np.testing.assert_array_equal(result.var, plain.var[::-1, ::2])
