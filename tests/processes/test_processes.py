"""A call never ends the process: not in a forked child, not from many Python threads, under any threading layer."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.jit
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# Two arrays above the size for threads, one per loop order; what a call gives is compared as bytes.
WORK = """
import os
import signal
import threading
import warnings

import numpy as np
from normdrop import functional
from normdrop._cpu.toolchain import launch

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of fork beside threads
rows = np.random.default_rng(0).normal(300.0, 1.0, (launch.PARALLEL_SIZE // 8 + 1, 8)).astype(np.float32)
planes = np.ascontiguousarray(rows.T)[np.newaxis]

def work():
    results = [functional.dropout(rows, 0.5, rng=1)[0]]
    for x in (rows, planes):
        y, context = functional.batch_norm(x)
        results += [y, *functional.batch_norm_backward(x, context)]
    return [result.tobytes() for result in results]

def in_child(task):
    child = os.fork()
    if child == 0:
        signal.alarm(200)  # a child that hangs shall not outlive the test
        status = 1
        try:
            task()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}"
"""

LAYERS = [{}, {"NUMBA_THREADING_LAYER": "workqueue"}]


@needs_fork
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_forked_child_works_serially_with_the_same_bits(
    in_subprocess: Callable[..., str], layer: dict[str, str]
) -> None:
    in_subprocess(
        WORK
        + """
expected = work()

def child():
    assert not launch.parallel_is_safe()
    assert "fork" in launch.explain_parallel()[1]
    assert launch.threads() == 1
    assert work() == expected

def grandchild():
    in_child(child)

in_child(child)
in_child(grandchild)
thread = threading.Thread(target=in_child, args=(child,))
thread.start()
thread.join()
assert work() == expected
""",
        **layer,
    )


@needs_fork
def test_child_forked_before_the_first_kernel_works(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(WORK + "in_child(work)\nwork()\nin_child(work)\n")


@needs_fork
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="this system does not count native threads")
@pytest.mark.parametrize("imported", ["in the parent", "in the child"])
def test_child_of_a_process_in_which_others_started_threads_works(
    in_subprocess: Callable[..., str], imported: str
) -> None:
    in_subprocess(
        f"""
import os, warnings
import numba, numpy as np
warnings.simplefilter("ignore")

@numba.njit(parallel=True)
def others(x):
    for i in numba.prange(x.size):
        x[i] += 1

x = np.zeros(1_000_000, np.float32)
others(x)
if {imported == "in the parent"}:
    import normdrop
child = os.fork()
if child == 0:
    import normdrop
    os._exit(0 if (normdrop.Dropout(0.5, rng=0)(x) == 2).any() else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 0, f"the child ended with {{status}}"
"""
    )


@needs_fork
def test_fork_waits_until_no_other_thread_compiles(in_subprocess: Callable[..., str]) -> None:
    """The child has no such thread, and would wait for ever for what it held."""
    in_subprocess(
        WORK
        + """
expected = work()
held, forked, early = threading.Event(), threading.Event(), []

def hold():
    with launch._lock:
        held.set()
        early.append(forked.wait(0.5))

thread = threading.Thread(target=hold)
thread.start()
held.wait(200)

def child():
    assert work() == expected

os.register_at_fork(after_in_parent=forked.set)
in_child(child)
thread.join()
assert early == [False]
assert work() == expected
"""
    )


@needs_fork
def test_fork_leaves_the_lock_of_logging_to_a_thread_that_compiles(in_subprocess: Callable[..., str]) -> None:
    """`logging` takes its lock at a fork, too: before the compiler's, each thread would wait for the other."""
    in_subprocess(
        WORK
        + """
import faulthandler, logging, time
faulthandler.dump_traceback_later(60, exit=True)
held, forking, asked = threading.Event(), threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)  # the first of all hooks, because it is the last to be registered

def log():
    with launch._lock:
        held.set()
        forking.wait(60)
        time.sleep(0.2)
        logging.getLogger("nobody asked before").isEnabledFor(logging.DEBUG)
        asked.set()

thread = threading.Thread(target=log)
thread.start()
held.wait(60)
in_child(lambda: None)
thread.join()
assert asked.is_set()
"""
    )


@needs_fork
@pytest.mark.parametrize(
    ("module", "task"),
    [
        ("numba", "normdrop.Dropout(0.5)(np.ones(9))"),
        ("numba", "normdrop.warmup('dropout')"),
        ("numpy.random", "normdrop.Dropout(0.5)"),
    ],
)
def test_fork_waits_until_no_other_thread_imports(in_subprocess: Callable[..., str], module: str, task: str) -> None:
    """The child has no such thread, and would wait for ever for the module."""
    said = in_subprocess(
        f"""
import os, signal, sys, threading, warnings
import numpy as np
import normdrop

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of fork beside threads
if "{module}" in sys.modules:
    print("imported")
    sys.exit()
importing, forked = threading.Event(), threading.Event()

class Slow:
    def find_spec(self, name, *_):
        if name == "{module}" and not importing.is_set():
            import logging  # at the latest here, and so with its hook
            importing.set()
            late.append(forked.wait(0.5))
            logging.getLogger("nobody asked before")

late = []
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=lambda: {task})
thread.start()
importing.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(30)
    {task}
    os._exit(0)
forked.set()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
thread.join()
assert late == [False]
""",
        timeout=100,
    )
    if said:
        pytest.skip(f"this version of NumPy imports {module} with itself")


@needs_fork
def test_pool_of_forked_workers_works(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(
        WORK
        + """
import multiprocessing

def same(_):
    return not launch.parallel_is_safe() and work() == expected

expected = work()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(same, range(4)).get(timeout=200) == [True] * 4
"""
    )


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_many_python_threads_at_once_get_the_same_bits(
    in_subprocess: Callable[..., str], layer: dict[str, str]
) -> None:
    """Also on the first call, when all of them want the kernels compiled."""
    in_subprocess(
        WORK
        + """
start, results = threading.Barrier(4), []

def run():
    start.wait()
    results.extend(work() for _ in range(5))

threads = [threading.Thread(target=run) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(results) == 20
assert all(result == results[0] for result in results)
assert work() == results[0]
""",
        **layer,
    )


def test_workqueue_layer_is_never_entered(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(
        WORK
        + """
import sys
import normdrop._cpu

work()
assert not launch.parallel_is_safe()
assert "workqueue" in launch.explain_parallel()[1]
assert launch.threads() == 1
for module in [module for name, module in sys.modules.items() if name.startswith("normdrop._cpu.")]:
    for kernel in vars(module).values():
        if isinstance(kernel, launch.Kernel):
            assert not any(parallel for _, _, parallel in kernel._compiled)
""",
        NUMBA_THREADING_LAYER="workqueue",
    )


def test_layer_that_does_not_start_means_serial_kernels(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(
        WORK
        + """
import numba

def fail():
    raise ValueError("No threading layer could be loaded.")

numba.get_num_threads = fail
assert not launch.parallel_is_safe()
assert "No threading layer" in launch.explain_parallel()[1]
work()
"""
    )


def test_one_thread_means_serial_kernels(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(WORK + "assert not launch.parallel_is_safe()\nwork()\n", NUMBA_NUM_THREADS="1")


def test_unknown_threading_layer_is_no_exception(in_subprocess: Callable[..., str]) -> None:
    in_subprocess(WORK + "work()\n", NUMBA_THREADING_LAYER="tbb")  # not installed on most machines
