"""The loop of passes by random numbers, drawn to a near cache for a chunk and then used: y = operation(x, number).

An operation is a helper whose arguments are 16 elements of x as float64, the 16 numbers n + 1/2 of the mask law that
belong to them, and the constants of the pass.
"""

from __future__ import annotations

from typing import Any

from normdrop._cpu.kernels.mask_law import PAIR
from normdrop._cpu.kernels.mask_pieces import share
from normdrop._cpu.kernels.uniform import draw_numbers
from normdrop._cpu.kinds import Index, Memory, Operation, Table
from normdrop._cpu.lanes.memory import load, load_part, pointer, store, store_part
from normdrop._cpu.lanes.simd import LANES, widen
from normdrop._cpu.toolchain.launch import helper


@helper
def draw_chunk(numbers: Memory, start: Index, stop: Index, key: Any, call: Index) -> None:
    """numbers[k] = n + 1/2 of element start + k, up to stop and on to the end of a pair of groups."""
    draw_numbers(numbers, start // PAIR, (stop - start + PAIR - 1) // PAIR, key, call)


@helper
def write_share(
    y: Memory, x: Memory, law: Any, worker: Index, operation: Operation, constants: Any, work: Table
) -> None:
    """Write the chunks of a worker; law = (key, call). Each worker has a row of `work`, one chunk long, for numbers."""
    n, n_workers, chunk = x.size, work.shape[0], work.shape[1]
    key, call = law
    numbers, to, source = pointer(work, worker * chunk), pointer(y, 0), pointer(x, 0)
    task, end = share(worker, n_workers, (n + chunk - 1) // chunk)
    for start in range(task * chunk, min(end * chunk, n), chunk):
        stop = min(start + chunk, n)
        draw_chunk(numbers, start, stop, key, call)
        for i in range(start, stop - LANES + 1, LANES):
            store(to, i, operation(widen(load(source, i)), load(numbers, i - start), *constants))
        i = stop - (stop - start) % LANES
        if i < stop:
            values = operation(widen(load_part(source, i, i, stop)), load(numbers, i - start), *constants)
            store_part(to, i, values, i, stop)
