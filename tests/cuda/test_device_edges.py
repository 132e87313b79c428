"""What happens seldom around arrays that are not NumPy's, and on a machine where they are not to be had."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _device, _overlap, functional


def test_which_objects_are_arrays_on_a_gpu() -> None:
    def of(module: str, **attributes: object) -> object:
        return type("Tensor", (), {"__module__": module} | attributes)()

    assert not _device.is_device_array(np.ones(3))
    assert _device.is_device_array(of("torch", is_cuda=True))
    assert not _device.is_device_array(of("torch", is_cuda=False, __cuda_array_interface__={}))
    assert _device.is_device_array(of("numba.cuda", __cuda_ndarray__=True))
    assert _device.is_device_array(of("cupy", __cuda_array_interface__={}))
    assert _device.is_device_array(of("jax", __dlpack_device__=lambda self: (2, 0)))
    assert not _device.is_device_array(of("jax", __dlpack_device__=lambda self: (1, 0)))
    assert not _device.is_device_array([1.0])


def test_without_numbas_cuda_target_an_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "normdrop._cuda", None)
    monkeypatch.delattr(normdrop, "_cuda", raising=False)
    with pytest.raises(RuntimeError, match=r"install normdrop\[cuda\]"):
        _device.backend()
    assert _device.describe().startswith("no: arrays on a GPU need Numba's CUDA target")


def test_a_gpu_is_described_by_the_backend_that_drives_it(monkeypatch) -> None:
    backend, launch = ModuleType("normdrop._cuda"), ModuleType("normdrop._cuda.launch")
    backend.launch, launch.describe = launch, lambda: "a GPU"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "normdrop._cuda", backend)
    monkeypatch.setitem(sys.modules, "normdrop._cuda.launch", launch)
    monkeypatch.setattr(normdrop, "_cuda", backend, raising=False)
    assert _device.describe() == "a GPU"


def test_arrays_on_a_gpu_whose_memory_is_entwined_count_as_overlapping() -> None:
    assert _overlap._is_real(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


def test_arrays_on_a_gpu_share_memory_where_their_addresses_overlap() -> None:
    def at(first: int, end: int) -> object:
        return type("Tensor", (), {"__module__": "cupy", "extent": (first, end)})()

    assert _overlap.is_possible(at(0, 8), at(7, 9))  # type: ignore[arg-type]
    assert _overlap.is_possible(at(7, 9), at(0, 8))  # type: ignore[arg-type]
    assert not _overlap.is_possible(at(0, 8), at(8, 9))  # type: ignore[arg-type]
    assert not _overlap.is_possible(at(8, 9), at(0, 8))  # type: ignore[arg-type]


def test_a_pass_that_is_interrupted_before_it_has_a_call_gives_none_back(monkeypatch) -> None:
    def take(self: MaskStream) -> int:
        raise KeyboardInterrupt

    stream = MaskStream.from_key((1, 2), 3)
    monkeypatch.setattr(MaskStream, "take", take)
    with pytest.raises(KeyboardInterrupt):
        functional.dropout(np.ones(5), 0.5, rng=stream)
    assert stream == MaskStream.from_key((1, 2), 3)


def test_a_failed_update_on_a_gpu_leaves_counts_and_context_as_they_were(monkeypatch) -> None:
    layer = normdrop.BatchNorm(3)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    layer(x)
    before, waiting = {name: vars(layer)[name] for name in ("num_batches", "num_values")}, layer._passes.waiting

    def fail(*_: object) -> bool:
        layer.num_batches = layer.num_values = 99
        raise MemoryError

    monkeypatch.setattr("normdrop.functional._running.fold", fail)
    monkeypatch.setattr("normdrop.functional._running.snapshot", lambda mean, var: None)
    with pytest.raises(MemoryError):
        layer._update(functional.batch_norm(x)[1], ((), None), [], keep=True)
    assert all(vars(layer)[name] is value for name, value in before.items())
    assert layer._passes.waiting is waiting
