"""What `normdrop.numba` costs and gains: ``python benchmarks njit`` writes docs/_njit.md, on an idle machine.

A network on digits is trained in one compiled function and in the same function as Python; a compiled loop of passes is
timed beside the kernels that the Python API starts; and compiling a function that calls one beside compiling none.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numba import njit

import normdrop.numba as door
from normdrop import MaskStream
from normdrop.bench.protocol import VERSION, Call

from . import SMOKE
from .protocol import ratio

RESULT = Path(__file__).resolve().parents[1] / "docs" / "_njit.md"
HIDDEN, P, RATE = 64, 0.2, 0.05
BATCHES = [8] if SMOKE else [4, 8, 16, 32, 128, 512]
STEPS = 4 if SMOKE else 2000
SIZES = [4096] if SMOKE else [1024, 16384, 1 << 20]
CALLS = 3 if SMOKE else 200
KEY = (1, 2)

Array = Any


def train(x: Array, targets: Array, order: Array, parameters: Array, key: tuple[int, int], call: int) -> None:
    """Train a perceptron, w2 @ dropout(relu(batch_norm(w1 @ x))), by one step for each row of `order`."""
    w1, gamma, beta, w2 = parameters
    n, n_hidden = order.shape[1], w1.shape[1]
    h, y = np.empty((n, n_hidden), x.dtype), np.empty((n, n_hidden), x.dtype)
    statistics, dgamma, dbeta = np.empty((3, n_hidden)), np.empty_like(gamma), np.empty_like(beta)
    for step in range(order.shape[0]):
        a, t = x[order[step]], targets[order[step]]
        h[:] = a @ w1
        door.batch_norm_into(y, statistics, h, gamma, beta)
        y[:] = np.maximum(y, 0)
        door.dropout_into(y, y, P, key, call + step)

        e = np.exp(y @ w2)
        dz = (e / e.sum(axis=1).reshape((n, 1)) - t) / np.float32(n)
        dw2 = y.T @ dz
        dy = (dz @ w2.T) * (y > 0)
        door.dropout_backward_into(dy, dy, P, key, call + step)
        door.batch_norm_backward_into(dy, dgamma, dbeta, dy, h, statistics, gamma)
        w1 -= np.float32(RATE) * (a.T @ dy)
        w2 -= np.float32(RATE) * dw2
        gamma -= np.float32(RATE) * dgamma
        beta -= np.float32(RATE) * dbeta


def start(n_in: int, n_out: int) -> tuple[Array, ...]:
    """Return parameters to begin with."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(0, 1 / 8, (n_in, HIDDEN)), rng.normal(0, 1 / 8, (HIDDEN, n_out))
    return w1.astype(np.float32), np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32), w2.astype(np.float32)


def digits() -> tuple[Array, Array]:
    """Return the 1797 digits that come with scikit-learn, and their labels as rows of 0 and 1."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 8 - 1).astype(np.float32), np.eye(10, dtype=np.float32)[labels]


def orders(n: int, batch: int, steps: int) -> Array:
    """Return which of n samples each step takes."""
    rng = np.random.default_rng(1)
    per_epoch = n // batch
    epochs = [rng.permutation(n)[: per_epoch * batch].reshape(per_epoch, batch) for _ in range(steps // per_epoch + 1)]
    return np.concatenate(epochs)[:steps]


def error(x: Array, targets: Array, parameters: Array) -> float:
    """Return the percentage of wrong answers, with the statistics of all of x."""
    w1, gamma, beta, w2 = parameters
    y, _ = door.batch_norm(np.ascontiguousarray(x @ w1), gamma, beta)
    return float(100 * np.mean((np.maximum(y, 0) @ w2).argmax(axis=1) != targets.argmax(axis=1)))


def trainings() -> Iterator[str]:
    """Yield the rows of the table of training loops."""
    import time

    x, targets = digits()
    x_train, t_train, x_test, t_test = x[:1500], targets[:1500], x[1500:], targets[1500:]
    sides: dict[str, Callable[..., None]] = {"Python": train, "compiled": njit(train)}
    stream = MaskStream(0)
    for batch in BATCHES:
        order = orders(len(x_train), batch, STEPS)
        call, times, errors = stream.reserve(len(order)), {}, {}
        for name, run in sides.items():
            run(x_train, t_train, order[:3], start(64, 10), stream.key, call)  # what is compiled is compiled here
            rounds = []
            for _ in range(1 if SMOKE else 5):
                parameters = start(64, 10)
                begin = time.perf_counter()
                run(x_train, t_train, order, parameters, stream.key, call)
                rounds.append((time.perf_counter() - begin) / len(order))
            times[name], errors[name] = median(rounds) * 1e6, error(x_test, t_test, parameters)
        faster = times["Python"] / times["compiled"]
        both = f"{errors['Python']:.1f} | {errors['compiled']:.1f}"
        yield f"| {batch} | {times['Python']:.1f} | {times['compiled']:.1f} | {faster:.2f} | {both} |"


def serial_kernel(y: Array, x: Array) -> Call:
    """Return a pass of the kernel that the Python API runs on one thread, without what is around it."""
    from normdrop._cpu.kernels import drawn_masks

    run = drawn_masks.dropout.compile(x.dtype, parallel=False)
    return lambda: run(y, x, *KEY, 0, 1 << 30, 4 / 3)


@njit
def _passes(y: Array, x: Array, key: tuple[int, int], n: int) -> None:
    for call in range(n):
        door.dropout_into(y, x, 0.25, key, call)


class Compiled:
    """A compiled loop of dropout beside as many runs of the kernel that the Python API starts."""

    version = VERSION
    params = [SIZES, ["float32"] if SMOKE else ["float32", "float64"]]
    param_names = ["size", "dtype"]

    def setup(self, size: int, dtype: str) -> None:
        self.x = np.random.default_rng(0).normal(size=size).astype(dtype)
        self.y = np.empty_like(self.x)
        _passes(self.y, self.x, KEY, 1)

    def track_kernel_ratio(self, size: int, dtype: str) -> float:
        kernel = serial_kernel(self.y, self.x)

        def kernels() -> None:
            for _ in range(CALLS):
                kernel()

        return ratio(lambda: _passes(self.y, self.x, KEY, CALLS), kernels)

    track_kernel_ratio.unit = "times the kernel"


def compile_seconds(body: str) -> float:
    """Return the seconds of the processor that the first call of a function takes in a new process with no cache."""
    code = f"""if True:
        import time
        import numpy as np
        import numba
        import normdrop.numba as door
        x = np.ones((8, 8), np.float32)
        numba.njit(lambda x: x.size)(x)
        @numba.njit
        def run(y, x, key):
            {body}
        start = time.process_time()
        run(x, x, (1, 2))
        print(time.process_time() - start)"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    return float(done.stdout)


BODIES = {
    "nothing": "pass",
    "`dropout_into`": "door.dropout_into(y, x, 0.5, key, 3)",
    "`keep`": "return door.keep(key, 3, 4, 0.5)",
    "`batch_norm`, of two axes": "return door.batch_norm(x, None, None)",
    "`batch_norm`, of four axes": "return door.batch_norm(x.reshape((2, 2, 4, 4)), None, None)",
}


def main(_: list[str]) -> int:
    """Measure, and write the page."""
    lines = [
        "| batch | Python, µs | compiled, µs | times faster | error in %, Python | compiled |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [*trainings(), "", "| elements | dtype | time over that of the kernel |", "|--:|---|--:|"]
    for size in SIZES:
        for dtype in Compiled.params[1]:
            bench = Compiled()
            bench.setup(size, dtype)
            lines.append(f"| {size} | {dtype} | {bench.track_kernel_ratio(size, dtype):.2f} |")
    lines += ["", "| a function that calls | is compiled in |", "|---|--:|"]
    rounds = 1 if SMOKE else 5
    for name, body in BODIES.items():
        lines.append(f"| {name} | {median(compile_seconds(body) for _ in range(rounds)):.2f} s |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not SMOKE:
        RESULT.write_text(text, encoding="utf-8")
    return 0
