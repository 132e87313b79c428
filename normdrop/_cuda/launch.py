"""How kernels are compiled and started on a GPU, and the only import of Numba's CUDA target.

The simulator (NUMBA_ENABLE_CUDASIM=1) runs every thread as a Python thread, so there blocks and grids are tiny. Sums
are summed in the order that blocks prescribe: the same on every GPU, another one in the simulator.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
import types as python_types
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numba
import numpy as np
from numba import config
from numba import cuda as cuda  # noqa: PLC0414  # the kernels take it from here

try:
    from numba.cuda.extending import intrinsic as intrinsic  # noqa: PLC0414
except ImportError:  # a successor of Numba's CUDA target, or a simulator without it
    intrinsic = None

types = cuda.types if hasattr(getattr(cuda, "types", None), "Array") else numba.types  # Numba's own target has few
SIMULATED = bool(config.ENABLE_CUDASIM)

THREADS = 4 if SIMULATED else 256  # per block; a power of two
SHUFFLED = 1 if SIMULATED else 32  # up to here sums of a block go from thread to thread, without shared memory
_MOST_BLOCKS = 2 if SIMULATED else 1 << 20  # more work than this: each block does several shares

_BITS = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(np.int16)}
_lock = threading.RLock()
_ready = False


def storage(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype under which kernels see arrays of `dtype`: bfloat16 as int16, bool as uint8."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return _BITS[dtype.name] if dtype.itemsize == 2 else dtype


def value_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the values that kernels compute with."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def helper(function: Callable[..., Any]) -> Any:
    """Make a function that kernels call; the simulator calls it as it is unless it names `cuda`."""
    plain = SIMULATED and "cuda" not in function.__code__.co_names
    return function if plain else cuda.jit(device=True)(function)


def with_globals(function: Callable[..., Any], names: dict[str, Any]) -> Any:
    """Return the function as if it stood in the module with these names, which must have all that it uses."""
    return python_types.FunctionType(function.__code__, names)


def require_device() -> None:
    """Raise one error that says what is missing, unless kernels can run here."""
    global _ready
    if _ready or SIMULATED:
        return
    try:
        cuda.current_context()
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        raise RuntimeError(
            "normdrop cannot use a GPU here: it needs an NVIDIA GPU of compute capability 7.5 or newer, its driver "
            f"(580 or newer for CUDA 13) and the packages of normdrop[cuda]. The CUDA driver says: {text}"
        ) from error
    _ready = True


class Kernel:
    """A function that many threads run, compiled on first use for a dtype.

    Parameters
    ----------
    function : callable
        What one thread does.
    arguments : str
        One letter per argument. Flat arrays: ``x`` of the kernel's dtype, ``d`` float64, ``s`` float32, ``h`` float16,
        ``g`` bfloat16, ``b`` boolean, ``q`` int64. Scalars: ``n`` int64, ``u`` uint64, ``f`` float64; ``t`` is a
        tuple of three float64.
    """

    def __init__(self, function: Callable[..., Any], arguments: str) -> None:
        self.function = function
        self.arguments = arguments
        self._compiled: dict[str, Any] = {}
        self._ready: dict[tuple[str, int, int], Any] = {}

    def signature(self, dtype: np.dtype[Any]) -> Any:
        """Return Numba's types of the arguments."""

        def array(element: np.dtype[Any]) -> Any:
            return types.Array(getattr(types, element.name), 1, "C")

        kinds = {
            "x": array(storage(dtype)),
            "d": array(np.dtype(np.float64)),
            "s": array(np.dtype(np.float32)),
            "h": array(np.dtype(np.float16)),
            "g": array(np.dtype(np.int16)),
            "b": array(np.dtype(np.uint8)),
            "q": array(np.dtype(np.int64)),
            "n": types.int64,
            "u": types.uint64,
            "f": types.float64,
            "t": types.UniTuple(types.float64, 3),
        }
        return types.void(*(kinds[letter] for letter in self.arguments))

    def __call__(self, dtype: np.dtype[Any], blocks: int, *arguments: Any) -> None:
        """Start on `arguments`, arrays as `DeviceArray`, on the stream of the first array; does not wait."""
        first = next(a for a in arguments if hasattr(a, "address"))
        compiled = self._compiled.get(dtype.name)
        with on_device(first.device):
            if compiled is None:
                compiled = self.compile(dtype)
            bound = [_bound(a, letter) for a, letter in zip(arguments, self.arguments, strict=True)]
            n_blocks = max(1, min(blocks, _MOST_BLOCKS))
            if SIMULATED:
                with _lock:  # the simulator runs one kernel at a time
                    compiled[n_blocks, THREADS](*bound)
            else:
                self._configured(dtype, compiled, n_blocks, first.stream)(*bound)

    def _configured(self, dtype: np.dtype[Any], compiled: Any, n_blocks: int, stream: int) -> Any:
        """Return a variant ready to be started, made once; Numba would then warn of small grids."""
        key = dtype.name, n_blocks, stream
        ready = self._ready.get(key)
        if ready is None:
            with _lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if len(self._ready) >= 1024:
                    self._ready.clear()
                ready = self._ready[key] = compiled[n_blocks, THREADS, _stream(stream)]
        return ready

    def compile(self, dtype: np.dtype[Any]) -> Any:
        """Return the variant for this dtype."""
        require_device()
        with _lock:
            if dtype.name not in self._compiled:
                self._compiled[dtype.name] = self._new(dtype)
            return self._compiled[dtype.name]

    def _new(self, dtype: np.dtype[Any]) -> Any:
        if SIMULATED:
            return cuda.jit(_quiet(self.function))
        try:
            return cuda.jit(self.signature(dtype))(self.function)
        except Exception as error:
            raise RuntimeError(
                f"the GPU's driver does not take {self.function.__name__.strip('_')} for {dtype.name}; "
                f"is it older than the CUDA packages that are installed? It says: {error}"
            ) from error


def kernel(arguments: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a `Kernel` of a function; `arguments` as there."""
    return lambda function: Kernel(function, arguments)


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the simulator shall run it: what overflows becomes infinite in silence, as on a GPU."""
    errstate = np.errstate

    def run(*arguments: Any) -> None:
        with errstate(all="ignore"):
            function(*arguments)

    # The simulator replaces `cuda` among the globals of what it runs: they must be those of the kernel's own module.
    return python_types.FunctionType(run.__code__, function.__globals__, function.__name__, None, run.__closure__)


def _bound(argument: Any, letter: str) -> Any:
    """What Numba is given for an argument."""
    if letter == "n":
        return int(argument)
    if letter == "u":
        return np.uint64(argument)
    if letter == "f":
        return np.float64(argument) if SIMULATED else float(argument)
    if letter == "t":
        return tuple(_bound(number, "f") for number in argument)
    return flat(argument.address, argument.size, storage(argument.dtype))


def flat(address: int, size: int, dtype: np.dtype[Any]) -> Any:
    """Return Numba's device array of dense memory at an address; the caller keeps the memory alive."""
    if SIMULATED:
        memory = (ctypes.c_byte * (size * dtype.itemsize)).from_address(address)
        return type(cuda.device_array(1))(np.frombuffer(memoryview(memory), dtype))
    description = {"shape": (size,), "strides": None, "typestr": dtype.str, "data": (address, False), "version": 3}
    return cuda.from_cuda_array_interface(description, sync=False)


def new_array(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], stream: int) -> Any:
    """Return a new device array of Numba's on the current device, bound to a stream."""
    require_device()
    return cuda.device_array(shape, dtype=dtype, strides=strides, stream=_stream(stream))


def to_host(x: Any) -> Any:
    """Return a flat NumPy array of a dense `DeviceArray`, in storage dtype; waits for what its stream has to do."""
    array, stream = _bound(x, "x"), _stream(x.stream)
    values = array.copy_to_host(stream=stream)
    if stream != 0 and not SIMULATED:
        stream.synchronize()
    return values


def to_device(x: Any, values: Any) -> None:
    """Copy a flat NumPy array into a dense `DeviceArray`, and wait."""
    array, stream = _bound(x, "x"), _stream(x.stream)
    array.copy_to_device(values, stream=stream)
    if stream != 0 and not SIMULATED:
        stream.synchronize()


def copying(y: Any, x: Any) -> Callable[[], object]:
    """Return a call that copies the memory of a dense `DeviceArray` to that of another, on the default stream."""
    to, source = _bound(y, "x"), _bound(x, "x")
    return lambda: to.copy_to_device(source)


def device_of(x: Any) -> int:
    """Return the number of the GPU that holds a device array of Numba's."""
    context = None if SIMULATED else getattr(x.gpu_data, "context", None)
    return current_device() if context is None else int(context.device.id)


def stream_of(stream: Any) -> int:
    """Return the handle of a stream of Numba's; 0 is the default one."""
    return 0 if SIMULATED or not stream else int(stream)


_streams: dict[int, Any] = {}


def _stream(pointer: int) -> Any:
    if pointer == 0:
        return 0
    if pointer not in _streams:
        if len(_streams) >= 256:
            _streams.clear()
        _streams[pointer] = cuda.external_stream(pointer)
    return _streams[pointer]


@contextlib.contextmanager
def timer() -> Iterator[list[float]]:
    """Time what the default stream does meanwhile; the list that is yielded holds the seconds afterwards."""
    require_device()
    start, stop, seconds = cuda.event(), cuda.event(), [0.0]
    begin = time.perf_counter()
    start.record()
    yield seconds
    stop.record()
    stop.synchronize()
    # The simulator's events know no time.
    seconds[0] = time.perf_counter() - begin if SIMULATED else cuda.event_elapsed_time(start, stop) / 1e3


def describe() -> str:
    """Name the GPU that Numba uses now, its compute capability and where the CUDA target comes from."""
    if SIMULATED:
        return "Numba's simulator of CUDA (NUMBA_ENABLE_CUDASIM is set); no GPU is used"
    require_device()
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    capability = ".".join(map(str, device.compute_capability))
    try:
        target = f"numba-cuda {metadata.version('numba-cuda')}"
    except metadata.PackageNotFoundError:
        target = f"the CUDA target of Numba {numba.__version__}"
    return f"{name}, compute capability {capability}; {target}"


def current_device() -> int:
    """Return the number of the GPU that Numba uses now."""
    require_device()
    return 0 if SIMULATED else int(cuda.get_current_device().id)


def on_device(device: int) -> contextlib.AbstractContextManager[Any]:
    """Make this GPU the current one."""
    if SIMULATED or current_device() == device:
        return contextlib.nullcontext()
    return cuda.gpus[device]  # type: ignore[no-any-return]


def n_blocks(work: int, per_block: int) -> int:
    """Blocks for so many pieces of work."""
    return (work + per_block - 1) // per_block
