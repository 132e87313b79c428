"""Kernels of concrete dropout, with the loop of `normdrop._cpu.kernels.drawn_numbers`."""

from __future__ import annotations

from typing import Any

from numba import prange

from normdrop import _concrete
from normdrop._concrete import CHUNK
from normdrop._cpu.kernels.activations import PRIMITIVES
from normdrop._cpu.kernels.drawn_numbers import draw_chunk, write_share
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kinds import Index, Memory, Table
from normdrop._cpu.lanes.memory import load, load_part, pointer, store, store_part
from normdrop._cpu.lanes.simd import LANES, splat, sum_lanes, widen
from normdrop._cpu.toolchain.launch import helper, kernel

_value, _gradients = _concrete.bound(PRIMITIVES, helper)


@kernel("oinnndP")
def concrete_dropout(y: Memory, x: Memory, key0: Any, key1: Any, call: Index, constants: Memory, work: Table) -> None:
    """y = x * (1 - z) / (1 - p); flat. Parallel over workers with chunks, each with a row of `work` for its numbers."""
    for worker in prange(work.shape[0]):
        write_share(y, x, ((key0, key1), call), worker, _value, (constants[0], constants[1], constants[2]), work)


@kernel("oiinnndPP")
def concrete_dropout_backward(
    dx: Memory, dy: Memory, x: Memory, key0: Any, key1: Any, call: Index, constants: Memory, sums: Table, work: Table
) -> None:
    """Set dx, and sums[0, c] = what chunk c adds to the gradient of the logit; flat. Parallel as the forward pass."""
    n, n_workers = x.size, work.shape[0]
    for worker in prange(n_workers):
        offset, sharpness, scale, p = constants[0], constants[1], constants[2], constants[3]
        numbers = pointer(work, worker * CHUNK)
        to, gradient, source = pointer(dx, 0), pointer(dy, 0), pointer(x, 0)
        task, end = share(worker, n_workers, (n + CHUNK - 1) // CHUNK)
        for chunk in range(task, end):
            start, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, n)
            draw_chunk(numbers, start, stop, (key0, key1), call)
            total = splat(0.0)
            for i in range(start, stop - LANES + 1, LANES):
                a, dy_, x_ = load(numbers, i - start), widen(load(gradient, i)), widen(load(source, i))
                dx_, part = _gradients(dy_, x_, a, offset, sharpness, scale, p)
                store(to, i, dx_)
                total = total + part
            i = stop - (stop - start) % LANES
            if i < stop:
                a, dy_, x_ = load(numbers, i - start), load_part(gradient, i, i, stop), load_part(source, i, i, stop)
                dx_, part = _gradients(widen(dy_), widen(x_), a, offset, sharpness, scale, p)
                store_part(to, i, dx_, i, stop)
                total = total + part
            sums[0, chunk] = sum_lanes(total)
