"""A call that fails or is interrupted anywhere has either not happened or happened whole (laws 2.4 and 2.5).

Python raises `KeyboardInterrupt` between two lines of any code, and memory may run out at any of them. So a tracer
raises at the first line of the package that a call runs, then at the second, until the call gets through.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import normdrop
from normdrop import MaskStream, _process, functional

pytestmark = pytest.mark.same

PACKAGE = str(Path(normdrop.__file__).parent)
# Compiling is left out; so are kernels that are plain Python, of which nothing is seen from outside.
WITHOUT_JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
LEFT_OUT = str(Path(PACKAGE) / "_cpu" / ("" if WITHOUT_JIT else "toolchain/launch.py"))
ROWS = np.random.default_rng(0).normal(2.0, 3.0, (6, 3)).astype(np.float32)
PLANES = np.random.default_rng(1).normal(2.0, 3.0, (2, 3, 4, 5)).astype(np.float32)


def stream() -> MaskStream:
    return MaskStream.from_key((1, 2), 3)


def sampling() -> normdrop.Layer:
    layer = normdrop.BatchNormAct(3, p=0.5, rng=stream())
    layer.sampling = True
    return layer


def rising(step: int) -> np.ndarray:
    return np.array([0.1, 0.5, 0.9]) * min(step / 8, 1.0)


class Connected(normdrop.DropConnect):
    """With weights of its own."""

    def forward(self, x: Any, **options: Any) -> Any:
        return super().forward(x, np.eye(3, dtype=x.dtype), **options)


LAYERS: dict[str, Callable[[], normdrop.Layer]] = {
    "Dropout": lambda: normdrop.Dropout(0.5, rng=stream()),
    "Dropout, shared axes": lambda: normdrop.Dropout(0.5, shared_axes=1, rng=stream()),
    "Dropout, original": lambda: normdrop.Dropout(0.5, scaling="original", rng=stream()),
    "Dropout, a schedule of arrays": lambda: normdrop.Dropout(rising, rng=stream()),
    "Dropout, all": lambda: normdrop.Dropout(1.0, rng=stream()),
    "Dropout2d": lambda: normdrop.Dropout2d(0.5, rng=stream()),
    "ConcreteDropout": lambda: normdrop.ConcreteDropout(0.5, rng=stream()),
    "DropConnect": lambda: Connected(0.5, rng=stream()),
    "AlphaDropout": lambda: normdrop.AlphaDropout(0.5, rng=stream()),
    "FeatureAlphaDropout": lambda: normdrop.FeatureAlphaDropout(0.5, rng=stream()),
    "DropPath": lambda: normdrop.DropPath(0.5, rng=stream()),
    "GaussianDropout": lambda: normdrop.GaussianDropout(0.5, rng=stream()),
    "GaussianNoise": lambda: normdrop.GaussianNoise(0.5, rng=stream()),
    "DropBlock2d": lambda: normdrop.DropBlock2d(0.5, 2, rng=stream()),
    "BatchNorm": lambda: normdrop.BatchNorm(3),
    "BatchNorm, cumulative": lambda: normdrop.BatchNorm(3, momentum=None, affine=False),
    "BatchNorm, float64": lambda: normdrop.BatchNorm(3, momentum=0.0, dtype=np.float64, unbiased=False),
    "BatchNorm, population": lambda: normdrop.BatchNorm(3, momentum="population"),
    "BatchNorm, frozen": lambda: normdrop.BatchNorm(3).freeze(),
    "BatchNorm, no statistics": lambda: normdrop.BatchNorm(3, track_running_stats=False),
    "BatchRenorm": lambda: normdrop.BatchRenorm(3),
    "GhostBatchNorm": lambda: normdrop.GhostBatchNorm(3, 4),
    "BatchNorm2d": lambda: normdrop.BatchNorm2d(3),
    "BatchNormAct": lambda: normdrop.BatchNormAct(3, p=0.5, rng=stream()),
    "BatchNormAct, sampling": sampling,
    "BatchNormAct, whole channels": lambda: normdrop.BatchNormAct(3, p=0.5, shared_axes=0, rng=stream()),
}


def picture(thing: Any) -> Any:
    """Everything that must be as before or as after."""
    if isinstance(thing, np.ndarray):
        return thing.dtype.str, thing.shape, thing.tobytes()
    if isinstance(thing, MaskStream):
        return thing.key, thing.call
    if isinstance(thing, tuple):
        return [picture(item) for item in thing]
    if isinstance(thing, normdrop.Layer):
        values = {name: picture(value) for name, value in vars(thing).items() if name != "_passes"}
        return values | {"waiting": picture(thing._passes.waiting)}
    return repr(thing)


@pytest.fixture(autouse=True)
def _lock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer can raise where Python looks for no interrupt: as a block ends, before its lock is released."""
    monkeypatch.setattr(normdrop._streams, "_stream_lock", threading.RLock())
    monkeypatch.setattr(_process, "updating", threading.RLock())


class Interrupt:
    """Raise `error` at line number `line` of the package, counted as they are run."""

    def __init__(self, line: int, error: type[BaseException]) -> None:
        self.left, self.error, self.where = line, error, ""

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or name.startswith(LEFT_OUT):
            return None
        if event == "line" and not self.where:
            self.left -= 1
            if self.left == 0:
                self.where = f"{name}:{frame.f_lineno}"
                raise self.error("injected")
        return self.trace

    def run(self, call: Callable[[], Any]) -> bool:
        """Whether the call got through."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            call()
        except self.error:
            assert self.where, "an error of the call itself"
            return False
        finally:
            sys.settrace(before)
        return True


def interrupted(
    make: Callable[[], Any], call: Callable[[Any], Any], error: type[BaseException]
) -> Iterator[tuple[Any, str]]:
    """Yield what was interrupted, at each line of a call on a new thing, and the line."""
    for line in range(1, 100_000):
        thing, interrupt = make(), Interrupt(line, error)
        if interrupt.run(lambda thing=thing, interrupt=interrupt: call(thing)):
            assert line > 5
            return
        yield thing, interrupt.where


def check(make: Callable[[], Any], call: Callable[[Any], Any], error: type[BaseException]) -> None:
    thing = make()
    call(thing)  # compiles what must be compiled
    before, after = picture(make()), picture(thing)
    for thing, where in interrupted(make, call, error):
        assert picture(thing) in (before, after), where


def batch(layer: normdrop.Layer) -> np.ndarray:
    return PLANES if type(layer).__name__.endswith("2d") else ROWS


def used(name: str) -> normdrop.Layer:
    """A layer after a step."""
    layer = LAYERS[name]()
    layer(batch(layer))
    layer.backward(batch(layer))
    return layer


def ready(name: str, training: bool) -> normdrop.Layer:
    """A layer between forward and backward."""
    layer = used(name)
    layer.training = training
    layer(batch(layer), **({"keep_x": True} if "BatchNorm" in name and not training else {}))
    return layer


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", list(LAYERS))
def test_an_interrupted_forward_pass_has_not_happened_or_has_happened(
    backend: Any, name: str, training: bool, error: type[BaseException]
) -> None:
    def make() -> normdrop.Layer:
        layer = used(name)
        layer.training = training
        return layer

    check(make, lambda layer: layer(batch(layer)), error)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", list(LAYERS))
def test_an_interrupted_backward_pass_has_not_happened_or_has_happened(backend: Any, name: str, training: bool) -> None:
    check(lambda: ready(name, training), lambda layer: layer.backward(batch(layer)), KeyboardInterrupt)


@pytest.mark.parametrize("name", list(LAYERS))
def test_an_interrupted_pass_in_another_layout_or_into_out_has_not_happened_or_has_happened(
    backend: Any, name: str
) -> None:
    def call(layer: normdrop.Layer) -> None:
        x = batch(layer)[::-1]
        layer.forward(x, out=np.empty_like(x.T).T)

    check(lambda: used(name), call, KeyboardInterrupt)


@pytest.mark.parametrize("name", list(LAYERS))
def test_interrupted_loading_has_not_happened_or_has_happened(name: str) -> None:
    state = used(name).state_dict()
    state = {key: value + value.dtype.type(1) for key, value in state.items()}
    check(LAYERS[name], lambda layer: layer.load_state_dict(state), KeyboardInterrupt)


@pytest.mark.parametrize("momentum", [0.9, "population"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_update_or_reset_of_running_statistics_has_not_happened_or_has_happened(
    error: type[BaseException], momentum: Any
) -> None:
    def make() -> normdrop.BatchNorm:
        layer = normdrop.BatchNorm(3, momentum=momentum)
        layer(ROWS)
        return layer

    check(make, lambda layer: layer.update_running_stats(ROWS), error)
    check(make, lambda layer: layer.reset_running_stats(), error)


@pytest.mark.parametrize("return_mask", [False, True])
def test_an_interrupted_function_gives_back_its_call_of_the_stream(backend: Any, return_mask: bool) -> None:
    def call(stream: MaskStream) -> None:
        functional.dropout(ROWS, 0.5, rng=stream, return_mask=return_mask)

    for interrupted_stream, where in interrupted(stream, call, KeyboardInterrupt):
        assert interrupted_stream == stream(), where


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_spawning_has_not_taken_a_call(error: type[BaseException]) -> None:
    for interrupted_stream, where in interrupted(stream, lambda stream: stream.spawn(3), error):
        assert interrupted_stream == stream(), where


@pytest.mark.parametrize("name", list(LAYERS))
def test_a_bad_dy_leaves_the_layer_as_it_was(name: str) -> None:
    layer = ready(name, True)
    before = picture(layer)
    for dy in (batch(layer)[1:], batch(layer).astype(np.float64), None):
        with pytest.raises((TypeError, ValueError)):
            layer.backward(dy)
        assert picture(layer) == before
    layer.backward(batch(layer))


def test_loading_into_an_array_that_was_made_read_only_changes_nothing() -> None:
    layer = normdrop.BatchNorm(3)
    assert layer.running_var is not None
    layer.running_var.flags.writeable = False
    before = picture(layer)
    with pytest.raises(ValueError, match="read-only"):
        layer.load_state_dict(used("BatchNorm").state_dict())
    assert picture(layer) == before


def test_a_layer_that_cannot_keep_its_context_gives_back_its_call() -> None:
    class Forgetful(normdrop.Dropout):
        def _keep(self, context: Any, *, asked: bool) -> None:
            raise MemoryError("no room")

    layer = Forgetful(0.5, rng=stream())
    with pytest.raises(MemoryError):
        layer(ROWS)
    assert layer.stream == stream()


def test_a_stream_that_is_interrupted_while_it_unlocks_keeps_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lock:
        left = 1

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(normdrop._streams, "_stream_lock", Lock())
    asked = stream()
    with pytest.raises(KeyboardInterrupt):
        asked.take()
    assert asked == stream()
    assert asked.take() == 3
