"""A step of scikit-learn's pipelines: its contract, and the statistics of samples in pieces."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from normdrop import BatchNorm
from normdrop.sklearn import BatchNormTransformer

pytestmark = [pytest.mark.once, pytest.mark.same]


def ordered(n=200, c=3):
    return np.sort(np.random.default_rng(0).normal(300.0, 0.1, (n, c)), axis=0)


@parametrize_with_checks([BatchNormTransformer()])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_the_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_sorted_samples_in_pieces_have_the_variance_of_the_whole(size, exact):
    x = ordered()
    whole, step = BatchNormTransformer(exact=exact).fit(x), BatchNormTransformer(exact=exact)
    for start in range(0, len(x), size):
        step.partial_fit(x[start : start + size])
    assert np.allclose(step.var_, x.var(axis=0), rtol=1e-12, atol=0)
    if exact:
        assert step.statistics_ == whole.statistics_
        assert step.transform(x).tobytes() == whole.transform(x).tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_it_standardizes_as_a_fitted_layer_and_gives_back_what_it_was_given(dtype):
    x = np.random.default_rng(0).normal(3, 2, (50, 3)).astype(dtype)
    step, layer = BatchNormTransformer(eps=1e-3).fit(x), BatchNorm(3, eps=1e-3, unbiased=False, affine=False)
    y = step.transform(x)
    assert (y.dtype, y.tobytes()) == (x.dtype, layer.fit([x]).eval()(x).tobytes())
    back = step.inverse_transform(y)
    assert back.dtype == x.dtype
    tolerance = 4 * float(np.finfo(dtype).eps)
    assert np.allclose(back.astype(np.float64), x.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_it_gives_back_is_computed_in_float64_and_rounded_once(dtype, order):
    x = np.random.default_rng(0).normal(3, 2, (500, 3)).astype(dtype)
    step = BatchNormTransformer().fit(x)
    y = np.asarray(step.transform(x), order=order)
    before = y.tobytes()
    back = step.inverse_transform(y)
    expected = (y.astype(np.float64) * np.sqrt(step.var_ + step.eps) + step.mean_).astype(dtype)
    assert (back.dtype, back.tobytes(), y.tobytes()) == (dtype, expected.tobytes(), before)


def test_weights_and_missing_values_count_as_in_a_standard_scaler():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(3, 2, (60, 3)), rng.integers(0, 3, 60)
    x[rng.random(x.shape) < 0.2] = np.nan
    ours, theirs = (step.fit(x, sample_weight=weights) for step in (BatchNormTransformer(), StandardScaler()))
    assert np.allclose(ours.mean_, theirs.mean_, rtol=1e-13)
    assert np.allclose(ours.var_, theirs.var_, rtol=1e-12)
    assert np.array_equal(np.isnan(ours.transform(x)), np.isnan(x))


def test_names_of_features_and_data_frames_pass_through():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(ordered(20, 2), columns=["a", "b"], index=range(5, 25))
    step = BatchNormTransformer().set_output(transform="pandas").fit(frame)
    result = step.transform(frame)
    assert list(result.columns) == ["a", "b"] == list(step.get_feature_names_out())
    assert list(result.index) == list(frame.index)
    with pytest.raises(ValueError, match="feature names"):
        step.partial_fit(frame.rename(columns={"a": "c"}))


def test_a_pipeline_a_clone_and_a_pickle_work():
    x = ordered()
    y = np.arange(200) > 100
    model = make_pipeline(BatchNormTransformer(eps=1e-8), LogisticRegression()).fit(x, y)
    assert model.score(x, y) > 0.95
    step = clone(model[0])
    assert (step.eps, hasattr(step, "mean_")) == (1e-8, False)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda step: step.partial_fit(np.ones((4, 2))), "2 features"),
        (lambda step: step.partial_fit(np.full((4, 3), np.inf)), "infinity"),
        (lambda step: step.partial_fit(np.ones((4, 3)), sample_weight=np.ones(3)), "sample_weight"),
        (lambda step: step.fit(np.ones((4, 2)), sample_weight=np.ones(3)), "sample_weight"),
        (lambda step: step.fit(np.ones((4, 2)), sample_weight=-np.ones(4)), "weights must be finite and not negative"),
        (lambda step: step.set_params(eps=-1.0).fit(np.ones((4, 2))), "eps must be positive"),
        (lambda step: step.set_params(exact=True).partial_fit(np.ones((4, 3))), "exact"),
    ],
)
def test_what_fails_leaves_the_statistics_as_they_were(call, words):
    step = BatchNormTransformer().fit(ordered())
    before = step.statistics_.copy(), step.mean_.tobytes(), step.n_features_in_
    with pytest.raises(ValueError, match=words):
        call(step)
    assert (step.statistics_, step.mean_.tobytes(), step.n_features_in_) == before


def test_without_scikit_learn_one_line_names_the_extra(in_subprocess):
    code = """
    import sys
    sys.modules["sklearn"] = None
    import normdrop
    try:
        import normdrop.sklearn
    except ImportError as error:
        print(error)
    """
    (line,) = in_subprocess(code).splitlines()
    assert "pip install 'normdrop[sklearn]'" in line
