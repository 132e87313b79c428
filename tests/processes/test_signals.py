"""A signal handler that calls normdrop never ends the process, whatever it interrupts."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

pytestmark = pytest.mark.jit


@pytest.mark.skipif(os.name != "posix", reason="needs a timer that sends signals")
@pytest.mark.parametrize("interval", [0.003, 0.02])
def test_signals_in_the_midst_of_first_calls_are_no_harm(in_subprocess: Callable[..., str], interval: float) -> None:
    """Python code of Numba's runs between two steps of LLVM's, and LLVM ends the process if it is entered there."""
    in_subprocess(
        f"""
import signal
import numpy as np
import normdrop

x = np.arange(1000.0).reshape(100, 10)
answers = set()

def handler(*_):
    for task in (lambda: normdrop.BatchNorm(10)(x), lambda: normdrop.Dropout(0.5)(x)):
        try:
            task()
            answers.add("right")
        except RuntimeError as error:
            answers.add(str(error))

def work():
    y = normdrop.Dropout(0.5, rng=1)(x)
    return [y, normdrop.BatchNorm(10)(y), normdrop.functional.batch_norm(y.astype(np.float32))[0]]

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, {interval}, {interval})
first = work()
signal.setitimer(signal.ITIMER_REAL, 0)
assert all(np.array_equal(a, b) for a, b in zip(first, work()))
answers.discard("right")
assert all("a signal handler or a finalizer called normdrop while" in answer for answer in answers), answers
print(len(answers))
"""
    )


def test_a_kernel_is_not_compiled_in_the_midst_of_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    from normdrop._cpu.toolchain import launch

    inner, outer = launch.Kernel(lambda x: None, "i"), launch.Kernel(lambda x: None, "i")
    dtype = np.dtype(np.float32)

    def interrupted(*_: object) -> None:
        inner.compile(dtype, parallel=False)

    monkeypatch.setattr(launch, "_compile", interrupted)
    with pytest.raises(RuntimeError, match=r"while its thread was compiling or loading a kernel; call normdrop.warmup"):
        outer.compile(dtype, parallel=False)
    monkeypatch.setattr(launch, "_compile", lambda *_: print)
    assert inner.compile(dtype, parallel=False) is outer.compile(dtype, parallel=False) is print
