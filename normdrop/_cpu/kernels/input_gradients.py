"""The input gradient by given sums, as those of all processes that share a batch: by planes or by rows."""

from __future__ import annotations

from numba import prange

from normdrop._cpu.kernels.elementwise import Numbers, Run
from normdrop._cpu.kernels.elementwise_rows import Columns, loops_of
from normdrop._cpu.kernels.operations import gradient
from normdrop._cpu.kernels.planes import write_chunk
from normdrop._cpu.kernels.row_sums import grid_of
from normdrop._cpu.kernels.row_vectors import channel_rows, row_part, spread
from normdrop._cpu.kinds import Memory, Table, Workspace
from normdrop._cpu.lanes.memory import address, pointer, store
from normdrop._cpu.lanes.simd import LANES
from normdrop._cpu.lanes.streaming import fence, should_stream
from normdrop._cpu.toolchain.launch import kernel
from normdrop._cpu.tuning import CHUNK, READ_AGAIN

_, _write_run = loops_of(gradient)


@kernel("OIIp")
def plane_gradient(dx: Memory, dy: Memory, x: Memory, vectors: Table) -> None:
    """dx of each channel by vectors = [mean, mean_dy, slope, scale]. Parallel over chunks."""
    n_channels = x.shape[1]
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        first = pointer(vectors, 0)
        rows = first, pointer(first, n_channels), pointer(first, 2 * n_channels), pointer(first, 3 * n_channels)
        start, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, x.size)
        inputs, piece = (pointer(dy, start), pointer(x, start)), (start, stop, large, False, None)
        write_chunk(pointer(dx, start), inputs, x.shape, piece, gradient, Numbers(rows, 1, ()))
        fence()


@kernel("OIIpP")
def row_gradient(dx: Memory, dy: Memory, x: Memory, vectors: Table, work: Workspace) -> None:
    """The same where channels lie side by side. Parallel over chunks."""
    grid = grid_of(x.shape)
    width = grid[1]
    rows = channel_rows(work, grid)
    for c in range(0, x.shape[1], LANES):
        store(rows[0], c, row_part(vectors, 0, c))
        store(rows[1], c, row_part(vectors, 1, c))
        store(rows[2], c, row_part(vectors, 2, c))
        store(rows[3], c, row_part(vectors, 3, c))
    spread(work, x.shape, grid, (0, 4))
    large = should_stream(dx, x, READ_AGAIN) and address(dx) != address(dy)
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        start, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, x.size)
        inputs = pointer(dy, start), pointer(x, start)
        run, numbers = Run(0, stop - start, large), Columns(rows, ())
        _write_run(pointer(dx, start), inputs, run, start % width, width, numbers)
        fence()
