"""Run every benchmark once with its smallest parameters, in one process, to see that it runs.

It finds benchmarks as asv does: by the beginning of the names of functions and of methods of public classes.
"""

import inspect
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

KINDS = ("time_", "timeraw_", "track_", "peakmem_")


def benchmarks_of(module: ModuleType) -> Iterator[tuple[str, type | None, Callable[..., Any]]]:
    """Yield the name, the class and the function of each benchmark of a module."""
    for name, thing in vars(module).items():
        if inspect.isclass(thing) and not name.startswith("_"):
            for method, function in inspect.getmembers(thing, inspect.isfunction):
                if method.startswith(KINDS):
                    yield f"{name}.{method}", thing, function
        elif inspect.isfunction(thing) and name.startswith(KINDS):
            yield name, None, thing


def run_once(owner: type | None, function: Callable[..., Any], parameters: tuple[Any, ...]) -> object:
    """Set up, run and check one benchmark as asv would, and return its result."""
    instance = owner() if owner else None
    bound = (instance,) if owner else ()
    if hasattr(instance, "setup"):
        instance.setup(*parameters)
    if hasattr(function, "setup"):
        function.setup(*parameters)
    result = function(*bound, *parameters)
    if function.__name__.startswith("timeraw_"):
        subprocess.run([sys.executable, "-c", result], check=True)
    elif function.__name__.startswith("track_") and not 0 <= float(result) < float("inf"):
        raise ValueError(f"a tracked number must be finite, not {result}")
    return result


def main(modules: list[ModuleType]) -> int:
    """Run the benchmarks of modules, print a line for each, and return the number of those that failed."""
    n_run = n_skipped = n_failed = 0
    begin = time.perf_counter()
    for module in modules:
        for name, owner, function in benchmarks_of(module):
            params = getattr(function, "params", getattr(owner, "params", []))
            for parameters in itertools.product(*params):
                label = f"{module.__name__.rpartition('.')[2]}.{name}{parameters}"
                start = time.perf_counter()
                try:
                    run_once(owner, function, parameters)
                except NotImplementedError as reason:
                    n_skipped += 1
                    print(f"skipped  {label}: {reason}")
                except Exception as error:  # whatever is wrong with it, the others are run, too
                    n_failed += 1
                    print(f"FAILED   {label}: {type(error).__name__}: {error}")
                else:
                    n_run += 1
                    print(f"{time.perf_counter() - start:6.2f} s {label}")
    print(f"{n_run} ran, {n_skipped} skipped, {n_failed} failed in {time.perf_counter() - begin:.0f} s")
    return n_failed
