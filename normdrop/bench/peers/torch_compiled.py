"""PyTorch's layers and functions, compiled by ``torch.compile``, which needs a C++ compiler."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from normdrop.bench.peers import Unavailable, first_line
from normdrop.bench.peers.torch_eager import PyTorch
from normdrop.bench.protocol import Call

COMPILERS = ("c++", "g++", "clang++", "cl")


class Compiled(PyTorch):
    """The same layers and functions as `PyTorch`, each compiled for its shape.

    Attributes
    ----------
    name : str
        As in `Peer`.
    """

    name = "torch.compile"

    def _ready(self, function: Callable[..., object], *arguments: Any) -> Call:
        torch._dynamo.reset()  # it keeps few versions of a function, and then leaves new shapes uncompiled
        # A part that cannot be compiled is an error, and so is never timed in its place.
        compiled = torch.compile(function, dynamic=False, fullgraph=True)
        with _quiet():
            compiled(*arguments)
        return lambda: compiled(*arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.")  # about parts of its own
        yield


def make(n_threads: int) -> Compiled:
    """Make it, if this machine can compile.

    Parameters
    ----------
    n_threads : int
        On how many threads it runs.

    Returns
    -------
    Compiled
        The peer.

    Raises
    ------
    Unavailable
        There is no compiler, or it does not work.
    """
    if not any(map(shutil.which, (os.environ.get("CXX") or COMPILERS[0], *COMPILERS))):
        raise Unavailable("there is no C++ compiler")
    peer = Compiled(n_threads)
    try:
        with _quiet():
            from torch._inductor import config

            config.compile_threads = 1  # no processes beside this one
        peer._ready(lambda x: x + 1, torch.ones(8))
    except Exception as error:  # many kinds, of the compiler and of what drives it
        raise Unavailable(f"a trivial function does not compile: {first_line(error)}") from error
    return peer
