"""Time of each pass beside a copy of the same bytes and beside PyTorch, in one table: ``python benchmarks/peers.py``.

All sides run in one process, in turn, into preallocated outputs. Before a side is timed, the threads of the one
before it are given time to go to sleep, and one call warms it up. The figures are medians over the rounds, the ratios
medians of the ratios within a round, with their quartiles.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

import normdrop
from normdrop import _backend, functional

try:
    import torch
except ImportError:  # asv imports every file of this folder
    torch = None

ROUNDS = 15
SECONDS = 0.006  # of calls per side and round
SLEEP = 0.012
SHAPES = {"(32, 64, 56, 56)": False, "(32, 64, 56, 56) channels last": True, "(128, 1024)": False}

Call = Callable[[], object]
Sides = dict[str, Call]


def rounds(sides: Sides) -> dict[str, np.ndarray]:
    """Return seconds per call of each side in each round."""
    n_calls = {}
    for name, call in sides.items():
        call()
        start = time.perf_counter()
        call()
        n_calls[name] = int(np.clip(SECONDS / (time.perf_counter() - start), 3, 200))
    seconds = {name: np.empty(ROUNDS) for name in sides}
    for i in range(ROUNDS):
        for name, call in sides.items():
            time.sleep(SLEEP)
            call()
            start = time.perf_counter()
            for _ in range(n_calls[name]):
                call()
            seconds[name][i] = (time.perf_counter() - start) / n_calls[name]
    return seconds


def array(shape: str) -> np.ndarray:
    """Return a float32 array of the named shape and memory order."""
    lengths = tuple(int(n) for n in shape[1 : shape.index(")")].split(","))
    x = np.random.default_rng(0).standard_normal(lengths, np.float32)
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, 3, 1, 2) if SHAPES[shape] else x


def passes(x: np.ndarray) -> Iterator[tuple[str, Call, Call]]:
    """Yield name, our call and PyTorch's call of each pass."""
    f, aten = torch.nn.functional, torch.ops.aten
    dy, y, dx = np.copy(x, order="K"), np.empty_like(x), np.empty_like(x)
    tx, tdy = torch.from_numpy(x), torch.from_numpy(dy)
    n_channels = x.shape[1]
    gamma, beta = torch.ones(n_channels), torch.zeros(n_channels)
    mean, var = torch.zeros(n_channels), torch.ones(n_channels)

    drop, context = normdrop.Dropout(0.5, rng=0), functional.dropout(x, 0.5, rng=0)[1]
    kept = torch.rand_like(tx) > 0.5
    yield "dropout", lambda: drop(x, out=y), lambda: f.dropout(tx, 0.5, True)
    yield (
        "dropout backward",
        lambda: functional.dropout_backward(dy, context, out=dx),
        lambda: aten.native_dropout_backward(tdy, kept, 2.0),
    )
    if x.ndim == 4:
        channels = normdrop.Dropout2d(0.5, rng=0)
        yield "channel dropout", lambda: channels(x, out=y), lambda: f.dropout2d(tx, 0.5, True)

    norm, frozen = normdrop.BatchNorm(n_channels), normdrop.BatchNorm(n_channels).eval()
    saved = functional.batch_norm(x, norm.gamma, norm.beta)[1]
    _, saved_mean, saved_inv_std = torch.native_batch_norm(tx, gamma, beta, mean, var, True, 0.1, 1e-5)
    theirs: dict[str, Call] = {
        "batch norm": lambda: f.batch_norm(tx, mean, var, gamma, beta, True, 0.1, 1e-5),
        "batch norm backward": lambda: aten.native_batch_norm_backward(
            tdy, tx, gamma, mean, var, saved_mean, saved_inv_std, True, 1e-5, [True] * 3
        ),
        "batch norm inference": lambda: f.batch_norm(tx, mean, var, gamma, beta, False, 0.1, 1e-5),
    }
    ours: dict[str, Call] = {
        "batch norm": lambda: norm(x, out=y),
        "batch norm backward": lambda: functional.batch_norm_backward(dy, saved, out=dx),
        "batch norm inference": lambda: frozen(x, out=y),
    }
    for name, call in ours.items():
        yield name, call, theirs[name]
    if x.ndim == 2:
        for name, call in kernels(x, dy, y).items():
            yield name + ", kernel", call, theirs[name]


def kernels(x: np.ndarray, dy: np.ndarray, y: np.ndarray) -> Sides:
    """Return the backend's calls on an (N, C) array, without the checks and conversions of a layer."""
    x, dy, y = (a.reshape(*a.shape, 1) for a in (x, dy, y))
    backend = _backend.select(x)
    mean, var, dgamma, dbeta = np.zeros((4, x.shape[1]))
    ones, zeros = np.ones(x.shape[1]), np.zeros(x.shape[1])
    return {
        "batch norm": lambda: backend.batch_norm(y, x, mean, var, ones, zeros, 1e-5),
        "batch norm backward": lambda: backend.batch_norm_backward(y, dgamma, dbeta, dy, x, mean, ones, ones),
        "batch norm inference": lambda: backend.normalize(y, x, zeros, ones, zeros),
    }


def table(shape: str) -> Iterator[str]:
    """Yield the lines of a shape."""
    x = array(shape)
    source = torch.from_numpy(x)
    target = torch.zeros_like(source)
    yield f"\n{shape}, float32"
    yield f"{'pass':30}{'normdrop, us':>14}{'torch, us':>12}{'/ copy':>9}  torch / normdrop"
    for name, ours, theirs in passes(x):
        seconds = rounds({"copy": lambda: target.copy_(source), "ours": ours, "theirs": theirs})
        low, ratio, high = np.percentile(seconds["theirs"] / seconds["ours"], (25, 50, 75))
        copy = np.median(seconds["ours"] / seconds["copy"])
        mine, other = (np.median(seconds[side]) * 1e6 for side in ("ours", "theirs"))
        yield f"{name:30}{mine:14.1f}{other:12.1f}{copy:9.2f}  {ratio:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print the table."""
    if torch is None:
        sys.exit("this needs PyTorch: pip install '.[peers]'")
    torch.set_num_threads(2)
    with torch.no_grad():
        for shape in SHAPES:
            for line in table(shape):
                print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
