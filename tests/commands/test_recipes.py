"""The recipes of the how-to pages do what the pages say: the code that is run here is that of the pages themselves."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import normdrop
from normdrop import functional

PAGES = Path(__file__).parents[2] / "docs" / "how-to"

pytestmark = pytest.mark.skipif(not PAGES.exists(), reason="the docs do not lie beside the tests")


def blocks(page):
    """The fenced code of each section of a page that has any."""
    text = (PAGES / page).read_text(encoding="utf-8")
    sections = re.split(r"^## (.+)$", text, flags=re.M)[1:]
    found = {
        title: re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
        for title, section in zip(sections[::2], sections[1::2], strict=True)
    }
    return {title: codes for title, codes in found.items() if codes}


def source(page, section):
    return "\n".join(blocks(page)[section])


def run(page, section):
    """Run a section's code, and return the names that it has made."""
    return made_by(source(page, section))


def made_by(code):
    names = {"__name__": "recipe"}
    exec(code, names)
    return names


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def threads():
    """What makes Dask compute on threads that end with the test; without it, it computes on none."""
    pytest.importorskip("dask.array")
    import dask

    with ThreadPoolExecutor(2) as pool, dask.config.set(scheduler="synchronous"):
        yield {"scheduler": "threads", "pool": pool}


def over_blocks(function, x):
    return x.map_blocks(function, meta=np.empty((0, 0), np.float32))


def test_with_xarray_labels_stay_and_numbers_are_those_of_the_plain_array():
    pytest.importorskip("xarray")
    page = run("other-libraries.md", "xarray")
    field, values = page["field"], page["values"]
    for result, plain in [
        (page["dropped"], normdrop.Dropout(0.5, rng=0)(values)),
        (page["normalized"], normdrop.BatchNorm(3, channel_axis=1)(values)),
    ]:
        assert result.dims == field.dims
        assert list(result.coords["band"].values) == ["red", "green", "blue"]
        assert result.dtype == np.float32
        assert same(result, plain)
    assert page["norm"].num_batches == 1


def test_with_dask_inference_by_blocks_is_that_of_the_whole(threads):
    page = run("other-libraries.md", "Dask")
    norm, y = page["norm"], page["y"]
    assert norm.num_batches == 10
    whole = norm(page["x"].compute())
    assert y.dtype == np.float32
    assert same(y.compute(**threads), whole)
    norm.train()
    assert not same(y.compute(), whole)  # the graph holds the layer itself


def test_with_dask_a_layer_in_training_differs_between_two_computes_or_from_the_whole(threads):
    x = run("other-libraries.md", "Dask")["x"]
    dropped = over_blocks(normdrop.Dropout(0.5, rng=7), x)
    assert not same(dropped.compute(**threads), dropped.compute(**threads))
    normalized = over_blocks(normdrop.BatchNorm(8), x).compute()
    assert np.abs(normalized - normdrop.BatchNorm(8)(x.compute())).max() > 0.1


def test_with_dask_streams_of_blocks_give_one_mask_in_every_compute_and_other_chunks_another(threads):
    page = run("other-libraries.md", "Dask")
    first, x = page["dropped"].compute(**threads), page["x"].compute()
    assert same(first, page["dropped"].compute(**threads))
    assert same(first, page["dropped"].compute())
    assert same(first, np.where(first == 0, 0, 2 * x))
    streams = normdrop.MaskStream(7).spawn(10)
    expected = [functional.dropout(x[100 * i : 100 * i + 100], 0.5, rng=streams[i])[0] for i in range(10)]
    assert same(first, np.concatenate(expected))
    assert len({(block == 0).tobytes() for block in expected}) == 10
    code = source("other-libraries.md", "Dask").replace("chunks=(100, -1)", "chunks=(50, -1)")
    assert not same(first == 0, made_by(code)["dropped"].compute() == 0)


def test_with_dask_processes_give_what_threads_give(threads):
    import dask

    page = run("other-libraries.md", "Dask")
    results = page["y"], page["dropped"]
    assert all(map(same, dask.compute(*results, scheduler="processes"), dask.compute(*results, **threads)))


def test_with_dask_a_layer_for_each_task_draws_the_same_in_processes_and_on_threads(threads):
    import dask

    page = run("processes.md", "Dask")
    layers = normdrop.Dropout(0.5, rng=7).spawn(4)
    expected = [layer(page["x"]) for layer in layers]
    assert len({y.tobytes() for y in expected}) == 4
    assert all(map(same, page["outputs"], expected))
    assert [layer.stream.call for layer in page["layers"]] == [0] * 4  # what the processes got were copies
    assert all(map(same, dask.compute(*page["tasks"], **threads), expected))
    assert not any(map(same, dask.compute(*page["tasks"], **threads), expected))  # it goes on where the first ended


def test_with_dask_statistics_and_normalization_are_those_of_the_whole(threads):
    page = run("shared-batch.md", "Dask")
    x = page["x"].compute()
    assert (page["statistics"].n == len(x)).all()
    assert np.abs(page["y"].compute() - normdrop.BatchNorm(8, eps=1e-3, dtype=np.float64)(x)).max() < 1e-9


def test_with_pandas_a_mixed_frame_is_normalized_and_keeps_its_labels():
    pytest.importorskip("pandas")
    page = run("other-libraries.md", "pandas")
    frame, x, normalized = page["frame"], page["x"], page["normalized"]
    assert frame.to_numpy().dtype == object
    assert x.dtype == np.float32
    assert x[:, 1].tolist() == [0, 2, 1, 1]
    assert list(normalized.index) == list(frame.index)
    assert list(normalized.columns) == list(frame.columns)
    assert same(normalized, normdrop.BatchNorm(2)(x))
    unfilled = normdrop.BatchNorm(2)(frame.to_numpy(dtype=np.float32, na_value=np.nan))
    assert np.isnan(unfilled).all(0).tolist() == [False, True]


def test_within_jit_and_vmap_of_jax_a_layer_in_inference_is_called_back(in_subprocess):
    """In a process of its own: JAX starts threads, and warns of every fork from then on."""
    pytest.importorskip("jax")
    checks = """
norm.running_mean[...] = [1, 2, 3]
for n in (4, 100_000):
    x = jax.numpy.arange(3.0 * n).reshape(n, 3)
    assert np.array_equal(normalize(x), norm(np.asarray(x)))
y = jax.vmap(normalize)(jax.numpy.stack([x, -x]))
assert np.array_equal(y[1], norm(-np.asarray(x)))
tiny = np.full((1, 3), 1e-40, np.float32)
norm.running_mean[...] = 0
assert not normalize(tiny).any() and norm(tiny).all()
try:
    jax.grad(lambda x: normalize(x).sum())(x)
except ValueError as error:
    print("custom" in str(error))
"""
    assert in_subprocess(source("other-libraries.md", "JAX") + checks, JAX_PLATFORMS="cpu").split() == ["True"]


def test_with_scikit_learn_a_step_holds_the_layer_s_statistics_and_does_not_train_it():
    pytest.importorskip("sklearn")
    from sklearn.base import clone

    page = run("other-libraries.md", "scikit-learn")
    model, norm, x = page["model"], page["norm"], page["x"]
    assert model.score(x, page["label"]) > 0.9
    assert same(model[0].transform(x[:3]), norm(x[:3]))
    assert same(clone(model[0]).fit(x[:9]).transform(x[:3]), norm(x[:3]))
    assert norm.num_batches == 10
    norm.train()
    assert not same(model[0].transform(x[:3]), norm.eval()(x[:3]))  # what a layer in training would give
    assert norm.num_batches == 11


def test_a_step_of_scikit_learn_takes_data_frames():
    pytest.importorskip("sklearn")
    pandas = pytest.importorskip("pandas")
    page = run("other-libraries.md", "scikit-learn")
    frame = pandas.DataFrame(page["x"], columns=list("abcde"))
    assert same(page["step"].fit(frame).transform(frame), page["norm"](page["x"]))


@pytest.mark.parametrize("page", ["other-libraries.md", "processes.md"])
def test_every_recipe_of_a_page_is_run_and_is_short(page):
    tests = Path(__file__).read_text(encoding="utf-8")
    for section, codes in blocks(page).items():
        assert f'("{page}", "{section}")' in tests
        assert all(len(code.splitlines()) <= 15 for code in codes)


def test_every_door_to_a_library_is_in_the_list_of_the_how_to_pages():
    reference = (PAGES.parent / "reference" / "doors.md").read_text(encoding="utf-8")
    doors = {"convert", "numba", *re.findall(r"normdrop\.(\w+)\.", reference)}
    listed = re.findall(r"\| `normdrop\.(\w+)` \|", (PAGES / "index.md").read_text(encoding="utf-8"))
    assert set(listed) == doors
