"""What is measured of every pass of every layer; a subclass says which layer and on what shapes."""

import importlib.util
from collections.abc import Mapping
from statistics import median

from . import check_process
from .inputs import Batch
from .one import in_new_process
from .protocol import PROCESSES, VERSION, Call, copies, n_threads, planted, ratio

Calls = Mapping[str, Call]


def _needs_torch(*_: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise NotImplementedError("PyTorch is not installed in this environment")


class _Passes:
    """The benchmarks of a layer. `setup` compiles the kernels, so that no time includes a compilation.

    Subclasses set `params` and turn a batch into the calls of normdrop, of NumPy and of PyTorch, by operation.
    """

    version = VERSION
    timeout = 600
    param_names = ["operation", "dtype", "layout", "shape"]

    def normdrop(self, batch: Batch, name: str) -> Calls:
        raise NotImplementedError

    def numpy(self, batch: Batch, name: str) -> Calls:
        raise NotImplementedError

    def torch(self, batch: Batch, name: str) -> Calls:
        raise NotImplementedError

    def setup(self, operation: str, dtype: str, layout: str, name: str) -> None:
        check_process()
        self.operation, self.name, self.batch = operation, name, Batch(dtype, layout, name)
        try:
            self.call = planted(self.normdrop(self.batch, name)[operation])
            self.call()
        except TypeError as error:  # a dtype that this commit does not take yet
            raise NotImplementedError(str(error)) from error

    def references(self, to: str) -> list[Call]:
        """Return what the pass stands beside: copies, or the same pass of "numpy" or "torch"."""
        return copies(self.batch) if to == "copy" else [getattr(self, to)(self.batch, self.name)[self.operation]]

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


def torch_passes(function: Call, batch: Batch, *parameters: object) -> Calls:
    """Return the passes of a function of PyTorch as its users run them: by autograd."""
    import torch

    torch.set_num_threads(n_threads())
    x = torch.from_numpy(batch.x).requires_grad_()
    dy = torch.from_numpy(batch.dy)
    leaves = [x, *(torch.from_numpy(v.copy()).requires_grad_() for v in parameters)]
    y = function(*leaves)
    return {
        "forward": lambda: function(*leaves),
        "backward": lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True),
        "step": lambda: torch.autograd.grad(function(*leaves), leaves, dy),
    }


def one_after_the_other(forward: Call, backward: Call) -> Calls:
    """Return passes by operation, a step being both."""
    return {"forward": forward, "backward": backward, "step": lambda: (forward(), backward())}
