"""How kernels are compiled, cached and started: all Numba options and all safety decisions.

A kernel is one function compiled twice per dtype, serial and parallel, each with one explicit signature and a cached
name of its own. The name carries a digest of the package's kernel sources, because Numba's cache sees neither compile
options nor functions in other files, and of the processor: a new version never runs an old version's kernel, and no
processor another one's.
"""

from __future__ import annotations

import hashlib
import sys
import types as python_types
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import NumbaWarning, config, njit, types

from normdrop import _process
from normdrop._cpu.lanes.half import storage
from normdrop._cpu.toolchain import compiling, numba_internals, sources, target, teams
from normdrop._cpu.tuning import PARALLEL_SIZE

# No fastmath anywhere: it would change bits with the vector width and drop NaN tests. The NumPy error model lets
# divisions vectorize; nogil lets several Python threads run serial kernels at once. That there is no fastmath is said,
# too: a function that says nothing takes it from its first caller, which may be a user's (`normdrop.numba`).
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": False, "nogil": True}

# Numba's own lock, so that there is no order of two: whoever compiles or loads a kernel holds it.
_lock = numba_internals.COMPILER_LOCK

for _waited_for in numba_internals.LOCKS:
    _process.wait_before_fork(_waited_for)


def helper_options(inlined: bool = True) -> dict[str, Any]:
    """Return the options of a function that only compiled functions call."""
    return numba_internals.helper_options(inlined) | _OPTIONS


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call; it is always inlined.

    There is no machine code of it alone, and no wrapper for Python: a call from Python ends the process.
    """
    return njit(**helper_options())(function)


def outlined(function: Callable[..., Any], made_for: str = "") -> Any:
    """Compile a function that kernels call and that is never inlined, which its first line, `apart()`, sees to.

    Machine code finds it by its name and the types of its arguments, among all kernels of the process. Numba tells
    names apart by a count, which begins anew in each process and does not know of kernels from the cache: functions
    that are made within another one must be told apart by what they are made for. And those of other versions by
    their sources: functions of users that Numba has cached bring along what they call (`normdrop.numba`).

    Its loops have all registers to themselves. Inlined into a kernel, they would read addresses from the stack, and
    such a load waits for earlier streamed stores whose address agrees with its own modulo 4096: normalizing float64
    rows took up to 1.5 times as long on a Zen 5. No argument may be a vector: LLVM might change its registers; nor a
    function, whose address would keep the kernel out of the cache.
    """
    function.__qualname__ += f"_{made_for}_{sources.digest()}" if made_for else f"_{sources.digest()}"
    return njit(**helper_options(inlined=False))(function)


_Variant = tuple[np.dtype[Any], "np.dtype[Any] | None", bool]  # dtype, that of parameters, whether parallel


class Kernel:
    """A loop over arrays, compiled on first use for a dtype and one of parameters, serial or parallel.

    Parameters
    ----------
    function : callable
        The loop; its ``prange`` runs on threads in the parallel variant and is a ``range`` in the serial one.
    arguments : str
        One letter per argument. Arrays are C-contiguous: ``o`` flat output and ``i`` flat input of the kernel's dtype,
        ``O`` and ``I`` the same with three axes, ``w`` flat input of the parameters' dtype, ``d`` flat float64 and
        ``s`` flat float32 input, ``p`` and ``P`` float64 input and output with two axes, ``m`` and ``M`` flat boolean
        input and output, ``h`` flat uint16, ``b`` flat uint64, ``q`` flat int64 input, ``L`` int64 output with two
        axes. Scalars: ``n`` int64, ``f`` float64, ``t`` a tuple of three float64.
    """

    def __init__(self, function: Callable[..., Any], arguments: str) -> None:
        self.function = function
        self.arguments = arguments
        self._compiled: dict[_Variant, Callable[..., None]] = {}

    def variant(self, dtype: np.dtype[Any], size: int, parameters: np.dtype[Any] | None = None) -> Callable[..., None]:
        """Return what runs for these dtypes; on threads if `size` elements are worth it and it is safe."""
        parallel = size >= PARALLEL_SIZE and parallel_is_safe()
        found = self._compiled.get((dtype, parameters, parallel))
        return found or self.compile(dtype, parameters, parallel=parallel)

    def compile(
        self, dtype: np.dtype[Any], parameters: np.dtype[Any] | None = None, *, parallel: bool
    ) -> Callable[..., None]:
        """Return the variant for these dtypes, compiled or taken from the cache."""
        variant = (dtype, parameters, parallel)
        compiling.prepare()
        with _lock:
            if variant not in self._compiled:
                with _process.not_within(_lock, "compiling or loading a kernel"):
                    dtypes = dtype.name if parameters is None else f"{dtype.name}_{parameters.name}"
                    name = f"{self.function.__name__}_{dtypes}_{'parallel' if parallel else 'serial'}"
                    signature = _signature(self.arguments, dtype, parameters)
                    self._compiled[variant] = _compile(self.function, name, signature, parallel)
            return self._compiled[variant]


def kernel(arguments: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a `Kernel` of a function; `arguments` as there."""
    return lambda function: Kernel(function, arguments)


def _signature(arguments: str, dtype: np.dtype[Any], parameters: np.dtype[Any] | None) -> Any:
    element = numba.from_dtype(storage(dtype))

    def array(scalar: Any, ndim: int, *, writable: bool) -> Any:
        return types.Array(scalar, ndim, "C", readonly=not writable)

    kinds = {
        "o": array(element, 1, writable=True),
        "i": array(element, 1, writable=False),
        "O": array(element, 3, writable=True),
        "I": array(element, 3, writable=False),
        "d": array(types.float64, 1, writable=False),
        "s": array(types.float32, 1, writable=False),
        "P": array(types.float64, 2, writable=True),
        "p": array(types.float64, 2, writable=False),
        "M": array(types.boolean, 1, writable=True),
        "m": array(types.boolean, 1, writable=False),
        "h": array(types.uint16, 1, writable=True),
        "b": array(types.uint64, 1, writable=True),
        "L": array(types.int64, 2, writable=True),
        "q": array(types.int64, 1, writable=False),
        "n": types.int64,
        "f": types.float64,
        "t": types.UniTuple(types.float64, 3),
    }
    if parameters is not None:
        kinds["w"] = array(numba.from_dtype(parameters), 1, writable=False)
    return types.void(*(kinds[letter] for letter in arguments))


def _compile(function: Any, name: str, signature: Any, parallel: bool) -> Any:
    if config.DISABLE_JIT:
        return np.errstate(all="ignore")(function)  # compiled kernels do not warn
    twin = python_types.FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
    )
    twin.__module__ = function.__module__

    with warnings.catch_warnings(), compiling.undisturbed():
        warnings.simplefilter("ignore", NumbaWarning)  # about caches and threading layers: nothing the caller did
        try:
            twin.__name__ = twin.__qualname__ = f"{name}_{_digest()}"
            return numba_internals.cached(twin, signature, **numba_internals.kernel_options(parallel), **_OPTIONS)
        except Exception:  # no place for a cache, or a broken, full or read-only one, or no sources
            return njit(signature, **numba_internals.kernel_options(parallel), **_OPTIONS)(twin)


def _digest() -> str:
    """Digest of everything that decides what a kernel's code does, or where it runs, besides its own body.

    Numba keeps index and code in two files: of two kinds of processors that share a folder and write at once, one would
    find the other's code under its own entry.
    """
    settings = numba.__version__, np.__version__, str(config.BOUNDSCHECK), str(config.OPT), *target.description()
    return hashlib.sha256("\n".join([*settings, *sources.digests()]).encode()).hexdigest()[:16]


_layer_safety: tuple[bool, str] | None = None


def explain_parallel() -> tuple[bool, str]:
    """Return whether kernels may run on threads here and now, and why; starts Numba's threading layer if need be."""
    global _layer_safety
    if _process.forked():
        return False, "this process was forked, and its parent may have used threads that do not survive that"
    if config.NUMBA_NUM_THREADS == 1:
        return False, "Numba has one thread"
    if sys.platform == "darwin" and "torch" in sys.modules:
        return False, "on macOS, PyTorch's OpenMP library and Numba's may crash together"
    if _layer_safety is None and _process.native_threads() == 1 and _layer_is_started():
        _layer_safety = False, "Numba's threads were started by a parent of this process and did not survive the fork"
    if _layer_safety is not None and not _layer_safety[0]:
        return _layer_safety
    if not teams.can_start(config.NUMBA_NUM_THREADS):
        return False, f"{config.NUMBA_NUM_THREADS} further threads cannot be started (limit of this user or container)"
    if _layer_safety is None:
        with _lock:
            _layer_safety = _probe_layer()
    return _layer_safety


def _layer_is_started() -> bool:
    try:
        numba.threading_layer()
    except ValueError:
        return False
    return True


def _probe_layer() -> tuple[bool, str]:
    """Ask Numba which layer it starts; predicting it is not reliable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaWarning)
        try:
            numba.get_num_threads()
            layer = numba.threading_layer()
        except Exception as error:  # any failure here means: no threads
            return False, f"Numba's threading layer does not start: {error}"
    if layer in ("omp", "tbb"):
        return True, f"the {layer} threading layer may be entered from several Python threads"
    return False, f"the {layer} threading layer ends the process when two Python threads enter it"


def parallel_is_safe() -> bool:
    """Whether kernels may run on threads in this process now."""
    return explain_parallel()[0]


def threads() -> int:
    """Number of threads a parallel kernel would use."""
    return int(numba.get_num_threads()) if parallel_is_safe() else 1


def workers(size: int) -> int:
    """Number of workers among which a kernel divides so many elements, where each has memory of its own."""
    return threads() if size >= PARALLEL_SIZE else 1


def cache_folder(kernel: Kernel) -> str | None:
    """Return the folder where a kernel is when it is compiled, or None if there is no place for one."""
    try:
        _digest()
        return str(numba_internals.cached(kernel.function).stats.cache_path)
    except Exception:  # the same as when a kernel is compiled
        return None
