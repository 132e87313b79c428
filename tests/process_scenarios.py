"""What may happen around a call, each as a function; a program: ``python process_scenarios.py layer name digest``.

`layer` is a threading layer of Numba's or "none", where no layer starts. `digest` is what `work` gives when nothing
happens around it, and must give wherever it is called. Imported by name in workers, so that those find it, too.
"""

from __future__ import annotations

import atexit
import faulthandler
import hashlib
import itertools
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

LAYER = os.environ.get("PROCESS_SCENARIOS_LAYER", "")
if LAYER == "none":  # no layer can be imported, here and in processes that start with this module
    for name in ("tbbpool", "omppool", "workqueue"):
        sys.modules[f"numba.np.ufunc.{name}"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402

from normdrop import BatchNorm, Dropout, MaskStream, functional  # noqa: E402

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of fork beside threads
N_ROWS = (1 << 16) // 8 + 1  # above the size for threads
EXPECTED = ""


def work() -> str:
    """Digest of what passes of both kinds give, functions and layers, in both loop orders."""
    rows = np.random.default_rng(0).normal(300.0, 1.0, (N_ROWS, 8)).astype(np.float32)
    planes = np.ascontiguousarray(rows.T)[np.newaxis]
    digest = hashlib.sha256(functional.dropout(rows, 0.5, rng=1)[0].tobytes())
    for x in (rows, planes):
        norm, drop = BatchNorm(8), Dropout(0.25, rng=2)
        digest.update(norm(x).tobytes() + drop(x).tobytes())
        digest.update(norm.backward(x).tobytes() + drop.backward(x).tobytes())
        digest.update(b"".join(value.tobytes() for value in norm.state_dict().values()))
    return digest.hexdigest()


def right(_: object = None) -> bool:
    return work() == EXPECTED


def check() -> None:
    assert right(), "other bits"


def in_child(task: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(150)  # a child that hangs shall not outlive the test
        status = 1
        try:
            task()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}"


class Threads:
    """Threads that do something again and again while a `with` lasts, and whose failures are not lost."""

    def __init__(self, n: int, task: Callable[[], object]) -> None:
        self.task, self.ended, self.failures = task, threading.Event(), list[BaseException]()
        self.threads = [threading.Thread(target=self.run) for _ in range(n)]

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self.task()
        except BaseException as error:
            self.failures.append(error)

    def __enter__(self) -> None:
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]


def users_kernel() -> Any:
    import numba

    @numba.njit(parallel=True)
    def kernel(x):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in numba.prange(x.size):
            total += np.sqrt(x[i])
        return total

    x = np.ones(1 << 16)
    assert kernel(x) == x.size
    return lambda: kernel(x)


def many_threads() -> None:
    """Also at the first call, when all of them want the kernels and the layer."""
    start, done = threading.Barrier(8), list[bool]()

    def run() -> None:
        start.wait()
        done.append(right())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True] * 8
    with Threads(4, check):
        time.sleep(0.5)


def fork() -> None:
    """Before the first call and after, in a child of a child, from a thread, and while other threads call."""
    in_child(check)
    check()
    in_child(check)
    in_child(lambda: in_child(check))
    with Threads(1, lambda: in_child(check)):
        check()
    with Threads(2, check):
        for _ in range(5):
            in_child(check)
    check()


def _pool(method: str) -> None:
    check()
    with multiprocessing.get_context(method).Pool(2, _begin, (EXPECTED,)) as pool:
        assert pool.map_async(right, range(6)).get(timeout=100) == [True] * 6
    check()


def _begin(expected: str) -> None:
    global EXPECTED
    EXPECTED = expected


def pool_fork() -> None:
    _pool("fork")


def pool_spawn() -> None:
    _pool("spawn")


def pool_forkserver() -> None:
    _pool("forkserver")


def beside_users_kernel() -> None:
    """A user's kernel runs on the layer in another thread, and in the parent of a fork."""
    kernel = users_kernel()
    with Threads(1, kernel):
        for _ in range(10):
            check()
    in_child(check)
    kernel()


def inside_users_kernel() -> None:
    """A user's kernel calls back into Python from its threads."""
    import numba

    results: list[bool] = []

    def call(_: float) -> float:
        results.append(right())
        return 1.0

    check()

    @numba.njit(parallel=True)
    def kernel(n):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in numba.prange(n):
            with numba.objmode(y="float64"):
                y = call(i)
            total += y
        return total

    assert kernel(4) == 4
    assert results == [True] * 4


def executor_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(right, range(12))) == [True] * 12


def executor_processes() -> None:
    from concurrent.futures import ProcessPoolExecutor

    check()
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, context, _begin, (EXPECTED,)) as executor:
            assert list(executor.map(right, range(4), timeout=150)) == [True] * 4


def joblib_backends() -> None:
    import joblib

    check()
    for backend in ("threading", "loky", "multiprocessing"):
        with joblib.parallel_config(backend, n_jobs=2):
            assert set(joblib.Parallel(timeout=150)(joblib.delayed(work)() for _ in range(4))) == {EXPECTED}


class Samples:
    """Samples that are made with layers, as by augmentation."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        x = np.full((N_ROWS, 8), i, np.float32)
        return functional.batch_norm(Dropout(0.5, rng=i)(x))[0]


def data_loader() -> None:
    """PyTorch's, with workers that are forked and workers that are spawned."""
    import torch

    samples = Samples()
    expected = [samples[i] for i in range(len(samples))]
    check()
    for method in multiprocessing.get_all_start_methods():
        loader = torch.utils.data.DataLoader(
            samples, batch_size=None, num_workers=2, multiprocessing_context=method, timeout=150
        )
        assert all(np.array_equal(given, wanted) for given, wanted in zip(loader, expected, strict=True))
    check()


def signal_handler() -> None:
    """A handler runs between any two lines of a call in the main thread, and calls itself."""
    check()
    stream, seen, failures = MaskStream.from_key((1, 2)), list[int](), list[BaseException]()

    def handle(*_: object) -> None:
        try:
            check()
            seen.append(stream.take())
        except BaseException as error:
            failures.append(error)

    signal.signal(signal.SIGALRM, handle)
    end = time.monotonic() + 4
    while time.monotonic() < end and not failures:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + random.random() / 100)  # once: a handler may take longer than that
        for _ in range(2):
            check()
            seen.append(stream.take())
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(seen) > 4
    assert not failures, failures
    assert len(set(seen)) == len(seen), "a call of the stream was given out twice"


def signal_wait() -> None:
    """A thread that waits for signals calls while the main thread does."""
    failures = list[int]()

    def wait() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        waiting.set()
        for _ in range(8):
            signal.sigwait({signal.SIGUSR1})
            if not right():
                failures.append(1)

    waiting = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    while thread.is_alive():
        signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
        check()
    thread.join()
    assert not failures


def shutdown() -> None:
    """The interpreter ends while daemon threads call; functions run at its end and finalizers call, too."""

    def forever() -> None:
        while True:
            check()

    atexit.register(check)
    for _ in range(3):
        threading.Thread(target=forever, daemon=True).start()
    threading.Thread(target=lambda: [check() for _ in range(3)]).start()
    time.sleep(random.random() / 4)


class Late:
    def __del__(self) -> None:
        functional.batch_norm(self.x)

    x = np.ones((N_ROWS, 8), np.float32)


def shutdown_in_a_finalizer() -> None:
    check()
    sys.modules["late"] = Late()  # type: ignore[assignment]


def fork_while_compiling() -> None:
    """The child must load and compile, too, though a thread that it lacks was in the midst of that."""
    import numba

    from normdrop._cpu.toolchain.launch import kernel

    check()
    ordinary, folders = numba.config.CACHE_DIR, itertools.count()

    def compile_anew() -> None:
        numba.config.CACHE_DIR = os.path.join(os.getcwd(), f"{os.getpid()}-{next(folders)}")

        @kernel("of")
        def fill(x, value):  # type: ignore[no-untyped-def]
            for i in range(x.size):
                x[i] = value

        x = np.empty(3)
        fill.variant(x.dtype, x.size)(x, 1.0)
        assert x.sum() == 3

    def child() -> None:
        compile_anew()
        load_all()

    def load_all() -> None:
        numba.config.CACHE_DIR = ordinary
        for module in [module for name, module in sys.modules.items() if name.startswith("normdrop._cpu.")]:
            for value in vars(module).values():
                getattr(value, "_compiled", {}).clear()
        check()

    for task in (compile_anew, load_all):
        for _ in range(5):
            with Threads(1, task):
                time.sleep(random.random() / 2)
                in_child(child)
    numba.config.CACHE_DIR = ordinary
    check()


def main() -> None:
    global EXPECTED
    faulthandler.enable()
    _, scenario, EXPECTED = sys.argv
    if scenario == "digest":
        print(work())  # noqa: T201
        return
    globals()[scenario]()
    print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
