"""Fused passes: what does not fit is refused where arrays meet a launcher, and a kernel is made once."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normdrop import _backend
from normdrop._cpu import fused
from normdrop._cpu.kernels import fused_planes
from normdrop._cpu.kernels.fused_operations import Fusion, operations
from normdrop._steps import Steps

pytestmark = pytest.mark.kinds

SHAPE = (4, 6, 5)


@pytest.fixture
def things() -> SimpleNamespace:
    """Arguments that fit."""
    rng = np.random.default_rng(0)
    x, r, dy, y, du = rng.normal(size=(5, *SHAPE)).astype(np.float32)
    gamma, beta = np.ones((2, 6), np.float32)
    return SimpleNamespace(
        x=x, r=r, dy=dy, y=y, du=du, gamma=gamma, beta=beta, statistics=np.ones((3, 6)), sums=np.ones((2, 6)),
        steps=Steps("relu", 0.0, 1 << 30, 4 / 3, (1, 2), 3),
    )  # fmt: skip


def forward(s: Any) -> None:
    _backend.batch_norm_act(s.y, (s.x, s.r), s.statistics, (s.gamma, s.beta), 1e-5, s.steps)


def inference(s: Any) -> None:
    _backend.normalize_act(s.y, (s.x, s.r), s.statistics, s.steps)


def gradient(s: Any) -> None:
    _backend.act_gradient(s.du, s.dy, (s.x, s.r), s.statistics, s.steps)


def backward(s: Any) -> None:
    _backend.batch_norm_act_backward((s.y, s.du), (s.dy, s.x, s.r), s.sums, s.statistics, (s.gamma, s.beta), s.steps)


def flat(s: Any) -> None:
    _backend.act_dropout(s.y.reshape(-1), (s.x.reshape(-1), s.r.reshape(-1)), s.steps)


def flat_backward(s: Any) -> None:
    _backend.act_dropout_backward(s.y.reshape(-1), s.dy.reshape(-1), s.x.reshape(-1), s.steps)


WIDE, BYTES = np.ones((4, 6, 5)), np.ones((4, 5), np.uint8)
MASK = {"mask": np.ones((4, 5), np.bool_), "fold": (6, 5)}
ALL = (forward, inference, gradient, backward, flat, flat_backward)
OF_ALL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"threshold": 1 << 32}, ValueError, "threshold"),
    ({"threshold": -1}, ValueError, "threshold"),
    ({"call": 1 << 63}, ValueError, "call"),
    ({"key": (0, 1 << 32)}, ValueError, "key"),
    ({"activation": "swish"}, ValueError, "activation"),
    ({"mask": np.ones((2, 7), np.bool_), "fold": (6, 7)}, ValueError, "fold"),  # as many rows as fit, and some more
    (MASK | {"fold": (0, 5)}, ValueError, "fold"),
    (MASK | {"fold": (-6, -5)}, ValueError, "fold"),
    (MASK | {"fold": (1, 5)}, ValueError, "mask"),
    (MASK | {"mask": MASK["mask"].reshape(-1)}, ValueError, "mask"),
    (MASK | {"mask": BYTES}, TypeError, "mask"),
    (MASK | {"mask": np.asfortranarray(MASK["mask"])}, ValueError, "contiguous"),
]


@pytest.mark.parametrize("launch", ALL)
@pytest.mark.parametrize(("changes", "error", "word"), OF_ALL, ids=[f"{k} {c[2]}" for k, c in enumerate(OF_ALL)])
def test_steps_that_do_not_fit_are_refused(things, refused, launch, changes, error, word) -> None:
    things.steps = things.steps._replace(**changes)
    refused(things, launch, error, word)


FORGED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    *((launch, {"r": WIDE.astype(np.float32)[:2]}, ValueError, "residual") for launch in ALL[:-1]),
    *((launch, {"r": WIDE}, TypeError, "residual") for launch in ALL[:-1]),
    *((launch, {"y": WIDE}, TypeError, "y") for launch in (forward, inference, flat)),
    *(
        (launch, {"dy": WIDE.astype(np.float32)[:2]}, ValueError, "dy")
        for launch in (gradient, backward, flat_backward)
    ),
    *((launch, {"du": WIDE}, TypeError, "du") for launch in (gradient, backward)),
    *((launch, {"statistics": np.ones((3, 5))}, ValueError, "") for launch in ALL[:4]),
    *((launch, {"statistics": np.ones((2, 6))}, ValueError, "") for launch in ALL[:4]),
    *((launch, {"gamma": np.ones(6, np.float16)}, TypeError, "gamma") for launch in (forward, backward)),
    *((launch, {"beta": np.ones(5, np.float32)}, ValueError, "beta") for launch in (forward, backward)),
    (backward, {"sums": np.ones((2, 5))}, ValueError, "sums"),
    *((launch, {n: np.ones((24, 5), np.float32) for n in "xyr"}, ValueError, "x") for launch in (forward, inference)),
]


@pytest.mark.parametrize(
    "case", range(len(FORGED)), ids=[f"{launch.__name__} {' '.join(c)}" for launch, c, *_ in FORGED]
)
def test_arrays_that_do_not_fit_are_refused(things: SimpleNamespace, refused: Any, case: int) -> None:
    launch, changes, error, word = FORGED[case]
    vars(things).update(changes)
    refused(things, launch, error, word)


def test_passes_without_channels_take_flat_arrays(things: SimpleNamespace, refused: Any) -> None:
    refused(things, lambda s: _backend.act_dropout(s.y, (s.x, s.r), s.steps), ValueError, "x")
    refused(things, lambda s: _backend.act_dropout_backward(s.y, s.dy, s.x, s.steps), ValueError, "x")


def test_two_threads_that_fuse_the_same_at_once_get_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    both, found = threading.Barrier(2, timeout=30), []

    def meanwhile(fusion: Fusion) -> Any:
        both.wait()
        return operations(fusion)

    monkeypatch.setattr(fused, "operations", meanwhile)
    monkeypatch.setattr(fused, "_kernels", {})
    fusion = Fusion(True, "before", "selu", False)

    def ask() -> None:
        found.append(fused._fused(fused_planes.transform, fusion, False))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] is found[1]
