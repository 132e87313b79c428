"""All that is taken from Numba and llvmlite beyond what they document, and what happens without it.

It is one file, however long: whoever meets a new release reads this one. Any release may take such a part away. Each is
looked for when this module is imported, and what needs one that is not found does without: results have the same bits,
by plain `njit` and Numba's own cache, and come later. `MISSING` lists what was not found, `PARTS` says the rest. A part
that is there and means something else is not noticed: the bound on Numba's version in pyproject.toml is for that.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from importlib import import_module
from typing import Any, NamedTuple

from numba import config, njit

_N_BYTES = 32  # of a digest


class Part(NamedTuple):
    """What is used together: for what, what happens without it, its names, and the oldest Numba it was run with."""

    purpose: str
    without: str
    names: tuple[str, ...]
    since: str = "0.61.0"


def _names(owner: str, *attributes: str) -> tuple[str, ...]:
    return tuple(f"{owner}.{attribute}" for attribute in attributes)


_FORCED = ("numba.core.cpu:CPUTargetOptions.forceinline",)
_NO_WRAPPERS = _names("numba.core.cpu:CPUTargetOptions", "no_cpython_wrapper", "no_cfunc_wrapper")
_LOOPS = ("comprehension", "fusion", "inplace_binop", "numpy", "reduction", "setitem", "stencil", "prange")

PARTS = {
    "forced inlining": Part(
        "An option of njit: a kernel and its helpers become one function, so that vectors stay in registers.",
        "LLVM inlines what it likes, and vectors may go through memory from function to function.",
        _FORCED,
    ),
    "no wrappers": Part(
        "Options of njit: no code for calls from Python and C, which nobody makes, is compiled.",
        "It is compiled, for every helper and kernel.",
        _NO_WRAPPERS,
    ),
    "unfinished helpers": Part(
        "Numba's compiler and library of code: helpers are optimized and made machine code of within kernels alone.",
        "Each is by itself as well, and compiling takes longer.",
        (
            "numba.core.compiler:Compiler",
            *_names("numba.core.codegen:JITCodeLibrary", "_optimize_final_module", "_finalize_final_module"),
            *_names("numba.core.codegen:JITCodeLibrary", "_ensure_finalized", "get_pointer_to_function"),
            *_FORCED,  # else they would be called
            *_NO_WRAPPERS,  # else the wrappers would
        ),
    ),
    "wide registers": Part(
        "The set of a function's attributes, past llvmlite's check of their names: LLVM may use registers of 512 bits.",
        "It prefers 256 bits on some processors that have more.",
        # LLVM may pass vectors in other registers where these attributes stand than where they do not: only what is
        # inlined for sure has them.
        ("llvmlite.ir.values:FunctionAttributes", *_FORCED),
    ),
    "parallel loops alone": Part(
        "Options of njit's `parallel`: Numba looks for nothing to run on threads beside the loops that say so.",
        "It looks, in vain, and compiling takes longer.",
        _names("numba.core.cpu_options:ParallelOptions", *_LOOPS),
    ),
    "checked cache": Part(
        "Numba's cache of kernels: a file that was damaged is not run, and none below the working directory.",
        "Numba's own cache, which runs what it finds; none at all where its folder might be one of the latter.",
        (
            *_names("numba.core.caching:IndexDataCacheFile", "save", "load", "_load_index", "_load_data"),
            *_names("numba.core.caching:IndexDataCacheFile", "_save_data", "_data_path", "_dump", "_open_for_write"),
            "numba.core.caching:CompileResultCacheImpl._locator_classes",
            "numba.core.caching:FunctionCache._impl_class",
            *_names("numba.core.dispatcher:Dispatcher", "compile", "disable_compile"),
        ),
    ),
    "compiler's lock": Part(
        "The lock under which Numba compiles: a fork waits for it, and no kernel is compiled amidst a compilation.",
        "A lock of our own: a fork waits for our kernels alone, and Numba makes itself ready when it first compiles.",
        _names("numba.core.compiler_lock:global_compiler_lock", "__enter__", "__exit__", "is_locked"),
    ),
    "LLVM's lock": Part(
        "The lock under which llvmlite calls LLVM: a fork waits for it, because objects are disposed of at any time.",
        "A child that is forked while another thread disposes of compiled code may hang when it compiles.",
        _names("llvmlite.binding.ffi:lib._lock", "__enter__", "__exit__"),
    ),
    "getting ready": Part(
        "What Numba registers before it compiles: it is let do so in a thread that no signal handler interrupts.",
        "An interrupt in the first call may be the end of Numba in this process.",
        (
            "numba.core.registry:cpu_target",
            *_names("numba.core.registry:CPUTarget", "typing_context", "target_context"),
            "numba.core.typing.context:Context.refresh",
            "numba.core.cpu:CPUContext.refresh",
        ),
    ),
    "settings that stay": Part(
        "The reading of environment variables before every function: it is left out while a kernel is compiled.",
        "A NUMBA_NUM_THREADS that changed after the threads were started is an error when a kernel is compiled.",
        ("numba.core.config:reload_config",),
    ),
}


def _find(name: str) -> Any:
    """Return "module:attribute.attribute", or None if this version has none."""
    module, _, attributes = name.partition(":")
    try:
        found: Any = import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError):
        return None
    return found


MISSING = {part: missing for part in PARTS if (missing := [n for n in PARTS[part].names if _find(n) is None])}


def has(part: str) -> bool:
    """Whether all of a part was found."""
    return part not in MISSING


# The locks, and what is done under them before a compilation.


def _locks() -> tuple[Any, ...]:
    """The locks that a fork waits for, in this order."""
    own = _find("numba.core.compiler_lock:global_compiler_lock") if has("compiler's lock") else threading.RLock()
    return (own, _find("llvmlite.binding.ffi:lib._lock")) if has("LLVM's lock") else (own,)


LOCKS = _locks()
COMPILER_LOCK = LOCKS[0]


def may_get_ready() -> bool:
    """Whether Numba can be let register what it compiles with, here and now; not if this thread is compiling."""
    return has("compiler's lock") and has("getting ready") and not COMPILER_LOCK.is_locked()


def get_ready() -> None:
    """Let Numba import and register what it compiles with."""
    target = _find("numba.core.registry:cpu_target")
    target.typing_context.refresh()
    target.target_context.refresh()


@contextmanager
def settings_stay() -> Iterator[None]:
    """Let Numba read its settings now, and not again before each function; under the compiler's lock."""
    if not has("settings that stay"):
        yield
        return
    reload = config.reload_config
    try:
        with suppress(Exception):
            reload()
        config.reload_config = lambda: None
        yield
    finally:
        config.reload_config = reload


# How helpers and kernels are compiled.

_Library: Any = _find("numba.core.codegen:JITCodeLibrary") or object
_Compiler: Any = _find("numba.core.compiler:Compiler") or object


class _InlinedLibrary(_Library):
    """The code of a function and of those it calls, to be linked into a kernel's and never run."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, env_name: str, env: Any) -> None:
        """There is no machine code that could look for its Python globals."""


class InlinedCompiler(_Compiler):
    """Numba's compiler for functions that only compiled functions call.

    Numba optimizes a function at each level of calls, and makes machine code even of one that all its callers have
    taken in. Here a function is compiled to LLVM's language, and a kernel is optimized once, with all that it calls.
    """

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, library or _InlinedLibrary(targetctx.codegen(), "inlined"), *rest)


def helper_options(inlined: bool = True) -> dict[str, Any]:
    """Options of njit for a function that kernels call."""
    options: dict[str, Any] = {"forceinline": inlined} if has("forced inlining") else {}
    if has("no wrappers"):
        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return options | ({"pipeline_class": InlinedCompiler} if has("unfinished helpers") else {})


def kernel_options(parallel: bool) -> dict[str, Any]:
    """Options of njit for a kernel."""
    loops = {name: name == "prange" for name in _LOOPS} if has("parallel loops alone") else True
    return {"parallel": loops if parallel else False} | ({"no_cfunc_wrapper": True} if has("no wrappers") else {})


def use_wide_registers(function: Any) -> None:
    """Let LLVM use 512-bit registers where it has them, also where it would prefer 256; `function` is llvmlite's."""
    if has("wide registers") and isinstance(function.attributes, set):
        set.add(function.attributes, '"min-legal-vector-width"="512"')
        set.add(function.attributes, '"prefer-vector-width"="512"')


def keep_apart(function: Any) -> None:
    """Let LLVM never inline a function that was compiled with `helper_options(inlined=False)`; it is llvmlite's."""
    if has("forced inlining"):
        function.attributes.add("noinline")


# Cached kernels on disk that are checked before they are run.

_File: Any = _find("numba.core.caching:IndexDataCacheFile") or object
_Impl: Any = _find("numba.core.caching:CompileResultCacheImpl") or object
_Function: Any = _find("numba.core.caching:FunctionCache") or object


def _digest(name: str, data: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + data).digest()


class CheckedFile(_File):
    """Index and data of one kernel, which begin with a digest of the file's name and of what follows.

    Numba reads back what lies in its cache as it is: a file of which a part was lost, as after a crash of the machine
    or on a full disk, is machine code with holes. One that does not fit its digest is as good as none, and is written
    again.
    """

    def save(self, key: Any, data: Any) -> None:
        """Save a compiled kernel, which serves without that, too."""
        with suppress(OSError):
            super().save(key, data)

    def _load_index(self) -> dict[Any, str]:
        try:
            return dict(super()._load_index())
        except OSError:
            raise
        except Exception:  # whatever unpickling a damaged file may end in
            return {}

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            digest, data = file.read(_N_BYTES), file.read()
        if digest != _digest(name, data):
            raise OSError(f"{name} is damaged")  # to Numba, a file that is not there
        return pickle.loads(data)

    def _save_data(self, name: str, data: Any) -> None:
        pickled = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(_digest(name, pickled) + pickled)


def _has_home() -> bool:
    """Whether the user's cache folder is not named from the working directory.

    Without a home it would be `./~/.cache/numba`, or `./numba`, where anybody's files may lie; and files here are run.
    """
    home = os.path.expanduser("~")
    return os.path.isabs(home) and os.path.isabs(os.environ.get("XDG_CACHE_HOME", home))


class Places(_Impl):
    """Where Numba looks for a folder; not in the user's, if that is named from the working directory."""

    @property
    def _locator_classes(self) -> list[type]:
        found: list[type] = _Impl._locator_classes
        if _has_home():
            return found
        return [locator for locator in found if locator.__name__ not in ("UserWideCacheLocator", "ZipCacheLocator")]


class _Cache(_Function):
    _impl_class = Places


def _with_checked_files(function: Any, options: dict[str, Any]) -> Any:
    """Return `function` as a dispatcher, not compiled, with a checked cache; None if this version cannot."""
    if not has("checked cache"):
        return None
    dispatcher, cache = njit(**deepcopy(options))(function), _Cache(function)  # Numba takes out what it has read
    if not (hasattr(dispatcher, "_cache") and hasattr(cache, "_cache_file")):
        return None
    cache._cache_file.__class__ = CheckedFile
    dispatcher._cache = cache
    return dispatcher


def cached(function: Any, signature: Any = None, **options: Any) -> Any:
    """Return `function` as a dispatcher, taken from the cache or compiled and put there; without signature, neither.

    Raises
    ------
    Exception
        There is no place for a cache, or it is broken, or the function is not compiled without one either.
    """
    dispatcher = _with_checked_files(function, options)
    if dispatcher is None:
        if not (config.CACHE_DIR or _has_home()):
            raise OSError("the folder of Numba's own cache may be named from the working directory")
        return njit(signature, cache=True, **options)(function)
    if signature is not None:
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher
