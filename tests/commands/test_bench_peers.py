"""The bench: peers compute what normdrop computes, and those that are missing are named."""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest

import normdrop
from normdrop import functional

pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("psutil")

from normdrop.bench import cases, peers, sides, study
from normdrop.bench.batch import Batch


def without(monkeypatch, *packages):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else find_spec(name))


def test_missing_peers_are_named_with_the_reason(monkeypatch):
    without(monkeypatch, "torch", "jax")
    found, missing = peers.find(peers.ENTRIES, 1)
    assert [peer.name for peer in found] == ["NumPy"]
    assert missing == {
        "PyTorch": "the package torch is not installed",
        "torch.compile": "the package torch is not installed",
        "JAX": "the package jax is not installed",
    }


def test_a_peer_that_does_not_start_is_named_with_the_reason(monkeypatch):
    def make(n_threads):
        raise OSError("libfancy.so is missing\nand more")

    monkeypatch.setattr("normdrop.bench.peers.numpy_formulas.make", make)
    assert peers.find(["numpy"], 1) == ([], {"NumPy": "it does not start: OSError: libfancy.so is missing"})


def test_torch_compile_without_a_compiler_is_named_with_the_reason(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert peers.find(["torch.compile"], 1) == ([], {"torch.compile": "there is no C++ compiler"})


def test_torch_compile_with_a_compiler_that_fails_is_named_with_the_reason(monkeypatch):
    torch = pytest.importorskip("torch")

    def refuse(*_, **__):
        raise RuntimeError("the compiler has no headers")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr("shutil.which", lambda name: name)
    found, missing = peers.find(["torch.compile"], torch.get_num_threads())
    assert found == []
    assert missing["torch.compile"].endswith("RuntimeError: the compiler has no headers")


SHAPES = [((4, 3, 5, 6), False), ((4, 3, 5, 6), True), ((16, 5), False)]
DENSE = ("NumPy", "JAX")  # they return channels-last results as (N, H, W, C)


def results_of(key, shapes, path):
    """Store what a peer computes, twice for what is random; run in an interpreter of its own."""
    import sys

    import numpy as np

    from normdrop.bench.batch import Batch
    from normdrop.bench.peers import find

    found, missing = find([key], 2)
    if missing:
        sys.stdout.write(str(missing))
        return
    arrays = {}
    for i, (shape, channels_last) in enumerate(shapes):
        batch = Batch(shape, channels_last)
        for name in ("batch_norm", "batch_norm_backward", "batch_norm_inference"):
            values = getattr(found[0], name)(batch)()
            if name == "batch_norm" and key == "jax":
                values = values[:1]  # without the running statistics
            for j, value in enumerate(values if isinstance(values, tuple) else [values]):
                arrays[f"{name} {i} {j}"] = np.asarray(value)
    big, channels = Batch((1 << 16,)), Batch((64, 32, 3, 2))
    for name, batch in {"dropout": big, "channel_dropout": channels, "dropout_backward": big}.items():
        call = getattr(found[0], name)(batch, 0.25)
        for j in range(2):
            arrays[f"{name} {j}"] = np.asarray(call()).copy()
    np.savez(path, **arrays)


def expected_of(batch):
    """Compute what `results_of` stores of batch normalization, by normdrop."""
    y, context = functional.batch_norm(batch.x, batch.gamma, batch.beta)
    statistics = batch.mean, batch.var, batch.gamma, batch.beta
    return {
        "batch_norm": [y],
        "batch_norm_backward": functional.batch_norm_backward(batch.dy, context),
        "batch_norm_inference": [functional.batch_norm_inference(batch.x, *statistics)[0]],
    }


@pytest.mark.jit
@pytest.mark.parametrize(
    ("key", "shapes"),
    [
        ("numpy", SHAPES),
        ("torch", SHAPES),
        pytest.param("torch.compile", SHAPES[:1], marks=pytest.mark.slow),
        ("jax", SHAPES),
    ],
)
def test_a_peer_computes_what_normdrop_computes(key, shapes, in_subprocess, tmp_path):
    entry = peers.ENTRIES[key]
    if importlib.util.find_spec(entry.package) is None:
        pytest.skip(f"{entry.package} is not installed")
    call = f"results_of({key!r}, {shapes}, {str(tmp_path / 'results.npz')!r})"
    if missing := in_subprocess(f"{inspect.getsource(results_of)}\n{call}"):
        assert key == "torch.compile", missing
        pytest.skip(missing)  # there need not be a compiler
    got = np.load(tmp_path / "results.npz")
    for i, (shape, channels_last) in enumerate(shapes):
        batch = Batch(shape, channels_last)
        for name, arrays in expected_of(batch).items():
            for j, array in enumerate(arrays):
                expected = batch.dense(array) if entry.name in DENSE and array.ndim > 1 else array
                np.testing.assert_allclose(got[f"{name} {i} {j}"], expected, rtol=1e-4, atol=1e-4)
    check_dropout(got, Batch((1 << 16,)), Batch((64, 32, 3, 2)))


def check_dropout(got, big, channels):
    for j in range(2):
        y, dx, z = (got[f"{name} {j}"] for name in ("dropout", "dropout_backward", "channel_dropout"))
        for output, values in ((y, big.x), (dx, big.dy), (z, channels.x)):
            kept = output != 0
            np.testing.assert_allclose(output, np.where(kept, values / 0.75, 0), rtol=1e-5)
            n = np.prod(output.shape[:2])
            assert abs(kept.mean() - 0.75) < 5 * (0.75 * 0.25 / n) ** 0.5
        kept = (z != 0).reshape(64, 32, 6)
        np.testing.assert_array_equal(kept.any(axis=2), kept.all(axis=2))  # whole channels
    for name in ("dropout", "channel_dropout"):
        assert np.any(got[f"{name} 0"] != got[f"{name} 1"])  # a new mask in each call
    np.testing.assert_array_equal(got["dropout_backward 0"], got["dropout_backward 1"])


@pytest.mark.jit
@pytest.mark.parametrize("name", sides.OURS)
@pytest.mark.parametrize(("shape", "channels_last"), SHAPES)
def test_own_sides_compute_the_passes_and_reuse_the_output_only_if_they_shall(name, shape, channels_last):
    batch, ours = Batch(shape, channels_last), sides.Normdrop(name)
    for method, arrays in expected_of(batch).items():
        call = getattr(ours, method)(batch)
        results = [value if isinstance(value, tuple) else (value,) for value in (call(), call())]
        for got, expected in zip(results[0], arrays, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert (results[0][0] is results[1][0]) == (name == "normdrop")
        assert results[0][0].strides == batch.x.strides
    y = ours.dropout(batch, 0.5)()
    assert set(np.unique(np.asarray(y / batch.x).round(4))) == {0, 2}
    assert ours.dropout_backward(batch, 0.5)().shape == shape


def test_channels_last_batches_are_views_of_such_memory():
    batch = Batch((4, 3, 5, 6), channels_last=True)
    for array in (batch.x, batch.dy, batch.buffer()):
        assert array.shape == (4, 3, 5, 6)
        assert batch.dense(array).flags.c_contiguous
        assert batch.dense(array).shape == (4, 5, 6, 3)
    assert batch.axes == (0, 1, 2)
    assert batch.channel_mask == (4, 1, 1, 3)


def test_copies_copy(monkeypatch):
    batch = Batch((5, 3, 2, 2), channels_last=True)
    y = batch.buffer()
    monkeypatch.setattr(batch, "buffer", lambda: y)
    with study.ThreadPoolExecutor(2) as pool:
        for call in sides.copies(batch, pool, 2).values():
            y[...] = 0
            call()
            np.testing.assert_array_equal(y, batch.x)


def test_importing_the_bench_imports_no_peer(in_subprocess):
    code = """
    import sys
    import normdrop.bench.command, normdrop.__main__
    print([name for name in ("torch", "jax", "matplotlib") if name in sys.modules])
    """
    assert in_subprocess(code).strip() == "[]"


def test_peers_have_no_passes_but_those_of_normdrop():
    known = {operation.method for operation in cases.PASSES}
    assert all(hasattr(sides.Normdrop, method) for method in known)
    assert sides.Normdrop.version == normdrop.__version__
