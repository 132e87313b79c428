"""Other libraries, as far as they are installed: each module here has one class, with a method for each pass it knows.

A method takes a `Batch`, prepares everything, and returns the call that is timed. Nothing here is imported before
`find` looks for it.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Peer(Protocol):
    """What all of them have; the methods are those that `Pass.method` names, as far as a library has the pass.

    Attributes
    ----------
    name : str
        Name in the tables.
    version : str
        Version of the library.
    """

    name: str
    version: str


class Unavailable(Exception):
    """A library that is installed cannot take part here; the text says why."""


class _Entry(NamedTuple):
    name: str
    package: str
    module: str


ENTRIES = {
    "numpy": _Entry("NumPy", "numpy", "numpy_formulas"),
    "torch": _Entry("PyTorch", "torch", "torch_eager"),
    "torch.compile": _Entry("torch.compile", "torch", "torch_compiled"),
    "jax": _Entry("JAX", "jax", "jax_jit"),
}


def find(keys: Iterable[str], n_threads: int) -> tuple[list[Peer], dict[str, str]]:
    """Look for libraries.

    Parameters
    ----------
    keys : iterable of str
        Keys of `ENTRIES`.
    n_threads : int
        On how many threads they shall run, where they can be told.

    Returns
    -------
    peers : list of Peer
        Those that can take part.
    missing : dict of str to str
        Names of the others, and why they cannot.
    """
    peers: list[Peer] = []
    missing = {}
    for key in keys:
        entry = ENTRIES[key]
        if importlib.util.find_spec(entry.package) is None:
            missing[entry.name] = f"the package {entry.package} is not installed"
            continue
        try:
            module = importlib.import_module(f"{__name__}.{entry.module}")
            peers.append(module.make(n_threads))
        except Unavailable as error:
            missing[entry.name] = str(error)
        except Exception as error:  # whatever is wrong with it, the others can go on
            missing[entry.name] = f"it does not start: {first_line(error)}"
    return peers, missing


def first_line(error: Exception) -> str:
    """Describe an exception in one line.

    Parameters
    ----------
    error : Exception
        What was raised.

    Returns
    -------
    str
        Its type and the first line of its text.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
