"""A layer that several threads use at once: right outputs, masks of their own; statistics are one thread's business."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, functional

pytestmark = pytest.mark.same

X = np.random.default_rng(0).normal(2.0, 3.0, (64, 3)).astype(np.float32)
N_THREADS, N_CALLS = 6, 40


def at_once(call: Callable[[], object]) -> list[object]:
    """What all calls in all threads gave."""
    start, results = threading.Barrier(N_THREADS), []

    def run() -> None:
        start.wait()
        results.extend(call() for _ in range(N_CALLS))

    threads = [threading.Thread(target=run) for _ in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == N_THREADS * N_CALLS
    return results


def test_threads_that_share_a_layer_in_inference_get_right_outputs():
    for layer in (normdrop.BatchNorm(3), normdrop.Dropout(0.5, scaling="original", rng=0)):
        layer(X)
        layer.eval()
        before = {name: value.tobytes() for name, value in layer.state_dict().items()}
        expected = layer(X).tobytes()
        assert at_once(lambda layer=layer: layer(X).tobytes()) == [expected] * (N_THREADS * N_CALLS)
        assert {name: value.tobytes() for name, value in layer.state_dict().items()} == before


def test_threads_that_train_one_layer_get_right_outputs_and_masks_of_their_own():
    norm, drop = normdrop.BatchNorm(3), normdrop.Dropout(0.5, rng=MaskStream.from_key((1, 2)))
    expected = functional.batch_norm(X, norm.gamma, norm.beta)[0].tobytes()
    assert at_once(lambda: norm(X).tobytes()) == [expected] * (N_THREADS * N_CALLS)
    stream = MaskStream.from_key((1, 2))
    masks = sorted(functional.dropout(X, 0.5, rng=stream)[0].tobytes() for _ in range(N_THREADS * N_CALLS))
    assert sorted(at_once(lambda: drop(X).tobytes())) == masks
    assert drop.stream == stream
