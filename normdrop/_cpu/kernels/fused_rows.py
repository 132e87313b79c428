"""Fused passes by rows: as those of `normdrop._cpu.kernels.fused_planes`, whose names are put in here, too."""

from __future__ import annotations

from typing import Any

from numba import prange

from normdrop._cpu.kernels.elementwise_rows import Columns
from normdrop._cpu.kernels.mask_pieces import BEYOND, share
from normdrop._cpu.kernels.row_sums import grid_of
from normdrop._cpu.kernels.row_vectors import channel_rows, row_part, spread
from normdrop._cpu.kernels.rows import range_of, tasks_of, write_task
from normdrop._cpu.kinds import Memory, Table, Workspace
from normdrop._cpu.lanes.memory import address, pointer, store
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import should_stream
from normdrop._cpu.toolchain.launch import kernel
from normdrop._cpu.tuning import CHUNK, READ_AGAIN

rows_loop: Any = None  # the loops of what is computed
run_loop: Any = None
fill: Any = None


def buffer_size(width: int) -> int:
    """Bytes of a worker's buffer of the mask of a task: rows of this width, of which two may go side by side."""
    return (max(CHUNK, 2 * width) + BEYOND + 7) // 8 * 8


@kernel("OIIIpdqmMP")
def transform(
    y: Memory, dy: Memory, x: Memory, r: Memory, vectors: Table, constants: Memory, law: Memory, given: Memory,
    masks: Memory, work: Workspace,
) -> None:  # fmt: skip
    """y = operation(...) with vectors = [mean, scale, shift] of each channel. Parallel over workers."""
    grid = grid_of(x.shape)
    width = grid[1]
    mean, scale, shift, _ = channel_rows(work, grid)
    for c in range(0, x.shape[1], LANES):
        store(mean, c, row_part(vectors, 0, c))
        store(scale, c, row_part(vectors, 1, c))
        store(shift, c, row_part(vectors, 2, c))
    spread(work, x.shape, grid, (0, 3))
    in_place = address(y) == address(dy) or address(y) == address(r)
    plan = tasks_of(y, width, 3, should_stream(y, x, READ_AGAIN) and not in_place)
    n_workers = law[6]
    for worker in prange(n_workers):
        size = masks.size // n_workers
        mask = masks[worker * size : worker * size + size]
        first, end = share(worker, n_workers, plan[0])
        for task in range(first, end):
            start, stop = range_of(plan, task, x.size)
            near = pointer(dy, start), pointer(x, start), pointer(r, start)
            at = fill(mask, start, stop, law, given, (near, (0, 0, 0)))
            inputs = pointer(dy, start), pointer(x, start), pointer(r, start), pointer(mask, at)
            numbers = Columns((mean, scale, shift), (constants[0], constants[1], pointer(y, 0)))
            write_task(pointer(y, start), inputs, (start, stop), plan, width, rows_loop, run_loop, numbers)
