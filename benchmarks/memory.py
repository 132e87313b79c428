"""Peak memory of the passes, and what a layer keeps for its backward pass."""

import tracemalloc

import numpy as np

import normdrop as nd
from normdrop.bench.shapes import shape_of

from . import check_process
from .shapes import MEMORY

SHAPE = shape_of(MEMORY[0])
LAYERS = {
    "dropout": lambda: nd.Dropout(0.5, rng=0),
    "channel dropout": lambda: nd.Dropout2d(0.5, rng=0),
    "batch norm": lambda: nd.BatchNorm(SHAPE[1]),
    "batch norm, ReLU, dropout": lambda: nd.BatchNormAct(SHAPE[1], p=0.5, rng=0),
}


def _input() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE, np.float32)


class Peak:
    """Peak of the process. Subtract `peakmem_floor`, whose pass is empty: the interpreter, its libraries, the arrays.

    With buffers, the arrays are those of the input, the output, the gradient and its result; without, the layer makes
    output and result.
    """

    params = [list(LAYERS), ["given", "allocated"]]
    param_names = ["layer", "buffers"]
    timeout = 300

    def setup_cache(self) -> None:
        """Compile in another process: a compiler needs more memory than the passes."""
        for layer in LAYERS:
            self.setup(layer, "given")
            self.peakmem_step()

    def setup(self, layer: str, buffers: str) -> None:
        check_process()
        self.layer = LAYERS[layer]()
        self.x, self.dy = _input(), _input()
        self.y, self.dx = (_input(), _input()) if buffers == "given" else (None, None)

    def peakmem_floor(self, *_: str) -> None:
        pass

    def peakmem_forward(self, *_: str) -> None:
        self.layer(self.x, out=self.y)

    def peakmem_step(self, *_: str) -> None:
        y = self.layer(self.x, out=self.y)
        dx = self.layer.backward(self.dy, out=self.dx)
        del y, dx


def track_bytes_kept_for_backward(layer: str, output: str) -> int:
    """Count what stays allocated when the caller has dropped input and output, but not yet run the backward pass.

    In whole kB: Python's own small objects differ by some hundred bytes from one process to the next.
    """
    check_process()
    made = LAYERS[layer]()
    made(_input(), out=_input())  # compiles, and makes workspaces, which are kept anyway
    tracemalloc.start()
    made.backward(_input(), out=_input())  # the layer holds nothing now
    before = tracemalloc.get_traced_memory()[0]
    x = _input()
    y = x if output == "in place" else _input()
    made(x, out=y)
    del x, y
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return -(-kept // 1024) * 1024


track_bytes_kept_for_backward.params = [list(LAYERS), ["apart", "in place"]]
track_bytes_kept_for_backward.param_names = ["layer", "output"]
track_bytes_kept_for_backward.unit = "bytes"
