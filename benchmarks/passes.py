"""What is measured of every pass of every layer; a subclass says which layer and on what shapes."""

import importlib.util
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from normdrop.bench import sides
from normdrop.bench.batch import Batch
from normdrop.bench.peers import numpy_formulas
from normdrop.bench.protocol import VERSION, Call
from normdrop.bench.shapes import shape_of

from . import check_process
from .one import in_new_process
from .protocol import PROCESSES, n_threads, planted, ratio

Calls = Mapping[str, Call]


def _needs_torch(*_: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise NotImplementedError("PyTorch is not installed in this environment")


class _Passes:
    """The benchmarks of a layer. `setup` compiles the kernels, so that no time includes a compilation.

    Subclasses set `params` and `kind`, the method of a side for the forward pass.
    """

    version = VERSION
    timeout = 600
    param_names = ["operation", "dtype", "layout", "shape"]
    kind = ""

    @staticmethod
    def arguments(name: str) -> tuple[float, ...]:
        """Return what the method takes beside the batch, by the name of a shape."""
        return ()

    def _calls(self, side: Any, batch: Batch, name: str) -> Calls:
        if self.kind == "batch_norm_inference":
            return {"inference": side.batch_norm_inference(batch)}
        return side.training(self.kind, batch, *self.arguments(name))

    def normdrop(self, batch: Batch, name: str) -> Calls:
        return self._calls(sides.Normdrop(sides.OURS[0]), batch, name)

    def numpy(self, batch: Batch, name: str) -> Calls:
        return self._calls(numpy_formulas.make(n_threads()), batch, name)

    def torch(self, batch: Batch, name: str) -> Calls:
        from normdrop.bench.peers import torch_eager

        return self._calls(torch_eager.make(n_threads()), batch, name)

    def setup(self, operation: str, dtype: str, layout: str, name: str) -> None:
        check_process()
        self.operation, self.name = operation, name
        self.batch = Batch(shape_of(name), layout == "channels last", dtype)
        try:
            self.call = planted(self.normdrop(self.batch, name)[operation])
            self.call()
        except (AttributeError, TypeError) as error:  # a layer or a dtype that this commit does not have yet
            raise NotImplementedError(str(error)) from error

    def references(self, to: str) -> list[Call]:
        """Return what the pass stands beside: copies, or the same pass of "numpy" or "torch"."""
        if to == "copy":
            n = n_threads()
            return list(sides.copies(self.batch, ThreadPoolExecutor(n), n).values())
        return [getattr(self, to)(self.batch, self.name)[self.operation]]

    def time_pass(self, *_: str) -> None:
        self.call()

    def track_copy_ratio(self, *parameters: str) -> float:
        owner = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        others = [in_new_process(owner, parameters)["ratio"] for _ in range(PROCESSES - 1)]
        return median([ratio(self.call, *self.references("copy")), *others])

    def track_vs_numpy(self, *_: str) -> float:
        return ratio(self.call, *self.references("numpy"))

    def track_vs_torch(self, *_: str) -> float:
        return ratio(self.call, *self.references("torch"))

    track_copy_ratio.unit = "times a copy"
    track_vs_numpy.unit = "times NumPy"
    track_vs_torch.unit = "times PyTorch"
    track_vs_torch.setup = _needs_torch
