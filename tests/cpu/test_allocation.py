"""A training step with `out=` takes no memory worth the name, and what is kept between calls is bounded."""

from __future__ import annotations

import math
import threading
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

import normdrop

pytestmark = [pytest.mark.jit, pytest.mark.once]

LIMIT = 64 * 1024  # bytes; eight float64 vectors of a thousand channels, and nothing of the size of the array

# name: (shape, order of the axes in memory)
ARRAYS = {
    "(128, 1024)": ((128, 1024), (0, 1)),
    "(128, 1024) Fortran": ((128, 1024), (1, 0)),
    "(32, 64, 28, 28)": ((32, 64, 28, 28), (0, 1, 2, 3)),
    "(32, 64, 28, 28) channels last": ((32, 64, 28, 28), (0, 2, 3, 1)),
    "(32, 64, 28, 28) samples inside": ((32, 64, 28, 28), (1, 2, 3, 0)),
    "(100000, 8)": ((100_000, 8), (0, 1)),
    "(100000, 8) Fortran": ((100_000, 8), (1, 0)),
}
LAYERS: dict[str, Callable[[int], normdrop.Layer]] = {
    "Dropout": lambda n: normdrop.Dropout(0.5, rng=1),
    "Dropout, nothing dropped": lambda n: normdrop.Dropout(0.0, rng=1),
    "Dropout2d": lambda n: normdrop.Dropout2d(0.5, rng=1),
    "BatchNorm": normdrop.BatchNorm,
    "BatchNorm, plain": lambda n: normdrop.BatchNorm(n, affine=False, momentum=None),
}
CASES = [(name, layer) for name in ARRAYS for layer in LAYERS if layer != "Dropout2d" or len(ARRAYS[name][0]) == 4]


def peak(step: Callable[[], object]) -> int:
    """Bytes that a call has at once beyond what there was before it, once its kernels are compiled."""
    step()
    tracemalloc.start()
    try:
        step()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        step()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def arrays(name: str, dtype: type) -> tuple[np.ndarray, ...]:
    shape, order = ARRAYS[name]
    values = np.random.default_rng(0).normal(size=(4, *(shape[axis] for axis in order))).astype(dtype)
    return tuple(part.transpose(np.argsort(order)) for part in values)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("name", "layer"), CASES)
def test_a_training_step_with_out_allocates_no_array(name, layer, dtype) -> None:
    x, dy, y, dx = arrays(name, dtype)
    made = LAYERS[layer](x.shape[1])

    def step() -> None:
        made(x, out=y)
        made.backward(dy, out=dx)

    assert peak(step) < LIMIT


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_a_step_in_inference_with_out_allocates_no_array(name, layer) -> None:
    x, dy, y, dx = arrays(name, np.float32)
    made = LAYERS[layer](x.shape[1]).eval()

    def step() -> None:
        made(x, out=y)
        made.backward(dy, out=dx)

    assert peak(step) < 2 * LIMIT


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 2, 1, 0)])
def test_a_step_in_a_memory_order_without_a_kernel_allocates_the_mask_in_two_orders_and_no_more(order) -> None:
    shape = (32, 64, 28, 28)
    x, dy, y, dx = (
        part.transpose(np.argsort(order)) for part in np.ones((4, *(shape[axis] for axis in order)), np.float32)
    )
    made = normdrop.Dropout(0.5, rng=1)

    def step() -> None:
        made(x, out=y)
        made.backward(dy, out=dx)

    assert peak(step) < 2 * x.size + LIMIT


def test_a_training_step_in_place_copies_x_once_for_batch_norm_and_never_for_dropout() -> None:
    x, dy, _, _ = arrays("(32, 64, 28, 28)", np.float32)
    for layer, copies in ((normdrop.Dropout(0.5, rng=1), 0), (normdrop.BatchNorm(64), 1)):

        def step(layer: normdrop.Layer = layer) -> None:
            layer(x, out=x)
            layer.backward(dy, out=dy)

        assert abs(peak(step) - copies * x.nbytes) < LIMIT


def kept() -> int:
    from normdrop._cpu.toolchain import scratch

    return sum(array.nbytes for array in scratch._buffers.by_shape.values())


def test_what_is_kept_stays_bounded_over_many_shapes() -> None:
    from normdrop._cpu.toolchain import scratch

    def use(n_channels: int) -> None:
        x = np.ones((40, n_channels), np.float32)
        layer = normdrop.BatchNorm(n_channels)
        layer(x, out=x)
        layer.backward(x, out=x)
        assert kept() == scratch._buffers.n_bytes <= scratch._LIMIT

    shapes = range(1000, 4400, 17)
    use(shapes[0])
    use(shapes[-1])  # rows as wide as that have a kernel of their own, which is compiled now
    tracemalloc.start()
    try:
        for n_channels in shapes:
            use(n_channels)
        assert tracemalloc.get_traced_memory()[0] < scratch._LIMIT + (1 << 21)
    finally:
        tracemalloc.stop()


def test_a_workspace_is_the_same_for_the_same_shape_and_aligned_to_cache_lines() -> None:
    from normdrop._cpu.toolchain.scratch import scratch

    for shape in ((3, 5), (1, 1), (7,), (2, 100_001)):
        array = scratch(shape)
        assert scratch(shape) is array
        assert array.shape == shape
        assert array.dtype == np.float64
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous


def test_workspaces_of_two_threads_share_no_memory() -> None:
    from normdrop._cpu.toolchain.scratch import scratch

    found = [scratch((5, 50))]
    thread = threading.Thread(target=lambda: found.append(scratch((5, 50))))
    thread.start()
    thread.join()
    assert not np.shares_memory(*found)


def test_a_workspace_beyond_the_limit_is_not_kept() -> None:
    from normdrop._cpu.toolchain import scratch

    before = dict(scratch._buffers.by_shape)
    large = scratch.scratch((scratch._LIMIT // 8 + 1,))
    assert large.size == math.prod(large.shape) == scratch._LIMIT // 8 + 1
    assert scratch._buffers.by_shape.keys() == before.keys()
    assert scratch.scratch(large.shape) is not large
